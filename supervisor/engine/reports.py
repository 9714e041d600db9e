"""Reloads that are known: those under way, those that ended a while ago, and those of history."""

import asyncio
from typing import Final

import msgspec

from supervisor.domain.names import Seconds
from supervisor.engine.ports import History
from supervisor.engine.reload import Reload, amend, close_interrupted
from supervisor.engine.world import Ended, begin_in
from supervisor.wire import ReloadData

DIED: Final = "plugind died before this was done: see status for what runs"
LEFT: Final = (
    "plugind ended and left its plugins to the next one before this was done: see status for what runs"
)
KEPT: Final = 16
"""Finished reloads that are answered from memory; older ones from history."""


class Reports:
    def __init__(self, history: History, tasks: asyncio.TaskGroup) -> None:
        self._history = history
        self._tasks = tasks
        self._reloads: dict[str, Reload] = {}

    def begun(self, reload: Reload) -> None:
        self._reloads[reload.reload_id] = reload
        for old in [known for known, one in self._reloads.items() if one.is_done][:-KEPT]:
            del self._reloads[old]

    async def note(self, reload: Reload) -> None:
        """Let a next daemon know of it, should this one die before its end."""
        await self._history.note(reload.reload_id, msgspec.json.encode(reload.report()))

    async def close_interrupted(self) -> None:
        """What a former daemon had begun and did not end is over: what was not done by then is not done."""
        for document in self._history.unended():
            report = msgspec.json.decode(document, type=ReloadData)
            close_interrupted(report, DIED)
            await self._history.append(report.reload_id, msgspec.json.encode(report))

    async def settled(self, seconds: Seconds) -> None:
        """Return when no reload is under way, or after `seconds`."""
        await asyncio.gather(*(one.wait(seconds) for one in self._reloads.values() if not one.is_done))

    async def interrupt(self) -> None:
        """This plugind ends, and what it did not do by now is not done by it."""
        for reload in self._reloads.values():
            if not reload.is_done:
                reload.interrupt(LEFT)
                await self._history.append(reload.reload_id, msgspec.json.encode(reload.report()))

    async def ended(self, reload: Reload) -> None:
        """Keep it over restarts of the daemon."""
        if reload.is_interrupted:
            return
        await self._history.append(reload.reload_id, msgspec.json.encode(reload.report()))

    def of(self, reload_id: str) -> ReloadData | None:
        """A reload under way or from history."""
        if reload_id in self._reloads:
            return self._reloads[reload_id].report()
        document = self._history.get(reload_id)
        return None if document is None else msgspec.json.decode(document, type=ReloadData)

    def latest(self, most: int) -> list[ReloadData]:
        """Newest first."""
        under_way = [reload.report() for reload in reversed(self._reloads.values()) if not reload.is_done]
        noted = {report.reload_id for report in under_way}
        documents = self._history.latest(most + len(noted))
        found = [msgspec.json.decode(document, type=ReloadData) for document in documents]
        return (under_way + [report for report in found if report.reload_id not in noted])[:most]

    def amended(self, command: str, ended: Ended) -> None:
        """What was answered is not true any more: a version died after it had been ready."""
        reload = self._reloads.get(command)
        if reload is not None:
            reload.amend(ended)
        if reload is None or reload.is_done:  # else it goes to history when it is done
            begin_in(self._tasks, self._amend(command, ended))

    async def _amend(self, command: str, ended: Ended) -> None:
        report = self.of(command)
        if report is None:
            return  # a start by hand: it was answered, and is kept nowhere
        if command not in self._reloads:
            amend(report, ended)
        await self._history.amend(command, msgspec.json.encode(report))
