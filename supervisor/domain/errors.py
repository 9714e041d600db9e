"""The exception tree. What HTTP and exit status each means stands in `wire.py`.

A message reads "cannot <verb> <object>: <why>", with the remedy if there is one. A mount that
did not come up is a row of a report, not an exception.
"""

from collections.abc import Iterable
from dataclasses import dataclass


class PlugindError(Exception):
    """Anything that is told to whoever asked, without a traceback."""


class Refused(PlugindError):
    """Asked for something that is not done; no process was touched."""


class BadRequest(Refused):
    """The request itself is wrong."""


class NotAllowed(Refused):
    """No rule lets the caller do this. Says nothing about what exists."""

    def __init__(self, message: str = "permission denied") -> None:
        super().__init__(message)


class NotFound(Refused):
    """The path or the thing does not exist. An empty message is Vault's empty list of errors."""


class WrongMethod(Refused):
    """The path exists, the verb does not."""


class TooLarge(Refused):
    """The body is over the limit."""


class Conflict(Refused):
    """What the request builds on changed meanwhile."""


class Held(Refused):
    """A hold keeps what it asks for as it is."""


class Unavailable(PlugindError):
    """Not now: shutting down, or a part that is needed is away."""


class AlreadyRunning(Unavailable):
    """Another daemon has the control socket, or one of our folders."""

    def __init__(self, pid: int | None, path: str) -> None:
        self.pid = pid
        super().__init__(f"cannot take {path}: plugind is already running there (pid {pid or 'unknown'})")


class Cannot(PlugindError):
    """An effect that the kernel refused: a spawn, a signal, a write. The engine turns it into an event."""


class SpawnRefused(Cannot):
    """No process came to be. `transient` says that another moment may do (EAGAIN, EMFILE, ENOMEM)."""

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class TreeSurvived(Cannot):
    """Members of an instance could not be killed."""

    def __init__(self, pids: Iterable[int], *, refused: bool = False) -> None:
        self.pids = tuple(sorted(pids))
        why = "it belongs to another user" if refused else "still there after SIGKILL"
        super().__init__(f"cannot kill {', '.join(f'pid {pid}' for pid in self.pids)}: {why}")


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing that is wrong in a file. Lines and columns count from 1; 0 is the whole file."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        if not self.line:
            return f"{self.file}: {self.message}"
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class Faulty(Refused):
    """Files that are not fit; all faults at once."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(sorted(set(faults)))
        super().__init__("\n".join(map(str, self.faults)))


class CatalogInvalid(Faulty):
    """The catalog or plugind.yaml cannot come into force."""


class TargetUnfit(Faulty):
    """A target of a reload could not be started as it is on disk now."""
