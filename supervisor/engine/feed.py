"""Every transition to every subscriber: log, `why`, event streams, metrics. A slow one is dropped.

A step that changes nothing that anybody would see is not published.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

from supervisor.domain.errors import Unavailable
from supervisor.domain.events import Action, Event
from supervisor.domain.mount import Mount
from supervisor.domain.names import Seconds

REMEMBERED: Final = 10_000
"""Transitions that an event stream can resume from."""
SLOW: Final = 5_000
"""Transitions that wait for one subscriber before it is dropped."""


class Transition(msgspec.Struct, frozen=True):
    before: Mount
    event: Event
    after: Mount
    actions: tuple[Action, ...]
    now: Seconds
    pid: int | None
    number: int
    at: datetime


class Lagged(Unavailable):
    """The subscriber did not keep up."""


class Feed:
    def __init__(self, tell: Callable[[Transition], None], number: int = 0) -> None:
        self._tell = tell
        self._number = number
        """Of the last transition; after an upgrade they are counted on."""
        self._recent: deque[Transition] = deque(maxlen=REMEMBERED)
        self._subscribers: set[asyncio.Queue[Transition | None]] = set()

    @property
    def number(self) -> int:
        return self._number

    def recent(self, most: int) -> list[Transition]:
        """The last transitions, oldest first."""
        return list(self._recent)[-most:]

    def publish(
        self,
        before: Mount,
        event: Event,
        after: Mount,
        actions: tuple[Action, ...],
        now: Seconds,
        pid: int | None,
    ) -> Transition:
        self._number += 1
        transition = Transition(before, event, after, actions, now, pid, self._number, datetime.now(UTC))
        self._recent.append(transition)
        self._tell(transition)
        for queue in [*self._subscribers]:
            if queue.qsize() >= SLOW:
                self._subscribers.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(transition)
        return transition

    async def subscribe(self, after: int | None) -> AsyncIterator[Transition]:
        """Transitions as they happen; those after number `after` first, as far as they are still known.

        A number that was not given yet is of an earlier plugind: then all that is known comes first.

        Raises:
            Lagged: The caller took too long between two.
        """
        queue: asyncio.Queue[Transition | None] = asyncio.Queue()
        seen = self._number if after is None else after if after <= self._number else 0
        missed = [transition for transition in self._recent if transition.number > seen]
        self._subscribers.add(queue)
        try:
            for transition in missed:  # not through the queue: who has much to catch up with is not slow
                yield transition
            while (following := await queue.get()) is not None:
                yield following
        finally:
            self._subscribers.discard(queue)
        raise Lagged("cannot go on with the events: the reader was too slow")
