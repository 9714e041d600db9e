"""Holds of this node, from the command to its release: in force and on disk before the answer.

What a hold freezes is decided in `domain/holds.py`; who carries something out asks here first.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import structlog

from supervisor.domain import holds
from supervisor.domain.access import Caller
from supervisor.domain.errors import Cannot
from supervisor.domain.holds import Hold
from supervisor.domain.names import ROOT, MountKey, Namespace
from supervisor.engine.ports import HoldFile
from supervisor.wire import HoldData

log = structlog.get_logger(__name__)
ITSELF = "plugind"


class Holding:
    """The one who knows which holds there are. `may_act` returns when commands may be carried out."""

    def __init__(self, file: HoldFile, may_act: Callable[[], Awaitable[None]]) -> None:
        self._file = file
        self._may_act = may_act
        self._holds: dict[Namespace, Hold] = {}
        self._turn = asyncio.Lock()

    async def begin(self) -> None:
        """Know what a former daemon held; where that cannot be told, everything is: nothing is lost so."""
        try:
            self._holds = {hold.namespace: hold for hold in self._file.load()}
        except Cannot as error:
            why = f"{error}; release it if nothing was held"
            self._holds = {ROOT: Hold(ROOT, why, ITSELF, _now())}
            log.warning("holds_lost", reason=why)
            with suppress(Cannot):
                await self._file.write(self._all())

    def seen_from(self, namespace: Namespace) -> list[HoldData]:
        """What freezes a namespace, and what is held below it."""
        return [row(hold) for hold in holds.seen_from(self._holds, namespace)]

    async def set(self, namespace: Namespace, why: str, caller: Caller) -> HoldData:
        """Freeze a namespace and those below it. What was begun goes on to its end.

        Raises:
            BadRequest: It does not say why.
            Conflict: It is held already.
            Cannot: The hold would not outlive a restart, so there is none.
        """
        await self._may_act()
        async with self._turn:
            before, hold = self._holds, Hold(namespace, why.strip(), caller.name, _now())
            self._holds = holds.added(before, hold)
            try:
                await self._file.write(self._all())
            except Cannot:
                self._holds = before
                raise
        log.info("namespace_held", namespace=str(namespace), reason=hold.why, by=caller.name)
        return row(hold)

    async def release(self, namespace: Namespace, caller: Caller) -> HoldData:
        """End the hold of a namespace, whoever set it. Raises NotFound, Cannot: then it stays."""
        await self._may_act()
        async with self._turn:
            left, ended = holds.released(self._holds, namespace)
            await self._file.write(tuple(left.values()))
            self._holds = left
        log.info("namespace_released", namespace=str(namespace), held_by=ended.who, by=caller.name)
        return row(ended)

    @asynccontextmanager
    async def steady(self) -> AsyncIterator[None]:
        """Run the body while no hold is set or released: what it does was allowed all the time."""
        async with self._turn:
            yield

    def refuse(self, verb: str, places: Iterable[Namespace], way_out: str = "") -> None:
        """Return if nothing of `places` is held. Raises Held."""
        holds.refuse(self._holds, verb, places, way_out)

    def why_not(self, key: MountKey) -> str | None:
        """Which hold keeps a mount as it is now, for people; None where there is none."""
        return holds.why_not(self._holds, key)

    def is_frozen(self, key: MountKey) -> bool:
        return holds.over(self._holds, key.namespace) is not None

    def _all(self) -> Sequence[Hold]:
        return tuple(self._holds.values())


def row(hold: Hold) -> HoldData:
    return HoldData(namespace=str(hold.namespace), why=hold.why, who=hold.who, since=hold.since)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
