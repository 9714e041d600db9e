"""Files that run, held open: a version that worked can come back though its path leads elsewhere by now.

Decided here: which files are held, and whether an open one is still what the catalog means by its SHA-256.
One that was replaced or deleted is, as the descriptor keeps it; one that was written to is not. When it is
run instead of what stands at its path is decided in `binaries.py`.
"""

import fcntl
import os
import resource
import stat
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from supervisor.domain.addresses import floor
from supervisor.domain.catalog import Identity, Launch
from supervisor.domain.legacy import HandedFile

_SHARE: Final = 2
"""At most one in so many of plugind's descriptors: the others are for what runs."""
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

Key = tuple[str, str]
Digest = Callable[[int, Identity], str]


class Held:
    """Open files by command and SHA-256, however many mounts run them. Called by several threads."""

    def __init__(self, handed: Iterable[HandedFile] = ()) -> None:
        self._files: dict[Key, tuple[int, ...]] = {
            (one.command, one.sha256): one.descriptors for one in handed
        }
        self._lock = threading.Lock()

    def has(self, launch: Launch) -> bool:
        """Whether nothing more is to be held for it; without a SHA-256 nobody knows which file it was."""
        return launch.sha256 is None or (launch.command, launch.sha256) in self._files

    def keep(self, launch: Launch, descriptor: int) -> None:
        """Hold what was opened for `launch`; where descriptors are scarce, do not."""
        try:
            copies = [os.dup(descriptor)]
        except OSError:
            copies = []
        self._add(launch, copies)

    def recall(self, launch: Launch, pid: int) -> None:
        """Hold what may be the file of a process that another plugind started: its path's, and what it runs.

        Which of them it is, is found out when it is needed.

        Source: proc(5), /proc/PID/exe.
        """
        if self.has(launch):
            return
        found: dict[tuple[int, int], int] = {}
        for path in (launch.command, f"/proc/{pid}/exe"):
            with suppress(OSError):
                descriptor = os.open(path, _READ)
                status = os.fstat(descriptor)
                if stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) not in found:
                    found[status.st_dev, status.st_ino] = descriptor
                else:
                    os.close(descriptor)
        if found:
            self._add(launch, list(found.values()))

    def find(
        self, launch: Launch, digest: Digest, identity_of: Callable[[os.stat_result], Identity]
    ) -> int | None:
        """The descriptor of the file that `launch` means, or None."""
        if launch.sha256 is None:
            return None
        with self._lock:
            for descriptor in self._files.get((launch.command, launch.sha256), ()):
                identity = identity_of(os.fstat(descriptor))
                if digest(descriptor, identity) == launch.sha256:
                    return descriptor
        return None

    def leave(self) -> tuple[HandedFile, ...]:
        """All of them, for the next plugind in this process; this one has them no more."""
        with self._lock:
            files, self._files = self._files, {}
        return tuple(HandedFile(*key, descriptors) for key, descriptors in files.items() if descriptors)

    def keep_only(self, launches: Iterable[Launch]) -> None:
        """Let go of the files of all other launches."""
        wanted = {(launch.command, launch.sha256) for launch in launches}
        with self._lock:
            for key in self._files.keys() - wanted:
                for descriptor in self._files.pop(key):
                    os.close(descriptor)

    def _add(self, launch: Launch, descriptors: list[int]) -> None:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE
        with self._lock:
            kept = [each for each in descriptors if each < most and not self.has(launch)]
            for descriptor in descriptors:
                if descriptor not in kept:
                    os.close(descriptor)
            if launch.sha256 is not None:
                # also where there is none: it was tried, and costs no start any more
                self._files.setdefault((launch.command, launch.sha256), tuple(map(_apart, kept)))


def _apart(descriptor: int) -> int:
    """The same at a number that is no listener's in a plugin, which may be run from it by that number."""
    lowest = floor(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    if descriptor >= lowest:
        return descriptor
    try:
        moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)
    except OSError:  # there is none: better a low one than none
        return descriptor
    os.close(descriptor)
    return moved
