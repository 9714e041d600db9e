"""Reloads that are known: those under way, those that ended a while ago, and those of history."""

import asyncio
from typing import Final

import msgspec

from supervisor.engine.ports import History
from supervisor.engine.reload import Reload, amend
from supervisor.engine.world import Ended
from supervisor.wire import ReloadData

KEPT: Final = 200
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

    async def ended(self, reload: Reload) -> None:
        """Keep it over restarts of the daemon."""
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
        found = [msgspec.json.decode(document, type=ReloadData) for document in self._history.latest(most)]
        return (under_way + found)[:most]

    def amended(self, command: str, ended: Ended) -> None:
        """What was answered is not true any more: a version died after it had been ready."""
        reload = self._reloads.get(command)
        if reload is not None:
            reload.amend(ended)
        if reload is None or reload.is_done:  # else it goes to history when it is done
            self._tasks.create_task(self._amend(command, ended))

    async def _amend(self, command: str, ended: Ended) -> None:
        report = self.of(command)
        if report is None:
            return  # a start by hand: it was answered, and is kept nowhere
        if command not in self._reloads:
            amend(report, ended)
        await self._history.amend(command, msgspec.json.encode(report))
