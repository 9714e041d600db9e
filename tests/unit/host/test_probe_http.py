"""Kind `http`: 2xx and 3xx are ready, everything else says why not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from host_probing import a_subject, descriptors, is_ready_within

from supervisor.domain.catalog import Probe
from supervisor.domain.errors import Cannot
from supervisor.host.probes import kind, prepare


class Server:
    def __init__(self) -> None:
        self.answers: list[bytes] = [b"HTTP/1.1 200 OK\r\n\r\n"]
        """Written one after the other, each as a piece of its own."""
        self.requests: list[bytes] = []
        self.hangs = False
        self.news = asyncio.Event()
        self.address = ""
        self.tasks: list[asyncio.Task[None] | None] = []

    async def asked(self, times: int) -> None:
        while len(self.requests) < times:
            self.news.clear()
            await self.news.wait()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.append(asyncio.current_task())
        try:
            await self.answer(reader, writer)
        except ConnectionError:
            pass  # the probe had heard enough
        finally:
            writer.transport.abort()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        self.news.set()
        for answer in self.answers:
            writer.write(answer)
            await writer.drain()
        if self.hangs:
            await reader.read()  # until the probe closes
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def listening(server: Server, path: Path | None = None) -> AsyncIterator[Server]:
    if path is None:
        listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
        server.address = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    else:
        listener = await asyncio.start_unix_server(server.handle, path)
        server.address = f"unix:{path}:"
    async with listener:
        yield server
        await asyncio.gather(*(task for task in server.tasks if task))


async def outcome(server: Server, tmp_path: Path) -> str:
    async with listening(server):
        probe = prepare(Probe("http", address=server.address + "/health?a=1"), str(tmp_path))
        try:
            await probe.check(a_subject(tmp_path))
        except Cannot as error:
            return str(error).removeprefix(f"http {server.address}/health?a=1: ")
    return "ready"


@pytest.mark.parametrize("status", [b"200 OK", b"204", b"204 No Content", b"302 Found", b"399 ?"])
async def test_success_and_redirection_are_ready(tmp_path: Path, status: bytes) -> None:
    server = Server()
    server.answers = [b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\n"]

    assert await outcome(server, tmp_path) == "ready"
    assert server.requests[0].startswith(b"GET /health?a=1 HTTP/1.1\r\nHost: 127.0.0.1:")


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_errors_are_not_ready_and_named(tmp_path: Path, status: int) -> None:
    server = Server()
    server.answers = [b"HTTP/1.0 %d Nope\r\n\r\n" % status]

    assert await outcome(server, tmp_path) == f"it answered {status}"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], "it closed the connection without an answer"),
        ([b"HTTP/1.1 20"], "its answer is not HTTP/1.1"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], "its answer is not HTTP/1.1"),
        ([b"HTTP/2 200\r\n\r\n"], "its answer is not HTTP/1.1"),
        ([b"HTTP/1.1 2000 OK\r\n\r\n"], "its answer is not HTTP/1.1"),
        ([b"HTTP/1.1 099 OK\r\n\r\n"], "its answer is not HTTP/1.1"),
        ([b"\0" * 100_000], "its answer has no end of headers"),
        ([b"HTTP/1.1 100 Continue\r\n" + b"X: y\r\n" * 10_000], "its answer has no end of headers"),
        ([b"HTTP/1.1 200 ", b"OK\r", b"\n"], "ready"),
        ([b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"], "ready"),
        ([b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 500 No\r\n\r\n"], "it answered 500"),
        ([b"HTTP/1.1 200 OK\nX: bare newlines\n\n"], "ready"),
    ],
)
async def test_strange_answers(tmp_path: Path, answers: list[bytes], expected: str) -> None:
    server = Server()
    server.answers = answers

    assert await outcome(server, tmp_path) == expected


async def test_a_body_that_never_ends_is_not_waited_for(tmp_path: Path) -> None:
    server = Server()
    server.answers = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello"]
    server.hangs = True

    assert await outcome(server, tmp_path) == "ready"


async def test_a_server_that_accepts_and_says_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "SHORTEST_ATTEMPT", 0.1)
    server = Server()
    server.answers = []
    server.hangs = True
    before = descriptors()

    assert await outcome(server, tmp_path) == "no answer in 100ms"
    assert len(descriptors() - before) <= 1  # the server's side may still be closing


async def test_a_server_at_a_stream_socket_is_asked_too(tmp_path: Path) -> None:
    async with listening(Server(), tmp_path / "s") as server:
        probe = prepare(Probe("http", address="unix:$TMPDIR/s:/health"), str(tmp_path))
        assert await is_ready_within(probe, a_subject(tmp_path))

    assert server.requests[0].startswith(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
    with pytest.raises(Cannot, match=f"^http unix:{tmp_path}/s:/health: (no such file|connection refused)"):
        await probe.check(a_subject(tmp_path))


async def test_it_waits_until_the_plugin_is_well(tmp_path: Path) -> None:
    async with listening(Server()) as server:
        server.answers = [b"HTTP/1.1 503 Starting\r\n\r\n"]
        probe = prepare(Probe("http", address=server.address, interval=0.001), str(tmp_path))
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(probe.wait_ready(a_subject(tmp_path)))
            await server.asked(3)
            assert not waiting.done()
            assert probe.why_not() == f"http {server.address}: it answered 503"
            server.answers = [b"HTTP/1.1 200 OK\r\n\r\n"]
        probe.close()


@pytest.mark.parametrize(
    "address",
    [
        None,
        "https://localhost/",
        "localhost:80",
        "http:///x",
        "http://localhost:99999/",
        "http://u:p@localhost/",
        "http://localhost/a b",
        "http://localhost/\r\nX: y",
        "http://löcalhost/",
        "http://[::1/",
        "unix:/run/s",
        "unix:run/s:/",
        "unix:/run/s:health",
    ],
)
def test_an_address_that_cannot_work_is_told_before_the_spawn(tmp_path: Path, address: str | None) -> None:
    with pytest.raises(Cannot, match="cannot probe"):
        prepare(Probe("http", address=address), str(tmp_path))
