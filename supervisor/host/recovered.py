"""The record of an instance that lives and has none any more, made up from what its process carries.

Its environment says which mount, plugin, version and instance it is of, the kernel when it began and which
number it is marked with. Whether it was the main process, and what its version is made of, is asked: where
nobody knows, there is no record. What a dead main process left behind looks just the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from supervisor.domain.catalog import Launch
from supervisor.domain.errors import BadRequest
from supervisor.domain.memory import Unrecorded
from supervisor.domain.names import InstanceId, MountKey, Namespace, instance_id
from supervisor.host.identity import current_boot_id, started_at
from supervisor.host.orphans import mark_of
from supervisor.host.records import InstanceRecord

LaunchOf = Callable[[Unrecorded], Launch | None]
"""What it was started from, if that is known and it is its main process."""
_NAMES: Final = ("PLUGIND_NAMESPACE", "PLUGIND_MOUNT", "PLUGIND_PLUGIN", "PLUGIND_VERSION")


@dataclass(frozen=True, slots=True)
class Marked:
    """An instance by what is alive of it: its oldest process, and the environment that it was given."""

    pid: int
    ticks: int
    leads: bool
    """A session, as a main process does; without one the oldest is what a dead one left behind."""
    environ: Mapping[bytes, bytes]


def record_of(instance: InstanceId, marked: Marked, launch_of: LaunchOf) -> InstanceRecord | None:
    """Its record, or None where it is not certain what it is."""
    namespace, mount, plugin, version = (
        marked.environ.get(name.encode(), b"").decode(errors="replace") for name in _NAMES
    )
    generation = instance.rpartition("-")[2]
    try:
        key = MountKey.parse(Namespace.parse(namespace), mount)
        known = generation.isdecimal() and instance_id(key, int(generation)) == instance
    except BadRequest:
        return None
    seen = Unrecorded(key, instance, marked.pid, plugin, version)
    launch = launch_of(seen) if known and marked.leads else None
    if launch is None:
        return None
    return InstanceRecord(
        id=instance,
        namespace=str(key.namespace),
        mount=key.path,
        generation=int(generation),
        boot_id=current_boot_id(),
        launch=launch,
        started_at=started_at(marked.ticks),
        pid=marked.pid,
        start_ticks=marked.ticks,
        mark=mark_of(marked.pid),
    )
