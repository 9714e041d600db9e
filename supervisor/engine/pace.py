"""Turns for restarts that nobody asked for: in order, at a rate that holds for the whole daemon.

What people ask for (a start, a reload, a restart) takes no turn, and neither does the start of the daemon.
"""

from collections import deque
from collections.abc import Callable

from supervisor.domain import restarts
from supervisor.domain.catalog import RestartRate
from supervisor.engine.ports import Clock


class Turn:
    """A place in the queue."""

    __slots__ = ("go", "is_cancelled")

    def __init__(self, go: Callable[[], None]) -> None:
        self.go = go
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Pace:
    def __init__(self, clock: Clock, rate: RestartRate) -> None:
        self._clock = clock
        self._rate = rate
        self._bucket = restarts.full(rate, clock.time())
        self._queue: deque[Turn] = deque()
        self._is_due = False

    def turn(self, go: Callable[[], None]) -> tuple[Turn, str] | None:
        """Call `go` now; or return its place, where it is called later, and why it has to wait."""
        self._forget_cancelled()
        if not self._queue and self._take() <= 0:
            go()
            return None
        turn = Turn(go)
        self._queue.append(turn)
        if not self._is_due:
            self._call_next(self._take())
        before = len(self._queue) - 1
        return turn, (
            f"waits for its turn: {before} {'other' if before == 1 else 'others'} first, "
            f"{self._rate.per_second:g} restarts a second (restarts in plugind.yaml)"
        )

    def _forget_cancelled(self) -> None:
        while self._queue and self._queue[0].is_cancelled:
            self._queue.popleft()

    def _take(self) -> float:
        self._bucket, wait = restarts.take(self._bucket, self._rate, self._clock.time())
        return wait

    def _call_next(self, wait: float) -> None:
        self._is_due = True
        self._clock.call_at(self._clock.time() + wait, self._next)

    def _next(self) -> None:
        self._is_due = False
        while True:
            self._forget_cancelled()
            if not self._queue:
                return
            wait = self._take()
            if wait > 0:
                self._call_next(wait)
                return
            self._queue.popleft().go()
