"""What this node shows of itself: rows for the API, made from actors and the catalog in force."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

from supervisor.domain.catalog import Catalog, MountSpec
from supervisor.domain.mount import Mount, Phase
from supervisor.domain.names import MountKey
from supervisor.domain.plan import Current, Step
from supervisor.engine.mount import MountActor
from supervisor.engine.ports import P
from supervisor.wire import InstanceRow, PlanRow

Usage = Callable[[P], tuple[float, int] | None]
NOT_APPLIED = "new in the catalog: apply starts it"
NOT_LISTED = "no longer in the catalog: apply stops it"


def current(actor: MountActor[P]) -> Current:
    """What a mount runs or is about to run, or ran last, for a plan."""
    mount = actor.mount
    return Current(mount.bound_for or actor.last_launch, mount.policies, held=mount.held is not None)


def instance_row(
    key: MountKey, spec: MountSpec | None, actor: MountActor[P] | None, usage: Usage[P]
) -> InstanceRow:
    """One mount, also where nothing runs."""
    if actor is None:
        return _row_without_actor(key, spec)
    mount, process = actor.mount, actor.process
    launch = mount.instance.launch if mount.instance else None
    shown = launch or mount.wanted or actor.last_launch or (spec.launch if spec else None)
    used = usage(process) if process is not None else None
    return InstanceRow(
        namespace=str(key.namespace),
        mount=key.path,
        type=shown.plugin.type if shown else "",
        plugin=shown.plugin.name if shown else "",
        version=launch.version if launch else None,
        pinned_version=spec.launch.version if spec else None,
        state=mount.phase.value,
        pid=process.pid if process else None,
        instance=mount.instance.id if mount.instance else None,
        started_at=_time(process.started_at) if process else None,
        ready_at=_time(process.ready_at) if process and process.ready_at else None,
        restarts=actor.crashes,
        last_exit=actor.last_exit,
        reason=mount.reason or (None if spec else NOT_LISTED),
        says=process.says or None if process else None,
        has_own_version=bool(spec and spec.has_own_version),
        stopped_by=mount.held.who if mount.held else None,
        rolled_back_from=_rolled_back_from(mount, spec),
        listen=[listener.shown for listener in launch.listen] if launch else [],
        cpu_seconds=used[0] if used else None,
        memory_bytes=used[1] if used else None,
    )


def _row_without_actor(key: MountKey, spec: MountSpec | None) -> InstanceRow:
    return InstanceRow(
        namespace=str(key.namespace),
        mount=key.path,
        type=spec.plugin.type if spec else "",
        plugin=spec.plugin.name if spec else "",
        version=None,
        pinned_version=spec.launch.version if spec else None,
        state=Phase.STOPPED.value,
        reason=NOT_APPLIED,
        has_own_version=bool(spec and spec.has_own_version),
    )


def _rolled_back_from(mount: Mount, spec: MountSpec | None) -> str | None:
    """The version that failed, as long as the catalog still asks for it."""
    former = mount.rolled_back_from
    return former.version if former is not None and spec is not None and former == spec.launch else None


def plan_row(step: Step, catalog: Catalog) -> PlanRow:
    spec = step.wanted or catalog.mounts.get(step.key)
    plugin = spec.plugin if spec else step.running.plugin if step.running else None
    return PlanRow(
        namespace=str(step.key.namespace),
        mount=step.key.path,
        plugin=str(plugin or ""),
        action=step.action,
        running_version=step.running.version if step.running else None,
        wanted_version=spec.launch.version if spec else None,
        has_own_version=bool(spec and spec.has_own_version),
        changed=list(step.changed),
    )


def counts(phases: Counter[Phase]) -> dict[str, int]:
    """Mounts by state, every state named."""
    return {phase.value: phases[phase] for phase in Phase}


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
