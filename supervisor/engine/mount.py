"""One actor per mount: event -> transition -> actions. Decides nothing; what came of an action is an event.

An action that waits is a task of the node's TaskGroup; the others are done at once. Events that
come up meanwhile are taken in turn, so no handler ever sees a half-made step.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, Generic

import structlog

from supervisor.domain.catalog import Launch, Listener
from supervisor.domain.errors import PlugindError, SpawnRefused
from supervisor.domain.events import (
    Action,
    Adopted,
    Answer,
    BecameReady,
    ClearTimer,
    Event,
    Exit,
    Exited,
    Instance,
    KillTree,
    Outcome,
    ProbeFailed,
    RunStopCommand,
    SetTimer,
    SignalMain,
    Spawn,
    Spawned,
    SpawnFailed,
    Stop,
    StopCommandDone,
    TakeAsReady,
    TimerFired,
    TreeGone,
    TreeSurvived,
)
from supervisor.domain.legacy import HandedMount
from supervisor.domain.lifecycle import transition
from supervisor.domain.listening import NONE, kept_open
from supervisor.domain.mount import Mount, Phase
from supervisor.domain.names import MountKey, Seconds
from supervisor.engine.answers import Answers
from supervisor.engine.effects import Effects
from supervisor.engine.feed import Transition
from supervisor.engine.liveness import watch_liveness
from supervisor.engine.ports import P
from supervisor.engine.timers import Timers
from supervisor.engine.world import Ended, World

log = structlog.get_logger(__name__)
_REMEMBERED = 8
"""Generations whose pids an answer may still name."""


class MountActor(Generic[P]):
    """The one owner of a mount's state and of its processes."""

    def __init__(self, mount: Mount, world: World[P]) -> None:
        self.mount = mount
        self.crashes = 0
        self.last_exit: str | None = None
        self.last_launch: Launch | None = None
        self.history: deque[Transition] = deque(maxlen=20)
        self._world = world
        self._events: list[Event] = []  # not a deque, of which an empty one has 760 bytes
        self._busy = False
        self._running: dict[int, P] = {}
        self._pids: dict[int, int] = {}
        self._unwanted: set[int] = set()
        self._effects = Effects(mount.key, world.tasks)
        self._timers = Timers(world.clock, world.pace, self._fired, self.post)
        self._answers = Answers(mount.key, world, self._effects, self._pids)
        self.is_closing = False
        """plugind is ending: nothing is started any more."""
        self.listens: frozenset[Listener] = NONE
        """What is held open for it."""
        self._left = False

    @property
    def key(self) -> MountKey:
        return self.mount.key

    @property
    def process(self) -> P | None:
        """The process of the current instance, from its spawn until its tree is gone."""
        return self._running.get(self.mount.instance.generation) if self.mount.instance else None

    async def ask(self, event: Event, command: str) -> Ended:
        """Post a command and wait for its answer; the caller going away cancels nothing."""
        if self.is_closing and not isinstance(event, Stop):
            return Ended(self.key, Outcome.SKIPPED, "plugind is shutting down")
        answered = self._answers.expect(command)
        self.post(event)
        return await asyncio.shield(answered)

    def adopt(self, instance: Instance, process: P, *, ready: bool) -> None:
        self._took(instance, process)
        self.post(Adopted(instance, ready))
        self._begin_start(instance.generation, self._until_ready(instance, process, ready=ready))

    def resume(self, mount: Mount, handed: HandedMount) -> None:
        """Go on as `mount`, where the plugind before this one in the same process had come to."""
        self.mount = mount
        self.crashes, self.last_exit = handed.restarts, handed.last_exit
        if mount.phase is Phase.BACKOFF:
            self._timers.set("backoff", mount.generation, max(mount.not_before, self._world.clock.time()))

    def post(self, event: Event) -> None:
        """Take `event` after those that came before it."""
        self._events.append(event)
        if self._busy or self._left:
            return
        self._busy = True
        try:
            while self._events:
                self._step(self._events.pop(0))
        finally:
            self._busy = False

    def leave(self) -> None:
        """Let go of everything: the next plugind adopts what lives, and what happens now is its business."""
        self.is_closing = self._left = True
        self._timers.leave()
        self._effects.leave()
        for process in self._running.values():
            self._world.processes.leave(process)
        self._running.clear()
        self._answers.leave()

    def _step(self, event: Event) -> None:
        before, now = self.mount, self._world.clock.time()
        self.mount, actions = transition(before, event, now)
        if self.mount is before and not actions:
            return
        if self.mount.remembered != before.remembered:
            self._world.remember(self.key, self.mount.remembered)
        if self.mount.crashes and self.mount.crashes[-1:] != before.crashes[-1:]:
            self.crashes += 1  # a restart that nobody asked for; a rollback is none
        instance = self.mount.instance or before.instance
        pid = self._pids.get(instance.generation) if instance else None
        self.history.append(self._world.feed.publish(before, event, self.mount, actions, now, pid))
        self.hold()  # before anything is answered: who hears that it is stopped is refused from then on
        for action in actions:
            self._perform(action)
        if before.policies is not self.mount.policies and instance is not None:
            launch = instance.launch
            if before.policies_of(launch).liveness != self.mount.policies_of(launch).liveness:
                self._configured()

    def hold(self) -> None:
        """Keep the listeners of the mount open that it may still need, and no others."""
        listens = kept_open(self.mount)
        if listens != self.listens:
            self.listens = listens
            self._world.listeners.keep(self.key, listens)

    def _perform(self, action: Action) -> None:
        match action:
            case Spawn(instance):
                self.last_launch = instance.launch
                self._begin_start(instance.generation, self._start(instance))
            case SignalMain(generation, number):
                self._signal(generation, number)
            case RunStopCommand(generation, command):
                self._effects.begin(
                    self._run_stop_command(generation, command),
                    lambda _: self.post(StopCommandDone(generation)),
                )
            case KillTree(generation, grace):
                self._end(generation, grace)
            case SetTimer(name, generation, when):
                self._timers.set(name, generation, when)
            case ClearTimer(name, generation):
                self._timers.clear(name, generation)
            case TakeAsReady(generation):
                self._world.processes.became_ready(self._running[generation])
                self._watch(generation)
            case Answer():
                self._answers.give(action)

    # --- start

    async def _start(self, instance: Instance) -> None:
        generation = instance.generation
        try:
            file = await self._world.binaries.admit(instance.launch)
            if generation in self._unwanted:
                raise SpawnRefused("stopped before it was started")
            process = await self._world.processes.spawn(
                self.key, instance, self.mount.policies_of(instance.launch), file
            )
        except PlugindError as error:
            self._unwanted.discard(generation)
            self.post(SpawnFailed(generation, str(error), getattr(error, "transient", False)))
            return
        # what was asked of it meanwhile is asked again, now that it is there
        self._unwanted.discard(generation)
        self._took(instance, process)
        if file.descriptor is not None:
            bound = log.bind(namespace=str(self.key.namespace), mount=self.key.path, pid=process.pid)
            bound.warning("former_file_started", version=instance.launch.version, reason=file.why)
        self.post(Spawned(generation))
        await self._until_ready(instance, process, ready=False)

    async def _until_ready(self, instance: Instance, process: P, *, ready: bool) -> None:
        try:
            if not ready:
                await process.ready()
                self._world.processes.became_ready(process)
                self.post(BecameReady(instance.generation))
            liveness = self.mount.policies_of(instance.launch).liveness
            if liveness is not None:
                await watch_liveness(self._world.clock, process, liveness)
        except PlugindError as error:
            self.post(ProbeFailed(instance.generation, str(error)))

    def _configured(self) -> None:
        for generation, process in self._running.items():
            self._world.processes.configure(process, self.mount.policies_at(generation))
        if self.mount.phase is Phase.READY:
            self._watch(self.mount.running.generation)

    def _watch(self, generation: int) -> None:
        """Watch the liveness of what is ready, in the place of whatever watched it before."""
        process = self._running.get(generation)
        if process is not None:
            self._cancel_start(generation)
            self._begin_start(generation, self._until_ready(self.mount.running, process, ready=True))

    def _took(self, instance: Instance, process: P) -> None:
        generation = instance.generation
        self._running[generation] = process
        self._pids[generation] = process.pid
        self.last_launch = instance.launch
        process.on_exit(lambda status: self._exited(generation, status))

    def _exited(self, generation: int, status: Exit) -> None:
        if generation not in self._running:
            return  # left to the next plugind
        self.last_exit = str(status)
        self._cancel_start(generation)
        self.post(Exited(generation, str(status), success=status.code == 0))

    # --- stop

    def _signal(self, generation: int, number: int) -> None:
        process = self._running.get(generation)
        if process is None:
            self._unwanted.add(generation)
            return
        self._cancel_start(generation)
        try:
            self._world.processes.signal_main(process, number)
        except PlugindError as error:
            log.warning("signal_refused", pid=process.pid, reason=str(error))

    async def _run_stop_command(self, generation: int, command: tuple[str, ...]) -> None:
        process = self._running.get(generation)
        if process is None:
            self._unwanted.add(generation)
            return
        self._cancel_start(generation)
        try:
            await self._world.processes.run_stop_command(process, command)
        except PlugindError as error:
            log.warning("stop_command_failed", pid=process.pid, reason=str(error))
        self.post(StopCommandDone(generation))

    def _end(self, generation: int, grace: Seconds) -> None:
        process = self._running.get(generation)
        self._cancel_start(generation)
        if process is None:
            self._unwanted.add(generation)  # the spawn under way fails, and says so
        else:
            self._effects.begin(
                self._end_tree(generation, process, grace),
                lambda reason: self.post(TreeSurvived(generation, reason)),
            )

    async def _end_tree(self, generation: int, process: P, grace: Seconds) -> None:
        try:
            await self._world.processes.end_tree(process, grace)
        except PlugindError as error:
            self.post(TreeSurvived(generation, str(error)))
        else:
            del self._running[generation]
            self._pids.pop(generation - _REMEMBERED, None)
            self.post(TreeGone(generation))

    # --- timers, and what broke

    def _fired(self, name: str, generation: int) -> None:
        process = self._running.get(generation)
        if name == "ready" and process is not None:
            self.post(TimerFired("ready", generation, process.why_not_ready(), process.extended_until))
        else:
            self.post(TimerFired(name, generation))  # type: ignore[arg-type]  # it came from a SetTimer

    def _cancel_start(self, generation: int) -> None:
        if generation in self._running:
            self._effects.cancel_start(generation)

    def _begin_start(self, generation: int, work: Coroutine[Any, Any, None]) -> None:
        self._effects.begin_start(generation, work, lambda reason: self._start_broke(generation, reason))

    def _start_broke(self, generation: int, reason: str) -> None:
        if generation in self._running:
            self.post(ProbeFailed(generation, reason))
        else:
            self._unwanted.discard(generation)
            self.post(SpawnFailed(generation, reason))
