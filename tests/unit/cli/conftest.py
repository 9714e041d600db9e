"""A daemon that knows its lines: a Unix socket on a thread that replays canned answers."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from supervisor.cli.main import main


@dataclass
class Asked:
    method: str
    target: str
    headers: dict[str, str]
    body: object


@dataclass
class CannedDaemon:
    """Answers by method and target; several for one are given in turn, the last one from then on."""

    path: str
    answers: dict[str, list[bytes]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    listener: socket.socket = field(default_factory=lambda: socket.socket(socket.AF_UNIX))

    def answer(self, request: str, data: object = None, *, status: int = 200, **more: object) -> None:
        body = {"errors": more["errors"]} if "errors" in more else {"warnings": None}
        self.raw(request, http({**body, "data": data, **more}, status))

    def raw(self, request: str, answer: bytes) -> None:
        self.answers.setdefault(request, []).append(answer)

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                self._serve_one(connection)

    def _serve_one(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            first = file.readline().decode()
            method, target, _ = first.split(" ", 2)
            headers: dict[str, str] = {}
            while line := file.readline().strip().decode():
                name, _, value = line.partition(": ")
                headers[name] = value
            body = file.read(int(headers.get("Content-Length", "0")))
        target = target.removeprefix("/v1/")
        self.asked.append(Asked(method, target, headers, json.loads(body) if body else None))
        known = self.answers.get(f"{method} {target}") or [http({"errors": ["unsupported path"]}, 404)]
        connection.sendall(known.pop(0) if len(known) > 1 else known[0])


def http(document: object, status: int = 200) -> bytes:
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status} Word\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CannedDaemon]:
    canned = CannedDaemon(str(tmp_path / "c.sock"))
    canned.listener.bind(canned.path)
    canned.listener.listen()
    monkeypatch.setenv("PLUGIND_SOCKET", canned.path)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    thread = threading.Thread(target=canned.serve)
    thread.start()
    yield canned
    canned.listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    canned.listener.close()


@dataclass
class Outcome:
    status: int
    out: str
    err: str


class Pluginctl:
    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, *arguments: str) -> Outcome:
        status = main(arguments)
        captured = self._capfd.readouterr()
        return Outcome(status, captured.out, captured.err)


@pytest.fixture
def pluginctl(capfd: pytest.CaptureFixture[str]) -> Pluginctl:
    return Pluginctl(capfd)
