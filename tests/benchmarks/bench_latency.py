"""How soon a crash is made good, and what a reload of one mount costs above the plugin's own stop and start.

Crash: from the SIGKILL of a main process to the `instance_ready` of its successor in plugind's log, with a
backoff of 0 and a plugin that is ready by its exec. Reload: over a kept connection to the socket, against the
same plugin stopped and started by a bare loop, one of each in turn. Both among 100 mounts of /bin/sleep.
"""

import argparse
import hashlib
import http
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from bench_reload import BIN, SLEEP, Connection, bare_start, call

CRASH, RELOAD = 0.003, 0.005
"""Most seconds, as medians."""
APART = 0.02
"""Seconds between two: each alone."""


def prepare(folder: Path, count: int) -> Path:
    digest = hashlib.sha256(SLEEP.read_bytes()).hexdigest()
    mounts = "".join(f"      m{number}: {{plugin: secret/sleep}}\n" for number in range(count))
    (folder / "catalog.yaml").write_text(
        "plugins:\n  secret:\n    sleep:\n      pin: v1\n"
        "      restart: {backoff: 0s, max_backoff: 0s, burst: 100000}\n      versions:\n"
        f"        v1: {{command: {SLEEP}, sha256: {digest}, args: ['1000']}}\n"
        f"namespaces:\n  root:\n    mounts:\n{mounts}"
    )
    config = folder / "plugind.yaml"
    config.write_text(
        "catalog: catalog.yaml\nsocket: {path: s}\nruntime_dir: run\nstate_dir: state\nlog_dir: log\n"
        "restarts: {burst: 1000, per_second: 1000}\n"
    )
    return config


class Told:
    """What plugind's log says, as it comes."""

    def __init__(self, stream: IO[str]) -> None:
        self._ready: dict[str, dict[str, Any]] = {}
        self._count = 0
        self._came = threading.Condition()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            if '"instance_ready"' in line:
                entry = json.loads(line)
                with self._came:
                    self._ready[entry["mount"]] = entry
                    self._count += 1
                    self._came.notify_all()

    def wait_for(self, count: int) -> None:
        with self._came:
            assert self._came.wait_for(lambda: self._count >= count, 60)

    def successor(self, mount: str, pid: int) -> dict[str, Any]:
        """The event of the instance that came after `pid`."""
        with self._came:
            assert self._came.wait_for(lambda: self._ready[mount]["pid"] != pid, 10)
            return self._ready[mount]

    def pid(self, mount: str) -> int:
        with self._came:
            return int(self._ready[mount]["pid"])


def crashed(told: Told, mount: str) -> float:
    """Seconds from the death of its process to the next one."""
    pid = told.pid(mount)
    handle = os.pidfd_open(pid)
    before = time.time()  # noqa: TID251 - the log has wall-clock times
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    entry = told.successor(mount, pid)
    os.close(handle)
    return datetime.fromisoformat(entry["timestamp"]).timestamp() - before


def replaced(pid: int) -> tuple[float, int]:
    """Seconds of a bare stop and start, and the new pid."""
    began = time.perf_counter()
    os.kill(pid, signal.SIGTERM)  # noqa: TID251 - our own child
    os.waitpid(pid, 0)
    (new,) = bare_start(1)
    return time.perf_counter() - began, new


def reloaded(connection: Connection, mount: str) -> float:
    began = time.perf_counter()
    connection.request("POST", "/v1/sys/plugins/reload/backend", json.dumps({"mounts": [mount]}))
    response = connection.getresponse()
    response.read()
    if response.status != http.HTTPStatus.OK:
        raise SystemExit(f"reload: {response.status}")
    return time.perf_counter() - began


def said(name: str, seconds: list[float], target: float) -> bool:
    median, most = statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]
    is_kept = median < target
    print(
        f"{name}: median {median * 1000:.2f} ms, p99 {most * 1000:.2f} ms, "
        f"target under {target * 1000:.0f} ms: {'kept' if is_kept else 'MISSED'}"
    )
    return is_kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mounts", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=300)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="bench-"))
    folder.chmod(0o755)
    command = [BIN / "plugind", "--config", prepare(folder, asked.mounts)]
    daemon = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    (bare,) = bare_start(1)
    crashes, reloads, alone = [], [], []
    try:
        assert daemon.stderr is not None
        told = Told(daemon.stderr)
        told.wait_for(asked.mounts)
        call(folder / "s", "GET", "sys/health")
        connection = Connection(folder / "s")
        for number in range(asked.rounds):
            crashes.append(crashed(told, f"m{number % asked.mounts}"))
            threading.Event().wait(APART)
            reloads.append(reloaded(connection, f"m{(number + 1) % asked.mounts}"))
            took, bare = replaced(bare)
            alone.append(took)
            threading.Event().wait(APART)
        connection.close()
    finally:
        daemon.terminate()
        daemon.wait(60)
        os.kill(bare, signal.SIGKILL)  # noqa: TID251 - our own child
        os.waitpid(bare, 0)
        shutil.rmtree(folder)
    said("crash to the next instance, backoff 0", crashes, CRASH)
    above = [reload - own for reload, own in zip(reloads, alone, strict=True)]
    said(
        f"reload of one mount, {statistics.median(reloads) * 1000:.2f} ms, "
        f"above the plugin's own {statistics.median(alone) * 1000:.2f} ms",
        above,
        RELOAD,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
