"""Connections for the kinds that connect: opened without a thread where that is possible, always closed.

Decided here: that a connection is real. How often and how long to try is decided in `kind.py`.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

from supervisor.domain.errors import Cannot
from supervisor.host.probes.kind import socket_path

LAST_PORT = 65535


def host_and_port(text: str) -> tuple[str, int]:
    """Read `localhost:80`, `127.0.0.1:80`, `[::1]:80`.

    Raises:
        Cannot: It is none of these.
    """
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or not port.isascii() or not port.isdigit() or not 0 < int(port) <= LAST_PORT:
        raise Cannot(f'cannot probe "{text}": write HOST:PORT')
    if ":" in bare and bare == host:
        raise Cannot(f'cannot probe "{text}": write an IPv6 address as [{host}]:{port}')
    return bare, int(port)


def absolute(path: str) -> str:
    """A path that a stream socket can have.

    Raises:
        Cannot: It is relative or too long.
    """
    if not path.startswith("/"):
        raise Cannot(f'cannot probe "{path}": write an absolute path, or one below $TMPDIR')
    return socket_path(path)


@asynccontextmanager
async def connected_tcp(host: str, port: int) -> AsyncIterator[socket.socket]:
    """A connection to the first of the host's addresses that answers; closed afterwards.

    Raises:
        OSError: None answered; the last address's error.
    """
    failure: OSError = OSError("the name has no address")
    for family, address in await _addresses(host, port):
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        with connection:
            try:
                await asyncio.get_running_loop().sock_connect(connection, address)
            except OSError as error:
                failure = error
                continue
            # while nobody listens, a port of the ephemeral range may meet itself: TCP's simultaneous open
            if connection.getsockname() == connection.getpeername():
                failure = ConnectionRefusedError("connection refused")
                continue
            yield connection
            return
    raise failure


@asynccontextmanager
async def connected_unix(path: str) -> AsyncIterator[socket.socket]:
    """A connection to a stream socket; closed afterwards.

    Raises:
        OSError: Nobody accepts there.
    """
    with socket.socket(
        socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    ) as connection:
        # at once or not at all; sock_connect would take EAGAIN (the backlog is full) for a beginning
        try:
            connection.connect(path)
        except BlockingIOError as error:
            raise Cannot("its backlog is full") from error
        yield connection


async def _addresses(host: str, port: int) -> list[tuple[int, tuple[object, ...]]]:
    try:
        literal = ip_address(host)
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found]
    # no resolver, and no thread, for what is an address already
    return [(socket.AF_INET if literal.version == 4 else socket.AF_INET6, (host, port))]  # noqa: PLR2004 - IPv4
