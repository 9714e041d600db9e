"""Each ready and liveness kind with a plugin that is ready, and well, when a file says so."""

import json
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from harness import Plugind

PLUGIN = f"""#!{sys.executable} -IS
import os, pathlib, socket, subprocess, sys, time
kind, folder, port = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
own = os.environ["TMPDIR"]
def say(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.sendto(text, os.environ["NOTIFY_SOCKET"])
def listening():
    if kind == "tcp":
        server = socket.create_server(("127.0.0.1", port))
    else:
        server = socket.socket(socket.AF_UNIX)
        server.bind(own + "/socket")
        server.listen()
    server.setblocking(False)
    return server
def answer(server, status):
    try:
        peer = server.accept()[0]
    except BlockingIOError:
        return
    with peer:
        if kind == "http":
            peer.settimeout(5)
            peer.recv(4096)
            peer.sendall(b"HTTP/1.1 " + status + b"\\r\\n\\r\\n")
def is_ill():
    path = folder / (kind + ".ill")
    return path.exists() and path.read_text() == str(os.getpid())
server = listening() if kind == "http" else None
if kind == "notify":
    child = subprocess.Popen(["/bin/sleep", "1000"])
    say(b"MAINPID=%d" % child.pid)
    say(b"MAINPID=1")
while not (folder / (kind + ".go")).exists():
    if server:
        answer(server, b"503 no")
    time.sleep(0.02)
if kind == "notify":
    if not os.fork():  # who says it may be gone before it is read
        say(b"READY=1")
        os._exit(0)
    os.wait()
elif kind in {{"tcp", "unix"}}:
    server = listening()
elif kind in {{"command", "never"}}:
    pathlib.Path(own, "up").touch()
while not is_ill():
    if kind == "notify":
        say(b"WATCHDOG=1")
    if server:
        answer(server, b"204 yes")
    time.sleep(0.02)
if kind in {{"tcp", "unix"}}:
    server.close()
elif kind in {{"command", "never"}}:
    os.unlink(own + "/up")
while True:
    if kind == "http":
        answer(server, b"500 ill")
    time.sleep(0.02)
"""
UP = "command: [/bin/sh, -c, 'test -e $TMPDIR/up']"
ADDRESSES = {
    "notify": "",
    "http": "url: 'unix:$TMPDIR/socket:/'",
    "tcp": "address: '127.0.0.1:{port}'",
    "unix": "path: $TMPDIR/socket",
    "command": UP,
}
INTERVAL = 0.3
SETTLE = 0.5
WHY = {
    "notify": "notify {folder}/notify: no WATCHDOG=1 for ",
    "http": "http unix:{folder}/socket:/: it answered 500",
    "tcp": "tcp 127.0.0.1:{port}: connection refused",
    "unix": "unix {folder}/socket: connection refused",
    "command": "command /bin/sh: exit status 1",
}


class Kinds:
    """A daemon with a mount for each."""

    def __init__(self, daemon: Plugind) -> None:
        self.daemon = daemon
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port = taken.getsockname()[1]
        path = daemon.plugin("plugin", PLUGIN)
        mounts = {}
        for kind, address in ADDRESSES.items():
            asked = ", ".join(filter(None, (f"kind: {kind}", address.replace("{port}", str(self.port)))))
            liveness = f"{{{asked}, interval: {INTERVAL}s, failures: 2}}"
            mounts[f"auth/{kind}"] = self._mount(kind, f"{{{asked}, timeout: 100s}}", liveness)
        mounts["auth/never"] = self._mount(
            "never",
            f"{{kind: command, {UP}, timeout: 100s}}",
            f"{{kind: command, {UP}, interval: 100ms, failures: 1}}, restart: {{policy: never}}",
        )
        settled = f"{{kind: exec, settle: {SETTLE}s, timeout: 100s}}"
        mounts["auth/exec"] = f"{{plugin: auth/mock, args: [exec, {daemon.folder}, '0'], ready: {settled}}}"
        settings = "stop: {timeout: 50ms}\nrestart: {backoff: 0s}"
        daemon.write({"v1": (path, [])}, {"root": mounts}, "v1", settings)
        daemon.start(ready=False)

    def _mount(self, kind: str, ready: str, liveness: str) -> str:
        args = json.dumps([kind, str(self.daemon.folder), str(self.port)])
        return f"{{plugin: auth/mock, args: {args}, ready: {ready}, liveness: {liveness}}}"

    def row(self, kind: str) -> dict[str, Any]:
        return self.daemon.rows()[f"root:auth/{kind}"]

    def make_ill(self, kind: str) -> None:
        """This instance, and not the next one."""
        (self.daemon.folder / f"{kind}.ill").write_text(str(self.row(kind)["pid"]))

    def until_ready(self, kind: str) -> dict[str, Any]:
        (self.daemon.folder / f"{kind}.go").touch()
        self.daemon.until(lambda: self.row(kind)["state"] == "ready")
        return self.row(kind)

    def steps(self, kind: str, event: str) -> list[dict[str, Any]]:
        steps = self.daemon.call("GET", f"supervisor/why/auth/{kind}").data["transitions"]
        return [step for step in steps if step["event"] == event]


@pytest.fixture(scope="module")
def kinds(shared_plugind: Plugind) -> Iterator[Kinds]:
    return Kinds(shared_plugind)


def _seconds_since(instant: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(instant)).total_seconds()


@pytest.mark.parametrize("kind", ADDRESSES)
def test_it_is_ready_when_its_plugin_is_and_not_before_and_is_restarted_when_it_is_not_well(
    kinds: Kinds, kind: str
) -> None:
    daemon = kinds.daemon
    daemon.until(lambda: kinds.row(kind)["pid"] is not None)
    before = kinds.row(kind)
    assert (before["state"], before["ready_at"]) == ("starting", None)

    ready = kinds.until_ready(kind)
    daemon.until(lambda: _seconds_since(ready["ready_at"]) > 3 * INTERVAL)
    later = kinds.row(kind)
    kinds.make_ill(kind)
    daemon.until(lambda: kinds.row(kind)["restarts"] == 1)
    daemon.until(lambda: kinds.row(kind)["state"] == "ready")

    assert ready["pid"] == before["pid"]
    assert (later["pid"], later["restarts"], later["state"]) == (before["pid"], 0, "ready")
    assert kinds.row(kind)["pid"] != before["pid"]
    [failed] = kinds.steps(kind, "probe_failed")
    folder = daemon.folder / "run" / "tmp" / before["instance"]
    why = WHY[kind].format(folder=folder, port=kinds.port)
    assert failed["reason"].startswith(f"not alive, 2 times in a row: {why}")


def test_with_settle_it_is_ready_when_it_has_lived_for_so_long(kinds: Kinds) -> None:
    kinds.daemon.until(lambda: kinds.row("exec")["state"] == "ready")

    row = kinds.row("exec")

    lived = datetime.fromisoformat(row["ready_at"]) - datetime.fromisoformat(row["started_at"])
    assert lived.total_seconds() >= SETTLE
    assert row["restarts"] == 0


def test_one_that_is_never_restarted_and_not_well_has_failed_until_somebody_starts_it(kinds: Kinds) -> None:
    kinds.until_ready("never")
    kinds.make_ill("never")
    kinds.daemon.until(lambda: kinds.row("never")["state"] == "failed")

    failed = kinds.row("never")
    started = kinds.daemon.call("POST", "supervisor/start/auth/never").data

    assert failed["reason"].startswith("not alive: command /bin/sh: exit status 1")
    assert (failed["pid"], failed["restarts"]) == (None, 0)
    assert started["result"] == "started"


def test_mainpid_of_another_process_is_refused_and_of_its_own_changes_nothing(kinds: Kinds) -> None:
    told = kinds.daemon.saw("notify_message_ignored")

    assert told["reason"] == "MAINPID=1 names no process of this instance"
    ignored = [entry for entry in kinds.daemon.log if entry["event"] == "notify_message_ignored"]
    assert {entry["reason"] for entry in ignored} == {told["reason"]}
