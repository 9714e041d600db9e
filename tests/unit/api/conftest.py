import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(
    str(Path(__file__).parent)
)  # tests are no package; api_fakes and api_client are beside this file

from api_client import QUICK, Served
from api_fakes import FakeNode, settings_for

from supervisor.api import connection
from supervisor.api.connection import Limits
from supervisor.domain.access import Caller
from supervisor.domain.catalog import AccessRule


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


@pytest.fixture
def socket_path(tmp_path: Path) -> str:
    return str(tmp_path / "run" / "c.sock")


@pytest.fixture
async def served(node: FakeNode, socket_path: str) -> AsyncIterator[Served]:
    one = Served(node, settings_for(socket_path))
    await one.server.start()
    yield one
    await one.server.stop(0)


@pytest.fixture
async def serve(node: FakeNode, socket_path: str) -> AsyncIterator[Callable[..., Any]]:
    """Start a server with other settings or limits."""
    started: list[Served] = []

    async def start(limits: Limits = QUICK, **settings: Any) -> Served:
        one = Served(node, settings_for(socket_path, **settings), limits)
        await one.server.start()
        started.append(one)
        return one

    yield start
    for one in started:
        await one.server.stop(0)


@pytest.fixture
def as_uid(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the kernel say that peers are this user."""

    def become(uid: int) -> None:
        caller = Caller(uid=uid, gid=uid, pid=1, name=f"uid {uid} (test)")
        monkeypatch.setattr(connection, "peer_of", lambda _: caller)

    return become


@pytest.fixture
def rule() -> Callable[..., AccessRule]:
    return AccessRule


@pytest.fixture(autouse=True)
def _no_descriptor_is_leaked() -> Iterator[None]:
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    yield
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) <= before + 8  # the event loop's own come and go
