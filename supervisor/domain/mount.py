"""The state of one mount: all that decides what happens next. Replaced, never changed.

msgspec's structs, as their `replace` costs a tenth of that of dataclasses, ten times a reload.
"""

from enum import StrEnum
from typing import cast

import msgspec

from supervisor.domain.catalog import Launch, MountSpec, Policies
from supervisor.domain.events import Instance, TreeSurvived
from supervisor.domain.memory import Remembered, StoppedBy
from supervisor.domain.names import MountKey, Seconds
from supervisor.domain.restarts import CLEAN, Record

DEFAULT_POLICIES = Policies()


class Phase(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"


class Replacement(msgspec.Struct, frozen=True):
    """A new instance that somebody asked for, from the command to its answer."""

    commands: tuple[str, ...]
    launch: Launch
    since: Seconds
    fallback: Launch | None = None
    """What comes back where `launch` does not work; None where there is nothing else."""
    old: Instance | None = None
    failure: str | None = None
    """Why `launch` did not work: the fallback is on its way."""
    failed: Instance | None = None
    told: tuple[str, ...] = ()
    """Commands that were answered before it failed: what is said now amends that."""


class Mount(msgspec.Struct, frozen=True):
    key: MountKey
    policies: Policies = DEFAULT_POLICIES
    """Of what the catalog asks for: see `policies_of`."""
    former: tuple[tuple[Launch, Policies], ...] = ()
    """Launches that run or may come back and are treated otherwise: each as it was when it worked."""
    phase: Phase = Phase.STOPPED
    generation: int = 0
    """Of the newest instance; the next instance id is made from it."""
    instance: Instance | None = None
    """None exactly when no process of it can exist."""
    incoming: Instance | None = None
    """start_first only: the second one, until it is ready or dead."""
    outgoing: Instance | None = None
    """start_first only: the first one, from when the second is ready until its tree is gone."""
    good: Launch | None = None
    """What last worked: a crash after a rollback starts this."""
    rolled_back_from: Launch | None = None
    held: StoppedBy | None = None
    told_to_stop: bool = False
    """By hand or by the daemon; nothing starts before a Start."""
    wanted: Launch | None = None
    """What starts when the tree is gone; None: `rest` is where it stays."""
    rest: Phase = Phase.STOPPED
    not_before: Seconds = 0.0
    """The backoff of `wanted`, which then waits for its turn too; 0: somebody asked for it, so at once."""
    current: Replacement | None = None
    queued: Replacement | None = None
    """Asked for after `current` had spawned: so k reloads cost at most two replacements."""
    watched: Replacement | None = None
    """Answered; a death inside reload.watch brings its fallback back."""
    stops: tuple[str, ...] = ()
    """Stop commands to answer when no process is left."""
    deadline: Seconds = 0.0
    """Until when members of an instance that is being stopped may go by themselves."""
    killing: frozenset[int] = frozenset()
    """Generations whose KillTree is under way."""
    survivors: tuple[TreeSurvived, ...] = ()
    """Of what could not be killed, why; tried again with the next command, and nothing starts before."""
    unwell: str | None = None
    """start_first: the first one's liveness failed; it matters if the second does not take over."""
    past: Record = CLEAN
    """The crashes that count."""
    ready_since: Seconds | None = None
    """Of the instance, once it is ready."""
    unheard: int | None = None
    """Generation of an adopted instance that may have said READY=1 while nobody listened."""
    down_since: Seconds | None = None
    reason: str | None = None
    """Why it is where it is, for people."""
    told_before: tuple[str, ...] = ()
    """Commands that a former daemon answered, while what they started had to prove itself."""

    @property
    def living(self) -> tuple[Instance, ...]:
        """All of which a process may exist."""
        three = (self.instance, self.incoming, self.outgoing)
        return tuple(instance for instance in three if instance is not None)

    def policies_of(self, launch: Launch) -> Policies:
        """How an instance of `launch` is treated."""
        return next((policies for other, policies in self.former if other == launch), self.policies)

    def policies_at(self, generation: int) -> Policies:
        """How the living instance of that generation is treated."""
        return next(
            (self.policies_of(one.launch) for one in self.living if one.generation == generation),
            self.policies,
        )

    @property
    def launches(self) -> tuple[Launch, ...]:
        """What runs and what is about to."""
        asked = (one.launch for one in (self.current, self.queued) if one is not None)
        wanted = () if self.wanted is None else (self.wanted,)
        return (*(instance.launch for instance in self.living), *asked, *wanted)

    @property
    def needed(self) -> tuple[Launch, ...]:
        """The same, and what may come back by a rollback or a crash."""
        asked = [each for each in (self.current, self.queued, self.watched) if each is not None]
        back = (self.good, *(each.fallback for each in asked))
        return (*self.launches, *(launch for launch in back if launch is not None))

    @property
    def is_empty(self) -> bool:
        """No process of this mount can exist."""
        return self.instance is None and self.incoming is None and self.outgoing is None

    @property
    def running(self) -> Instance:
        """The instance, in a phase that has one."""
        return cast(Instance, self.instance)

    @property
    def bound_for(self) -> Launch | None:
        """What runs once all that was asked for is done."""
        if self.queued is not None:
            return self.queued.launch
        if self.current is not None and self.current.failure is None:
            return self.current.launch
        return self.wanted or (self.instance.launch if self.instance is not None else None)

    @property
    def second_is_coming(self) -> bool:
        """start_first: a second instance is under start and nothing speaks against it yet."""
        wanted = self.current is not None and self.current.failure is None
        return wanted and self.incoming is not None and self.phase is Phase.READY

    @property
    def crashes(self) -> tuple[Seconds, ...]:
        """Instants inside restart.within, newest last."""
        return self.past.crashes

    @property
    def remembered(self) -> Remembered:
        policies = next((policies for launch, policies in self.former if launch == self.good), None)
        told = self.watched.told if self.watched is not None else ()
        return Remembered(self.held, self.good, self.rolled_back_from, self.generation, policies, told)


def remembering(key: MountKey, policies: Policies, remembered: Remembered) -> Mount:
    """The mount at the start of the daemon."""
    return Mount(
        key,
        policies,
        former=former_of(remembered),
        generation=remembered.generation,
        good=remembered.good,
        rolled_back_from=remembered.rolled_back_from,
        held=remembered.held,
        told_before=remembered.told,
    )


def former_of(remembered: Remembered) -> tuple[tuple[Launch, Policies], ...]:
    """What `Mount.former` is at the start of the daemon."""
    if remembered.good is None or remembered.policies is None:
        return ()
    return ((remembered.good, remembered.policies),)


def launch_to_start(spec: MountSpec, mount: Mount, *, is_frozen: bool = False) -> Launch:
    """What a start runs: after a rollback what last worked, until the catalog asks for something else.

    Frozen by a hold: what last worked, whatever the catalog asks for, if anything did.
    """
    if mount.good is not None and (is_frozen or mount.rolled_back_from == spec.launch):
        return mount.good
    return spec.launch
