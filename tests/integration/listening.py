"""A plugin that serves what it is handed, one connection after the other, and clients of it."""

import itertools
import json
import os
import random
import socket
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Final, Self

from harness import DEADLINE, Answer, Plugind

PLUGIN: Final = f"""#!{sys.executable} -IS
import json, os, select, signal, socket, sys
ending = []
reads, writes = os.pipe2(os.O_NONBLOCK)
signal.set_wakeup_fd(writes)
signal.signal(signal.SIGTERM, lambda *_: ending.append(1))
told = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "PLUGIND_VERSION")
who = {{name: os.environ.get(name) for name in told}}
fds = range(3, 3 + int(who["LISTEN_FDS"] or 0))
who |= {{"pid": os.getpid(), "blocking": [os.get_blocking(fd) for fd in fds]}}
found = {{int(fd) for fd in os.listdir("/proc/self/fd")}} - {{reads, writes}}
who["descriptors"] = sorted(found)[:-1]
served = {{fd: socket.socket(fileno=fd) for fd in fds}}
if "--shy" in sys.argv:
    import ctypes
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
if "--narrow" in sys.argv:
    for sock in served.values():
        sock.listen(0)
if "--deaf" in sys.argv:
    for sock in served.values():
        sock.close()
    signal.pause()
if "--bad" in sys.argv:
    sys.exit(3)
if "NOTIFY_SOCKET" in os.environ:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
while not ending:
    for fd in select.select([reads, *served], [], [])[0]:
        if fd not in served or ending:
            continue
        sock = served[fd]
        if sock.type == socket.SOCK_DGRAM:
            asked, address = sock.recvfrom(100)
            sock.sendto(json.dumps(who | {{"fd": fd}}).encode(), address)
            continue
        connection, _ = sock.accept()
        with connection:
            asked = connection.recv(100)
            connection.sendall(json.dumps(who | {{"fd": fd}}).encode() + b"\\n")
        if asked == b"crash":
            os.kill(os.getpid(), signal.SIGKILL)
if "--shutting" in sys.argv:
    for sock in served.values():
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # of UDP it is told that nobody is connected, and done
            pass
"""
_NUMBERS: Final = itertools.count(os.getpid() % 1000)


def an_address() -> str:
    """Of this machine, and of nobody else's test."""
    number = next(_NUMBERS)
    second, port = random.randint(2, 250), random.randint(7000, 7999)  # noqa: S311 - no secret
    return f"127.{second}.{number // 250 % 250}.{number % 250 + 1}:{port}"


def connected(address: str, timeout: float = DEADLINE) -> socket.socket:
    if address.startswith(("/", "@")):
        sock = socket.socket(socket.AF_UNIX)
        where: Any = address.replace("@", "\0", 1)
    else:
        host, _, port = address.rpartition(":")
        sock = socket.socket(socket.AF_INET6 if host.startswith("[") else socket.AF_INET)
        where = (host.strip("[]"), int(port))
    sock.settimeout(timeout)
    try:
        sock.connect(where)
    except OSError:
        sock.close()
        raise
    return sock


def heard(sock: socket.socket) -> dict[str, Any]:
    """The whole answer, to the end of the connection."""
    with sock, sock.makefile("rb") as answer:
        told: dict[str, Any] = json.loads(answer.read())
        return told


def ask(address: str, what: bytes = b"who") -> dict[str, Any]:
    sock = connected(address)
    sock.sendall(what)
    return heard(sock)


def is_refused(address: str) -> bool:
    try:
        connected(address).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False


class Clients:
    """Some that connect without pause, each waiting for its whole answer; what went wrong is kept."""

    def __init__(self, address: str, count: int = 8) -> None:
        self.wrong: list[str] = []
        self.served: Counter[int] = Counter()
        """Connections by the pid that answered."""
        self._address = address
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(DEADLINE)

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.served[ask(self._address)["pid"]] += 1
            except (OSError, ValueError) as error:
                self.wrong.append(repr(error))


def catalog(plugind: Plugind, mounts: dict[str, str], settings: str = "", pin: str = "v1") -> None:
    """A catalog whose mounts listen on these lists, an empty one on nothing.

    Of its versions `bad` ends at once, `narrow` has room for one that waits, `deaf` closes what it got, `shy`
    lets nobody trace it, and `shutting` shuts down what it got before it ends.
    """
    path = plugind.folder / "listener"
    if not path.exists():
        plugind.plugin("listener", PLUGIN)
    versions = {"v1": (path, []), "v2": (path, ["2"]), "bad": (path, ["--bad"]), "deaf": (path, ["--deaf"])}
    versions |= {"shy": (path, ["--shy"]), "shutting": (path, ["--shutting"]), "narrow": (path, ["--narrow"])}
    brief = {"reload": "{watch: 0s}", "restart": "{backoff: 10ms, burst: 1000}"}
    lines = [f"{key}: {value}" for key, value in brief.items() if f"{key}:" not in settings]
    written = {name: f"{{plugin: auth/mock, {_keys(listen)}}}" for name, listen in mounts.items()}
    plugind.write(versions, {"root": written}, pin, "\n".join([*lines, *settings.splitlines()]))


def _keys(listen: str) -> str:
    return listen if ":" in listen.partition("[")[0] else f"listen: {listen or '[]'}"


def applied(plugind: Plugind) -> Answer:
    return plugind.call("POST", "supervisor/apply", {})


def runs(plugind: Plugind, mounts: dict[str, str], settings: str = "") -> dict[str, int]:
    """Such a catalog, in force; the pids of its mounts."""
    catalog(plugind, mounts, settings)
    if plugind.process is None:
        plugind.start()
    else:
        answer = applied(plugind)
        assert answer.status == 200, answer.body
    return plugind.pids()


def descriptors(pid: int) -> dict[int, str]:
    """What a process has open."""
    found: dict[int, str] = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(link.name)] = str(link.readlink())
        except FileNotFoundError:
            continue
    return found
