"""What a former daemon left behind: living instances by their records or marks, strays, folders.

Identity is boot id, pid and start ticks. What does not fit is a stranger and is left alone.
Fits `engine/ports.Remains`.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import structlog

from supervisor.domain.catalog import Policies
from supervisor.domain.errors import Cannot
from supervisor.domain.events import Instance
from supervisor.domain.names import InstanceId, MountKey
from supervisor.host.identity import start_ticks
from supervisor.host.instances import Instances, Running, remove_folder
from supervisor.host.orphans import MARK_VARIABLE, Mark, Orphans, environ_of
from supervisor.host.records import InstanceRecord, InstanceRecords
from supervisor.host.trees import Trees

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """An instance of a former daemon that lives."""

    key: MountKey
    instance: Instance
    ready: bool
    process: Running


class Remains:
    def __init__(self, instances: Instances, records: InstanceRecords) -> None:
        self._instances = instances
        self._records = records

    async def living(self, policies: Callable[[MountKey], Policies]) -> tuple[list[Found], list[str]]:
        """Adopt what lives; kill strays of ours, as nobody knows what they are; clear up behind the dead."""
        records, troubles = self._records.load()
        marked = self._marked()
        found: list[Found] = []
        for record in records:
            try:
                one = self._adopted(_with_process(record, marked), policies)
            except Cannot as error:
                troubles.append(f"cannot adopt instance {record.id}: {error}")
            else:
                found += [one] if one is not None else []
        adopted = {one.instance.id for one in found}
        for stray in marked.keys() - adopted:
            troubles.append(f"instance {stray} had lost its main process or its record: the rest was killed")
            await self._kill(stray)
        for record in records:
            if record.id not in adopted:
                self._records.forget(record.id)
        self._clear(adopted)
        return found, troubles

    def _adopted(self, record: InstanceRecord, policies: Callable[[MountKey], Policies]) -> Found | None:
        instance = Instance(record.id, record.generation, record.launch)
        process = self._instances.adopt(record, instance, policies(record.key))
        return None if process is None else Found(record.key, instance, record.ready, process)

    def _marked(self) -> dict[InstanceId, int]:
        """Instances of this runtime_dir that have processes, each with its session leader or 0: one pass."""
        ours = os.fsencode(self._instances.folders) + b"/"
        found: dict[InstanceId, int] = {}
        for name in os.listdir("/proc"):  # noqa: PTH208 - names only
            environ = environ_of(int(name)) if name.isdigit() else {}
            mark = environ.get(MARK_VARIABLE.encode(), b"")
            if mark and environ.get(b"TMPDIR") == ours + mark:
                instance = InstanceId(mark.decode(errors="replace"))
                found[instance] = found.get(instance, 0) or (int(name) if _leads(int(name)) else 0)
        return found

    async def _kill(self, instance: InstanceId) -> None:
        trees = Trees(Orphans(self._instances.children))
        try:
            await trees.end_members(Mark(instance, 0, 0, adopted=True), 0.0)
        except Cannot as error:
            log.warning("stray_survived", instance=instance, reason=str(error))

    def _clear(self, adopted: set[InstanceId]) -> None:
        for folder in self._instances.folders.iterdir():
            if folder.name not in adopted:
                try:
                    remove_folder(folder)
                except OSError as error:
                    log.warning("folder_left", folder=str(folder), reason=str(error))


def _with_process(record: InstanceRecord, marked: dict[InstanceId, int]) -> InstanceRecord:
    """An intent whose daemon died before it could note the pid: the process is known by its mark."""
    leader = marked.get(record.id, 0)
    ticks = start_ticks(leader) if record.pid is None and leader else None
    if ticks is None:
        return record
    return msgspec.structs.replace(record, pid=leader, start_ticks=ticks)


def _leads(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False
