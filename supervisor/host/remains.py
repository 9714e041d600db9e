"""What a former daemon left behind: living instances by their records or environments, strays, folders.

Identity is boot id, pid and start ticks. What does not fit is a stranger and is left alone.
Fits `engine/ports.Remains`.
"""

import asyncio
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from supervisor.domain.catalog import Launch, Policies
from supervisor.domain.errors import Cannot, TreeSurvived
from supervisor.domain.events import Instance
from supervisor.domain.names import InstanceId, MountKey
from supervisor.host.folders import remove_folder
from supervisor.host.identity import is_alive, is_child, is_scarcity, start_ticks
from supervisor.host.instances import Instances
from supervisor.host.orphans import MARK_VARIABLE, Mark, Orphans, environ_of, is_below, mark_of
from supervisor.host.records import InstanceRecord, InstanceRecords
from supervisor.host.recovered import LaunchOf, Marked, record_of
from supervisor.host.running import Running
from supervisor.host.trees import PATIENCE, Trees

log = structlog.get_logger(__name__)
_MOST_NAMED: Final = 5


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
        self._adopted_ids: set[InstanceId] = set()
        self._dead: list[InstanceId] = []

    async def living(
        self, policies: Callable[[MountKey, Launch], Policies], launch_of: LaunchOf
    ) -> tuple[list[Found], dict[MountKey, int], list[str]]:
        """Adopt what lives; kill strays that nobody knows. `clear` goes on from there.

        Raises:
            Cannot: A descriptor or memory is missing just now: nobody was killed.
        """
        records, troubles = self._records.load()
        marked = self._marked()
        lost = self._recovered(records, marked, launch_of)
        records += lost
        troubles += [f"instance {record.id} of {record.key} had lost its record" for record in lost]
        found: list[Found] = []
        for record in records:
            try:
                one = self._adopted(_with_process(record, marked), policies)
            except Cannot as error:
                if is_scarcity(error):  # it lives, and what is not adopted is killed
                    raise
                troubles.append(f"cannot adopt instance {record.id}: {error}")
            else:
                found += [one] if one is not None else []
        # not before: whose child is dead since an upgrade is told its exit status
        self._instances.children.watch()
        adopted = {one.instance.id for one in found}
        troubles += await self._instances.cgroups.end_leftovers(PATIENCE)
        told, survived = await self._end_strays(records, marked, adopted)
        troubles += told
        for record in records:
            if record.id in survived:  # the record stays: the next plugind has to know it too
                self._instances.survivors.add(record.key, survived[record.id])
        for record in records:
            if record.id not in {*adopted, *survived}:
                self._instances.listeners.ended(record.sockets)
        self._adopted_ids = adopted
        self._dead = [record.id for record in records if record.id not in {*adopted, *survived}]
        troubles += _tell_unseen([record for record in records if record.id not in adopted | marked.keys()])
        return found, _generations(records), troubles

    def clear(self) -> None:
        """Remove records and folders of those that `living` did not find alive."""
        for instance in self._dead:
            try:
                self._records.forget(instance)
            except Cannot as error:  # the next start finds nobody under its pid and start
                log.warning("instance_left_something", instance=instance, reason=str(error))
        self._clear(self._adopted_ids)

    def _adopted(
        self, record: InstanceRecord, policies: Callable[[MountKey, Launch], Policies]
    ) -> Found | None:
        if record.pid is not None and not is_alive(record.pid) and not is_child(record.pid):
            return None  # a zombie that its new parent has not reaped yet
        instance = Instance(record.id, record.generation, record.launch)
        process = self._instances.adopt(record, instance, policies(record.key, record.launch))
        return None if process is None else Found(record.key, instance, record.ready, process)

    def _recovered(
        self,
        records: Iterable[InstanceRecord],
        marked: Mapping[InstanceId, Marked],
        launch_of: LaunchOf,
    ) -> list[InstanceRecord]:
        known = {record.id for record in records}
        found = [record_of(one, marked[one], launch_of) for one in marked if one not in known]
        lost = [record for record in found if record is not None]
        for record in lost:
            try:
                self._records.update(record)
            except Cannot as error:  # it is found in the same way next time
                log.warning("record_not_written", instance=record.id, reason=str(error))
        return lost

    def _marked(self) -> dict[InstanceId, Marked]:
        """Instances of this runtime_dir that have processes, each with its oldest: one pass."""
        oldest: dict[InstanceId, Marked] = {}
        for name in os.listdir("/proc"):  # noqa: PTH208 - names only
            if not name.isdigit():
                continue
            pid = int(name)
            environ = environ_of(pid)
            mark = environ.get(MARK_VARIABLE.encode(), b"").decode(errors="replace")
            if mark and is_below(pid, environ, self._folder(mark)):
                ticks = start_ticks(pid)
                known = oldest.get(InstanceId(mark))
                if ticks is not None and (known is None or (ticks, pid) < (known.ticks, known.pid)):
                    # what it forked may lead sessions too
                    oldest[InstanceId(mark)] = Marked(pid, ticks, _leads(pid), environ)
        return oldest

    async def _end_strays(
        self,
        records: Iterable[InstanceRecord],
        marked: Mapping[InstanceId, Marked],
        adopted: Collection[InstanceId],
    ) -> tuple[list[str], dict[InstanceId, tuple[int, ...]]]:
        """Kill members of instances that have no main process or no record, also where they hide."""
        marks = {
            instance: Mark(
                instance, mark_of(one.pid), 0, self._folder(instance), adopted=True, since=one.ticks
            )
            for instance, one in marked.items()
            if instance not in adopted
        }
        for record in records:
            if record.id not in adopted:
                since = record.start_ticks or 0
                folder = self._folder(record.id)
                marks[record.id] = Mark(record.id, record.mark, 0, folder, adopted=True, since=since)
        trees = Trees(Orphans(self._instances.children))  # one for all: they look together
        survived: dict[InstanceId, tuple[int, ...]] = {}
        ends = (self._end_stray(trees, mark, survived) for mark in marks.values())
        told = await asyncio.gather(*ends)
        return [trouble for trouble in told if trouble], survived

    async def _end_stray(self, trees: Trees, mark: Mark, survived: dict[InstanceId, tuple[int, ...]]) -> str:
        try:
            if not await trees.end_members(mark, 0.0):
                return ""
        except Cannot as error:
            if isinstance(error, TreeSurvived):
                survived[mark.instance] = error.pids
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


def _generations(records: Iterable[InstanceRecord]) -> dict[MountKey, int]:
    last: dict[MountKey, int] = {}
    for record in records:
        last[record.key] = max(last.get(record.key, 0), record.generation)
    return last


def _tell_unseen(records: Sequence[InstanceRecord]) -> list[str]:
    """Say of which instances nothing is left: nobody held their FIFOs, and what was in them is gone."""
    for record in records:
        log.warning(
            "instance_ended_unseen",
            namespace=record.namespace,
            mount=record.key.shown,
            instance=record.id,
            reason="its exit status is unknown, and what it wrote last may be lost: up to 64 KiB",
        )
    if not records:
        return []
    names = [str(record.key) for record in records[:_MOST_NAMED]]
    more = f" and {len(records) - _MOST_NAMED} more" * (len(records) > _MOST_NAMED)
    what = "ended while no plugind ran, exit status unknown, the last 64 KiB of output may be lost"
    return [f"{what}: {', '.join(names)}{more}"]


def _with_process(record: InstanceRecord, marked: Mapping[InstanceId, Marked]) -> InstanceRecord:
    """An intent whose daemon died before it could note the pid: the process is known by its mark."""
    one = marked.get(record.id)
    if record.pid is not None or one is None or not one.leads:
        return record
    return msgspec.structs.replace(record, pid=one.pid, start_ticks=one.ticks)


def _leads(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False
