"""A server gives its sockets away, and another one goes on with them: nobody who asks sees a difference."""

import asyncio
import os
import resource
from pathlib import Path
from typing import Any

import pytest
from api_client import QUICK, Served, parsed
from api_fakes import FakeNode, settings_for

from supervisor.api.connections import a_turn
from supervisor.domain.catalog import Tcp
from supervisor.domain.errors import AlreadyRunning, Cannot
from supervisor.domain.legacy import Sockets

ASKS = b"GET /v1/sys/health HTTP/1.1\r\nHost: x\r\n\r\n"
RELOADS = b"POST /v1/sys/plugins/reload/auth/mock-plugin HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"


async def left(served: Served, grace: float = 0.2) -> Sockets:
    await served.server.reserve()
    await served.server.quiesce(grace)
    return await served.server.leave(grace)


async def followed(served: Served, sockets: Sockets, **settings: Any) -> Served:
    one = Served(FakeNode(), settings_for(served.path, **settings), QUICK)
    await one.server.start(sockets)
    return one


async def answered(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        return head + await reader.readexactly(int(parsed(head).headers["content-length"]))


async def test_an_idle_connection_and_one_that_waits_in_the_backlog_are_answered(served: Served) -> None:
    idle, asks = await served.connect()
    asks.write(ASKS)
    await answered(idle)
    sockets = await left(served)
    waits, late = await served.connect()
    late.write(ASKS)
    asks.write(ASKS)

    following = await followed(served, sockets)

    assert parsed(await answered(idle)).status == 200
    assert parsed(await answered(waits)).status == 200
    for writer in (asks, late):
        writer.close()
    await following.server.stop(0)


@pytest.mark.parametrize("at", [1, 20, 27, 28, 29, 35, len(ASKS) - 1])
async def test_a_request_that_was_read_in_part_is_answered_once_it_is_whole(served: Served, at: int) -> None:
    reader, writer = await served.connect()
    writer.write(ASKS[:at])
    await served.ask("GET", "/v1/sys/health")  # what was sent before is read by then

    following = await followed(served, await left(served))
    writer.write(ASKS[at:])

    assert parsed(await answered(reader)).status == 200
    writer.close()
    await following.server.stop(0)


async def test_what_takes_too_long_is_answered_202_and_its_connection_goes_over(served: Served) -> None:
    served.node.finishes_at_once = False
    reader, writer = await served.connect()
    writer.write(RELOADS)
    await served.node.asked.wait()

    following = await followed(served, await left(served, 0.1))

    assert parsed(await answered(reader)).status == 202
    writer.write(ASKS)
    assert parsed(await answered(reader)).status == 200
    writer.close()
    await following.server.stop(0)


async def test_an_event_stream_ends_cleanly(served: Served) -> None:
    reader, writer = await served.connect()
    writer.write(b"GET /v1/supervisor/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    await reader.readuntil(b"id: 3")

    sockets = await left(served)

    assert (await reader.read()).endswith(b"0\r\n\r\n")
    assert sockets.connections == ()
    writer.close()
    await (await followed(served, sockets)).server.stop(0)


async def test_the_lock_is_never_free(served: Served) -> None:
    sockets = await left(served)

    with pytest.raises(AlreadyRunning):
        await Served(FakeNode(), served.settings).server.start()

    await (await followed(served, sockets)).server.stop(0)
    assert not os.path.exists(served.path)  # noqa: PTH110 - the file of the socket


@pytest.mark.parametrize("tcp", [None, Tcp("127.0.0.2:0")])
async def test_tcp_that_is_no_more_wanted_there_is_closed(serve: Any, tcp: Tcp | None) -> None:
    served = await serve(QUICK, tcp=Tcp("127.0.0.1:0"))
    [(host, port)] = served.server.addresses
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(ASKS)
    await answered(reader)

    following = await followed(served, await left(served), tcp=tcp)

    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, port)
    assert await reader.read() == b""
    assert [found[0] for found in following.server.addresses] == (["127.0.0.2"] if tcp else [])
    writer.close()
    await following.server.stop(0)


async def test_whoever_is_stopped_instead_gives_nothing_away(served: Served) -> None:
    reader, writer = await served.connect()
    writer.write(ASKS)
    await answered(reader)
    await served.server.quiesce(0.1)

    await served.server.stop(0)

    assert await reader.read() == b""
    writer.close()
    with pytest.raises(OSError, match="No such file"):
        await served.connect()


async def test_without_descriptors_for_the_next_one_this_one_serves_on(served: Served) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reader, writer = await served.connect()
    writer.write(ASKS)
    await answered(reader)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            await served.server.reserve()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    writer.write(ASKS)
    assert parsed(await answered(reader)).status == 200
    assert (await served.ask("GET", "/v1/sys/health")).status == 200
    Path(served.path).unlink()  # it looks after its path, too
    async with asyncio.timeout(5):
        while not Path(served.path).exists():
            await a_turn(asyncio.get_running_loop())
    writer.close()


async def test_a_connection_without_a_descriptor_for_it_is_closed_and_no_other(served: Served) -> None:
    pairs = [await served.connect() for _ in range(3)]
    for reader, writer in pairs:
        writer.write(ASKS)
        await answered(reader)
    await served.server.reserve()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))  # one more
    try:
        await served.server.quiesce(0.2)
        sockets = await served.server.leave(0.2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    following = await followed(served, sockets)

    assert 1 <= len(sockets.connections) < len(pairs)
    for _, writer in pairs:
        writer.write(ASKS)
    await following.ask("GET", "/v1/sys/health")  # all others are told by then
    kept = [reader for reader, _ in pairs if reader.exception() is None and not reader.at_eof()]
    assert len(kept) == len(sockets.connections)
    assert [parsed(await answered(reader)).status for reader in kept] == [200] * len(kept)
    for _, writer in pairs:
        writer.close()
    await following.server.stop(0)


async def test_an_upgrade_is_answered_before_it_is_done(served: Served) -> None:
    got = await served.ask("POST", "/v1/supervisor/upgrade")

    assert (got.status, got.data["result"]) == (202, "under way")
    assert served.node.calls == [("upgrade", got.json["request_id"])]
    assert [what for _, what, _, _ in served.node.audited] == ["upgrade"]


async def test_an_upgrade_takes_no_parameters_and_says_why_it_is_refused(served: Served) -> None:
    assert (await served.ask("POST", "/v1/supervisor/upgrade", {"dry_run": True})).status == 400
    assert served.node.calls == []


async def test_a_plugind_that_would_not_start_is_told(served: Served) -> None:
    async def refuses(*_: object) -> None:
        raise Cannot("cannot upgrade: the new plugind does not start (exit 1): SyntaxError")

    served.node.upgrade = refuses  # type: ignore[method-assign, assignment]

    got = await served.ask("POST", "/v1/supervisor/upgrade")

    assert (got.status, got.errors) == (
        400,
        ["cannot upgrade: the new plugind does not start (exit 1): SyntaxError"],
    )
