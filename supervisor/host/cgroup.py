"""One cgroup (v2): who is in it, the end of all of them, and when it is empty.

Which cgroups there are, and for whom, is decided in `cgroups.py`.
"""

import asyncio
import errno
import os
import select
from contextlib import suppress
from typing import Final

from supervisor.domain.errors import Cannot, TreeSurvived
from supervisor.domain.names import Seconds
from supervisor.host.identity import SCARCE, Scarce

_GONE: Final = frozenset({errno.ENOENT, errno.ENODEV})
_ALONE: Final = 2
"""Links of a folder without sub-folders."""


class Cgroup:
    """A folder of the cgroup file system.

    Source: cgroups(7); Documentation/admin-guide/cgroup-v2.rst for cgroup.kill and cgroup.events.
    """

    __slots__ = ("_events", "is_limited", "path")

    def __init__(self, path: str, *, is_limited: bool = False) -> None:
        self.path = path
        self.is_limited = is_limited
        """It has limits: what runs in it must be in it from its first instruction on."""
        self._events = b""
        """What cgroup.events said when it was last read."""

    def enter(self, pid: int) -> None:
        """Move a process here; nothing if it is dead. Raises OSError."""
        with suppress(ProcessLookupError):
            write(f"{self.path}/cgroup.procs", b"%d" % pid)

    def is_populated(self) -> bool:
        """Whether a living process is in it or below it; zombies are none.

        Raises:
            Scarce: No descriptor is left.
        """
        self._events = read(f"{self.path}/cgroup.events")
        return b"populated 1" in self._events

    def is_clean(self) -> bool:
        """Whether it is as it was made, nothing below it and not frozen, where it was seen empty last."""
        try:
            links = os.stat(self.path).st_nlink  # noqa: PTH116 - on the path of every stop
        except OSError:
            return False
        return links == _ALONE and self._events == b"populated 0\nfrozen 0\n"

    def members(self) -> list[int]:
        """Pids of it and of everything below it.

        Raises:
            Scarce: No descriptor is left.
        """
        found: list[int] = []
        for folder in [self.path, *_below(self.path)]:
            found += map(int, read(f"{folder}/cgroup.procs").split())
        return found

    def kill(self) -> bool:
        """Send SIGKILL to everything in it, also to what is being forked; False where the kernel cannot."""
        try:
            write(f"{self.path}/cgroup.kill", b"1")
        except OSError as error:
            if error.errno in SCARCE:
                raise Scarce(f"cannot kill {self.path}: {error.strerror}") from error
            return error.errno in _GONE and not os.path.isdir(self.path)  # noqa: PTH112 - rarely
        return True

    async def emptied(self, seconds: Seconds) -> bool:
        """Wait until no living process is left in it, at most `seconds`; whether there is none.

        Raises:
            Scarce: No descriptor is left, or no memory or watch.

        Source: cgroup.events wakes a poll for POLLPRI. It always is readable, so that only an epoll of its
        own, which the loop can wait for, tells one from the other.
        """
        loop = asyncio.get_running_loop()
        empty: asyncio.Future[bool] = loop.create_future()
        descriptor, epoll = _watched(f"{self.path}/cgroup.events")
        if descriptor < 0 or epoll is None:
            return True

        def look(*, is_late: bool = False) -> None:
            try:
                is_empty = b"populated 0" in os.pread(descriptor, 4096, 0)
            except OSError:  # removed
                is_empty = True
            if (is_empty or is_late) and not empty.done():
                empty.set_result(is_empty)

        timer = loop.call_later(seconds, lambda: look(is_late=True))
        try:
            loop.add_reader(epoll.fileno(), look)
            look()
            return await empty
        except OSError as error:
            raise Scarce(f"cannot watch {self.path}: {error.strerror}") from error
        finally:
            loop.remove_reader(epoll.fileno())
            timer.cancel()
            epoll.close()
            os.close(descriptor)

    async def end(self, patience: Seconds) -> bool:
        """Kill all that is in it, and return when it is empty; whether there was anybody.

        Raises:
            TreeSurvived: Somebody did not die of SIGKILL; names the pids.
        """
        if not self.is_populated():
            return False
        if not self.kill():
            raise Cannot(f"cannot kill what is in {self.path}: this kernel has no cgroup.kill")
        if not await self.emptied(patience):
            raise TreeSurvived(self.members())
        return True

    def remove(self) -> bool:
        """Remove it and everything below it; whether it is gone. Somebody in it keeps it."""
        try:
            folders = [*reversed(_below(self.path)), self.path]
        except Scarce:
            return False
        for folder in folders:
            try:
                os.rmdir(folder)  # noqa: PTH106 - a name, and no file is in it
            except OSError as error:
                if error.errno not in _GONE:
                    return False
        return True


def _watched(path: str) -> "tuple[int, select.epoll | None]":
    descriptor = -1
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        epoll = select.epoll()
        epoll.register(descriptor, select.EPOLLPRI)
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        if error.errno in SCARCE:
            raise Scarce(f"cannot watch {path}: {error.strerror}") from error
        return -1, None
    return descriptor, epoll


def _below(path: str) -> list[str]:
    """Every cgroup below one, those above first."""
    found: list[str] = []
    try:
        with os.scandir(path) as entries:
            names = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno in SCARCE:
            raise Scarce(f"cannot read {path}: {error.strerror}") from error
        return []
    for name in names:
        found += [name, *_below(name)]
    return found


def read(path: str) -> bytes:
    """What a file of a cgroup says; nothing if the cgroup is gone.

    Raises:
        Scarce: No descriptor is left.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in SCARCE:
            raise Scarce(f"cannot read {path}: {error.strerror}") from error
        return b""
    try:
        text = b""
        while part := os.read(descriptor, 65536):
            text += part
    except OSError:  # removed meanwhile, or threaded: its members are told by the one above
        return b""
    else:
        return text
    finally:
        os.close(descriptor)


def write(path: str, text: bytes) -> None:
    """Write what a file of a cgroup takes at once. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text)
    finally:
        os.close(descriptor)


def limiting(cgroup: Cgroup | None) -> str:
    """Where a process must put itself before its first instruction."""
    return cgroup.path if cgroup is not None and cgroup.is_limited else ""
