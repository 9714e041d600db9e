"""The kernel refuses at a bad moment, and nothing is lost by it: what `make crash` found by refusing."""

import asyncio
import errno
import os
import select
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from host_probing import entered

from supervisor.domain.catalog import LogPolicy
from supervisor.domain.errors import AlreadyRunning, Cannot
from supervisor.domain.names import ROOT, MountKey
from supervisor.host import claims, logpump, processes, records
from supervisor.host.identity import Scarce
from supervisor.host.journal import Journal
from supervisor.host.logfile import LogFile
from supervisor.host.logindex import Index
from supervisor.host.logs import Logs
from supervisor.host.memory import Memory
from supervisor.host.processes import Children, Handle
from supervisor.host.records import InstanceRecords
from supervisor.host.wholefile import free_name

KEY = MountKey(ROOT, "auth/mock")
OTHER = MountKey(ROOT, "auth/other")
DEADLINE = 10.0


@asynccontextmanager
async def logs_in(folder: Path, policy: LogPolicy = LogPolicy()) -> AsyncIterator[Logs]:  # noqa: B008 - frozen
    logs = Logs(folder / "run", folder / "log", policy)
    logs.start()
    try:
        async with asyncio.timeout(DEADLINE):
            yield logs
    finally:
        logs.stop()


def refuses(monkeypatch: pytest.MonkeyPatch, name: str, about: str, number: int = errno.EIO) -> list[str]:
    """Let `os.<name>` fail for paths that end so, until the list is emptied; who asked is in it."""
    real, told = getattr(os, name), [""]

    def refusing(path: Any, *arguments: Any, **words: Any) -> Any:
        if told and str(path).endswith(about):
            told.append(str(path))
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *arguments, **words)

    monkeypatch.setattr(os, name, refusing)
    return told


async def test_a_rotation_that_cannot_see_its_files_goes_over_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [b"%d" % number * 63 + b"\n" for number in range(5)]
    async with logs_in(tmp_path, LogPolicy(64, 8)) as logs:
        fd = entered(logs.open(KEY))
        for block in blocks[:4]:
            os.write(fd, block)
            await logs.drain(KEY)
        refused = refuses(monkeypatch, "lstat", "auth+mock.log.2")
        os.write(fd, blocks[4])
        await logs.drain(KEY)

    assert len(refused) > 1
    refused.clear()
    text = b"".join(path.read_bytes() for path in (tmp_path / "log" / "root").glob("auth+mock.log*"))
    assert all(block in text for block in blocks)


def test_what_was_written_before_a_file_could_not_be_begun_is_told_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, log = tmp_path / "logs" / "mount.log", structlog.get_logger()
    file = LogFile(path, LogPolicy(64, 8), Index(tmp_path / "index", 9), log)
    file.ready(0.0)
    refused = refuses(monkeypatch, "open", "mount.log")

    assert file.append(b"a" * 63 + b"\nrest\n", 0.0) == 64

    refused.clear()
    assert file.append(b"rest\n", 0.0) == 5
    assert (path.with_name("mount.log.1").read_bytes(), path.read_bytes()) == (b"a" * 63 + b"\n", b"rest\n")
    file.close()


async def test_an_index_that_cannot_be_read_costs_no_log(tmp_path: Path) -> None:
    async with logs_in(tmp_path) as logs:
        logs.open(KEY)
        logs.mark(KEY, "aa-1", "begin", 0.0)  # type: ignore[arg-type]  # so that there is one
        await logs.drain(KEY)
    index = tmp_path / "log" / "root" / "auth+mock.log.index"
    index.unlink()
    index.mkdir()  # it opens, and read(2) answers EISDIR

    async with logs_in(tmp_path) as logs:
        os.write(entered(logs.open(KEY)), b"line\n")

        assert await logs.tail(KEY, 1) == [b"line"]


class Full:
    """An epoll that has no more watches for a while."""

    def __init__(self, real: select.epoll) -> None:
        self.is_full = True
        self._real = real

    def register(self, fd: int, events: int) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._real.register(fd, events)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


async def test_a_fifo_that_cannot_be_watched_is_emptied_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logpump, "RETRY_EVERY", 0.01)
    async with logs_in(tmp_path) as logs:
        full = Full(logs._pump._epoll)
        logs._pump._epoll = full  # type: ignore[assignment]
        fd = entered(logs.open(KEY))
        os.write(fd, b"one\n")
        follower = logs.follow(KEY)
        assert await anext(follower) == b"one\n"  # it asked, which empties the FIFO too

        os.write(fd, b"two\n")
        assert await anext(follower) == b"two\n"

        full.is_full = False
        os.write(fd, b"three\n")
        assert await anext(follower) == b"three\n"
        await follower.aclose()


async def test_a_command_that_breaks_in_the_log_thread_costs_no_other_and_is_told_to_who_asked(
    tmp_path: Path,
) -> None:
    def breaks() -> None:
        raise OSError(errno.EIO, "broken")

    async with logs_in(tmp_path) as logs:
        logs._soon(breaks)
        os.write(entered(logs.open(OTHER)), b"line\n")

        assert await logs.tail(OTHER, 1) == [b"line"]
        with pytest.raises(OSError, match="broken"):
            await logs._pump.ask(breaks)


async def test_a_process_whose_end_cannot_be_waited_for_is_a_want_that_goes_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of anything else the mount would be given up."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with subprocess.Popen(["sleep", "1000"]) as child:
        handle = Handle.open(child.pid)
        assert handle is not None
        with monkeypatch.context() as patched:
            patched.setattr(asyncio.get_running_loop(), "add_reader", refuse)
            with pytest.raises(Scarce, match=r"^cannot watch pid \d+: Cannot allocate memory$"):
                await handle.ended(DEADLINE)

        child.kill()

        assert await handle.ended(DEADLINE)
        handle.close()


async def test_a_dead_process_that_cannot_be_looked_at_is_looked_at_again_and_not_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    real = processes.is_alive

    def scarce(pid: int) -> bool:
        asked.append(pid)
        if len(asked) <= 2:
            raise Scarce("no descriptor is left")
        return real(pid)

    with subprocess.Popen(["sleep", "1000"]) as child:
        handle = Handle.open(child.pid)
        assert handle is not None
        main = Children().add(handle, is_child=False)
        monkeypatch.setattr(processes, "is_alive", scarce)
        child.kill()
        child.wait()

        async with asyncio.timeout(DEADLINE):
            await main.exited()

        assert len(asked) == 3
        main.close()


def test_records_that_cannot_be_read_for_want_of_descriptors_are_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "abc-1.json"
    path.write_text("{}")
    refused = refuses(monkeypatch, "open", ".json", errno.EMFILE)

    with pytest.raises(Cannot, match="Too many open files"):
        InstanceRecords(tmp_path).load()

    refused.clear()
    assert path.exists()


def test_a_record_that_could_not_be_read_once_is_read_again_before_it_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "abc-1.json").write_text("{}")  # it is opened again, and damaged then
    refused = refuses(monkeypatch, "open", ".json")
    real = os.open

    def once(*arguments: Any, **words: Any) -> int:
        try:
            return real(*arguments, **words)
        finally:
            refused.clear()

    monkeypatch.setattr(os, "open", once)
    believed = records._believed
    seen: list[Path] = []
    monkeypatch.setattr(records, "_believed", lambda path: seen.append(path) or believed(path))

    _, troubles = InstanceRecords(tmp_path).load()

    assert len(seen) == 2
    assert len(troubles) == 1


def test_what_a_killed_plugind_was_writing_of_an_index_is_removed(tmp_path: Path) -> None:
    (tmp_path / "mount.log.index.new").touch()

    Index(tmp_path / "mount.log.index", 1).load()

    assert list(tmp_path.iterdir()) == []


def test_an_index_that_no_disk_takes_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "mount.log.index"
    path.touch()
    index = Index(path, 1)
    index.load()
    monkeypatch.setattr(Path, "replace", full)

    index.file_began(1)

    assert list(tmp_path.iterdir()) == [path]


async def test_locks_of_a_dead_plugind_are_waited_for_and_those_of_a_living_one_are_not() -> None:
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    asked: list[int] = []

    async def held(pid: int, times: int) -> str:
        asked.append(pid)
        if len(asked) <= times:
            raise AlreadyRunning(pid, "/run/x")
        return "taken"

    assert await claims.taken(lambda: held(dead.pid, 2)) == "taken"
    assert len(asked) == 3
    asked.clear()
    with pytest.raises(AlreadyRunning):
        await claims.taken(lambda: held(os.getpid(), 2))
    assert len(asked) == 1


def test_a_name_of_which_nobody_knows_whether_it_is_taken_is_not_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses(monkeypatch, "lstat", "name")

    with pytest.raises(OSError, match="Input/output error"):
        free_name(tmp_path / "name")


async def test_damage_that_cannot_be_set_aside_costs_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mounts.json").write_text("damaged")
    told: list[str] = []
    refuses(monkeypatch, "lstat", "mounts.json.damaged")

    assert Memory(tmp_path / "mounts.json", told.append).load() == {}

    assert "could not be set aside" in told[0]


async def test_what_a_plugind_that_was_killed_was_writing_of_its_transitions_is_removed(
    tmp_path: Path,
) -> None:
    stray = tmp_path / ".transitions.jsonl.999999999-1.tmp"
    stray.touch()

    assert await Journal(tmp_path / "transitions.jsonl").load(bytes) == b""

    assert not stray.exists()


def test_a_start_without_threads_ends_and_says_why(tmp_path: Path) -> None:
    program = f"""
import os, sys, threading
import supervisor.daemon as daemon
real, count = threading.Thread.start, []
def start(self):
    count.append(self)
    if len(count) > 3:
        raise RuntimeError("can't start new thread")
    real(self)
threading.Thread.start = start
sys.exit(daemon.main(["--config", {str(tmp_path / "plugind.yaml")!r}]))
"""
    (tmp_path / "plugind.yaml").write_text(
        f"catalog: {tmp_path}/catalog.yaml\nsocket: {{path: {tmp_path}/s}}\nruntime_dir: {tmp_path}/run\n"
        f"state_dir: {tmp_path}/state\nlog_dir: {tmp_path}/log\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE, check=False
    )

    assert (done.returncode, done.stderr) == (2, "plugind: cannot start: can't start new thread\n")
