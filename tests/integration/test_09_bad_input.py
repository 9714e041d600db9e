"""Guarantee 9: bad input costs an error, never a process; and plugind answers everybody else meanwhile."""

import os
import re
import shutil
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness import BIN, DEADLINE, Answer, Plugind, is_alive
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from supervisor.api.routes import ROUTES

HEALTH = b"GET /v1/sys/health HTTP/1.1\r\nHost: x\r\n"
APPLY = b"POST /v1/supervisor/apply HTTP/1.1\r\nHost: x\r\n"
SLEEPS = "#!/bin/sh\nexec sleep 1000\n"
MOUNTS = {"root": {"auth/a": "{plugin: auth/mock}"}, "team-a": {"auth/b": "{plugin: auth/mock}"}}


def with_two_versions(daemon: Plugind) -> Plugind:
    one, two = daemon.plugin("one", SLEEPS), daemon.plugin("two", SLEEPS + "# two\n")
    daemon.write({"v1": (one, []), "v2": (two, [])}, MOUNTS, "v1")
    return daemon.start()


@pytest.fixture(scope="module")
def daemon(shared_plugind: Plugind) -> Plugind:
    return with_two_versions(shared_plugind)


@pytest.fixture
def running(daemon: Plugind) -> Iterator[Plugind]:
    """The one of the module: whatever the test does, no process is touched and the catalog is put back."""
    catalog, before = daemon.catalog.read_bytes(), daemon.pids()
    yield daemon
    daemon.catalog.unlink()
    daemon.catalog.write_bytes(catalog)
    assert daemon.reload(dry_run=True).status == 200
    assert daemon.pids() == before
    assert all(map(is_alive, before.values()))


# --- the catalog


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("pin: v1", "pin: 1.10", '4:12: pin: YAML reads 1.10 as a number: quote it: "1.10"'),
        ("pin: v1", "pin: v3", '4:12: auth/mock is pinned to "v3", which is not among its versions'),
        ("pin: v1", "pin: &a v1", "4:12: anchors"),
        ("pin: v1", "pin: !!python/object/apply:os.abort [v1]", "4:12: tags"),
        ("      pin", "\tpin", "4:1: "),
        ("versions:", "versons:", '5:7: unknown key "versons": did you mean "versions"?'),
        ("namespaces:", "---\nnamespaces:", "8:1: "),
        ("  team-a:", "  root:", '12:3: duplicate key "root"'),
        ("  team-a:", "  sys:", "12:3: "),
        ("  team-a:", "  ../team-a:", "12:3: "),
        ("auth/a: {plugin: auth/mock}", "auth/a: {plugin: auth/mokc}", "11:24: "),
        ("auth/a:", "kv:", "11:7: "),
        ("auth/a:", "auth/a/../../x:", "11:7: "),
        ("namespaces:\n", "namespaces: [\n", "10:11: not YAML"),
        ("auth/b: {", "auth/b: {env: {A: {file: }}, ", "14:32: file: has no value"),
    ],
)
def test_a_bad_edit_is_refused_with_file_line_and_column(
    running: Plugind, old: str, new: str, fault: str
) -> None:
    running.edit(old, new)

    refused = running.reload(), running.call("POST", "supervisor/apply", {})

    for answer in refused:
        assert answer.status == 400
        assert f"{running.catalog}:{fault}" in answer.error


def test_a_file_that_is_open_for_writing_is_never_read_half(plugind: Plugind) -> None:
    running = with_two_versions(plugind)
    before = running.pids()
    new = running.catalog.read_bytes().replace(b"pin: v1", b"pin: v2")
    lines = new.splitlines(keepends=True)

    with running.catalog.open("wb") as file:  # truncates
        for number in range(len(lines)):  # each beginning of it, many of which are good YAML
            answer = running.call("POST", "supervisor/apply", {})
            assert answer.status == 400, f"{number} lines were applied"
            assert "is being written by another process" in answer.error
            file.write(lines[number])
            file.flush()
        assert running.pids() == before
    answer = running.reload()

    assert answer.status == 200
    assert {row["version"] for row in running.rows().values()} == {"v2"}


@pytest.mark.parametrize("size", [0, 1, 40, 0.5, 0.9], ids=["nothing", "a byte", "a line", "half", "most"])
def test_a_catalog_that_stops_in_the_middle_is_refused(running: Plugind, size: float) -> None:
    text = running.catalog.read_bytes()
    running.catalog.write_bytes(text[: int(size * len(text)) if size < 1 else int(size)])

    refused = running.reload(), running.call("POST", "supervisor/apply", {})

    assert [answer.status for answer in refused] == [400, 400]
    assert f"{running.catalog}:" in refused[0].error


def laughs(levels: int) -> str:
    lines = [
        "a0: &a0 [lol, lol]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)),
    ]
    return "\n".join(lines)


def merges(levels: int) -> str:
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "bomb",
    [
        "[" * 100_000,
        "plugins:\n" + "".join(f"{' ' * n}- \n" for n in range(3000)),
        laughs(12),
        merges(8),
        "plugins: &a [*a]",
        "plugins: " + "9" * 1_000_000,
        "plugins: " + ":".join(["59"] * 60_000),
        "plugins: [" + "a," * 600_000 + "]",
        "a: b\n" * (17 << 18),
    ],
    ids=["brackets", "dashes", "laughs", "merges", "itself", "digits", "sexagesimal", "events", "17 MiB"],
)
def test_a_yaml_bomb_is_refused_at_once_and_others_are_answered_meanwhile(
    running: Plugind, bomb: str
) -> None:
    running.catalog.write_text(bomb)
    for _ in range(3):  # a machine that is busy with something else is not so three times
        answer, seconds, longest_wait = reloaded_beside_requests(running)
        if max(seconds, longest_wait) < 1:
            break

    assert answer.status == 400
    assert f"{running.catalog}:" in answer.error
    assert len(answer.error) < 20_000
    assert seconds < 1
    assert longest_wait < 1


def reloaded_beside_requests(daemon: Plugind) -> tuple[Answer, float, float]:
    """A reload, how long it took, and how long the slowest of the requests beside it took."""
    answers = []
    waits = [0.0]

    def reload() -> None:
        began = time.monotonic()
        answers.append((daemon.reload(), time.monotonic() - began))

    thread = threading.Thread(target=reload)
    thread.start()
    while thread.is_alive():
        began = time.monotonic()
        assert daemon.call("GET", "supervisor/status").status == 200
        waits.append(time.monotonic() - began)
    thread.join(DEADLINE)
    return *answers[0], max(waits)


def test_a_folder_of_catalogs_with_odd_files_is_refused_without_waiting_for_any(plugind: Plugind) -> None:
    running = with_two_versions(plugind)
    running.stop()
    folder = running.folder / "catalog.d"
    folder.mkdir()
    running.catalog.rename(folder / "10-all.yaml")
    running.config.write_text(running.config.read_text().replace(str(running.catalog), str(folder)))
    running.start()
    before = running.pids()
    os.mkfifo(folder / "20-fifo.yaml")
    (folder / "30-nowhere.yaml").symlink_to("nothing")
    (folder / "40-dir.yaml").mkdir()

    answer = running.call("POST", "supervisor/apply", {})

    assert answer.status == 400
    for name, why in [
        ("20-fifo", "is a FIFO"),
        ("30-nowhere", "does not exist"),
        ("40-dir", "is a directory"),
    ]:
        assert f"{folder}/{name}.yaml" in answer.error
        assert why in answer.error
    assert running.pids() == before


# --- the socket


def exchange(daemon: Plugind, request: bytes, *, half_close: bool = True) -> bytes:
    """All that comes back until plugind closes."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE)
        client.connect(str(daemon.socket))
        answer = b""
        try:
            client.sendall(request)
            if half_close:
                client.shutdown(socket.SHUT_WR)
            while data := client.recv(65536):
                answer += data
        except (BrokenPipeError, ConnectionResetError):
            pass
        return answer


HOSTILE = [
    "..",
    "%2e%2e",
    "a%2fb",
    "a%2f..%2fb",
    "",
    ".",
    "a/./b",
    "a/../b",
    "%00",
    "x" * 300,
    "auth/mock%00",
    "%EF%BC%8F",
    "%E2%80%AEa",
    "e%CC%81",
    "%C3%A9",
    "%ff",
    "a%0d%0ab",
    "-rf",
    "a%20b",
    "~root",
]


class Seen(FileSystemEventHandler):
    """Which files below a folder were opened, made, moved or removed."""

    def __init__(self) -> None:
        self.paths: set[str] = set()

    def on_any_event(self, event: FileSystemEvent) -> None:
        if not event.is_directory:
            self.paths |= {os.fsdecode(event.src_path), os.fsdecode(event.dest_path)} - {""}


def test_a_hostile_name_is_refused_on_every_route_and_opens_no_file(running: Plugind) -> None:
    for path in (running.folder, running.logs):
        (path / "bait.log").write_text("bait")
    seen, observer = Seen(), Observer()
    observer.schedule(seen, str(running.folder), recursive=True)
    observer.start()
    told: dict[str, bytes] = {}
    try:
        for route in ROUTES:
            for name in HOSTILE:
                targets = [(f"/{name}{route.pattern}", ""), (route.pattern, name.replace("%", "%25"))]
                if "{" in route.pattern:
                    head, _, rest = route.pattern.partition("{")
                    targets += [(head + name + rest.partition("}")[2], "")]
                for path, namespace in targets:
                    text = (
                        path.replace("{type}", "auth").replace("{name}", "mock").replace("{mount*}", "auth/a")
                    )
                    text = text.replace("{namespace*}", "team-a").replace("{id}", "1")
                    header = f"X-Vault-Namespace: {namespace}\r\n" if namespace.strip() else ""
                    if path is route.pattern and not header:
                        continue
                    asked = f"{route.method} /v1{text} HTTP/1.1\r\nHost: x\r\n{header}"
                    request = f"{asked}Content-Length: 2\r\n\r\n{{}}".encode()
                    told[f"{route.method} {text} {namespace}"] = exchange(running, request)
        (running.folder / "the end").touch()
        running.until(lambda: str(running.folder / "the end") in seen.paths)
    finally:
        observer.stop()
        observer.join()
        for path in (running.folder / "the end", running.folder / "bait.log", running.logs / "bait.log"):
            path.unlink(missing_ok=True)

    wrong = {what: text[:200] for what, text in told.items() if text[9:12] not in {b"400", b"404", b"405"}}
    assert len(told) > 1000
    assert not wrong
    assert not [text for text in told.values() if b"bait" in text or b"Traceback" in text]
    opened = {path.removeprefix(f"{running.folder}/") for path in seen.paths}
    assert opened <= {"the end", "log/audit.log", "catalog.yaml"}  # the watcher may look


def test_sys_and_root_are_no_namespaces(running: Plugind) -> None:
    for name in ("sys", "root/sys", "team-a/root", "team-a/sys"):
        answer = running.call("GET", "supervisor/instances", namespace=name)
        assert answer.status in {400, 404}, name


def seconds_of_status(daemon: Plugind) -> float:
    taken = []
    for _ in range(40):
        began = time.monotonic()
        assert daemon.call("GET", "supervisor/status").status == 200
        taken.append(time.monotonic() - began)
    return statistics.median(taken)


def test_hundreds_of_clients_that_never_finish_delay_nobody(running: Plugind) -> None:
    quiet = seconds_of_status(running)
    beginnings = [
        b"",
        b"GET /v1/sys/heal",
        HEALTH + b"X-Slow: ",
        b"POST /v1/sys/plugins/reload/auth/mock HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{",
        APPLY + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    ]
    with ExitStack() as stack:
        for number in range(300):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(DEADLINE)
            client.connect(str(running.socket))
            client.sendall(beginnings[number % len(beginnings)])

        busy = seconds_of_status(running)
        assert running.reload(dry_run=True).status == 200

    assert busy < 10 * quiet + 0.1, f"{quiet:.4f} s, with slow clients {busy:.4f} s"


MALFORMED = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n",
    "only line ends": b"\r\n\r\n\r\n\r\n",
    "no version": b"GET /v1/sys/health\r\n\r\n",
    "HTTP/9.9": b"GET /v1/sys/health HTTP/9.9\r\nHost: x\r\n\r\n",
    "two lengths": APPLY + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunks": APPLY + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    "a negative length": APPLY + b"Content-Length: -2\r\n\r\n{}",
    "a length of 5,000 digits": APPLY + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
    "xchunked": APPLY + b"Transfer-Encoding: xchunked\r\n\r\n{}",
    "a chunk that is none": APPLY + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}",
    "a folded header": HEALTH + b"X-A: b\r\n c\r\n\r\n",
    "a header without a colon": HEALTH + b"broken\r\n\r\n",
    "a NUL in a header": HEALTH + b"X-A: a\x00b\r\n\r\n",
    "10,000 headers": HEALTH + b"" + b"A: b\r\n" * 10_000 + b"\r\n",
    "a header of 64 KiB": HEALTH + b"A: " + b"b" * 65536 + b"\r\n\r\n",
    "a URL of 1 MiB": b"GET /v1/" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a gzipped body": APPLY + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\njunk",
    "a body that ends early": APPLY + b"Content-Length: 20\r\n\r\n{}",
    "JSON of 200,000 brackets": APPLY + b"Content-Length: 200000\r\n\r\n" + b"[" * 200_000,
    "a body of 2 GiB": APPLY + b"Content-Length: 2147483648\r\n\r\n{",
    "JSON that is a lone surrogate": APPLY + b'Content-Length: 8\r\n\r\n"\\ud800"',
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_gets_a_4xx_or_a_close_and_applies_nothing(running: Plugind, name: str) -> None:
    running.edit("pin: v1", "pin: v2")  # an apply that got through would replace everything

    answer = exchange(running, MALFORMED[name])

    assert not answer or answer[:10] in {b"HTTP/1.1 4", b"HTTP/1.0 4"}, answer[:200]
    assert b"Traceback" not in answer
    assert len(re.findall(rb"HTTP/1\.[01] [0-9]{3} ", answer)) <= 1
    assert running.call("GET", "sys/health").status == 200


# --- files

PLANTED = [
    "log/root/auth+a.log",
    "log/root/auth+a.log.index",
    "log/audit.log",
    "state/mounts.json",
    "state/reloads.json",
    "state/catalog.json",
    "run/logs/root/auth+a.fifo",
    "run/instances/1.json",
]


def plant(kind: str, path: Path, victim: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    match kind:
        case "links":
            path.symlink_to(victim)
        case "hard links":
            path.hardlink_to(victim)
        case "links to nothing":
            path.symlink_to(victim.with_name("made by plugind"))
        case "links to a fifo":
            path.symlink_to(victim.with_name("fifo"))


@pytest.fixture
def victim(plugind: Plugind) -> Iterator[Path]:
    """A file that plugind has no business with; afterwards it is as it was."""
    folder = plugind.folder / "elsewhere"
    folder.mkdir()
    os.mkfifo(folder / "fifo")
    path = folder / "victim"
    path.write_text("root:x:0:0\n")
    path.chmod(0o644)
    found = path.stat()
    yield path
    assert path.read_text() == "root:x:0:0\n"
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (
        found.st_mode,
        found.st_uid,
        found.st_mtime_ns,
    )
    assert sorted(folder.iterdir()) == [folder / "fifo", path]


@pytest.mark.parametrize("kind", ["links", "hard links", "links to nothing", "links to a fifo"])
def test_what_was_planted_where_plugind_writes_is_not_written_through(
    plugind: Plugind, victim: Path, kind: str
) -> None:
    for place in PLANTED:
        plant(kind, plugind.folder / place, victim)

    with_two_versions(plugind)
    assert plugind.reload().status == 200
    assert plugind.call("POST", "supervisor/stop/auth/a").status == 200
    plugind.stop()

    assert not (plugind.logs / "root" / "auth+a.log").is_symlink()


@pytest.mark.parametrize("place", ["control.sock", "control.sock.lock"])
@pytest.mark.parametrize("kind", ["links", "hard links", "links to nothing", "links to a fifo"])
def test_a_socket_or_lock_that_was_planted_is_not_followed(
    plugind: Plugind, victim: Path, kind: str, place: str
) -> None:
    one = plugind.plugin("one", SLEEPS)
    plugind.write({"v1": (one, [])}, MOUNTS, "v1")
    plant(kind, plugind.folder / place, victim)

    ended = subprocess.run(
        [BIN / "plugind", "--config", plugind.config],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )

    assert ended.returncode == 2
    assert f"{plugind.folder}/{place}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("place", ["log", "log/root", "state", "run", "run/tmp"])
@pytest.mark.parametrize("is_link", [False, True], ids=["there", "a link to there"])
def test_a_command_where_plugind_writes_is_refused(running: Plugind, place: str, is_link: bool) -> None:  # noqa: FBT001 - a parameter
    folder = running.folder / place
    inner = folder / "evil"
    shutil.copy2(running.folder / "two", inner)
    command = inner
    if is_link:
        command = running.folder / "link"
        command.symlink_to(inner)
    running.edit(f"command: {running.folder}/two", f"command: {command}")
    running.edit("pin: v1", "pin: v2")
    try:
        answer = running.reload()
    finally:
        inner.unlink()
        (running.folder / "link").unlink(missing_ok=True)

    assert answer.status == 400
    assert "where plugind writes" in answer.error
    assert str(inner) in answer.error


def test_no_file_that_plugind_writes_is_executable(running: Plugind) -> None:
    running.call("POST", "sys/plugins/reload/auth/mock", {"dry_run": True})

    written = [path for place in ("log", "state", "run") for path in (running.folder / place).rglob("*")]

    assert len([path for path in written if path.is_file()]) > 6
    assert not [path for path in written if path.is_file() and path.stat().st_mode & 0o111]
