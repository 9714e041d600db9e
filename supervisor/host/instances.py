"""Instances as the engine sees them: spawn, ready, signal, end; with their folder, record, log and probe.

Does as told and reports. Fits `engine/ports.Processes`. What a former daemon left is found in
`remains.py`.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog

from supervisor.domain.addresses import FIRST
from supervisor.domain.catalog import Admitted, Launch, Policies, Probe
from supervisor.domain.errors import Cannot, SpawnRefused
from supervisor.domain.events import Instance
from supervisor.domain.names import InstanceId, MountKey, Seconds
from supervisor.host.cgroup import Cgroup, limiting
from supervisor.host.cgroupentry import Entries
from supervisor.host.cgroups import Cgroups
from supervisor.host.commandline import command_line, refusal
from supervisor.host.folders import OF_INSTANCES, impediment, make_folder, remove_folder
from supervisor.host.helpers import Helpers
from supervisor.host.identity import (
    Scarce,
    is_alive,
    is_child,
    is_scarcity,
    name_of,
    uid_of,
    usage_of,
)
from supervisor.host.listeners import Listeners
from supervisor.host.logs import Logs
from supervisor.host.orphans import Mark, Marks, Orphans, descendants, instance_of, number_of
from supervisor.host.own import look
from supervisor.host.probes import ReadyProbe, Subject, prepare_both, reconsidered
from supervisor.host.processes import Children, Handle, Main
from supervisor.host.records import InstanceRecord, InstanceRecords, intended
from supervisor.host.running import Running
from supervisor.host.sockets import floor
from supervisor.host.spawn import (
    Given,
    OpenFile,
    Spawner,
    account_of,
    check_identity,
    environment,
    listen_environment,
    own_account,
)
from supervisor.host.survivors import Survivors
from supervisor.host.trees import Trees

log = structlog.get_logger(__name__)
Probes = tuple[ReadyProbe, ReadyProbe | None]


class Instances:
    def __init__(
        self,
        runtime_dir: Path,
        records: InstanceRecords,
        logs: Logs,
        *,
        cgroups: Cgroups | None = None,
        plugin_files: tuple[int, int] | None = None,
    ) -> None:
        self.folders = runtime_dir / "tmp"
        self._folders = str(self.folders)
        self._records = records
        self._logs = logs
        self.children = Children()
        self._marks = Marks()
        self._spawner = Spawner(self._marks, plugin_files)
        self.cgroups = cgroups if cgroups is not None else Cgroups(runtime_dir, is_wanted=False)
        self._entries = Entries()
        self._trees = Trees(Orphans(self.children))
        self.helpers = Helpers(self._spawner, self.children, logs, self._folders)
        self.survivors = Survivors()
        self._replaced: set[MountKey] = set()
        """Mounts whose last instance is gone, and no other one came yet."""
        self.listeners = Listeners()

    def open(self) -> None:
        """Be ready to spawn: folders, the limit of descriptors. What died before is not reaped yet."""
        look()
        self.folders.mkdir(mode=OF_INSTANCES, parents=True, exist_ok=True)
        self.folders.chmod(OF_INSTANCES)
        self.impediment()  # whatever it is: what one that was killed at it left goes with it
        self._spawner.open()
        self.cgroups.open()

    @property
    def plugin_files(self) -> tuple[int, int]:
        """The limit of descriptors that plugins get."""
        return self._spawner.plugin_files

    def close(self) -> None:
        self.children.unwatch()
        self.listeners.close()
        self._spawner.close()
        self.cgroups.close()

    def unsupported(self, launch: Launch) -> str | None:
        if launch.listen and FIRST + len(launch.listen) > min(self.plugin_files[0], floor()):
            return f"plugind has too few descriptors to hand over {len(launch.listen)}: see ulimit -n"
        return refusal(launch) or self.cgroups.refusal(launch.limits)

    def impediment(self) -> str | None:
        return impediment(((self._folders, OF_INSTANCES), (str(self._records.folder), 0o700)))

    def forget(self, key: MountKey) -> None:
        """The mount is gone for good."""
        self.cgroups.forget(key)
        self._replaced.discard(key)

    def unclaimed(self) -> list[str]:
        """What came to plugind as an orphan and fits no instance: it is left alone, and told."""
        try:
            return [f"pid {pid} ({name}) fits no instance: it is left alone" for pid, name in self._nobodys()]
        except Scarce:
            return []

    def _nobodys(self) -> Iterator[tuple[int, str]]:
        for pid in self.children.orphans():
            if self._marks.is_used(number_of(pid)) or self.children.leads(pid) or not is_alive(pid):
                continue
            name = instance_of(pid)
            if name is None or "/" in name or not (self.folders / name).is_dir():
                yield pid, name_of(pid)

    async def spawn(
        self, key: MountKey, instance: Instance, policies: Policies, file: Admitted | None
    ) -> Running:
        launch = instance.launch
        folder = self._folder(instance.id)
        mark = self._marks.take()
        probes: Probes | None = None
        cgroup: Cgroup | None = None
        try:
            if (reason := self.unsupported(launch)) is not None:
                raise SpawnRefused(reason)
            self.survivors.check(key)
            self._spawner.keep_reserve(launch.command, replaces=key in self._replaced)
            account = account_of(launch)
            output = self._logs.open(key)
            make_folder(folder, account)
            cgroup = self.cgroups.take(key, launch.limits)
            probes = self._probes(key, instance, policies, mark, cgroup)
            asked = {name: value for probe in probes if probe for name, value in probe.env.items()}
            env = environment(key, instance, account, folder, asked)
            listening = self.listeners.take(key, instance.id, launch.listen, (account.uid, account.gid))
            env.update(listen_environment(launch.listen))
            record = intended(key, instance, mark, self.listeners.recorded(launch.listen))
            self._records.intend(record)  # first: a crash after the spawn would leave a stranger
            self._logs.mark(key, instance.id, "begin", record.started_at)
            open_file = None
            if file is not None and file.descriptor is not None:
                open_file = OpenFile(file.descriptor, launch.command, is_own=account.uid == own_account().uid)
                launch = msgspec.structs.replace(launch, command=open_file.path)
            check_identity(launch.command, file.identity if file is not None else None)
            argv = command_line(launch, account.uid, account.gid, limiting(cgroup))
            given = Given(listening, open_file)
            main = self.children.add(await self._spawner.spawn(argv, env, output, mark, given))
        except (Cannot, OSError) as error:
            self._give_back(instance, mark, folder, probes, cgroup)
            if isinstance(error, SpawnRefused) and (error.transient or not is_scarcity(error)):
                raise
            raise SpawnRefused(str(error), transient=is_scarcity(error)) from error
        since = main.handle.ticks
        record = msgspec.structs.replace(
            record, pid=main.pid, start_ticks=since, ready=is_ready_at_once(policies.ready)
        )
        if cgroup is not None and not cgroup.is_limited:
            self._entries.add(cgroup, main)
        members = Mark(instance.id, mark, main.pid, folder, since=since, cgroup=cgroup)
        running = self._running(record, instance, main, probes, account.uid, members)
        self._note(running)
        self._replaced.discard(key)
        return running

    def adopt(self, record: InstanceRecord, instance: Instance, policies: Policies) -> Running | None:
        """The living process of a record, or None: it is dead, or its pid is another's by now.

        Raises:
            Cannot: It lives, and there is no descriptor left to watch it.
        """
        if record.pid is None:
            return None
        handle = Handle.open(record.pid, record.start_ticks)
        if handle is None:
            return None
        self._marks.keep(record.mark)
        cgroup = self.cgroups.of(record.pid, record.key)
        self._logs.attend(record.key)
        try:
            probes = self._probes(record.key, instance, policies, record.mark, cgroup)
        except Cannot as error:  # what lives goes on, whatever it cannot be asked
            log.warning("instance_not_probed", instance=instance.id, reason=str(error))
            probes = prepare_both(Probe(), None, self._folder(instance.id))
        main = self.children.add(handle, is_child=is_child(record.pid))
        folder, since = self._folder(instance.id), handle.ticks
        mark = Mark(instance.id, record.mark, main.pid, folder, adopted=True, since=since, cgroup=cgroup)
        if record.launch.listen:
            pids = (main.pid, *descendants([main.pid]))
            self.listeners.adopt(record.key, instance.id, record.launch.listen, record.sockets, pids)
        return self._running(record, instance, main, probes, uid_of(record.pid), mark)

    def _folder(self, instance: InstanceId) -> str:
        return f"{self._folders}/{instance}"

    def _probes(
        self, key: MountKey, instance: Instance, policies: Policies, mark: int, cgroup: Cgroup | None
    ) -> Probes:
        run = self.helpers.runner(key, instance, mark, cgroup)
        return prepare_both(policies.ready, policies.liveness, self._folder(instance.id), run=run)

    def _running(
        self,
        record: InstanceRecord,
        instance: Instance,
        main: Main,
        probes: Probes,
        uid: int,
        mark: Mark,
    ) -> Running:
        folder = self._folder(instance.id)
        subject = self._subject(instance, main.pid, record.mark, folder, uid)
        for probe in probes:
            if probe is not None:
                probe.attend(subject)
        return Running(record.key, instance, main, mark, folder, *probes, subject, record)

    def signal_main(self, process: Running, number: int) -> None:
        process.main.handle.send(number)

    async def run_stop_command(self, process: Running, command: tuple[str, ...]) -> None:
        """Run it to its end with the environment of the instance; what it prints goes to the log.

        Raises:
            Cannot: It could not be started, or ended badly.
        """
        mark = process.mark
        status = await self.helpers.runner(process.key, process.instance, mark.number, mark.cgroup)(command)
        if status:
            raise Cannot(f"cannot run the stop command {command[0]}: it ended with {status}")

    def configure(self, process: Running, policies: Policies) -> None:
        """Check liveness by `policies` from now on, where the process can be asked that."""
        run = self.helpers.runner(process.key, process.instance, process.mark.number, process.mark.cgroup)
        try:
            found = reconsidered(process.probe, process.liveness, policies.liveness, process.folder, run=run)
        except Cannot as error:
            found = None
            log.warning("liveness_not_changed", instance=process.instance.id, reason=str(error))
        former = process.liveness
        if former is not None and former not in {process.probe, found}:
            former.close()
        process.liveness = found
        if found is not None:
            found.attend(process.subject)

    def became_ready(self, process: Running) -> None:
        known = process.record.ready  # what is ready at once was recorded so
        process.record = msgspec.structs.replace(
            process.record, ready=True, ready_at=datetime.now(UTC).timestamp()
        )
        if not known:
            self._note(process)

    async def end_tree(self, process: Running, grace: Seconds) -> None:
        await self.helpers.are_there(process.mark.number)
        await self._trees.end(process.main, process.mark, grace)
        self._logs.mark(process.key, process.instance.id, "end", datetime.now(UTC).timestamp())
        process.main.close()
        self._replaced.add(process.key)
        probes = (process.probe, process.liveness)
        self._give_back(process.instance, process.mark.number, process.folder, probes, process.mark.cgroup)

    def leave(self, process: Running) -> None:
        """Let go of a living instance: the next plugind adopts it."""
        process.probe.close()
        if process.liveness is not None:
            process.liveness.close()
        process.main.close()

    def usage(self, process: Running) -> tuple[float, int] | None:
        try:
            return usage_of(process.pid)
        except Cannot:  # no descriptor is left just now: the rest of its row is true all the same
            return None

    def _note(self, running: Running) -> None:
        try:
            self._records.started(running.record)
        except (
            Cannot
        ) as error:  # the intent stands, and the process carries its mark: it is found after a crash
            log.warning("record_not_written", instance=running.instance.id, reason=str(error))

    def _give_back(
        self,
        instance: Instance,
        mark: int,
        folder: str,
        probes: Probes | None,
        cgroup: Cgroup | None,
    ) -> None:
        for probe in probes or ():
            if probe is not None:
                probe.close()
        self.listeners.given_back(instance.id)
        self._marks.give_back(mark)
        self.cgroups.give_back(cgroup)
        try:
            remove_folder(folder)
            self._records.forget(instance.id)
        except (OSError, Cannot) as error:
            log.warning("instance_left_something", instance=instance.id, reason=str(error))

    def _subject(self, instance: Instance, pid: int, mark: int, folder: str, uid: int) -> Subject:
        def belongs(other: int) -> bool:
            if other == pid or (mark and number_of(other) == mark):
                return True
            try:
                return instance_of(other) == instance.id or other in set(descendants([pid]))
            except Cannot:
                return False

        return Subject(pid, folder, uid, belongs)


def is_ready_at_once(probe: Probe) -> bool:
    """Ready by its exec alone: its record says so at once, and is not written a third time."""
    return probe.kind == "exec" and not probe.settle
