"""One mount's log file: takes the bytes of a FIFO, and is rotated by size at the end of a line.

Decided here: how much goes into the present file and when the next one begins. That the file cannot be
written is the caller's to handle (`logcapture.py`): every OSError means that the rest is still in the FIFO.
"""

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from structlog.typing import FilteringBoundLogger

from supervisor.domain.catalog import LogPolicy
from supervisor.domain.names import Seconds
from supervisor.host.logfifo import SMALL, Fifo, Scratch
from supervisor.host.logindex import Index
from supervisor.host.wholefile import is_there

LONGEST_LINE: Final = 1 << 20
"""A line that goes on for longer than this after a file is full is split."""
CHECK_EVERY: Final[Seconds] = 1.0
_MODE: Final = 0o640
_LARGE: Final = 1 << 20
_EARLIER: Final = 8


def cut(seen: bytes, room: int, *, must_begin: bool) -> tuple[int, bool]:
    """How many of the bytes `seen` go into a file with `room` left, and whether it is full then.

    A line goes to one file. `must_begin`: the file holds the begin of the line already (or nothing at all),
    so the line's end goes there too, up to `LONGEST_LINE` beyond its size.
    """
    if len(seen) <= room:
        return len(seen), False
    fits = seen.rfind(b"\n", 0, max(room, 0)) + 1
    if fits:
        return fits, True
    if not must_begin:
        return 0, True
    most = max(room + LONGEST_LINE, 0)
    line = seen.find(b"\n", 0, most) + 1
    if line:
        return line, True
    return (most, True) if len(seen) >= most else (len(seen), False)


class LogFile:
    """The file at `path` and its predecessors `.1` to `.keep`."""

    def __init__(self, path: Path, policy: LogPolicy, index: Index, log: FilteringBoundLogger) -> None:
        self.path = path
        self.policy = policy
        self.size = 0
        self.check_every = CHECK_EVERY
        self._index = index
        self._log = log
        self._fd = -1
        self._inode = 0
        self._earlier: list[tuple[int, int]] = []  # not a deque, of which an empty one has 760 bytes
        self._read_by = 0
        """So much was in the file when it was last seen to have a name."""
        self._taken_at: Seconds = 0.0
        self._next_check: Seconds = 0.0
        self._next_rotation: Seconds = 0.0

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    def ready(self, now: Seconds) -> None:
        """Make sure that what is written goes to the end of the file that has the name `path`.

        A file that was removed, renamed or replaced is noticed within `check_every`.

        Raises:
            OSError: There is no such file and none can be made.
        """
        if not self.is_open:
            self._open()
        elif not os.fstat(self._fd).st_nlink:
            self._log.warning("log_file_vanished", path=str(self.path))
            self._carry_over(now)
        elif now >= self._next_check and not self._is_named():
            self._log.warning("log_file_vanished", path=str(self.path))
            self._replace()
        if now >= self._next_check:
            self._next_check = now + self.check_every
        # not O_APPEND, which splice refuses: someone may have emptied it meanwhile
        end = os.lseek(self._fd, 0, os.SEEK_END)
        if end < self.size:
            self._index.file_began(self._inode)
        self.size = self._read_by = end

    def take(self, fifo: Fifo, scratch: Scratch, most: int, now: Seconds) -> int:
        """Move at most `most` bytes from the FIFO to the file, or to several; fewer if it runs empty.

        Raises:
            OSError: The file takes no more; what was not moved is still in the FIFO.
        """
        self.ready(now)
        self._taken_at = now
        moved = 0
        while moved < most:
            room = self.policy.max_size - self.size if now >= self._next_rotation else SMALL + most
            if room > SMALL:
                asked, is_full = min(most - moved, room - SMALL), False
            else:
                seen = fifo.peek(scratch, min(most - moved, SMALL))
                if not seen:
                    break
                asked, is_full = cut(seen, room, must_begin=self._is_within_line() or not self.size)
            count = fifo.move(self._fd, asked, scratch) if asked else 0
            self.size += count
            moved += count
            if count < asked:
                break
            if is_full:
                self._rotate(now)
        return moved

    def append(self, data: bytes, now: Seconds) -> int:
        """Write as much of `data` as the file takes, rotating as `take` does.

        Raises:
            OSError: It takes nothing.
        """
        self.ready(now)
        written = 0
        while written < len(data):
            room = self.policy.max_size - self.size if now >= self._next_rotation else len(data)
            rest = data[written:]
            asked, is_full = cut(rest, room, must_begin=self._is_within_line() or not self.size)
            try:
                count = os.write(self._fd, rest[:asked]) if asked else 0
            except OSError:
                if written:
                    break
                raise
            self.size += count
            written += count
            if count < asked:
                break
            if is_full:
                try:
                    self._rotate(now)
                except OSError:  # what is written is written: told as that, it would be written again
                    break
        return written

    def ends_within_line(self) -> bool:
        return self.is_open and self._is_within_line()

    def locate(self, behind: int) -> tuple[int, int]:
        """Generation and offset of the place `behind` bytes before the end."""
        generation, offset = self._index.generation, self.size - behind
        for earlier, size in reversed(self._earlier):
            if offset >= 0:
                break
            generation, offset = earlier, size + offset
        return generation, max(offset, 0)

    def close(self) -> None:
        if self.is_open:
            os.close(self._fd)
            self._fd = -1

    def _is_within_line(self) -> bool:
        return self.size > 0 and os.pread(self._fd, 1, self.size - 1) != b"\n"

    def _is_named(self) -> bool:
        try:
            status = os.lstat(self.path)
        except FileNotFoundError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_ino == self._inode

    def _open(self) -> None:
        """Open or make the file. A link, FIFO or socket in its place is removed, not followed or awaited."""
        for folder in (self.path.parent.parent, self.path.parent):
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        create = os.O_CREAT
        try:
            status = os.lstat(self.path)
        except FileNotFoundError:
            create |= os.O_EXCL
        else:
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(f"{self.path} is a directory")
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                self._log.warning(
                    "log_file_replaced", path=str(self.path), mode=stat.filemode(status.st_mode)
                )
                self.path.unlink()
                create |= os.O_EXCL
        fd = os.open(self.path, os.O_RDWR | create | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, _MODE)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise FileExistsError(f"something else was put at {self.path}")
            if create & os.O_EXCL:
                os.fchmod(fd, _MODE)  # whatever the umask is
        except OSError:
            os.close(fd)
            raise
        self._fd, self._inode, self.size = fd, status.st_ino, status.st_size
        if self._index.files.get(self._index.generation) != status.st_ino:
            self._index.file_began(status.st_ino)

    def _rotate(self, now: Seconds) -> None:
        """Begin the next file; where names cannot be changed, go on with this one for a while.

        Raises:
            OSError: The old one has its new name, but there is no new one.
        """
        try:
            self._shift()
        except OSError as error:
            self._log.warning("log_rotation_failed", path=str(self.path), reason=str(error))
            self._next_rotation = now + 10 * CHECK_EVERY
            return
        self._replace()

    def _carry_over(self, now: Seconds) -> None:
        """Begin anew after a removal; what nobody had time to read in the old file goes to the new one."""
        is_new = now - self._taken_at < CHECK_EVERY
        unread = os.pread(self._fd, max(self.size - self._read_by, 0), self._read_by) if is_new else b""
        self._replace()
        os.write(self._fd, unread)

    def _replace(self) -> None:
        self._earlier = [*self._earlier[1 - _EARLIER :], (self._index.generation, self.size)]
        self.close()
        self._open()

    def _shift(self) -> None:
        """Count up the rotated files, as far as they are contiguous: a kill in between leaves only a gap."""
        keep = self.policy.keep
        if keep == 0:
            self.path.unlink(missing_ok=True)
            return
        free = next((number for number in range(1, keep) if not is_there(self.rotated(number))), keep)
        with _let_go_elsewhere(self.rotated(free)):
            for number in range(free, 1, -1):
                self.rotated(number - 1).rename(self.rotated(number))
            self.path.rename(self.rotated(1))
        surplus = keep + 1
        while is_there(self.rotated(surplus)):  # `keep` was lowered
            self.rotated(surplus).unlink()
            surplus += 1

    def rotated(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


@contextmanager
def _let_go_elsewhere(path: Path) -> Iterator[None]:
    """Have a large file at `path` that loses its name in the body freed by another thread.

    To free 16 MiB takes milliseconds, in which a plugin that floods would have to wait.
    """
    try:
        is_large = os.lstat(path).st_size >= _LARGE
        held = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC) if is_large else -1
    except OSError:
        held = -1
    try:
        yield
    finally:
        if held >= 0:
            try:
                threading.Thread(target=os.close, args=(held,), daemon=True).start()
            except RuntimeError:  # no thread is to be had
                os.close(held)
