"""`<stem>.log.index`: where in a log each instance begins and ends, as JSON lines beside it.

The stream itself is never touched: its bytes are the plugin's alone. A log file is a *generation* with an
inode; the newest generation of an inode is the one that counts, as inodes are used again. Belongs to the
pump's thread; only `generation` and `files` are read by others, and only ever replaced whole.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from supervisor.domain.names import InstanceId, Seconds

MOST_MARKS: Final = 64
MOST_LINES: Final = 256
_MOST_BYTES: Final = 1 << 20

BEGIN: Final = "begin"
END: Final = "end"


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file that began (`inode` set), a mark of an instance, or bytes that were lost at this place."""

    what: str
    generation: int
    offset: int = 0
    instance: str = ""
    at: Seconds = 0.0
    """Wall-clock time, for people."""
    inode: int = 0
    lost: int = 0


_encoder: Final = msgspec.json.Encoder()


class Index:
    """The lines of one index file: those of use in memory, and on disk what it takes."""

    def __init__(self, path: Path, most_files: int) -> None:
        self.generation = 0
        self.files: dict[int, int] = {}
        """Inode by generation, oldest first, of the files that may still exist."""
        self.most_files = most_files
        self.marks: list[Line] = []  # not a deque, of which an empty one has 760 bytes
        self._path = path
        self._new = path.with_name(path.name + ".new")
        self._lines = 0
        self._unwritten: list[Line] = []

    def _keep(self, line: Line) -> None:
        self.marks.append(line)
        del self.marks[:-MOST_MARKS]

    def load(self) -> None:
        """Read what a former plugind wrote; a line that was cut off by its death is left out."""
        decoder = msgspec.json.Decoder(Line)
        with suppress(OSError):  # of a plugind that was killed while it wrote
            self._new.unlink()
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor
                data = file.read(_MOST_BYTES) or b""
        except OSError:
            return
        for text in data.split(b"\n"):
            with suppress(msgspec.DecodeError):
                line = decoder.decode(text)
                if line.inode:
                    self._add_file(line.generation, line.inode)
                else:
                    self._keep(line)
                    self.generation = max(self.generation, line.generation)
        self._lines = MOST_LINES  # written anew before the first append: its end may be half a line

    def file_began(self, inode: int) -> None:
        """A new log file is in use; marks in an older file of this inode are void."""
        self._add_file(self.generation + 1, inode)
        self.flush()
        self._append([Line("file", self.generation, inode=inode)])

    def mark(self, line: Line) -> None:
        """Note a place; `flush` writes it."""
        self._keep(line)
        self._unwritten.append(line)

    def flush(self) -> None:
        """Write what was noted; where the disk does not take it, the memory of this process has to do."""
        if self._unwritten:
            lines, self._unwritten = self._unwritten, []
            self._append(lines)

    def span(self, instance: InstanceId) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        """Generation and offset of an instance's begin and end; None where there is no such mark."""
        begin = end = None
        for line in self.marks:
            if line.instance == instance and line.what == BEGIN:
                begin, end = (line.generation, line.offset), None
            elif line.instance == instance and line.what == END:
                end = (line.generation, line.offset)
        return begin, end

    def _add_file(self, generation: int, inode: int) -> None:
        files = {known: other for known, other in self.files.items() if other != inode} | {generation: inode}
        self.files = dict(list(files.items())[-self.most_files :])
        self.generation = max(generation, self.generation)  # last: who sees the number finds the file

    def _append(self, lines: list[Line]) -> None:
        with suppress(OSError):
            if self._lines + len(lines) > MOST_LINES:
                self._rewrite()
                return
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            fd = os.open(self._path, flags, 0o640)
            try:
                os.write(fd, b"".join(_encoder.encode(line) + b"\n" for line in lines))
            finally:
                os.close(fd)
            self._lines += len(lines)

    def _rewrite(self) -> None:
        """Replace the file by the lines that are still of use."""
        lines = [Line("file", generation, inode=inode) for generation, inode in self.files.items()]
        lines.extend(mark for mark in self.marks if mark.generation in self.files)
        new = self._new
        new.unlink(missing_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        try:
            with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor
                file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
            new.replace(self._path)
        except OSError:
            new.unlink(missing_ok=True)
            raise
        self._lines = len(lines)
