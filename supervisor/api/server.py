"""The control server: its sockets, from the first to the last connection, or to another plugind.

What becomes of a request stands in requests.py; what a slow client may do in connection.py; who may own
the socket's path in listeners.py.
"""

import asyncio
import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import Any, Final

import structlog

from supervisor.api import listeners
from supervisor.api.calls import Endings
from supervisor.api.connection import Limits
from supervisor.api.connections import Connections, a_turn
from supervisor.api.requests import Requests
from supervisor.domain.catalog import Settings
from supervisor.domain.errors import PlugindError
from supervisor.domain.legacy import HandedConnection, Sockets
from supervisor.domain.names import Seconds
from supervisor.engine.node import Node

log = structlog.get_logger()
_TURNS: Final = 5
"""Of the loop, until a connection that was accepted in the last one is among the others."""
_KEEPS_FILE: Final[dict[str, Any]] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""The file of the socket is removed here, and only where nobody goes on with it."""


class Server:
    """Serves `node` on the sockets that `settings` name."""

    def __init__(self, node: Node, settings: Settings, limits: Limits | None = None) -> None:
        self._settings = settings
        self._limits = limits or Limits()
        self._endings = Endings()
        self._requests = Requests(node, settings, self._limits, self._endings)
        self._http: Connections | None = None
        self._lock: listeners.Lock | None = None
        self._unix: asyncio.Server | None = None
        self._identity = (0, 0)
        self._listening: list[socket.socket] = []
        """The Unix socket first."""
        self._tcp: list[asyncio.Server] = []
        self._watcher: asyncio.Task[None] | None = None
        self._spare: list[socket.socket] = []
        self._handed: list[HandedConnection] = []
        """What goes to another plugind, once this one accepts nothing more."""

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each TCP socket; says which port 0 became."""
        return [sock.getsockname()[:2] for server in self._tcp for sock in server.sockets]

    async def start(self, handed: Sockets | None = None) -> None:
        """Listen; `handed` are the sockets of the plugind before this one in the same process.

        Raises:
            AlreadyRunning: Another daemon has the socket; names its pid.
            Cannot: An address cannot be used.
        """
        self._http = Connections(self._requests.handle, self._limits)
        path = Path(self._settings.socket.path)
        listeners.check_path(str(path))
        try:
            listeners.make_folder(path)
            self._lock = listeners.Lock(Path(f"{path}.lock"), handed.lock if handed is not None else None)
            await self._listen_unix(handed)
            await self._listen_tcp(handed)
            if handed is not None:
                plain = (
                    self._has_tcp_of(handed)
                    and self._settings.tcp is not None
                    and self._settings.tcp.tls is None
                )
                await self._http.take(handed.connections, tcp=plain)
        except (PlugindError, OSError):
            await self.stop(0)
            raise
        # start() returns before the server ends, so no TaskGroup's block can hold this; stop() awaits it
        self._watcher = asyncio.get_running_loop().create_task(self._watch_path())

    async def reserve(self) -> None:
        """Have the descriptors that another plugind will get; `quiesce` or `stop` is next.

        Raises:
            OSError: There are none: nothing has changed.
        """
        await self._stop_watching()
        try:
            for sock in self._listening:
                self._spare.append(sock.dup())
        except OSError:
            self._close_spare()
            self._watcher = asyncio.get_running_loop().create_task(self._watch_path())
            raise

    async def quiesce(self, grace: Seconds) -> None:
        """Accept nothing more, and answer what was asked within `grace` seconds; `leave` or `stop` is next.

        Who connects now waits in the backlog, and what is sent on a connection in the kernel.
        """
        assert self._http is not None  # noqa: S101 - start() made it
        loop = asyncio.get_running_loop()
        for sock in self._listening:
            loop.remove_reader(sock.fileno())
        for _ in range(_TURNS):  # first: asyncio drops what it accepted for a server that is closed by now
            await a_turn(loop)
        self._stop_accepting()
        self._endings.end("wait", grace)
        self._handed += await self._http.hand_over(grace + 1, streams=False)

    async def leave(self, grace: Seconds) -> Sockets:
        """After `quiesce`: end the streams, and give everything away, as bare descriptors."""
        assert self._http is not None  # noqa: S101 - start() made it
        assert self._lock is not None  # noqa: S101
        self._endings.end("stream", 0)
        self._endings.end("wait", 0)
        self._handed += await self._http.hand_over(grace, streams=True)
        await self._http.close(0)
        descriptors = [sock.detach() for sock in self._spare]
        sockets = Sockets(
            self._lock.release(),
            descriptors[0],
            self._identity,
            self._settings.tcp.address if self._settings.tcp is not None else "",
            tuple(descriptors[1:]),
            tuple(self._handed),
        )
        self._spare, self._handed, self._lock, self._unix, self._http = [], [], None, None, None
        return sockets

    async def stop(self, grace: Seconds) -> None:
        """Accept nothing more; requests under way get an answer within `grace` seconds, or a clean close."""
        await self._stop_watching()
        self._stop_accepting()
        self._close_spare()
        if self._unix is not None:
            with contextlib.suppress(OSError):  # the next daemon replaces what is left
                if listeners.is_ours(self._settings.socket.path, self._identity):
                    listeners.remove(self._settings.socket.path)
        if self._http is not None:
            self._endings.end("stream", 0)
            self._endings.end("wait", grace)
            self._http.pre_shutdown()
            await self._http.close(grace)
        if self._lock is not None:
            self._lock.close()
        self._unix, self._lock = None, None

    def _close_spare(self) -> None:
        for sock in self._spare:
            sock.close()
        for one in self._handed:
            os.close(one.fd)
        self._spare, self._handed = [], []

    async def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        self._watcher = None

    def _stop_accepting(self) -> None:
        for server in [*self._tcp, *([self._unix] if self._unix is not None else [])]:
            server.close()
        self._listening, self._tcp = [], []

    async def _listen_unix(self, handed: Sockets | None = None) -> None:
        assert self._http is not None  # noqa: S101 - start() made it
        if handed is None:
            sock, self._identity = listeners.bind_unix(self._settings.socket)
        else:
            sock = listeners.take_unix(self._settings.socket, handed.unix, handed.identity)
            self._identity = handed.identity
        before, self._unix = (
            self._unix,
            # asyncio accepts `backlog` at once, and logs as many tracebacks when descriptors run out
            await asyncio.get_running_loop().create_unix_server(
                self._http, sock=sock, backlog=1, **_KEEPS_FILE
            ),
        )
        self._listening = [sock, *self._listening[1:]]
        self._listen_long()
        if before is not None:
            before.close()

    async def _listen_tcp(self, handed: Sockets | None) -> None:
        assert self._http is not None  # noqa: S101 - start() made it
        held = handed.tcp if handed is not None else ()
        if handed is not None and not self._has_tcp_of(handed):
            for descriptor in held:
                os.close(descriptor)
            held = ()
        if self._settings.tcp is None:
            return
        socks, tls = listeners.bind_tcp(self._settings.tcp, held)
        loop = asyncio.get_running_loop()
        for sock in socks:
            self._tcp.append(await loop.create_server(self._http, sock=sock, ssl=tls, backlog=1))
        self._listening += socks
        self._listen_long()

    def _has_tcp_of(self, handed: Sockets) -> bool:
        return self._settings.tcp is not None and self._settings.tcp.address == handed.address

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
            try:
                if listeners.is_ours(self._settings.socket.path, self._identity):
                    told = ""
                    continue
                await self._listen_again()
            except (PlugindError, OSError) as error:
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
