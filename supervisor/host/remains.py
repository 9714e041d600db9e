"""What a former daemon left behind: living instances by their records or marks, strays, folders.

Identity is boot id, pid and start ticks. What does not fit is a stranger and is left alone.
Fits `engine/ports.Remains`.
"""

import asyncio
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import msgspec
import structlog

from supervisor.domain.catalog import Policies
from supervisor.domain.errors import Cannot
from supervisor.domain.events import Instance
from supervisor.domain.names import InstanceId, MountKey
from supervisor.host.identity import start_ticks
from supervisor.host.instances import Instances, Running, remove_folder
from supervisor.host.orphans import MARK_VARIABLE, Mark, Orphans, environ_of, is_below
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
        troubles += await self._end_strays(records, marked, adopted)
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
        leaders: dict[InstanceId, list[tuple[int, int]]] = {}
        for name in os.listdir("/proc"):  # noqa: PTH208 - names only
            if not name.isdigit():
                continue
            pid = int(name)
            environ = environ_of(pid)
            mark = environ.get(MARK_VARIABLE.encode(), b"").decode(errors="replace")
            if mark and is_below(pid, environ, self._folder(mark)):
                known = leaders.setdefault(InstanceId(mark), [])
                if _leads(pid):
                    known.append((start_ticks(pid) or 0, pid))
        # the oldest: what it forked may lead sessions too
        return {instance: min(known)[1] if known else 0 for instance, known in leaders.items()}

    async def _end_strays(
        self,
        records: Iterable[InstanceRecord],
        marked: Mapping[InstanceId, int],
        adopted: Collection[InstanceId],
    ) -> list[str]:
        """Kill members of instances that have no main process or no record, also where they hide."""
        marks = {
            instance: Mark(instance, 0, 0, self._folder(instance), adopted=True)
            for instance in marked
            if instance not in adopted
        }
        for record in records:
            if record.id not in adopted:
                since = record.start_ticks or 0
                folder = self._folder(record.id)
                marks[record.id] = Mark(record.id, record.mark, 0, folder, adopted=True, since=since)
        trees = Trees(Orphans(self._instances.children))  # one for all: they look together
        told = await asyncio.gather(*(self._end_stray(trees, mark) for mark in marks.values()))
        return [trouble for trouble in told if trouble]

    async def _end_stray(self, trees: Trees, mark: Mark) -> str:
        try:
            if not await trees.end_members(mark, 0.0):
                return ""
        except Cannot as error:
            return f"instance {mark.instance} had lost its main process or its record: {error}"
        return f"instance {mark.instance} had lost its main process or its record: the rest was killed"

    def _folder(self, instance: str) -> str:
        return str(self._instances.folders / instance)

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
