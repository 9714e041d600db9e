"""Reloads and applies, from what was asked for to one under way: which mounts, whether they may, what fits.

How it goes on from there is in `reload.py`.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog

from supervisor.domain.access import Caller
from supervisor.domain.catalog import Catalog, Launch
from supervisor.domain.events import Outcome
from supervisor.domain.names import MountKey, Namespace
from supervisor.domain.plan import Step, Target, described, diff, handed_on, select
from supervisor.engine import views
from supervisor.engine.byhand import PATIENCE, on_disk
from supervisor.engine.facilities import About, Facilities
from supervisor.engine.fleet import Fleet
from supervisor.engine.former import FormerFiles
from supervisor.engine.holding import Holding
from supervisor.engine.preflight import Preflight
from supervisor.engine.reload import Job, Options, Reload, Signs, dry_row, job_of, reload_of
from supervisor.engine.reports import Reports
from supervisor.engine.staging import Staging
from supervisor.engine.world import Ended
from supervisor.wire import PlanData, ReloadData

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reloads:
    about: About
    has: Facilities[Any]
    tasks: asyncio.TaskGroup
    staging: Staging
    fleet: Fleet[Any]
    preflight: Preflight
    holding: Holding
    reports: Reports
    former_files: FormerFiles

    async def plan(self, namespace: Namespace) -> PlanData:
        """What apply would do now, from the file as it is on disk. Raises CatalogInvalid."""
        catalog = await self.staging.current()
        rows = [views.plan_row(step, catalog) for step in self._steps(catalog, namespace)]
        state = self.staging.state()
        return PlanData(mounts=rows, catalog=state, holds=self.holding.seen_from(namespace))

    async def reload(
        self, target: Target, namespace: Namespace, options: Options, caller: Caller, reload_id: str
    ) -> Reload:
        """Read and verify everything, then begin.

        Raises:
            Refused: With every fault; no process was touched.
        """
        catalog = await self.staging.current()
        specs = [catalog.mounts[key] for key in select(catalog, target, namespace)]
        jobs = [reload_of(spec, self._held_by(spec.key), self.staging.number) for spec in specs]
        jobs = self._allowed("reload", jobs, options)
        data = self._data("reload", described(target, namespace), caller, reload_id, options)
        return await self._begin(data, jobs, options)

    async def apply(self, namespace: Namespace, options: Options, caller: Caller, reload_id: str) -> Reload:
        """Everything that plan shows for `namespace` and its children.

        Raises:
            Refused: With every fault; no process was touched.
        """
        catalog = await self.staging.current()
        read = self.staging.number
        steps = self._steps(catalog, namespace)
        after = handed_on(steps)
        jobs = [job_of(step, self._held_by(step.key), read, after.get(step.key, ())) for step in steps]
        jobs = self._allowed("apply", jobs, options, namespace)
        data = self._data("apply", str(namespace), caller, reload_id, options)
        return await self._begin(data, jobs, options)

    def _steps(self, catalog: Catalog, namespace: Namespace) -> list[Step]:
        steps = diff(catalog, self.fleet.currents())
        return [step for step in steps if namespace.covers(step.key.namespace)]

    def _held_by(self, key: MountKey) -> str | None:
        actor = self.fleet.get(key)
        return actor.mount.held.who if actor is not None and actor.mount.held is not None else None

    def _allowed(self, verb: str, jobs: Sequence[Job], options: Options, *asked: Namespace) -> list[Job]:
        """The jobs, where nothing is held of what was `asked` for; with `partial`, these carry the reason."""
        frozen = {job.key: self.holding.why_not(job.key) for job in jobs if job.verb != "keep"}
        if not options.partial:
            places = [*asked, *(key.namespace for key in frozen)]
            self.holding.refuse(verb, places, ' (or ask for the rest, with "partial": true)')
        return [replace(job, frozen=why) if (why := frozen.get(job.key)) else job for job in jobs]

    async def _begin(self, data: ReloadData, jobs: Sequence[Job], options: Options) -> Reload:
        owner = None if options.dry_run else data.reload_id
        try:
            jobs = await self.preflight.fit(jobs, partial=options.partial, owner=owner)
        except BaseException:
            self.has.listeners.release(data.reload_id)
            raise
        reload = Reload(data, jobs, options, self.has.clock, Signs(self.holding.why_not, self.fleet.crashes))
        if options.dry_run:
            currents = self.fleet.currents()
            reload.rehearse([dry_row(job, currents.get(job.key)) for job in jobs])
            return reload
        self.fleet.kept(jobs)
        self.reports.begun(reload)
        self.tasks.create_task(self._run(reload))
        return reload

    async def _run(self, reload: Reload) -> None:
        try:
            with suppress(TimeoutError):  # a disk that hangs delays a reload, and does not stop it
                async with asyncio.timeout(PATIENCE):
                    # before the first kill: a next plugind must know what worked, should this one die now
                    await self.has.memory.flush()
                    await self.reports.note(reload)
            await reload.run(self._done, self.about.parallel, self.has.listeners.release)
            await self.reports.ended(reload)
        except Exception:
            # a request's edge: what broke in one reload costs no other
            log.exception("reload_broke", reload_id=reload.reload_id)

    async def _done(self, job: Job, command: str) -> Ended:
        is_unknown = self.fleet.get(job.key) is None and job.key not in self.staging.catalog.mounts
        if job.spec is not None and is_unknown:  # a later apply came before its turn
            self.has.listeners.release(command, job.key)
            return Ended(job.key, Outcome.SKIPPED, "its mount is no longer in the catalog")
        before = self._rolled_back_from(job.key)
        try:
            ended = await self.fleet.do(job, command)
        finally:
            self.has.listeners.release(command, job.key)
        if job.spec is None:
            self.former_files.look_soon()
        if job.spec is None or self._rolled_back_from(job.key) != before:
            # before the answer: a next plugind knows what gave way, what did not after all, and what is gone
            await on_disk(self.has.memory)
        return ended

    def _rolled_back_from(self, key: MountKey) -> Launch | None:
        actor = self.fleet.get(key)
        return None if actor is None else actor.mount.rolled_back_from

    def _data(self, verb: str, target: str, caller: Caller, reload_id: str, options: Options) -> ReloadData:
        return ReloadData(
            reload_id=reload_id,
            verb="apply" if verb == "apply" else "reload",
            dry_run=options.dry_run,
            scope=options.scope,
            target=target,
            by=caller.name,
            started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            node=self.about.name,
        )
