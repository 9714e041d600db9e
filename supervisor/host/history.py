"""The last reload reports, as JSON lines that are appended to and compacted.

Decided here: where a report lies in the file and how long it is kept. In memory are places only: the
report of a reload of 10,000 mounts has megabytes. What a report says is the caller's.
"""

import asyncio
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from supervisor.domain.errors import Cannot
from supervisor.host.wholefile import free_name, refusal, remove_strays, write_all, write_whole

KEPT: Final = 1000
MOST_LINES: Final = 2000
MOST_BYTES: Final = 64 << 20
"""Of the file; the newest reports that fit into half of it survive a compaction."""
MOST_READ: Final = 256 << 20
"""A file that is larger was not written here, and is not read."""
_FLAGS: Final = (
    os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
)


class _Line(msgspec.Struct, omit_defaults=True):
    id: str
    document: msgspec.Raw
    is_open: bool = False
    """It was noted; a line without this follows when it is done."""


@dataclass(frozen=True, slots=True)
class _Place:
    offset: int
    length: int


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(_Line)


class History:
    """The one writer of its file. Works on in memory while the disk does not take it.

    Args:
        path: The file, in state_dir.
        on_trouble: Told once when a write begins to fail, and what `load` had to leave out.
    """

    def __init__(self, path: Path, on_trouble: Callable[[str], None]) -> None:
        self._path = path
        self._on_trouble = on_trouble
        self._descriptor: int | None = None
        self._places: dict[str, _Place] = {}
        self._noted: set[str] = set()
        self._unwritten: dict[str, bytes] = {}
        self._lines = 0
        self._end = 0
        self._is_torn = False
        self._troubled = False
        self._guard = threading.RLock()

    def load(self) -> None:
        """Find the reports of earlier daemons. Never raises: what cannot be used is told and left out."""
        with self._guard:
            remove_strays(self._path.parent)
            try:
                self._open()
            except Cannot as error:
                self._on_trouble(f"{error}; reloads are kept in memory")

    async def append(self, reload_id: str, document: bytes) -> None:
        """Add a report, a JSON document; `get` finds it at once, the disk has it on return.

        A disk that refuses is told through `on_trouble`: a reload is not undone by it.
        """
        self._noted.discard(reload_id)
        self._keep(reload_id, document)
        await asyncio.to_thread(self._write_what_waits)

    async def note(self, reload_id: str, document: bytes) -> None:
        """The same for a report that is amended soon: a next daemon finds it, and no disk is waited for."""
        self._noted.add(reload_id)
        self._keep(reload_id, document)
        await asyncio.to_thread(self._write_what_waits, durable=False)

    async def amend(self, reload_id: str, document: bytes) -> None:
        """Put another report in the place of one; it keeps its age."""
        await self.append(reload_id, document)

    def get(self, reload_id: str) -> bytes | None:
        """The report, or None if it is not known (any more)."""
        document = self._unwritten.get(reload_id)
        if document is not None:
            return document
        with self._guard:
            place = self._places.get(reload_id)
            return None if place is None else self._read(place, reload_id)

    def latest(self, most: int) -> list[bytes]:
        """The newest reports, the newest first."""
        ids = dict.fromkeys([*self._places.copy(), *self._unwritten.copy()])
        found = (self.get(reload_id) for reload_id in list(reversed(ids))[: max(most, 0)])
        return [document for document in found if document is not None]

    def unended(self) -> list[bytes]:
        """Reports that were noted and never followed by another, of former daemons or of this one."""
        with self._guard:
            found = [self.get(reload_id) for reload_id in self._places if reload_id in self._noted]
        return [document for document in found if document is not None]

    def close(self) -> None:
        with self._guard:
            taken, self._descriptor = self._descriptor, None
            if taken is not None:
                os.close(taken)

    def _keep(self, reload_id: str, document: bytes) -> None:
        self._unwritten.pop(reload_id, None)
        self._unwritten[reload_id] = document.replace(b"\r", b" ").replace(b"\n", b" ")
        while len(self._unwritten) > KEPT:
            del self._unwritten[next(iter(self._unwritten))]

    def _write_what_waits(self, *, durable: bool = True) -> None:
        with self._guard:
            try:
                for reload_id, document in list(self._unwritten.items()):
                    self._add(reload_id, document, durable=durable)
                    # amended meanwhile: the newer one has a writer of its own, that waits for the guard
                    if self._unwritten.get(reload_id) is document:
                        del self._unwritten[reload_id]
                if self._descriptor is not None and self._needs_compaction():
                    self._compact()
            except (Cannot, OSError) as error:
                if not self._troubled:
                    why = refusal("write", self._path, error) if isinstance(error, OSError) else error
                    self._on_trouble(f"{why}; reloads are kept in memory and written later")
                self._troubled = True
            else:
                self._troubled = False

    def _add(self, reload_id: str, document: bytes, *, durable: bool) -> None:
        if self._descriptor is None:
            self._open()
        descriptor = self._descriptor
        if descriptor is None:
            raise Cannot(f"cannot write {self._path}: it is not open")
        text = self._line(reload_id, document)
        before = b"\n" if self._is_torn else b""
        self._is_torn = True  # until all of it is there: half a line must not take the next one with it
        try:
            write_all(descriptor, before + text)
            if durable:
                os.fdatasync(descriptor)
        finally:
            self._end = os.fstat(descriptor).st_size
        self._is_torn = False
        self._lines += 1
        self._places[reload_id] = _Place(self._end - len(text), len(text) - 1)

    def _open(self) -> None:
        try:
            descriptor = os.open(self._path, _FLAGS, 0o600)
        except OSError as error:
            raise refusal("open", self._path, error) from error
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_READ or found.st_nlink > 1:
                self._move_aside(found)
                os.close(descriptor)
                descriptor = os.open(self._path, _FLAGS | os.O_EXCL, 0o600)
            self._index(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise refusal("open", self._path, error) from error
        self._descriptor = descriptor

    def _move_aside(self, found: os.stat_result) -> None:
        place = self._path.rename(free_name(self._path.with_name(f"{self._path.name}.damaged")))
        what = f"it has {found.st_size} bytes" if stat.S_ISREG(found.st_mode) else "it is no regular file"
        what = "it has another name elsewhere" if found.st_nlink > 1 else what
        self._on_trouble(f"cannot use {self._path}: {what}; it is kept as {place}")

    def _index(self, descriptor: int) -> None:
        self._places.clear()
        self._noted.intersection_update(self._unwritten)
        self._lines, self._end, self._is_torn = 0, 0, False
        damaged = 0
        with open(descriptor, "rb", closefd=False) as file:
            for text in file:
                offset, self._end = self._end, self._end + len(text)
                self._lines += 1
                self._is_torn = not text.endswith(b"\n")
                try:
                    line = _decoder.decode(text)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    damaged += 1
                    continue
                self._places[line.id] = _Place(offset, len(text.rstrip(b"\n")))
                if line.is_open:
                    self._noted.add(line.id)
                elif line.id not in self._unwritten:
                    self._noted.discard(line.id)
        if damaged:
            self._on_trouble(f"cannot use all of {self._path}: {damaged} of {self._lines} lines are damaged")

    def _read(self, place: _Place, reload_id: str) -> bytes | None:
        if self._descriptor is None:
            return None
        try:
            line = _decoder.decode(os.pread(self._descriptor, place.length, place.offset))
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None  # somebody else wrote to the file
        return bytes(line.document) if line.id == reload_id else None

    def _needs_compaction(self) -> bool:
        return self._lines > MOST_LINES or (self._end > MOST_BYTES and len(self._places) > 1)

    def _compact(self) -> None:
        kept: list[bytes] = []
        size = 0
        for reload_id, place in list(reversed(self._places.items()))[:KEPT]:
            document = self._read(place, reload_id)
            if document is not None:
                text = self._line(reload_id, document)
                size += len(text)
                if kept and size > MOST_BYTES // 2:
                    break
                kept.append(text)
        write_whole(self._path, b"".join(reversed(kept)), durable=True)
        self.close()
        self._open()

    def _line(self, reload_id: str, document: bytes) -> bytes:
        line = _Line(reload_id, msgspec.Raw(document), reload_id in self._noted)
        return _encoder.encode(line) + b"\n"
