"""The control server: sockets, limits, who calls, and how replies become HTTP.

Which row answers stands in routes.py; what a slow client may do in connection.py; who may own
the socket's path in listeners.py.
"""

import asyncio
import contextlib
import socket
from pathlib import Path
from uuid import uuid4

import structlog
from aiohttp import HttpVersion10, HttpVersion11
from aiohttp.web_protocol import RequestPayloadError
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse

from supervisor.api import listeners, routes
from supervisor.api.calls import Answer, Call, Endings, Reply, Stream, Text, refusal, rendered
from supervisor.api.connection import JSON_HEADERS, Connection, Limits, caller_of
from supervisor.api.connections import Connections
from supervisor.domain.catalog import Settings
from supervisor.domain.errors import BadRequest, PlugindError, TooLarge
from supervisor.domain.names import Seconds
from supervisor.engine.node import Node

log = structlog.get_logger()


class Server:
    """Serves `node` on the sockets that `settings` name."""

    def __init__(self, node: Node, settings: Settings, limits: Limits | None = None) -> None:
        self._node = node
        self._settings = settings
        self._limits = limits or Limits()
        self._endings = Endings()
        self._http: Connections | None = None
        self._lock: listeners.Lock | None = None
        self._unix: asyncio.Server | None = None
        self._identity = (0, 0)
        self._listening: list[socket.socket] = []
        """The Unix socket first."""
        self._tcp: list[asyncio.Server] = []
        self._watcher: asyncio.Task[None] | None = None

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each TCP socket; says which port 0 became."""
        return [sock.getsockname()[:2] for server in self._tcp for sock in server.sockets]

    async def start(self) -> None:
        """Listen.

        Raises:
            AlreadyRunning: Another daemon has the socket; names its pid.
            Cannot: An address cannot be used.
        """
        self._http = Connections(self._handle, self._limits)
        path = Path(self._settings.socket.path)
        listeners.check_path(str(path))
        try:
            listeners.make_folder(path)
            self._lock = listeners.Lock(Path(f"{path}.lock"))
            await self._listen_unix()
            await self._listen_tcp()
        except PlugindError:
            await self.stop(0)
            raise
        # start() returns before the server ends, so no TaskGroup's block can hold this; stop() awaits it
        self._watcher = asyncio.get_running_loop().create_task(self._watch_path())

    async def stop(self, grace: Seconds) -> None:
        """Accept nothing more; requests under way get an answer within `grace` seconds, or a clean close."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        for server in [*self._tcp, *([self._unix] if self._unix is not None else [])]:
            server.close()
        self._listening = []
        if self._unix is not None and listeners.is_ours(self._settings.socket.path, self._identity):
            listeners.remove(self._settings.socket.path)
        if self._http is not None:
            self._endings.end("stream", 0)
            self._endings.end("wait", grace)
            self._http.pre_shutdown()
            await self._http.close(grace)
        if self._lock is not None:
            self._lock.close()
        self._unix, self._lock, self._watcher, self._tcp = None, None, None, []

    async def _listen_unix(self) -> None:
        assert self._http is not None  # noqa: S101 - start() made it
        sock, self._identity = listeners.bind_unix(self._settings.socket)
        before, self._unix = (
            self._unix,
            # asyncio accepts `backlog` at once, and logs as many tracebacks when descriptors run out
            await asyncio.get_running_loop().create_unix_server(self._http, sock=sock, backlog=1),
        )
        self._listening = [sock, *self._listening[1:]]
        self._listen_long()
        if before is not None:
            before.close()

    async def _listen_tcp(self) -> None:
        assert self._http is not None  # noqa: S101 - start() made it
        if self._settings.tcp is None:
            return
        socks, tls = listeners.bind_tcp(self._settings.tcp)
        loop = asyncio.get_running_loop()
        for sock in socks:
            self._tcp.append(await loop.create_server(self._http, sock=sock, ssl=tls, backlog=1))
        self._listening += socks
        self._listen_long()

    def _listen_long(self) -> None:
        """Give the sockets their real backlog; asyncio sets its own whenever it begins to accept."""
        for sock in self._listening:
            sock.listen(listeners.BACKLOG)

    async def _watch_path(self) -> None:
        """Bind again when the path vanishes, e.g. by a cleaner of /run."""
        told = ""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), self._limits.recheck)
            self._listen_long()
            if listeners.is_ours(self._settings.socket.path, self._identity):
                told = ""
                continue
            try:
                await self._listen_again()
            except PlugindError as error:
                if str(error) != told:
                    log.error("socket_lost", error=str(error))
                told = str(error)
            else:
                log.warning("socket_bound_again", path=self._settings.socket.path)

    async def _listen_again(self) -> None:
        path = Path(self._settings.socket.path)
        listeners.make_folder(path)
        if self._lock is not None and not self._lock.is_in_place:
            before, self._lock = self._lock, listeners.Lock(self._lock.path)
            before.close()
        await self._listen_unix()

    async def _handle(self, request: BaseRequest) -> StreamResponse:
        """One request; the edge where any exception becomes an answer."""
        request_id, call = str(uuid4()), None
        try:
            self._check_headers(request)
            asked = routes.Asked(
                request.method,
                request.raw_path,
                request.headers.get("X-Vault-Namespace", ""),
                caller_of(request),
            )
            found = self._find(asked)
            call = self._call(request, asked, found, request_id)
            call.body = await self._body(request) if call.method not in {"GET", "HEAD", "LIST"} else b""
            reply = await self._perform(found.route, call)
        except PlugindError as error:
            reply = refusal(error)
        except Exception:
            log.exception("request_failed", request_id=request_id, method=request.method)
            status = 400 if call is not None and call.begun else 500
            reply = Answer(status=status, errors=(f"internal error (request ID {request_id})",))
        return await self._respond(request, reply, request_id)

    def _find(self, asked: routes.Asked) -> routes.Found:
        try:
            return routes.find(asked, self._settings.access, self._node.catalog.namespaces)
        except routes.Denied as error:
            if error.access.changes:
                self._node.audit(asked.caller, error.deed, error.namespace, f"refused: {error}")
            raise

    async def _perform(self, route: routes.Route, call: Call) -> Reply:
        """Run the handler; what changes something goes to audit.log, done or refused."""
        if not route.access.changes:
            return await route.handler(call)
        outcome = "failed: internal error"
        try:
            reply = await route.handler(call)
            outcome = reply.outcome if isinstance(reply, Answer) else "done"
        except PlugindError as error:
            outcome = f"refused: {error}"
            raise
        else:
            return reply
        finally:
            self._node.audit(call.caller, call.deed, call.namespace, outcome)

    def _call(self, request: BaseRequest, asked: routes.Asked, found: routes.Found, request_id: str) -> Call:
        return Call(
            node=self._node,
            settings=self._settings,
            caller=asked.caller,
            namespace=found.namespace,
            request_id=request_id,
            method=found.route.method,
            params=found.params,
            query=found.query,
            headers=request.headers,
            endings=self._endings,
            patience=self._limits.patience,
            deed=f"{request.method} {found.path}",
        )

    def _check_headers(self, request: BaseRequest) -> None:
        if request._version not in {HttpVersion10, HttpVersion11}:  # noqa: SLF001 - what was read is kept
            request._version = HttpVersion11  # noqa: SLF001 - or the answer would claim to be of that version
            raise BadRequest("cannot read the request: it is not HTTP/1.1")
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise BadRequest("cannot read the body: Content-Encoding is not supported, send it as it is")
        expected = request.headers.get("Expect")
        if expected is not None and expected.lower() != "100-continue":
            raise BadRequest("cannot meet the expectation: only 100-continue is known")

    async def _body(self, request: BaseRequest) -> bytes:
        most = self._limits.body_bytes
        if (request.content_length or 0) > most:
            raise TooLarge(f"cannot read the body: it is over {most} bytes")
        if "Expect" in request.headers:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # that was no answer yet
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body):
                while chunk := await request.content.readany():
                    body += chunk
                    if len(body) > most:
                        raise TooLarge(f"cannot read the body: it is over {most} bytes")
        except TimeoutError as error:
            raise BadRequest(f"cannot read the body: it took more than {self._limits.body:g} s") from error
        except (RequestPayloadError, ConnectionError) as error:
            request.content.feed_eof()  # or aiohttp would wait for the rest
            request.protocol.close()
            raise BadRequest("cannot read the body: it ends early or is not well-formed") from error
        return bytes(body)

    async def _respond(self, request: BaseRequest, reply: Reply, request_id: str) -> StreamResponse:
        if isinstance(reply, Stream):
            return await self._stream(request, reply)
        response = Response(status=reply.status, body=rendered(reply, request_id))
        response.headers.update(JSON_HEADERS)
        if isinstance(reply, Text):
            response.headers["Content-Type"] = reply.content_type
        if not request.content.is_eof() or request.method == "CONNECT":
            response.force_close()
        return response

    async def _stream(self, request: BaseRequest, reply: Stream) -> StreamResponse:
        response = StreamResponse(
            headers={**JSON_HEADERS, "Content-Type": reply.content_type, **reply.headers}
        )
        connection = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101 - Connections makes no others
        await response.prepare(request)
        connection.is_streaming = True
        try:
            with contextlib.suppress(TimeoutError):  # the server stops: a clean end, the client resumes later
                async with self._endings.scope("stream"):
                    await self._pump(connection, response, reply)
        except* ConnectionError:
            connection.cut()
        except* PlugindError as group:  # the client was too slow for what it follows
            why = "; ".join(map(str, group.exceptions))
            log.warning("stream_dropped", path=request.path, by=connection.peer.name, reason=why)
            with contextlib.suppress(ConnectionError):
                await response.write(reply.farewell % why.encode())
            connection.leave_unfinished()
        connection.is_streaming = False
        return response

    async def _pump(self, connection: Connection, response: StreamResponse, reply: Stream) -> None:
        async with asyncio.TaskGroup() as group:
            beat = group.create_task(self._beat(connection, response, reply.heartbeat))
            async with contextlib.aclosing(reply.chunks) as chunks:
                async for chunk in chunks:
                    await response.write(chunk)
            beat.cancel()

    async def _beat(self, connection: Connection, response: StreamResponse, heartbeat: bytes | None) -> None:
        """Find out that a silent client has gone, and let it see that we have not."""
        while not connection.is_peer_gone():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), self._limits.heartbeat)
            if heartbeat is not None:
                await response.write(heartbeat)
        raise ConnectionResetError
