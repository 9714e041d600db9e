"""Kinds `tcp` and `unix`: someone accepts, or why not."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from host_probing import a_subject, descriptors, is_ready_within

from supervisor.domain.catalog import Probe
from supervisor.domain.errors import Cannot
from supervisor.host.probes import kind, prepare


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is taken but that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def test_tcp_is_ready_once_someone_listens(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        for host in ("127.0.0.1", "localhost"):
            probe = prepare(Probe("tcp", address=f"{host}:{port}", interval=0.01), str(tmp_path))
            server.listen()
            assert await is_ready_within(probe, a_subject(tmp_path))
            await probe.check(a_subject(tmp_path))


async def test_tcp_waits_until_someone_listens(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        probe = prepare(Probe("tcp", address=address, interval=0.001), str(tmp_path))

        assert not await is_ready_within(probe, a_subject(tmp_path), 0.02)
        with pytest.raises(Cannot, match=f"^tcp {address}: connection refused$"):
            await probe.check(a_subject(tmp_path))

        server.listen()
        assert await is_ready_within(probe, a_subject(tmp_path))


async def test_tcp_speaks_ipv6(tmp_path: Path) -> None:
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with server:
        address = f"[::1]:{server.getsockname()[1]}"
        assert await is_ready_within(
            prepare(Probe("tcp", address=address), str(tmp_path)), a_subject(tmp_path)
        )


async def test_tcp_that_is_refused_fails_the_check_with_its_reason(tmp_path: Path, closed_port: int) -> None:
    probe = prepare(Probe("tcp", address=f"127.0.0.1:{closed_port}"), str(tmp_path))

    with pytest.raises(Cannot, match=f"^tcp 127.0.0.1:{closed_port}: connection refused$"):
        await probe.check(a_subject(tmp_path))


async def test_tcp_never_takes_itself_for_the_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()

    async def meets_itself(connection: socket.socket, address: object) -> None:  # noqa: ARG001 - one port for both ends
        connection.setblocking(True)  # noqa: FBT003 - a socket's own word
        connection.bind(("127.0.0.1", 0))
        connection.connect(connection.getsockname())

    monkeypatch.setattr(loop, "sock_connect", meets_itself)
    probe = prepare(Probe("tcp", address="127.0.0.1:40000"), str(tmp_path))

    with pytest.raises(Cannot, match="connection refused"):
        await probe.check(a_subject(tmp_path))


async def test_a_host_without_an_address_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)

    with pytest.raises(Cannot, match=r"tcp plugin\.invalid:80: name or service not known"):
        await prepare(Probe("tcp", address="plugin.invalid:80"), str(tmp_path)).check(a_subject(tmp_path))


async def test_an_attempt_that_hangs_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(kind, "SHORTEST_ATTEMPT", 0.02)
    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", hangs)
    before = descriptors()

    with pytest.raises(Cannot, match=r"tcp 127\.0\.0\.1:9: no answer in 20ms"):
        await prepare(Probe("tcp", address="127.0.0.1:9", interval=0.01), str(tmp_path)).check(
            a_subject(tmp_path)
        )

    assert descriptors() == before


@pytest.mark.parametrize(
    "address",
    [
        None,
        "",
        "80",
        ":80",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "host:http",
        "::1:80",
        "host:-1",
        "host:٣",
    ],
)
def test_an_address_that_cannot_work_is_told_before_the_spawn(tmp_path: Path, address: str | None) -> None:
    with pytest.raises(Cannot, match="cannot probe"):
        prepare(Probe("tcp", address=address), str(tmp_path))


async def test_unix_is_ready_once_someone_listens_below_tmpdir(tmp_path: Path) -> None:
    probe = prepare(Probe("unix", address="$TMPDIR/s", interval=0.001), str(tmp_path))
    assert not await is_ready_within(probe, a_subject(tmp_path), 0.01)
    assert probe.why_not() == f"unix {tmp_path}/s: no such file or directory"

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/s")
        with pytest.raises(Cannot, match="connection refused"):
            await probe.check(a_subject(tmp_path))
        server.listen()
        assert await is_ready_within(probe, a_subject(tmp_path))


async def test_a_full_backlog_is_no_connection(tmp_path: Path) -> None:
    probe = prepare(Probe("unix", address="$TMPDIR/s"), str(tmp_path))
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as other:
        server.bind(f"{tmp_path}/s")
        server.listen(0)
        other.connect(f"{tmp_path}/s")

        with pytest.raises(Cannot, match="its backlog is full"):
            await probe.check(a_subject(tmp_path))


@pytest.mark.parametrize("address", [None, "s", "$TMPDIR/" + "x" * 108])
def test_a_path_that_cannot_work_is_told_before_the_spawn(tmp_path: Path, address: str | None) -> None:
    with pytest.raises(Cannot, match="cannot"):
        prepare(Probe("unix", address=address), str(tmp_path))


async def test_attempts_leave_no_descriptor(tmp_path: Path, closed_port: int) -> None:
    before = descriptors()
    for kind_, address in (("tcp", f"127.0.0.1:{closed_port}"), ("unix", "$TMPDIR/s")):
        probe = prepare(Probe(kind_, address=address, interval=0.001), str(tmp_path))  # type: ignore[arg-type]
        assert not await is_ready_within(probe, a_subject(tmp_path), 0.05)
        probe.close()
        probe.close()

    assert descriptors() == before
