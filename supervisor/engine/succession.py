"""An upgrade in place, as the engine sees it: from the request to the plugind that has taken over.

What of the engine's goes over is made in `domain/legacy.py`; how it goes, in `host/upgrade.py`.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog

from supervisor.domain.access import Caller
from supervisor.domain.errors import Conflict
from supervisor.domain.legacy import Errand, HandedMount, HandedNode
from supervisor.engine.facilities import About
from supervisor.engine.feed import Feed
from supervisor.engine.narrator import row_of
from supervisor.engine.ports import Clock, Successor
from supervisor.wire import TransitionRow, UpgradeData

log = structlog.get_logger(__name__)
KEPT: Final = 1_000
"""Transitions that go over the exec, for who follows the events and has not got them yet."""


class Succession:
    def __init__(self, about: About, successor: Successor, clock: Clock) -> None:
        self._version = about.version
        self._successor = successor
        self._clock = clock
        self._errand = about.errand
        events = about.handed.events if about.handed is not None else b"[]"
        self._former = msgspec.json.decode(events, type=list[TransitionRow])
        self.last: UpgradeData | None = None
        """The upgrade under way, or the last one."""
        if self._errand is not None:
            self.last = _under_way(self._errand)

    def took_over(self) -> None:
        """The mounts are what they were: this plugind has begun."""
        if self._errand is None or self.last is None:
            return
        self.last.seconds = round(self._clock.time() - self._errand.left_at, 3)
        if self._errand.error is None:
            self.last.result, self.last.new_version = "done", self._version
            log.info("upgrade_done", old=self.last.old_version, new=self._version, seconds=self.last.seconds)
        else:
            self.failed(self._errand.error)

    def failed(self, why: str) -> None:
        """The one under way; this plugind goes on."""
        assert self.last is not None  # noqa: S101 - there is one
        self.last.result, self.last.error = "failed", why
        log.error("upgrade_failed", reason=why, seconds=self.last.seconds)

    async def begin(self, upgrade_id: str, caller: Caller) -> UpgradeData:
        """Find out whether the new plugind would start, then have it take over.

        Raises:
            Conflict: One is under way.
            Cannot: It would not start; nothing was touched.
        """
        if self.last is not None and self.last.result == "under way":
            raise Conflict("cannot upgrade: an upgrade is under way already")
        began_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        errand = Errand(upgrade_id=upgrade_id, old_version=self._version, began_at=began_at)
        self.last = asked = _under_way(errand)
        try:
            await self._successor.check()
        except BaseException as error:
            asked.result, asked.error = "failed", str(error) or "broken off"
            log.warning("upgrade_refused", by=caller.name, reason=asked.error)
            raise
        log.info("upgrade_begun", by=caller.name)
        self._successor.take_over(errand)
        return asked

    def left(self, mounts: Iterable[HandedMount], feed: Feed) -> HandedNode:
        """What the next plugind is handed of the engine."""
        rows = [*self._former, *map(row_of, feed.recent(KEPT))][-KEPT:]
        return HandedNode(tuple(mounts), feed.number, msgspec.json.encode(rows))

    def rows_after(self, number: int | None, feed: Feed) -> Iterator[TransitionRow]:
        """Transitions of the plugind before this one that a follower has not got yet, as `Feed` counts."""
        if number is not None:
            seen = number if number <= feed.number else 0
            yield from (row for row in self._former if row.id > seen)


def _under_way(errand: Errand) -> UpgradeData:
    return UpgradeData(
        upgrade_id=errand.upgrade_id,
        result="under way",
        old_version=errand.old_version,
        began_at=errand.began_at,
    )
