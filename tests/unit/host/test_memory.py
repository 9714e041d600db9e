"""What outlives a reboot: on disk when it was flushed, usable when it is damaged (ST1, ST2)."""

import asyncio
import errno
import os
import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from supervisor.domain.catalog import Launch
from supervisor.domain.errors import Cannot
from supervisor.domain.memory import Remembered, StoppedBy
from supervisor.domain.names import MountKey, Namespace, PluginRef
from supervisor.engine import ports
from supervisor.host import memory as module
from supervisor.host.memory import Memory

GOOD = Launch(PluginRef("auth", "mock"), "v1.0.0", "/opt/bin/mock", env=(("LEVEL", "debug"),))
BAD = Launch(PluginRef("auth", "mock"), "v1.1.0", "/opt/bin/mock-1.1")
MOCK = MountKey(Namespace(("team-a", "dev")), "auth/mock")
KV = MountKey(Namespace(), "kv")
HELD = Remembered(held=StoppedBy("uid 0", 1.5), good=GOOD, rolled_back_from=BAD, generation=7)


class Troubles(list[str]):
    def __init__(self) -> None:
        self.told = asyncio.Event()

    def tell(self, trouble: str) -> None:
        self.append(trouble)
        self.told.set()


def nothing_wrong(trouble: str) -> None:
    raise AssertionError(trouble)


@asynccontextmanager
async def running(memory: Memory) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(memory.run())
        try:
            yield
        finally:
            task.cancel()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.json"


def test_it_fits_the_engines_port(path: Path) -> None:
    fits: ports.Memory = Memory(path, nothing_wrong)

    assert fits.load() == {}


async def test_what_was_flushed_is_there_after_a_restart(path: Path) -> None:
    memory = Memory(path, nothing_wrong)
    memory.remember(MOCK, HELD)
    memory.remember(KV, Remembered(generation=1))
    memory.remember(KV, Remembered(generation=2))
    await memory.flush()

    assert Memory(path, nothing_wrong).load() == {MOCK: HELD, KV: Remembered(generation=2)}


async def test_what_was_loaded_is_kept_by_the_next_write(path: Path) -> None:
    first = Memory(path, nothing_wrong)
    first.remember(MOCK, HELD)
    await first.flush()

    second = Memory(path, nothing_wrong)
    second.load()
    second.remember(KV, Remembered())
    second.forget(KV)
    second.forget(KV)
    await second.flush()

    assert Memory(path, nothing_wrong).load() == {MOCK: HELD}


async def test_without_a_flush_it_is_on_disk_soon(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(path, nothing_wrong)
    written = asyncio.Event()
    loop = asyncio.get_running_loop()
    real = module.write_whole

    def write_whole(target: Path, data: bytes, *, durable: bool) -> None:
        real(target, data, durable=durable)
        loop.call_soon_threadsafe(written.set)

    monkeypatch.setattr(module, "write_whole", write_whole)
    async with running(memory):
        before = loop.time()
        memory.remember(MOCK, HELD)
        await written.wait()
        assert loop.time() - before < 1

    assert Memory(path, nothing_wrong).load() == {MOCK: HELD}


async def test_what_takes_long_to_write_is_written_less_often(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, loop = Memory(path, nothing_wrong), asyncio.get_running_loop()
    begun: list[float] = []
    written = asyncio.Event()

    def slow(*_: object, **__: object) -> None:
        begun.append(loop.time())
        threading.Event().wait(0.02)
        loop.call_soon_threadsafe(written.set)

    monkeypatch.setattr(module, "write_whole", slow)

    async with asyncio.timeout(30), running(memory):
        for generation in range(3):
            memory.remember(MOCK, Remembered(generation=generation + 1))
            await written.wait()
            written.clear()

    assert begun[1] - begun[0] > module.SHARE * 0.02
    assert begun[2] - begun[1] > module.SHARE * 0.02


async def test_a_thousand_flushes_at_once_cost_two_writes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(path, nothing_wrong)
    writes = 0
    real = module.write_whole

    def write_whole(target: Path, data: bytes, *, durable: bool) -> None:
        nonlocal writes
        writes += 1
        real(target, data, durable=durable)

    monkeypatch.setattr(module, "write_whole", write_whole)

    async def one(number: int) -> None:
        memory.remember(MountKey(Namespace(), f"kv{number}"), Remembered())
        await memory.flush()

    async with asyncio.TaskGroup() as group:
        for number in range(1000):
            group.create_task(one(number))

    assert writes <= 2
    assert len(Memory(path, nothing_wrong).load()) == 1000


async def test_remembering_the_same_again_writes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(path, nothing_wrong)
    memory.remember(MOCK, HELD)
    await memory.flush()
    monkeypatch.setattr(module, "write_whole", None)

    memory.remember(MOCK, HELD)
    await memory.flush()


async def test_a_flush_that_was_cancelled_never_undoes_a_later_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(path, nothing_wrong)
    begun, go_on = threading.Event(), threading.Event()
    real = memory._write

    def late(change: int, lines: list[bytes]) -> None:
        begun.set()
        go_on.wait(10)
        real(change, lines)

    monkeypatch.setattr(memory, "_write", late)
    memory.remember(MOCK, Remembered(generation=1))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(memory.flush())
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
    monkeypatch.setattr(memory, "_write", real)
    memory.remember(MOCK, HELD)
    await memory.flush()
    go_on.set()
    await asyncio.get_running_loop().shutdown_default_executor()

    assert Memory(path, nothing_wrong).load() == {MOCK: HELD}


async def test_a_full_disk_is_told_once_and_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    troubles = Troubles()
    memory = Memory(path, troubles.tell)
    monkeypatch.setattr(module, "LATER", 0.01)
    real = module.write_whole
    attempts = 0

    def full(target: Path, data: bytes, *, durable: bool) -> None:  # noqa: ARG001 - the disk takes nothing
        nonlocal attempts
        attempts += 1
        raise Cannot(f"cannot write {target}: {os.strerror(errno.ENOSPC)}")

    monkeypatch.setattr(module, "write_whole", full)
    async with running(memory):
        memory.remember(MOCK, HELD)
        await memory.flush()
        await memory.flush()
        assert memory.is_troubled
        assert len(troubles) == 1
        assert "No space left on device; it is kept in memory" in troubles[0]

        written = asyncio.Event()
        loop = asyncio.get_running_loop()

        def room(target: Path, data: bytes, *, durable: bool) -> None:
            real(target, data, durable=durable)
            loop.call_soon_threadsafe(written.set)

        monkeypatch.setattr(module, "write_whole", room)
        await written.wait()

    assert attempts >= 2
    assert len(troubles) == 1
    assert Memory(path, nothing_wrong).load() == {MOCK: HELD}


async def test_a_folder_that_is_missing_is_a_trouble_and_nothing_else(tmp_path: Path) -> None:
    troubles = Troubles()
    memory = Memory(tmp_path / "nowhere" / "memory.json", troubles.tell)

    assert memory.load() == {}
    memory.remember(MOCK, HELD)
    await memory.flush()

    assert "No such file or directory" in troubles[0]


async def a_file_of(path: Path, mounts: int) -> bytes:
    memory = Memory(path, nothing_wrong)
    for number in range(mounts):
        memory.remember(MountKey(Namespace(), f"kv{number}"), Remembered(good=GOOD, generation=number))
    await memory.flush()
    return path.read_bytes()


async def test_a_file_cut_at_any_byte_costs_only_what_is_behind_the_cut(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut here
    whole = await a_file_of(path, 3)
    starts = [0, *(place + 1 for place, byte in enumerate(whole) if byte == ord("\n"))]

    for length in range(len(whole) - 1):  # the last byte ends a line that is whole without it
        path.write_bytes(whole[:length])
        troubles = Troubles()
        found = Memory(path, troubles.tell).load()
        assert len(troubles) == 1, length
        assert len(found) >= sum(start <= length for start in starts[2:])
        kept = path.with_name("memory.json.damaged")
        assert kept.read_bytes() == whole[:length]
        kept.unlink()


async def test_damage_to_one_line_costs_that_mount_only(path: Path) -> None:
    whole = await a_file_of(path, 3)
    lines = whole.split(b"\n")
    lines[2] = lines[2].replace(b"kv1", b"../")
    path.write_bytes(b"\n".join(lines))
    troubles = Troubles()
    memory = Memory(path, troubles.tell)

    found = memory.load()

    assert {key.path for key in found} == {"kv0", "kv2"}
    assert "line 3" in troubles[0]
    await memory.flush()
    assert Memory(path, nothing_wrong).load() == found


async def test_random_damage_never_stops_the_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut here
    whole = await a_file_of(path, 3)
    chance = random.Random(7)  # noqa: S311 - damage, no secret

    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        found = Memory(path, Troubles().tell).load()
        assert all(isinstance(remembered, Remembered) for remembered in found.values())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "line 1"),
        (b"\0" * 4096, "line 1"),
        (b"\xff\xfe", "line 1"),
        (b"[" * 100_000, "line 1"),
        (b'{"format":2,"mounts":0}\n', "format 2"),
        (b'{"format":1,"mounts":3}\n', "0 of 3 mounts"),
    ],
)
def test_what_cannot_be_used_is_kept_under_another_name(path: Path, content: bytes, why: str) -> None:
    path.write_bytes(content)
    troubles = Troubles()

    assert Memory(path, troubles.tell).load() == {}
    assert why in troubles[0]
    assert path.with_name("memory.json.damaged").read_bytes() == content


@pytest.mark.parametrize("kind", ["folder", "fifo", "link", "gigabyte"])
async def test_what_is_no_state_file_is_moved_away_unread(tmp_path: Path, path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(victim)
    else:
        path.touch()
        os.truncate(path, 1 << 30)
    troubles = Troubles()
    memory = Memory(path, troubles.tell)

    assert memory.load() == {}
    assert "it is kept as" in troubles[0]
    memory.remember(MOCK, HELD)
    await memory.flush()
    assert Memory(path, nothing_wrong).load() == {MOCK: HELD}
    assert victim.read_bytes() == b"precious"


async def test_waiting_for_changes_costs_no_work(path: Path) -> None:
    memory = Memory(path, nothing_wrong)

    async with running(memory):
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await asyncio.Event().wait()

    assert not path.exists()
