"""How long a mount is down by a reload, and how long its clients wait with `order: start_first`.

Down: `down_seconds` of the answer, against the same plugin stopped and started by a bare loop, one of each in
turn: of /bin/sleep, ready by its exec, and of a plugin in Python that takes its time for both, with READY=1.
Waiting: clients of a plugin at a Unix socket that the next instance takes over by a rename, a connection for
each request, without a reload, over reloads with start_first, and over as many with stop_first.
"""

import argparse
import hashlib
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench_latency import said
from bench_reload import BIN, SLEEP, call

DOWN, WAIT = 0.005, 0.050
"""Most seconds: a mount is down above what its plugin takes, as a median; and any request waits."""
SLOW = """#!/usr/bin/env -S python3 -IS
import os, signal, socket, time
def stop(*_):
    time.sleep(0.02)
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
time.sleep(0.02)
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
while True:
    signal.pause()
"""
SERVER = """#!/usr/bin/env -S python3 -IS
import os, select, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
own = sys.argv[1] + str(os.getpid())
server.bind(own)
server.listen(128)
server.setblocking(False)
wakes, woken = os.pipe()
os.set_blocking(woken, False)
signal.signal(signal.SIGTERM, lambda *_: None)
signal.set_wakeup_fd(woken)
os.rename(own, sys.argv[1])  # from now on nobody new comes to the one before
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
ends = False
while True:
    if not ends:
        ends = wakes in select.select([server, wakes], [], [])[0]
    try:
        client, _ = server.accept()
    except BlockingIOError:
        if ends:  # whoever had come is served
            break
        continue
    client.setblocking(True)
    client.recv(64)
    client.sendall(b"served")
    client.close()
"""


@dataclass
class Clients:
    """Some that ask one thing after the other, each over a connection of its own."""

    path: Path
    waits: list[float] = field(default_factory=list)
    refused: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def during(self, work: Callable[[], object], count: int) -> "Clients":
        threads = [threading.Thread(target=self._ask) for _ in range(count)]
        for thread in threads:
            thread.start()
        work()
        self._over.set()
        for thread in threads:
            thread.join()
        return self

    def _ask(self) -> None:
        while not self._over.wait(0.002):
            began = time.perf_counter()
            while not self._served():
                self.refused += 1
                threading.Event().wait(0.001)
            self.waits.append(time.perf_counter() - began)

    def _served(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self.path))
                connection.sendall(b"?")
                return connection.recv(64) == b"served"
            except OSError:
                return False

    def __str__(self) -> str:
        long = sum(wait > WAIT for wait in self.waits)
        return (
            f"{len(self.waits)} requests, longest {max(self.waits) * 1000:.1f} ms, "
            f"p99.9 {statistics.quantiles(self.waits, n=1000)[998] * 1000:.1f} ms, "
            f"over {WAIT * 1000:.0f} ms: {long}, refused or broken: {self.refused}"
        )


def version(command: Path, settings: str) -> str:
    digest = hashlib.sha256(command.read_bytes()).hexdigest()
    return f"v1: {{command: {command}, sha256: {digest}, {settings}}}"


def prepare(folder: Path) -> Path:
    for name, text in {"slow": SLOW, "server": SERVER}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    notify = "ready: {kind: notify, timeout: 30s}"
    plugins = {
        "sleep": version(SLEEP, "args: ['1000']"),
        "slow": version(folder / "slow", notify),
        "first": version(
            folder / "server", f"args: [{folder}/first.sock], {notify}, reload: {{order: start_first}}"
        ),
        "last": version(folder / "server", f"args: [{folder}/last.sock], {notify}"),
    }
    text = "".join(
        f"    {name}:\n      pin: v1\n      versions:\n        {one}\n" for name, one in plugins.items()
    )
    mounts = "".join(f"      {name}: {{plugin: secret/{name}}}\n" for name in plugins)
    (folder / "catalog.yaml").write_text(
        f"plugins:\n  secret:\n{text}namespaces:\n  root:\n    mounts:\n{mounts}"
    )
    config = folder / "plugind.yaml"
    config.write_text(
        "catalog: catalog.yaml\nsocket: {path: s}\nruntime_dir: run\nstate_dir: state\nlog_dir: log\n"
    )
    return config


class Bare:
    """A plugin that a loop of system calls stops and starts."""

    def __init__(self, folder: Path, argv: list[str], *, says_ready: bool) -> None:
        self._argv = argv
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if says_ready else None
        self._env = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        if self._notices is not None:
            path = folder / "notices"
            self._notices.bind(str(path))
            self._env["NOTIFY_SOCKET"] = str(path)
        self._pid = self._started()

    def _started(self) -> int:
        actions = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
        pid = os.posix_spawn(self._argv[0], self._argv, self._env, file_actions=actions, setsid=True)
        if self._notices is not None:
            self._notices.recv(64)
        return pid

    def replaced(self) -> float:
        """Seconds from the stop of the old one until the new one is ready."""
        began = time.perf_counter()
        self.end()
        self._pid = self._started()
        return time.perf_counter() - began

    def end(self) -> None:
        os.kill(self._pid, signal.SIGTERM)  # noqa: TID251 - our own child
        os.waitpid(self._pid, 0)


def down(path: Path, name: str) -> float:
    """Seconds that plugind says of a reload."""
    answer: Any = call(path, "POST", f"sys/plugins/reload/secret/{name}", {})
    return float(answer["data"]["mounts"][0]["down_seconds"])


def compare(path: Path, name: str, bare: Bare, rounds: int) -> None:
    own, ours = [], []
    for _ in range(rounds):
        own.append(bare.replaced())
        ours.append(down(path, name))
        threading.Event().wait(0.02)
    bare.end()
    above = [ours_ - own_ for ours_, own_ in zip(ours, own, strict=True)]
    said(
        f"down by a reload of {name}, {statistics.median(ours) * 1000:.2f} ms, "
        f"above the plugin's own stop and start, {statistics.median(own) * 1000:.2f} ms",
        above,
        DOWN,
    )


def wait(folder: Path, reloads: int, count: int) -> None:
    def reloading(name: str) -> Callable[[], None]:
        def work() -> None:
            for _ in range(reloads):
                down(folder / "s", name)
                threading.Event().wait(0.05)

        return work

    idle = threading.Event()
    first, last = Clients(folder / "first.sock"), Clients(folder / "last.sock")
    quiet = Clients(folder / "first.sock").during(lambda: idle.wait(2), count)
    print(f"{count} clients without a reload: {quiet}")
    first.during(reloading("first"), count)
    is_kept = not first.refused and max(first.waits) <= WAIT
    print(
        f"over {reloads} reloads with start_first: {first}, target 0 and 0: {'kept' if is_kept else 'MISSED'}"
    )
    print(f"over {reloads} reloads with stop_first: {last.during(reloading('last'), count)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--reloads", type=int, default=20)
    parser.add_argument("--clients", type=int, default=4)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="bench-"))
    folder.chmod(0o755)
    log = (folder / "daemon.log").open("w")
    daemon = subprocess.Popen([BIN / "plugind", "--config", prepare(folder)], stderr=log)
    try:
        while not all((folder / f"{name}.sock").exists() for name in ("first", "last")):
            threading.Event().wait(0.02)
        compare(folder / "s", "sleep", Bare(folder, [str(SLEEP), "1000"], says_ready=False), asked.rounds)
        compare(folder / "s", "slow", Bare(folder, [str(folder / "slow")], says_ready=True), asked.rounds)
        wait(folder, asked.reloads, asked.clients)
    finally:
        daemon.terminate()
        daemon.wait(60)
        log.close()
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
