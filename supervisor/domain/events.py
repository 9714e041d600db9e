"""What can happen to a mount (events) and what is done about it (actions), as plain values.

An event of an instance carries its generation: one of an earlier generation changes nothing.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from supervisor.domain.catalog import Launch, Policies
from supervisor.domain.memory import StoppedBy
from supervisor.domain.names import InstanceId, Seconds

Timer = Literal["ready", "stop", "backoff", "watch"]


@dataclass(frozen=True, slots=True)
class Instance:
    """One run of a mount's process, with everything it forks."""

    id: InstanceId
    generation: int
    launch: Launch


@dataclass(frozen=True, slots=True)
class Exit:
    """How a main process ended. Both None: it was not our child, so the status is unknown."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        if self.signal is not None:
            return f"signal {self.signal}"
        return f"exit {self.code}" if self.code is not None else "exit status unknown"


# --- events: commands


@dataclass(frozen=True, slots=True)
class Start:
    """Run `launch` unless something runs already; ends a stop by hand and a crash loop."""

    launch: Launch
    command: str = ""


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop, and where `by` is somebody, stay stopped until a Start."""

    command: str = ""
    by: StoppedBy | None = None


@dataclass(frozen=True, slots=True)
class Reload:
    """Replace what runs by a new instance of `launch`."""

    launch: Launch
    command: str = ""


@dataclass(frozen=True, slots=True)
class Configure:
    """Other settings than those a process is made of: in effect from now on."""

    policies: Policies


# --- events: facts


@dataclass(frozen=True, slots=True)
class Spawned:
    generation: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """No process came to be; `transient` means that it is the machine's fault, not the version's."""

    generation: int
    reason: str
    transient: bool = False


@dataclass(frozen=True, slots=True)
class BecameReady:
    generation: int


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """The ready probe can never succeed any more, or liveness failed too often."""

    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The main process is dead; others of its tree may live."""

    generation: int
    reason: str
    success: bool = False


@dataclass(frozen=True, slots=True)
class TreeGone:
    """No process of the instance is left."""

    generation: int


@dataclass(frozen=True, slots=True)
class TreeSurvived:
    """Members of the instance could not be killed."""

    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class StopCommandDone:
    generation: int


@dataclass(frozen=True, slots=True)
class TimerFired:
    """`detail` is what the engine can say of it: why an instance is not ready."""

    name: Timer
    generation: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Adopted:
    """A former daemon's instance was found alive."""

    instance: Instance
    ready: bool


Event = (
    Start
    | Stop
    | Reload
    | Configure
    | Spawned
    | SpawnFailed
    | BecameReady
    | ProbeFailed
    | Exited
    | TreeGone
    | TreeSurvived
    | StopCommandDone
    | TimerFired
    | Adopted
)
EVENTS: tuple[type[Event], ...] = (
    Start,
    Stop,
    Reload,
    Configure,
    Spawned,
    SpawnFailed,
    BecameReady,
    ProbeFailed,
    Exited,
    TreeGone,
    TreeSurvived,
    StopCommandDone,
    TimerFired,
    Adopted,
)


# --- actions


@dataclass(frozen=True, slots=True)
class Spawn:
    instance: Instance


@dataclass(frozen=True, slots=True)
class SignalMain:
    generation: int
    signal: int


@dataclass(frozen=True, slots=True)
class RunStopCommand:
    generation: int
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KillTree:
    """Kill what is left of the instance after `grace` seconds and say when none is left."""

    generation: int
    grace: Seconds = 0.0


@dataclass(frozen=True, slots=True)
class SetTimer:
    name: Timer
    generation: int
    when: Seconds


@dataclass(frozen=True, slots=True)
class ClearTimer:
    name: Timer
    generation: int


class Outcome(StrEnum):
    DONE = "done"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Answer:
    """How the commands of these ids ended; `amends` an answer that was given before."""

    commands: tuple[str, ...]
    outcome: Outcome
    reason: str | None = None
    old: Instance | None = None
    new: Instance | None = None
    down: Seconds | None = None
    amends: bool = False
    failed: Instance | None = None
    """The instance whose last log lines say more."""


Action = Spawn | SignalMain | RunStopCommand | KillTree | SetTimer | ClearTimer | Answer
