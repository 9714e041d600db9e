"""When files that are held open are let go of: soon after what may come back has changed, for all mounts.

An open file that was deleted still takes its room on the disk.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from supervisor.domain.catalog import Launch
from supervisor.domain.names import Seconds
from supervisor.engine.feed import Transition
from supervisor.engine.ports import Binaries, Clock

LATER: Final[Seconds] = 1.0


class FormerFiles:
    """`needed` are the launches whose files have to stay."""

    def __init__(self, clock: Clock, binaries: Binaries, needed: Callable[[], Iterable[Launch]]) -> None:
        self._clock = clock
        self._binaries = binaries
        self._needed = needed
        self._due: asyncio.TimerHandle | None = None

    def note(self, step: Transition) -> None:
        """Another version has proved itself, or gave way."""
        before, after = step.before, step.after
        if before.good is not after.good or before.rolled_back_from is not after.rolled_back_from:
            self.look_soon()

    def look_soon(self) -> None:
        if self._due is None:
            self._due = self._clock.call_at(self._clock.time() + LATER, self._look)

    def _look(self) -> None:
        self._due = None
        self._binaries.keep_only(self._needed())
