"""Nothing is killed for nothing: everything that the new instances need is checked before the first kill."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from supervisor.domain.catalog import MountSpec
from supervisor.domain.errors import Fault, TargetUnfit, Unavailable
from supervisor.domain.names import MountKey
from supervisor.engine.ports import Binaries, Listeners, Processes
from supervisor.engine.reload import Job


class Preflight:
    def __init__(self, binaries: Binaries, listeners: Listeners, processes: Processes[Any]) -> None:
        self._binaries = binaries
        self._listeners = listeners
        self._processes = processes

    async def check(
        self, specs: Iterable[MountSpec], leaving: Collection[MountKey] = (), owner: str | None = None
    ) -> None:
        """Return if all of `specs` can be started as they are on disk now, when `leaving` are gone.

        With an `owner` their listeners are open then, and stay so until he releases them.

        Raises:
            TargetUnfit: With every fault of every mount.
            Unavailable: Nothing could be started now, whatever it is.
        """
        specs = list(specs)
        if specs and (why := self._processes.impediment()) is not None:
            raise Unavailable(f"cannot start anything now: {why}; nothing was stopped for it")
        faults = [
            Fault(spec.mark.file, spec.mark.line, spec.mark.column, _cannot(spec, why))
            for spec in specs
            if (why := self._processes.unsupported(spec.launch)) is not None
        ]
        try:
            await self._binaries.verify(specs)
        except TargetUnfit as error:
            faults += error.faults
        if owner is None or faults:
            faults += self._listeners.check(specs, leaving)
        else:
            faults += self._listeners.reserve(owner, specs, leaving)
        if faults:
            raise TargetUnfit(faults)

    async def fit(self, jobs: Sequence[Job], *, partial: bool, owner: str | None = None) -> Sequence[Job]:
        """The jobs, if all their targets are fit; with `partial` those that are not carry the reason.

        A mount that is stopped by hand or held is not started by any of them, so its files do not matter.
        What they need beside files is reserved for `owner`, where there is one.

        Raises:
            TargetUnfit: With every fault of every mount; not with `partial`.
            Unavailable: Nothing could be started now, whatever it is.
        """
        starting = [job for job in jobs if job.starts]
        leaving = {job.key for job in jobs if job.spec is None and job.frozen is None}
        if not partial:
            await self.check((job.spec for job in starting if job.spec), leaving, owner)
            return jobs
        refusals = {job.key: await self._refusal(job, leaving, owner) for job in starting}
        return [replace(job, refusal=refusals.get(job.key)) for job in jobs]

    async def _refusal(self, job: Job, leaving: Collection[MountKey], owner: str | None) -> str | None:
        try:
            await self.check([job.spec] if job.spec else [], leaving, owner)
        except TargetUnfit as error:
            return str(error)
        return None


def _cannot(spec: MountSpec, why: str) -> str:
    launch = spec.launch
    return f"cannot run {launch.plugin} {launch.version} ({launch.command}) for {spec.key}: {why}"
