"""One mount's capture: FIFO, log file, index, and what holds the newest bytes while the disk takes none.

Belongs to the pump's thread, except where a method says otherwise. The plugin is never blocked by a disk:
when the file cannot be written, the newest bytes are kept in a ring, older ones are counted as lost, and
writing is tried again until it works.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from structlog.typing import FilteringBoundLogger

from supervisor.domain.catalog import LogPolicy
from supervisor.domain.legacy import HandedFifo
from supervisor.domain.names import InstanceId, MountKey, Seconds
from supervisor.host.logfifo import Fifo, Scratch
from supervisor.host.logfile import LogFile
from supervisor.host.logindex import Index, Line

MOST_KEPT: Final = 256 << 10
RETRY_EVERY: Final[Seconds] = 0.5


class Watcher:
    """Wakes one task of one event loop when there is more to read."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._is_armed = False

    def arm(self) -> None:
        """From now on a wake-up is not missed: arm, look, then wait."""
        self._event.clear()
        self._is_armed = True

    async def wait(self) -> None:
        await self._event.wait()

    def wake(self) -> None:
        """From any thread; costs nothing unless somebody waits."""
        if self._is_armed:
            self._is_armed = False
            with suppress(RuntimeError):  # its loop is closed
                self._loop.call_soon_threadsafe(self._event.set)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a mount's log stood at one moment; readers go on from it in threads of their own."""

    paths: tuple[Path, ...]
    """The names that its files have, newest first."""
    files: tuple[tuple[int, int], ...]
    """Generation and inode, oldest first."""
    generation: int
    """Of the newest file."""
    size: int
    """Of the newest file."""
    unwritten: bytes = b""
    begin: tuple[int, int] | None = None
    end: tuple[int, int] | None = None


class Capture:
    """What is pumped for one mount."""

    def __init__(
        self, key: MountKey, fifo: Fifo, file: LogFile, index: Index, log: FilteringBoundLogger
    ) -> None:
        self.key = key
        self.fifo = fifo
        self.index = index
        self.lost = 0
        self.is_closed = False
        self.watchers: tuple[Watcher, ...] = ()
        """Replaced whole, by the loop's thread."""
        self.pumped_at: Seconds = 0.0
        self.rate = 0.0
        """Bytes per second, of late. Both are the pump's."""
        self._file = file
        self._log = log
        self._ring = bytearray()
        self._has_gap = False
        self._reason = ""
        self._retry_at: Seconds = 0.0

    @property
    def is_failing(self) -> bool:
        return bool(self._reason)

    def set_policy(self, policy: LogPolicy) -> None:
        self._file.policy = policy
        self.index.most_files = policy.keep + 1

    def resume(self, handed: HandedFifo) -> None:
        """Before `begin`: what no disk took from the plugind before this one."""
        self.lost, self._has_gap = handed.lost, handed.has_gap
        if handed.kept:
            self._ring += handed.kept
            self._reason = "of the plugind before"

    def left(self) -> HandedFifo:
        """After a `close` that leaves it: for the next plugind."""
        namespace = str(self.key.namespace)
        return HandedFifo(namespace, self.key.path, self.fifo.fd, bytes(self._ring), self.lost, self._has_gap)

    def begin(self, now: Seconds) -> None:
        """Find out what a former plugind left, and have the file."""
        self.index.load()
        try:
            self._file.ready(now)
        except OSError as error:
            self._fail(error, now)

    def pump(self, scratch: Scratch, most: int, now: Seconds) -> int:
        """Take at most `most` bytes out of the FIFO; how many it was."""
        before = self.fifo.taken
        if self.is_failing:
            self.retry(now)
        if not self.is_failing:
            try:
                self._file.take(self.fifo, scratch, most, now)
            except OSError as error:
                self._fail(error, now)
        if self.is_failing:
            self._keep(self.fifo.read(min(most, MOST_KEPT)))
        moved = self.fifo.taken - before
        if moved:
            self.wake()
        return moved

    def drain(self, scratch: Scratch, now: Seconds) -> None:
        """Take out all that is in the FIFO now, not what comes meanwhile."""
        end = self.fifo.taken + self.fifo.waiting()
        while self.fifo.taken < end and self.pump(scratch, end - self.fifo.taken, now):
            pass

    def retry(self, now: Seconds) -> None:
        """Write what was kept, if it is time to try again."""
        if now < self._retry_at:
            return
        self._retry_at = now + RETRY_EVERY
        try:
            self._file.ready(now)
            self._mend_gap(now)
            if self._ring:
                del self._ring[: self._file.append(bytes(self._ring), now)]
        except OSError as error:
            self._reason = str(error)
            return
        self.wake()
        if not self._ring:
            self._log.warning("log_file_recovered", path=str(self._file.path), lost=self.lost)
            self._reason = ""

    def mark(self, instance: InstanceId, what: str, at: Seconds, position: int) -> None:
        """Note a place in the stream: `position` bytes after its begin, as `Fifo.position` counts."""
        behind = max(self.fifo.taken - position, 0)
        generation, offset = self._file.locate(max(behind - len(self._ring), 0))
        self.index.mark(Line(what, generation, offset, instance, at))

    def snapshot(self, instance: InstanceId | None = None) -> Snapshot:
        begin, end = self.index.span(instance) if instance is not None else (None, None)
        files = tuple(self.index.files.items())
        kept = bytes(self._ring)
        return Snapshot(names_of(self._file), files, self.index.generation, self._file.size, kept, begin, end)

    def wake(self) -> None:
        for watcher in self.watchers:
            watcher.wake()

    def close(self, scratch: Scratch, now: Seconds, *, leaves: bool = False) -> None:
        """Drain it and let go of its descriptors. What no disk took by now is lost.

        Unless it `leaves` that, and the descriptor of the FIFO.
        """
        if not (leaves and self.is_failing):  # there is more room in the FIFO
            self.drain(scratch, now)
        self.index.flush()
        if self.is_failing:
            self._retry_at = now
            self.retry(now)
        if self._ring and not leaves:
            self.lost += len(self._ring)
            self._ring.clear()
            self._log.warning(
                "log_bytes_lost", path=str(self._file.path), lost=self.lost, reason=self._reason
            )
        self.is_closed = True
        self._file.close()
        if not leaves:
            self.fifo.close()
        self.wake()

    def _fail(self, error: OSError, now: Seconds) -> None:
        self._reason = str(error)
        self._retry_at = now + RETRY_EVERY
        self._log.warning("log_file_failed", path=str(self._file.path), reason=self._reason)

    def _keep(self, data: bytes) -> None:
        self._ring += data
        surplus = len(self._ring) - MOST_KEPT
        if surplus > 0:
            self._lose(surplus)
            self._has_gap = True

    def _lose(self, count: int) -> None:
        del self._ring[:count]
        self.lost += count

    def _mend_gap(self, now: Seconds) -> None:
        """Let no half line stick to another: what follows a gap begins on a line of its own."""
        if not self._has_gap:
            return
        self._lose(self._ring.find(b"\n") + 1)
        if self._file.ends_within_line():
            self._file.append(b"\n", now)
        self._has_gap = False
        generation, offset = self._file.locate(0)
        self.index.mark(Line("lost", generation, offset, lost=self.lost))
        self.index.flush()


def names_of(file: LogFile) -> tuple[Path, ...]:
    """The names that the files of a log may have, newest first."""
    return (file.path, *(file.rotated(number) for number in range(1, file.policy.keep + 1)))
