"""Reading logs: the last lines, and what is written as it comes. Only files are read, in worker threads.

A reader cannot slow down a plugin or use up memory: it follows the files at its own pace, and is told when
they were rotated away before it came to them.
"""

import asyncio
import os
import stat
from collections.abc import AsyncGenerator
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Final

from supervisor.domain.errors import Unavailable
from supervisor.host.logcapture import Capture, Snapshot, Watcher
from supervisor.host.logfile import LONGEST_LINE

_BLOCK: Final = 64 << 10


class LogLagged(Unavailable):
    """A reader was slower than the rotation: lines between were never seen."""


def snapshot_of(paths: tuple[Path, ...]) -> Snapshot:
    """What there is on disk of a log that nobody writes."""
    files: list[tuple[int, int]] = []
    size = 0
    for number, path in enumerate(paths):
        try:
            status = os.lstat(path)
        except OSError:
            continue
        files.append((-number, status.st_ino))
        if number == 0:
            size = status.st_size
    return Snapshot(paths, tuple(reversed(files)), 0, size)


def read_back(snapshot: Snapshot, lines: int, most_bytes: int) -> bytes:
    """The end of a log, from a little before its last `lines` lines on, at most `most_bytes`."""
    pieces = [snapshot.unwritten[-most_bytes:]] if snapshot.end is None else []
    left = most_bytes - sum(map(len, pieces))
    newlines = sum(piece.count(b"\n") for piece in pieces)
    for generation, inode in reversed(snapshot.files):
        if snapshot.end is not None and generation > snapshot.end[0]:
            continue
        if newlines > lines or left <= 0 or (snapshot.begin is not None and generation < snapshot.begin[0]):
            break
        file = opened(snapshot.paths, inode)
        if file is None:
            break
        with file:
            high = snapshot.size if generation == snapshot.generation else os.fstat(file.fileno()).st_size
            if snapshot.end is not None and generation == snapshot.end[0]:
                high = min(high, snapshot.end[1])
            low = snapshot.begin[1] if snapshot.begin is not None and generation == snapshot.begin[0] else 0
            while high > low and left > 0 and newlines <= lines:
                size = min(_BLOCK, high - low, left)
                block = os.pread(file.fileno(), size, high - size)
                pieces.append(block)
                newlines += block.count(b"\n")
                high, left = high - size, left - size
    return b"".join(reversed(pieces))


def last(data: bytes, lines: int) -> list[bytes]:
    """The last lines of `data`, without their newlines; one that has not ended yet counts."""
    parts = data.split(b"\n")
    if not parts[-1]:
        parts.pop()
    return parts[-lines:] if lines > 0 else []


def _last_part(data: bytes, lines: int) -> bytes:
    """The last lines of `data` as they are; one that has not ended yet counts."""
    kept = last(data, lines)
    return b"\n".join(kept) + b"\n" * (bool(kept) and data.endswith(b"\n"))


def opened(paths: tuple[Path, ...], inode: int) -> FileIO | None:
    """The regular file with this inode, whichever name it has by now; None if it is gone."""
    for path in paths * 2:  # a rotation moves it to a later name: at worst past us, once
        try:
            file = FileIO(path, "rb", opener=_open)
        except OSError:
            continue
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode) and status.st_ino == inode:
            return file
        file.close()
    return None


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


class Cursor:
    """A place in a log that is being written. `read` runs in a worker thread, one at a time."""

    def __init__(self, capture: Capture, snapshot: Snapshot) -> None:
        self._capture = capture
        self._paths = snapshot.paths
        self._generation = snapshot.generation
        self._offset = snapshot.size
        self._file: FileIO | None = None

    def open(self) -> None:
        inode = self._capture.index.files.get(self._generation)
        self._file = None if inode is None else opened(self._paths, inode)

    def read(self) -> bytes:
        """What comes next, a bounded amount; nothing if there is nothing yet.

        Raises:
            LogLagged: The next file was rotated away.
        """
        while True:
            newest = self._capture.index.generation  # before the read: a finished file does not grow
            if self._file is not None:
                data = os.pread(self._file.fileno(), _BLOCK, self._offset)
                self._offset += len(data)
                if data:
                    return data
            if newest == self._generation:
                return b""
            self._advance()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _advance(self) -> None:
        self.close()
        self._generation += 1
        self._offset = 0
        self.open()
        if self._file is None:
            raise LogLagged(
                f"cannot follow the log of {self._capture.key}: the reader was too slow, its place is gone"
            )


async def follow(capture: Capture, snapshot: Snapshot, lines: int) -> AsyncGenerator[bytes, None]:
    """The last `lines` lines, then what is written, in pieces as they come: the bytes of the files.

    Ends when the mount's log is closed.

    Raises:
        LogLagged: The reader was too slow.
    """
    watcher = Watcher()
    cursor = Cursor(capture, snapshot)
    capture.watchers = (*capture.watchers, watcher)
    try:
        await asyncio.to_thread(cursor.open)
        written = replace(snapshot, unwritten=b"")  # the rest comes when the disk takes it
        text = await asyncio.to_thread(read_back, written, lines, LONGEST_LINE)
        if begin := _last_part(text, lines):
            yield begin
        while True:
            watcher.arm()
            is_last = capture.is_closed
            data = await asyncio.to_thread(cursor.read)
            if data:
                yield data  # not line by line: each piece takes its turn between two other requests
            elif is_last:
                return
            else:
                await watcher.wait()
    finally:
        capture.watchers = tuple(other for other in capture.watchers if other is not watcher)
        cursor.close()
