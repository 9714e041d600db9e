"""A cgroup for each mount: who is in it, that its end is the end of all, and that none is left behind."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import BIN, Plugind, is_alive

from supervisor.host.cgroupmount import controllers_in, own_folder

PLACE, WHY_NOT = own_folder()
pytestmark = pytest.mark.skipif(not PLACE, reason=f"needs a cgroup v2 to make others in: {WHY_NOT}")
SLEEPER = "#!/bin/sh\nexec sleep 1000\n"
MOUNTS = {"root": {"auth/mock": "{plugin: auth/mock}"}}
SOON = "stop: {timeout: 300ms}\nrestart: {backoff: 0s}"
# waits until it is where it is to be, so that what it forks is there too
IN_ITS_CGROUP = 'until grep -q "^0::.*/plugind-" /proc/self/cgroup; do :; done\n'


def cgroup_of(pid: int) -> Path:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    own = next(line[3:] for line in lines if line.startswith("0::"))
    base = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line[:3] == "0::")
    return Path(PLACE) / own.removeprefix(base).lstrip("/")


def sub_tree(plugind: Plugind) -> Path:
    return Path((plugind.folder / "run/cgroup").read_text())


def runs(plugind: Plugind, text: str = SLEEPER, settings: str = SOON) -> int:
    path = plugind.plugin("plugin", text)
    plugind.write({"v1": (path, [])}, MOUNTS, "v1", settings)
    plugind.start()
    return entered(plugind)


def entered(plugind: Plugind) -> int:
    """The main process, once it is in its cgroup."""
    pid: int = plugind.pids()["root:auth/mock"]
    plugind.until(lambda: cgroup_of(pid).parent == sub_tree(plugind))
    return pid


def members(cgroup: Path) -> set[int]:
    if (cgroup / "cgroup.type").read_text() == "threaded\n":
        return set()  # its processes are told by the one above
    found = {int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()}
    for below in cgroup.iterdir():
        if below.is_dir():
            found |= members(below)
    return found


@pytest.fixture(autouse=True)
def no_cgroup_is_left() -> Iterator[None]:
    before = set(Path(PLACE).glob("plugind-*"))
    yield
    mine = set(Path(PLACE).glob("plugind-*")) - before
    assert not [path for path in mine if not members(path)], "cgroups left behind"


def test_each_mount_has_a_cgroup_of_its_own_which_a_reload_keeps(plugind: Plugind) -> None:
    before = cgroup_of(runs(plugind))
    inode = before.stat().st_ino

    assert plugind.reload().status == 200

    after = cgroup_of(entered(plugind))
    assert (after, after.stat().st_ino) == (before, inode)
    assert after.name == "root:auth+mock"


def test_status_and_log_say_which_cgroups_are_used(plugind: Plugind) -> None:
    runs(plugind)

    told = plugind.saw("daemon_started")["cgroups"]

    assert told == f"v2, {sub_tree(plugind)}"
    assert plugind.call("GET", "supervisor/status").data["uses"]["cgroups"] == told


def test_no_cgroup_is_made_where_they_are_turned_off(plugind: Plugind) -> None:
    plugind.settings("cgroups: off\n")
    path = plugind.plugin("plugin", SLEEPER)
    plugind.write({"v1": (path, [])}, MOUNTS, "v1", SOON)
    plugind.start()

    assert cgroup_of(plugind.pids()["root:auth/mock"]) == cgroup_of(os.getpid())
    assert plugind.saw("daemon_started")["cgroups"] == "not used: turned off in plugind.yaml"
    assert plugind.reload().status == 200


def test_the_end_of_the_daemon_leaves_no_cgroup(plugind: Plugind) -> None:
    runs(plugind)
    tree = sub_tree(plugind)

    plugind.stop()

    assert not tree.exists()
    assert not (plugind.folder / "run/cgroup").exists()


def test_a_mount_that_is_removed_takes_its_cgroup_along(plugind: Plugind) -> None:
    cgroup = cgroup_of(runs(plugind))
    other = {"root": {"auth/other": "{plugin: auth/mock}"}}
    plugind.write({"v1": (plugind.folder / "plugin", [])}, other, "v1")

    assert plugind.call("POST", "supervisor/apply", {}).status == 200

    assert not cgroup.exists()
    assert sub_tree(plugind).exists()


def test_two_instances_of_one_mount_have_two_cgroups(plugind: Plugind) -> None:
    first = cgroup_of(runs(plugind, settings=f"{SOON}\nreload: {{order: start_first}}"))

    assert plugind.reload().status == 200

    second = cgroup_of(entered(plugind))
    assert second != first
    assert members(first) == set()


def test_what_a_root_plugin_made_below_is_removed_and_what_it_froze_runs(plugind: Plugind) -> None:
    """Sub-cgroups, threads in them, and a freeze of all: nothing of it meets the next instance."""
    if os.geteuid() != 0:
        pytest.skip("needs root to write to its own cgroup")
    script = f"""#!/usr/bin/env -S python3 -IS
import os, threading, time
while "/plugind-" not in (own := [l for l in open("/proc/self/cgroup") if l.startswith("0::")][0]): pass
own = "{PLACE}" + own[3:].strip()
for name in ("/a", "/a/b", "/t"):
    os.mkdir(own + name)
open(own + "/t/cgroup.type", "w").write("threaded")
def within():
    open(own + "/t/cgroup.threads", "w").write(str(threading.get_native_id()))
    time.sleep(1000)
threading.Thread(target=within, daemon=True).start()
if os.fork() == 0:
    os.setsid()
    time.sleep(1000)
open("{plugind.folder}/made", "w").close()
time.sleep(1000)
"""
    cgroup = cgroup_of(runs(plugind, script))
    for _ in range(3):
        plugind.until((plugind.folder / "made").exists)
        old = members(cgroup)
        (cgroup / "cgroup.freeze").write_text("1")
        (plugind.folder / "made").unlink()

        assert plugind.reload().status == 200

        assert not any(is_alive(pid) for pid in old)
    plugind.until((plugind.folder / "made").exists)
    plugind.call("POST", "supervisor/stop/auth/mock")
    assert not cgroup.exists()


def test_an_instance_that_is_adopted_keeps_its_cgroup_and_ends_with_it(plugind: Plugind) -> None:
    script = f"#!/bin/sh\n{IN_ITS_CGROUP}setsid env -i /bin/sleep 1000 &\nexec sleep 1000\n"
    pid = runs(plugind, script)
    cgroup = cgroup_of(pid)
    plugind.until(lambda: len(members(cgroup)) == 2)
    old = members(cgroup)
    plugind.kill()
    plugind.start()
    assert plugind.pids()["root:auth/mock"] == pid
    assert cgroup_of(pid) == cgroup

    plugind.call("POST", "supervisor/stop/auth/mock")

    assert not any(is_alive(pid) for pid in old)
    plugind.stop()
    assert not cgroup.parent.exists()


def test_leftovers_in_a_cgroup_die_before_anything_is_started_there(plugind: Plugind) -> None:
    """What carries no mark at all, as its limit and its environment are gone: the cgroup knows it."""
    hides = "setsid prlimit --msgqueue=12345: env -i /bin/sleep 1000"
    script = f"#!/bin/sh\n{IN_ITS_CGROUP}{hides} </dev/null >/dev/null 2>&1 &\nexec sleep 1000\n"
    pid = runs(plugind, script)
    cgroup = cgroup_of(pid)
    plugind.until(lambda: len(members(cgroup)) == 2)
    (hidden,) = members(cgroup) - {pid}
    plugind.kill()
    with os.fdopen(os.pidfd_open(pid)) as handle:
        signal.pidfd_send_signal(handle.fileno(), signal.SIGKILL)

    plugind.start()

    assert not is_alive(hidden)
    plugind.saw("remains_found")


def test_cgroups_of_a_killed_daemon_that_nobody_is_in_are_removed(plugind: Plugind) -> None:
    pid = runs(plugind)
    tree = sub_tree(plugind)
    (tree / "root:gone").mkdir()
    plugind.kill()
    with os.fdopen(os.pidfd_open(pid)) as handle:
        signal.pidfd_send_signal(handle.fileno(), signal.SIGKILL)
    plugind.start()

    entered(plugind)

    assert [path.name for path in tree.iterdir() if path.is_dir()] == ["root:auth+mock"]


def test_a_plugind_that_starts_in_another_cgroup_finds_the_instances_of_the_former(plugind: Plugind) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to move a process between cgroups")
    elsewhere = Path(PLACE) / f"elsewhere-{os.getpid()}"
    elsewhere.mkdir()
    try:
        pid = runs(plugind)
        cgroup = cgroup_of(pid)
        plugind.kill()
        script = f'echo 0 >{elsewhere}/cgroup.procs && exec "$@"'
        command = ["/bin/sh", "-c", script, "sh", BIN / "plugind", "--config", plugind.config]
        plugind.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)

        def is_up() -> bool:
            try:
                return plugind.pids() == {"root:auth/mock": pid}
            except OSError:
                return False

        plugind.until(is_up)

        assert plugind.reload().status == 200
        assert cgroup_of(entered(plugind)) == cgroup
        plugind.stop()
        assert not cgroup.parent.exists()
    finally:
        elsewhere.rmdir()


@pytest.mark.parametrize("name", ["memory", "cpu", "pids"])
def test_a_limit_without_its_controller_is_refused_before_anything_is_stopped(
    shared_plugind: Plugind, name: str
) -> None:
    if name in controllers_in(PLACE):
        pytest.skip("this machine has the controller: see the tests below")
    plugind = shared_plugind
    path = plugind.plugin("plugin", SLEEPER)
    if plugind.process is None:
        plugind.write({"v1": (path, [])}, MOUNTS, "v1", SOON)
        plugind.start()
    before = plugind.pids()
    plugind.write({"v1": (path, [])}, MOUNTS, "v1", f"{SOON}\nlimits: {{{name}: 64}}")

    answer = plugind.reload()
    checked = subprocess.run(
        [BIN / "plugind", "check", plugind.catalog], capture_output=True, text=True, check=False
    )

    assert answer.status == 400
    assert f"limits.{name}: needs the controller of cgroup v2 of that name" in answer.error
    assert plugind.pids() == before
    assert checked.returncode == 2
    assert f"limits.{name}: needs the controller" in checked.stderr
    plugind.write({"v1": (path, [])}, MOUNTS, "v1", SOON)


@pytest.mark.skipif("memory" not in controllers_in(PLACE), reason="no controller memory in cgroup v2")
def test_memory_cpu_and_pids_are_limited_from_the_first_instruction_on(plugind: Plugind) -> None:
    told = plugind.folder / "told"
    script = f"#!/bin/sh\ncat /proc/self/cgroup > {told}.new\nmv {told}.new {told}\nexec sleep 1000\n"
    pid = runs(plugind, script, f"{SOON}\nlimits: {{memory: 64MiB, cpu: 1.5, pids: 40}}")
    plugind.until(told.exists)

    cgroup = cgroup_of(pid)

    assert "/root:auth+mock\n" in told.read_text()
    assert (cgroup / "memory.max").read_text() == f"{64 << 20}\n"
    assert (cgroup / "cpu.max").read_text() == "150000 100000\n"
    assert (cgroup / "pids.max").read_text() == "40\n"


@pytest.mark.skipif("pids" not in controllers_in(PLACE), reason="no controller pids in cgroup v2")
def test_a_fork_bomb_within_its_limit_of_pids_ends_with_a_stop(plugind: Plugind) -> None:
    runs(
        plugind, "#!/bin/sh\n(while :; do sleep 1000 & done) 2>/dev/null\n", f"{SOON}\nlimits: {{pids: 200}}"
    )

    answer = plugind.call("POST", "supervisor/stop/auth/mock")

    assert answer.data["result"] == "stopped"
    assert plugind.living() == set()
