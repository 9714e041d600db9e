"""A socket out of another process: the one way back to a listener whose plugind was killed.

Source: pidfd_getfd(2), Linux 5.6; it asks for the right to trace that process (ptrace(2), Yama).
"""

import ctypes
import os
from collections.abc import Iterable
from typing import Final

from supervisor.domain.addresses import FIRST, parsed
from supervisor.domain.catalog import Listener
from supervisor.domain.errors import Cannot, SpawnRefused
from supervisor.host.sockets import is_what, out_of_the_way

_PIDFD_GETFD: Final = 438
"""Its number on every architecture: it is younger than their differences."""
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def borrowed(pids: Iterable[int], listener: Listener, inode: int | None, place: int) -> int:
    """The socket of `listener`, which one of these processes has.

    It is known by its inode; where that was not recorded, by its `place` among those that were handed.

    Raises:
        Cannot: None has it, or plugind may not take it.
    """
    refused = ""
    for pid in pids:
        try:
            number = FIRST + place if inode is None else _number_of(pid, inode)
            if number is None:
                continue
            found = _taken(pid, number)
        except OSError as error:
            refused = refused or f"pid {pid} does not allow it ({error.strerror})"
            continue
        if is_what(found, listener.kind, parsed(listener.address)):
            return found
        os.close(found)
    raise Cannot(refused or "no process of its instance has that socket any more")


def inode_of(descriptor: int) -> int:
    """What a socket is known by. Raises SpawnRefused: the kernel has no memory to say; a later try may do."""
    try:
        return os.fstat(descriptor).st_ino
    except OSError as error:
        raise SpawnRefused(f"cannot look at a socket: {error.strerror}", transient=True) from error


def _number_of(pid: int, inode: int) -> int | None:
    """Source: proc(5) /proc/PID/fd."""
    folder = f"/proc/{pid:d}/fd"
    for name in os.listdir(folder):  # noqa: PTH208 - names
        try:
            if os.readlink(f"{folder}/{name}") == f"socket:[{inode}]":  # noqa: PTH115 - a name
                return int(name)
        except FileNotFoundError:  # closed meanwhile
            continue
    return None


def _taken(pid: int, number: int) -> int:
    pidfd = os.pidfd_open(pid)
    try:
        found = _LIBC.syscall(_PIDFD_GETFD, pidfd, number, 0)
        if found < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(pidfd)
    try:
        return out_of_the_way(found)
    finally:
        os.close(found)
