"""Guarantee 3: before the new instance starts, the whole old tree is dead."""

import os
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from harness import Plugind, is_alive, processes_below, send

DOUBLE_FORK = """#!/usr/bin/env -S python3 -IS
import os, signal, sys, time
def daemonize(depth):
    if os.fork() == 0:
        os.setsid()
        if depth:
            daemonize(depth - 1)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(100)
daemonize(3)
while True:
    time.sleep(100)
"""
IGNORES_TERM = """#!/bin/sh
trap '' TERM
sleep 1000 &
sleep 1001 &
while :; do sleep 1000; done
"""
CLEAN_ENVIRONMENT = """#!/usr/bin/env -S python3 -IS
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        os.execve("/bin/sleep", ["sleep", "1003"], {})
    os._exit(0)
while True:
    time.sleep(100)
"""
LEAVES_A_CHILD_AND_DIES = """#!/bin/sh
if [ -e %s ]; then exec sleep 1000; fi
: > %s
(trap '' TERM; exec setsid sleep 1002) &
sleep 0.3
exit 7
"""
STOP = "stop: {timeout: 300ms}\nrestart: {backoff: 0s}"


def members(daemon: Plugind) -> set[int]:
    """The plugin's processes, also those that cleared their environment: descendants of the daemon."""
    assert daemon.process is not None
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").glob("[0-9]*"):  # without ps(1), which a bare Debian lacks
        with suppress(OSError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            parents[int(entry.name)] = (int(parent), state)
    found: set[int] = set()
    for pid in parents:
        above = pid
        while above in parents and above != daemon.process.pid:
            above = parents[above][0]
        if above == daemon.process.pid and pid != above and parents[pid][1] != "Z":
            found.add(pid)
    return found


def run(daemon: Plugind, text: str, size: int) -> Plugind:
    path = daemon.plugin("plugin", text)
    daemon.write({"v1": (path, [])}, {"root": {"auth/mock": "{plugin: auth/mock}"}}, "v1", STOP)
    daemon.start()
    daemon.until(lambda: len(members(daemon)) == size)
    return daemon


@pytest.mark.parametrize(
    ("text", "size"),
    [(DOUBLE_FORK, 5), (IGNORES_TERM, 4), (CLEAN_ENVIRONMENT, 2)],
    ids=["forks 4 levels with setsid", "ignores SIGTERM", "clears its environment"],
)
def test_a_reload_leaves_nothing_of_the_old_tree(plugind: Plugind, text: str, size: int) -> None:
    old = members(run(plugind, text, size))

    answer = plugind.reload()

    assert answer.status == 200
    assert not any(is_alive(pid) for pid in old)
    plugind.until(lambda: len(members(plugind)) == size)


def test_a_stopped_tree_dies_too(plugind: Plugind) -> None:
    old = members(run(plugind, IGNORES_TERM, 4))
    for pid in old:
        send(pid, signal.SIGSTOP)

    assert plugind.reload().status == 200

    assert not any(is_alive(pid) for pid in old)


def test_what_a_crashed_main_process_left_is_killed_before_its_successor_starts(plugind: Plugind) -> None:
    marker = plugind.folder / "ran"
    path = plugind.plugin("plugin", LEAVES_A_CHILD_AND_DIES % (marker, marker))
    plugind.write({"v1": (path, [])}, {"root": {"auth/mock": "{plugin: auth/mock}"}}, "v1", STOP)
    plugind.start()

    plugind.saw("instance_exited", reason="exit 7")
    plugind.until(lambda: plugind.rows()["root:auth/mock"]["restarts"] == 1)
    plugind.until(lambda: plugind.rows()["root:auth/mock"]["state"] == "ready")

    left = [environ for environ in processes_below(plugind.folder).values() if "PLUGIND_INSTANCE" in environ]
    assert len(left) == 1


def test_children_that_outlive_the_main_process_get_the_rest_of_the_stop_timeout(plugind: Plugind) -> None:
    done = plugind.folder / "tidied"
    child = f"trap 'sleep 0.2; : > {done}; exit 0' TERM; while :; do sleep 0.05; done"
    script = (
        f'#!/bin/sh\n({child}) &\necho $! > {plugind.folder}/child\ntrap "kill -TERM $!; exit 0" TERM\nwait\n'
    )
    path = plugind.plugin("plugin", script)
    plugind.write(
        {"v1": (path, [])}, {"root": {"auth/mock": "{plugin: auth/mock}"}}, "v1", "stop: {timeout: 5s}"
    )
    plugind.start()
    plugind.until(
        lambda: (plugind.folder / "child").exists() and (plugind.folder / "child").read_text().strip() != ""
    )

    plugind.call("POST", "supervisor/stop/auth/mock")

    assert done.exists()
    assert plugind.living() == set()


def test_no_stranger_is_signalled(plugind: Plugind) -> None:
    with subprocess.Popen(["sleep", "1004"], start_new_session=True) as decoy:
        try:
            run(plugind, DOUBLE_FORK, 5)
            plugind.reload()
            plugind.stop()
            assert decoy.poll() is None
        finally:
            decoy.kill()


def test_a_plugin_starts_with_a_clean_process(plugind: Plugind) -> None:
    out = plugind.folder / "out"
    script = (
        f"#!/bin/sh\n{{ ls -l /proc/self/fd | sed 's/.*-> //'; grep -E 'Sig(Blk|Ign)' /proc/self/status\n"
        f"umask; pwd; env; }} > {out}.new; mv {out}.new {out}\nexec sleep 1000\n"
    )
    path = plugind.plugin("plugin", script)
    plugind.write(
        {"v1": (path, [])}, {"root": {"auth/mock": "{plugin: auth/mock, env: {LEVEL: debug}}"}}, "v1"
    )
    plugind.start()
    plugind.until(out.exists)

    told = out.read_text()

    assert "/dev/null" in told
    assert "socket:" not in told
    assert "anon_inode" not in told
    assert "SigBlk:\t0000000000000000" in told
    ignored = int(told.partition("SigIgn:\t")[2][:16], 16)
    assert not ignored & ~(0b11 << 31)  # 32 and 33 belong to the C library: nobody can set them
    assert "\n0022\n/\n" in told
    names = {line.partition("=")[0] for line in told.splitlines() if "=" in line}
    assert names - {"_", "PWD", "SHLVL", "OLDPWD"} == {
        "PATH", "LANG", "HOME", "TMPDIR", "LEVEL",
        "PLUGIND_NAMESPACE", "PLUGIND_MOUNT", "PLUGIND_PLUGIN", "PLUGIND_VERSION", "PLUGIND_INSTANCE",
    }  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to run as somebody else")
def test_user_group_cwd_and_limits_are_applied(plugind: Plugind) -> None:
    with tempfile.TemporaryDirectory(prefix="plugind-", dir="/tmp") as name:
        folder = Path(name)  # where somebody else can reach and write
        folder.chmod(0o755)
        out = folder / "out"
        out.touch()
        out.chmod(0o666)
        path = folder / "plugin"
        path.write_text(f"#!/bin/sh\n(id -un; id -gn; pwd; ulimit -n) > {out}\nexec sleep 1000\n")
        path.chmod(0o755)
        settings = "user: nobody\ngroup: nogroup\ncwd: /usr\nlimits: {nofile: 77}"
        plugind.write({"v1": (path, [])}, {"root": {"auth/mock": "{plugin: auth/mock}"}}, "v1", settings)
        plugind.start()

        plugind.until(lambda: out.read_text().count("\n") == 4)

        assert out.read_text().split() == ["nobody", "nogroup", "/usr", "77"]
        plugind.stop()
