"""Nothing left of something: plugind says so, goes on with what there is, and mends by itself."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import Plugind, UnixConnection, send

from supervisor.host.spawn import RESERVE

SLEEPER = "#!/bin/sh\nexec sleep 1000\n"
SOON = "restart: {backoff: 20ms, max_backoff: 100ms, burst: 2}"
needs_mounts = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")


def write(plugind: Plugind, pin: str = "v1", mounts: int = 3) -> None:
    path = plugind.plugin("plugin", SLEEPER)
    paths = {f"auth/m{number}": "{plugin: auth/mock}" for number in range(mounts)}
    plugind.write({"v1": (path, []), "v2": (path, ["x"])}, {"root": paths}, pin, SOON)


def is_all_ready(plugind: Plugind) -> bool:
    return all(row["state"] == "ready" for row in plugind.rows().values())


class SmallDisk:
    """A tmpfs that only plugind has, at one of its folders; seen from here through /proc."""

    def __init__(self, plugind: Plugind, name: str, options: str) -> None:
        self.plugind = plugind
        self.folder = plugind.folder / name
        self.folder.mkdir(mode=0o700)
        mount = f'mount -t tmpfs -o mode=0755,{options} small {self.folder} && exec "$@"'
        plugind.start(within=["unshare", "--mount", "sh", "-c", mount, "sh"])

    @property
    def here(self) -> Path:
        assert self.plugind.process is not None
        return Path(f"/proc/{self.plugind.process.pid}/root{self.folder}")

    def fill(self) -> None:
        """Until neither a byte nor a name fits."""
        (self.here / "filler").mkdir()
        for number in range(1 << 16):
            try:
                (self.here / "filler" / str(number)).write_bytes(bytes(65536))
            except OSError:
                if not (self.here / "filler" / str(number)).exists():
                    return
        raise AssertionError("it is not small")

    def clear(self) -> None:
        for path in (self.here / "filler").iterdir():
            path.unlink()
        (self.here / "filler").rmdir()

    def remount(self, how: str) -> None:
        assert self.plugind.process is not None
        enter = ["nsenter", "--target", str(self.plugind.process.pid), "--mount"]
        subprocess.run([*enter, "mount", "-o", f"remount,{how}", str(self.folder)], check=True)


@needs_mounts
def test_a_full_runtime_dir_makes_nobody_give_up_and_all_run_when_there_is_room(plugind: Plugind) -> None:
    write(plugind)
    disk = SmallDisk(plugind, "run", "size=512k,nr_inodes=100")
    write(plugind, "v2")
    disk.fill()

    reloaded = plugind.reload()
    write(plugind, "v2", mounts=4)
    plugind.call("POST", "supervisor/apply", {"wait": False})
    plugind.until(lambda: times_refused(plugind) > 6)  # often enough to be given up, if it were its fault
    plugind.until(lambda: plugind.rows()["root:auth/m3"]["state"] == "backoff")
    new = plugind.rows()["root:auth/m3"]
    pids = {name: pid for name, pid in plugind.pids().items() if pid}
    plugind.kill()
    plugind.start(ready=False, within=["nsenter", "--target", str(pids["root:auth/m1"]), "--mount"])
    adopted = {name: pid for name, pid in plugind.pids().items() if pid}
    disk.clear()
    plugind.until(lambda: is_all_ready(plugind))

    assert reloaded.status == 200  # what the old ones had is enough for the new ones
    assert "No space left on device" in new["reason"]
    assert len(pids) == 3
    assert adopted == pids
    assert not [entry for entry in plugind.log if entry["event"] == "mount_failed"]


def times_refused(plugind: Plugind) -> int:
    return sum(entry["event"] == "instance_not_started" for entry in plugind.log)


@needs_mounts
@pytest.mark.parametrize("options", ["size=512k,nr_inodes=40", "ro"], ids=["full", "read-only"])
def test_a_state_dir_that_takes_nothing_stops_no_command_and_knows_all_when_it_does(
    plugind: Plugind, options: str
) -> None:
    write(plugind)
    disk = SmallDisk(plugind, "state", options)
    is_full = options != "ro"
    if is_full:
        disk.fill()
    plugind.until(lambda: is_all_ready(plugind))
    write(plugind, "v2")

    reloaded = plugind.reload()
    stopped = plugind.call("POST", "supervisor/stop/auth/m0")
    warnings = "\n".join(plugind.call("GET", "supervisor/status").data["warnings"])

    assert (reloaded.status, stopped.data["result"]) == (200, "stopped")
    why = "No space left on device" if is_full else "Read-only file system"
    assert f"{disk.folder}/mounts.json: {why}" in warnings
    assert f"{disk.folder}/reloads.json: {why}" in warnings
    if is_full:
        disk.clear()
    else:
        disk.remount("rw")
    memory = disk.here / "mounts.json"
    plugind.until(lambda: memory.exists() and '"who":' in memory.read_text())
    plugind.reload()
    plugind.until(lambda: reloaded.data["reload_id"] in (disk.here / "reloads.json").read_text())


def test_descriptors_that_a_reload_needs_go_to_no_mount_that_is_new(plugind: Plugind) -> None:
    write(plugind)
    plugind.start(within=["prlimit", "--nofile=96:96"])
    assert plugind.process is not None
    folder = Path(f"/proc/{plugind.process.pid}/fd")
    write(plugind, mounts=60)
    plugind.call("POST", "supervisor/apply", {"wait": False, "on_failure": "continue"})
    plugind.until(lambda: times_refused(plugind) > 20)
    write(plugind, "v2", mounts=60)

    # a start under way has more than it keeps
    plugind.until(lambda: any(not (folder / str(number)).exists() for number in range(96 - RESERVE)))
    reloaded = plugind.call(
        "POST", "sys/plugins/reload/backend", {"mounts": ["auth/m0", "auth/m1", "auth/m2"]}
    )

    assert reloaded.status == 200, reloaded.error


WATCHES = "/proc/sys/user/max_inotify_watches"
OWN_LIMITS = ["unshare", "--user", "--map-root-user", "sh", "-c"]
MAY_LIMIT = subprocess.run([*OWN_LIMITS, f"echo 0 >{WATCHES}"], capture_output=True, check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: in a user namespace others own the folders above")
@pytest.mark.skipif(
    MAY_LIMIT.returncode != 0,
    reason=f"needs a user namespace with limits: {MAY_LIMIT.stderr.decode().strip()}",
)
def test_without_inotify_edits_are_seen_all_the_same_and_at_once_when_there_is_some(plugind: Plugind) -> None:
    write(plugind)
    script = f'echo 0 >{WATCHES} && exec "$@"'
    plugind.start(within=[*OWN_LIMITS, script, "sh"])
    told = plugind.saw("catalog_polled")

    write(plugind, "v2")
    plugind.until(lambda: {row["pinned_version"] for row in plugind.rows().values()} == {"v2"})
    assert plugind.process is not None
    enter = ["nsenter", "--target", str(plugind.process.pid), "--user", "--preserve-credentials"]
    subprocess.run([*enter, "sh", "-c", f"echo 1000 >{WATCHES}"], check=True)

    assert told["reason"].endswith("a change is seen within 5 s, not at once")
    plugind.saw("catalog_watched_again")


NOTIFIER = f"""#!{sys.executable} -IS
import os, pathlib, signal, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
    peer.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
pathlib.Path(sys.argv[1], str(os.getpid())).touch()
signal.pause()
"""


@contextmanager
def no_memory_to_watch_anything(pid: int) -> Iterator[None]:
    with subprocess.Popen(
        ["strace", "-f", "-p", str(pid), "-o", "/dev/null", "-e", "inject=epoll_ctl:error=ENOMEM"],
        stderr=subprocess.PIPE,
        text=True,
    ) as tracer:
        assert tracer.stderr is not None
        assert "attached" in tracer.stderr.readline()
        try:
            yield
        finally:
            tracer.terminate()


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed: apt-get install strace")
def test_one_that_is_started_while_nothing_can_be_watched_is_heard_later_and_is_the_only_one(
    plugind: Plugind,
) -> None:
    said = plugind.folder / "said"
    said.mkdir()
    path = plugind.plugin("plugin", NOTIFIER)
    settings = "ready: {kind: notify, timeout: 60s}\nrestart: {backoff: 0s}"
    plugind.write({"v1": (path, [str(said)])}, {"root": {"auth/m0": "{plugin: auth/mock}"}}, "v1", settings)
    daemon = plugind.start()
    assert daemon.process is not None
    before = daemon.pids()["root:auth/m0"]

    with no_memory_to_watch_anything(daemon.process.pid):
        send(before)
        daemon.until(lambda: len(list(said.iterdir())) == 2)
    daemon.until(lambda: daemon.rows()["root:auth/m0"]["state"] == "ready")

    row = daemon.rows()["root:auth/m0"]
    assert {int(one.name) for one in said.iterdir()} == {before, row["pid"]}
    assert daemon.living() == {row["pid"]}
    assert row["restarts"] == 1


def test_hundreds_of_idle_clients_leave_the_descriptors_for_a_reload(plugind: Plugind) -> None:
    write(plugind)
    plugind.start(within=["prlimit", "--nofile=64:64"])
    kept = UnixConnection(plugind.socket)
    kept.request("GET", "/v1/sys/health")
    kept.getresponse().read()
    idle = [socket.socket(socket.AF_UNIX) for _ in range(200)]
    try:
        for client in idle:
            client.settimeout(5)
            client.connect(str(plugind.socket))
        seen = len(plugind.log)

        kept.request("POST", "/v1/sys/plugins/reload/auth/mock", "{}")
        over_kept, over_new = kept.getresponse().status, plugind.reload().status

        assert (over_kept, over_new) == (200, 200)
        assert {entry["event"] for entry in plugind.log[seen:]} == {"instance_ready"}
    finally:
        kept.close()
        for client in idle:
            client.close()
    assert plugind.reload().status == 200
