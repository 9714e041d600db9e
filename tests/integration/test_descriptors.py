"""What a plugin inherits, and what plugind holds, however often it was started (FD3, FD6, FD7)."""

import json
import os
import resource
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from harness import Plugind, is_alive, send

MANY = 1000
LOOSE = 2
ABOVE_SELECT = 1024
"""select(2) knows no descriptor from here on."""
PLUGIN = """#!/usr/bin/python3
import json, os, sys, time
found = [int(name) for name in os.listdir("/proc/self/fd")]
def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False  # the one that listed the folder
    return True
path = sys.argv[1] + "/" + os.environ["PLUGIND_INSTANCE"]
with open(path + ".new", "w") as file:
    json.dump([fd for fd in sorted(found) if fd != file.fileno() and is_open(fd)], file)
os.rename(path + ".new", path)
time.sleep(1000)
"""
FAILS = "#!/bin/sh\nexit 3\n"
BRIEF = (
    "ready: {kind: exec, settle: 30ms}\nreload: {watch: 0s}\nstop: {signal: SIGKILL}\nrestart: {backoff: 0s}"
)


def seen_by(folder: Path) -> dict[str, list[int]]:
    """What each instance inherited, by its id."""
    return {path.name: json.loads(path.read_text()) for path in folder.iterdir() if not path.suffix}


@pytest.mark.parametrize("files", ["the same limits", "a lower soft limit"])
def test_a_plugin_inherits_its_three_descriptors_and_no_more_however_it_was_started(
    plugind: Plugind, files: str
) -> None:
    """At the start, by a reload, a rollback, a crash, and by a plugind that adopted the others."""
    seen = plugind.folder / "seen"
    seen.mkdir()
    seen.chmod(0o1777)
    path = plugind.plugin("plugin", PLUGIN)
    bad = plugind.plugin("bad", FAILS)
    versions = {"v1": (path, [str(seen)]), "v2": (path, [str(seen), "2"]), "v3": (bad, [])}
    mounts = {"root": {"auth/a": "{plugin: auth/mock}", "auth/b": "{plugin: auth/mock}"}}
    plugind.write(versions, mounts, "v1", BRIEF)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    soft = hard if files == "the same limits" else min(256, hard)
    within = ["sh", "-c", f'ulimit -Sn {soft}; exec "$@"', "sh"]
    plugind.start(within=within)
    wanted = 2

    def came(more: int) -> None:
        nonlocal wanted
        wanted += more
        plugind.until(lambda: len(seen_by(seen)) == wanted)

    came(0)
    plugind.edit("pin: v1", "pin: v2")
    assert plugind.reload().status == 200
    came(2)
    plugind.edit("pin: v2", "pin: v3")
    rows = plugind.reload(parallel=1).data["mounts"]
    assert [row["result"] for row in rows] == ["rolled_back", "skipped"]
    came(1)
    send(plugind.pids()["root:auth/a"])
    came(1)
    plugind.kill()
    plugind.start(within=within)
    send(plugind.pids()["root:auth/b"])
    came(1)
    plugind.edit("pin: v3", "pin: v1")
    assert plugind.reload().status == 200
    came(2)

    assert {instance: fds for instance, fds in seen_by(seen).items() if fds != [0, 1, 2]} == {}


def kinds(pid: int) -> Counter[str]:
    """The descriptors of a process by what they are, without numbers."""
    found: Counter[str] = Counter()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue
        found[target.partition(":")[0] if not target.startswith("/") else target] += 1
    return found


def files_below(folder: Path) -> set[str]:
    return {str(Path(root, name).relative_to(folder)) for root, _, names in os.walk(folder) for name in names}


def test_hundreds_of_reloads_some_of_them_bad_leave_no_descriptor_file_folder_or_cgroup(
    plugind: Plugind,
) -> None:
    """10 mounts; every tenth reload is to a version that does not start, and is rolled back."""
    good, bad = plugind.plugin("good", "#!/bin/sh\nexec sleep 1000\n"), plugind.plugin("bad", FAILS)
    versions = {"v1": (good, []), "v2": (good, ["2"]), "v3": (bad, [])}
    mounts = {f"auth/m{number}": "{plugin: auth/mock}" for number in range(10)}
    plugind.write(versions, {"root": mounts}, "v1", BRIEF)
    plugind.start()

    def some(times: int) -> set[str]:
        ends: set[str] = set()
        for number in range(times):
            pin = "v3" if number % 10 == 9 else f"v{number % 2 + 1}"
            text = plugind.catalog.read_text()
            plugind.edit(f"pin: {text.partition('pin: ')[2].split()[0]}", f"pin: {pin}")
            results = {row["result"] for row in plugind.reload().data["mounts"]}
            assert pin == "v3" or results == {"reloaded"}
            ends |= results
        plugind.edit(f"pin: {pin}", "pin: v1")
        assert plugind.reload().status == 200
        return ends

    some(10)
    plugind.until(lambda: len(plugind.living()) == 10)
    plugind.until((plugind.folder / "run/transitions.jsonl").exists)  # it is written once things are quiet
    before = left_by(plugind)
    assert "rolled_back" in some(100)

    plugind.until(lambda: len(plugind.living()) == 10)
    plugind.until(lambda: is_no_more(left_by(plugind), before))


def left_by(plugind: Plugind) -> tuple[Counter[str], int, set[str], int]:
    """Descriptors, files in runtime_dir, half-written ones elsewhere, cgroups; ids differ each time."""
    assert plugind.process is not None
    files = files_below(plugind.folder)
    running = sum(name.startswith("run/") for name in files)
    half = {name for name in files if name.endswith((".tmp", ".new"))}
    told = plugind.saw("daemon_started")["cgroups"]
    group = Path(told.rpartition(" ")[2])
    cgroups = sum(path.is_dir() for path in group.iterdir()) if group.is_absolute() else 0
    return kinds(plugind.process.pid), running, half, cgroups


def is_no_more(now: tuple[Any, ...], before: tuple[Any, ...]) -> bool:
    """A leak would be one of each reload; files of versions are held, and let go of, a moment later."""
    return (now[0] - before[0]).total() <= LOOSE and now[1:] == before[1:]


def enough() -> bool:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 8 * MANY


@pytest.mark.skipif(not enough(), reason=f"needs a hard limit of {8 * MANY} descriptors: ulimit -Hn")
def test_a_thousand_mounts_need_descriptors_that_select_does_not_know_and_all_works(plugind: Plugind) -> None:
    path = plugind.plugin("plugin", "#!/bin/sh\nexec sleep 1000\n")
    mounts = {f"auth/m{number}": "{plugin: auth/mock}" for number in range(MANY)}
    plugind.write({"v1": (path, [])}, {"root": mounts}, "v1", BRIEF)
    plugind.start(ready=False)
    plugind.until(lambda: states(plugind) == {"ready": MANY}, seconds=90)
    assert plugind.process is not None
    highest = max(map(int, os.listdir(f"/proc/{plugind.process.pid}/fd")))  # noqa: PTH208 - names only
    before = plugind.pids()

    answer = plugind.call("POST", "sys/plugins/reload/backend", {"mounts": ["auth/m0", f"auth/m{MANY - 1}"]})
    send(before["root:auth/m1"])
    plugind.until(lambda: plugind.pids()["root:auth/m1"] not in {None, before["root:auth/m1"]})

    assert highest > ABOVE_SELECT
    assert answer.status == 200
    after = plugind.pids()
    assert {name for name, pid in after.items() if pid != before[name]} == {
        "root:auth/m0",
        "root:auth/m1",
        f"root:auth/m{MANY - 1}",
    }
    assert plugind.stop() == 0
    assert not any(is_alive(pid) for pid in after.values())


def states(plugind: Plugind) -> Counter[str]:
    return Counter(row["state"] for row in plugind.rows().values())
