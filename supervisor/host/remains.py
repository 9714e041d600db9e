"""What a former daemon left behind: living instances by their records, strays by their mark, folders.

Identity is boot id, pid and start ticks. What does not fit is a stranger and is left alone.
Fits `engine/ports.Remains`.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from supervisor.domain.catalog import Policies
from supervisor.domain.errors import Cannot
from supervisor.domain.events import Instance
from supervisor.domain.names import InstanceId, MountKey
from supervisor.host.instances import Instances, Running, remove_folder
from supervisor.host.orphans import Mark, Orphans, environ_of
from supervisor.host.records import InstanceRecords
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
        """Adopt what lives; kill strays of ours, as nobody knows what they are; remove what the dead left."""
        records, troubles = self._records.load()
        found: list[Found] = []
        for record in records:
            instance = Instance(record.id, record.generation, record.launch)
            try:
                process = self._instances.adopt(record, instance, policies(record.key))
            except Cannot as error:
                troubles.append(f"cannot adopt instance {record.id}: {error}")
                continue
            if process is not None:
                found.append(Found(record.key, instance, record.ready, process))
        adopted = {one.instance.id for one in found}
        for stray in self._strays(adopted):
            troubles.append(f"{stray} ran without a record: its processes were killed")
            await self._kill(stray)
        for record in records:
            if record.id not in adopted:
                self._records.forget(record.id)
        self._sweep(adopted)
        return found, troubles

    def _strays(self, adopted: set[InstanceId]) -> set[InstanceId]:
        """Instances of this runtime_dir that have living processes and were not adopted: one pass over /proc."""
        ours = os.fsencode(self._instances.folders) + b"/"
        strays: set[InstanceId] = set()
        for name in os.listdir("/proc"):  # noqa: PTH208 - names only
            if not name.isdigit():
                continue
            environ = environ_of(int(name))
            instance = InstanceId(environ.get(b"PLUGIND_INSTANCE", b"").decode(errors="replace"))
            if instance and instance not in adopted and environ.get(b"TMPDIR") == ours + instance.encode():
                strays.add(instance)
        return strays

    async def _kill(self, instance: InstanceId) -> None:
        trees = Trees(Orphans(self._instances.children))
        try:
            await trees.end_members(Mark(instance, 0, 0, adopted=True), 0.0)
        except Cannot as error:
            log.warning("stray_survived", instance=instance, reason=str(error))

    def _sweep(self, adopted: set[InstanceId]) -> None:
        for folder in self._instances.folders.iterdir():
            if folder.name not in adopted:
                try:
                    remove_folder(folder)
                except OSError as error:
                    log.warning("folder_left", folder=str(folder), reason=str(error))
