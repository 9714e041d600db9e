"""Listeners that are held: no connection is refused or reset because a plugin is replaced, or plugind is."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import lent
from harness import Plugind, is_alive, may_take_descriptors, send
from listening import (
    Clients,
    an_address,
    applied,
    ask,
    catalog,
    connected,
    descriptors,
    heard,
    is_refused,
    runs,
)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Plugind]:
    """Where other users may enter, unlike pytest's own folders."""
    with tempfile.TemporaryDirectory(prefix="plugind-") as name, lent(Path(name)) as made:
        yield made


MOUNT = "root:auth/mock"
IS_ROOT = os.geteuid() == 0
FLOOR = 67
"""Of the descriptors that plugind holds listeners by."""


def upgrade(daemon: Plugind) -> None:
    answer = daemon.call("POST", "supervisor/upgrade", {})
    assert answer.status in {200, 202}, answer.body
    wanted = answer.data["upgrade_id"]

    def is_done() -> bool:
        told = daemon.call("GET", "supervisor/status").data["upgrade"]
        assert told["result"] != "failed", told
        return bool(told["upgrade_id"] == wanted and told["result"] == "done")

    daemon.until(is_done, 60)


def has_ipv6() -> bool:
    with suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False


# --- what an instance gets


def test_it_gets_its_sockets_from_3_on_in_their_order_and_is_told_their_names(
    daemon: Plugind,
) -> None:
    folder, four = daemon.folder, an_address()
    six = f"[::1]:{int(four.rpartition(':')[2]) + 10_000}" if has_ipv6() else an_address()
    listen = (
        f'["{four}", {{stream: "{six}", name: six}}, {{stream: {folder}/s.sock, mode: "0600"}}, '
        f'{{datagram: {folder}/d.sock}}, {{datagram: "{four}", name: udp}}, '
        f'{{stream: "@{folder}", backlog: 5}}]'
    )
    pid = runs(daemon, {"auth/mock": listen})[MOUNT]

    told = [ask(address) for address in (four, f"{six}", f"{folder}/s.sock", f"@{folder}")]

    assert [one["fd"] for one in told] == [3, 4, 5, 8]
    assert {one["pid"] for one in told} == {pid}
    who = told[0]
    assert (who["LISTEN_FDS"], who["LISTEN_PID"]) == ("6", str(pid))
    assert who["LISTEN_FDNAMES"] == "listen0:six:listen2:listen3:udp:listen5"
    assert who["descriptors"] == list(range(9))
    assert set(who["blocking"]) == {True}
    assert Path(f"{folder}/s.sock").stat().st_mode & 0o777 == 0o600
    assert Path(f"{folder}/d.sock").stat().st_mode & 0o777 == 0o666
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        host, _, number = four.rpartition(":")
        sock.sendto(b"who", (host, int(number)))
        assert b'"fd": 7' in sock.recv(9000)
    assert daemon.rows()[MOUNT]["listen"] == [
        four,
        f"{six}",
        f"{folder}/s.sock",
        f"datagram {folder}/d.sock",
        f"datagram {four}",
        f"@{folder}",
    ]


@pytest.mark.parametrize(
    "settings", ["cwd: /tmp", "limits: {nofile: 100, core: 0}", 'umask: "077"', "user: nobody"]
)
def test_whatever_is_put_in_front_of_it_the_pid_that_it_is_told_is_its_own(
    daemon: Plugind, settings: str
) -> None:
    if "user" in settings and not IS_ROOT:
        settings = "limits: {nice: 19}"
    address = an_address()
    pid = runs(daemon, {"auth/mock": f'["{address}"]'}, settings)[MOUNT]

    who = ask(address)

    assert (who["pid"], who["LISTEN_PID"], who["LISTEN_FDS"]) == (pid, str(pid), "1")


def test_a_unix_socket_belongs_to_the_user_of_its_plugin(daemon: Plugind) -> None:
    path = daemon.folder / "own.sock"
    runs(
        daemon,
        {"auth/mock": f'[{{stream: {path}, mode: "0660"}}]'},
        "user: nobody" if IS_ROOT else "",
    )

    pid = ask(str(path))["pid"]
    assert path.stat().st_uid == Path(f"/proc/{pid}").stat().st_uid


# --- what is held over what


def test_no_connection_is_refused_or_reset_over_reloads_crashes_and_upgrades(plugind: Plugind) -> None:
    """`LISTEN_ROUNDS=50,10,5`: so many reloads, crashes and upgrades."""
    reloads, crashes, upgrades = map(int, os.environ.get("LISTEN_ROUNDS", "15,5,1").split(","))
    address = an_address()
    runs(plugind, {"auth/mock": f'["{address}"]'}, "ready: {kind: notify}")

    with Clients(address) as clients:
        for number in range(reloads):
            plugind.edit(f"pin: v{number % 2 + 1}", f"pin: v{2 - number % 2}")
            answer = plugind.reload()
            assert [row["result"] for row in answer.data["mounts"]] == ["reloaded"]
        for _ in range(crashes):
            pid = ask(address, b"crash")["pid"]
            plugind.until(lambda pid=pid: plugind.pids()[MOUNT] not in {None, pid})
        for _ in range(upgrades):
            upgrade(plugind)
        plugind.until(lambda: clients.served[plugind.pids()[MOUNT]] > 0)

    assert clients.wrong == []
    assert len(clients.served) > (reloads + crashes) / 2


def test_who_connects_while_a_mount_waits_for_its_restart_is_served_by_the_next_instance(
    daemon: Plugind,
) -> None:
    address = an_address()
    runs(daemon, {"auth/mock": f'["{address}"]'}, "restart: {backoff: 1s, burst: 1000}")
    first = ask(address, b"crash")["pid"]
    daemon.until(lambda: daemon.rows()[MOUNT]["state"] == "backoff")

    told = ask(address)

    assert told["pid"] not in {first, None}


def test_there_is_room_for_those_who_wait_however_little_the_last_instance_left(daemon: Plugind) -> None:
    """As asyncio does, which listens again, with a backlog of 100."""
    address, path = an_address(), f"{daemon.folder}/narrow.sock"
    settings = "restart: {backoff: 2s, burst: 1000}\nready: {kind: notify}"
    runs(daemon, {"auth/mock": f'version: narrow, listen: ["{address}", {path}]'}, settings)
    ask(address, b"crash")
    daemon.until(lambda: daemon.rows()[MOUNT]["state"] == "backoff")

    waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(8)]
    for sock in waiting:
        sock.connect(path)  # at once, or BlockingIOError
        sock.sendall(b"who")

    for sock in waiting:
        sock.settimeout(20)
        assert heard(sock)["LISTEN_FDS"] == "2"


def test_who_waits_in_the_backlog_of_a_mount_in_backoff_waits_over_an_upgrade(plugind: Plugind) -> None:
    address, path = an_address(), f"{plugind.folder}/s.sock"
    runs(plugind, {"auth/mock": f'["{address}", {path}]'}, "restart: {backoff: 4s, burst: 1000}")
    ask(address, b"crash")
    plugind.until(lambda: plugind.rows()[MOUNT]["state"] == "backoff")
    waiting = [connected(address), connected(path)]
    for sock in waiting:
        sock.sendall(b"who")

    upgrade(plugind)

    assert not is_refused(path)
    assert len({heard(sock)["pid"] for sock in waiting}) == 1
    assert [one["event"] for one in plugind.log if "listener_" in one["event"]] == []


def test_the_next_plugind_takes_them_out_of_the_living_instances_of_one_that_was_killed(
    plugind: Plugind,
) -> None:
    """Where it may not trace them they are bound again at the next replacement."""
    address, path = an_address(), f"{plugind.folder}/s.sock"
    pid = runs(plugind, {"auth/mock": f'["{address}", {path}]'}, "stop: {timeout: 100ms}")[MOUNT]
    plugind.kill()
    send(pid, signal.SIGSTOP)
    waiting = [connected(address), connected(path)]
    for sock in waiting:
        sock.sendall(b"who")

    plugind.start(ready=False)
    told = "listener_taken_back" if may_take_descriptors() else "listener_not_taken_back"
    for one in (address, path):
        plugind.saw(told, address=one)
    assert plugind.pids()[MOUNT] == pid
    plugind.edit("pin: v1", "pin: v2")
    assert plugind.reload().status == 200

    if may_take_descriptors():
        assert {heard(sock)["PLUGIND_VERSION"] for sock in waiting} == {"v2"}
    for sock in waiting:
        sock.close()
    assert ask(path)["LISTEN_FDS"] == "2"
    assert plugind.stop() == 0
    assert not Path(path).exists()


def test_what_cannot_be_taken_back_is_bound_again_and_that_is_said(plugind: Plugind) -> None:
    """`auth/deaf` has closed its socket, `auth/dead` dies with its plugind, `auth/shy` lets nobody trace it.

    This plugind may have no port below 1024 either.
    """
    without = ["setpriv", "--bounding-set=-sys_ptrace,-net_bind_service"] if IS_ROOT else []
    deaf, shy, dead = an_address(), an_address(), f"{plugind.folder}/dead.sock"
    mounts = {
        "auth/deaf": f'version: deaf, listen: ["{deaf}"]',
        "auth/shy": f'version: shy, listen: ["{shy}"]',
        "auth/dead": f"[{dead}]",
    }
    catalog(plugind, mounts)
    pids = plugind.start(within=without).pids()
    plugind.until(lambda: not any("socket:" in what for what in descriptors(pids["root:auth/deaf"]).values()))
    ask(shy)
    plugind.kill()
    send(pids["root:auth/dead"])
    plugind.until(lambda: not is_alive(pids["root:auth/dead"]))
    assert is_refused(dead)
    assert Path(dead).exists()

    plugind.start(within=without)

    for address, why in ((deaf, "no process of its instance has"), (shy, "does not allow it")):
        assert why in plugind.saw("listener_not_taken_back", address=address)["reason"]
    plugind.saw("listener_bound_again", address=dead)
    assert ask(dead)["pid"] == plugind.pids()["root:auth/dead"]
    told = "\n".join(plugind.call("GET", "supervisor/status").data["warnings"])
    assert f"{deaf} is held by the instance of auth/deaf/ in root only" in told
    assert f"{shy} is held by the instance of auth/shy/ in root only" in told
    assert ask(shy)["pid"] == pids["root:auth/shy"]
    plugind.edit("version: deaf", "version: v1")
    plugind.edit("version: shy", "version: v1")
    assert applied(plugind).status == 200
    for address, mount in ((deaf, "auth/deaf"), (shy, "auth/shy")):
        plugind.saw("listener_bound_again", address=address)
        assert ask(address)["pid"] == plugind.pids()[f"root:{mount}"]

    tries = "import socket; socket.socket().bind(('127.0.0.1', 79))"
    if subprocess.run([*without, sys.executable, "-c", tries], capture_output=True, check=False).returncode:
        before = plugind.pids()
        catalog(plugind, {"auth/shy": '["127.0.0.1:79"]'})
        assert "plugind may not have a port below" in plugind.reload().error
        assert plugind.pids() == before


def test_a_path_that_somebody_took_and_left_again_is_had_again(daemon: Plugind) -> None:
    path = daemon.folder / "taken.sock"
    before = runs(daemon, {"auth/mock": f"[{path}]"})
    path.unlink()
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        theirs.listen()
        assert "somebody else has that socket" in daemon.reload().error
        assert daemon.pids() == before

    assert daemon.reload(dry_run=True).status == 200
    assert daemon.reload().status == 200
    assert ask(str(path))["pid"] == daemon.pids()[MOUNT]


def test_what_an_instance_shuts_down_before_it_ends_is_open_for_the_next_one(daemon: Plugind) -> None:
    """As servers of gRPC do, and whoever wakes a thread that waits in accept so."""
    tcp, udp, path = an_address(), an_address(), f"{daemon.folder}/shut"
    listen = f'["{tcp}", {path}, "@{path}", {{datagram: "{udp}"}}, {{datagram: {path}.d}}]'
    runs(daemon, {"auth/mock": f"version: shutting, listen: {listen}"}, "ready: {kind: notify}")
    seen = len(daemon.log)

    assert daemon.reload().status == 200

    pid = daemon.pids()[MOUNT]
    assert {ask(address)["pid"] for address in (tcp, path, f"@{path}")} == {pid}
    host, _, port = udp.rpartition(":")
    for family, where in ((socket.AF_INET, (host, int(port))), (socket.AF_UNIX, f"{path}.d")):
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(20)
            if family is socket.AF_UNIX:
                sock.bind("")  # it is given a name, to be answered at
            sock.sendto(b"who", where)
            assert f'"pid": {pid}'.encode() in sock.recv(9000)
    for address in (path, f"@{path}", f"datagram {udp}", f"datagram {path}.d"):
        daemon.saw("listener_bound_again", since=seen, address=address, reason="an instance shut it down")


# --- another address


def test_a_new_address_is_open_before_the_old_one_is_closed(daemon: Plugind) -> None:
    old, new = an_address(), str(daemon.folder / "new.sock")
    go = daemon.folder / "go"
    slow = f"stop: {{command: [/bin/sh, -c, 'until test -e {go}; do sleep 0.01; done'], timeout: 20s}}"
    go.touch()
    pid = runs(daemon, {"auth/mock": f'["{old}"]'}, slow)[MOUNT]
    go.unlink()
    catalog(daemon, {"auth/mock": f"[{new}]"}, slow)
    plan = {row["mount"]: row for row in daemon.call("GET", "supervisor/plan").data["mounts"]}
    assert (plan["auth/mock"]["action"], plan["auth/mock"]["changed"]) == ("replace", ["listen"])

    daemon.call("POST", "supervisor/apply", {"wait": False})
    early = connected(new)
    early.sendall(b"who")
    assert daemon.pids()[MOUNT] == pid
    assert ask(old)["pid"] == pid
    go.touch()

    told = heard(early)
    assert told["pid"] != pid
    daemon.until(lambda: is_refused(old))


def test_a_version_that_is_rolled_back_leaves_the_listeners_of_the_one_before(daemon: Plugind) -> None:
    old, new = an_address(), an_address()
    settings = "reload: {watch: 10s}\nready: {kind: notify}"
    runs(daemon, {"auth/mock": f'["{old}"]'}, settings)
    catalog(daemon, {"auth/mock": f'version: bad, listen: ["{new}"]'}, settings)

    answer = applied(daemon)

    row = next(row for row in answer.body["data"]["mounts"] if row["mount"] == "auth/mock")
    assert row["result"] == "rolled_back"
    assert ask(old)["PLUGIND_VERSION"] == "v1"
    assert is_refused(new)
    assert daemon.rows()[MOUNT]["listen"] == [old]


def test_while_a_new_version_has_to_prove_itself_the_old_address_is_kept_for_the_one_before(
    daemon: Plugind,
) -> None:
    old, new = an_address(), an_address()
    runs(daemon, {"auth/mock": f'["{old}"]'}, "reload: {watch: 30s}")
    pid = runs(daemon, {"auth/mock": f'version: v2, listen: ["{new}"]'}, "reload: {watch: 30s}")[MOUNT]
    waits = connected(old)
    waits.sendall(b"who")

    assert ask(new)["pid"] == pid
    send(pid)

    assert heard(waits)["PLUGIND_VERSION"] == "v1"


def test_with_start_first_both_instances_have_the_socket(daemon: Plugind) -> None:
    address = an_address()
    order = "reload: {order: start_first, watch: 0s}\nready: {kind: notify}"
    runs(daemon, {"auth/mock": f'["{address}"]'}, order)

    with Clients(address, 2) as clients:
        for _ in range(3):
            assert daemon.reload().status == 200

    assert clients.wrong == []


# --- what is refused before anything is stopped


def refusals(folder: Path) -> dict[str, tuple[str, str]]:
    """What is listened on, and what is said of it."""
    (folder / "file").touch()
    return {
        "a file": (
            f"{folder}/file",
            f"cannot listen on {folder}/file: what is there is no socket; move it away",
        ),
        "no folder": (f"{folder}/no/x", f"cannot listen on {folder}/no/x: there is no folder {folder}/no"),
        "not ours": ('"192.0.2.77:7000"', "192.0.2.77:7000: no interface of this host has that address"),
        "no interface": ('"[fe80::1]:7000%nope"', "[fe80::1]:7000%nope: "),
    }


@pytest.mark.parametrize("case", ["a file", "no folder", "not ours", "no interface"])
def test_an_address_that_cannot_be_had_refuses_a_reload_with_its_reason(daemon: Plugind, case: str) -> None:
    good = an_address()
    address, why = refusals(daemon.folder)[case]
    before = runs(daemon, {"auth/mock": f'["{good}"]'})
    catalog(daemon, {"auth/mock": f'["{good}", {address}]'})

    answers = [daemon.call("POST", "supervisor/apply", body) for body in ({}, {"dry_run": True})]
    answers += [daemon.reload(), daemon.reload(dry_run=True)]

    for answer in answers:
        assert answer.status == 400
        assert f"for auth/mock/ in root: cannot listen on {address.strip(chr(34))}" in answer.error
        assert why in answer.error
        assert f"{daemon.catalog}:" in answer.error
    assert daemon.pids() == before
    assert ask(good)["pid"] == before[MOUNT]


@pytest.mark.parametrize("kind", ["tcp", "udp", "a stream", "a datagram", "abstract", "bound only"])
def test_an_address_that_somebody_else_has_is_his(daemon: Plugind, kind: str) -> None:
    good, theirs = an_address(), an_address()
    before = runs(daemon, {"auth/mock": f'["{good}"]'})
    host, _, port = theirs.rpartition(":")
    path = f"{daemon.folder}/theirs"
    made: dict[str, tuple[socket.socket, object, str]] = {
        "tcp": (socket.socket(), (host, int(port)), f'"{theirs}"'),
        "udp": (socket.socket(type=socket.SOCK_DGRAM), (host, int(port)), f'{{datagram: "{theirs}"}}'),
        "a stream": (socket.socket(socket.AF_UNIX), path, path),
        "a datagram": (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), path, path),
        "abstract": (socket.socket(socket.AF_UNIX), f"\0{path}", f'"@{path}"'),
        "bound only": (socket.socket(socket.AF_UNIX), path, path),
    }
    sock, where, listen = made[kind]
    try:
        sock.bind(where)
        if sock.type == socket.SOCK_STREAM and kind != "bound only":
            sock.listen()
        catalog(daemon, {"auth/mock": f'["{good}", {listen}]'})
        answer = daemon.reload()
        assert answer.status == 400
        assert "somebody else has that" in answer.error
        if sock.family == socket.AF_UNIX and kind != "abstract":
            assert Path(path).is_socket()
            Path(path).unlink()
    finally:
        for one, _, _ in made.values():
            one.close()
    assert daemon.pids() == before

    assert daemon.reload().status == 200


def test_at_a_start_of_plugind_a_mount_waits_for_who_has_its_address_and_is_not_given_up(
    plugind: Plugind,
) -> None:
    address, path = an_address(), f"{plugind.folder}/s.sock"
    catalog(
        plugind,
        {"auth/mock": f'["{address}", {path}]'},
        "restart: {backoff: 1ms, max_backoff: 50ms, burst: 1}",
    )
    host, _, port = address.rpartition(":")
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        for sock, where in ((tcp, (host, int(port))), (unix, path)):
            sock.bind(where)
            sock.listen()
        plugind.start(ready=False)
        for _ in range(4):
            seen = len(plugind.log)
            plugind.saw("instance_not_started", since=seen)
        row = plugind.rows()[MOUNT]
        assert (row["state"], row["pid"]) == ("backoff", None)
        assert f"cannot listen on {address}: somebody else has that address" in row["reason"]
        tcp.close()
        plugind.until(lambda: "somebody else has that socket" in plugind.rows()[MOUNT]["reason"])

    plugind.until(lambda: plugind.rows()[MOUNT]["state"] == "ready")
    assert ask(address)["pid"] == ask(path)["pid"] == plugind.pids()[MOUNT]


def test_the_socket_of_a_dead_listener_is_replaced(daemon: Plugind) -> None:
    path = f"{daemon.folder}/stale.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
    pid = runs(daemon, {"auth/mock": f"[{path}]"})[MOUNT]

    assert ask(path)["pid"] == pid


def test_with_partial_only_the_mount_without_its_address_stays_as_it_is(daemon: Plugind) -> None:
    one, two = an_address(), an_address()
    before = runs(daemon, {"auth/mock": f'["{one}"]', "auth/other": ""})
    catalog(daemon, {"auth/mock": f'["{one}", /no/folder/x]', "auth/other": f'["{two}"]'})

    rows = {row["mount"]: row for row in daemon.reload(partial=True).body["data"]["mounts"]}

    assert (rows["auth/mock"]["result"], rows["auth/other"]["result"]) == ("failed", "reloaded")
    assert "there is no folder /no/folder" in rows["auth/mock"]["error"]
    assert daemon.pids()[MOUNT] == before[MOUNT]
    assert ask(two)["pid"] == daemon.pids()["root:auth/other"]


def test_what_another_mount_holds_is_refused_while_that_one_needs_it(daemon: Plugind) -> None:
    """In the file the address has moved from the one to the other; a reload means the other only."""
    address, new = an_address(), an_address()
    before = runs(daemon, {"auth/mock": f'["{address}"]', "auth/other": ""})
    catalog(daemon, {"auth/mock": f'["{new}"]', "auth/other": f'["{address}"]'})

    for answer in (
        daemon.call("POST", "sys/plugins/reload/backend", {"mounts": ["auth/other"]}),
        applied(daemon),
    ):
        assert answer.status == 400
        assert "it is held for auth/mock/ in root, and two mounts never share a socket" in answer.error
    assert daemon.pids() == before
    assert daemon.call("POST", "sys/plugins/reload/backend", {"mounts": ["auth/mock"]}).status == 200
    assert applied(daemon).status == 200

    pids = daemon.pids()
    assert (ask(new)["pid"], ask(address)["pid"]) == (pids[MOUNT], pids["root:auth/other"])


def test_a_wider_address_waits_for_the_narrower_one_of_the_same_mount(daemon: Plugind) -> None:
    narrow = an_address()
    port = narrow.rpartition(":")[2]
    before = runs(daemon, {"auth/mock": f'["{narrow}"]'})
    catalog(daemon, {"auth/mock": f'["0.0.0.0:{port}"]'})

    assert f"cannot listen on 0.0.0.0:{port} while {narrow} is held: stop the mount" in daemon.reload().error

    assert daemon.pids() == before
    assert daemon.call("POST", "supervisor/stop/auth/mock").status == 200
    assert daemon.call("POST", "supervisor/start/auth/mock").status == 200
    assert ask(f"127.0.0.1:{port}")["pid"] == daemon.pids()[MOUNT]


# --- what is closed


def test_a_mount_that_is_removed_leaves_no_socket_and_no_file(daemon: Plugind) -> None:
    address, path = an_address(), daemon.folder / "gone.sock"
    runs(daemon, {"auth/mock": f'["{address}", {path}]', "auth/other": ""})
    assert path.is_socket()

    runs(daemon, {"auth/other": ""})

    assert not path.exists()
    assert is_refused(address)


def test_a_mount_that_gets_another_name_hands_its_listener_on(daemon: Plugind) -> None:
    address = an_address()
    runs(daemon, {"auth/mock": f'["{address}"]'}, "ready: {kind: notify}")

    with Clients(address, 2) as clients:
        pids = runs(daemon, {"auth/another": f'["{address}"]'}, "ready: {kind: notify}")
        daemon.until(lambda: clients.served[pids["root:auth/another"]] > 0)

    assert clients.wrong == []


@pytest.mark.parametrize("options", [{"parallel": 1}, {"canary": 1}, {"parallel": 2}])
def test_it_is_handed_on_however_few_mounts_are_replaced_at_a_time(
    daemon: Plugind, options: dict[str, int]
) -> None:
    """The new names come first in their order, so that all that are at work at a time may be these."""
    addresses = [an_address() for _ in range(3)]
    runs(daemon, {f"auth/old-{number}": f'["{address}"]' for number, address in enumerate(addresses)})
    catalog(daemon, {f"auth/new-{number}": f'["{address}"]' for number, address in enumerate(addresses)})

    answer = daemon.call("POST", "supervisor/apply", options)

    assert answer.status == 200, answer.body
    assert sorted(row["result"] for row in answer.data["mounts"]) == ["started"] * 3 + ["stopped"] * 3
    pids = daemon.pids()
    assert [ask(address)["pid"] for address in addresses] == [
        pids[f"root:auth/new-{number}"] for number in range(3)
    ]


def test_with_partial_one_whose_listener_nobody_can_get_runs_as_before(daemon: Plugind) -> None:
    address = an_address()
    before = runs(daemon, {"auth/old": f'["{address}"]'})
    catalog(daemon, {"auth/new": f'["{address}", /no/folder/x]'})

    for body in ({"partial": True, "dry_run": True}, {"partial": True}):
        rows = daemon.call("POST", "supervisor/apply", body).body["data"]["mounts"]
        assert {row["mount"]: row["result"] for row in rows} == {"auth/new": "failed", "auth/old": "skipped"}
    assert ask(address)["pid"] == before["root:auth/old"]
    assert set(runs(daemon, {"auth/new": f'["{address}"]'})) == {"root:auth/new"}


def test_where_the_first_one_that_gets_another_name_fails_the_others_keep_theirs(daemon: Plugind) -> None:
    one, two = an_address(), an_address()
    before = runs(daemon, {"auth/old-1": f'["{one}"]', "auth/old-2": f'["{two}"]'})
    catalog(
        daemon,
        {"auth/new-1": f'version: bad, listen: ["{one}"]', "auth/new-2": f'["{two}"]'},
        "restart: {policy: never}\nready: {kind: notify}",
    )

    answer = daemon.call("POST", "supervisor/apply", {"canary": 1})

    assert {row["mount"]: row["result"] for row in answer.body["data"]["mounts"]} == {
        "auth/new-1": "failed",
        "auth/new-2": "skipped",
        "auth/old-1": "stopped",
        "auth/old-2": "skipped",
    }
    assert ask(two)["pid"] == before["root:auth/old-2"]


def test_a_mount_that_is_stopped_by_hand_refuses_and_one_that_is_started_again_does_not(
    daemon: Plugind,
) -> None:
    address, path = an_address(), daemon.folder / "stopped.sock"
    runs(daemon, {"auth/mock": f'["{address}", {path}]'})

    assert daemon.call("POST", "supervisor/stop/auth/mock").status == 200

    assert is_refused(address)
    assert not path.exists()
    assert daemon.call("POST", "supervisor/start/auth/mock").status == 200
    assert ask(address)["pid"] == ask(str(path))["pid"] == daemon.pids()[MOUNT]


def test_a_mount_that_has_failed_refuses(daemon: Plugind) -> None:
    address = an_address()
    runs(daemon, {"auth/mock": ""})
    restart = "restart: {backoff: 1ms, burst: 2}"
    catalog(
        daemon,
        {"auth/mock": f'version: bad, listen: ["{address}"]'},
        f"{restart}\nreload: {{rollback: false}}",
    )
    applied(daemon)
    daemon.until(lambda: daemon.rows()[MOUNT]["state"] == "failed")

    assert is_refused(address)


# --- nobody else has them


def test_a_plugind_with_few_descriptors_hands_them_over_all_the_same(plugind: Plugind) -> None:
    address, path = an_address(), f"{plugind.folder}/s.sock"
    catalog(plugind, {"auth/mock": f'["{address}", {path}]', "auth/other": ""})

    plugind.start(within=["sh", "-c", 'ulimit -n 64; exec "$@"', "sh"])

    assert (ask(address)["fd"], ask(path)["fd"]) == (3, 4)
    assert ask(path)["descriptors"] == [0, 1, 2, 3, 4]
    many = [f"{plugind.folder}/{number}" for number in range(20)]
    catalog(plugind, {"auth/mock": f"[{', '.join(many)}]", "auth/other": ""})
    assert "plugind has too few descriptors to hand over 20: see ulimit -n" in plugind.reload().error


def test_no_other_plugin_and_no_helper_of_this_one_gets_a_listener(daemon: Plugind) -> None:
    address, told = an_address(), daemon.folder / "helper"
    helper = f"exec >{told}; ls -l /proc/self/fd | grep -c socket; env | grep -c ^LISTEN_"
    stop = f"stop: {{command: [/bin/sh, -c, '{helper}']}}"
    pids = runs(daemon, {"auth/mock": f'["{address}"]', "auth/other": ""}, stop)

    assert ask(address)["descriptors"] == [0, 1, 2, 3]
    assert not any("socket:" in what for what in descriptors(pids["root:auth/other"]).values())
    daemon.call("POST", "supervisor/stop/auth/mock")
    assert told.read_text().split() == ["0", "0"]
    daemon.call("POST", "supervisor/start/auth/mock")


def test_plugind_holds_no_more_after_many_replacements(daemon: Plugind) -> None:
    address, other = an_address(), an_address()
    runs(daemon, {"auth/mock": f'["{address}"]'})
    assert daemon.process is not None
    pid = daemon.process.pid

    def sockets() -> int:
        return sum("socket:" in what for number, what in descriptors(pid).items() if number >= FLOOR)

    before = sockets()
    assert before == 1
    for number in range(5):
        runs(daemon, {"auth/mock": f'["{(other, address)[number % 2]}"]'})
        daemon.reload(dry_run=True)
        catalog(daemon, {"auth/mock": f'["{address}", /no/folder/x, "{an_address()}"]'})
        assert daemon.reload().status == 400
    runs(daemon, {"auth/mock": f'["{address}"]'})

    daemon.until(lambda: sockets() == before)
