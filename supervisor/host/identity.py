"""Who a process is, in terms that survive this daemon: boot id, pid, raw start ticks.

psutil's `create_time` is computed with the wall clock and moves with it; the ticks of
/proc/PID/stat do not. Whether a process belongs to an instance is decided in `trees.py`.
"""

import errno
import os
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

from supervisor.domain.errors import Cannot

SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
PASSING: Final = SCARCE | {errno.EAGAIN, errno.ENOSPC, errno.EDQUOT}
"""What is the machine's fault, and may be over at another moment."""
_STATE: Final = 0
_CPU: Final = slice(11, 13)
_START: Final = 19
_MEMORY: Final = 21
_WAIT_STATUS: Final = 49
"""Places after the last `)` of /proc/PID/stat: fields 3 (state), 14 and 15 (utime, stime), 22 (starttime),
24 (rss) and 52 (exit_code)."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Scarce(Cannot):
    """A descriptor or memory was missing just now: nothing was learnt."""


def is_scarcity(error: BaseException | None) -> bool:
    """Whether what failed may work at another moment: a descriptor, memory or room on a disk was missing."""
    while error is not None:
        if isinstance(error, Scarce) or (isinstance(error, OSError) and error.errno in PASSING):
            return True
        error = error.__cause__
    return False


@cache
def current_boot_id() -> str:
    """The id that the kernel made up at this boot.

    Raises:
        Cannot: /proc is not there; nothing could be told apart from an earlier boot's.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError as error:
        raise Cannot(f"cannot read the boot id: {error.strerror}; plugind needs /proc") from error


def start_ticks(pid: int) -> int | None:
    """When `pid` started, in clock ticks since the boot; None when there is no such process.

    A zombie still has its start: it is the same process until it is reaped.
    """
    fields = _stat(pid)
    return None if fields is None else int(fields[_START])


def started_at(ticks: int) -> float:
    """The wall-clock time, for people, of a start in clock ticks since the boot."""
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / _TICKS
    return datetime.now(UTC).timestamp() - age


def is_alive(pid: int) -> bool:
    """Whether `pid` can still do anything: a zombie cannot."""
    fields = _stat(pid)
    return fields is not None and fields[_STATE] not in {b"Z", b"X", b"x"}


def usage_of(pid: int) -> tuple[float, int] | None:
    """CPU seconds and resident bytes of a process; None when there is none."""
    fields = _stat(pid)
    if fields is None or len(fields) <= _MEMORY:
        return None
    return sum(map(int, fields[_CPU])) / _TICKS, int(fields[_MEMORY]) * _PAGE


def wait_status(pid: int) -> int:
    """The status that waitpid would tell of a zombie; 0 also where it is hidden from us."""
    try:
        fields = _stat(pid)
    except Scarce:
        return 0
    return 0 if fields is None or len(fields) <= _WAIT_STATUS else int(fields[_WAIT_STATUS])


def name_of(pid: int) -> str:
    """The name of a program as the kernel has it, for people."""
    try:
        return Path(f"/proc/{pid:d}/comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return "gone"


def uid_of(pid: int) -> int:
    """Whom a process runs as; nobody (-1) when there is none."""
    try:
        return os.stat(f"/proc/{pid:d}").st_uid  # noqa: PTH116 - no file of anybody's
    except OSError:
        return -1


def children_of(pid: int) -> list[int]:
    """The children of every thread of `pid`; none if it is gone.

    Raises:
        Scarce: No descriptor is left.

    Source: proc(5) /proc/PID/task/TID/children.
    """
    try:
        threads = os.listdir(f"/proc/{pid:d}/task")  # noqa: PTH208 - names, on the path of every kill
    except OSError as error:
        _refuse_scarcity(pid, error)
        return []
    return [int(child) for thread in threads for child in children_of_thread(pid, thread)]


def children_of_thread(pid: int, thread: int | str) -> list[bytes]:
    """The children that one thread started, or that came to it as orphans: pids as text, as they stand there.

    Raises:
        Scarce: No descriptor is left.
    """
    try:
        descriptor = os.open(f"/proc/{pid}/task/{thread}/children", os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts: list[bytes] = []
            while part := os.read(descriptor, 1 << 16):
                parts.append(part)
        finally:
            os.close(descriptor)
        return b"".join(parts).split()
    except OSError as error:
        _refuse_scarcity(pid, error)
        return []


def _refuse_scarcity(pid: int, error: OSError) -> None:
    """No children, as the process is gone; want of descriptors tells nothing about them."""
    if error.errno in SCARCE:
        raise Scarce(f"cannot read the children of {pid:d}: {error.strerror}") from error


def _stat(pid: int) -> list[bytes] | None:
    try:
        descriptor = os.open(f"/proc/{pid:d}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(descriptor, 4096)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, ProcessLookupError):  # the second: it ended between open and read
        return None
    except OSError as error:
        raise Scarce(f"cannot read /proc/{pid:d}/stat: {error.strerror}") from error
    # the name stands in parentheses and may hold any byte, parentheses and newlines included
    fields = text[text.rfind(b")") + 1 :].split()
    return fields if len(fields) > _START else None


def is_stopped(pid: int) -> bool:
    """Whether a signal or a tracer has stopped it; False where that cannot be read just now."""
    try:
        fields = _stat(pid)
    except Scarce:
        return False
    return fields is not None and fields[_STATE] in {b"T", b"t"}


def is_child(pid: int) -> bool:
    """Whether it is a child of this process. Source: waitid(2)."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
