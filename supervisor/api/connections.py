"""All HTTP connections of the server: how many there may be, and how they end."""

import asyncio
import resource
import socket
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Final

from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import StreamResponse
from aiohttp.web_server import Server as HttpServer

from supervisor.api.connection import Connection, Limits
from supervisor.domain.legacy import HandedConnection
from supervisor.domain.names import Seconds

_LOOK_AGAIN: Final[Seconds] = 0.005


class Connections(HttpServer):
    """aiohttp's low-level server, with our connections."""

    def __init__(self, handler: Callable[[BaseRequest], Awaitable[StreamResponse]], limits: Limits) -> None:
        super().__init__(handler)
        self._limits = limits

    def __call__(self, begin: bytes = b"") -> Connection:
        return Connection(self, loop=self._loop, limits=self._limits, begin=begin)

    async def take(self, handed: Iterable[HandedConnection], *, tcp: bool) -> None:
        """Go on with connections that another plugind had, over TCP only where it is as it was."""
        for one in handed:
            sock = socket.socket(fileno=one.fd)
            if sock.family != socket.AF_UNIX and not tcp:
                sock.close()
                continue
            with suppress(OSError):  # the client has gone
                await self._loop.connect_accepted_socket(partial(self, one.unread), sock)

    async def hand_over(self, seconds: Seconds, *, streams: bool) -> list[HandedConnection]:
        """Answer what was begun and read nothing new; those that are through with that in `seconds`.

        Args:
            seconds: The longest it may take.
            streams: Whether to wait for streams too; nothing else ends them here.
        """
        until = self._loop.time() + seconds
        handed: list[HandedConnection] = []
        while True:
            for connection in self._ours():
                connection.hold()
                if connection.is_ready_to_go:
                    try:
                        handed.append(connection.hand_over())
                    except OSError:  # no descriptor is left: whoever is idle may be closed
                        connection.force_close()
            await a_turn(self._loop)
            if not any(streams or not one.is_streaming for one in self._ours()) or self._loop.time() > until:
                return handed
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), _LOOK_AGAIN)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Keep the number of connections within the limit: idle ones make room, busy ones stay.

        root and our own user are never turned away.
        """
        super().connection_made(handler, transport)
        most = max(8, min(self._limits.connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
        if len(self._connections) <= most:
            return
        ours = [one for one in self.connections if isinstance(one, Connection) and one is not handler]
        waiting = [one for one in ours if not one.is_busy]
        if waiting:
            min(waiting, key=lambda one: one.standing).force_close()
        elif isinstance(handler, Connection) and not handler.peer.trusted:
            handler.refuse()

    async def close(self, grace: Seconds) -> None:
        ours = self._ours()
        # a second more: at `grace` the waits end by themselves, and say 202
        await self.shutdown(grace + 1)
        for connection in ours:
            connection.cut()
        await asyncio.gather(*(connection.lost.wait() for connection in ours))

    def _ours(self) -> list[Connection]:
        return [connection for connection in self.connections if isinstance(connection, Connection)]


async def a_turn(loop: asyncio.AbstractEventLoop) -> None:
    """Let everything happen that is due already."""
    turned = loop.create_future()
    loop.call_soon(turned.set_result, None)
    await turned
