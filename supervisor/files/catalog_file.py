"""The catalog as the engine asks for it: what is on disk now, and what was last in force."""

import asyncio
import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from supervisor.domain.catalog import Catalog
from supervisor.domain.errors import CatalogInvalid, NotFound, Unavailable
from supervisor.domain.names import PluginRef
from supervisor.domain.registering import Registered
from supervisor.files import pins, versions
from supervisor.files.digest import digest_of
from supervisor.files.edit import Edit, Editor
from supervisor.files.layers import Defaults
from supervisor.files.load import parse_catalog
from supervisor.files.pinrecord import PinRecord, PinWrite
from supervisor.files.replace import write_whole
from supervisor.files.sources import Source, Unreadable, read_sources, read_whole

_MOST_SAVED: Final = 1 << 30
_FORMAT: Final = 1


class _Saved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The texts of a catalog that came into force; base64, as a file need not be UTF-8."""

    version: int
    files: list[tuple[str, str]]


class CatalogFile:
    """Reads the catalog at `path`, a file or a directory; `saved` is where the last good one is kept.

    Beside that stands what can be undone of it.
    """

    def __init__(self, path: str | os.PathLike[str], defaults: Defaults, saved: Path) -> None:
        self.path = str(Path(path).absolute())
        self._defaults = defaults
        self._saved = saved
        self._pins = PinRecord(saved.with_name("pins.json"))
        self._last: tuple[tuple[Source, ...], Catalog] | None = None
        self._kept: tuple[Source, ...] | None = None
        self._lock = asyncio.Lock()
        self.why_none: str | None = None
        """Why `last_good` returned None, when there was something saved."""

    async def load(self) -> Catalog:
        """What stands on disk now; the same object as last time while no text differs.

        Raises:
            CatalogInvalid: With every fault; what was loaded before stays the last one.
            Unavailable: It cannot be told what is there, e.g. as the disk is damaged.
        """
        async with self._lock:
            try:
                return await asyncio.to_thread(self._load)
            except OSError as error:
                why = (error.strerror or str(error)).lower()
                raise Unavailable(f"cannot look at the catalog {self.path}: {why}") from error

    def _load(self) -> Catalog:
        sources = read_sources(self.path)
        if self._last is None or self._last[0] != sources:
            self._last = (sources, parse_catalog(sources, self._defaults))
        return self._last[1]

    async def last_good(self) -> Catalog | None:
        """The catalog that was kept last; None, and `why_none`, if there is none that can be used."""
        return await asyncio.to_thread(self._last_good)

    def _last_good(self) -> Catalog | None:
        self.why_none = None
        if not os.path.lexists(self._saved):
            return None
        try:
            saved = msgspec.json.decode(read_whole(self._saved, _MOST_SAVED), type=_Saved)
            if saved.version != _FORMAT:
                self.why_none = f"cannot use {self._saved}: it has format {saved.version}, not {_FORMAT}"
                return None
            sources = [Source(name, base64.b64decode(text, validate=True)) for name, text in saved.files]
            return parse_catalog(sources, self._defaults)
        except (Unreadable, CatalogInvalid, msgspec.MsgspecError, ValueError, RecursionError) as error:
            self.why_none = f"cannot use {self._saved}: {error}"
            return None

    async def keep(self) -> None:
        """Save what `load` returned last as the catalog in force.

        Raises:
            Unavailable: It could not be written.
        """
        async with self._lock:
            if self._last is None or self._last[0] == self._kept:
                return
            sources = self._last[0]
            try:
                await asyncio.to_thread(self._keep, sources)
            except OSError as error:
                why = (error.strerror or str(error)).lower()
                raise Unavailable(f"cannot save the catalog as {self._saved}: {why}") from error
            self._kept = sources

    def _keep(self, sources: tuple[Source, ...]) -> None:
        files = [(source.path, base64.b64encode(_bytes(source)).decode()) for source in sources]
        self._saved.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._saved, msgspec.json.encode(_Saved(_FORMAT, files)))

    async def set_pin(self, ref: PluginRef, version: str) -> Edit:
        """Pin `ref` to `version` in the file; see `pins.py`, `versions.py` for what the edits refuse."""
        return await self._edited(lambda editor: pins.set_pin(editor, ref, version, self._noting(ref)))

    async def remove_pin(self, ref: PluginRef) -> Edit:
        """Leave `ref` without a pin."""
        return await self._edited(lambda editor: pins.remove_pin(editor, ref, self._noting(ref)))

    async def undo_pin(self, ref: PluginRef) -> Edit:
        """Put back what the last of the two above replaced, if that is there. Raises Conflict."""

        def undone(editor: Editor) -> Edit:
            last = self._pins.last(ref)
            return pins.undo_pin(editor, ref, last.old, last.new)

        return await self._edited(undone)

    async def digest(self, ref: PluginRef, command: str) -> str:
        """The SHA-256 of a file that is to be a version of `ref`. Nobody waits for it, however long it takes.

        Raises:
            NotFound: There is no such plugin, and so no file that a relative path is relative to.
            BadRequest: It has none.
        """
        plugin = (await self.load()).plugins.get(ref)
        if plugin is None and not Path(command).is_absolute():
            raise NotFound(
                f"cannot add {ref}: the catalog has no such plugin: write the whole path of its command"
            )
        folder = Path(plugin.mark.file).parent if plugin is not None else Path("/")
        return await asyncio.to_thread(digest_of, folder / command)

    async def add_version(self, ref: PluginRef, version: str, added: Registered) -> Edit:
        """Add a version, whose digest is known, to those of `ref`."""
        return await self._edited(lambda editor: versions.add_version(editor, ref, version, added))

    async def remove_version(self, ref: PluginRef, version: str) -> Edit:
        """Take a version of `ref` out."""
        return await self._edited(lambda editor: versions.remove_version(editor, ref, version))

    async def _edited(self, edit: Callable[[Editor], Edit]) -> Edit:
        async with self._lock:
            return await asyncio.to_thread(edit, Editor(self.path, self._defaults))

    def _noting(self, ref: PluginRef) -> Callable[[Edit], None]:
        # before it: a write that nobody knows of could not be undone, and one that failed is not there to be
        return lambda edit: self._pins.note(ref, PinWrite(edit.old, edit.new))


def _bytes(source: Source) -> bytes:
    return source.text if isinstance(source.text, bytes) else source.text.encode()
