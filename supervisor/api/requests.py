"""One request, from its headers to the last byte of its answer. The edge where any exception becomes one.

Which row answers stands in routes.py; what a slow client may do in connection.py.
"""

import asyncio
import contextlib
from uuid import uuid4

import structlog
from aiohttp import HttpVersion10, HttpVersion11
from aiohttp.web_protocol import RequestPayloadError
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse

from supervisor.api import routes
from supervisor.api.calls import Answer, Call, Endings, Reply, Stream, Text, refusal, rendered
from supervisor.api.connection import JSON_HEADERS, Connection, Limits, caller_of
from supervisor.domain.catalog import Settings
from supervisor.domain.errors import BadRequest, PlugindError, TooLarge
from supervisor.engine.node import Node

log = structlog.get_logger()


class Requests:
    """Answers for `node`; `endings` tells those that wait or stream that the server stops."""

    def __init__(self, node: Node, settings: Settings, limits: Limits, endings: Endings) -> None:
        self._node = node
        self._settings = settings
        self._limits = limits
        self._endings = endings

    async def handle(self, request: BaseRequest) -> StreamResponse:
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
        leaves = isinstance(request.protocol, Connection) and request.protocol.is_leaving
        if leaves or not request.content.is_eof() or request.method == "CONNECT":
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
