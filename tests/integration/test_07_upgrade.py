"""Guarantee 7: plugind may be upgraded in place. No plugin restarts, no request is refused or lost."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from harness import BIN, DEADLINE, ROOT, Plugind, UnixConnection, is_alive, send

SLEEPER = "#!/bin/sh\nexec sleep 1000\n"
TALKER = "#!/bin/sh\nn=0\nwhile :; do n=$((n + 1)); echo line $n; sleep 0.01; done\n"
ENDS = "#!/bin/sh\nexit 3\n"
AT_EXEC = """
import os, threading
here, execve = {folder!r}, os.execve
def held(*args):
    open(here + "/at-exec", "w").close()
    while not os.path.exists(here + "/go"):
        threading.Event().wait(0.01)
    os.unlink(here + "/go")
    if os.path.exists(here + "/fail"):
        raise OSError(12, "Cannot allocate memory")
    execve(*args)
os.execve = held
if "PLUGIND_UPGRADE" in os.environ and os.path.exists(here + "/refuse"):
    start = threading.Thread.start
    def refused(thread):
        threading.Thread.start = start
        raise RuntimeError("can't start new thread")
    threading.Thread.start = refused
"""


def pluginctl(daemon: Plugind, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "pluginctl", "--socket", daemon.socket, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )


def upgraded(daemon: Plugind) -> dict[str, Any]:
    done = pluginctl(daemon, "--json", "upgrade")
    assert done.returncode == 0, (done.stderr, daemon.log[-20:])
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def pid_of(daemon: Plugind) -> int:
    assert daemon.process is not None
    return daemon.process.pid


def descriptors(pid: int) -> list[str]:
    return os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - names only


@pytest.fixture
def running(plugind: Plugind) -> Plugind:
    path, talker = plugind.plugin("plugin", SLEEPER), plugind.plugin("talker", TALKER)
    mounts = {
        "root": {"auth/mock": "{plugin: auth/mock}", "auth/talker": "{plugin: auth/mock, version: talker}"},
        "team-a": {"auth/mock": "{plugin: auth/mock}"},
    }
    plugind.write({"v1": (path, []), "v2": (path, ["x"]), "talker": (talker, [])}, mounts, "v1")
    return plugind.start()


@pytest.fixture
def own_code(plugind: Plugind) -> tuple[Plugind, Path]:
    """A plugind that runs a copy of supervisor/, and the folder of that; not started."""
    code = plugind.folder / "code"
    shutil.copytree(ROOT / "supervisor", code / "supervisor", ignore=shutil.ignore_patterns("__pycache__"))
    plugind.write(
        {"v1": (plugind.plugin("plugin", SLEEPER), []), "v2": (plugind.plugin("plugin", SLEEPER), ["x"])},
        {"root": {"auth/mock": "{plugin: auth/mock}"}, "team-a": {"auth/mock": "{plugin: auth/mock}"}},
        "v1",
    )
    return plugind, code


def begun(daemon: Plugind, code: Path) -> Plugind:
    return daemon.start(within=["env", f"PYTHONPATH={code}", "PYTHONDONTWRITEBYTECODE=1"])


class Held:
    """A plugind that waits right before its exec."""

    def __init__(self, daemon: Plugind) -> None:
        self.daemon = daemon
        code = daemon.folder / "early"
        code.mkdir()
        (code / "sitecustomize.py").write_text(AT_EXEC.format(folder=str(daemon.folder)))
        begun(daemon, code)
        self.asker: subprocess.Popen[str] | None = None

    def upgrade(self) -> None:
        """Begin one, and return when the old plugind has let go of everything."""
        self.asker = subprocess.Popen(
            [BIN / "pluginctl", "--socket", self.daemon.socket, "upgrade"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.daemon.until((self.daemon.folder / "at-exec").exists, 60)

    def go_on(self) -> tuple[int, str]:
        """Let it exec; status of pluginctl, and what it said."""
        assert self.asker is not None
        (self.daemon.folder / "at-exec").unlink()
        (self.daemon.folder / "go").touch()
        out, err = self.asker.communicate(timeout=90)
        return self.asker.returncode, out + err


@pytest.fixture
def held(plugind: Plugind) -> Iterator[Held]:
    writer = plugind.plugin(
        "plugin", '#!/bin/sh\ntrap "echo last words; exit 3" USR1\nwhile :; do sleep 0.1; done\n'
    )
    plugind.write(
        {"v1": (writer, [])},
        {
            "root": {
                "auth/mock": "{plugin: auth/mock}",
                "auth/other": f"{{plugin: auth/mock, listen: [{plugind.folder}/other.sock]}}",
            }
        },
        "v1",
        "restart: {backoff: 10ms}",
    )
    made = Held(plugind)
    yield made
    if made.asker is not None:
        (plugind.folder / "go").touch()
        made.asker.communicate(timeout=90)


# --- what goes on


def test_pid_sockets_and_plugins_stay_and_another_plugind_runs(running: Plugind) -> None:
    before, pids = running.call("GET", "supervisor/status").data, running.pids()

    told = upgraded(running)

    after = running.call("GET", "supervisor/status").data
    assert told["result"] == "done"
    assert running.pids() == pids
    assert after["pid"] == before["pid"] == pid_of(running)
    assert after["started_at"] != before["started_at"]
    assert Path(f"/proc/{pid_of(running)}/comm").read_text() == "plugind\n"
    assert after["warnings"] == []


def test_what_it_prints_is_one_line(running: Plugind) -> None:
    done = pluginctl(running, "upgrade")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("plugind 0.1.0 → 0.1.0 in ")
    assert done.stdout.endswith(f"pid {pid_of(running)}: 3 ready\n")


class Client(threading.Thread):
    """Asks the same again and again at a steady rate; what went wrong is kept."""

    def __init__(self, daemon: Plugind, ask: Callable[["Client"], None], every: float) -> None:
        super().__init__(daemon=True)
        self.plugind, self.ask, self.every = daemon, ask, every
        self.connection = patient(daemon)
        self.over = threading.Event()
        self.troubles: list[str] = []
        self.count = 0
        self.longest = 0.0

    def run(self) -> None:
        due = time.monotonic()
        while not self.over.is_set():
            began = time.monotonic()
            try:
                self.ask(self)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what this test is about
                self.troubles.append(repr(error))
                self.connection.close()
            self.count += 1
            self.longest = max(self.longest, time.monotonic() - began)
            due = max(due + self.every, time.monotonic() - 1)
            self.over.wait(max(0.0, due - time.monotonic()))
        self.connection.close()


def patient(daemon: Plugind) -> UnixConnection:
    """To nobody's time but the daemon's: on a busy machine Python alone takes ten seconds to start."""
    connection = UnixConnection(daemon.socket)
    connection.timeout = 90
    return connection


def asked_anew(daemon: Plugind, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
    with closing(patient(daemon)) as connection:
        connection.request(method, f"/v1/{path}", body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def keeps_alive(client: Client) -> None:
    used = client.connection.sock
    client.connection.request("GET", "/v1/supervisor/instances", headers={"X-Vault-Namespace": "team-a"})
    response = client.connection.getresponse()
    rows = json.loads(response.read())["data"]["instances"]
    assert (response.status, [row["state"] for row in rows]) == (200, ["ready"]), rows
    assert used is None or client.connection.sock is used, "the connection was not kept"


def connects_anew(client: Client) -> None:
    status, body = asked_anew(client.plugind, "GET", "supervisor/status")
    assert (status, sum(body["data"]["counts"].values())) == (200, 4)


def reloads(client: Client) -> None:
    status, body = asked_anew(
        client.plugind, "POST", "sys/plugins/reload/backend", '{"mounts": "auth/again"}'
    )
    assert status in {200, 202}, body
    if status == 200:
        assert [row["result"] for row in body["data"]["mounts"]] == ["reloaded"], body


@pytest.mark.timeout(300)
def test_ten_upgrades_under_200_requests_a_second_lose_none(plugind: Plugind) -> None:
    path, talker = plugind.plugin("plugin", SLEEPER), plugind.plugin("talker", TALKER)
    root = {
        "auth/mock": "{plugin: auth/mock}",
        "auth/again": "{plugin: auth/mock}",
        "auth/talker": "{plugin: auth/mock, version: talker}",
    }
    mounts = {"root": root, "team-a": {"auth/mock": "{plugin: auth/mock}"}}
    plugind.write({"v1": (path, []), "talker": (talker, [])}, mounts, "v1")
    daemon = plugind.start()
    pids = daemon.pids()
    asks = [keeps_alive] * 8 + [connects_anew] * 2
    clients = [Client(daemon, ask, every=len(asks) / 200) for ask in asks] + [Client(daemon, reloads, 0.3)]
    began = time.monotonic()
    for client in clients:
        client.start()

    for _ in range(10):
        upgraded(daemon)

    for client in clients:
        client.over.set()
    for client in clients:
        client.join(DEADLINE)
    seconds = time.monotonic() - began
    asked = sum(client.count for client in clients)
    longest = max(client.longest for client in clients)
    print(f"{asked} requests in {seconds:.1f} s, {asked / seconds:.0f} a second, longest {longest:.2f} s")
    assert [trouble for client in clients for trouble in client.troubles] == []
    after = daemon.pids()
    assert after.pop("root:auth/again") != pids.pop("root:auth/again")
    assert after == pids
    numbers = told_numbers(daemon)
    assert numbers == list(range(1, len(numbers) + 1))


def told_numbers(daemon: Plugind) -> list[int]:
    text = (daemon.logs / "root" / "auth+talker.log").read_text()
    return [int(line.split()[1]) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.timeout(300)
def test_after_twenty_upgrades_descriptors_threads_and_memory_are_what_they_were(running: Plugind) -> None:
    def used() -> tuple[int, int, int]:
        status = Path(f"/proc/{pid_of(running)}/status").read_text()
        threads, memory = (int(status.partition(name)[2].split()[0]) for name in ("Threads:", "VmRSS:"))
        return len(descriptors(pid_of(running))), threads, memory

    upgraded(running)
    before = used()

    for _ in range(19):
        upgraded(running)

    running.until(lambda: used()[:2] == before[:2])
    assert used()[2] < before[2] * 1.1
    assert os.getpid() in children_and_parents(pid_of(running))


def children_and_parents(pid: int) -> set[int]:
    return {int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])}


def test_a_plugin_started_after_an_upgrade_gets_what_it_would_have_got_before(running: Plugind) -> None:
    def given(pid: int) -> tuple[list[str], str, list[str]]:
        limits = Path(f"/proc/{pid}/limits").read_text()
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        masks = [line for line in status if line.startswith(("SigBlk", "SigIgn", "Umask"))]
        [files] = [line for line in limits.splitlines() if line.startswith("Max open files")]
        return sorted(descriptors(pid)), files, masks

    running.stop()
    running.start(within=["/bin/sh", "-c", 'ulimit -S -n 512; exec "$0" "$@"'])
    before = given(running.pids()["root:auth/mock"])
    upgraded(running)
    upgraded(running)

    assert running.reload().status == 200

    assert before[0] == ["0", "1", "2"]
    assert before[1].split()[3] == "512"
    assert given(running.pids()["root:auth/mock"]) == before


def test_the_exit_status_of_an_instance_is_known_over_an_upgrade(running: Plugind) -> None:
    upgraded(running)
    pid = running.pids()["team-a:auth/mock"]

    os.kill(pid, signal.SIGKILL)  # noqa: TID251 - a plugin of our own daemon, which lives

    running.saw("instance_exited", pid=pid, reason="signal 9 (SIGKILL)")


# --- requests and connections


def test_the_begin_of_a_request_is_not_lost(running: Plugind) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(DEADLINE)
        client.connect(str(running.socket))
        client.sendall(b"GET /v1/sys/health HTTP/1.1\r\nHost: a\r\nX-Something: half of it, ")
        running.call("GET", "sys/health")  # it was read by now

        upgraded(running)

        client.sendall(b"and the rest\r\n\r\n")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_tcp_listener_and_its_connections_are_kept(running: Plugind) -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running.stop()
    running.settings(f"tcp: {{address: '127.0.0.1:{port}'}}\n")
    running.start()
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    client.request("GET", "/v1/sys/health")
    client.getresponse().read()
    used = client.sock

    upgraded(running)

    client.request("GET", "/v1/sys/health")
    assert client.getresponse().status == 200
    assert client.sock is used
    client.close()
    other = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    other.request("GET", "/v1/sys/health")
    assert other.getresponse().status == 200
    other.close()


def test_tcp_may_be_added_moved_and_removed(running: Plugind) -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running.settings(f"tcp: {{address: '127.0.0.1:{port}'}}\n")
    upgraded(running)
    with closing(socket.create_connection(("127.0.0.1", port), DEADLINE)):
        pass

    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        running.settings(f"tcp: {{address: '127.0.0.1:{taken.getsockname()[1]}'}}\n")
        refused = pluginctl(running, "upgrade")
    assert refused.returncode == 2
    assert "Address already in use" in refused.stderr

    running.settings()
    upgraded(running)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), DEADLINE)


def test_an_event_stream_is_resumed_without_a_gap(running: Plugind) -> None:
    seen: list[int] = []
    with streaming(running, "") as lines:
        running.reload()
        seen += ids(lines, 5)
        upgraded(running)
        seen += ids(lines, 1000)
    running.call("POST", "supervisor/restart/auth/mock")

    with streaming(running, str(seen[-3])) as lines:
        again = ids(lines, 8)

    assert seen == list(range(seen[0], seen[0] + len(seen)))
    assert again == list(range(seen[-3] + 1, seen[-3] + 9))


@contextmanager
def streaming(daemon: Plugind, after: str) -> Iterator[Any]:
    with closing(UnixConnection(daemon.socket)) as connection:
        connection.request("GET", "/v1/supervisor/events", headers={"Last-Event-ID": after} if after else {})
        response = connection.getresponse()
        assert response.readline() == b": plugind\n"
        yield response


def ids(stream: Any, most: int) -> list[int]:
    """Ids of the next `most` events, or of all until the end of the stream."""
    found: list[int] = []
    while len(found) < most and (line := stream.readline()):
        if line.startswith(b"id: "):
            found.append(int(line[4:]))
    return found


def test_two_at_once_are_one(running: Plugind) -> None:
    with closing(UnixConnection(running.socket)) as first, closing(UnixConnection(running.socket)) as second:
        first.request("POST", "/v1/supervisor/upgrade")
        second.request("POST", "/v1/supervisor/upgrade")
        answers = [json.loads(one.getresponse().read()) for one in (first, second)]

    [refused] = [answer for answer in answers if "errors" in answer]
    assert "under way already" in refused["errors"][0]
    running.saw("upgrade_done")


# --- what is under way


def test_a_reload_under_way_is_waited_for(running: Plugind) -> None:
    path = running.plugin("slow", '#!/bin/sh\nsleep 2\necho >"$TMPDIR/up"\nexec sleep 1000\n')
    running.write(
        {"v1": (path, [])},
        {"root": {"auth/mock": "{plugin: auth/mock}"}},
        "v1",
        "ready: {kind: command, command: [/bin/sh, -c, 'test -e $TMPDIR/up'], timeout: 60s}",
    )
    assert running.call("POST", "supervisor/apply", {}).status == 200
    running.edit("args: []", 'args: ["x"]')
    answers: list[Any] = []
    asker = threading.Thread(target=lambda: answers.append(running.reload()))
    asker.start()
    running.until(lambda: running.rows()["root:auth/mock"]["state"] == "starting")

    upgraded(running)

    asker.join(DEADLINE)
    assert answers[0].status == 200
    report = running.call("GET", f"supervisor/reloads/{answers[0].data['reload_id']}").data
    assert [row["result"] for row in report["mounts"]] == ["reloaded"]
    assert running.rows()["root:auth/mock"]["pid"] == report["mounts"][0]["new_pid"]


def test_a_reload_that_takes_too_long_is_interrupted_and_its_mount_goes_on(running: Plugind) -> None:
    running.edit(
        "      pin: v1", "      pin: v2\n      ready: {kind: unix, path: $TMPDIR/never, timeout: 100s}"
    )
    answers: list[Any] = []
    asker = threading.Thread(target=lambda: answers.append(running.reload(on_failure="continue")))
    old = running.pids()["root:auth/mock"]
    asker.start()
    running.until(lambda: running.pids()["root:auth/mock"] not in {None, old})
    pid = running.pids()["root:auth/mock"]

    upgraded(running)

    asker.join(DEADLINE)
    assert answers[0].status == 202
    report = running.call("GET", f"supervisor/reloads/{answers[0].data['reload_id']}").data
    assert report["done"]
    assert {row["result"] for row in report["mounts"]} == {"interrupted"}
    row = running.rows()["root:auth/mock"]
    assert (row["state"], row["pid"], row["version"]) == ("starting", pid, "v2")


def test_a_mount_that_starts_slowly_becomes_ready_after_the_upgrade(plugind: Plugind) -> None:
    path = plugind.plugin("plugin", SLEEPER)
    settings = (
        f"ready: {{kind: command, command: [/bin/sh, -c, 'test -e {plugind.folder}/up'], timeout: 100s}}"
    )
    plugind.write({"v1": (path, [])}, {"root": {"auth/mock": "{plugin: auth/mock}"}}, "v1", settings)
    plugind.start(ready=False)
    plugind.until(lambda: plugind.rows()["root:auth/mock"]["pid"] is not None)
    before = plugind.rows()["root:auth/mock"]

    upgraded(plugind)

    assert plugind.rows()["root:auth/mock"]["state"] == "starting"
    (plugind.folder / "up").touch()
    plugind.until(lambda: plugind.rows()["root:auth/mock"]["state"] == "ready")
    assert plugind.rows()["root:auth/mock"]["pid"] == before["pid"]


def test_backoff_failure_and_a_stop_by_hand_are_what_they_were(plugind: Plugind) -> None:
    bad, good = plugind.plugin("bad", ENDS), plugind.plugin("good", SLEEPER)
    policy = "restart: {backoff: 100s, max_backoff: 100s}"
    mounts = {
        "auth/waits": "{plugin: auth/mock, version: bad}",
        "auth/gives-up": "{plugin: auth/mock, version: hopeless}",
        "auth/stopped": "{plugin: auth/mock}",
    }
    plugind.write(
        {"v1": (good, []), "bad": (bad, []), "hopeless": (bad, ["x"])}, {"root": mounts}, "v1", policy
    )
    plugind.edit('args: ["x"]', 'args: ["x"], restart: {backoff: 1ms, burst: 2}')
    plugind.start(ready=False)
    plugind.call("POST", "supervisor/stop/auth/stopped")
    plugind.until(lambda: plugind.rows()["root:auth/gives-up"]["state"] == "failed")
    plugind.until(lambda: plugind.rows()["root:auth/waits"]["state"] == "backoff")
    plugind.catalog.write_text(
        plugind.catalog.read_text() + "      auth/new: {plugin: auth/mock}\n"
    )  # staged, and not applied
    plugind.until(lambda: "root:auth/new" in plugind.rows())
    before = plugind.rows()

    upgraded(plugind)

    assert plugind.rows() == before
    assert before["root:auth/stopped"]["stopped_by"]
    assert (before["root:auth/waits"]["restarts"], before["root:auth/new"]["pid"]) == (1, None)
    assert plugind.call("POST", "supervisor/apply", {}).status == 200
    assert plugind.rows()["root:auth/new"]["state"] == "ready"


def test_the_last_transitions_are_still_known(running: Plugind) -> None:
    running.call("POST", "supervisor/restart/auth/mock")
    before = running.call("GET", "supervisor/why/auth/mock").data["transitions"]

    upgraded(running)

    after = running.call("GET", "supervisor/why/auth/mock").data["transitions"]
    assert after[: len(before)] == before
    assert [row["event"] for row in after[len(before) :]] == ["adopted"]


def test_a_mount_that_crashed_before_has_no_more_tries_after(plugind: Plugind) -> None:
    path = plugind.plugin("plugin", "#!/bin/sh\ntrap 'exit 3' USR1\nwhile :; do sleep 0.05; done\n")
    policy = "restart: {backoff: 1ms, burst: 2, within: 100s}"
    plugind.write({"v1": (path, [])}, {"root": {"auth/mock": "{plugin: auth/mock}"}}, "v1", policy)
    plugind.start()
    for crash in (1, 2):
        crashed(plugind)
        plugind.until(lambda crash=crash: plugind.rows()["root:auth/mock"]["restarts"] == crash)
        plugind.until(lambda: plugind.rows()["root:auth/mock"]["state"] == "ready")

    upgraded(plugind)

    crashed(plugind)
    plugind.until(lambda: plugind.rows()["root:auth/mock"]["state"] == "failed")


def crashed(daemon: Plugind) -> None:
    pid = daemon.pids()["root:auth/mock"]
    with os.fdopen(os.pidfd_open(pid)) as handle:
        signal.pidfd_send_signal(handle.fileno(), signal.SIGUSR1)
    daemon.until(lambda: not is_alive(pid))


def test_reloads_that_were_done_are_known_by_their_ids(running: Plugind) -> None:
    reload_id = running.reload().data["reload_id"]
    status = f"sys/plugins/reload/backend/status?reload_id={reload_id}"
    before = [running.call("GET", path).data for path in ("supervisor/reloads", status)]

    upgraded(running)

    assert [running.call("GET", path).data for path in ("supervisor/reloads", status)] == before
    assert pluginctl(running, "reload-status", reload_id).returncode == 0


def names_of(plugind: Plugind) -> list[str]:
    """What runs, once nothing is on its way to an exec."""
    found = []
    for pid in plugind.living():
        with suppress(OSError):
            found.append(Path(f"/proc/{pid}/comm").read_text().strip())
    return found


def test_what_plugins_let_go_of_is_theirs_and_what_they_are_is_no_orphan(plugind: Plugind) -> None:
    path = plugind.plugin("plugin", "#!/bin/sh\n(setsid sleep 1000 &)\nexec sleep 1000\n")
    plugind.write({"v1": (path, [])}, {"root": {"auth/mock": "{plugin: auth/mock}"}}, "v1")
    plugind.start()
    plugind.until(lambda: names_of(plugind) == ["sleep", "sleep"])
    before = plugind.living()
    upgraded(plugind)
    assert plugind.living() == before
    assert plugind.call("GET", "supervisor/status").data["warnings"] == []

    assert plugind.reload().status == 200

    plugind.until(lambda: names_of(plugind) == ["sleep", "sleep"])
    assert not plugind.living() & before
    os.kill(plugind.pids()["root:auth/mock"], signal.SIGKILL)  # noqa: TID251 - a plugin of our own daemon
    plugind.saw("instance_exited", reason="signal 9 (SIGKILL)")


@pytest.mark.timeout(300)
def test_a_flood_over_upgrades_and_rotations_is_whole(plugind: Plugind) -> None:
    flood = "i=0\nwhile [ $i -lt 60000 ]; do i=$((i + 1)); echo line $i; done\nexec sleep 1000\n"
    plugind.settings("logs: {max_size: 64KiB, keep: 60}\n")
    path = plugind.plugin(
        "plugin", f"#!/bin/sh\nwhile ! [ -e {plugind.folder}/go ]; do sleep 0.05; done\n{flood}"
    )
    plugind.write({"v1": (path, [])}, {"root": {"auth/talker": "{plugin: auth/mock}"}}, "v1")
    plugind.start()
    (plugind.folder / "go").touch()
    folder = plugind.logs / "root"

    for _ in range(3):
        upgraded(plugind)

    plugind.until(lambda: "line 60000\n" in (folder / "auth+talker.log").read_text(), 120)
    names = sorted(folder.glob("auth+talker.log.[0-9]*"), key=lambda path: -int(path.suffix[1:]))
    text = "".join(path.read_text() for path in [*names, folder / "auth+talker.log"])
    assert text == "".join(f"line {number}\n" for number in range(1, 60001))


# --- in the moment of the exec


def test_an_instance_that_dies_then_is_restarted_once_and_its_last_words_are_kept(held: Held) -> None:
    daemon = held.daemon
    pids = daemon.pids()
    held.upgrade()
    os.kill(pids["root:auth/mock"], signal.SIGUSR1)  # noqa: TID251 - it is a child that nobody reaps now
    daemon.until(lambda: not is_alive(pids["root:auth/mock"]))

    status, said = held.go_on()

    assert status == 0, said
    daemon.until(lambda: daemon.rows()["root:auth/mock"]["state"] == "ready")
    row = daemon.rows()["root:auth/mock"]
    assert (row["restarts"], row["last_exit"]) == (1, "exit 3")
    assert row["pid"] != pids["root:auth/mock"]
    assert not Path(f"/proc/{pids['root:auth/mock']}").exists()
    assert daemon.pids()["root:auth/other"] == pids["root:auth/other"]
    assert (daemon.logs / "root" / "auth+mock.log").read_text() == "last words\n"


def test_nobody_else_can_take_the_socket_and_who_connects_then_is_answered(held: Held) -> None:
    held.upgrade()
    with closing(UnixConnection(held.daemon.socket)) as waits:
        waits.request("GET", "/v1/sys/health")

        other = held.daemon.folder / "other.yaml"  # the folders are not free either
        other.write_text(held.daemon.config.read_text().replace("control.sock", "other.sock"))
        for config in (held.daemon.config, other):
            second = subprocess.run(
                [BIN / "plugind", "--config", config], capture_output=True, text=True, check=False
            )
            assert second.returncode == 3
            assert str(pid_of(held.daemon)) in second.stderr

        assert held.go_on()[0] == 0
        assert waits.getresponse().status == 200


def waits_on(daemon: Plugind, connection: socket.socket) -> bool:
    """Whether a connection that nobody has accepted outlives the instance that could."""
    pid = daemon.pids()["root:auth/other"]
    send(pid)
    daemon.until(lambda: daemon.pids()["root:auth/other"] not in {None, pid})
    connection.settimeout(0)
    with suppress(BlockingIOError):
        connection.recv(1)
        return False
    return True


def test_where_the_exec_fails_the_old_plugind_goes_on(held: Held) -> None:
    daemon = held.daemon
    pids = daemon.pids()
    connection = UnixConnection(daemon.socket)
    connection.request("GET", "/v1/sys/health")
    connection.getresponse().read()
    used = connection.sock
    waiting = socket.socket(socket.AF_UNIX)
    waiting.connect(f"{daemon.folder}/other.sock")
    (daemon.folder / "fail").touch()
    held.upgrade()

    status, said = held.go_on()

    assert status == 2
    assert "Cannot allocate memory" in said
    assert daemon.pids() == pids
    connection.request("GET", "/v1/sys/health")
    assert connection.getresponse().status == 200
    assert connection.sock is used
    connection.close()
    (daemon.folder / "fail").unlink()
    held.upgrade()
    assert held.go_on()[0] == 0
    assert daemon.pids() == pids
    with waiting:
        assert waits_on(daemon, waiting)


def test_where_the_machine_refuses_what_the_new_plugind_needs_it_begins_as_after_a_crash(held: Held) -> None:
    daemon = held.daemon
    pids = daemon.pids()
    before = len(descriptors(pid_of(daemon)))
    waiting = socket.socket(socket.AF_UNIX)
    waiting.connect(f"{daemon.folder}/other.sock")
    (daemon.folder / "refuse").touch()
    held.upgrade()

    status, said = held.go_on()

    assert status == 3
    assert "plugind was started anew meanwhile" in said
    assert "can't start new thread" in daemon.saw("legacy_refused")["reason"]
    assert daemon.pids() == pids
    # seven were handed over; files of versions are held a moment after a start
    daemon.until(lambda: len(descriptors(pid_of(daemon))) <= before + 2)
    assert not any(entry["event"].startswith("listener_") for entry in daemon.log)
    (daemon.folder / "refuse").unlink()
    held.upgrade()
    assert held.go_on()[0] == 0
    assert daemon.pids() == pids
    with waiting:
        assert waits_on(daemon, waiting)


def test_a_sigterm_that_comes_then_stops_everything_in_an_orderly_way(held: Held) -> None:
    daemon = held.daemon
    pids = daemon.pids()
    assert daemon.process is not None
    held.upgrade()
    daemon.process.send_signal(signal.SIGTERM)

    held.go_on()

    assert daemon.process.wait(DEADLINE) == 0
    assert not any(is_alive(pid) for pid in pids.values())
    assert not daemon.socket.exists()


def test_a_sighup_that_comes_then_is_an_apply(held: Held) -> None:
    daemon = held.daemon
    assert daemon.process is not None
    held.upgrade()
    daemon.edit("auth/other", "auth/new")
    daemon.process.send_signal(signal.SIGHUP)

    assert held.go_on()[0] == 0

    daemon.saw("apply_done", started=1)


# --- what is found out before


def nothing_touched(daemon: Plugind, pids: dict[str, int], why: str) -> None:
    done = pluginctl(daemon, "upgrade")
    assert done.returncode == 2
    assert why in done.stderr
    assert done.stderr.startswith("pluginctl: cannot upgrade: the new plugind does not start (exit ")
    assert daemon.pids() == pids
    assert not any(entry["event"] == "upgrade_begun" for entry in daemon.log)
    status = daemon.call("GET", "supervisor/status").data
    assert (status["upgrade"]["result"], status["warnings"]) == ("failed", [])


def test_a_newer_plugind_runs_and_a_broken_one_is_refused(own_code: tuple[Plugind, Path]) -> None:
    daemon, code = own_code
    begun(daemon, code)
    pids = daemon.pids()
    source = code / "supervisor" / "host" / "journal.py"
    good = source.read_text()
    source.write_text(f"{good}\nthis is no python\n")
    nothing_touched(daemon, pids, "SyntaxError")
    source.write_text("import there_is_no_such_module\n")
    nothing_touched(daemon, pids, "No module named 'there_is_no_such_module'")
    source.unlink()
    nothing_touched(daemon, pids, "supervisor.host.journal")
    source.write_text(good)
    edited = code / "supervisor" / "parts.py"
    edited.write_text(edited.read_text().replace('importlib.metadata.version("plugind")', '"9.9.9"'))

    assert upgraded(daemon)["new_version"] == "9.9.9"

    assert daemon.pids() == pids
    assert daemon.call("GET", "supervisor/status").data["version"] == "9.9.9"


def test_settings_that_are_broken_by_now_are_refused(running: Plugind) -> None:
    pids = running.pids()
    good = running.config.read_text()
    running.config.write_text(f"{good}nonsense: 1\n")
    nothing_touched(running, pids, f"{running.config}:7:1: ")
    running.config.write_text(good.replace("/run\n", "/elsewhere\n"))
    nothing_touched(running, pids, "that takes a restart")
    running.config.write_text(good.replace("control.sock}", "control.sock, group: there-is-no-such-group}"))
    nothing_touched(running, pids, "there is no such group")
    running.config.write_text(good.replace("log_dir: ", f"log_dir: {running.config}/"))
    nothing_touched(running, pids, "does not allow it")
    running.config.unlink()
    nothing_touched(running, pids, str(running.config))
    assert not (running.folder / "elsewhere").exists()


def test_a_broken_catalog_is_no_obstacle_where_there_is_a_last_good_one(running: Plugind) -> None:
    pids = running.pids()
    running.catalog.write_text("plugins: [\n")

    upgraded(running)

    assert running.pids() == pids
    assert running.call("GET", "supervisor/status").data["catalog"]["source"] == "last good"


def test_a_catalog_that_the_new_one_cannot_read_at_all_is_refused(running: Plugind) -> None:
    pids = running.pids()
    running.catalog.write_text("plugins: [\n")
    (running.folder / "state" / "catalog.json").unlink()

    nothing_touched(running, pids, f"{running.catalog}:")


def test_what_another_version_left_is_bound_and_found_again(own_code: tuple[Plugind, Path]) -> None:
    daemon, code = own_code
    begun(daemon, code)
    pids = daemon.pids()
    source = code / "supervisor" / "domain" / "legacy.py"
    source.write_text(source.read_text().replace("VERSION: Final = 1\n", "VERSION: Final = 2\n"))

    daemon.call("POST", "supervisor/upgrade")

    daemon.saw("legacy_refused")
    daemon.saw("daemon_started", since=len(daemon.log) - 1)
    daemon.until(lambda: daemon.pids() == pids)
    assert descriptors(pids["root:auth/mock"])


def test_a_caller_who_may_only_reload_may_not_upgrade(running: Plugind) -> None:
    answer = running.call("POST", "supervisor/upgrade", namespace="team-a")

    assert answer.status == 404
    assert not any(entry["event"] == "upgrade_begun" for entry in running.log)


def test_an_upgrade_is_in_the_audit_log(running: Plugind) -> None:
    upgraded(running)

    [line] = [json.loads(line) for line in (running.logs / "audit.log").read_text().splitlines()]
    assert (line["what"], line["result"]) == ("upgrade", "going on")
