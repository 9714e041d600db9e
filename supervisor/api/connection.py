"""One HTTP connection: what aiohttp's RequestHandler leaves open about slow, odd and leaving clients.

Its parser is replaced by the pure one (the C one refuses LIST), headers and unread answers get
timers, a client that half-closes still gets its answer, and errors of the protocol are JSON.
"""

import asyncio
import dataclasses
import os
import select
import socket
import struct
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import structlog
from aiohttp.http_parser import HttpRequestParserPy
from aiohttp.web_protocol import MAX_MSG_QUEUE_SIZE, RequestHandler, RequestPayloadError
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse

from supervisor.domain.access import Caller
from supervisor.domain.legacy import HandedConnection
from supervisor.domain.names import Seconds, shortened

if TYPE_CHECKING:
    from aiohttp.web_server import Server as HttpServer

log = structlog.get_logger()

JSON_HEADERS: Final = {"Content-Type": "application/json", "Cache-Control": "no-store", "Server": "plugind"}
_BUFFER: Final = 1 << 16
_LINE: Final = 8190
_HEADERS: Final = 64
_NOT_YET: Final[Seconds] = 0.05


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a client may take, and how much it may send."""

    headers: Seconds = 10.0
    body: Seconds = 10.0
    unread: Seconds = 10.0
    """An answer that nobody reads: then the connection is cut."""
    idle: Seconds = 90.0
    """Between requests; more than the 75 s that nginx keeps its connections."""
    heartbeat: Seconds = 15.0
    patience: Seconds = 50.0
    """Before a reload is answered 202: `bao` gives up at 60."""
    connections: int = 500
    """At most; where descriptors are few, a quarter of them. The one that waits longest makes room."""
    recheck: Seconds = 2.0
    """Between looks at whether the socket's path is still ours."""
    body_bytes: int = 1 << 20


def error_body(*messages: str) -> bytes:
    return msgspec.json.encode({"errors": list(messages)})


class Connection(RequestHandler):
    def __init__(
        self, manager: "HttpServer", *, loop: asyncio.AbstractEventLoop, limits: Limits, begin: bytes = b""
    ) -> None:
        """`begin` was sent before this connection was taken over, and was not understood yet."""
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=limits.idle,
            access_log=None,  # type: ignore[arg-type] # aiohttp's own way to say none
            max_line_size=_LINE,
            max_field_size=_LINE,
            max_headers=_HEADERS,
            # long enough for a client to see its 413, too short to be worth a flood
            lingering_time=min(1.0, limits.body),
            auto_decompress=False,
        )
        self._parser = HttpRequestParserPy(
            self,
            loop,
            _BUFFER,
            max_line_size=_LINE,
            max_field_size=_LINE,
            max_headers=_HEADERS,
            payload_exception=RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=MAX_MSG_QUEUE_SIZE,
        )
        self.limits = limits
        self.peer = Caller()
        self.is_streaming = False
        self.lost = asyncio.Event()
        self._waits_since = loop.time()
        self._own: asyncio.Transport | None = None
        self._headers_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._is_half_closed = False
        self._begin = begin
        self.is_leaving = False
        """It is closed after the answer under way, and that says so."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._own = cast("asyncio.Transport", transport)
        self.peer = peer_of(transport)
        self._headers_timer = self._loop.call_later(self.limits.headers, self._headers_are_late)
        super().connection_made(transport)
        self._loop.call_soon(self._read_on)
        if self._begin:
            self.data_received(self._begin)

    def _read_on(self) -> None:
        """Read, also where the loop was refused the means for it: nobody else tries that again."""
        own = self._own
        if own is None or own.is_closing() or not own.is_reading():
            return
        own.pause_reading()
        try:
            own.resume_reading()
        except OSError:
            self._loop.call_later(_NOT_YET, self._read_on)

    def connection_lost(self, exc: BaseException | None) -> None:
        handler = self._task_handler
        for timer in (self._headers_timer, self._unread_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        self.lost.set()
        if self.is_streaming and handler is not None:
            handler.cancel()  # only streams: a reload goes on without its client

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except Exception as error:  # noqa: BLE001 - the edge; e.g. int() of a Content-Length of 8,000 digits
            log.info("request_unreadable", error=shortened(repr(error)))
            self._say_and_close(400, "cannot read the request: it is not HTTP/1.1")
            return
        self._watch_headers()

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio's own is bool | None
        """Keep the way to the client open while something is left to answer."""
        self._is_half_closed = True
        parser = self._parser
        if parser is None or self._own is None or self._own.get_extra_info("sslcontext") is not None:
            return False  # TLS has no half-closed state
        unfinished = parser._payload_parser  # noqa: SLF001
        if unfinished is not None:
            unfinished.payload.set_exception(RequestPayloadError("the body ends early"))
        if self.is_streaming and (self.peer.uid is None or self.is_peer_gone()):
            return False
        return self.is_busy

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_unread()

    async def finish_response(
        self, request: BaseRequest, resp: StreamResponse, start_time: float | None
    ) -> tuple[StreamResponse, bool]:
        result = await super().finish_response(request, resp, start_time)
        if self._is_half_closed and not self._messages:
            self.close()
        self._watch_unread()
        self._waits_since = self._loop.time()
        return result

    def handle_error(
        self,
        request: BaseRequest,  # noqa: ARG002 - aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        """Answer what aiohttp itself finds wrong, without a traceback, and close."""
        if status >= 500:  # noqa: PLR2004 - HTTP
            log.error("request_broke", exc_info=exc)
            message = "internal error"
        why = shortened(" ".join((message or "").split()))
        response = Response(status=status, body=error_body(f"cannot read the request: {why}"))
        response.headers.update(JSON_HEADERS)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        error = kw.get("exc_info")
        if isinstance(error, RequestPayloadError):  # aiohttp drains what a client sent badly
            log.info("request_unreadable", error=shortened(str(error)))
        else:
            log.warning("connection_broke", what=shortened(str(args[0])), exc_info=error)

    def is_peer_gone(self) -> bool:
        """Whether a Unix peer has closed both ways: a half-close alone is no POLLHUP."""
        if self._own is None or self._own.is_closing():
            return True
        poll = select.poll()
        poll.register(self._own.get_extra_info("socket").fileno(), 0)
        return bool(poll.poll(0))

    def hold(self) -> None:
        """Read nothing more but the rest of a request that has begun to be answered."""
        if self._own is None or self._own.is_closing():
            return
        if not self._can_go:
            self.is_leaving = True
            if not self.is_busy:
                self.force_close()
        elif not self._is_in_body:
            self._own.pause_reading()

    @property
    def is_ready_to_go(self) -> bool:
        """Whether nothing is under way, so that another process may go on with it."""
        if self._own is None or self._own.is_closing() or not self._can_go:
            return False
        return not (
            self.is_busy or self._close or self._own.is_reading() or self._own.get_write_buffer_size()
        )

    def hand_over(self) -> HandedConnection:
        """A descriptor of it, and what was read of a next request. The connection lives on by that alone."""
        assert self._own is not None  # noqa: S101 - it is ready to go
        descriptor, begun = os.dup(self._own.get_extra_info("socket").fileno()), self._begun()
        self.cut()
        return HandedConnection(descriptor, begun)

    @property
    def _can_go(self) -> bool:
        """What TLS has agreed upon, and that a client said its last word, only this process knows."""
        own = self._own
        return own is not None and own.get_extra_info("sslcontext") is None and not self._is_half_closed

    def refuse(self) -> None:
        """There are too many connections, and all are busy."""
        self._write_error(503, "too many connections: all are busy")
        self.force_close()

    def cut(self) -> None:
        """Close without waiting for the client to read what is left."""
        if self._own is not None:
            self._own.abort()

    def leave_unfinished(self) -> None:
        """Close once the client has what was written, so that it sees that the body is not whole."""
        if self._own is not None:
            self._own.close()

    @property
    def standing(self) -> tuple[bool, bool, Seconds]:
        """The least of the waiting ones is the first to go: strangers, and who never sent a whole request.

        Bytes of a request do not count as activity: that is what an attacker has plenty of.
        """
        return self.peer.trusted, self._request_count > 0, self._waits_since

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered, or waits for that."""
        return bool(self._messages) or self._waiter is None or self._waiter.done()

    @property
    def _is_in_body(self) -> bool:
        return self._parser is not None and self._parser._payload_parser is not None  # noqa: SLF001

    def _begun(self) -> bytes:
        """What was read of the headers of a request, and not understood yet."""
        parser = self._parser
        if parser is None or self._is_in_body:
            return b""
        return b"".join(line + b"\r\n" for line in parser._lines) + parser._tail  # noqa: SLF001

    def _has_partial_headers(self) -> bool:
        # where reading is paused, the rest of a pipeline waits for us, not we for it
        return not self._buffer_paused and bool(self._begun())

    def _watch_headers(self) -> None:
        if not self._has_partial_headers():
            if self._headers_timer is not None:
                self._headers_timer.cancel()
                self._headers_timer = None
        elif self._headers_timer is None:
            self._headers_timer = self._loop.call_later(self.limits.headers, self._headers_are_late)

    def _headers_are_late(self) -> None:
        self._headers_timer = None
        if self.is_busy:
            self.close()  # after the answer that is under way
        else:
            self._say_and_close(408, f"the request took more than {self.limits.headers:g} s to arrive")

    def _say_and_close(self, status: int, message: str) -> None:
        if not self.is_busy:
            self._write_error(status, message)
        self.force_close()
        self._watch_unread()

    def _write_error(self, status: int, message: str) -> None:
        if self.transport is not None:
            body = error_body(message)
            head = f"HTTP/1.1 {status} Refused\r\nContent-Type: application/json\r\nConnection: close\r\n"
            self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def _watch_unread(self) -> None:
        if self._unread_timer is None and self._own is not None and self._own.get_write_buffer_size():
            left = self._own.get_write_buffer_size()
            self._unread_timer = self._loop.call_later(self.limits.unread, self._still_unread, left)

    def _still_unread(self, before: int) -> None:
        self._unread_timer = None
        if self._own is None or not (left := self._own.get_write_buffer_size()):
            return
        if left >= before or self._own.is_closing():
            log.warning("client_dropped", caller=self.peer.name, why="it does not read", unread=left)
            self.cut()
        else:
            self._watch_unread()


def peer_of(transport: asyncio.BaseTransport) -> Caller:
    """Who is at the other end, as kernel or TLS says at connect time."""
    sock = transport.get_extra_info("socket")
    if sock.family == socket.AF_UNIX:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, uid, gid = struct.unpack("3i", raw)
        name = f"uid {uid} ({_command_of(pid)})"
        return Caller(uid, gid, pid, trusted=uid in {0, os.getuid()}, name=name)
    common_name = _common_name(transport.get_extra_info("peercert"))
    where = transport.get_extra_info("peername")
    name = f"certificate {common_name}" if common_name else f"nobody from {where[0] if where else '?'}"
    return Caller(common_name=common_name, name=name)


def _command_of(pid: int) -> str:
    try:  # for people only: the pid may already be another's
        return shortened(Path(f"/proc/{pid}/comm").read_text(errors="replace").strip(), 32)
    except OSError:
        return "?"


def _common_name(certificate: dict[str, Any] | None) -> str | None:
    subject = (certificate or {}).get("subject", ())
    names = [value for part in subject for key, value in part if key == "commonName"]
    return names[0] if len(names) == 1 else None


def caller_of(request: BaseRequest) -> Caller:
    """The peer of the connection, with the token of this request if it brings one."""
    connection = request.protocol
    assert isinstance(connection, Connection)  # noqa: S101 - the server makes no others
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    token = request.headers.get("X-Vault-Token", "") or (
        credentials.strip() if scheme.lower() == "bearer" else ""
    )
    if not token:
        return connection.peer
    digest = sha256(token.encode(errors="surrogateescape")).hexdigest()
    name = connection.peer.name
    if connection.peer.uid is None:
        name = name.replace("nobody", f"token {digest[:8]}", 1)
    return dataclasses.replace(connection.peer, token_sha256=digest, name=name)
