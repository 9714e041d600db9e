"""The holds on disk: one small JSON file, always written whole.

Decided here: when what is there cannot be used. What is frozen then is decided in `engine/holding.py`.
"""

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from supervisor.domain.errors import BadRequest, Cannot
from supervisor.domain.holds import Hold
from supervisor.domain.names import Namespace
from supervisor.host.wholefile import free_name, moved_aside, read_whole, write_whole

FORMAT: Final = 1
MOST_BYTES: Final = 64 << 20


class _Line(msgspec.Struct):
    namespace: str
    why: str
    who: str
    since: str


class _File(msgspec.Struct):
    format: int
    holds: list[_Line]


class HoldFile:
    """Fits `engine/ports.py`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> list[Hold]:
        """The holds of the file, none where there is no file.

        Raises:
            Cannot: It cannot be used, and was set aside.
        """
        try:
            data = read_whole(self._path, MOST_BYTES)
            return [] if data is None else _read(data)
        except (Cannot, BadRequest, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Cannot(f"cannot use {self._path}: {error}; {_kept(self._path)}") from error

    async def write(self, holds: Iterable[Hold]) -> None:
        """Return when these, and no others, are on disk. Raises Cannot: those of before are."""
        lines = [_Line(str(hold.namespace), hold.why, hold.who, hold.since) for hold in holds]
        data = msgspec.json.encode(_File(FORMAT, lines))
        await asyncio.to_thread(write_whole, self._path, data, durable=True)


def _kept(path: Path) -> str:
    """Give it a second name; the first is its own until another file is there.

    Else the next plugind would find no file, and hold nothing, where the disk takes none now.
    """
    if path.is_dir() and not path.is_symlink():
        return moved_aside(path)
    try:
        place = free_name(path.with_name(f"{path.name}.damaged"))
        os.link(path, place, follow_symlinks=False)
    except OSError:
        return "it stays where it is"
    return f"it is kept as {place}"


def _read(data: bytes) -> list[Hold]:
    file = msgspec.json.decode(data, type=_File)
    if file.format != FORMAT:
        raise Cannot(f"it has format {file.format}, this version knows {FORMAT}")
    return [Hold(Namespace.parse(line.namespace), line.why, line.who, line.since) for line in file.holds]
