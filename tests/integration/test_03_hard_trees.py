"""Guarantee 3 against trees that a signal alone does not end: traced, frozen, foreign, faster than a list."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import lent
from harness import Plugind, is_alive
from test_03_exactly_one import members

IS_ROOT = os.geteuid() == 0
MOUNT = {"root": {"auth/mock": "{plugin: auth/mock}"}}
SOON = "stop: {timeout: 300ms}\nrestart: {backoff: 0s}"
SLEEPER = "#!/bin/sh\nexec sleep 1000\n"
OTHER = 61_987
"""A user that nobody else is."""
SHARED = ("/tmp", "/var/tmp")  # noqa: S108 - folders of its own are made in it
READS = "+dac_read_search"
"""The checkout may lie in a folder that is root's alone."""
AS_OTHER = [
    *("setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups"),
    *(f"--inh-caps={READS}", f"--ambient-caps={READS}", "--"),
]
PTRACE_SEIZE = 0x4206
NEW_PIDS = ["unshare", *([] if IS_ROOT else ["--user"]), "--pid", "--fork"]
OWN_PIDS = subprocess.run([*NEW_PIDS, "true"], capture_output=True, check=False)


@pytest.fixture(params=["auto", "off"], ids=["with cgroups where there are some", "without cgroups"])
def either(plugind: Plugind, request: pytest.FixtureRequest) -> Plugind:
    plugind.settings(f"cgroups: {request.param}\n")
    return plugind


@pytest.fixture
def reachable() -> Iterator[Plugind]:
    """A plugind in a folder that another user can reach and write, where setuid works if it does anywhere."""
    folder = next((name for name in SHARED if not os.statvfs(name).f_flag & os.ST_NOSUID), SHARED[0])
    with tempfile.TemporaryDirectory(prefix="plugind-", dir=folder) as name, lent(Path(name)) as daemon:
        if IS_ROOT:
            os.chown(daemon.folder, OTHER, OTHER)
        yield daemon


def write(plugind: Plugind, text: str, settings: str = SOON) -> None:
    path = plugind.plugin("plugin", text)
    plugind.write({"v1": (path, [])}, MOUNT, "v1", settings)


# --- traced


def trace(pid: int) -> None:
    """Become the tracer of a process, as a debugger does."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    assert libc.ptrace(PTRACE_SEIZE, pid, None, None) == 0, os.strerror(ctypes.get_errno())


def test_a_stopped_tree_with_a_traced_member_is_dead_in_time(either: Plugind) -> None:
    """The debugger does not wait for it: a zombie stays, which is nobody who could do anything."""
    pids = either.folder / "pids"
    orphan = f"(setsid sleep 1000 & echo $$ $c $! > {pids}.$1.new; mv {pids}.$1.new {pids}.$1)"
    path = either.plugin("plugin", f"#!/bin/sh\nsleep 1000 & c=$!\n{orphan}\nwait\n")
    kinds = ("main", "child", "orphan")
    mounts = {f"auth/{kind}": f"{{plugin: auth/mock, args: [{kind}]}}" for kind in kinds}
    either.write({"v1": (path, [])}, {"root": mounts}, "v1", SOON)
    either.start()
    either.until(lambda: all(Path(f"{pids}.{kind}").exists() for kind in kinds))
    trees = [list(map(int, Path(f"{pids}.{kind}").read_text().split())) for kind in kinds]
    traced = [tree[number] for number, tree in enumerate(trees)]
    for pid in traced:
        trace(pid)
    for tree in trees:
        for pid in tree:
            send(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()

        answer = either.reload()

        assert answer.status == 200
        assert time.monotonic() - began < 5.0  # waiting for the debugger takes 10, and is a 400
        assert not any(is_alive(pid) for tree in trees for pid in tree)
    finally:
        for pid in traced:
            os.waitpid(pid, 0)
    either.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in traced))


# --- its own pid namespace


@pytest.mark.skipif(
    OWN_PIDS.returncode != 0, reason=f"needs unshare --pid: {OWN_PIDS.stderr.decode().strip()}"
)
def test_a_plugin_in_a_pid_namespace_of_its_own_ends_with_all_that_is_in_it(either: Plugind) -> None:
    within = "trap '' TERM; setsid sleep 1000 & setsid env -i sleep 1000 & while :; do sleep 1000; done"
    write(either, f'#!/bin/sh\nexec {" ".join(NEW_PIDS)} sh -c "{within}"\n')
    either.start()
    either.until(lambda: [words(pid)[:1] for pid in members(either)].count(["sleep"]) == 3)
    old = members(either)

    assert either.reload().status == 200

    assert not any(is_alive(pid) for pid in old)
    assert either.call("POST", "supervisor/stop/auth/mock").data["result"] == "stopped"
    assert members(either) == set()


BOMB = """#!/usr/bin/python3
import os, time
end = time.monotonic() + 60
while time.monotonic() < end:
    try:
        os.fork()
    except OSError:
        pass
"""


def test_a_fork_bomb_at_its_limit_of_processes_ends_with_a_stop_and_leaves_none(reachable: Plugind) -> None:
    """Without a cgroup, and as a normal user, whom the limit binds: each that dies makes room for another.

    Killed one after the other they outlived 10 s on a busy machine, now and then.
    """
    user = OTHER if IS_ROOT else os.getuid()
    nproc = processes_of(user) + 200
    reachable.settings("cgroups: off\n")
    write(reachable, BOMB, f"{SOON}\nlimits: {{nproc: {nproc}}}")
    reachable.start(ready=False, within=AS_OTHER if IS_ROOT else [])
    reachable.until(lambda: len(members(reachable)) > 150)
    try:
        began = time.monotonic()
        answer = reachable.call("POST", "supervisor/stop/auth/mock")

        assert answer.data["result"] == "stopped"
        assert time.monotonic() - began < 5
        assert members(reachable) == set()
    finally:
        while left := members(reachable):
            for pid in left:
                kill(pid)


def kill(pid: int) -> bool:
    return send(pid, signal.SIGKILL)


def send(pid: int, number: int) -> bool:
    try:
        with os.fdopen(os.pidfd_open(pid)) as handle:
            signal.pidfd_send_signal(handle.fileno(), number)
    except OSError:
        return False
    return True


def processes_of(uid: int) -> int:
    return sum(path.name.isdigit() and uid_of(path.name) == uid for path in Path("/proc").iterdir())


def uid_of(name: str | int) -> int:
    try:
        return Path(f"/proc/{name}").stat().st_uid
    except OSError:
        return -1


# --- foreign


@pytest.mark.skipif(not IS_ROOT, reason="needs root to become somebody else")
def test_a_member_that_became_another_user_dies_with_the_others(plugind: Plugind) -> None:
    """Also where root has few capabilities, as in a container: it may not ask for the limits of others."""
    plugind.settings("cgroups: off\n")
    other = f"setpriv --reuid={OTHER} --regid={OTHER} --clear-groups env -i"
    hides = f"setsid {other} sh -c 'setsid sleep 1000 & exec sleep 1000' &"
    write(plugind, f"#!/bin/sh\n{hides}\nexec sleep 1000\n")
    drop = "-sys_resource,-sys_ptrace"
    plugind.start(within=["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}", "--"])
    plugind.until(
        lambda: [uid_of(pid) for pid in members(plugind) if words(pid)[0] == "sleep"].count(OTHER) == 2
    )
    old = members(plugind)

    assert plugind.reload().status == 200

    assert not any(is_alive(pid) for pid in old)


@pytest.mark.skipif(not IS_ROOT, reason="needs root to make a program that changes its user")
@pytest.mark.parametrize("how", ["a child", "an orphan"])
def test_a_member_that_may_not_be_signalled_makes_the_mount_failed_also_for_the_next_plugind(
    reachable: Plugind, how: str
) -> None:
    helper, flag = reachable.folder / "helper", reachable.folder / "once"
    shutil.copy("/usr/bin/setpriv", helper)
    helper.chmod(0o4755)
    becomes_root = f"setsid {helper} --reuid=0 --regid=0 --clear-groups env -i sleep 1000 &"
    then = (
        "exec sleep 1000" if how == "a child" else f"until [ -e {flag}.go ]; do sleep 0.01; done; kill -9 $$"
    )
    text = f"#!/bin/sh\n[ -e {flag} ] && exec sleep 1000\ntouch {flag}\n{becomes_root}\n{then}\n"
    write(reachable, text)
    reachable.start(ready=False, within=AS_OTHER)
    reachable.until(lambda: any(uid_of(pid) == 0 for pid in members(reachable)))
    (foreign,) = [pid for pid in members(reachable) if uid_of(pid) == 0]
    try:
        if how == "a child":
            assert reachable.reload().status == 400
        else:
            Path(f"{flag}.go").touch()
            reachable.until(lambda: row(reachable)["state"] == "failed")
        before = row(reachable)
        answer = reachable.call("POST", "supervisor/start/auth/mock")

        assert (before["state"], before["reason"]) == (
            "failed",
            f"cannot kill pid {foreign}: it belongs to another user",
        )
        assert answer.status == 400
        assert members(reachable) == {foreign}
        for _ in range(2):
            reachable.kill()
            reachable.start(ready=False, within=AS_OTHER)
            reachable.until(lambda: "cannot be killed" in (row(reachable)["reason"] or ""))
            assert f"pid {foreign} of a former instance cannot be killed" in row(reachable)["reason"]
            assert members(reachable) == set(), "something was started beside it"
            assert is_alive(foreign)
    finally:
        kill(foreign)
    reachable.until(lambda: not is_alive(foreign))
    assert reachable.call("POST", "supervisor/start/auth/mock").data["result"] == "started"


def row(plugind: Plugind) -> dict[str, Any]:
    found: dict[str, Any] = plugind.rows()["root:auth/mock"]
    return found


def test_one_that_fits_no_instance_is_left_alone_and_shown(plugind: Plugind) -> None:
    """Its number, its environment and its session are gone, and nobody knows a cgroup of it."""
    plugind.settings("cgroups: off\n")
    write(plugind, "#!/bin/sh\n(setsid prlimit --msgqueue=12345: env -i sleep 1000 &)\nexec sleep 1001\n")
    plugind.start()
    plugind.until(lambda: any(words(pid) == ["sleep", "1000"] for pid in members(plugind)))
    (hidden,) = [pid for pid in members(plugind) if words(pid) == ["sleep", "1000"]]
    try:
        told = plugind.call("GET", "supervisor/status").data["warnings"]

        assert told == [f"pid {hidden} (sleep) fits no instance: it is left alone"]
        assert plugind.reload().status == 200
        assert is_alive(hidden)
    finally:
        for pid in members(plugind):
            if words(pid) == ["sleep", "1000"]:
                kill(pid)


# --- in uninterruptible sleep

MOUNTS = ["unshare", "--mount"]
CAN_BE_STUCK = subprocess.run(
    [*MOUNTS, "sh", "-c", "[ -c /dev/fuse ] && exec 3<>/dev/fuse"], capture_output=True, check=False
)


@pytest.mark.skipif(
    CAN_BE_STUCK.returncode != 0,
    reason=f"needs root, /dev/fuse and a mount namespace: {CAN_BE_STUCK.stderr.decode().strip()}",
)
def test_a_member_in_uninterruptible_sleep_makes_its_mount_failed_and_nothing_starts_there(
    plugind: Plugind,
) -> None:
    stuck, flag = plugind.folder / "stuck", plugind.folder / "once"
    text = (
        f"#!/bin/sh\n[ -e {flag} ] && exec sleep 1000\n"
        f'[ "$1" = main ] && exec cat {stuck}/main\nsetsid cat {stuck}/orphan &\nexec sleep 1000\n'
    )
    both = {f"auth/{name}": f"{{plugin: auth/mock, args: [{name}]}}" for name in ("main", "orphan")}
    plugind.write({"v1": (plugind.plugin("plugin", text), [])}, {"root": both}, "v1", SOON)
    server = [sys.executable, str(Path(__file__).with_name("stuck.py")), str(stuck)]
    plugind.start(within=[*MOUNTS, *server])
    plugind.until(lambda: all(Path(f"{stuck}.asked.{name}").exists() for name in ("main", "orphan")))
    asleep = {words(pid)[1].rpartition("/")[2]: pid for pid in members(plugind) if words(pid)[0] == "cat"}
    flag.touch()
    try:
        answer = plugind.reload(on_failure="continue")
        rows = plugind.rows()

        assert answer.status == 400
        for name, pid in asleep.items():
            assert rows[f"root:auth/{name}"]["state"] == "failed"
            assert rows[f"root:auth/{name}"]["reason"] == f"cannot kill pid {pid}: still there after SIGKILL"
        assert members(plugind) == set(asleep.values())
    finally:
        kill(int(Path(f"{stuck}.server").read_text()))
    plugind.until(lambda: not any(is_alive(pid) for pid in asleep.values()))
    for name in asleep:
        assert plugind.call("POST", f"supervisor/start/auth/{name}").data["result"] == "started"


def words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []
