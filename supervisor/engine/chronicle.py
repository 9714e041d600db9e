"""What `why` shows: the last transitions of each mount, also those that a former plugind saw.

A start must not wait for a disk: transitions are written some moments later, all that came meanwhile at
once, by a worker thread. A plugind that is killed loses its last moments, and the next one says so.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog

from supervisor.domain.errors import PlugindError
from supervisor.domain.names import InstanceId, MountKey, Namespace, Seconds
from supervisor.engine.feed import Transition
from supervisor.engine.narrator import row_of
from supervisor.engine.ports import Clock, Journal
from supervisor.engine.world import begin_in
from supervisor.wire import TransitionRow

log = structlog.get_logger(__name__)
SHOWN: Final = 20
QUIET: Final[Seconds] = 0.3
"""Nothing has happened for so long: time to write."""
LATEST: Final[Seconds] = 3.0
"""After so long it is written though more goes on happening."""
MOST_BYTES: Final = 8 << 20
"""From here on the file is written afresh when it has doubled."""
GAP: Final = f"plugind ended without a word: steps of its last {LATEST:g} s may be missing here"


class _End(msgspec.Struct):
    """The last line of a plugind that wrote everything."""

    ended: str


_encoder: Final = msgspec.json.Encoder()
_row: Final = msgspec.json.Decoder(TransitionRow)
_end: Final = msgspec.json.Decoder(_End)
Rings = Callable[[], Mapping[MountKey, Iterable[Transition]]]


@dataclass(frozen=True, slots=True)
class _Batch:
    """What one write puts into the file, made into bytes in the thread that writes."""

    former: tuple[TransitionRow, ...]
    steps: tuple[Transition, ...]
    ended: str = ""

    def __call__(self) -> bytes:
        lines: list[msgspec.Struct] = [*self.former, *map(row_of, self.steps)]
        if self.ended:
            lines.append(_End(self.ended))
        return b"".join(_encoder.encode(line) + b"\n" for line in lines)


class Chronicle:
    def __init__(self, clock: Clock, journal: Journal, tasks: asyncio.TaskGroup, rings: Rings) -> None:
        self._clock = clock
        self._journal = journal
        self._tasks = tasks
        self._rings = rings
        self._former: dict[MountKey, tuple[TransitionRow, ...]] = {}
        self._pending: list[Transition] = []
        self._due: asyncio.TimerHandle | None = None
        self._writing = asyncio.Lock()
        self._first = self._last = 0.0
        self._is_whole = False
        """The file holds all that is known, so that a write may add to it."""
        self._whole_size = 0

    async def begin(self) -> None:
        """Read what a former plugind wrote."""
        try:
            self._former = await self._journal.load(_rings_of)
        except PlugindError as error:
            log.warning("transitions_not_kept", reason=str(error))
        if self._former:
            await self._write()

    def saw(self, instance: InstanceId, pid: int) -> bool:
        """Whether a former plugind wrote that `pid` is the main process of `instance`."""
        return any(
            (row.instance, row.pid) == (instance, pid) for rows in self._former.values() for row in rows
        )

    def note(self, step: Transition) -> None:
        """Write it soon."""
        self._last = self._clock.time()
        if self._due is None:
            self._first = self._last
            self._due = self._clock.call_at(self._last + QUIET, self._look)
        self._pending.append(step)

    def of(self, key: MountKey, steps: Iterable[Transition]) -> list[TransitionRow]:
        """The last transitions of a mount, oldest first; `steps` are those of this plugind."""
        return [*self._former.get(key, ()), *map(row_of, steps)][-SHOWN:]

    async def end(self) -> None:
        """Write everything, and that it is everything."""
        if self._due is not None:
            self._due.cancel()
        await self._write(ended=datetime.now(UTC).isoformat())

    def _look(self) -> None:
        now = self._clock.time()
        due = min(self._last + QUIET, self._first + LATEST)
        if due > now:
            self._due = self._clock.call_at(due, self._look)
        else:
            self._due = None
            begin_in(self._tasks, self._write())

    async def _write(self, ended: str = "") -> None:
        async with self._writing:
            steps, self._pending = self._pending, []
            batch, afresh = _Batch((), tuple(steps), ended), not self._is_whole
            if afresh:
                batch = self._everything(ended)
            try:
                size = await self._journal.write(batch, afresh=afresh)
            except PlugindError as error:
                self._is_whole = False
                log.warning("transitions_not_kept", reason=str(error))
                return
            if afresh:
                self._whole_size = size
            self._is_whole = size < max(MOST_BYTES, 2 * self._whole_size)

    def _everything(self, ended: str) -> _Batch:
        steps = {key: tuple(ring) for key, ring in self._rings().items()}
        kept = steps.keys() | self._former.keys() if not steps else steps.keys()
        former = (row for key in kept for row in self._former.get(key, ()))
        return _Batch(tuple(former), tuple(step for ring in steps.values() for step in ring), ended)


def _rings_of(data: bytes) -> dict[MountKey, tuple[TransitionRow, ...]]:
    """The last rows of each mount, and where one is likely to be missing; what is no row is passed over."""
    rings: defaultdict[MountKey, deque[TransitionRow]] = defaultdict(lambda: deque(maxlen=SHOWN))
    lines = data.split(b"\n")
    for line in lines:
        try:
            row = _row.decode(line)
            rings[MountKey.parse(Namespace.parse(row.namespace), row.mount)].append(row)
        except (msgspec.MsgspecError, UnicodeDecodeError, PlugindError):
            continue
    if not _is_end(lines[-2] if len(lines) > 1 else b""):
        for ring in rings.values():
            ring.append(_gap_after(ring[-1]))
    return {key: tuple(ring) for key, ring in rings.items()}


def _is_end(line: bytes) -> bool:
    try:
        return bool(_end.decode(line).ended)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False


def _gap_after(row: TransitionRow) -> TransitionRow:
    return TransitionRow(
        id=row.id,
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        namespace=row.namespace,
        mount=row.mount,
        event="gap",
        before=row.after,
        after=row.after,
        reason=GAP,
    )
