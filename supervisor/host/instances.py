"""Instances as the engine sees them: spawn, ready, signal, end; with their folder, record, log and probe.

Does as told and reports. Fits `engine/ports.Processes`. What a former daemon left is found in
`remains.py`.
"""

import os
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog

from supervisor.domain.catalog import Identity, Launch, Policies, Probe
from supervisor.domain.errors import Cannot, SpawnRefused
from supervisor.domain.events import Exit, Instance
from supervisor.domain.names import MountKey, Seconds
from supervisor.host.identity import current_boot_id, is_scarcity, uid_of, usage_of
from supervisor.host.logs import Logs
from supervisor.host.orphans import Mark, Marks, Orphans, descendants, instance_of, number_of
from supervisor.host.probes import ReadyProbe, Run, Subject, prepare_both
from supervisor.host.processes import Children, Handle, Main
from supervisor.host.records import InstanceRecord, InstanceRecords
from supervisor.host.spawn import (
    Account,
    Spawner,
    account_of,
    check_identity,
    command_line,
    environment,
    unsupported,
)
from supervisor.host.trees import Trees

log = structlog.get_logger(__name__)
Probes = tuple[ReadyProbe, ReadyProbe | None]


@dataclass(slots=True)
class Running:
    """One instance from its spawn until its tree is gone. Fits `engine/ports.Process`."""

    key: MountKey
    instance: Instance
    main: Main
    mark: Mark
    folder: Path
    probe: ReadyProbe
    liveness: ReadyProbe | None
    subject: Subject
    record: InstanceRecord

    @property
    def pid(self) -> int:
        return self.main.pid

    @property
    def started_at(self) -> float:
        return self.record.started_at

    @property
    def ready_at(self) -> float | None:
        return self.record.ready_at

    def on_exit(self, tell: Callable[[Exit], None]) -> None:
        self.main.on_exit(tell)

    async def ready(self) -> None:
        await self.probe.wait_ready(self.subject)

    async def alive(self) -> None:
        if self.liveness is not None:
            await self.liveness.check(self.subject)

    def why_not_ready(self) -> str:
        return self.probe.why_not()


class Instances:
    def __init__(self, runtime_dir: Path, records: InstanceRecords, logs: Logs) -> None:
        self.folders = runtime_dir / "tmp"
        self._records = records
        self._logs = logs
        self.children = Children()
        self._marks = Marks()
        self._spawner = Spawner(self._marks)
        self._trees = Trees(Orphans(self.children))

    def open(self) -> None:
        """Be ready to spawn: folders, the limit of descriptors, the reaping of orphans."""
        self.folders.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.folders.chmod(0o711)
        self._spawner.raise_own_limit()
        self.children.watch()

    def close(self) -> None:
        self.children.unwatch()
        self._spawner.close()

    def unsupported(self, launch: Launch) -> str | None:
        return unsupported(launch)

    async def spawn(
        self, key: MountKey, instance: Instance, policies: Policies, identity: Identity | None
    ) -> Running:
        launch = instance.launch
        folder = self.folders / instance.id
        mark = self._marks.take()
        probes: Probes | None = None
        try:
            if (reason := unsupported(launch)) is not None:
                raise SpawnRefused(reason)
            self._spawner.keep_reserve(launch.command)
            account = account_of(launch)
            output = self._logs.open(key)
            _make_folder(folder, account)
            probes = self._probes(key, instance, policies, mark)
            asked = {name: value for probe in probes if probe for name, value in probe.env.items()}
            env = environment(key, instance, account, str(folder), asked)
            record = _record(key, instance, mark)
            self._records.intend(record)  # first: a crash after the spawn would leave a stranger
            self._logs.mark(key, instance.id, "begin", record.started_at)
            check_identity(launch.command, identity)
            handle = self._spawner.spawn(command_line(launch, account), env, output, mark)
        except (Cannot, OSError) as error:
            self._give_back(instance, mark, folder, probes)
            if isinstance(error, SpawnRefused):
                raise
            raise SpawnRefused(str(error), transient=is_scarcity(error)) from error
        record = msgspec.structs.replace(
            record, pid=handle.pid, start_ticks=handle.ticks, ready=is_ready_at_once(policies.ready)
        )
        running = self._running(record, instance, self.children.add(handle), probes, account.uid)
        self._note(running)
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
        try:
            self._logs.open(record.key)
            probes = self._probes(record.key, instance, policies, record.mark)
        except Cannot as error:  # what lives goes on, whatever it cannot be asked
            log.warning("instance_not_probed", instance=instance.id, reason=str(error))
            probes = prepare_both(Probe(), None, str(self.folders / instance.id))
        main = self.children.add(handle, is_child=_is_child(record.pid))
        return self._running(record, instance, main, probes, uid_of(record.pid), adopted=True)

    def _probes(self, key: MountKey, instance: Instance, policies: Policies, mark: int) -> Probes:
        run = self._runner(key, instance, mark)
        folder = str(self.folders / instance.id)
        return prepare_both(policies.ready, policies.liveness, folder, run=run)

    def _running(
        self,
        record: InstanceRecord,
        instance: Instance,
        main: Main,
        probes: Probes,
        uid: int,
        *,
        adopted: bool = False,
    ) -> Running:
        folder = self.folders / instance.id
        subject = self._subject(instance, main.pid, record.mark, folder, uid)
        for probe in probes:
            if probe is not None:
                probe.attend(subject)
        mark = Mark(instance.id, record.mark, main.pid, str(folder), adopted=adopted, since=main.handle.ticks)
        return Running(record.key, instance, main, mark, folder, *probes, subject, record)

    def signal_main(self, process: Running, number: int) -> None:
        process.main.handle.send(number)

    async def run_stop_command(self, process: Running, command: tuple[str, ...]) -> None:
        """Run it to its end with the environment of the instance; what it prints goes to the log.

        Raises:
            Cannot: It could not be started, or ended badly.
        """
        status = await self._runner(process.key, process.instance, process.mark.number)(command)
        if status:
            raise Cannot(f"cannot run the stop command {command[0]}: it ended with {status}")

    def became_ready(self, process: Running) -> None:
        known = process.record.ready  # what is ready at once was recorded so
        process.record = msgspec.structs.replace(
            process.record, ready=True, ready_at=datetime.now(UTC).timestamp()
        )
        if not known:
            self._note(process)

    async def end_tree(self, process: Running, grace: Seconds) -> None:
        await self._trees.end(process.main, process.mark, grace)
        self._logs.mark(process.key, process.instance.id, "end", datetime.now(UTC).timestamp())
        process.main.close()
        self._give_back(
            process.instance, process.mark.number, process.folder, (process.probe, process.liveness)
        )

    def leave(self, process: Running) -> None:
        """Let go of a living instance: the next plugind adopts it."""
        process.probe.close()
        if process.liveness is not None:
            process.liveness.close()
        process.main.close()

    def usage(self, process: Running) -> tuple[float, int] | None:
        return usage_of(process.pid)

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
        folder: Path,
        probes: Probes | None,
    ) -> None:
        for probe in probes or ():
            if probe is not None:
                probe.close()
        self._marks.give_back(mark)
        try:
            remove_folder(folder)
            self._records.forget(instance.id)
        except (OSError, Cannot) as error:
            log.warning("instance_left_something", instance=instance.id, reason=str(error))

    def _subject(self, instance: Instance, pid: int, mark: int, folder: Path, uid: int) -> Subject:
        def belongs(other: int) -> bool:
            if other == pid or (mark and number_of(other) == mark):
                return True
            try:
                return instance_of(other) == instance.id or other in set(descendants([pid]))
            except Cannot:
                return False

        return Subject(pid, str(folder), uid, belongs)

    def _runner(self, key: MountKey, instance: Instance, mark: int) -> Run:
        """Runs commands on behalf of an instance: as its user, in its folder, with its mark and log."""

        async def run(command: Sequence[str]) -> int:
            account = account_of(instance.launch)
            env = environment(key, instance, account, str(self.folders / instance.id), {})
            launch = replace(instance.launch, command=command[0], args=tuple(command[1:]))
            argv = command_line(launch, account)
            handle = self._spawner.spawn(argv, env, self._logs.open(key), mark)
            main = self.children.add(handle, is_helper=True)
            try:
                status = await main.exited()
            finally:
                if not main.is_dead:
                    main.handle.send(signal.SIGKILL)
                    self.children.abandon(main)
                else:
                    main.close()
            return -status.signal if status.signal is not None else status.code or 0

        return run


def _record(key: MountKey, instance: Instance, mark: int) -> InstanceRecord:
    return InstanceRecord(
        id=instance.id,
        namespace=str(key.namespace),
        mount=key.path,
        generation=instance.generation,
        boot_id=current_boot_id(),
        launch=instance.launch,
        started_at=datetime.now(UTC).timestamp(),
        mark=mark,
    )


def is_ready_at_once(probe: Probe) -> bool:
    """Ready by its exec alone: its record says so at once, and is not written a third time."""
    return probe.kind == "exec" and not probe.settle


def _make_folder(folder: Path, account: Account) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:  # of an instance that nobody cleaned up behind: not ours to trust
        remove_folder(folder)
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise SpawnRefused(f"cannot make {folder}: {error.strerror}") from error
    if (account.uid, account.gid) != (os.geteuid(), os.getegid()):
        os.chown(folder, account.uid, account.gid, follow_symlinks=False)


def remove_folder(folder: Path) -> None:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return
    except NotADirectoryError:  # a file or a link that somebody put there
        folder.unlink()
    except OSError:
        shutil.rmtree(folder, ignore_errors=False)  # by descriptors: follows no link


def _is_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
