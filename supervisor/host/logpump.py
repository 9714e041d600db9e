"""The thread that moves every mount's output from its FIFO to its file.

Decided here: when, and whose turn it is. Each round serves every mount that has something, each a bounded
amount, so a flood delays nobody; between two rounds is a pause of at most a few milliseconds, which makes a
flood faster *and* cheaper (many small writes are moved at once). Without output nothing wakes up.
"""

import asyncio
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from structlog.typing import FilteringBoundLogger

from supervisor.domain.names import Seconds
from supervisor.host.logcapture import RETRY_EVERY, Capture
from supervisor.host.logfifo import LARGE, SMALL, Scratch

MOST_PER_ROUND: Final = 1 << 20
"""Bytes of one mount in one round."""
PAUSE: Final[Seconds] = 0.004
"""At most, between two rounds."""
SHORTEST: Final[Seconds] = 0.0005
"""A pause below that is none, where the FIFO is large: it would last longer than it was meant to."""
GATHERED: Final = 0.25
"""How full a FIFO may be after a pause: a writer that finds it full has to wait for us."""
SHRINK_AFTER: Final[Seconds] = 30.0
_AFTER_FAULT: Final[Seconds] = 1.0

T = TypeVar("T")


class Pump:
    """Rounds over all captures. `post` and `ask` are for other threads, the rest for its own."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self.rounds = 0
        self.is_stopped = False
        self._log = log
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._is_called = threading.Event()
        self._scratch = Scratch()
        self._captures: dict[int, Capture] = {}
        self._failing: set[Capture] = set()
        self._unwatched: set[Capture] = set()
        self._large: dict[Capture, Seconds] = {}
        self._is_stopping = self._leaves = False
        self._thread = threading.Thread(target=self._run, name="plugind-logs", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, *, leaves: bool = False) -> None:
        """Return when every FIFO is drained, everything is closed and the thread is gone.

        Where it `leaves`, captures have what no disk took; else that is lost.
        """
        if self.is_stopped:
            return
        self._leaves = leaves
        self.post(self._stop)
        self.is_stopped = True
        if self._thread.ident is None:
            self._close()
        else:
            self._thread.join()
        os.close(self._wake)  # not by the thread: it may end before whoever posted its end has rung

    def post(self, *commands: Callable[[], None]) -> None:
        """Have the thread do something, after what was posted before; from any thread."""
        self._commands.extend(commands)
        os.eventfd_write(self._wake, 1)
        self._is_called.set()

    async def ask(self, question: Callable[[], T]) -> T:
        """The answer of `question`, asked in the thread."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(value: T) -> None:
            if not answer.done():
                answer.set_result(value)

        def fail(error: Exception) -> None:
            if not answer.done():
                answer.set_exception(error)

        def command() -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                try:
                    value = question()
                except Exception as error:  # noqa: BLE001 - it is for whoever asked
                    loop.call_soon_threadsafe(fail, error)
                else:
                    loop.call_soon_threadsafe(settle, value)

        self.post(command)
        return await answer

    def add(self, capture: Capture) -> None:
        capture.begin(time.monotonic())
        self._note_failing(capture)
        self._captures[capture.fifo.fd] = capture
        self._watch(capture)

    def _watch(self, capture: Capture) -> None:
        """Be woken by it; where the kernel has no memory or no watch for that, look at it now and then."""
        try:
            self._epoll.register(capture.fifo.fd, select.EPOLLIN)
        except OSError as error:
            if capture not in self._unwatched:
                self._log.warning("log_not_watched", mount=str(capture.key), reason=str(error))
            self._unwatched.add(capture)
        else:
            self._unwatched.discard(capture)

    def remove(self, capture: Capture, *, leaves: bool = False) -> None:
        if self._captures.pop(capture.fifo.fd, None) is not None and capture not in self._unwatched:
            self._epoll.unregister(capture.fifo.fd)
        self._unwatched.discard(capture)
        self._failing.discard(capture)
        self._large.pop(capture, None)
        capture.close(self._scratch, time.monotonic(), leaves=leaves)

    def drain(self, capture: Capture) -> None:
        if not capture.is_closed:
            capture.drain(self._scratch, time.monotonic())
            self._note_failing(capture)

    def round(self, timeout: Seconds | None = None) -> Seconds:
        """Serve every mount that has something once; how long to wait now, so that more comes together.

        Blocks until there is something to do, or for `timeout` seconds.
        """
        ready = self._epoll.poll(timeout, len(self._captures) + 1)
        now = time.monotonic()
        pause = PAUSE
        for fd, _ in ready:
            if self._commands or fd == self._wake:  # who waits for a drain does not wait for all others
                self._obey()
            capture = self._captures.get(fd)
            if capture is not None:
                pause = min(pause, self._serve(capture, now))
        if self._failing:
            self._retry(now)
        for capture in tuple(self._unwatched):
            self._serve(capture, now)
            self._watch(capture)
        if self._large:
            self._shrink(now)
        self.rounds += 1
        return pause

    def _serve(self, capture: Capture, now: Seconds) -> Seconds:
        moved = capture.pump(self._scratch, MOST_PER_ROUND, now)
        # not the last round alone: who was blocked until now comes with little, and at once with much
        capture.rate = max(moved / (now - capture.pumped_at), capture.rate / 2)
        capture.pumped_at = now
        if moved >= capture.fifo.capacity // 2:
            if capture.fifo.capacity < LARGE:
                capture.fifo.resize(LARGE)
            self._large[capture] = now
        self._note_failing(capture)
        pause = GATHERED * capture.fifo.capacity / capture.rate if moved else PAUSE
        return 0.0 if pause < SHORTEST and capture.fifo.capacity >= LARGE else pause

    def _run(self) -> None:
        while not self._is_stopping:
            try:
                pause = self.round(self._patience())
            except Exception:  # noqa: BLE001 - a fault in one mount's log must not block the output of all
                self._log.error("log_round_failed", exc_info=True)
                pause = _AFTER_FAULT
            if not self._is_stopping:
                self._is_called.wait(pause)
        self._close()

    def _patience(self) -> Seconds | None:
        if self._failing or self._unwatched:
            return RETRY_EVERY
        return SHRINK_AFTER if self._large else None

    def _obey(self) -> None:
        self._is_called.clear()  # first: what is posted from here on calls again
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        self._obey_all()

    def _obey_all(self) -> None:
        while self._commands:
            command = self._commands.popleft()
            try:
                command()
            except Exception:  # noqa: BLE001 - the others are other mounts'
                self._log.error("log_command_failed", exc_info=True)

    def _note_failing(self, capture: Capture) -> None:
        if capture.is_failing:
            self._failing.add(capture)
        else:
            self._failing.discard(capture)

    def _retry(self, now: Seconds) -> None:
        for capture in tuple(self._failing):
            capture.retry(now)
            self._note_failing(capture)

    def _shrink(self, now: Seconds) -> None:
        """Give back the large buffers of mounts that have become quiet."""
        for capture, busy in tuple(self._large.items()):
            if now - busy >= SHRINK_AFTER:
                capture.fifo.resize(SMALL)
                del self._large[capture]

    def _stop(self) -> None:
        self._is_stopping = True

    def _close(self) -> None:
        self._obey_all()
        for capture in tuple(self._captures.values()):
            self.remove(capture, leaves=self._leaves)
        self._epoll.close()
        self._scratch.close()
