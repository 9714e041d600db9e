"""Start and reload of 400 mounts of /bin/sleep through the socket, against bare loops of the system calls.

Side by side in one run, interleaved, medians; what counts is the ratio. The bare loops are posix_spawn, a
signal and waitpid one after the other, in C (`bare.c`, where there is a compiler) and in Python, and keep no
promise at all. The targets are those beside the loop in C: reload 1.5, first start 1.8.
"""

import argparse
import ctypes
import hashlib
import http.client
import json
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
from pathlib import Path
from typing import TextIO

BIN = Path(sys.executable).parent
SLEEP = Path("/bin/sleep").resolve()
TARGETS = {"start": 1.8, "reload": 1.5}
"""Most times what the loop in C takes."""
PATIENCE = 600


def bare_start(count: int) -> list[int]:
    actions = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
    return [
        os.posix_spawn(SLEEP, ["sleep", "1000"], {}, file_actions=actions, setsid=True) for _ in range(count)
    ]


def bare_stop(pids: list[int]) -> None:
    for pid in pids:
        handle = os.pidfd_open(pid)
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)
        os.waitpid(pid, 0)


def compiled(folder: Path) -> Path | None:
    """The loop in C, or None where there is no compiler."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return None
    program = folder / "bare"
    subprocess.run([compiler, "-O2", "-o", program, Path(__file__).with_name("bare.c")], check=True)
    return program


def bare_in_c(program: Path, count: int) -> tuple[float, float]:
    """Seconds to start `count`, and to replace them."""
    done = subprocess.run([program, SLEEP, str(count)], stdout=subprocess.PIPE, text=True, check=True)
    started, replaced = map(float, done.stdout.split())
    return started, replaced


def bare(count: int) -> tuple[float, float]:
    """Seconds to start `count`, and to replace them."""
    began = time.perf_counter()
    pids = bare_start(count)
    started = time.perf_counter()
    for place, pid in enumerate(pids):
        bare_stop([pid])
        pids[place] = bare_start(1)[0]
    reloaded = time.perf_counter()
    bare_stop(pids)
    return started - began, reloaded - started


class Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


def call(path: Path, method: str, url: str, body: object = None) -> dict[str, object]:
    connection = Connection(path)
    connection.request(method, f"/v1/{url}", json.dumps(body) if body is not None else None)
    response = connection.getresponse()
    answer: dict[str, object] = json.loads(response.read())
    connection.close()
    if response.status != http.HTTPStatus.OK:
        raise SystemExit(f"{url}: {response.status} {str(answer)[:300]}")
    return answer


def prepare(folder: Path, count: int) -> Path:
    digest = hashlib.sha256(SLEEP.read_bytes()).hexdigest()
    mounts = "".join(f"      m{number}: {{plugin: secret/sleep}}\n" for number in range(count))
    (folder / "catalog.yaml").write_text(
        "plugins:\n  secret:\n    sleep:\n      pin: v1\n      versions:\n"
        f"        v1: {{command: {SLEEP}, sha256: {digest}, args: ['1000']}}\n"
        f"namespaces:\n  root:\n    mounts:\n{mounts}"
    )
    config = folder / "plugind.yaml"
    config.write_text(
        "catalog: catalog.yaml\nsocket: {path: s}\nruntime_dir: run\nstate_dir: state\nlog_dir: log\n"
    )
    return config


class Ready:
    """When the last of `count` mounts was ready, by the daemon's log."""

    def __init__(self, stream: TextIO, count: int) -> None:
        self.all = threading.Event()
        self.at = 0.0
        self._left = count
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: TextIO) -> None:
        for line in stream:
            if '"instance_ready"' in line:
                self._left -= 1
                if not self._left:
                    self.at = time.perf_counter()
                    self.all.set()


def plugind(count: int) -> tuple[float, float, float, float]:
    """Seconds to start, to reload, and plugind's CPU seconds for both, the reload last."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="bench-"))
    folder.chmod(0o755)
    path = folder / "s"
    process = subprocess.Popen(
        [BIN / "plugind", "--config", prepare(folder, count)], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        while json.loads(process.stderr.readline())["event"] != "catalog_loaded":
            pass
        began, before = time.perf_counter(), cpu(process.pid)
        ready = Ready(process.stderr, count)
        assert ready.all.wait(PATIENCE)
        started = ready.at - began
        to_start, before = cpu(process.pid) - before, cpu(process.pid)
        began = time.perf_counter()
        call(path, "POST", "sys/plugins/reload/secret/sleep", {"timeout": f"{PATIENCE}s"})
        reloaded = time.perf_counter() - began
        return started, reloaded, to_start, cpu(process.pid) - before
    finally:
        process.terminate()
        process.wait(PATIENCE)
        shutil.rmtree(folder)


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mounts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    loops: dict[str, list[tuple[float, float]]] = {"a bare loop in C": [], "a bare loop in Python": []}
    daemons = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        program = compiled(Path(folder))
        for _ in range(asked.rounds):
            if program is not None:
                loops["a bare loop in C"].append(bare_in_c(program, asked.mounts))
            loops["a bare loop in Python"].append(bare(asked.mounts))
            daemons.append(plugind(asked.mounts))
    if program is None:
        del loops["a bare loop in C"]
        print("no C compiler is here (cc): the loop in C, whose ratios have targets, is left out")
    for place, name in enumerate(TARGETS):
        ours = statistics.median(daemon[place] for daemon in daemons)
        print(f"{name} of {asked.mounts} by plugind: {ours:.3f} s")
        for what, times in loops.items():
            ratios = [daemon[place] / loop[place] for loop, daemon in zip(times, daemons, strict=True)]
            yardstick, ratio = statistics.median(loop[place] for loop in times), statistics.median(ratios)
            line = f"  {what}: {yardstick:.3f} s, ratio {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            if what.endswith("C"):
                line += f", target {TARGETS[name]}: {'kept' if ratio <= TARGETS[name] else 'MISSED'}"
            print(line)
    spent = statistics.median(daemon[3] for daemon in daemons)
    print(f"plugind's CPU for the reload: {spent:.2f} s, {spent / asked.mounts * 1000:.2f} ms a mount")


if __name__ == "__main__":
    main()
