"""A folder belongs to one plugind at a time: two with one runtime_dir would adopt each other's instances."""

import asyncio
import fcntl
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import structlog

from supervisor.domain.errors import AlreadyRunning
from supervisor.domain.names import Seconds
from supervisor.host.identity import is_alive
from supervisor.host.processes import moment

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
log = structlog.get_logger(__name__)
T = TypeVar("T")
PATIENCE: Final[Seconds] = 5.0


class Claim:
    """Held as long as this process lives; the kernel lets go of it at any death.

    Raises:
        AlreadyRunning: Another one has it.

    Source: flock(2), which needs no file to be written; proc(5) locks for who has it.
    """

    def __init__(self, folder: Path, held: int | None = None) -> None:
        """Claim it, or go on with the claim that the descriptor `held` is."""
        if held is not None:
            self._descriptor = held
            return
        self._descriptor = os.open(folder, _FOLDER)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = _owner(self._descriptor)
            self.close()
            raise AlreadyRunning(owner, str(folder)) from error
        except OSError:  # some network file systems lock no folders: then only the socket's lock is left
            return

    def release(self) -> int:
        """The descriptor that it is, for another plugind; this one has it no more."""
        return self._descriptor

    def close(self) -> None:
        os.close(self._descriptor)


def _owner(descriptor: int) -> int | None:
    inode = os.fstat(descriptor).st_ino
    try:
        found = re.search(
            rf"FLOCK .* (\d+) \w+:\w+:{inode} ", Path("/proc/locks").read_text(encoding="ascii")
        )
    except OSError:
        return None
    return int(found[1]) if found else None


async def taken(take: Callable[[], Awaitable[T]]) -> T:
    """What `take` gives, as soon as nothing is left of a plugind that was killed.

    A child that it was just starting holds its locks until the exec: a moment, and longer on a busy machine.

    Raises:
        AlreadyRunning: A plugind that lives has it.
    """
    deadline = asyncio.get_running_loop().time() + PATIENCE
    is_told = False
    while True:
        try:
            return await take()
        except AlreadyRunning as error:
            lives = error.pid is not None and is_alive(error.pid)
            if lives or asyncio.get_running_loop().time() >= deadline:
                raise
            if not is_told:
                log.warning("former_plugind_ending", reason=str(error))
            is_told = True
            await moment()
