"""Kind `http`: ready once a GET is answered with 2xx or 3xx.

Addresses are `http://HOST:PORT/PATH`, and `unix:/SOCKET:/PATH` for a server at a stream socket. Only
the status line is read: the answer's body is no business of a probe, and may never end.

Source: RFC 9112.
"""

import asyncio
import re
import socket
from contextlib import AbstractAsyncContextManager
from typing import Final
from urllib.parse import urlsplit

from supervisor.domain.errors import Cannot
from supervisor.domain.names import shortened
from supervisor.host.probes.kind import Polling, Setup, attempt_limit
from supervisor.host.probes.reach import absolute, connected_tcp, connected_unix, host_and_port

MOST_BYTES: Final = 16 << 10
"""Of the head of an answer, and of the interim answers (1xx) before it."""
_STATUS: Final = re.compile(rb"HTTP/1\.\d ([1-5]\d\d)(?: [^\r\n]*)?\r?\n")
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")


class Http(Polling):
    def __init__(self, setup: Setup) -> None:
        self._address = setup.address()
        self._socket, self._host, path = _read_address(self._address)
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\nUser-Agent: plugind\r\n"
            "Accept: */*\r\nConnection: close\r\n\r\n"
        ).encode("ascii")
        super().__init__(f"http {self._address}", self._get, setup.probe.interval, attempt_limit(setup.probe))

    async def _get(self) -> None:
        async with self._connected() as connection:
            await asyncio.get_running_loop().sock_sendall(connection, self._request)
            status = await _status_of(connection)
        if not 200 <= status < 400:  # noqa: PLR2004 - the classes of RFC 9110
            raise Cannot(f"it answered {status}")

    def _connected(self) -> AbstractAsyncContextManager[socket.socket]:
        if self._socket is not None:
            return connected_unix(self._socket)
        return connected_tcp(*host_and_port(self._host))


async def _status_of(connection: socket.socket) -> int:
    """The status of the final answer.

    Raises:
        Cannot: What came is not HTTP, or ended too early.
    """
    loop = asyncio.get_running_loop()
    text = b""
    while len(text) < MOST_BYTES:
        while match := _STATUS.match(text):
            status = int(match[1])
            if status >= 200:  # noqa: PLR2004 - an interim answer is below
                return status
            end = _HEAD_END.search(text)
            if end is None:
                break
            text = text[end.end() :]
        if b"\n" in text and match is None:
            raise Cannot("its answer is not HTTP/1.1")
        part = await loop.sock_recv(connection, 4096)
        if not part:
            raise Cannot(
                "its answer is not HTTP/1.1" if text else "it closed the connection without an answer"
            )
        text += part
    raise Cannot("its answer has no end of headers")


def _read_address(address: str) -> tuple[str | None, str, str]:
    """Socket path or None, the value of Host, and what to GET.

    Raises:
        Cannot: It is no such address.
    """
    # what stands in a request line as it is: a space or newline would begin something else
    if not address.isascii() or not address.isprintable() or " " in address:
        raise Cannot(f'cannot probe "{shortened(address)}": percent-encode what is not plain ASCII')
    if address.startswith("unix:"):
        path, colon, url = address.removeprefix("unix:").partition(":")
        if not colon or not url.startswith("/"):
            raise Cannot(f'cannot probe "{address}": write unix:/SOCKET:/PATH')
        return absolute(path), "localhost", url
    try:
        parts = urlsplit(address)
        port = parts.port or 80
    except ValueError as error:
        raise Cannot(f'cannot probe "{address}": {error}') from error
    if parts.scheme != "http" or not parts.hostname or parts.username is not None:
        raise Cannot(f'cannot probe "{address}": write http://HOST:PORT/PATH or unix:/SOCKET:/PATH')
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return None, f"{host}:{port}", (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
