"""All HTTP connections of the server: how many there may be, and how they end."""

import asyncio
import resource
from collections.abc import Awaitable, Callable

from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import StreamResponse
from aiohttp.web_server import Server as HttpServer

from supervisor.api.connection import Connection, Limits
from supervisor.domain.names import Seconds


class Connections(HttpServer):
    """aiohttp's low-level server, with our connections."""

    def __init__(self, handler: Callable[[BaseRequest], Awaitable[StreamResponse]], limits: Limits) -> None:
        super().__init__(handler)
        self._limits = limits

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, limits=self._limits)

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
        ours = [connection for connection in self.connections if isinstance(connection, Connection)]
        # a second more: at `grace` the waits end by themselves, and say 202
        await self.shutdown(grace + 1)
        for connection in ours:
            connection.cut()
        await asyncio.gather(*(connection.lost.wait() for connection in ours))
