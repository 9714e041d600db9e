"""One mount's FIFO: where a plugin's stdout and stderr go, and what takes the bytes out again.

Both sides open it read-write, so neither the plugin nor plugind ever sees an end of file or a broken pipe:
the daemon may die, and the next one opens the same FIFO and goes on. Where the bytes go is decided in
`logfile.py`, when in `logpump.py`.
"""

import ctypes
import errno
import fcntl
import os
import stat
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Final

SMALL: Final = 64 << 10
"""What a FIFO holds at first (pipe(7)); buffers beyond that are scarce for a normal user."""
LARGE: Final = 1 << 20

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.tee.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint)
_LIBC.tee.restype = ctypes.c_ssize_t


class Scratch:
    """A pipe into which bytes are copied to look at them (tee(2)). Empty between two calls."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def empty(self) -> None:
        with suppress(OSError):
            while os.read(self.out, SMALL):
                pass

    def close(self) -> None:
        os.close(self.out)
        os.close(self.into)


class Fifo:
    """An open FIFO. Plugins open it by its `door`."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.taken = 0
        """Bytes taken out so far."""
        self.capacity = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
        self._is_taking = False

    @classmethod
    def opened(cls, path: Path) -> "Fifo":
        """The FIFO at `path`: the one a former plugind left, or else a new one in place of whatever is there.

        Raises:
            OSError: Neither is possible.
        """
        name = str(path)
        for _ in range(8):  # each failure but the first is a race with someone who changes the folder
            try:
                os.mkfifo(name, 0o600)
            except FileExistsError:
                with suppress(FileNotFoundError):
                    if not _is_ours(os.lstat(name)):
                        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
                        continue
            except FileNotFoundError:
                for folder in (path.parent.parent, path.parent):
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                continue
            with suppress(FileNotFoundError):
                fd = os.open(name, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    status = os.fstat(fd)
                    if _is_ours(status):
                        if status.st_mode & 0o777 != 0o600:  # noqa: PLR2004 - octal says it
                            os.fchmod(fd, 0o600)
                        return cls(path, fd)
                except BaseException:
                    os.close(fd)
                    raise
                os.close(fd)
        raise FileExistsError(f"something keeps replacing {path}")

    @property
    def door(self) -> str:
        """What a child opens as its output, by itself: an open file description that no instance has had yet.

        A plugin that sets O_NONBLOCK on its stdout (node does) sets it for all who share the description: the
        next instance would get EAGAIN from its first print.
        """
        return f"/proc/self/fd/{self.fd}"

    def waiting(self) -> int:
        """How many bytes are in it."""
        count = fcntl.ioctl(self.fd, termios.FIONREAD, b"\0\0\0\0")
        return int.from_bytes(count, sys.byteorder)

    def position(self) -> int:
        """Bytes ever written to it, a little less while some are on the move. For any thread."""
        position = self.taken
        for _ in range(8):
            before = self.taken
            position = before + self.waiting()
            if not self._is_taking and self.taken == before:
                break
        return position

    def move(self, to: int, most: int, scratch: Scratch) -> int:
        """Move bytes to the end of the file `to` inside the kernel: no kill can lose them half way.

        A file system without splice gets a copy, written before it is taken out: a kill may repeat it there.

        Raises:
            OSError: The file takes none; they are still here.

        Source: splice(2).
        """
        self._is_taking = True
        try:
            count = os.splice(self.fd, to, most, flags=os.SPLICE_F_NONBLOCK)
            self.taken += count
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            count = os.write(to, self.peek(scratch, min(most, SMALL)))
            os.read(self.fd, count)
            self.taken += count
        finally:
            self._is_taking = False
        return count

    def read(self, most: int) -> bytes:
        """Take bytes out into memory, where a kill loses them: only when there is no file to move them to."""
        self._is_taking = True
        try:
            data = os.read(self.fd, most)
            self.taken += len(data)
        except BlockingIOError:
            return b""
        finally:
            self._is_taking = False
        return data

    def peek(self, scratch: Scratch, most: int) -> bytes:
        """Up to `most` bytes from the front; they stay where they are.

        Raises:
            OSError: tee(2) refused.
        """
        count = _LIBC.tee(self.fd, scratch.into, most, os.SPLICE_F_NONBLOCK)
        if count < 0:
            number = ctypes.get_errno()
            if number in {errno.EAGAIN, errno.EINTR}:
                return b""
            raise OSError(number, os.strerror(number))
        seen = b""
        while len(seen) < count:
            try:
                seen += os.read(scratch.out, count - len(seen))
            except OSError:
                scratch.empty()  # or the next look would see these first
                raise
        return seen

    def resize(self, size: int) -> None:
        """Let it hold `size` bytes, if the kernel lets us: a normal user may own only so many (EPERM)."""
        with suppress(OSError):  # EBUSY: more than `size` is in it
            self.capacity = fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, size)

    def unlink(self) -> None:
        """Remove its name, unless that is another file's by now."""
        with suppress(OSError):
            named, held = os.lstat(self.path), os.fstat(self.fd)
            if (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino):
                self.path.unlink()

    def close(self) -> None:
        os.close(self.fd)


def _is_ours(status: os.stat_result) -> bool:
    return stat.S_ISFIFO(status.st_mode) and status.st_uid == os.geteuid()
