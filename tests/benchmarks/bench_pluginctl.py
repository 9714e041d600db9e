"""How long `pluginctl status` takes at 100 mounts, against a canned daemon, beside `python3 -c pass`.

Run it: `.venv/bin/python tests/benchmarks/bench_pluginctl.py`. The promise is under 100 ms. The two are
interleaved, so that a busy machine slows both.
"""

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import perf_counter

MOUNTS = 100
ROUNDS = 15
PROMISE = 0.100


def answers() -> dict[str, bytes]:
    rows = [
        {
            "namespace": f"team-{number % 7}",
            "mount": f"auth/mock-{number}",
            "type": "auth",
            "plugin": "mock-plugin",
            "version": "v1.0.0",
            "pinned_version": "v1.1.0",
            "state": "ready",
            "pid": 1000 + number,
            "instance": "0123456789ab-1",
            "started_at": "2026-01-31T12:00:00Z",
            "ready_at": "2026-01-31T12:00:00Z",
            "restarts": number,
            "listen": [],
            "memory_bytes": 1 << 24,
        }
        for number in range(MOUNTS)
    ]
    return {
        "/v1/supervisor/instances": _http({"instances": rows}),
        "/v1/supervisor/status": _http({"node": "a"}),
    }


def _http(data: object) -> bytes:
    body = json.dumps({"request_id": "x", "data": data, "warnings": None}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def serve(listener: socket.socket) -> None:
    known = answers()
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, contextlib.suppress(OSError):
            connection.sendall(known[connection.recv(65536).split()[1].decode()])


def timed(command: list[str], environment: dict[str, str]) -> float:
    begin = perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return perf_counter() - begin


def main() -> int:
    pluginctl = str(Path(sys.executable).with_name("pluginctl"))
    commands = {
        "python3 -c pass": [sys.executable, "-c", "pass"],
        f"pluginctl status, {MOUNTS} mounts": [pluginctl, "status"],
        f"pluginctl status --json, {MOUNTS} mounts": [pluginctl, "status", "--json"],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = f"{folder}/control.sock"
        listener.bind(path)
        listener.listen()
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        # as installed: bytecode is there, written in the first round, which does not count
        environment = {**os.environ, "PLUGIND_SOCKET": path, "PYTHONPYCACHEPREFIX": f"{folder}/pyc"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for command in commands.values():
            timed(command, environment)
        for _ in range(ROUNDS):
            for name, command in commands.items():
                taken[name].append(timed(command, environment))
        listener.shutdown(socket.SHUT_RDWR)
        server.join()
    for name, seconds in taken.items():
        median, best = statistics.median(seconds) * 1000, min(seconds) * 1000
        sys.stdout.write(f"{name:36} median {median:6.1f} ms   best {best:6.1f} ms\n")
    worst = max(statistics.median(seconds) for seconds in taken.values())
    return 0 if worst < PROMISE else 1


if __name__ == "__main__":
    sys.exit(main())
