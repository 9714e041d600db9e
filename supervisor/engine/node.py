"""What may be asked of this node; API and cluster have no other door.

Here a request becomes jobs for the mounts' actors, after everything that it needs was verified.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import structlog

from supervisor.domain import events
from supervisor.domain.access import Caller
from supervisor.domain.catalog import Catalog, Launch, MountSpec
from supervisor.domain.errors import NotFound, PlugindError, Unavailable
from supervisor.domain.memory import StoppedBy
from supervisor.domain.mount import Mount, launch_to_start
from supervisor.domain.names import MountKey, Namespace, PluginRef
from supervisor.domain.plan import Step, Target, described, diff, select
from supervisor.engine import views
from supervisor.engine.facilities import About, Facilities
from supervisor.engine.feed import Feed
from supervisor.engine.fleet import Fleet, launch_to_restart
from supervisor.engine.narrator import narrate, row_of
from supervisor.engine.preflight import Preflight
from supervisor.engine.reload import (
    DONE,
    Job,
    Options,
    Reload,
    Verb,
    dry_row,
    fill,
    job_of,
    pending,
)
from supervisor.engine.reports import Reports
from supervisor.engine.staging import Staging
from supervisor.engine.world import Ended, World
from supervisor.wire import InstanceRow, MountResult, NodeStatus, PinData, PlanData, ReloadData, TransitionRow

__all__ = ["About", "Facilities", "Node", "Options", "Ticket"]
log = structlog.get_logger(__name__)
Ticket = Reload
PATIENCE: Final = 1.0
"""Seconds that a reload waits for what is remembered to be on disk."""


class Node:
    def __init__(self, about: About, facilities: Facilities[Any], tasks: asyncio.TaskGroup) -> None:
        self.name = about.name
        self.version = about.version
        self._about = about
        self._has = facilities
        self._tasks = tasks
        self._started_at = datetime.now(UTC)
        self._staging = Staging(facilities.file)
        self._preflight = Preflight(facilities.binaries, facilities.processes.unsupported)
        self._feed = Feed(narrate)
        self._reports = Reports(facilities.history, tasks)
        self._fleet = Fleet(
            World(
                facilities.clock,
                facilities.processes,
                facilities.binaries,
                facilities.logs,
                facilities.memory,
                self._feed,
                tasks,
                self._reports.amended,
            )
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
        await self._staging.begin()
        self._warnings += await self._fleet.begin(self.catalog, self._has.remains)
        for warning in self._warnings:
            log.warning("remains_found", reason=warning)
        self._begun.set()

    async def shut_down(self) -> None:
        """Stop every instance in an orderly way; nothing new is begun."""
        self._leaving = True
        await self._fleet.shut_down()

    async def leave(self) -> None:
        """Leave the instances to the next plugind."""
        self._leaving = True
        await self._fleet.leave()

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
            warnings=self._warnings,
        )

    def instances(self, namespace: Namespace) -> list[InstanceRow]:
        """Rows of `namespace` and its children (root: all), sorted by namespace and mount."""
        mounts = self.catalog.mounts
        keys = sorted(key for key in mounts.keys() | self._fleet.keys() if namespace.covers(key.namespace))
        usage = self._has.processes.usage
        return [views.instance_row(key, mounts.get(key), self._fleet.get(key), usage) for key in keys]

    def why(self, key: MountKey) -> list[TransitionRow]:
        """The mount's last transitions, oldest first. Raises NotFound."""
        return [row_of(step) for step in self._fleet.found(key).history]

    async def events(self, namespace: Namespace, after: int | None) -> AsyncIterator[TransitionRow]:
        """Transitions as they happen, those after id `after` first where still known. Raises Lagged."""
        async for step in self._feed.subscribe(after):
            if namespace.covers(step.after.key.namespace):
                yield row_of(step)

    async def log_tail(self, key: MountKey, lines: int) -> list[bytes]:
        self._known(key)
        return await self._has.logs.tail(key, lines)

    def log_follow(self, key: MountKey, lines: int) -> AsyncIterator[bytes]:
        self._known(key)
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
        catalog = await self._staging.current()
        rows = [views.plan_row(step, catalog) for step in self._steps(catalog, namespace)]
        return PlanData(mounts=rows, catalog=self._staging.state())

    async def reload(
        self, target: Target, namespace: Namespace, options: Options, caller: Caller, reload_id: str
    ) -> Ticket:
        """Read and verify everything, then begin.

        Raises:
            Refused: With every fault; no process was touched.
        """
        await self._may_act()
        catalog = await self._staging.current()
        specs = [catalog.mounts[key] for key in select(catalog, target, namespace)]
        jobs = [
            Job(spec.key, "reload", str(spec.plugin), spec, held_by=self._held_by(spec.key)) for spec in specs
        ]
        data = self._data("reload", described(target, namespace), caller, reload_id, options)
        return await self._begin(data, jobs, options)

    async def apply(self, namespace: Namespace, options: Options, caller: Caller, reload_id: str) -> Ticket:
        """Everything that plan shows for `namespace` and its children.

        Raises:
            Refused: With every fault; no process was touched.
        """
        await self._may_act()
        catalog = await self._staging.current()
        jobs = [job_of(step, self._held_by(step.key)) for step in self._steps(catalog, namespace)]
        data = self._data("apply", str(namespace), caller, reload_id, options)
        return await self._begin(data, jobs, options)

    async def start(self, key: MountKey, caller: Caller) -> MountResult:
        """Run it, whatever it was stopped by. Raises NotFound, TargetUnfit."""
        spec = await self._spec(key)
        return await self._start(spec, await self._checked(spec, launch_to_start), caller)

    async def stop(self, key: MountKey, caller: Caller) -> MountResult:
        """Stop it, and keep it stopped over crash, upgrade and reboot. Raises NotFound."""
        await self._may_act()
        spec = self.catalog.mounts.get(key)
        actor = self._fleet.actor(spec) if spec else self._fleet.found(key)
        command = str(uuid4())
        by = StoppedBy(caller.name, datetime.now(UTC).timestamp())
        instance, process = actor.mount.instance, actor.process
        ended = await actor.ask(events.Stop(command, by), command)
        await self._has.memory.flush()  # before the answer: it holds over a power cut from now on
        row = self._result("stop", ended, caller)
        if instance is not None and process is not None:
            row.old_version, row.old_pid = instance.launch.version, process.pid
        return row

    async def restart(self, key: MountKey, caller: Caller) -> MountResult:
        """A new instance of what runs; a mount that runs nothing is started. Raises NotFound, TargetUnfit."""
        spec = await self._spec(key)
        launch = await self._checked(spec, launch_to_restart)
        actor = self._fleet.actor(spec)
        if actor.mount.instance is None or actor.mount.held is not None:
            return await self._start(spec, launch, caller)
        command = str(uuid4())
        ended = await actor.ask(events.Reload(launch, command), command)
        return self._result("reload", ended, caller)

    async def set_pin(self, ref: PluginRef, version: str, caller: Caller) -> PinData:
        """Edit the pin in the catalog file; moves no process. Raises Refused."""
        await self._has.file.set_pin(ref, version)
        await self._staging.look_again()
        log.info("pin_written", plugin=str(ref), version=version, by=caller.name)
        return PinData(type=ref.type, name=ref.name, version=version)

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

    def _steps(self, catalog: Catalog, namespace: Namespace) -> list[Step]:
        steps = diff(catalog, self._fleet.currents())
        return [step for step in steps if namespace.covers(step.key.namespace)]

    def _held_by(self, key: MountKey) -> str | None:
        actor = self._fleet.get(key)
        return actor.mount.held.who if actor is not None and actor.mount.held is not None else None

    async def _spec(self, key: MountKey) -> MountSpec:
        await self._may_act()
        spec = self.catalog.mounts.get(key)
        if spec is None:
            raise NotFound(f"no mount at {key} in the catalog")
        return spec

    async def _checked(self, spec: MountSpec, choose: Callable[[MountSpec, Mount], Launch]) -> Launch:
        """What is to run, once its files were checked; chosen again if the mount went on meanwhile."""
        while True:
            launch = choose(spec, self._fleet.mount(spec))
            await self._preflight.check([replace(spec, launch=launch)])
            if choose(spec, self._fleet.mount(spec)) == launch:
                return launch

    async def _start(self, spec: MountSpec, launch: Launch, caller: Caller) -> MountResult:
        actor = self._fleet.actor(spec)
        if actor.mount.is_empty and actor.mount.policies != spec.policies:
            actor.post(events.Configure(spec.policies))
        command = str(uuid4())
        ended = await actor.ask(events.Start(launch, command), command)
        return self._result("start", ended, caller)

    async def _begin(self, data: ReloadData, jobs: Sequence[Job], options: Options) -> Reload:
        jobs = await self._preflight.fit(jobs, partial=options.partial)
        reload = Reload(data, jobs, options, self._has.clock)
        if options.dry_run:
            currents = self._fleet.currents()
            reload.rehearse([dry_row(job, currents.get(job.key)) for job in jobs])
            return reload
        self._reports.begun(reload)
        self._tasks.create_task(self._run(reload))
        return reload

    async def _run(self, reload: Reload) -> None:
        try:
            with suppress(TimeoutError):  # a disk that hangs delays a reload, and does not stop it
                async with asyncio.timeout(PATIENCE):
                    # before the first kill: a next plugind must know what worked, should this one die now
                    await self._has.memory.flush()
            await reload.run(self._fleet.do, self._about.parallel)
            await self._reports.ended(reload)
        except Exception:
            # a request's edge: what broke in one reload costs no other
            log.exception("reload_broke", reload_id=reload.reload_id)

    def _result(self, verb: Verb, ended: Ended, caller: Caller) -> MountResult:
        spec = self.catalog.mounts.get(ended.key)
        row = pending(Job(ended.key, verb, str(spec.plugin) if spec else ""))
        fill(row, ended, DONE[verb])
        log.info("mount_commanded", verb=verb, mount=str(ended.key), result=row.result, by=caller.name)
        return row

    def _data(self, verb: str, target: str, caller: Caller, reload_id: str, options: Options) -> ReloadData:
        return ReloadData(
            reload_id=reload_id,
            verb="apply" if verb == "apply" else "reload",
            dry_run=options.dry_run,
            scope=options.scope,
            target=target,
            by=caller.name,
            started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            node=self.name,
        )

    def _known(self, key: MountKey) -> None:
        if key not in self.catalog.mounts:
            self._fleet.found(key)

    async def _may_act(self) -> None:
        """Return when what a former daemon left is known: before, a start could be a second one."""
        await self._begun.wait()
        if self._leaving:
            raise Unavailable("cannot do this now: plugind is shutting down")
