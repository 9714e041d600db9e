"""What must outlive a reboot, per mount: a stop by hand, what worked last, a rollback, the generation.

Decided here: when it reaches the disk, and what is saved from a damaged file. One file of JSON lines,
a header and a line per mount, always written whole: damage to one line costs that mount only.
What a mount does with its memory is decided in `domain/mount.py`.
"""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from supervisor.domain.errors import BadRequest, Cannot
from supervisor.domain.memory import Remembered
from supervisor.domain.names import MountKey, Namespace, Seconds
from supervisor.host.wholefile import free_name, moved_aside, read_whole, remove_strays, write_whole

FORMAT: Final = 1
MOST_BYTES: Final = 256 << 20
SOON: Final[Seconds] = 0.05
SHARE: Final = 20
"""A write comes no sooner than so many times what the last one took: it is always of all mounts."""
LATEST: Final[Seconds] = 2.0
LATER: Final[Seconds] = 5.0
"""When a write that failed is tried again."""


class _Header(msgspec.Struct):
    format: int
    mounts: int


class _Line(msgspec.Struct):
    namespace: str
    mount: str
    remembered: Remembered

    @property
    def key(self) -> MountKey:
        return MountKey.parse(Namespace.parse(self.namespace), self.mount)


_encoder: Final = msgspec.json.Encoder()
_header: Final = msgspec.json.Decoder(_Header)
_line: Final = msgspec.json.Decoder(_Line)


class Memory:
    """The one writer of its file. Works on in memory while the disk does not take it.

    Args:
        path: The file, in state_dir.
        on_trouble: Told once when a write begins to fail, and what `load` had to leave out.
    """

    def __init__(self, path: Path, on_trouble: Callable[[str], None]) -> None:
        self._path = path
        self._on_trouble = on_trouble
        self._lines: dict[MountKey, bytes] = {}
        self._change = 0
        self._on_disk = 0
        self._troubled = False
        self._took: Seconds = 0.0
        """The last write, and what it was made of."""
        self._changed = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._writing = threading.Lock()

    def load(self) -> dict[MountKey, Remembered]:
        """What the file holds. Never raises: what cannot be read is kept aside, told, and left out."""
        try:
            remove_strays(self._path.parent)
            data = read_whole(self._path, MOST_BYTES)
        except Cannot as error:
            self._on_trouble(f"{error}; {moved_aside(self._path)}")
            return {}
        if data is None:
            return {}
        found, damage = _read(data)
        if damage:
            self._on_trouble(f"cannot use all of {self._path}: {damage}; {self._copied_aside(data)}")
            self._mark()
        self._lines = {key: text for key, (_, text) in found.items()}
        return {key: remembered for key, (remembered, _) in found.items()}

    def remember(self, key: MountKey, remembered: Remembered) -> None:
        """Replace what is known of a mount; it is on disk soon, or after `flush`.

        Raises:
            Cannot: It cannot be written as JSON; what was known stays.
        """
        try:
            line = _encoded(key, remembered)
        except (UnicodeEncodeError, msgspec.MsgspecError) as error:
            raise Cannot(f"cannot remember {key}: {error}") from error
        if self._lines.get(key) != line:
            self._lines[key] = line
            self._mark()

    def forget(self, key: MountKey) -> None:
        if self._lines.pop(key, None) is not None:
            self._mark()

    @property
    def is_troubled(self) -> bool:
        """Whether the last write failed: what was remembered since is in memory only."""
        return self._troubled

    async def flush(self) -> None:
        """Return once everything remembered before is on disk, or the disk refused it.

        A refusal is told through `on_trouble` and tried again by `run`: a stop by hand must still
        stop when the disk is full. Any number of calls at once cost two writes at most.
        """
        wanted = self._change
        async with self._flushing:
            if self._on_disk >= wanted:
                return
            began = asyncio.get_running_loop().time()
            change, lines = self._change, list(self._lines.values())
            try:
                await asyncio.to_thread(self._write, change, lines)
            except Cannot as error:
                if not self._troubled:
                    self._on_trouble(f"{error}; it is kept in memory and tried again")
                self._troubled = True
            else:
                self._troubled = False
            self._took = asyncio.get_running_loop().time() - began

    async def run(self) -> None:
        """Write what changes, soon after it did, for as long as the daemon lives.

        Cancelling it writes nothing more: `flush` is the last word of an orderly end.
        """
        loop = asyncio.get_running_loop()
        while True:
            await self._changed.wait()
            gathered = asyncio.Event()
            soon = min(max(SOON, SHARE * self._took), LATEST)
            timer = loop.call_later(LATER if self._troubled else soon, gathered.set)
            try:
                await gathered.wait()
            finally:
                timer.cancel()
            self._changed.clear()
            await self.flush()
            if self._troubled:
                self._changed.set()

    def _mark(self) -> None:
        self._change += 1
        self._changed.set()

    def _write(self, change: int, lines: list[bytes]) -> None:
        with self._writing:
            if change <= self._on_disk:
                return  # a flush that was cancelled still writes; it must not undo a later one
            header = _encoder.encode(_Header(FORMAT, len(lines)))
            write_whole(self._path, b"\n".join([header, *lines, b""]), durable=True)
            self._on_disk = change

    def _copied_aside(self, data: bytes) -> str:
        try:
            place = free_name(self._path.with_name(f"{self._path.name}.damaged"))
            write_whole(place, data, durable=True)
        except (Cannot, OSError) as error:
            return f"it could not be set aside: {error}"
        return f"it is kept as {place}"


def _encoded(key: MountKey, remembered: Remembered) -> bytes:
    return _encoder.encode(_Line(str(key.namespace), key.path, remembered))


def _read(data: bytes) -> tuple[dict[MountKey, tuple[Remembered, bytes]], str]:
    """What can be used, with its text, and what is wrong with the rest (nothing: an empty text)."""
    first, *rest = data.split(b"\n")
    found: dict[MountKey, tuple[Remembered, bytes]] = {}
    try:
        header = _header.decode(first)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        expected, damage = 0, f"line 1: {error}"
    else:
        expected, damage = header.mounts, ""
        if header.format != FORMAT:
            return {}, f"it has format {header.format}, this version knows {FORMAT}"
    for number, text in enumerate(rest, start=2):
        if not text:
            continue
        try:
            line = _line.decode(text)
            found[line.key] = line.remembered, text
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, BadRequest) as error:
            damage = damage or f"line {number}: {error}"
    if not damage and len(found) != expected:
        damage = f"it has {len(found)} of {expected} mounts"
    return found, damage
