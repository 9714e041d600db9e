"""A mount's life against a fake OS and a fake clock: what happens next is chosen by chance, or all of it.

    python tests/property/simulate.py 50000 1        # that many sequences from seed 1
    python tests/property/simulate.py 1 42           # the one that failed
    python tests/property/simulate.py --exhaustive 6 # everything that can happen, up to that length

What is promised of the pure part is checked after each step, in `World._check`.
"""

import copy
import dataclasses
import re
import sys
import time
from collections.abc import Callable
from random import Random
from typing import Any

from msgspec.structs import replace

from supervisor.domain.catalog import (
    Launch,
    Listener,
    Policies,
    Probe,
    ReloadPolicy,
    RestartPolicy,
    StopPolicy,
)
from supervisor.domain.events import (
    Adopted,
    Answer,
    BecameReady,
    ClearTimer,
    Configure,
    Event,
    Exited,
    Instance,
    KillTree,
    Outcome,
    Paced,
    ProbeFailed,
    Reload,
    RunStopCommand,
    SetTimer,
    SignalMain,
    Spawn,
    Spawned,
    SpawnFailed,
    Start,
    Stop,
    StopCommandDone,
    TakeAsReady,
    TimerFired,
    TreeGone,
    TreeSurvived,
)
from supervisor.domain.lifecycle import transition
from supervisor.domain.listening import kept_open
from supervisor.domain.memory import StoppedBy
from supervisor.domain.mount import Mount, Phase
from supervisor.domain.names import MountKey, Namespace, PluginRef, instance_id

KEY = MountKey(Namespace(), "auth/mock")
REF = PluginRef("auth", "mock-plugin")
V1, V2, V3 = (
    Launch(
        REF,
        f"v{number}",
        f"/bin/mock-{number}",
        "0" * 64,
        listen=(Listener("stream", f"/run/{number}", "x"),),
    )
    for number in (1, 2, 3)
)
BY_HAND = StoppedBy("uid 0", 1.0)
POLICIES = tuple(
    Policies(
        ready=Probe("notify" if watch else "exec"),
        stop=StopPolicy(command=stop_command),
        restart=RestartPolicy(policy=policy, burst=3),  # type: ignore[arg-type]
        reload=ReloadPolicy(rollback=rollback, order=order, watch=watch),  # type: ignore[arg-type]
    )
    for order in ("stop_first", "start_first")
    for rollback in (True, False)
    for policy in ("always", "on-failure", "never")
    for watch in (10.0, 0.0)
    for stop_command in ((), ("/bin/leave",))
)

SPAWNING, ALIVE, MAIN_DEAD = "spawning", "alive", "main dead"


class Broken(AssertionError):
    """A promise does not hold."""


class Process:
    """What the fake OS knows of one instance until its tree is gone."""

    __slots__ = (
        "adopted",
        "born",
        "commanded",
        "instance",
        "killed",
        "ready",
        "signalled",
        "state",
        "survived",
        "unhealthy",
        "unwanted",
    )

    def __init__(self, instance: Instance, born: int, state: str = SPAWNING) -> None:
        self.instance = instance
        self.state = state
        self.born = born
        self.ready = self.killed = self.signalled = self.commanded = False
        self.survived = self.unwanted = self.unhealthy = self.adopted = False


class Command:
    __slots__ = ("event", "failures", "issued", "spawns", "told")

    def __init__(self, event: Start | Stop | Reload, issued: int, failures: int, spawns: int) -> None:
        self.event = event
        self.issued = issued
        self.failures = failures
        self.spawns = spawns
        self.told: list[Answer] = []


Happening = tuple[str, Any]
"""A word and its argument; `World.do` makes events of it."""


class World:
    """One mount, what runs of it, the timers, and every command with its answers."""

    def __init__(
        self,
        policies: Policies,
        *,
        keep: bool = True,
        bad: frozenset[str] = frozenset(),
        flaky: frozenset[str] = frozenset(),
    ) -> None:
        self.mount = Mount(KEY, policies)
        self.now = 100.0
        self.steps = 0
        self.processes: dict[int, Process] = {}
        self.timers: dict[tuple[str, int], float] = {}
        self.commands: dict[str, Command] = {}
        self.failures = 0
        self.spawns = 0
        self.bad = bad
        """Versions that are never ready."""
        self.flaky = flaky
        """Versions that die right after they were ready."""
        self.story: list[str] = []
        self._keep = keep

    def copied(self) -> "World":
        twin = copy.copy(self)
        twin.processes = {key: copy.copy(process) for key, process in self.processes.items()}
        twin.timers = dict(self.timers)
        twin.commands = {}
        for name, command in self.commands.items():
            twin.commands[name] = copy.copy(command)
            twin.commands[name].told = list(command.told)
        twin.story = list(self.story)
        return twin

    # --- what may happen next

    def facts(self) -> list[Happening]:
        """What the OS may do now; a survivor's tree and a killed one's go when they like."""
        found: list[Happening] = []
        for generation, process in self.processes.items():
            if process.state == SPAWNING:
                found.append(("spawned", generation))
                found.append(("spawn_failed", generation))
                continue
            if process.state == ALIVE:
                found.append(("exited", generation))
                if not process.ready:
                    found.append(("ready", generation))
                if not process.unhealthy:
                    found.append(("unhealthy", generation))
            if process.commanded:
                found.append(("stop_command_done", generation))
            if process.killed:
                found.append(("tree_gone", generation))
                found.append(("survived", generation))
            elif process.survived:
                found.append(("tree_gone", generation))
        if self.timers:
            found.append(("timer", min(self.timers, key=lambda key: (self.timers[key], key))))
        return found + [("paced", None)] * (self.mount.phase is Phase.BACKOFF)

    def peaceful(self) -> list[Happening]:
        """Of the facts, those by which things come to an end: no failures but of a bad version."""
        found: list[Happening] = []
        for generation, process in self.processes.items():
            version = process.instance.launch.version
            if process.state == SPAWNING:
                found.append(("spawn_failed" if process.unwanted else "spawned", generation))
            elif process.state == ALIVE and (
                version in self.bad or (version in self.flaky and process.ready)
            ):
                found.append(("exited", generation))
            elif process.killed:
                found.append(("tree_gone", generation))
            elif process.state == ALIVE and process.signalled:
                found.append(("exited", generation))
            elif process.commanded:
                found.append(("stop_command_done", generation))
            elif process.state == ALIVE and not process.ready:
                found.append(("ready", generation))
        if not found and self.timers:
            found.append(("timer", min(self.timers, key=lambda key: (self.timers[key], key))))
        return found

    # --- doing it

    def do(self, happening: Happening, *, success: bool = False, transient: bool = False) -> None:
        word, which = happening
        self.now += 0.01
        match word:
            case "start":
                self.command(Start(which, f"s{self.steps}"))
            case "stop":
                self.command(Stop(f"x{self.steps}", which))
            case "reload":
                self.command(Reload(which, f"r{self.steps}"))
            case "configure":
                self.feed(Configure(which))
            case "paced":
                self.feed(Paced(self.mount.generation, "waits for its turn"))
            case "stale":
                self.feed(which)
            case "timer":
                self.now = max(self.now, self.timers.pop(which))
                self.failures += which[0] in {"ready", "backoff"}
                extended = self.now + 5 if transient else None
                self.feed(TimerFired(which[0], which[1], "the log is empty" if success else "", extended))
            case _:
                self._fact(word, self.processes[which], success=success, transient=transient)

    def command(self, event: Start | Stop | Reload) -> None:
        self.commands[event.command] = Command(event, self.steps, self.failures, self.spawns)
        self.feed(event)

    def _fact(self, word: str, process: Process, *, success: bool, transient: bool) -> None:
        generation = process.instance.generation
        match word:
            case "spawned":
                process.state = ALIVE
                self.feed(Spawned(generation))
            case "spawn_failed":
                self.failures += 1
                del self.processes[generation]
                self.feed(SpawnFailed(generation, "cannot fork", transient))
            case "exited":
                self.failures += not process.signalled and not process.killed
                process.state = MAIN_DEAD
                self.feed(Exited(generation, "exit 0" if success else "exit 1", success))
            case "ready":
                process.ready = True
                self.feed(BecameReady(generation))
            case "unhealthy":
                process.unhealthy = True
                self.failures += 1
                self.feed(ProbeFailed(generation, "no answer"))
            case "stop_command_done":
                process.commanded = False
                self.feed(StopCommandDone(generation))
            case "tree_gone":
                del self.processes[generation]
                self.feed(TreeGone(generation))
            case "survived":
                process.killed, process.survived = False, True
                self.failures += 1
                self.feed(TreeSurvived(generation, f"cannot kill pid {generation}"))
            case _:
                raise ValueError(word)

    def adopt(self, launch: Launch, generation: int, *, ready: bool) -> None:
        process = Process(Instance(instance_id(KEY, generation), generation, launch), self.steps, ALIVE)
        process.ready = ready
        process.adopted = True
        self.processes[generation] = process
        self.feed(Adopted(process.instance, ready))

    def feed(self, event: Event) -> None:
        """One transition, its actions carried out, and every promise looked at."""
        before = self.mount
        self.steps += 1
        after, actions = transition(before, event, self.now)
        self.mount = after
        if self._keep:
            self.story.append(f"{self.now:9.2f} {before.phase:>8} {event} -> {after.phase}: {actions}")
        generation = getattr(event, "generation", None)
        if generation is not None and generation not in _generations(before):
            is_backoff = isinstance(event, TimerFired | Paced) and before.phase is Phase.BACKOFF
            require(is_backoff or (after is before and not actions), "a stale event changed something")
        if isinstance(event, Configure):
            require(after == replace(before, policies=event.policies), "Configure changed more")
            require(not actions, "Configure did something")
        for action in actions:
            if isinstance(action, Spawn):
                its_time = isinstance(event, TimerFired) and event.name == "backoff"
                require(its_time or after.current is not None, "a restart nobody asked for took no turn")
                was_held = kept_open(before).issuperset(action.instance.launch.listen)
                require(was_held or isinstance(event, Start | Reload), "its listeners were closed before")
            self._perform(action, before)
        self._check()

    def _perform(self, action: object, before: Mount) -> None:
        match action:
            case Spawn(instance):
                self._spawn(instance, before)
            case SignalMain(generation):
                process = self._of(generation)
                process.unwanted |= process.state == SPAWNING
                process.signalled |= process.state != SPAWNING
            case RunStopCommand(generation, command):
                process = self._of(generation)
                require(bool(command), "an empty stop command")
                process.unwanted |= process.state == SPAWNING
                process.commanded |= process.state != SPAWNING
            case KillTree(generation, grace):
                process = self._of(generation)
                require(not process.killed, "killed twice at once")
                require(grace >= 0, "a negative grace")
                process.unwanted |= process.state == SPAWNING
                process.killed |= process.state != SPAWNING
            case SetTimer(name, generation, when):
                require(when >= self.now, "a timer in the past")
                self.timers[name, generation] = when
            case ClearTimer(name, generation):
                self.timers.pop((name, generation), None)
            case TakeAsReady(generation):
                process = self._of(generation)
                require(process.state == ALIVE and process.adopted, "taken as ready without need")
                process.ready = True
            case Answer():
                self._answer(action)
            case _:
                raise Broken(f"an unknown action {action}")

    def _of(self, generation: int) -> Process:
        require(generation in self.processes, "an action for a process that is gone")
        return self.processes[generation]

    def _spawn(self, instance: Instance, before: Mount) -> None:
        require(self.mount.held is None and not self.mount.told_to_stop, "started though stopped by hand")
        require(instance.generation > before.generation, "a generation came again")
        if self.processes:
            require(self.mount.policies.reload.order == "start_first", "two instances")
            (first,) = self.processes.values()
            require(first.ready and first.state == ALIVE, "two instances, the first no good")
        self.processes[instance.generation] = Process(instance, self.steps)
        self.spawns += 1

    def _answer(self, said: Answer) -> None:
        require(bool(said.commands), "an answer to nobody")
        new = self.processes.get(said.new.generation) if said.new else None
        if said.outcome in {Outcome.DONE, Outcome.ROLLED_BACK} and new is not None:
            require(new.ready and new.state == ALIVE, "an answer names an instance that is not ready")
        if said.outcome is not Outcome.DONE:
            require(bool(said.reason), "no reason was given")
        if said.outcome is Outcome.ROLLED_BACK:
            require(said.failed is not None, "whose log says more?")
        for name in said.commands:
            command = self.commands[name]
            require(bool(command.told) == said.amends, f"{name} was not answered exactly once")
            command.told.append(said)
            if said.outcome is Outcome.DONE:
                self._done(command, new)
            if command.failures == self.failures and isinstance(command.event, Reload):
                require(self.spawns - command.spawns <= 2, "more than two replacements")

    def _done(self, command: Command, new: Process | None) -> None:
        if isinstance(command.event, Stop):
            require(not self.processes, "stopped, but something lives")
            return
        require(new is not None, "done, by nothing that lives")
        if new is None or isinstance(command.event, Start):
            return
        require(new.born > command.issued, "done by an instance that is older than the command")
        later = {
            other.event.launch
            for other in self.commands.values()
            if other.issued >= command.issued and not isinstance(other.event, Stop)
        }
        require(new.instance.launch in later, "done by what nobody asked for since")

    # --- promises that hold at any time

    def _check(self) -> None:  # noqa: C901 - the list of promises
        mount = self.mount
        known = _generations(mount)
        require(known == set(self.processes), "it does not know what lives")
        waiting = {name for name, command in self.commands.items() if not command.told}
        kept: list[str] = list(mount.stops)
        kept += mount.current.commands if mount.current else ()
        kept += mount.queued.commands if mount.queued else ()
        require(len(kept) == len(set(kept)), "a command is kept twice")
        require(waiting == set(kept), f"of {waiting} it remembers {kept}")
        held = {listener.address for listener in kept_open(mount)}
        require(not held or mount.phase not in {Phase.STOPPED, Phase.FAILED}, "at rest, but it listens")
        for instance in (mount.instance, mount.incoming, mount.outgoing):
            if instance is not None:
                self._is_cared_for(self.processes[instance.generation])
        match mount.phase:
            case Phase.STOPPED:
                require(mount.is_empty, "stopped, but something lives")
                require(mount.wanted is None, "stopped, but something is wanted")
            case Phase.BACKOFF:
                require(mount.is_empty, "in backoff, but something lives")
                require(mount.wanted is not None, "in backoff for nothing")
                require(("backoff", mount.generation) in self.timers, "in backoff for ever")
            case Phase.STARTING:
                require(mount.instance is not None and mount.incoming is None, "what is starting?")
            case Phase.READY:
                require(mount.instance is not None, "what is ready?")
                if mount.instance is not None:
                    require(self.processes[mount.instance.generation].ready, "ready, but is not")
                if mount.current or mount.queued:
                    require(self._is_busy(), "a command waits for nothing")
                if mount.watched:
                    require(any(name == "watch" for name, _ in self.timers), "watched for ever")
            case Phase.STOPPING:
                require(self._is_busy(), "stopping for ever")
                require(mount.wanted is not None or mount.current is None, "who answers?")
            case Phase.FAILED:
                require(mount.wanted is None, "failed, but something is wanted")
                require(mount.current is None and mount.queued is None, "failed, but somebody waits")
                require(bool(mount.reason), "failed, and nobody knows why")

    def _is_busy(self) -> bool:
        for process in self.processes.values():
            generation = process.instance.generation
            if process.state == SPAWNING or process.killed or ("stop", generation) in self.timers:
                return True
            if process.instance == self.mount.incoming and ("ready", generation) in self.timers:
                return True
        return False

    def _is_cared_for(self, process: Process) -> None:
        generation = process.instance.generation
        if process.state == SPAWNING or process.killed or process.survived:
            return
        if process.state == MAIN_DEAD:
            raise Broken(f"nobody ends what generation {generation} left behind")
        going = ("stop", generation) in self.timers
        if process.instance == self.mount.instance and self.mount.phase is Phase.READY:
            return
        require(going or ("ready", generation) in self.timers, f"nobody waits for generation {generation}")

    def come_to_rest(self, most: int = 400) -> None:
        """From now on nothing fails but bad versions."""
        for _ in range(most):
            options = self.peaceful()
            if not options:
                break
            self.do(options[0])
        else:
            raise Broken("it does not come to rest")
        mount = self.mount
        waiting = [name for name, command in self.commands.items() if not command.told]
        require(not waiting, f"never answered: {waiting}")
        require(mount.phase in {Phase.READY, Phase.STOPPED, Phase.FAILED}, f"rests in {mount.phase}")
        if mount.phase is Phase.READY:
            require(not (mount.current or mount.queued or mount.watched), "ready, but not at rest")


def require(condition: bool, promise: str) -> None:  # noqa: FBT001 - it is the assertion
    if not condition:
        raise Broken(promise)


def _generations(mount: Mount) -> set[int]:
    return {
        instance.generation
        for instance in (mount.instance, mount.incoming, mount.outgoing)
        if instance is not None
    }


# --- one sequence by chance

RARE = {
    "survived": 0.05,
    "spawn_failed": 0.25,
    "unhealthy": 0.2,
    "exited": 0.4,
    "tree_gone": 2.0,
    "ready": 2.0,
    "paced": 0.3,
}
STALE: tuple[Callable[[int], Event], ...] = (
    Spawned,
    BecameReady,
    TreeGone,
    StopCommandDone,
    lambda generation: Exited(generation, "exit 1"),
    lambda generation: ProbeFailed(generation, "late"),
    lambda generation: SpawnFailed(generation, "late"),
    lambda generation: TreeSurvived(generation, "late"),
    lambda generation: TimerFired("ready", generation),
    lambda generation: TimerFired("stop", generation),
    lambda generation: TimerFired("watch", generation),
)


def a_command(world: World, random: Random) -> Happening:
    word = random.choice(("start", "stop", "reload", "reload", "reload", "reload", "configure", "stale"))
    if word == "stop":
        return word, random.choice((None, BY_HAND, BY_HAND))
    if word == "configure":
        return word, random.choice(POLICIES)
    if word == "stale":
        gone = [number for number in range(world.mount.generation + 1) if number not in world.processes]
        return word, random.choice(STALE)(random.choice(gone or [99]))
    return word, random.choice((V1, V2, V3))


def one_sequence(seed: int, length: int = 24, *, keep: bool = False) -> World:
    """Play one sequence to its end and a peaceful rest.

    Raises:
        Broken: With the seed.
    """
    random = Random(seed)  # noqa: S311 - a seed is what is wanted
    world = World(random.choice(POLICIES), keep=keep)
    busy = random.choice((0.1, 0.3, 0.6))
    try:
        if random.random() < 0.2:
            world.adopt(random.choice((V1, V2)), random.randint(1, 5), ready=random.random() < 0.5)
        else:
            world.do(("start", V1))
        for _ in range(length):
            facts = world.facts()
            if not facts or random.random() < busy:
                happening = a_command(world, random)
            else:
                weights = [RARE.get(word, 1.0) for word, _ in facts]
                (happening,) = random.choices(facts, weights)
            world.do(happening, success=random.random() < 0.3, transient=random.random() < 0.5)
        world.come_to_rest()
    except Exception as broken:
        broken.add_note(f"seed {seed}")
        raise
    return world


STAYS_UP = tuple(
    dataclasses.replace(policies, restart=RestartPolicy(policy=restart))  # type: ignore[arg-type]
    for policies in POLICIES
    for restart in ("always", "on-failure", "never")
    if policies.reload.rollback and policies.reload.watch
)


def one_sequence_with_bad_versions(seed: int, length: int = 40, *, keep: bool = False) -> World:
    """v1 always works, v2 and v3 never do: whatever is asked for in whatever order, v1 is what runs.

    Raises:
        Broken: With the seed.
    """
    random = Random(seed)  # noqa: S311 - a seed is what is wanted
    bad = frozenset(version for version in ("v2", "v3") if random.random() < 0.5)
    world = World(random.choice(STAYS_UP), keep=keep, bad=bad, flaky=frozenset({"v2", "v3"}) - bad)
    try:
        world.do(("start", V1))
        while world.mount.phase is not Phase.READY:
            world.do(random.choice(world.peaceful()))
        for _ in range(length):
            options = world.peaceful()
            if options and random.random() < 0.7:
                world.do(random.choice(options), success=random.random() < 0.3)
            elif world.mount.told_to_stop:
                world.do(("start", random.choice((V1, V2, V3))))
            else:
                world.do(
                    random.choice([("reload", launch) for launch in (V1, V2, V3)] * 3 + [("stop", BY_HAND)])
                )
            require(world.mount.good == V1, "what last worked is forgotten")
        world.come_to_rest()
        if not world.mount.told_to_stop:
            require(world.mount.phase is Phase.READY, f"a bad version left the mount {world.mount.phase}")
            require(world.mount.running.launch == V1, "a bad version stayed")
    except Exception as broken:
        broken.add_note(f"seed {seed}")
        raise
    return world


PLAYS = {"any": one_sequence, "bad": one_sequence_with_bad_versions}


def told(play: str, seed: int, length: int) -> str:
    """The story of the sequence of `seed`, for people."""
    world = World(POLICIES[0])
    try:
        world = PLAYS[play](seed, length, keep=True)
    except Exception as broken:  # noqa: BLE001 - its story is told
        frame = broken.__traceback__
        while frame is not None:
            world = frame.tb_frame.f_locals.get("world", world)
            frame = frame.tb_next
    return shown("\n".join(world.story))


def shown(story: str) -> str:
    """A launch as its version, an instance as its generation."""
    story = re.sub(r"Launch\(.*?version='(v\d)'.*?listen=\(\)\)", r"\1", story)
    story = re.sub(r"Instance\(id='\S+', generation=(\d+), launch=(v\d)\)", r"#\1=\2", story)
    return re.sub(r"Policies\(.*?(rollback=\w+, order='\w+', watch=[\d.]+)\)\)", r"<\1>", story)


# --- all sequences

COMMANDS: tuple[Happening, ...] = (("start", V1), ("stop", BY_HAND), ("reload", V2), ("reload", V3))


def exhaustive(length: int, policies: Policies, *, ready: bool) -> int:
    """Everything that can happen to a started mount, up to `length` steps; how many sequences there are."""
    count = 0
    start = World(policies)
    start.do(("start", V1))
    if ready:
        start.come_to_rest()
    level = [start]
    for depth in range(length):
        following: list[World] = []
        for world in level:
            for happening in (*world.facts(), *COMMANDS):
                twin = world.copied()
                count += 1
                try:
                    twin.do(happening)
                    if depth == length - 1:
                        twin.come_to_rest()
                except Exception as broken:
                    broken.add_note("\n".join(twin.story))
                    raise
                following.append(twin)
        level = following if depth < length - 1 else []
    return count


def all_sequences(length: int) -> int:
    return sum(
        exhaustive(length, policies, ready=ready)
        for policies in (POLICIES[0], POLICIES[len(POLICIES) // 2])
        for ready in (False, True)
    )


def main(arguments: list[str]) -> int:
    began = time.monotonic()
    if arguments[:1] == ["--exhaustive"]:
        length = int(arguments[1])
        print(f"{all_sequences(length)} sequences of {length} steps: ok ({time.monotonic() - began:.1f} s)")
        return 0
    number, seed = int(arguments[0]), int(arguments[1])
    length = int(arguments[2]) if len(arguments) > 2 else 24
    steps = 0
    for each in range(seed, seed + number):
        play = "bad" if each % 4 == 0 else "any"
        try:
            steps += PLAYS[play](each, length).steps
        except Exception as broken:  # noqa: BLE001 - the seed is told, whatever it is
            print(told(play, each, length))
            print(f"{type(broken).__name__}: {broken}")
            print(f"after {each - seed + 1} sequences; again with: {sys.argv[0]} 1 {each} {length}")
            return 1
    print(f"{number} sequences, {steps} steps: ok ({time.monotonic() - began:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
