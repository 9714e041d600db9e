"""One HTTP/1.1 exchange with the daemon's Unix socket, and what can go wrong with it, in words.

Written out because http.client costs 17 ms of start-up, and `pluginctl` is run by people who wait.
Decided here: where the socket is, and which answers are no answers. What an answer means is the
business of the commands.
"""

import errno
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from typing import Final

import click

SYSTEM_SOCKET: Final = "/run/plugind/control.sock"
QUICK: Final = 30.0
"""Seconds without a byte after which the daemon counts as stuck."""
LONG: Final = 90.0
"""The same while mounts are replaced: the daemon answers 202 after 50 s of waiting."""
_LONGEST_LINE: Final = 64 * 1024
_MOST_HEADERS: Final = 200
_LARGEST_BODY: Final = 256 << 20
_PIECE: Final = 64 * 1024
_LONGEST_SOCKET_PATH: Final = 107
_UNQUOTED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class NotReachable(click.ClickException):
    """No daemon, or something else, is at the other end. What was asked may not have happened."""

    exit_code = 3


class Refused(click.ClickException):
    """The daemon refused; it touched no process."""

    exit_code = 2

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """What the daemon said. An error status comes with `data` where processes were touched."""

    status: int
    data: dict[str, object]
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


def default_socket(uid: int, environment: Mapping[str, str]) -> str:
    """The user's own plugind where there is one, else the system's; both where files/settings.py has them."""
    named = environment.get("PLUGIND_SOCKET")
    if named:
        return named
    if uid == 0:
        return SYSTEM_SOCKET
    runtime = environment.get("XDG_RUNTIME_DIR")
    state = environment.get("XDG_STATE_HOME") or f"{environment.get('HOME', '')}/.local/state"
    own = f"{runtime}/plugind/control.sock" if runtime else f"{state}/plugind/run/control.sock"
    return SYSTEM_SOCKET if not os.path.exists(own) and os.path.exists(SYSTEM_SOCKET) else own  # noqa: PTH110 - pathlib is 5 ms


def quoted(text: str) -> str:
    """`text` as one segment of a URL, or one value of its query."""
    return "".join(chr(byte) if byte in _UNQUOTED else f"%{byte:02X}" for byte in text.encode())


def quoted_path(text: str) -> str:
    return "/".join(map(quoted, text.split("/")))


class Daemon:
    """The plugind behind one socket, asked from one namespace."""

    def __init__(self, path: str, namespace: str = "") -> None:
        self.path = path.removeprefix("unix://")
        self.namespace = namespace

    def ask(
        self,
        method: str,
        target: str,
        body: Mapping[str, object] | None = None,
        *,
        quiet_for: float = QUICK,
    ) -> Answer:
        """The daemon's answer, also where mounts failed (an error status with data).

        Raises:
            NotReachable: There was no whole answer; what was asked may have been done.
            Refused: An error status without data.
        """
        with self._exchange(method, target, body, {}, quiet_for) as reply:
            return self._understood(reply.status, reply.body())

    @contextmanager
    def stream(self, target: str, headers: Mapping[str, str] | None = None) -> Iterator[Iterator[bytes]]:
        """Pieces of a body as they come, without a limit of time.

        Raises:
            NotReachable: Also from the iterator, when the stream breaks off.
            Refused: An error status.
        """
        with self._exchange("GET", target, None, headers or {}, None) as reply:
            if reply.status >= 400:  # noqa: PLR2004 - HTTP
                self._understood(reply.status, reply.body())
            try:
                yield reply.pieces()
            except NotReachable as error:
                raise NotReachable(
                    f"cannot go on: the stream from {self.path} broke off; "
                    "plugind has ended, or it has dropped a reader that was too slow"
                ) from error

    @contextmanager
    def _exchange(
        self,
        method: str,
        target: str,
        body: Mapping[str, object] | None,
        headers: Mapping[str, str],
        quiet_for: float | None,
    ) -> Iterator["_Reply"]:
        payload = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} /v1/{target} HTTP/1.1", "Host: plugind", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if self.namespace:
            lines.append(f"X-Vault-Namespace: {self.namespace}")
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(payload)}"]
        head = "\r\n".join([*lines, "", ""]).encode()
        with self._connected(quiet_for) as connection, connection.makefile("rb") as file:
            try:
                connection.sendall(head + payload)
            except BrokenPipeError:
                pass  # it may have answered before it read everything (413)
            except OSError as error:
                raise self._broken(f"it does not take the request ({_why(error)})") from error
            yield _Reply(self, file)

    def _connected(self, quiet_for: float | None) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        folder = -1
        try:
            connection.settimeout(quiet_for)
            path = self.path
            if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
                # the kernel's limit is on the text, not on the place
                parent, _, name = path.rpartition("/")
                folder = os.open(parent or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                path = f"/proc/self/fd/{folder}/{name}"
            connection.connect(path)
        except (OSError, ValueError) as error:
            connection.close()
            raise NotReachable(f"cannot reach plugind at {self.path}: {self._why_not(error)}") from error
        finally:
            if folder >= 0:
                os.close(folder)
        return connection

    def _why_not(self, error: OSError | ValueError) -> str:
        match error:
            case PermissionError():
                return f"permission denied{self._who_may()}"
            case ConnectionRefusedError():
                return f"nobody listens there; {_REMEDY}"
            case OSError(errno=errno.EAGAIN) | TimeoutError():
                return "it accepts no connection; the daemon is stuck or overloaded"
            case OSError():
                return f"{_why(error)}; {_REMEDY}"
            case _:
                return "this cannot be the path of a socket; pass --socket PATH"

    def _who_may(self) -> str:
        """The remedy, with the socket's group where that can be seen."""
        import grp  # noqa: PLC0415 - only for this message

        try:
            group = grp.getgrgid(os.stat(self.path).st_gid).gr_name  # noqa: PTH116 - pathlib is 5 ms
        except (OSError, KeyError):
            return "; try it with sudo, or as a member of the socket's group"
        return f"; try it with sudo, or as a member of the group {group}"

    def _understood(self, status: int, body: bytes) -> Answer:
        try:
            document = json.loads(body) if body else {}
        except (ValueError, RecursionError) as error:
            raise self._broken("it is no JSON") from error
        if not isinstance(document, dict):
            raise self._broken("it is no JSON object")
        data = document.get("data")
        if data is not None and not isinstance(data, dict):
            raise self._broken("its data is no JSON object")
        errors = _strings(document.get("errors"))
        if status >= 400 and not data:  # noqa: PLR2004 - HTTP
            raise Refused("\n".join(errors) or f"plugind answered {status} without a reason", status)
        return Answer(status, data or {}, _strings(document.get("warnings")), errors)

    def _broken(self, why: str) -> NotReachable:
        return NotReachable(
            f"cannot use the answer from {self.path}: {why}; "
            "is that plugind's socket? What was asked may have been done: see pluginctl history"
        )


class _Reply:
    """One answer: its status at once, its body in pieces."""

    def __init__(self, daemon: Daemon, file: BufferedReader) -> None:
        self._daemon = daemon
        self._file = file
        self.status, self._headers = self._head()
        while self.status < 200:  # noqa: PLR2004 - HTTP: 100 Continue
            self.status, self._headers = self._head()

    def body(self) -> bytes:
        pieces: list[bytes] = []
        size = 0
        for piece in self.pieces():
            size += len(piece)
            if size > _LARGEST_BODY:
                raise self._bad("it does not end")
            pieces.append(piece)
        return b"".join(pieces)

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes, without the framing."""
        length = self._headers.get("content-length", "")
        if self.status in {204, 304}:
            return
        if self._headers.get("transfer-encoding", "").lower() == "chunked":
            yield from self._chunks()
        elif length:
            if not (length.isascii() and length.isdigit()):
                raise self._bad("it is no HTTP")
            yield from self._exactly(int(length))
        else:
            while piece := self._some(_PIECE):
                yield piece

    def _chunks(self) -> Iterator[bytes]:
        while True:
            size = self._line().split(b";")[0].strip()
            try:
                left = int(size, 16)
            except ValueError:
                left = -1
            if left < 0:
                raise self._bad("it is no HTTP")
            if left == 0:
                while self._line():
                    pass
                return
            yield from self._exactly(left)
            self._line()

    def _exactly(self, left: int) -> Iterator[bytes]:
        while left:
            piece = self._some(min(left, _PIECE))
            if not piece:
                raise self._bad("it ended in the middle")
            left -= len(piece)
            yield piece

    def _head(self) -> tuple[int, dict[str, str]]:
        first = self._line(may_end=True)
        version, _, rest = first.partition(b" ")
        code = rest[:3].decode("latin-1")
        if not (version.startswith(b"HTTP/1.") and code.isascii() and code.isdigit() and len(code) == 3):  # noqa: PLR2004 - HTTP
            raise self._bad("it is no HTTP" if first else "the connection was closed without one")
        headers: dict[str, str] = {}
        for _ in range(_MOST_HEADERS):
            line = self._line()
            if not line:
                return int(code), headers
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        raise self._bad("it is no HTTP")

    def _line(self, *, may_end: bool = False) -> bytes:
        try:
            line = self._file.readline(_LONGEST_LINE)
        except OSError as error:
            raise self._bad(_why(error)) from error
        if not line.endswith(b"\n") and not (may_end and not line):
            raise self._bad("it is no HTTP" if may_end else "it ended in the middle")
        return line.rstrip(b"\r\n")

    def _some(self, most: int) -> bytes:
        try:
            return self._file.read1(most)
        except OSError as error:
            raise self._bad(_why(error)) from error

    def _bad(self, why: str) -> NotReachable:
        return self._daemon._broken(why)  # noqa: SLF001 - one module


_REMEDY: Final = "is plugind running? Try systemctl status plugind, or pass --socket PATH"


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "nothing came in time; the daemon is stuck or overloaded"
    return os.strerror(error.errno).lower() if error.errno else str(error)


def _strings(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()
