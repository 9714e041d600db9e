"""Slow, odd, hostile and leaving clients, on raw sockets."""

import asyncio
import dataclasses
import errno
import gzip
import json
import re
import socket
from typing import Any

import pytest
from aiohttp.http_parser import HttpRequestParserPy
from api_client import QUICK, parsed

HEALTH = b"GET /v1/sys/health HTTP/1.1\r\nHost: x\r\n"
RELOAD = b"POST /v1/sys/plugins/reload/backend HTTP/1.1\r\nHost: x\r\n"
CLOSE = b"Connection: close"
BODY = b'{"plugin":"kv"}'


def shown(value: object) -> str:
    return repr(value)[-40:]


def posted(body: bytes = BODY, *lines: bytes) -> bytes:
    head = RELOAD + b"".join(line + b"\r\n" for line in lines)
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def test_the_pure_parser_is_in_use(served: Any) -> None:
    _, writer = await served.connect()
    await served.ask("GET", "/v1/sys/health")

    connections = served.server._http.connections

    assert [type(one._parser) for one in connections] == [HttpRequestParserPy]
    writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        RELOAD + b"Content-Length: 15\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HEALTH + b"\r\n",
        RELOAD + b"Content-Length: 15\r\nContent-Length: 0\r\n\r\n" + BODY + HEALTH + b"\r\n",
        RELOAD + b"Content-Length: 15\r\nContent-Length: 15\r\n\r\n" + BODY + HEALTH + b"\r\n",
        RELOAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HEALTH + b"\r\n",
        RELOAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HEALTH + b"\r\n",
        RELOAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        RELOAD + b"X: a\r\n folded: b\r\nContent-Length: 0\r\n\r\n" + HEALTH + b"\r\n",
        b"GET /v1/sys/health HTTP/1.1\nHost: x\n\n" + HEALTH + b"\r\n",
        b"GET /v1/sys/health HTTP/1.1\r\nHost: x\n\r\n" + HEALTH + b"\r\n",
        RELOAD + b"Content-Length : 0\r\n\r\n" + HEALTH + b"\r\n",
        RELOAD + b"Content-Length: +0\r\n\r\n" + HEALTH + b"\r\n",
        RELOAD + b"Content-Length: " + b"9" * 6000 + b"\r\n\r\n",
        RELOAD + b"Content-Length: -1\r\n\r\n",
        RELOAD + b"Transfer-Encoding: chunked\r\n\r\n5;x\nabc\r\nhello\r\n0\r\n\r\n" + HEALTH + b"\r\n",
        RELOAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v1/sys/health HTTP/1.1\r\n\r\n",
        b"GET /v1/sys/health HTTP/9.9.9\r\nHost: x\r\n\r\n",
        b"GET /v1/sys/health\r\n\r\n",
        b"GET /v1/sys/he\x00alth HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        HEALTH + b"X: " + b"y" * 65536 + b"\r\n\r\n",
        HEALTH + b"".join(b"X%d: y\r\n" % number for number in range(10_000)) + b"\r\n",
        b"GET /v1/sys/health?" + b"x" * (1 << 20) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=shown,
)
async def test_what_two_parsers_could_read_differently_is_400_and_close(
    served: Any, node: Any, sent: bytes
) -> None:
    got = await served.raw(sent)

    assert len(re.findall(rb"HTTP/1\.[01] \d{3}", got)) == 1, got
    answer = parsed(got)
    assert answer.status == 400
    assert len(answer.errors) == 1
    assert answer.headers["content-type"] == "application/json"
    assert not node.calls


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (posted(gzip.compress(BODY), b"Content-Encoding: gzip", CLOSE), 400),
        (posted(b"junk", b"Content-Encoding: gzip", CLOSE), 400),
        (posted(b"junk", b"Content-Encoding: wibble", CLOSE), 400),
        (RELOAD + b"Content-Length: 2147483648\r\n\r\n" + b"x" * 100_000, 413),
        (RELOAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n%b\r\n" % (b"x" * 65536) * 17, 413),
        (posted(b"{}", b"Expect: wibble", CLOSE), 400),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    ],
    ids=shown,
)
async def test_what_is_too_much_or_not_supported_is_refused_and_closed(
    served: Any, node: Any, sent: bytes, status: int
) -> None:
    got = parsed(await served.raw(sent))

    assert got.status == status, got.body
    assert len(got.errors) == (status != 404)
    assert not node.calls


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /v1/sys/hea",
        HEALTH,
        HEALTH + b"\r\n" + HEALTH,
    ],
)
async def test_headers_that_do_not_come_end_the_connection(served: Any, sent: bytes) -> None:
    reader, writer = await served.connect()
    writer.write(sent)

    async with asyncio.timeout(3):
        got = await reader.read()
    writer.close()

    assert b"took more than 0.15 s" in got
    assert got.count(b"HTTP/1.1 200") == sent.count(b"\r\n\r\n")


async def test_one_that_the_loop_had_no_means_to_read_is_read_a_little_later(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop: Any = asyncio.get_running_loop()
    register, refused = loop._selector.register, []

    def no_memory(descriptor: int, *rest: Any) -> Any:
        if len(refused) < 2:
            refused.append(descriptor)
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return register(descriptor, *rest)

    monkeypatch.setattr(loop._selector, "register", no_memory)
    loop.set_exception_handler(lambda *_: None)  # asyncio says that its own callback was refused
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(served.path)
        client.sendall(HEALTH + CLOSE + b"\r\n\r\n")
        client.settimeout(5)

        got = await asyncio.to_thread(client.recv, 65536)

    assert len(refused) == 2
    assert refused[0] == refused[1]
    assert parsed(got).status == 200


async def test_one_byte_at_a_time_does_not_buy_time(served: Any) -> None:
    reader, writer = await served.connect()
    loop = asyncio.get_running_loop()
    begun, ended = loop.time(), asyncio.ensure_future(reader.read())
    for byte in HEALTH * 50:
        writer.write(bytes([byte]))
        await asyncio.wait([ended], timeout=0.01)
        if ended.done():
            break

    (result,) = await asyncio.gather(ended, return_exceptions=True)
    assert isinstance(result, ConnectionError) or b"408" in result  # it went on sending
    assert loop.time() - begun < 1.5
    writer.close()


async def test_a_body_that_does_not_come_is_an_error(served: Any, node: Any) -> None:
    got = parsed(await served.raw(RELOAD + b"Content-Length: 15\r\n\r\n" + BODY[:5]))

    assert got.errors == ["cannot read the body: it took more than 0.15 s"]
    assert not node.calls


async def test_a_body_that_ends_early_reloads_nothing(served: Any, node: Any) -> None:
    sent = RELOAD + b"Content-Length: 16\r\n\r\n" + BODY
    got = parsed(await served.raw(sent, half_close=True))

    assert got.errors == ["cannot read the body: it ends early or is not well-formed"]
    assert not node.calls


async def test_many_slow_clients_do_not_hold_up_another(serve: Any) -> None:
    served = await serve(dataclasses.replace(QUICK, headers=1.0))  # 100 connections take their time, too
    slow = []
    for _ in range(100):
        slow.append(await served.connect())
        slow[-1][1].write(b"GET /v1/sys/hea")

    got = await served.ask("GET", "/v1/sys/health")
    async with asyncio.timeout(10):
        answers = await asyncio.gather(*(reader.read() for reader, _ in slow))
    for _, writer in slow:
        writer.close()

    assert got.status == 200
    assert all(b"408" in answer for answer in answers)


async def test_too_many_idle_clients_make_room_and_busy_ones_stay(serve: Any, node: Any) -> None:
    node.finishes_at_once = False
    served = await serve(dataclasses.replace(QUICK, headers=5, connections=20))
    busy = asyncio.ensure_future(served.raw(posted(BODY, CLOSE)))
    await node.asked.wait()
    kept, kept_writer = await served.connect()
    idle = [await served.connect() for _ in range(15)]
    kept_writer.write(HEALTH + b"\r\n")
    await kept.readuntil(b"}")
    idle += [await served.connect() for _ in range(15)]
    first, _ = idle[0]
    async with asyncio.timeout(3):
        assert await first.read() == b""

    kept_writer.write(HEALTH + b"Connection: close\r\n\r\n")
    next(iter(node.tickets.values())).finish()

    assert b"200 OK" in await kept.read()
    assert b"200 OK" in await busy
    assert len(served.server._http.connections) <= 20
    for _, writer in [*idle, (kept, kept_writer)]:
        writer.close()


async def test_a_client_that_sends_bytes_is_not_kept_for_that(serve: Any, as_uid: Any) -> None:
    as_uid(1000)
    served = await serve(dataclasses.replace(QUICK, headers=5, connections=8))
    slow = [await served.connect() for _ in range(8)]
    for _, writer in slow:
        writer.write(b"GET /v1/sys/hea")

    answers = [await served.ask("GET", "/v1/sys/health") for _ in range(20)]

    assert {answer.status for answer in answers} == {200}
    for _, writer in slow:
        writer.close()


async def test_a_client_too_many_is_told_when_all_are_busy(
    serve: Any, node: Any, as_uid: Any, rule: Any
) -> None:
    as_uid(1000)
    node.finishes_at_once = False
    served = await serve(dataclasses.replace(QUICK, connections=8), access=[rule(uid=1000, may="reload")])
    busy = []
    for _ in range(8):
        node.asked.clear()
        busy.append(asyncio.ensure_future(served.raw(posted(BODY, CLOSE))))
        await node.asked.wait()

    got = parsed(await served.raw(b""))
    for ticket in node.tickets.values():
        ticket.finish()

    assert (got.status, got.errors) == (503, ["too many connections: all are busy"])
    assert [parsed(one).status for one in await asyncio.gather(*busy)] == [200] * 8


@pytest.mark.parametrize("sent", [posted(), HEALTH + b"\r\n", (HEALTH + b"\r\n") * 3])
async def test_a_client_that_half_closes_gets_its_answers(served: Any, sent: bytes) -> None:
    got = await served.raw(sent, half_close=True)

    assert got.count(b"HTTP/1.1 200 OK") == sent.count(b"HTTP/1.1")


async def test_a_client_that_half_closes_while_a_reload_runs_gets_its_answer(served: Any, node: Any) -> None:
    node.finishes_at_once = False
    answer = asyncio.ensure_future(served.raw(posted(), half_close=True))
    await node.asked.wait()

    next(iter(node.tickets.values())).finish()

    assert parsed(await answer).status == 200


async def test_a_client_that_goes_away_cancels_nothing(served: Any, node: Any) -> None:
    node.finishes_at_once = False
    _, writer = await served.connect()
    writer.write(posted())
    await node.asked.wait()

    writer.transport.abort()
    (ticket,) = node.tickets.values()
    await served.ask("GET", "/v1/sys/health")
    assert not node.audited
    ticket.finish()
    await served.ask("GET", "/v1/sys/health")

    assert [line[1:] for line in node.audited] == [("reload any type/kv in root", "root", "done")]


async def test_an_idle_connection_is_kept_for_the_next_request(served: Any) -> None:
    reader, writer = await served.connect()
    for _ in range(3):
        writer.write(HEALTH + b"\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.split(b"Content-Length: ")[1].split()[0])
        assert json.loads(await reader.readexactly(length))["initialized"]
        (connection,) = served.server._http.connections
        assert connection._headers_timer is None  # the clock starts with the first byte of the next one
    writer.close()


async def test_many_pipelined_requests_are_answered_in_order(served: Any) -> None:
    got = await served.raw((HEALTH + b"\r\n") * 2000 + HEALTH + b"Connection: close\r\n\r\n")

    assert got.count(b"HTTP/1.1 200 OK") == 2001


async def test_expect_100_continue_is_answered_before_the_body(served: Any) -> None:
    reader, writer = await served.connect()
    writer.write(RELOAD + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: 15\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"

    writer.write(BODY)

    assert parsed(await reader.read()).status == 200
    writer.close()


async def test_chunked_bodies_are_read(served: Any) -> None:
    chunks = b"5\r\n" + BODY[:5] + b"\r\na\r\n" + BODY[5:] + b"\r\n0\r\n\r\n"
    got = parsed(
        await served.raw(RELOAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    )

    assert got.status == 200


async def test_a_client_that_never_reads_is_dropped(served: Any, node: Any) -> None:
    node.flood = True
    _, writer = await served.connect()
    writer.write(b"GET /v1/supervisor/logs/kv?follow=true HTTP/1.1\r\nHost: x\r\n\r\n")
    writer.transport.pause_reading()

    async with asyncio.timeout(3):
        await node.stream_ended.wait()

    assert node.open_streams == 0
    assert (await served.ask("GET", "/v1/sys/health")).status == 200
    writer.close()


async def test_a_small_answer_that_nobody_reads_does_not_keep_the_connection(served: Any) -> None:
    _, writer = await served.connect()
    writer.transport.pause_reading()
    writer.write((HEALTH + b"\r\n") * 3000 + HEALTH + b"Connection: close\r\n\r\n")
    await served.ask("GET", "/v1/sys/health")
    (stuck,) = served.server._http.connections

    async with asyncio.timeout(3):
        await stuck.lost.wait()

    writer.close()


async def test_a_stop_gives_running_requests_an_answer(serve: Any, node: Any) -> None:
    node.finishes_at_once = False
    served = await serve(QUICK)
    answer = asyncio.ensure_future(served.raw(posted()))
    await node.asked.wait()

    await served.server.stop(0.05)

    assert parsed(await answer).status == 202
    assert not served.server._http.connections


async def test_a_stop_closes_idle_connections_and_ends_streams_cleanly(served: Any, node: Any) -> None:
    idle, idle_writer = await served.connect()
    stream, stream_writer = await served.connect()
    stream_writer.write(b"GET /v1/supervisor/events HTTP/1.1\r\nHost: x\r\n\r\n")
    await stream.readuntil(b"id: 3")

    await served.server.stop(5)

    assert await idle.read() == b""
    assert (await stream.read()).endswith(b"0\r\n\r\n")
    assert node.open_streams == 0
    idle_writer.close()
    stream_writer.close()
