"""The timers of one mount. A backoff that is over takes its turn among those of the whole daemon."""

import asyncio
from collections.abc import Callable

from supervisor.domain.events import Event, Paced
from supervisor.domain.names import Seconds
from supervisor.engine.pace import Pace, Turn
from supervisor.engine.ports import Clock


class Timers:
    __slots__ = ("_clock", "_fired", "_pace", "_post", "_timers")

    def __init__(
        self, clock: Clock, pace: Pace, fired: Callable[[str, int], None], post: Callable[[Event], None]
    ) -> None:
        """Call `fired` with name and generation of a timer that is over; `post` that a backoff waits on."""
        self._clock = clock
        self._pace = pace
        self._fired = fired
        self._post = post
        self._timers: dict[tuple[str, int], asyncio.TimerHandle | Turn] = {}

    def set(self, name: str, generation: int, when: Seconds) -> None:
        self.clear(name, generation)
        self._timers[name, generation] = self._clock.call_at(when, self._over, name, generation)

    def clear(self, name: str, generation: int) -> None:
        timer = self._timers.pop((name, generation), None)
        if timer is not None:
            timer.cancel()

    def leave(self) -> None:
        for timer in self._timers.values():
            timer.cancel()

    def _over(self, name: str, generation: int) -> None:
        self._timers.pop((name, generation), None)
        if name == "backoff":
            self._take_turn(generation)
        else:
            self._fired(name, generation)

    def _take_turn(self, generation: int) -> None:
        waits = self._pace.turn(lambda: self._turn_came(generation))
        if waits is not None:
            self._timers["backoff", generation], why = waits
            self._post(Paced(generation, why))

    def _turn_came(self, generation: int) -> None:
        self._timers.pop(("backoff", generation), None)
        self._fired("backoff", generation)
