"""What can happen to a mount (events) and what is done about it (actions), as plain values.

An event of an instance carries its generation: one of an earlier generation changes nothing.
"""

from enum import StrEnum
from typing import Final, Literal

import msgspec

from supervisor.domain.catalog import Launch, Policies
from supervisor.domain.memory import StoppedBy
from supervisor.domain.names import InstanceId, Seconds

Timer = Literal["ready", "stop", "backoff", "watch"]


class Instance(msgspec.Struct, frozen=True):
    """One run of a mount's process, with everything it forks."""

    id: InstanceId
    generation: int
    launch: Launch


_SIGNALS: Final = {
    1: "SIGHUP",
    2: "SIGINT",
    3: "SIGQUIT",
    4: "SIGILL",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    11: "SIGSEGV",
    13: "SIGPIPE",
    14: "SIGALRM",
    15: "SIGTERM",
    24: "SIGXCPU",
    25: "SIGXFSZ",
    31: "SIGSYS",
}
"""What ends processes, as most machines number it. Source: signal(7)."""


class Exit(msgspec.Struct, frozen=True):
    """How a main process ended. Both None: it was not our child, so the status is unknown."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        if self.signal is not None:
            name = _SIGNALS.get(self.signal)
            return f"signal {self.signal} ({name})" if name else f"signal {self.signal}"
        return f"exit {self.code}" if self.code is not None else "exit status unknown"


# --- events: commands


class Start(msgspec.Struct, frozen=True):
    """Run `launch` unless something runs already; ends a stop by hand and a crash loop."""

    launch: Launch
    command: str = ""


class Stop(msgspec.Struct, frozen=True):
    """Stop, and where `by` is somebody, stay stopped until a Start; `why` if nobody stopped it by hand."""

    command: str = ""
    by: StoppedBy | None = None
    why: str = "plugind is stopping it"


class Reload(msgspec.Struct, frozen=True):
    """Replace what runs by a new instance of `launch`."""

    launch: Launch
    command: str = ""


class Configure(msgspec.Struct, frozen=True):
    """Other settings than those a process is made of: in effect from now on.

    With `launch` they are those of that launch: another one that runs, or comes back, keeps its own.
    """

    policies: Policies
    launch: Launch | None = None


# --- events: facts


class Spawned(msgspec.Struct, frozen=True):
    generation: int


class SpawnFailed(msgspec.Struct, frozen=True):
    """No process came to be; `transient` means that it is the machine's fault, not the version's."""

    generation: int
    reason: str
    transient: bool = False


class BecameReady(msgspec.Struct, frozen=True):
    generation: int


class ProbeFailed(msgspec.Struct, frozen=True):
    """The ready probe can never succeed any more, or liveness failed too often."""

    generation: int
    reason: str


class Exited(msgspec.Struct, frozen=True):
    """The main process is dead; others of its tree may live."""

    generation: int
    reason: str
    success: bool = False


class TreeGone(msgspec.Struct, frozen=True):
    """No process of the instance is left."""

    generation: int


class TreeSurvived(msgspec.Struct, frozen=True):
    """Members of the instance could not be killed."""

    generation: int
    reason: str


class StopCommandDone(msgspec.Struct, frozen=True):
    generation: int


class TimerFired(msgspec.Struct, frozen=True):
    """`detail` is what the engine can say of it: why an instance is not ready."""

    name: Timer
    generation: int
    detail: str = ""
    extended: Seconds | None = None
    """Until when the instance itself asked for patience."""


class Paced(msgspec.Struct, frozen=True):
    """The backoff is over, and too many restart at once: it waits for its turn."""

    generation: int
    reason: str


class Adopted(msgspec.Struct, frozen=True):
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
    | Paced
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
    Paced,
    Adopted,
)


# --- actions


class Spawn(msgspec.Struct, frozen=True):
    instance: Instance


class SignalMain(msgspec.Struct, frozen=True):
    generation: int
    signal: int


class RunStopCommand(msgspec.Struct, frozen=True):
    generation: int
    command: tuple[str, ...]


class KillTree(msgspec.Struct, frozen=True):
    """Kill what is left of the instance after `grace` seconds and say when none is left."""

    generation: int
    grace: Seconds = 0.0


class SetTimer(msgspec.Struct, frozen=True):
    name: Timer
    generation: int
    when: Seconds


class ClearTimer(msgspec.Struct, frozen=True):
    name: Timer
    generation: int


class TakeAsReady(msgspec.Struct, frozen=True):
    """Nobody can say any more whether it is: from now on it is treated so."""

    generation: int


class Outcome(StrEnum):
    DONE = "done"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    SKIPPED = "skipped"


class Answer(msgspec.Struct, frozen=True):
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


Action = Spawn | SignalMain | RunStopCommand | KillTree | SetTimer | ClearTimer | TakeAsReady | Answer
