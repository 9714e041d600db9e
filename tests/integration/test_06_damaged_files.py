"""Whatever is found in the place of a state or record file, the next plugind starts and nobody is killed."""

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Plugind, is_alive

SLEEPER = "#!/bin/sh\nsetsid sleep 1000 &\nexec sleep 1000\n"
LOST = random.Random(2026)  # noqa: S311 - to repeat it


def cut(path: Path, data: bytes) -> None:
    path.write_bytes(data[: LOST.randrange(1, len(data))])


def nothing_in_it(path: Path, _: bytes) -> None:
    path.write_bytes(b"")


def random_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(LOST.randbytes(len(data)))


def another_version(path: Path, data: bytes) -> None:
    path.write_bytes(data.replace(b'"format":1', b'"format":99').replace(b'"version":1', b'"version":99'))


def a_folder(path: Path, _: bytes) -> None:
    path.mkdir()
    (path / "inner").touch()


def a_fifo(path: Path, _: bytes) -> None:
    os.mkfifo(path)


def a_loop_of_links(path: Path, _: bytes) -> None:
    path.symlink_to(path.name)


def a_gigabyte(path: Path, _: bytes) -> None:
    path.touch()
    os.truncate(path, 1 << 30)


DAMAGE: list[Callable[[Path, bytes], None]] = [
    cut,
    nothing_in_it,
    random_bytes,
    another_version,
    a_folder,
    a_fifo,
    a_loop_of_links,
    a_gigabyte,
]


@pytest.fixture
def running(plugind: Plugind) -> Plugind:
    path = plugind.plugin("plugin", SLEEPER)
    mounts = {"root": {"auth/a": "{plugin: auth/mock}", "auth/b": "{plugin: auth/mock}"}}
    plugind.write({"v1": (path, []), "v2": (path, ["2"])}, mounts, "v1", "stop: {timeout: 100ms}")
    plugind.start()
    assert plugind.reload().status == 200
    return plugind


def damage(path: Path, how: Callable[[Path, bytes], None]) -> None:
    data = path.read_bytes()
    path.unlink()
    how(path, data)


def put_away(path: Path) -> None:
    """What plugind could not replace itself, so that the next damage finds a file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif not path.is_file():
        path.unlink(missing_ok=True)


def until_seen(daemon: Plugind) -> None:
    """Wait until the transitions of every mount are written."""
    seen = daemon.folder / "run/transitions.jsonl"
    wanted = [f'"pid":{pid},' for pid in daemon.pids().values()]
    daemon.until(lambda: seen.is_file() and all(pid in seen.read_text() for pid in wanted))


def told(daemon: Plugind, since: int) -> str:
    return "\n".join(str(entry) for entry in daemon.log[since:])


def assert_that_nothing_broke(daemon: Plugind, since: int) -> None:
    assert "Traceback" not in told(daemon, since)
    assert all(len(pids) == 2 for pids in trees(daemon).values()), trees(daemon)


def trees(daemon: Plugind) -> dict[int, list[int]]:
    """Living processes by their main process."""
    found: dict[int, list[int]] = {pid: [] for pid in daemon.pids().values()}
    by_instance = {row["instance"]: row["pid"] for row in daemon.rows().values()}
    for pid in daemon.living():
        environ = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        instance = next(word for word in environ if word.startswith("PLUGIND_INSTANCE=")).partition("=")[2]
        found.setdefault(by_instance.get(instance, -1), []).append(pid)
    return found


@pytest.mark.timeout(300)
def test_a_record_in_whatever_state_costs_no_instance_its_life(running: Plugind) -> None:
    before = running.pids()
    for how in DAMAGE:
        until_seen(running)
        running.kill()
        for path in (running.folder / "run/instances").glob("*.json"):
            damage(path, how)
        since = len(running.log)

        running.start()

        assert running.pids() == before, (how, told(running, since))
        assert_that_nothing_broke(running, since)
        warnings = "\n".join(running.call("GET", "supervisor/status").data["warnings"])
        assert warnings.count("set aside as") == warnings.count("had lost its record") == 2, (how, warnings)
    assert running.reload().status == 200
    assert not any(is_alive(pid) for pid in before.values())


@pytest.mark.timeout(300)
def test_state_files_in_whatever_state_are_told_and_cost_no_instance_its_life(running: Plugind) -> None:
    before = running.pids()
    places = {
        name: running.folder / name
        for name in (
            "state/mounts.json",
            "state/reloads.json",
            "state/catalog.json",
            "run/transitions.jsonl",
            "log/root/auth+a.log.index",
        )
    }
    for how in DAMAGE:
        until_seen(running)
        running.until(lambda: all(path.is_file() for path in places.values()))
        running.kill()
        for path in places.values():
            damage(path, how)
        since = len(running.log)

        running.start()

        assert running.pids() == before, (how, told(running, since))
        assert_that_nothing_broke(running, since)
        if how not in {nothing_in_it, cut, another_version}:  # some of them are good all the same
            for name in ("mounts.json", "reloads.json"):
                assert name in told(running, since), (how, name)
        assert running.call("GET", "supervisor/status").data["catalog"]["source"] == "file"
        assert running.reload(dry_run=True).status == 200
        running.stop(signal.SIGUSR1)  # so that all files are written
        for path in places.values():
            put_away(path)
        running.start()
        assert running.pids() == before
        running.call("POST", "sys/plugins/reload/auth/mock", {"dry_run": True})
        assert running.reload().status == 200  # it has something to remember
        before = running.pids()


@pytest.mark.timeout(300)
def test_with_a_faulty_catalog_and_no_good_one_either_what_lives_is_left_alone(running: Plugind) -> None:
    before = running.pids()
    saved = running.folder / "state/catalog.json"
    good, text = saved.read_bytes(), running.catalog.read_text()
    for how in DAMAGE:
        running.kill()
        running.catalog.write_text("plugins: [\n")
        put_away(saved)
        saved.write_bytes(good)
        damage(saved, how)
        since = len(running.log)

        running.start(ready=False)

        assert running.pids() == before, how
        assert "catalog.json" in told(running, since), how
        assert_that_nothing_broke(running, since)
    put_away(saved)
    running.catalog.write_text(text)
    running.until(lambda: running.call("GET", "supervisor/status").data["catalog"]["source"] == "file")
    assert running.reload().status == 200
