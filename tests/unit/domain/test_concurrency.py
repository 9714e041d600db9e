"""Two things at one mount: each pair of docs/concurrency.md in the pure state machine."""

from itertools import count

import pytest
from concurrency import TABLE, Doing, Happening, Seen, pair, said

from supervisor.domain.catalog import (
    EMPTY,
    Catalog,
    Launch,
    MountSpec,
    Policies,
    ReloadPolicy,
    RestartPolicy,
    StopPolicy,
)
from supervisor.domain.events import (
    Answer,
    BecameReady,
    Event,
    Exit,
    Exited,
    KillTree,
    Outcome,
    Reload,
    SignalMain,
    Spawn,
    Spawned,
    Start,
    Stop,
    TreeGone,
)
from supervisor.domain.lifecycle import transition
from supervisor.domain.memory import StoppedBy
from supervisor.domain.mount import Mount, Phase
from supervisor.domain.names import ROOT, MountKey, PluginRef
from supervisor.domain.plan import Current, diff

KEY = MountKey(ROOT, "auth/m")
POLICIES = Policies(
    restart=RestartPolicy(backoff=120.0, max_backoff=120.0),
    reload=ReloadPolicy(watch=0.0),
    stop=StopPolicy(timeout=120.0),
)
BY_HAND = StoppedBy("somebody", 0.0)
DONE = {"reload": "reloaded", "start": "started", "stop": "stopped"}


class Told:
    """A command and, as soon as it is given, its answer."""

    def __init__(self, verb: str) -> None:
        self.verb = verb
        self.answer: str | None = None

    def done(self) -> bool:
        return self.answer is not None

    def told(self) -> str:
        assert self.answer is not None
        return self.answer


class Pure:
    """An arena in which nothing runs: what the actions ask for happens at once, unless a gate is closed."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._commands: dict[str, Told] = {}
        self._closed: set[str] = set()
        self._waiting: list[tuple[str, int]] = []
        """Gate and generation of the instances that stand there."""
        self._mount: Mount | None = Mount(KEY, POLICIES)
        self._before = 0
        self._now = 100.0
        self.write("v1")

    @staticmethod
    def _launch(version: str) -> Launch:
        return Launch(PluginRef("auth", "mock"), version, f"/bin/{version}")

    # --- what the engine does

    def _post(self, event: Event) -> None:
        assert self._mount is not None
        self._now += 0.001
        self._mount, actions = transition(self._mount, event, self._now)
        for action in actions:
            match action:
                case Spawn(instance):
                    self._post(Spawned(instance.generation))
                    self._at_gate("ready", instance.generation)
                case SignalMain(generation):
                    self._waiting = [one for one in self._waiting if one != ("ready", generation)]
                    self._at_gate("ends", generation)
                case KillTree(generation):
                    self._waiting = [one for one in self._waiting if one[1] != generation]
                    self._post(TreeGone(generation))
                case Answer():
                    self._answered(action)

    def _at_gate(self, gate: str, generation: int) -> None:
        if gate in self._closed:
            self._waiting.append((gate, generation))
        else:
            self._passes(gate, generation)

    def _passes(self, gate: str, generation: int) -> None:
        if gate == "ready":
            self._post(BecameReady(generation))
        else:
            self._post(Exited(generation, "exit 0", success=True))

    def _answered(self, answer: Answer) -> None:
        for command in answer.commands:
            told = self._commands[command]
            result = DONE[told.verb] if answer.outcome is Outcome.DONE else str(answer.outcome)
            version = answer.new.launch.version if answer.new is not None else None
            told.answer = said(result, version, answer.reason)

    def _asked(self, verb: str) -> tuple[str, Told]:
        command = f"{verb}-{next(self._numbers)}"
        self._commands[command] = told = Told(verb)
        return command, told

    def _spec(self) -> MountSpec | None:
        return self._catalog.mounts.get(KEY)

    # --- the arena

    def at_rest(self) -> None:
        """It is new for each pair."""
        self.by_hand("start")
        assert self._mount is not None
        assert self._mount.phase is Phase.READY
        self._before = self._mount.generation

    def close_gate(self, name: str) -> None:
        self._closed.add(name)

    def until_at(self, name: str) -> None:
        assert name in {gate for gate, _ in self._waiting}

    def write(self, pin: str, *, listed: bool = True) -> None:
        mounts = {KEY: MountSpec(KEY, self._launch(pin), POLICIES)} if listed else {}
        self._catalog = Catalog({}, mounts, EMPTY.namespaces)

    def reload(self) -> Told:
        command, told = self._asked("reload")
        spec = self._spec()
        assert spec is not None
        self._reload(spec.launch, command)
        return told

    def _reload(self, launch: Launch, command: str) -> None:
        held = self._mount.held if self._mount is not None else None
        if held is not None:
            self._commands[command].answer = said("skipped", None, f"stopped by hand by {held.who}")
        else:
            self._post(Reload(launch, command))

    def apply(self) -> Told:
        mount = self._mount
        assert mount is not None
        current = Current(mount.bound_for, mount.policies, held=mount.held is not None)
        (step,) = diff(self._catalog, {KEY: current})
        match step.action:
            case "stop":
                command, told = self._asked("stop")
                self._post(Stop(command, why="its mount is no longer in the catalog"))
            case "replace":
                command, told = self._asked("reload")
                assert step.wanted is not None
                self._reload(step.wanted.launch, command)
            case other:
                assert other == "keep"
                told = Told("keep")
                held = mount.held
                told.answer = (
                    said("unchanged", None, None)
                    if held is None
                    else said("skipped", None, f"stopped by hand by {held.who}")
                )
        return told

    def by_hand(self, verb: str) -> Told:
        mount, spec = self._mount, self._spec()
        assert mount is not None
        assert spec is not None
        starts = verb == "start" or mount.instance is None or mount.held is not None
        command, told = self._asked("stop" if verb == "stop" else "start" if starts else "reload")
        if verb == "stop":
            self._post(Stop(command, BY_HAND))
        elif starts:
            self._post(Start(spec.launch, command))
        else:
            assert mount.bound_for is not None
            self._post(Reload(mount.bound_for, command))
        return told

    def crash(self) -> None:
        if self._mount is not None and self._mount.instance is not None:
            generation = self._mount.instance.generation
            self._waiting = [one for one in self._waiting if one[1] != generation]
            self._post(Exited(generation, str(Exit(signal=9))))

    def then(self, second: Happening) -> Doing | None:
        return second(self)

    def seen(self, first: Doing | None, second: Doing | None) -> Seen:
        self._closed.clear()
        while self._waiting:
            self._passes(*self._waiting.pop(0))
        mount = self._mount
        assert mount is not None
        answers = [doing.told() if doing is not None else "" for doing in (first, second)]
        is_gone = self._spec() is None and mount.is_empty
        if is_gone:
            return Seen(*answers, "gone", None)
        runs = mount.running.launch.version if mount.phase is Phase.READY else str(mount.phase)
        return Seen(*answers, runs, mount.generation - self._before)


@pytest.mark.parametrize(("first", "second"), TABLE)
def test_what_comes_during_something_else_has_the_outcome_that_is_written_down(
    first: str, second: str
) -> None:
    assert pair(Pure(), first, second) == TABLE[first, second]
