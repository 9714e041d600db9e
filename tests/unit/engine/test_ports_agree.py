"""What the engine builds on, on the fakes and on the real things: a fake passes the tests of both.

The only tests here that start processes: /bin/sleep, and scripts of a line.
"""

import asyncio
import hashlib
import os
import resource
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_fakes import (
    V1,
    V2,
    FakeAudit,
    FakeBinaries,
    FakeCatalogFile,
    FakeClock,
    FakeFound,
    FakeHistory,
    FakeJournal,
    FakeListeners,
    FakeLogs,
    FakeMemory,
    FakeProcess,
    FakeProcesses,
    FakeRemains,
    Script,
    a_catalog,
    a_key,
    a_spec,
    nonsense,
)
from msgspec.structs import replace

from supervisor.domain.catalog import Launch, Listener, LogPolicy, MountSpec, Policies, Probe
from supervisor.domain.errors import Cannot, CatalogInvalid, PlugindError, SpawnRefused, TargetUnfit
from supervisor.domain.events import Exit, Instance
from supervisor.domain.memory import Remembered, StoppedBy
from supervisor.domain.names import MountKey, PluginRef, instance_id
from supervisor.engine import ports
from supervisor.files.binaries import Binaries
from supervisor.files.catalog_file import CatalogFile
from supervisor.files.layers import NO_DEFAULTS
from supervisor.host.audit import AuditLog
from supervisor.host.history import History
from supervisor.host.identity import Scarce
from supervisor.host.instances import Instances
from supervisor.host.journal import Journal
from supervisor.host.listeners import Listeners
from supervisor.host.logs import Logs
from supervisor.host.memory import Memory
from supervisor.host.processes import Handle
from supervisor.host.records import InstanceRecords
from supervisor.host.remains import Remains
from supervisor.host.running import Running

KEY = a_key("team-a:auth/a")
DEADLINE = 5.0


@pytest.fixture(autouse=True)
async def _no_test_waits_for_ever() -> AsyncIterator[None]:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    timer = loop.call_later(DEADLINE, task.cancel)
    yield
    timer.cancel()


# --- processes

SCRIPTS = {
    "sleeps": "exec sleep 100",
    "waits": 'echo waiting; read line < "$0.pipe"; exit 3',
    "ignores": "trap '' TERM; while :; do sleep 100; done",
}
UNREADY = Policies(ready=Probe("tcp", address="127.0.0.1:1"))


class FakeStage:
    """Where processes run that do as a test says."""

    def __init__(self) -> None:
        self.processes = FakeProcesses(FakeClock())
        self.remains = FakeRemains()
        self.logs = FakeLogs()
        self.processes.scripts["ignores"] = Script(ignores_signals=True)
        self.processes.scripts["missing"] = Script(refused="no such file")
        self.processes.scripts["unready"] = Script(ready=False)

    def launch(self, does: str) -> Launch:
        return replace(V1, version=does)

    def end(self, process: FakeProcess) -> None:
        """Let the main process end by itself with status 3."""
        process.exit(3)
        self.logs.lines[process.instance.id] = ["waiting"]

    def next(self) -> "FakeStage":
        """What the next plugind finds."""
        following = FakeStage()
        for process in self.processes.living():
            found = FakeFound(process.key, process.instance, process.ready_at is not None, process)
            following.remains.found.append(found)
        return following

    def close(self) -> None: ...


class RealStage:
    def __init__(self, folder: Path, runtime: Path) -> None:
        self._folder, self._runtime = folder, runtime
        self.logs = Logs(runtime / "logs", folder / "log", LogPolicy())
        records = InstanceRecords(runtime / "instances")
        self.processes = Instances(runtime, records, self.logs)
        self.remains = Remains(self.processes, records)
        self.logs.start()
        self.processes.open()

    def launch(self, does: str) -> Launch:
        path = self._folder / does
        if does == "waits" and not path.exists():
            os.mkfifo(f"{path}.pipe")
        does = "sleeps" if does == "unready" else does
        if does in SCRIPTS and not path.exists():
            path.write_text(f"#!/bin/sh\n{SCRIPTS[does]}\n")
            path.chmod(0o755)
        limits = replace(V1.limits, nice=os.nice(0))  # with another one, nice(1) is what is started
        return replace(V1, version=path.name, command=str(path), sha256=None, limits=limits)

    def end(self, process: Running) -> None:
        Path(f"{process.instance.launch.command}.pipe").write_text("end\n")

    def next(self) -> "RealStage":
        self.close()
        return RealStage(self._folder, self._runtime)

    def close(self) -> None:
        self.processes.close()
        self.logs.stop()


class Play:
    """Processes of one test; all of them are ended with it."""

    def __init__(self, stage: Any) -> None:
        self.stage = stage
        self._started: list[Any] = []

    @property
    def processes(self) -> Any:
        return self.stage.processes

    async def spawn(self, does: str, generation: int = 1) -> Any:
        instance = Instance(instance_id(KEY, generation), generation, self.stage.launch(does))
        policies = UNREADY if does == "unready" else Policies()
        process = await self.processes.spawn(KEY, instance, policies, None)
        self._started.append(process)
        return process

    async def next(self) -> list[Any]:
        """Let go of everything; what the next plugind finds alive."""
        for process in self._started:
            self.processes.leave(process)
        self.stage = self.stage.next()
        found, _, troubles = await self.stage.remains.living(lambda *_: Policies(), lambda *_: None)
        self.stage.remains.clear()
        assert troubles == []
        self._started = [one.process for one in found]
        return list(found)

    def settled(self) -> None:
        """Nothing is left to end."""
        self._started.clear()

    async def end(self, process: Any, grace: float = 0.0) -> None:
        if process in self._started:
            self._started.remove(process)
        await self.processes.end_tree(process, grace)

    async def close(self) -> None:
        for process in [*self._started]:
            await self.end(process)
        self.stage.close()


@pytest.fixture(params=["fake", "real"])
async def play(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Play]:
    if request.param == "fake":
        yield Play(FakeStage())
        return
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with tempfile.TemporaryDirectory(prefix="ports-") as runtime:  # short: sockets lie in it
        one = Play(RealStage(tmp_path, Path(runtime)))
        assert await one.next() == []  # every plugind begins with what a former one left
        yield one
        await one.close()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class Told(list[Exit]):
    """What `on_exit` told, and how often."""

    def __init__(self, process: Any) -> None:
        super().__init__()
        self._first: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        process.on_exit(self._tell)

    def _tell(self, status: Exit) -> None:
        self.append(status)
        if not self._first.done():
            self._first.set_result(status)

    async def first(self) -> Exit:
        return await self._first


async def test_a_process_has_a_pid_and_a_start_and_is_not_ready_since_any_time(play: Play) -> None:
    process = await play.spawn("sleeps")

    assert process.pid > 1
    assert process.started_at > 0
    assert process.ready_at is None


async def test_two_processes_have_two_pids(play: Play) -> None:
    first, second = await play.spawn("sleeps", 1), await play.spawn("sleeps", 2)

    assert first.pid != second.pid


async def test_an_end_by_itself_is_told_once_with_its_status(play: Play) -> None:
    process = await play.spawn("waits")
    told = Told(process)

    play.stage.end(process)
    await told.first()
    await play.end(process)

    assert told == [Exit(code=3)]


async def test_an_end_is_told_to_who_asks_after_it_but_never_within_the_asking(play: Play) -> None:
    process = await play.spawn("waits")
    play.stage.end(process)
    await Told(process).first()

    told = Told(process)
    within = list(told)

    assert await told.first() == Exit(code=3)
    assert within == []


async def test_everybody_who_asked_is_told(play: Play) -> None:
    process = await play.spawn("waits")
    one, other = Told(process), Told(process)

    play.stage.end(process)

    assert await one.first() == await other.first() == Exit(code=3)


async def test_a_process_that_is_signalled_ends_with_that_signal(play: Play) -> None:
    process = await play.spawn("sleeps")
    told = Told(process)

    play.processes.signal_main(process, 15)

    assert await told.first() == Exit(signal=15)


async def test_a_signal_to_a_process_that_is_dead_is_nothing(play: Play) -> None:
    process = await play.spawn("waits")
    play.stage.end(process)
    await Told(process).first()

    play.processes.signal_main(process, 15)


async def test_ending_a_tree_returns_after_the_exit(play: Play) -> None:
    process = await play.spawn("ignores")
    told = Told(process)

    await play.end(process)

    assert await told.first() == Exit(signal=9)
    assert play.processes.usage(process) is None


async def test_ending_a_tree_whose_main_process_is_dead_is_fine(play: Play) -> None:
    process = await play.spawn("waits")
    told = Told(process)
    play.stage.end(process)
    await told.first()

    await play.end(process)

    assert told == [Exit(code=3)]


async def test_a_command_that_cannot_be_started_is_refused_and_leaves_nothing(play: Play) -> None:
    with pytest.raises(SpawnRefused) as caught:
        await play.spawn("missing")

    assert not caught.value.transient
    assert await play.next() == []


async def test_one_that_is_ready_by_its_start_is_ready_at_once(play: Play) -> None:
    process = await play.spawn("sleeps")

    await process.ready()
    await process.alive()
    play.processes.became_ready(process)

    assert process.ready_at is not None


async def test_one_that_is_not_ready_is_waited_for_until_nobody_waits(play: Play) -> None:
    process = await play.spawn("unready")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await process.ready()
    assert isinstance(process.why_not_ready(), str)


async def test_the_usage_of_a_living_process_is_seconds_and_bytes(play: Play) -> None:
    process = await play.spawn("sleeps")

    seconds, size = play.processes.usage(process)

    assert seconds >= 0
    assert size >= 0  # it may have no page yet


async def test_what_was_left_is_found_by_the_next_plugind_with_all_that_it_needs(play: Play) -> None:
    process = await play.spawn("sleeps", generation=4)
    play.processes.became_ready(process)

    (found,) = await play.next()

    assert (found.key, found.instance, found.ready) == (KEY, process.instance, True)
    assert found.process.pid == process.pid
    told = Told(found.process)
    play.processes.signal_main(found.process, 15)
    assert await told.first() in {Exit(signal=15), Exit()}  # of no child of ours the status is unknown


async def test_what_was_ended_is_not_found(play: Play) -> None:
    process = await play.spawn("sleeps")
    await play.end(process)

    assert await play.next() == []


@pytest.mark.parametrize("play", ["real"], indirect=True)
async def test_who_cannot_be_watched_for_want_of_descriptors_is_not_killed_for_that(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(*_: object) -> None:
        raise Scarce("cannot watch it: too many open files")

    process = await play.spawn("sleeps")
    with monkeypatch.context() as patched:
        patched.setattr(Handle, "open", scarce)
        with pytest.raises(Scarce):
            await play.next()

    found, _, troubles = await play.stage.remains.living(lambda *_: Policies(), lambda *_: None)

    assert troubles == []
    assert [one.process.pid for one in found] == [process.pid]
    await play.stage.processes.end_tree(found[0].process, 0.0)
    play.settled()


async def test_the_last_lines_of_an_instance_are_its_own(play: Play) -> None:
    first = await play.spawn("waits", 1)
    play.stage.end(first)
    await Told(first).first()
    await play.end(first)
    second = await play.spawn("sleeps", 2)
    await play.stage.logs.drain(KEY)

    assert await play.stage.logs.last_lines(KEY, first.instance.id) == ["waiting"]
    assert await play.stage.logs.last_lines(KEY, second.instance.id) == []


async def test_a_log_is_opened_once_and_closed_twice(play: Play) -> None:
    first, again = play.stage.logs.open(KEY), play.stage.logs.open(KEY)

    play.stage.logs.close(KEY)
    play.stage.logs.close(KEY)

    assert first == again


def test_what_is_asked_for_and_can_be_had_is_supported(tmp_path: Path) -> None:
    runtime, log = tmp_path / "run", tmp_path / "log"
    real = Instances(runtime, InstanceRecords(runtime), Logs(runtime, log, LogPolicy()))

    assert real.unsupported(V1) is None
    assert FakeProcesses(FakeClock()).unsupported(V1) is None


# --- listeners


class Harbour:
    """What holds sockets, and one who wants them."""

    def __init__(self, listeners: ports.Listeners, folder: Path) -> None:
        self.listeners = listeners
        self._folder = folder

    def spec(self, path: str, *names: str) -> MountSpec:
        listen = tuple(Listener("stream", f"{self._folder}/{name}", name) for name in names)
        return a_spec(path, replace(V1, listen=listen))

    def take(self, name: str) -> None:
        """By somebody else."""
        if isinstance(self.listeners, FakeListeners):
            self.listeners.taken.add(f"{self._folder}/{name}")
        else:
            Path(self._folder, name).touch()

    @property
    def open(self) -> set[str]:
        if isinstance(self.listeners, FakeListeners):
            return {Path(address).name for address in self.listeners.open}
        return {path.name for path in self._folder.iterdir() if path.is_socket()}


@pytest.fixture(params=["fake", "real"])
def harbour(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harbour]:
    if request.param == "fake":
        yield Harbour(FakeListeners(), tmp_path)
    else:
        real = Listeners()
        yield Harbour(real, tmp_path)
        real.close()


def test_what_is_reserved_stays_open_for_the_mount_that_keeps_it(harbour: Harbour) -> None:
    spec = harbour.spec("auth/a", "one", "two")

    assert harbour.listeners.check([spec], ()) == []
    assert harbour.open == set()
    assert harbour.listeners.reserve("r1", [spec], ()) == []
    assert harbour.open == {"one", "two"}
    harbour.listeners.keep(spec.key, spec.launch.listen[:1])
    harbour.listeners.release("r1", a_key("auth/b"))
    assert harbour.open == {"one", "two"}
    harbour.listeners.release("r1", spec.key)
    assert harbour.open == {"one"}
    harbour.listeners.keep(spec.key, ())
    assert harbour.open == set()


def test_with_one_fault_nothing_is_reserved_and_each_is_told(harbour: Harbour) -> None:
    first, second = harbour.spec("auth/a", "one", "two"), harbour.spec("auth/b", "three")
    for name in ("two", "three"):
        harbour.take(name)

    faults = harbour.listeners.reserve("r1", [first, second], ())

    assert ["auth/a/" in faults[0].message, "auth/b/" in faults[1].message] == [True, True]
    assert harbour.open == set()
    harbour.listeners.release("r1")


def test_what_one_mount_has_is_no_others_unless_that_one_leaves(harbour: Harbour) -> None:
    first, second = harbour.spec("auth/a", "one"), harbour.spec("auth/b", "one")
    harbour.listeners.reserve("r1", [first], ())
    harbour.listeners.keep(first.key, first.launch.listen)
    harbour.listeners.release("r1")

    assert len(harbour.listeners.reserve("r2", [second], ())) == 1
    assert harbour.listeners.reserve("r3", [second], {first.key}) == []
    harbour.listeners.keep_only([])
    assert harbour.open == {"one"}
    harbour.listeners.release("r3")
    assert harbour.open == set()
    assert harbour.listeners.troubles() == []


# --- what is remembered

HELD = Remembered(StoppedBy("alice", 1.5), V1, V2, 7)
PLAIN = Remembered(good=V2, generation=1)


@pytest.fixture(params=["fake", "real"])
def memories(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], ports.Memory]:
    """Makes the memory of one plugind after the other, on the same disk."""
    if request.param == "real":
        return lambda: Memory(tmp_path / "mounts.json", pytest.fail)
    disk: dict[MountKey, Remembered] = {}
    return lambda: FakeMemory(disk)


async def test_what_was_remembered_is_there_after_a_load(memories: Callable[[], ports.Memory]) -> None:
    memory = memories()
    before = memory.load()
    memory.remember(KEY, PLAIN)
    memory.remember(a_key("kv"), HELD)
    memory.remember(KEY, HELD)

    await memory.flush()

    assert before == {}
    assert memories().load() == {KEY: HELD, a_key("kv"): HELD}


async def test_what_was_forgotten_is_not(memories: Callable[[], ports.Memory]) -> None:
    memory = memories()
    memory.load()
    memory.remember(KEY, HELD)
    await memory.flush()
    following = memories()
    following.load()

    following.forget(KEY)
    following.forget(a_key("never"))
    await following.flush()

    assert memories().load() == {}


async def test_what_was_loaded_stays_when_another_mount_is_remembered(
    memories: Callable[[], ports.Memory],
) -> None:
    memory = memories()
    memory.load()
    memory.remember(KEY, HELD)
    await memory.flush()
    following = memories()
    following.load()

    following.remember(a_key("kv"), PLAIN)
    await following.flush()

    assert memories().load() == {KEY: HELD, a_key("kv"): PLAIN}


@pytest.fixture(params=["fake", "real"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ports.History]:
    if request.param == "fake":
        yield FakeHistory()
        return
    real = History(tmp_path / "reloads.json", pytest.fail)
    real.load()
    yield real
    real.close()


@pytest.fixture(params=["fake", "real"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> ports.Journal:
    return FakeJournal() if request.param == "fake" else Journal(tmp_path / "transitions.jsonl")


async def test_a_journal_that_was_never_written_is_empty(journal: ports.Journal) -> None:
    assert await journal.load(bytes) == b""


async def test_a_journal_grows_until_it_is_written_afresh(journal: ports.Journal) -> None:
    sizes = [
        await journal.write(lambda: b"1\n", afresh=True),
        await journal.write(lambda: b"22\n", afresh=False),
    ]
    grown = await journal.load(bytes)
    await journal.write(lambda: b"3\n", afresh=True)

    assert (sizes, grown) == ([2, 5], b"1\n22\n")
    assert await journal.load(bytes) == b"3\n"


async def test_a_journal_that_is_a_link_is_replaced_and_never_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "transitions.jsonl"
    victim.write_text("mine")
    path.symlink_to(victim)
    journal = Journal(path)

    for attempt in (journal.load(bytes), journal.write(lambda: b"x", afresh=False)):
        with pytest.raises(Cannot):
            await attempt
    await journal.write(lambda: b"x\n", afresh=True)

    assert victim.read_text() == "mine"
    assert await journal.load(bytes) == b"x\n"


async def test_history_gives_back_what_was_appended(history: ports.History) -> None:
    await history.append("r1", b'{"a":1}')

    assert history.get("r1") == b'{"a":1}'
    assert history.get("r2") is None


async def test_history_lists_the_newest_first_and_no_more_than_asked(history: ports.History) -> None:
    for number in range(5):
        await history.append(f"r{number}", b"%d" % number)

    assert history.latest(3) == [b"4", b"3", b"2"]
    assert history.latest(0) == history.latest(-1) == []
    assert len(history.latest(100)) == 5


async def test_history_knows_what_was_noted_and_never_ended(history: ports.History) -> None:
    for number in range(3):
        await history.note(f"r{number}", b"%d" % number)
    await history.append("r1", b"10")
    await history.amend("r2", b"20")

    assert history.unended() == [b"0"]
    assert history.latest(3) == [b"20", b"10", b"0"]


async def test_what_is_amended_keeps_its_place(history: ports.History) -> None:
    for number in range(3):
        await history.append(f"r{number}", b"%d" % number)

    await history.amend("r1", b"10")

    assert history.get("r1") == b"10"
    assert history.latest(3) == [b"2", b"10", b"0"]


async def test_writes_that_are_begun_together_are_read_as_the_last_one(history: ports.History) -> None:
    await asyncio.gather(*(history.append("r1", b"%d" % number) for number in range(10)))

    assert history.latest(9) == [b"9"]


@pytest.fixture(params=["fake", "real"])
def audit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ports.Audit]:
    if request.param == "fake":
        yield FakeAudit()
        return
    real = AuditLog(tmp_path / "audit.log")
    yield real
    real.close()


def test_an_entry_of_plain_values_is_written(audit: ports.Audit) -> None:
    audit.write({"who": "alice", "uid": 1000, "pid": None, "what": "reload"})


# --- what people write

CATALOG = """\
plugins:
  auth:
    mock:
      pin: v1
      versions:
        v1: {command: /bin/mock-v1, sha256: DIGEST}
        v2: {command: /bin/mock-v2, sha256: DIGEST}
        v3: {command: /bin/mock-v3, sha256: DIGEST}
  secret:
    kv:
      pin: v1
      versions:
        v1: {command: /bin/kv-v1, sha256: DIGEST}
namespaces:
  root:
    mounts:
      auth/a: {plugin: auth/mock}
""".replace("DIGEST", "ab" * 32)


class FakeDesk:
    """Where somebody edits the catalog."""

    def __init__(self) -> None:
        self.file: Any = FakeCatalogFile(a_catalog("auth/a"))

    def write_nonsense(self) -> None:
        self.file.says = nonsense()

    def write(self) -> None:
        self.file.says = a_catalog("auth/a")

    def next(self) -> Any:
        """The catalog as the next plugind has it."""
        following = FakeCatalogFile(self.file.says)
        following.saved = self.file.saved
        return following


class RealDesk:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.write()
        self.file: Any = self.next()

    def write_nonsense(self) -> None:
        (self._folder / "catalog.yaml").write_text("plugins: [\n")

    def write(self) -> None:
        (self._folder / "catalog.yaml").write_text(CATALOG)

    def next(self) -> Any:
        return CatalogFile(self._folder / "catalog.yaml", NO_DEFAULTS, self._folder / "saved.json")


@pytest.fixture(params=["fake", "real"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return FakeDesk() if request.param == "fake" else RealDesk(tmp_path)


async def test_the_catalog_is_the_same_object_while_nothing_changed(desk: Any) -> None:
    first = await desk.file.load()

    assert await desk.file.load() is first
    assert first == a_catalog("auth/a")
    assert desk.file.path.endswith("/catalog.yaml")


async def test_nonsense_is_invalid_with_its_place_and_a_good_text_is_good_again(desk: Any) -> None:
    await desk.file.load()
    desk.write_nonsense()

    with pytest.raises(CatalogInvalid) as caught:
        await desk.file.load()
    desk.write()

    assert caught.value.faults[0].line > 0
    assert await desk.file.load() == a_catalog("auth/a")


async def test_what_was_kept_is_the_last_good_one_of_the_next_plugind(desk: Any) -> None:
    before = await desk.file.last_good()
    await desk.file.load()
    await desk.file.keep()
    desk.write_nonsense()

    assert before is None
    assert await desk.next().last_good() == a_catalog("auth/a")


async def test_what_was_loaded_and_not_kept_is_not(desk: Any) -> None:
    await desk.file.load()

    assert await desk.next().last_good() is None


async def test_a_pin_that_was_written_is_loaded(desk: Any) -> None:
    first = await desk.file.load()
    await desk.file.set_pin(PluginRef("auth", "mock"), "v2")

    second = await desk.file.load()

    assert second is not first
    assert second == a_catalog("auth/a", pin="v2")


# --- files that run


class Shelf:
    """Programs, and what checks them."""

    def __init__(self, checks: ports.Binaries, folder: Path, *, fake: bool) -> None:
        self.checks = checks
        self._folder = folder
        self._fake = fake

    def spec(self, name: str, content: bytes, *, digest_of: bytes | None = None, line: int = 7) -> MountSpec:
        path = self._folder / name
        path.write_bytes(content)
        path.chmod(0o755)
        if self._fake:
            self._shown_to_fake(path, content)
        digest = hashlib.sha256(content if digest_of is None else digest_of).hexdigest()
        return a_spec(f"auth/{name}", replace(V1, command=str(path), sha256=digest), line=line)

    def remove(self, spec: MountSpec) -> None:
        Path(spec.launch.command).unlink()
        if isinstance(self.checks, FakeBinaries):
            self.checks.unfit[spec.launch.command] = f"{spec.launch.command} does not exist"

    def _shown_to_fake(self, path: Path, content: bytes) -> None:
        assert isinstance(self.checks, FakeBinaries)
        self.checks.digests[str(path)] = hashlib.sha256(content).hexdigest()


@pytest.fixture(params=["fake", "real"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    tmp_path.chmod(0o755)
    fake = request.param == "fake"
    return Shelf(FakeBinaries() if fake else Binaries(), tmp_path, fake=fake)


PROGRAM = b"#!/bin/sh\nexit 0\n"


async def test_a_file_with_its_digest_is_verified_and_admitted(shelf: Shelf) -> None:
    spec = shelf.spec("good", PROGRAM)

    await shelf.checks.verify([spec, spec])

    first = await shelf.checks.admit(spec.launch)
    assert await shelf.checks.admit(spec.launch) == first


async def test_nothing_to_verify_is_fine(shelf: Shelf) -> None:
    await shelf.checks.verify([])


async def test_a_file_with_another_digest_is_neither_verified_nor_admitted(shelf: Shelf) -> None:
    spec = shelf.spec("bad", PROGRAM, digest_of=b"something else")

    with pytest.raises(TargetUnfit, match="SHA-256"):
        await shelf.checks.verify([spec])
    with pytest.raises(PlugindError, match="SHA-256") as caught:
        await shelf.checks.admit(spec.launch)
    assert not isinstance(caught.value, SpawnRefused)
    assert isinstance(caught.value, Cannot)


async def test_every_fault_of_every_mount_is_told_at_its_line(shelf: Shelf) -> None:
    good = shelf.spec("good", PROGRAM, line=1)
    bad = shelf.spec("bad", PROGRAM, digest_of=b"something else", line=2)
    gone = shelf.spec("gone", PROGRAM, line=3)
    shelf.remove(gone)

    with pytest.raises(TargetUnfit) as caught:
        await shelf.checks.verify([good, gone, bad])

    assert [
        (fault.line, str(spec.key) in fault.message)
        for fault, spec in zip(caught.value.faults, [bad, gone], strict=True)
    ] == [(2, True), (3, True)]


async def test_a_file_that_went_away_after_it_was_verified_is_not_admitted(shelf: Shelf) -> None:
    spec = shelf.spec("good", PROGRAM)
    await shelf.checks.verify([spec])

    shelf.remove(spec)

    with pytest.raises(PlugindError, match="does not exist"):
        await shelf.checks.admit(spec.launch)
