"""A real server on a real socket, and a client that sends exactly what it is told."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from api_fakes import FakeNode

from supervisor.api.connection import Limits
from supervisor.api.server import Server
from supervisor.domain.catalog import Settings

QUICK = Limits(headers=0.15, body=0.15, unread=0.2, heartbeat=0.05, patience=5.0, recheck=0.02)


@dataclass
class Got:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def data(self) -> Any:
        return self.json["data"]

    @property
    def errors(self) -> list[str]:
        return self.json["errors"]

    @property
    def warnings(self) -> list[str] | None:
        return self.json["warnings"]


def parsed(raw: bytes) -> Got:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Got(int(first.split()[1]), headers, body)


@dataclass
class Served:
    """A real server on a real socket, and a client that sends exactly what it is told."""

    node: FakeNode
    settings: Settings
    limits: Limits = QUICK
    server: Server = field(init=False)

    def __post_init__(self) -> None:
        self.server = Server(self.node, self.settings, self.limits)

    @property
    def path(self) -> str:
        return self.settings.socket.path

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.path)

    async def raw(self, sent: bytes, *, half_close: bool = False) -> bytes:
        """All that comes until the server closes; b"" also where it resets."""
        reader, writer = await self.connect()
        got = b""
        try:
            writer.write(sent)
            if half_close:
                writer.write_eof()
            async with asyncio.timeout(5):
                while chunk := await reader.read(65536):
                    got += chunk
        except ConnectionError:
            pass
        finally:
            writer.close()
        return got

    async def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> Got:
        """Bytes go as they are, anything else as JSON."""
        sent = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = {"Host": "x", "Connection": "close", "Content-Length": str(len(sent)), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return parsed(await self.raw(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + sent))
