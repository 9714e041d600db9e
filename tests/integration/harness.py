"""A real plugind under test: its own folders, its own socket, ended by pid, nothing left behind."""

import ctypes
import functools
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DEADLINE = 20.0


def processes_below(folder: Path) -> dict[int, str]:
    """Living processes whose TMPDIR lies below `folder`: the plugins that a plugind there started."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - names only
        if name.isdigit():
            try:
                environ = Path(f"/proc/{name}/environ").read_bytes()
                state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if f"TMPDIR={folder}".encode() in environ and state != "Z":
                found[int(name)] = environ.decode(errors="replace").replace("\0", " ")
    return found


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DEADLINE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass
class Answer:
    status: int
    body: Any
    headers: dict[str, str]

    @property
    def data(self) -> Any:
        assert "data" in (self.body or {}), (self.status, self.body)
        return self.body["data"]

    @property
    def error(self) -> str:
        return "\n".join(self.body["errors"])


@dataclass
class Plugind:
    """One daemon and its folders."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    log: list[dict[str, Any]] = field(default_factory=list)
    _told: threading.Condition = field(default_factory=threading.Condition)
    _reader: threading.Thread | None = None
    _closed: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.socket = self.folder / "control.sock"
        self.catalog = self.folder / "catalog.yaml"
        self.config = self.folder / "plugind.yaml"
        self.logs = self.folder / "log"
        self.settings()

    # --- files

    def settings(self, more: str = "") -> None:
        self.config.write_text(
            f"catalog: {self.catalog}\nnode: test\nsocket: {{path: {self.socket}}}\n"
            f"runtime_dir: {self.folder}/run\nstate_dir: {self.folder}/state\nlog_dir: {self.logs}\n{more}"
        )

    def plugin(self, name: str, text: str) -> Path:
        """An executable script."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def write(
        self, versions: dict[str, Any], mounts: dict[str, dict[str, str]], pin: str, settings: str = ""
    ) -> None:
        """A catalog of one plugin, auth/mock: versions by name -> (path, args), mounts by namespace."""
        lines = ["plugins:", "  auth:", "    mock:", f"      pin: {pin}", "      versions:"]
        for version, (path, args) in versions.items():
            digest = hashlib.sha256(Path(path).resolve().read_bytes()).hexdigest()
            lines.append(
                f"        {version}: {{command: {path}, sha256: {digest}, args: {json.dumps(args)}}}"
            )
        lines += [f"      {line}" for line in settings.splitlines()]
        lines.append("namespaces:")
        for namespace, paths in mounts.items():
            lines += [f"  {namespace}:", "    mounts:"]
            lines += [f"      {path}: {what}" for path, what in paths.items()]
        self.catalog.write_text("\n".join(lines) + "\n")

    def edit(self, old: str, new: str) -> None:
        text = self.catalog.read_text()
        assert old in text
        self.catalog.write_text(text.replace(old, new, 1))

    # --- life

    def start(self, *, ready: bool = True, within: Sequence[str] = ()) -> "Plugind":
        """Run it; `within` is a command that ends by running what follows it, such as env."""
        seen = len(self.log)
        self.process = subprocess.Popen(
            [*within, BIN / "plugind", "--config", self.config],
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        self._closed.discard(id(self.process.stderr))
        self._reader = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
        self._reader.start()
        self.saw("daemon_started", since=seen)
        if ready:
            self.until(lambda: all(row["state"] == "ready" for row in self.rows().values()))
        return self

    def _read(self, stream: Any) -> None:
        with stream:
            for line in stream:
                try:
                    entry = json.loads(line)
                except ValueError:
                    entry = {"event": "stderr", "text": line.decode(errors="replace")}
                with self._told:
                    self.log.append(entry)
                    self._told.notify_all()
        with self._told:
            self._closed.add(id(stream))
            self._told.notify_all()

    def saw(self, event: str, since: int = 0, **fields: Any) -> dict[str, Any]:
        """Wait for a log event with these fields."""

        def found() -> dict[str, Any] | None:
            for entry in self.log[since:]:
                if entry["event"] == event and all(
                    entry.get(name) == value for name, value in fields.items()
                ):
                    return entry
            return None

        with self._told:
            stream = id(self.process.stderr) if self.process else 0
            ended = self._told.wait_for(lambda: found() or stream in self._closed, DEADLINE)
            hit = found()
        assert hit is not None, (
            event,
            fields,
            "no such event",
            "ended" if ended else "in time",
            self.log[-20:],
        )
        return hit

    def until(self, holds: Callable[[], bool], seconds: float = DEADLINE) -> None:
        """Ask again until it holds: for facts that no event tells."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, ("never true", self.log[-10:])
            threading.Event().wait(0.01)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(DEADLINE)

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(DEADLINE)
        if self._reader is not None:
            self._reader.join(DEADLINE)
        return status

    # --- talking to it

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        namespace: str = "",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        connection = UnixConnection(self.socket)
        try:
            sent = {"X-Vault-Namespace": namespace} if namespace else {}
            data = None if body is None else json.dumps(body)
            connection.request(method, f"/v1/{path}", data, sent | (headers or {}))
            response = connection.getresponse()
            text = response.read()
            return Answer(response.status, json.loads(text) if text else None, dict(response.headers))
        finally:
            connection.close()

    def rows(self) -> dict[str, dict[str, Any]]:
        """Instances by `namespace:mount`."""
        rows = self.call("GET", "supervisor/instances").data["instances"]
        return {f"{row['namespace']}:{row['mount']}": row for row in rows}

    def pids(self) -> dict[str, int]:
        return {name: row["pid"] for name, row in self.rows().items()}

    def reload(self, name: str = "mock", **body: Any) -> Answer:
        return self.call("POST", f"sys/plugins/reload/auth/{name}", body)

    def living(self) -> set[int]:
        return set(processes_below(self.folder))


@functools.cache
def may_take_descriptors() -> bool:
    """Whether pidfd_getfd(2) takes one out of a process that is not below this one: tried with one.

    Yama does not let a normal user, nor the system call filter of some containers anybody.
    """
    script = "sleep 1000 > /dev/null 2>&1 & echo $!"
    pid = int(subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout)
    handle = os.pidfd_open(pid)
    try:
        taken = int(ctypes.CDLL(None).syscall(438, handle, 0, 0))
        if taken >= 0:
            os.close(taken)
        return taken >= 0
    finally:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)


def send(pid: int, number: int = signal.SIGKILL) -> None:
    """Signal a process without kill(1), which a bare Debian lacks."""
    handle = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
