"""Guarantee 8: no byte of a plugin's log is lost, no line is split, and a flood delays nobody else."""

import base64
import json
import os
import pty
import re
import select
import signal
import socket
import stat
import statistics
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from harness import BIN, DEADLINE, Plugind, UnixConnection

SECRET, SECRET_OF_FILE = "sesame-in-env-4711", "sesame-in-file-0815"
STRANGE = bytes(range(256)) + b"\x1b[31mred\x1b[0m\x07 \xff\xfe half a line without an end"
SPEAKS = f"""#!/usr/bin/env -S python3 -IS
import os, time
text = {STRANGE!r}
for start in range(0, len(text), 7):
    os.write(1 if start % 2 else 2, text[start : start + 7])
time.sleep(1000)
"""
# numbered lines of each instance; the last thing that it says is how many there were
COUNTS = """#!/usr/bin/env -S python3 -IS
import os, signal, sys, time
going, pause, width, n = True, float(sys.argv[1]), int(sys.argv[2]), 0
def stop(*_):
    global going
    going = False
signal.signal(signal.SIGTERM, stop)
me = os.environ["PLUGIND_INSTANCE"]
while going:
    n += 1
    os.write(1 + n % 2, f"{me} line {n} {'x' * (n % width)}.\\n".encode())
    time.sleep(pause)
os.write(1, f"{me} said {n}\\n".encode())
"""
FLOODS = "#!/bin/sh\nexec yes a line of a plugin that never holds its breath\n"
SLEEPS = "#!/bin/sh\nexec sleep 1000\n"
SHOWS_ITS_ENVIRONMENT = '#!/bin/sh\nprintf "%s %s\\n" "$TOKEN" "$KEY"\nexec sleep 1000\n'


@pytest.fixture(scope="module")
def running(shared_plugind: Plugind) -> Plugind:
    daemon = shared_plugind
    daemon.settings("logs: {max_size: 128KiB, keep: 60}\n")
    (daemon.folder / "key").write_text(SECRET_OF_FILE)
    scripts = {
        "speaks": (SPEAKS, []),
        "fast": (COUNTS, ["0.0002", "400"]),
        "slow": (COUNTS, ["0.004", "50"]),
        "floods": (FLOODS, []),
        "sleeps": (SLEEPS, []),
        "shows": (SHOWS_ITS_ENVIRONMENT, []),
    }
    versions = {name: (daemon.plugin(name, text), args) for name, (text, args) in scripts.items()}
    env = f"{{TOKEN: {SECRET}, KEY: {{file: {daemon.folder}/key}}}}"
    mounts = {
        "root": {
            "auth/slow": "{plugin: auth/mock, version: slow}",
            "auth/floods": "{plugin: auth/mock, version: floods}",
            "auth/sleeps": "{plugin: auth/mock, version: sleeps}",
            "auth/shows": f"{{plugin: auth/mock, version: shows, env: {env}}}",
            "auth/fast": "{plugin: auth/mock, version: fast}",
        },
        "team-a/dev": {"auth/deep/speaks": "{plugin: auth/mock, version: speaks}"},
    }
    daemon.write(versions, mounts, "sleeps")
    daemon.start()
    for name in ("floods", "fast"):
        daemon.call("POST", f"supervisor/stop/auth/{name}")
    return daemon


@contextmanager
def started(daemon: Plugind, mount: str) -> Iterator[None]:
    assert daemon.call("POST", f"supervisor/start/{mount}").status == 200
    try:
        yield
    finally:
        assert daemon.call("POST", f"supervisor/stop/{mount}").status == 200


def reload(daemon: Plugind, mount: str) -> None:
    assert daemon.call("POST", "sys/plugins/reload/backend", {"mounts": [mount]}).status == 200


def files_of(daemon: Plugind, name: str) -> list[Path]:
    """The files of a mount of root, oldest first."""
    folder = daemon.logs / "root"
    rotated = [path for path in folder.glob(f"{name}.log.*") if path.suffix[1:].isdigit()]
    return [*sorted(rotated, key=lambda path: -int(path.suffix[1:])), folder / f"{name}.log"]


def said(daemon: Plugind, name: str) -> bytes:
    return b"".join(path.read_bytes() for path in files_of(daemon, name))


def lines_by_instance(text: bytes) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Numbers of the whole lines of each instance, and how many it said there were; anything else fails."""
    numbers: dict[str, list[int]] = defaultdict(list)
    totals: dict[str, int] = {}
    for line in text.decode().splitlines(keepends=True):
        match = re.fullmatch(r"(\S+) (?:line (\d+) x*\.|said (\d+))\n", line)
        assert match is not None, f"a torn line: {line!r}"
        if match[2]:
            numbers[match[1]].append(int(match[2]))
        else:
            totals[match[1]] = int(match[3])
    return numbers, totals


def test_what_a_plugin_writes_is_in_its_file_byte_for_byte_without_a_final_newline(running: Plugind) -> None:
    path = running.logs / "team-a+dev" / "auth+deep+speaks.log"

    running.until(lambda: path.stat().st_size >= len(STRANGE))

    assert path.read_bytes() == STRANGE
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_no_line_is_lost_or_split_by_reloads_and_rotations(running: Plugind) -> None:
    with started(running, "auth/fast"):
        for _ in range(3):
            count = len(files_of(running, "auth+fast"))
            running.until(lambda count=count: len(files_of(running, "auth+fast")) > count + 1)
            reload(running, "auth/fast")
    files = files_of(running, "auth+fast")

    numbers, totals = lines_by_instance(said(running, "auth+fast"))

    assert len(files) > 5
    assert all(path.read_bytes().endswith(b"\n") for path in files), "a line was split across files"
    assert max(path.stat().st_size for path in files) <= 128 << 10
    assert len(totals) >= 3  # the last one may have been stopped before its first line
    assert {name: list(range(1, count + 1)) for name, count in totals.items()} == numbers
    order = [line.split()[0] for line in said(running, "auth+fast").decode().splitlines()]
    assert [name for at, name in enumerate(order) if not at or order[at - 1] != name] == list(totals)


def followed(pieces: Iterator[bytes], daemon: Plugind) -> bytes:
    """What a follower of auth/slow gets, from before a reload to well after it."""
    text, reloading = b"", None
    while text.count(b"\n") < 400:
        text += next(pieces)
        if reloading is None and text.count(b"\n") > 20:
            reloading = threading.Thread(target=reload, args=(daemon, "auth/slow"))
            reloading.start()
    assert reloading is not None
    reloading.join(DEADLINE)
    return text[: text.rfind(b"\n") + 1]


def check_followed(text: bytes) -> None:
    numbers, totals = lines_by_instance(text)
    old, new = numbers
    assert numbers[old] == list(range(numbers[old][0], totals[old] + 1))
    assert numbers[new] == list(range(1, len(numbers[new]) + 1))


def test_a_follower_over_http_misses_nothing_over_a_reload(running: Plugind) -> None:
    connection = UnixConnection(running.socket)
    try:
        connection.request("GET", "/v1/supervisor/logs/auth/slow?follow=true&lines=5")
        response = connection.getresponse()

        text = followed(iter(lambda: response.read1(65536), b""), running)
    finally:
        connection.close()

    check_followed(text)


@pytest.mark.needs("curl")
def test_a_follower_that_is_too_slow_is_told_so_and_plugind_goes_on(running: Plugind) -> None:
    url = "http://localhost/v1/supervisor/logs/auth/floods?follow=true"
    with started(running, "auth/floods"):
        curl = subprocess.run(
            ["curl", "-sS", "--limit-rate", "1M", "--unix-socket", running.socket, url],
            capture_output=True,
            check=False,
            timeout=DEADLINE,
        )

    assert curl.returncode == 18  # the body is not whole
    assert curl.stdout.endswith(
        b"\nplugind: cannot follow the log of auth/floods/ in root: "
        b"the reader was too slow, its place is gone\n"
    )
    running.saw("stream_dropped", path="/v1/supervisor/logs/auth/floods")


def test_pluginctl_logs_f_misses_nothing_over_a_reload(running: Plugind) -> None:
    command = [BIN / "pluginctl", "--socket", running.socket, "logs", "-f", "--lines", "5", "auth/slow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        text = followed(iter(process.stdout.readline, b""), running)
        process.send_signal(signal.SIGINT)
        process.stdout.read()

    assert process.returncode == 130
    check_followed(text)


def seconds(act, times: int) -> float:
    """The median of how long it takes."""
    taken = []
    for _ in range(times):
        began = time.monotonic()
        act()
        taken.append(time.monotonic() - began)
    return statistics.median(taken)


@contextmanager
def somebody_follows(daemon: Plugind, mount: str) -> Iterator[None]:
    """A client that reads a mount's log as fast as it comes, and comes back when it was too slow."""
    request = f"GET /v1/supervisor/logs/{mount}?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    over = threading.Event()
    seen = 0

    def follow() -> None:
        nonlocal seen
        while not over.is_set():
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(daemon.socket))
                client.settimeout(DEADLINE)
                client.sendall(request)
                while not over.is_set() and (data := client.recv(1 << 18)):
                    seen += len(data)

    reader = threading.Thread(target=follow)
    reader.start()
    try:
        daemon.until(lambda: seen > 1_000_000)
        yield
    finally:
        over.set()
        reader.join(DEADLINE)


@pytest.mark.parametrize("followers", [0, 1])
def test_a_flood_delays_neither_another_mounts_reload_nor_control_requests(
    running: Plugind, followers: int
) -> None:
    def status() -> None:
        assert running.call("GET", "supervisor/status").status == 200

    quiet = seconds(lambda: reload(running, "auth/sleeps"), 5), seconds(status, 40)
    with started(running, "auth/floods"), ExitStack() as stack:
        running.until(lambda: len(files_of(running, "auth+floods")) > 5)
        for _ in range(followers):
            stack.enter_context(somebody_follows(running, "auth/floods"))
        flooded = seconds(lambda: reload(running, "auth/sleeps"), 5), seconds(status, 40)

    noise = 0.1  # of a busy machine; what waits for a flood waits for seconds
    assert flooded[0] < 10 * quiet[0] + noise, f"reloads: {quiet[0]:.4f} s, in a flood {flooded[0]:.4f} s"
    assert flooded[1] < 10 * quiet[1] + noise, f"requests: {quiet[1]:.4f} s, in a flood {flooded[1]:.4f} s"


SPEAKER = ["logs", "team-a/dev:auth/deep/speaks"]


def test_pluginctl_logs_is_raw_in_a_pipe(running: Plugind) -> None:
    shown = subprocess.run(
        [BIN / "pluginctl", "--socket", running.socket, *SPEAKER], capture_output=True, check=True
    )

    assert shown.stdout == STRANGE + b"\n"


def test_pluginctl_logs_shows_escapes_as_text_on_a_terminal(running: Plugind) -> None:
    master, slave = pty.openpty()
    with subprocess.Popen([BIN / "pluginctl", "--socket", running.socket, *SPEAKER], stdout=slave) as process:
        os.close(slave)
        shown = b""
        while select.select([master], [], [], DEADLINE)[0]:
            try:
                shown += os.read(master, 65536)
            except OSError:  # EIO: the other end is closed
                break
    os.close(master)

    assert process.returncode == 0
    assert not set(shown) & (set(range(32)) - set(b"\r\n\t")), shown
    assert b"\\x1b[31mred" in shown


def test_values_of_env_are_shown_nowhere_and_lie_in_private_files_only(running: Plugind) -> None:
    running.until(lambda: SECRET_OF_FILE.encode() in said(running, "auth+shows"))
    catalog = running.catalog.read_text()
    running.catalog.write_text(catalog.replace(f"TOKEN: {SECRET}", f"TOKEN: {SECRET}-2"))
    events = UnixConnection(running.socket)
    events.request("GET", "/v1/supervisor/events?after=0")
    stream = events.getresponse()
    shown = [
        json.dumps(running.call(method, path).body)
        for method, path in [
            ("GET", "supervisor/plan"),
            ("GET", "supervisor/instances"),
            ("GET", "supervisor/status"),
            ("GET", "sys/plugins/catalog"),
            ("GET", "sys/plugins/catalog/auth/mock?version=shows"),
            ("GET", "sys/auth"),
            ("GET", "sys/auth/shows"),
        ]
    ]
    try:
        reload(running, "auth/shows")
        (running.folder / "key").rename(running.folder / "away")
        refused = running.call("POST", "sys/plugins/reload/backend", {"mounts": ["auth/shows"]})
        shown += [refused.error]
        for path in ("supervisor/plan", "supervisor/why/auth/shows", "supervisor/reloads", "sys/metrics"):
            shown.append(json.dumps(running.call("GET", path).body if "metrics" not in path else ""))
        told = b""
        while f'"pid":{running.pids()["root:auth/shows"]}'.encode() not in told:
            told += stream.read1(65536)
    finally:
        events.close()
        (running.folder / "away").rename(running.folder / "key")
        running.catalog.write_text(catalog)
        assert running.reload(dry_run=True).status == 200
    shown += [told.decode(), json.dumps(running.log), (running.logs / "audit.log").read_text()]

    assert '"env (TOKEN)"' in shown[0]
    assert refused.status == 400
    assert not [text for text in shown if "sesame" in text]
    marks = [mark for value in (SECRET, SECRET_OF_FILE) for mark in (value.encode(), base64_of(value))]
    with_value = [
        path
        for path in running.folder.rglob("*")
        if path.is_file()
        and path not in {running.catalog, running.folder / "key"}
        and "auth+shows" not in path.name
        and any(mark in path.read_bytes() for mark in marks)
    ]
    assert with_value, "the records hold the values: this test looks in the wrong place"
    assert {oct(path.stat().st_mode & 0o7777) for path in with_value} == {"0o600"}


def base64_of(value: str) -> bytes:
    """What is in the base64 of any text around it, wherever it begins: at one of three offsets."""
    return base64.b64encode(value[2:-2].encode())[:12]


def test_instance_records_are_private(running: Plugind) -> None:
    records = list((running.folder / "run" / "instances").glob("*.json"))

    assert len(records) >= 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in records} == {0o600}
