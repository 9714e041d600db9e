"""What may be asked of this node; API and cluster have no other door.

Here a request becomes jobs for the mounts' actors, after everything that it needs was verified.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Any

import structlog

from supervisor.domain.access import Caller
from supervisor.domain.catalog import Catalog
from supervisor.domain.errors import NotFound, PlugindError, Unavailable
from supervisor.domain.legacy import HandedNode
from supervisor.domain.names import ROOT, MountKey, Namespace, Seconds
from supervisor.domain.plan import Target
from supervisor.engine import views
from supervisor.engine.byhand import ByHand
from supervisor.engine.chronicle import Chronicle
from supervisor.engine.editing import Editing
from supervisor.engine.facilities import About, Facilities
from supervisor.engine.feed import Feed, Transition
from supervisor.engine.fleet import Fleet
from supervisor.engine.former import FormerFiles
from supervisor.engine.holding import Holding
from supervisor.engine.narrator import narrate, row_of
from supervisor.engine.pace import Pace
from supervisor.engine.preflight import Preflight
from supervisor.engine.reload import (
    Options,
    Reload,
)
from supervisor.engine.reloads import Reloads
from supervisor.engine.reports import Reports
from supervisor.engine.staging import Staging
from supervisor.engine.succession import Succession
from supervisor.engine.world import World
from supervisor.wire import (
    InstanceRow,
    MountResult,
    NodeStatus,
    PlanData,
    ReloadData,
    TransitionRow,
    UpgradeData,
)

__all__ = ["About", "Facilities", "Node", "Options", "Ticket"]
log = structlog.get_logger(__name__)
Ticket = Reload


class Node:
    def __init__(self, about: About, facilities: Facilities[Any], tasks: asyncio.TaskGroup) -> None:
        self.name = about.name
        self.version = about.version
        self._about = about
        self._has = facilities
        self._tasks = tasks
        self._started_at = datetime.now(UTC)
        self._staging = Staging(facilities.file)
        self._chronicle = Chronicle(facilities.clock, facilities.journal, tasks, self._rings)
        self._feed = Feed(self._tell, about.handed.number if about.handed is not None else 0)
        self._succession = Succession(about, facilities.successor, facilities.clock)
        self._reports = Reports(facilities.history, tasks)
        self.holding = Holding(facilities.holds, self._may_act)
        """Holds: what they refuse is refused here, they are set and released there."""
        self._fleet = Fleet(
            World(
                facilities.clock,
                facilities.processes,
                facilities.listeners,
                facilities.binaries,
                facilities.logs,
                facilities.memory,
                self._feed,
                Pace(facilities.clock, about.restarts),
                tasks,
                self._reports.amended,
            ),
            self.holding.is_frozen,
        )
        self.editing = Editing(
            facilities.file, self._staging, self.holding, self._may_act, self._fleet.launches
        )
        """What changes the catalog file."""
        self._former_files = FormerFiles(facilities.clock, facilities.binaries, self._fleet.needed)
        preflight = Preflight(facilities.binaries, facilities.listeners, facilities.processes)
        self._by_hand = ByHand(self._fleet, preflight, facilities.memory, self._staging)
        self._reloads = Reloads(
            about,
            facilities,
            tasks,
            self._staging,
            self._fleet,
            preflight,
            self.holding,
            self._reports,
            self._former_files,
        )
        self._warnings: list[str] = []
        self._leaving = False
        self._begun = asyncio.Event()
        self._begun.set()

    # --- the life of the daemon

    def expect_begin(self) -> None:
        """Let commands wait for the end of `begin`: the socket answers before."""
        self._begun.clear()

    async def begin(self) -> None:
        """Read the catalog, adopt what lives and start the rest; commands wait until that is done."""
        self.expect_begin()
        await self._chronicle.begin()
        await self.holding.begin()
        await self._staging.begin()
        handed = self._about.handed
        self._warnings += await self._fleet.begin(
            self.catalog,
            self._has.remains,
            self._chronicle.saw,
            handed.mounts if handed is not None else None,
        )
        await self._reports.close_interrupted()
        for warning in self._warnings:
            log.warning("remains_found", reason=warning)
        self._succession.took_over()
        self._begun.set()

    async def shut_down(self) -> None:
        """Stop every instance in an orderly way; nothing new is begun."""
        self._leaving = True
        await self._fleet.shut_down()
        await self._chronicle.end()

    async def settled(self, seconds: Seconds) -> None:
        """Return when no reload is under way, or after `seconds`."""
        await self._reports.settled(seconds)

    async def leave(self) -> HandedNode:
        """Leave the instances to the next plugind; and what that one should know, where it comes at once."""
        self._leaving = True
        await self._reports.interrupt()
        mounts = await self._fleet.leave()
        await self._chronicle.end()
        return self._succession.left(mounts, self._feed)

    async def catalog_changed(self) -> None:
        """The file on disk may be another: look, and touch no process."""
        await self._staging.look_again()

    def warn(self, trouble: str) -> None:
        """Something that people should see in `status`."""
        self._warnings = [*self._warnings[-19:], trouble]
        log.warning("trouble_noticed", reason=trouble)

    # --- what is

    @property
    def catalog(self) -> Catalog:
        """The catalog in force."""
        return self._staging.catalog

    def status(self) -> NodeStatus:
        return NodeStatus(
            node=self.name,
            version=self.version,
            pid=self._about.pid,
            started_at=self._started_at.isoformat(timespec="milliseconds"),
            catalog=self._staging.state(),
            counts=views.counts(self._fleet.phases()),
            uses=dict(self._about.uses),
            warnings=[
                *self._warnings,
                *self._has.processes.unclaimed(),
                *self._has.listeners.troubles(),
            ],
            holds=self.holding.seen_from(ROOT),
            upgrade=self._succession.last,
        )

    def instances(self, namespace: Namespace) -> list[InstanceRow]:
        """Rows of `namespace` and its children (root: all), sorted by namespace and mount."""
        mounts = self.catalog.mounts
        keys = sorted(key for key in mounts.keys() | self._fleet.keys() if namespace.covers(key.namespace))
        usage = self._has.processes.usage
        return [views.instance_row(key, mounts.get(key), self._fleet.get(key), usage) for key in keys]

    def why(self, key: MountKey) -> list[TransitionRow]:
        """The mount's last transitions, oldest first. Raises NotFound."""
        return self._chronicle.of(key, self._fleet.found(key).history)

    async def events(self, namespace: Namespace, after: int | None) -> AsyncIterator[TransitionRow]:
        """Transitions as they happen, those after id `after` first where still known. Raises Lagged."""
        for row in self._succession.rows_after(after, self._feed):
            if namespace.covers(Namespace.parse(row.namespace)):
                yield row
        async for step in self._feed.subscribe(after):
            if namespace.covers(step.after.key.namespace):
                yield row_of(step)

    async def log_tail(self, key: MountKey, lines: int) -> list[bytes]:
        self._known(key)
        return await self._has.logs.tail(key, lines)

    def log_follow(self, key: MountKey, lines: int) -> AsyncIterator[bytes]:
        """Its bytes as they come. Raises NotFound, also where nothing was ever to run."""
        self._known(key)
        if self._fleet.get(key) is None:
            raise NotFound(f"cannot follow the log of {key}: it is in the catalog, and was never applied")
        return self._has.logs.follow(key, lines)

    def report(self, reload_id: str) -> ReloadData | None:
        """A reload under way or from history."""
        return self._reports.of(reload_id)

    def history(self, most: int) -> list[ReloadData]:
        """Newest first."""
        return self._reports.latest(most)

    # --- what changes something

    async def plan(self, namespace: Namespace) -> PlanData:
        """What apply would do now, from the file as it is on disk. Raises CatalogInvalid."""
        await self._begun.wait()
        return await self._reloads.plan(namespace)

    async def reload(
        self, target: Target, namespace: Namespace, options: Options, caller: Caller, reload_id: str
    ) -> Ticket:
        """Read and verify everything, then begin.

        Raises:
            Refused: With every fault; no process was touched.
        """
        await self._may_act()
        return await self._reloads.reload(target, namespace, options, caller, reload_id)

    async def apply(self, namespace: Namespace, options: Options, caller: Caller, reload_id: str) -> Ticket:
        """Everything that plan shows for `namespace` and its children.

        Raises:
            Refused: With every fault; no process was touched.
        """
        await self._may_act()
        return await self._reloads.apply(namespace, options, caller, reload_id)

    async def start(self, key: MountKey, caller: Caller) -> MountResult:
        """Run it, whatever it was stopped by. Raises NotFound, TargetUnfit."""
        await self._may_act()
        return await self._by_hand.start(key, caller)

    async def stop(self, key: MountKey, caller: Caller) -> MountResult:
        """Stop it, and keep it stopped over crash, upgrade and reboot. Raises NotFound."""
        await self._may_act()
        return await self._by_hand.stop(key, caller)

    async def restart(self, key: MountKey, caller: Caller) -> MountResult:
        """A new instance of what runs; a mount that runs nothing is started. Raises NotFound, TargetUnfit."""
        await self._may_act()
        return await self._by_hand.restart(key, caller)

    async def upgrade(self, caller: Caller, upgrade_id: str) -> UpgradeData:
        """Have a new plugind take over in place, soon. Raises Cannot, Conflict: this one goes on."""
        await self._may_act()
        return await self._succession.begin(upgrade_id, caller)

    def upgrade_failed(self, why: str) -> None:
        """It was broken off before anything was let go of."""
        self._succession.failed(why)

    def audit(self, caller: Caller, what: str, namespace: Namespace, result: str) -> None:
        """One line in audit.log: every command that changes something, done or refused."""
        entry = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "who": caller.name,
            "uid": caller.uid,
            "pid": caller.pid,
            "what": what,
            "namespace": str(namespace),
            "result": result,
        }
        try:
            self._has.audit.write(entry)
        except PlugindError as error:
            log.error("audit_not_written", entry=entry, reason=str(error))

    # --- within

    def _tell(self, step: Transition) -> None:
        narrate(step)
        self._chronicle.note(step)
        self._former_files.note(step)

    def _rings(self) -> dict[MountKey, Iterable[Transition]]:
        return {key: actor.history for key, actor in self._fleet.items()}

    def _known(self, key: MountKey) -> None:
        if key not in self.catalog.mounts:
            self._fleet.found(key)

    async def _may_act(self) -> None:
        """Return when what a former daemon left is known: before, a start could be a second one."""
        await self._begun.wait()
        if self._leaving:
            raise Unavailable("cannot do this now: plugind is shutting down")
