"""Guarantee 4: what worked comes back though its file was replaced or deleted meanwhile."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import Plugind, is_alive, send
from test_04_bad_versions import _digest, _plugin, _version

SCRIPT = "#!/bin/sh\n# {}\nexec sleep 1000\n"
BAD = "#!/bin/sh\nexit 3\n"
ENDS = "ready: {settle: 30s, timeout: 60s}"
AS_NOBODY = ", user: nobody, group: nogroup"
MANY = ", ".join(f"{{folder}}/{number}.sock" for number in range(30))
"""More listeners than plugind has other descriptors."""
IS_ROOT = os.geteuid() == 0


def deleted(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_text(SCRIPT.format("another release at the same path"))
    other.chmod(0o755)
    other.rename(path)


def script(path: Path) -> None:
    path.write_text(SCRIPT.format(path.name))


def binary(path: Path) -> None:
    shutil.copyfile(Path("/bin/sleep").resolve(), path)


ROWS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], str]] = {
    "script-deleted": (script, deleted, ""),
    "script-replaced": (script, replaced, ""),
    "binary-deleted": (binary, deleted, ""),
    "binary-replaced": (binary, replaced, ""),
    "binary-behind-a-shell": (binary, deleted, ", cwd: /usr"),
} | (
    {
        "script-of-another-user": (script, deleted, AS_NOBODY),
        "binary-of-another-user": (binary, deleted, AS_NOBODY),
        "script-of-another-user-that-listens": (script, deleted, f"{AS_NOBODY}, listen: [{MANY}]"),
    }
    if IS_ROOT
    else {}
)


@contextmanager
def running(daemon: Plugind) -> Iterator[dict[str, Path]]:
    """A mount for each row, whose former file is gone when the new version is pinned."""
    folder = Path(tempfile.mkdtemp(prefix="plugind-"))  # another user does not come to those of pytest
    folder.chmod(0o755)
    try:
        files, plugins = {}, []
        bad = daemon.plugin("bad", BAD)
        for name, (make, _, settings) in ROWS.items():
            files[name] = path = folder / name
            make(path)
            path.chmod(0o755)
            good = _version("v1", path, f"args: ['1000']{settings.format(folder=folder)}")
            plugins += _plugin(name, "v1", good, _version("v2", bad, ENDS))
        mounts = [f"      auth/{name}: {{plugin: auth/{name}}}" for name in ROWS]
        text = ["plugins:", "  auth:", *plugins, "namespaces:", "  root:", "    mounts:", *mounts, ""]
        daemon.catalog.write_text("\n".join(text))
        daemon.start()
        yield files
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def rows(shared_plugind: Plugind) -> Iterator[dict[str, Path]]:
    with running(shared_plugind) as files:
        for name, (_, spoil, _) in ROWS.items():
            spoil(files[name])
        shared_plugind.catalog.write_text(shared_plugind.catalog.read_text().replace("pin: v1", "pin: v2"))
        yield files


@pytest.mark.parametrize("name", ROWS)
def test_the_file_that_ran_comes_back(shared_plugind: Plugind, rows: dict[str, Path], name: str) -> None:
    mount = f"root:auth/{name}"
    before = shared_plugind.rows()[mount]["pid"]
    digest, seen = _running_digest(before), len(shared_plugind.log)

    [row] = shared_plugind.reload(name).data["mounts"]

    now = shared_plugind.rows()[mount]
    assert (row["result"], row["error"]) == ("rolled_back", "ended before it was ready: exit 3")
    assert (now["state"], now["version"], now["rolled_back_from"]) == ("ready", "v1", "v2")
    assert now["pid"] != before
    shared_plugind.until(lambda: _running_digest(now["pid"]) == digest)
    told = shared_plugind.saw("former_file_started", since=seen, mount=f"auth/{name}", version="v1")
    assert str(rows[name]) in told["reason"]
    assert told["pid"] == now["pid"]
    if "another-user" not in name:
        shared_plugind.until(lambda: _descriptors(now["pid"]) == {0, 1, 2})  # a shell still has its script


def test_a_crash_starts_the_file_that_ran_also_where_nobody_reloads(
    shared_plugind: Plugind, rows: dict[str, Path]
) -> None:
    seen = len(shared_plugind.log)
    for name in rows:
        send(shared_plugind.pids()[f"root:auth/{name}"])

    for name in rows:
        shared_plugind.saw("former_file_started", since=seen, mount=f"auth/{name}", version="v1")
    shared_plugind.until(lambda: all(row["state"] == "ready" for row in shared_plugind.rows().values()))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGUSR1], ids=["killed", "ended"])
def test_the_next_plugind_finds_it_by_what_runs(plugind: Plugind, end: int) -> None:
    with running(plugind) as files:
        before = plugind.pids()
        path = files["binary-replaced"]
        replaced(path)
        assert plugind.process is not None
        plugind.stop(end)
        plugind.start()
        plugind.edit("binary-replaced:\n      pin: v1", "binary-replaced:\n      pin: v2")

        [row] = plugind.reload("binary-replaced").data["mounts"]

        assert row["result"] == "rolled_back"
        assert row["old_pid"] == before["root:auth/binary-replaced"]
        assert not is_alive(row["old_pid"])
        plugind.saw("former_file_started", mount="auth/binary-replaced", version="v1")


def test_it_goes_over_an_upgrade_also_where_nothing_that_runs_tells_of_it(plugind: Plugind) -> None:
    with running(plugind) as files:
        files["script-deleted"].unlink()
        assert plugind.call("POST", "supervisor/upgrade").status < 300
        plugind.saw("upgrade_done")
        plugind.edit("script-deleted:\n      pin: v1", "script-deleted:\n      pin: v2")

        [row] = plugind.reload("script-deleted").data["mounts"]

        assert row["result"] == "rolled_back"
        plugind.saw("former_file_started", mount="auth/script-deleted", version="v1")


def test_a_file_that_is_needed_no_more_is_let_go_of(plugind: Plugind) -> None:
    good, new = plugind.plugin("good", SCRIPT.format("one")), plugind.plugin("new", SCRIPT.format("two"))
    mounts = {"root": {"auth/mock": "{plugin: auth/mock}"}}
    plugind.write({"v1": (good, []), "v2": (new, [])}, mounts, "v1", "reload: {watch: 200ms}")
    plugind.start()
    assert _held(plugind, good)
    good.unlink()
    plugind.edit("pin: v1", "pin: v2")

    assert plugind.reload().status == 200

    plugind.until(lambda: not _held(plugind, good))
    assert _held(plugind, new)


def _running_digest(pid: int) -> str:
    """Of what it runs: a script has gone over to sleep(1)."""
    return _digest(Path(f"/proc/{pid}/exe"))


def _descriptors(pid: int) -> set[int]:
    return {int(name) for name in os.listdir(f"/proc/{pid}/fd")}  # noqa: PTH208 - numbers


def _held(daemon: Plugind, path: Path) -> bool:
    assert daemon.process is not None
    links = Path(f"/proc/{daemon.process.pid}/fd").iterdir()
    return any(os.path.realpath(link).removesuffix(" (deleted)") == str(path) for link in links)
