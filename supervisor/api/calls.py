"""What a handler gets (`Call`) and gives back (a `Reply`). Everything about HTTP stays in server.py."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, assert_never

import msgspec

from supervisor import wire
from supervisor.domain.access import Caller
from supervisor.domain.catalog import Settings
from supervisor.domain.errors import PlugindError
from supervisor.domain.names import Namespace, Seconds
from supervisor.engine.node import Node


class Endings:
    """Waits and streams that must come to an end, with an answer, when the server stops."""

    def __init__(self) -> None:
        self._open: dict[asyncio.Timeout, Literal["wait", "stream"]] = {}
        self._deadlines: dict[str, Seconds] = {}

    @asynccontextmanager
    async def scope(self, kind: Literal["wait", "stream"]) -> AsyncIterator[None]:
        """Run the body; TimeoutError comes out of it when the server stops meanwhile."""
        async with asyncio.timeout_at(self._deadlines.get(kind)) as scope:
            self._open[scope] = kind
            try:
                yield
            finally:
                del self._open[scope]

    def end(self, kind: Literal["wait", "stream"], delay: Seconds) -> None:
        deadline = self._deadlines[kind] = asyncio.get_running_loop().time() + delay
        for scope, its_kind in self._open.items():
            if its_kind == kind:
                scope.reschedule(deadline)


@dataclass(slots=True)
class Call:
    """One request, already routed and allowed."""

    node: Node
    settings: Settings
    caller: Caller
    namespace: Namespace
    request_id: str
    method: str
    params: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    endings: Endings
    patience: Seconds
    """How long a reload may take before it is answered 202."""
    deed: str
    """For audit.log; a handler that knows more says more."""
    body: bytes = b""
    begun: bool = False
    """From here on a process may have been touched: no 5xx any more, Go clients would send it again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """In Vault's envelope. With errors, these come first and `data` stands beside them."""

    data: Any = None
    status: int = 200
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    outcome: str = "done"
    """For audit.log."""


@dataclass(frozen=True, slots=True)
class Bare:
    """JSON without the envelope: health and its like."""

    document: Any
    status: int = 200


@dataclass(frozen=True, slots=True)
class Text:
    body: bytes
    content_type: str
    status: int = 200


@dataclass(frozen=True, slots=True)
class Stream:
    """Goes on until the source, the client or the server ends it."""

    chunks: AsyncGenerator[bytes, None]
    content_type: str
    heartbeat: bytes | None = None
    farewell: bytes = b"%s"
    """How the reason of an early end is written, before the connection is closed within the body."""
    headers: Mapping[str, str] = field(default_factory=dict)


Reply = Answer | Bare | Text | Stream


def refusal(error: PlugindError) -> Answer:
    return Answer(status=wire.statuses(error)[0], errors=(str(error),) if str(error) else ())


def rendered(reply: Answer | Bare | Text, request_id: str) -> bytes:
    """The body that clients get."""
    match reply:
        case Text():
            return reply.body
        case Bare():
            return msgspec.json.encode(reply.document)
        case Answer(status=204):
            return b""
        case Answer() if reply.status >= 400 and reply.data is None:  # noqa: PLR2004 - HTTP
            return msgspec.json.encode({"errors": reply.errors})
        case Answer():
            envelope = wire.Envelope(
                request_id=request_id, data=reply.data, warnings=list(reply.warnings) or None
            )
            if reply.status < 400:  # noqa: PLR2004 - HTTP
                return msgspec.json.encode(envelope)
            return msgspec.json.encode({"errors": reply.errors, **msgspec.structs.asdict(envelope)})
    assert_never(reply)
