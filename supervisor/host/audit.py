"""audit.log: one JSON line for each command that changes something.

Decided here: that a line is whole and goes to the file of that name, also after someone rotated it.
What is told, and whether a command may go on that cannot be told, is the caller's.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from supervisor.domain.errors import Cannot
from supervisor.host.wholefile import refusal

_FLAGS: Final = (
    os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
)
_encoder: Final = msgspec.json.Encoder(enc_hook=str)


class AuditLog:
    """Opened at the first line. Synchronous: a line is a few microseconds, and must not be overtaken."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._file: tuple[int, int] | None = None

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one line.

        Raises:
            Cannot: It is not, or not all of it, in the file.
        """
        try:
            line = _encoder.encode(entry) + b"\n"
        except (UnicodeEncodeError, msgspec.MsgspecError) as error:
            raise Cannot(f"cannot write {self._path}: {error}") from error
        try:
            descriptor = self._current()
            written = os.write(descriptor, line)
            if written < len(line):  # a full disk took a part: end that line, so that the next is its own
                os.write(descriptor, b"\n")
        except OSError as error:
            raise refusal("write", self._path, error) from error
        if written < len(line):
            raise Cannot(f"cannot write {self._path}: {written} of {len(line)} bytes fit")

    def close(self) -> None:
        taken, self._descriptor = self._descriptor, None
        if taken is not None:
            os.close(taken)

    def _current(self) -> int:
        if self._descriptor is not None and self._file == self._named():
            return self._descriptor
        self.close()
        descriptor = os.open(self._path, _FLAGS, 0o640)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            os.close(descriptor)
            raise Cannot(f"cannot write {self._path}: it is no regular file with one name")
        self._descriptor, self._file = descriptor, (found.st_dev, found.st_ino)
        return descriptor

    def _named(self) -> tuple[int, int] | None:
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino
