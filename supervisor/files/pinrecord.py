"""What the last pin write of plugind replaced, per plugin: it can be undone, also by a next plugind."""

from pathlib import Path
from typing import Final

import msgspec

from supervisor.domain.errors import Conflict, Unavailable
from supervisor.domain.names import PluginRef
from supervisor.files.replace import write_whole
from supervisor.files.sources import Unreadable, read_whole

_FORMAT: Final = 1


class PinWrite(msgspec.Struct, frozen=True):
    """None: there was, or is, no pin."""

    old: str | None
    new: str | None


class _File(msgspec.Struct):
    version: int
    writes: dict[str, PinWrite]


class PinRecord:
    """Its file, in state_dir. One that cannot be read knows of no write."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def last(self, ref: PluginRef) -> PinWrite:
        """The last write of a pin. Raises Conflict: none is known."""
        found = self._read().get(str(ref))
        if found is None:
            raise Conflict(f"cannot undo the pin of {ref}: no write of it by plugind is known")
        return found

    def note(self, ref: PluginRef, write: PinWrite) -> None:
        """Return when it is on disk. Raises Unavailable."""
        writes = {**self._read(), str(ref): write}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, msgspec.json.encode(_File(_FORMAT, writes)))
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise Unavailable(
                f"cannot pin {ref}: it could not be undone, as {self._path} cannot be written: {why}"
            ) from error

    def _read(self) -> dict[str, PinWrite]:
        try:
            file = msgspec.json.decode(read_whole(self._path), type=_File)
        except (Unreadable, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return {}
        return file.writes if file.version == _FORMAT else {}
