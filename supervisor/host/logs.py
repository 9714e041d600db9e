"""The logs of all mounts, as the rest of plugind sees them. Everything here is called on the event loop.

A mount's plugin writes to a FIFO (`logfifo.py`), a thread moves the bytes (`logpump.py`) to a file that it
rotates (`logfile.py`), with an index of instances beside it (`logindex.py`); readers read files
(`logread.py`).
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from supervisor.domain.catalog import LogPolicy
from supervisor.domain.errors import Cannot
from supervisor.domain.legacy import HandedFifo
from supervisor.domain.names import InstanceId, MountKey, Seconds, shortened
from supervisor.host.logcapture import RETRY_EVERY, Capture, Snapshot, names_of
from supervisor.host.logfifo import Fifo
from supervisor.host.logfile import LogFile
from supervisor.host.logindex import Index
from supervisor.host.logpump import Pump
from supervisor.host.logread import follow, last, read_back, snapshot_of

_LONGEST_SHOWN: Final = 500
_MOST_FOR_ERRORS: Final = 64 << 10
_TOGETHER: Final[Seconds] = 0.005


class Logs:
    """FIFOs in `fifo_dir`, files in `log_dir`, both in one folder per namespace."""

    def __init__(self, fifo_dir: Path, log_dir: Path, policy: LogPolicy) -> None:
        self._fifo_dir = fifo_dir
        self._log_dir = log_dir
        self._policy = policy
        self._log = structlog.get_logger()
        self._captures: dict[MountKey, Capture] = {}
        self._pump = Pump(self._log)
        self._waiting: list[Callable[[], None]] = []
        self._noted: dict[Index, None] = {}
        """What is to be flushed; the pump's."""

    def start(self) -> None:
        self._pump.start()

    def stop(self) -> None:
        """Return when all that is in the FIFOs is written and the thread is gone. Plugins may write on."""
        self._post_waiting()
        self._pump.stop()
        self._captures.clear()

    def leave(self) -> tuple[HandedFifo, ...]:
        """Stop, and leave the FIFOs open, so that what is in them is there when another plugind takes them.

        Their own descriptors: for others there may be no room, and with a FIFO goes what no disk took.
        """
        self._post_waiting()
        self._pump.stop(leaves=True)
        captures, self._captures = self._captures, {}
        return tuple(capture.left() for capture in captures.values())

    def take(self, handed: Iterable[HandedFifo]) -> None:
        """Capture what the plugind before this one did."""
        for fifo in handed:
            self._captured(fifo.key, fifo)

    def set_policy(self, policy: LogPolicy) -> None:
        """Rotate by `policy` from now on."""
        self._policy = policy
        for capture in self._captures.values():
            self._pump.post(partial(capture.set_policy, policy))

    def open(self, key: MountKey) -> str:
        """The path that a child of plugind opens read-write as its 1 and 2, valid until `close`.

        From now on what is written there is captured. A log file that cannot be written is no error
        here: the plugin runs, and `lost` counts.

        Raises:
            Cannot: There is no FIFO to be had.
        """
        return self._capture(key).fifo.door

    def attend(self, key: MountKey) -> None:
        """Capture a mount whose plugin runs already; if there is no FIFO to be had, as soon as there is."""
        try:
            self._capture(key)
        except Cannot as error:
            if not self._pump.is_stopped:
                self._log.warning("log_not_captured", mount=str(key), reason=str(error))
                asyncio.get_running_loop().call_later(RETRY_EVERY, self.attend, key)

    async def drain(self, key: MountKey) -> None:
        """Return when all that was in the FIFO at the call is in the file (or kept, if no disk takes it)."""
        self._post_waiting()
        capture = self._captures.get(key)
        if capture is not None:
            await self._pump.ask(partial(self._pump.drain, capture))

    def close(self, key: MountKey) -> None:
        """Forget a mount that was removed: its FIFO is emptied and goes, its files stay."""
        capture = self._captures.pop(key, None)
        if capture is not None:
            capture.fifo.unlink()
            self._post_waiting()
            self._pump.post(partial(self._pump.remove, capture))

    def keep_only(self, keys: Collection[MountKey]) -> None:
        """Remove the FIFOs of all other mounts: a former plugind died before it closed them."""
        known = {self._fifo(key) for key in keys} | {self._fifo(key) for key in self._captures}
        try:
            found = sorted(self._fifo_dir.glob("*/*.fifo"))
        except OSError as error:
            self._log.warning("fifo_left", path=str(self._fifo_dir), reason=str(error))
            return
        for path in found:
            if path not in known:
                try:
                    path.unlink()
                except OSError as error:
                    self._log.warning("fifo_left", path=str(path), reason=str(error))
                with suppress(OSError):  # of a namespace that has others
                    path.parent.rmdir()

    def mark(self, key: MountKey, instance: InstanceId, what: str, at: Seconds) -> None:
        """Note in the index that here an instance begins (`begin`, before its spawn) or ends (`end`)."""
        capture = self._captures.get(key)
        if capture is None:
            return
        # the place is known now, and written soon
        self._soon(partial(self._mark, capture, instance, what, at, capture.fifo.position()))

    def _soon(self, command: Callable[[], None]) -> None:
        """Have the thread do it within milliseconds: a reload of many mounts wakes it once for all."""
        self._waiting.append(command)
        if len(self._waiting) > 1:
            return
        try:
            asyncio.get_running_loop().call_later(_TOGETHER, self._post_waiting)
        except RuntimeError:  # no loop runs here: at once
            self._post_waiting()

    def _post_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting and not self._pump.is_stopped:
            self._pump.post(*waiting, self._flush)

    def _flush(self) -> None:
        """In the pump's thread; what was noted in an index meanwhile is written once."""
        noted, self._noted = self._noted, {}
        for index in noted:
            index.flush()

    async def tail(self, key: MountKey, lines: int, most_bytes: int = 1 << 20) -> list[bytes]:
        """The last lines, without their newlines, over rotated files too; also of a mount that is gone."""
        snapshot = await self._snapshot(key, None)
        return last(await asyncio.to_thread(read_back, snapshot, lines, most_bytes), lines)

    async def last_lines(self, key: MountKey, instance: InstanceId | None, lines: int = 5) -> list[str]:
        """The last lines of one instance, fit for an error message; of all where `instance` is None."""
        snapshot = await self._snapshot(key, instance)
        if instance is not None and snapshot.begin is None:
            return []
        data = await asyncio.to_thread(read_back, snapshot, 4 * lines, _MOST_FOR_ERRORS)
        return shown(last(data, 4 * lines))[-lines:]

    def follow(self, key: MountKey, lines: int = 10) -> AsyncGenerator[bytes, None]:
        """The last `lines` lines and then what is written, as it comes, over rotation and instances.

        Also of a mount where nothing runs yet. Ends when the mount is closed. A reader may be slow: it reads
        files, at its own pace.

        Raises:
            Cannot: There is no FIFO to be had.
            LogLagged: From the generator: a file was rotated away before the reader came to it.
        """
        return self._followed(key, self._capture(key), lines)

    async def _followed(self, key: MountKey, capture: Capture, lines: int) -> AsyncGenerator[bytes, None]:
        async with aclosing(follow(capture, await self._snapshot(key, None), lines)) as pieces:
            async for piece in pieces:
                yield piece

    def lost(self, key: MountKey) -> int:
        """Bytes of this mount that no disk took, since this plugind started."""
        capture = self._captures.get(key)
        return 0 if capture is None else capture.lost

    def _capture(self, key: MountKey) -> Capture:
        """The capture of a mount, from now on.

        Raises:
            Cannot: There is no FIFO to be had.
        """
        if self._pump.is_stopped:
            raise Cannot(f"cannot open the log of {key}: shutting down")
        try:
            return self._captures.get(key) or self._captured(key)
        except OSError as error:
            raise Cannot(f"cannot open the log of {key}: {error}") from error

    def _captured(self, key: MountKey, handed: HandedFifo | None = None) -> Capture:
        fifo = Fifo.opened(self._fifo(key)) if handed is None else Fifo(self._fifo(key), handed.fd)
        path = self._path(key)
        log = self._log.bind(namespace=str(key.namespace), mount=key.shown)
        index = Index(path.with_name(path.name + ".index"), self._policy.keep + 1)
        capture = Capture(key, fifo, LogFile(path, self._policy, index, log), index, log)
        if handed is not None:
            capture.resume(handed)
        self._captures[key] = capture
        self._soon(partial(self._pump.add, capture))
        return capture

    def _mark(self, capture: Capture, instance: InstanceId, what: str, at: Seconds, position: int) -> None:
        self._pump.drain(capture)
        capture.mark(instance, what, at, position)
        self._noted[capture.index] = None

    async def _snapshot(self, key: MountKey, instance: InstanceId | None) -> Snapshot:
        capture = self._captures.get(key)
        if capture is None:
            path = self._path(key)
            return await asyncio.to_thread(
                snapshot_of, names_of(LogFile(path, self._policy, Index(path, 1), self._log))
            )

        self._post_waiting()

        def take() -> Snapshot:
            self._pump.drain(capture)
            return capture.snapshot(instance)

        return await self._pump.ask(take)

    def _fifo(self, key: MountKey) -> Path:
        return self._fifo_dir / key.folder / f"{key.stem}.fifo"

    def _path(self, key: MountKey) -> Path:
        return self._log_dir / key.folder / f"{key.stem}.log"


def shown(lines: Iterable[bytes]) -> list[str]:
    """Lines for people: no blank ones, nothing that a terminal would obey, none over 500 characters."""
    texts = (line.rstrip().decode(errors="replace") for line in lines)
    return [shortened(text, _LONGEST_SHOWN) for text in texts if text]
