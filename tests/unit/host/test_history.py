"""Reload reports survive restarts, torn lines and full disks; the file stays small (ST1)."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from supervisor.engine import ports
from supervisor.host import history as module
from supervisor.host.history import History


def nothing_wrong(trouble: str) -> None:
    raise AssertionError(trouble)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"


def opened(path: Path, troubles: list[str] | None = None) -> History:
    history = History(path, nothing_wrong if troubles is None else troubles.append)
    history.load()
    return history


async def test_what_a_killed_plugind_had_noted_is_known_to_the_next_until_it_is_ended(path: Path) -> None:
    history = opened(path)
    await history.note("r1", b"1")
    await history.note("r2", b"2")
    await history.append("r2", b"20")

    again = opened(path)
    assert again.unended() == [b"1"]
    await again.append("r1", b"10")

    assert opened(path).unended() == []
    assert opened(path).latest(2) == [b"20", b"10"]


async def test_a_compaction_keeps_what_is_under_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LINES", 3)
    history = opened(path)
    await history.note("r0", b"0")
    for number in range(1, 5):
        await history.append(f"r{number}", b"%d" % number)

    assert path.read_bytes().count(b"\n") <= 5
    assert opened(path).unended() == [b"0"]


async def test_reports_survive_a_restart_in_their_order(path: Path) -> None:
    history: ports.History = opened(path)
    await history.append("r1", b'{"n":1}')
    await history.append("r2", b'{\n"n": 2\r\n}')
    await history.amend("r1", b'{"n":"amended"}')
    assert history.latest(10) == [b'{ "n": 2  }', b'{"n":"amended"}']

    again = opened(path)

    assert again.get("r1") == b'{"n":"amended"}'
    assert again.get("r3") is None
    assert again.latest(1) == [b'{ "n": 2  }']
    assert again.latest(0) == []
    again.close()
    again.close()
    assert isinstance(history, History)
    history.close()


async def test_a_file_cut_at_any_byte_costs_the_torn_line_only(path: Path) -> None:
    history = opened(path)
    for number in range(3):
        await history.append(f"r{number}", b'{"n":%d}' % number)
    history.close()
    whole = path.read_bytes()

    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        history = opened(path, [])
        await history.append("new", b"{}")
        assert history.get("new") == b"{}"
        expected = whole[:length].count(b"}\n") + whole[:length].endswith(b"}}")
        assert len(history.latest(10)) == expected + 1
        history.close()
        history = opened(path, [])
        assert history.get("new") == b"{}"
        assert len(history.latest(10)) == expected + 1
        history.close()


async def test_random_bytes_between_reports_are_told_and_passed_over(path: Path) -> None:
    path.write_bytes(b'{"id":"r1","document":1}\n\0\xff\n' + b"[" * 100_000 + b'\n{"id":"r2","document":2}\n')
    troubles: list[str] = []
    history = opened(path, troubles)

    assert history.latest(5) == [b"2", b"1"]
    assert "2 of 4 lines are damaged" in troubles[0]
    history.close()


async def test_the_file_is_compacted_and_keeps_the_newest(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 10)
    monkeypatch.setattr(module, "MOST_LINES", 20)
    history = opened(path)
    for number in range(55):
        await history.append(f"r{number}", b"%d" % number)
        assert history.latest(1) == [b"%d" % number]

    assert path.read_bytes().count(b"\n") <= 20
    assert history.latest(10) == [b"%d" % number for number in range(54, 44, -1)]
    assert history.get("r54") == b"54"
    assert history.get("r0") is None
    history.close()


async def test_large_reports_are_bounded_by_bytes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 10_000)
    history = opened(path)
    for number in range(100):
        await history.append(f"r{number}", b'"' + b"x" * 1000 + b'"')

    assert path.stat().st_size <= 12_000
    assert history.get("r99") is not None
    history.close()


async def test_a_report_is_found_while_it_is_still_being_written(path: Path) -> None:
    history = opened(path)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(history.append(f"r{number}", b"1")) for number in range(50)]
        tasks += [group.create_task(history.amend(f"r{number}", b"2")) for number in range(50)]

    assert history.latest(100) == [b"2"] * 50
    history.close()
    history = opened(path)
    assert history.latest(100) == [b"2"] * 50
    history.close()


async def test_a_full_disk_is_told_once_and_made_up_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    troubles: list[str] = []
    history = opened(path, troubles)
    await history.append("r0", b"0")
    real = os.write

    def a_part_fits(descriptor: int, data: bytes) -> int:
        if len(data) > 5:
            return real(descriptor, data[:5])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", a_part_fits)
    await history.append("r1", b"1")
    await history.append("r2", b"2")
    assert len(troubles) == 1
    assert "No space left on device; reloads are kept in memory" in troubles[0]
    assert history.get("r1") == b"1"
    assert history.latest(3) == [b"2", b"1", b"0"]

    monkeypatch.undo()
    await history.append("r3", b"3")
    history.close()
    again = opened(path, [])
    assert again.latest(9) == [b"3", b"2", b"1", b"0"]
    again.close()


async def test_a_folder_that_is_missing_is_a_trouble_and_reports_stay_in_memory(tmp_path: Path) -> None:
    troubles: list[str] = []
    history = opened(tmp_path / "nowhere" / "history.jsonl", troubles)
    await history.append("r1", b"1")

    assert "No such file or directory" in troubles[0]
    assert history.get("r1") == b"1"
    history.close()


@pytest.mark.parametrize("kind", ["fifo", "hardlink", "huge"])
async def test_what_is_no_history_is_moved_away_and_its_target_unchanged(
    tmp_path: Path, path: Path, kind: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "hardlink":
        path.hardlink_to(victim)
    else:
        path.touch()
        os.truncate(path, (1 << 30) + 1)
    troubles: list[str] = []
    history = opened(path, troubles)

    await history.append("r1", b"1")

    assert "it is kept as" in troubles[0]
    assert victim.read_bytes() == b"precious"
    history.close()
    history = opened(path)
    assert history.latest(5) == [b"1"]
    history.close()


@pytest.mark.parametrize("kind", ["link", "folder"])
async def test_a_link_or_folder_is_not_followed_and_reports_stay_in_memory(
    tmp_path: Path, path: Path, kind: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    if kind == "link":
        path.symlink_to(victim)
    else:
        path.mkdir()
    troubles: list[str] = []
    history = opened(path, troubles)

    await history.append("r1", b"1")

    assert victim.read_bytes() == b"precious"
    assert history.get("r1") == b"1"
    assert troubles
    history.close()
