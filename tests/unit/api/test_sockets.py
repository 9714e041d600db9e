"""Who owns the socket's path, and with which mode it comes into being."""

import asyncio
import errno
import os
import socket
import ssl
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from api_client import QUICK, Served
from api_fakes import settings_for

from supervisor import wire
from supervisor.api import listeners
from supervisor.domain.catalog import Socket, Tcp, Tls
from supervisor.domain.errors import AlreadyRunning, Cannot, Unavailable


def mode_of(path: str | Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


async def test_folders_socket_and_lock_have_the_right_modes(served: Any) -> None:
    assert mode_of(Path(served.path).parent) == 0o755
    assert mode_of(served.path) == 0o660
    assert mode_of(served.path + ".lock") == 0o600
    assert Path(served.path + ".lock").read_text() == f"{os.getpid()}\n"


def test_the_socket_never_has_a_wider_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    chown = os.chown
    monkeypatch.setattr(
        os, "chown", lambda path, *ids, **more: (seen.append(mode_of(path)), chown(path, *ids, **more))
    )
    group = str(os.getgid())
    before = os.umask(0)
    try:
        sock, _ = listeners.bind_unix(Socket(str(tmp_path / "s"), 0o620, group))
    finally:
        os.umask(before)
    sock.close()

    assert seen == [0o600]
    assert mode_of(tmp_path / "s") == 0o620


async def test_a_second_daemon_is_told_the_pid_of_the_first(served: Any, node: Any) -> None:
    second = Served(node, served.settings)

    with pytest.raises(AlreadyRunning) as refused:
        await second.server.start()

    assert refused.value.pid == os.getpid()
    assert str(os.getpid()) in str(refused.value)
    assert wire.statuses(refused.value) == wire.statuses(Unavailable())
    assert (await served.ask("GET", "/v1/sys/health")).status == 200


async def test_a_daemon_that_answers_keeps_its_socket_even_without_a_lock(served: Any, node: Any) -> None:
    Path(served.path + ".lock").unlink()
    served.server._watcher.cancel()

    with pytest.raises(AlreadyRunning) as refused:
        await Served(node, served.settings).server.start()

    assert refused.value.pid == os.getpid()
    assert (await served.ask("GET", "/v1/sys/health")).status == 200


async def test_the_socket_of_a_dead_daemon_is_replaced(node: Any, socket_path: str) -> None:
    Path(socket_path).parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(socket_path)
    Path(socket_path + ".lock").write_text("999999999\n")
    served = Served(node, settings_for(socket_path))

    await served.server.start()
    got = await served.ask("GET", "/v1/sys/health")
    await served.server.stop(0)

    assert got.status == 200
    assert not Path(socket_path).exists()


@pytest.mark.parametrize("what", ["file", "folder", "link", "fifo"])
async def test_what_is_no_socket_is_never_removed(node: Any, socket_path: str, what: str) -> None:
    path = Path(socket_path)
    path.parent.mkdir(parents=True)
    {
        "file": lambda: path.write_text("precious"),
        "folder": path.mkdir,
        "link": lambda: path.symlink_to("/etc/passwd"),
        "fifo": lambda: os.mkfifo(path),
    }[what]()
    kind = stat.S_IFMT(path.lstat().st_mode)

    with pytest.raises(Cannot, match="is no socket"):
        await Served(node, settings_for(socket_path)).server.start()

    assert stat.S_IFMT(path.lstat().st_mode) == kind


async def test_a_lock_file_that_is_a_link_is_not_followed(
    node: Any, socket_path: str, tmp_path: Path
) -> None:
    Path(socket_path).parent.mkdir(parents=True)
    Path(socket_path + ".lock").symlink_to(tmp_path / "target")

    with pytest.raises(Cannot, match="cannot open the lock file"):
        await Served(node, settings_for(socket_path)).server.start()

    assert not (tmp_path / "target").exists()


async def test_a_path_that_is_too_long_says_so(node: Any, tmp_path: Path) -> None:
    path = str(tmp_path / ("x" * 120))

    with pytest.raises(Cannot, match="at most 107 bytes"):
        await Served(node, settings_for(path)).server.start()


@pytest.mark.parametrize("vanished", ["socket", "folder"])
async def test_a_path_that_vanishes_is_bound_again(
    served: Any, monkeypatch: pytest.MonkeyPatch, vanished: str
) -> None:
    back = asyncio.Event()
    listen = served.server._listen_unix

    async def listen_and_tell() -> None:
        await listen()
        back.set()

    monkeypatch.setattr(served.server, "_listen_unix", listen_and_tell)
    reader, writer = await served.connect()
    Path(served.path).unlink()
    if vanished == "folder":
        Path(served.path + ".lock").unlink()
        Path(served.path).parent.rmdir()

    async with asyncio.timeout(3):
        await back.wait()

    assert (await served.ask("GET", "/v1/sys/health")).status == 200
    assert Path(served.path + ".lock").exists()
    writer.write(b"GET /v1/sys/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b"200 OK" in await reader.read()
    writer.close()


async def test_a_path_that_cannot_be_looked_at_is_not_taken_for_gone(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bound anew, it would refuse for a moment whoever connects."""
    before = os.lstat(served.path)
    looked = os.lstat
    refused: asyncio.Queue[None] = asyncio.Queue()

    def refuse(path: Any) -> os.stat_result:
        if path != served.path:
            return looked(path)
        refused.put_nowait(None)
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(os, "lstat", refuse)
    async with asyncio.timeout(3):
        for _ in range(3):
            await refused.get()
    monkeypatch.undo()

    assert os.lstat(served.path).st_ino == before.st_ino
    assert (await served.ask("GET", "/v1/sys/health")).status == 200


async def test_two_daemons_at_once_have_one_winner(node: Any, socket_path: str) -> None:
    for _ in range(20):
        both = [Served(node, settings_for(socket_path)) for _ in range(2)]
        results = await asyncio.gather(*(one.server.start() for one in both), return_exceptions=True)
        assert [type(result) for result in results if result is not None] == [AlreadyRunning]
        for one in both:
            await one.server.stop(0)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
async def test_tcp_beyond_loopback_without_tls_is_refused(node: Any, socket_path: str, address: str) -> None:
    served = Served(node, settings_for(socket_path, tcp=Tcp(address)))

    with pytest.raises(Cannot, match="tokens would cross the network in the clear"):
        await served.server.start()

    assert not Path(socket_path).exists()


@pytest.mark.parametrize("address", ["8200", "host:", ":8200", "127.0.0.1:http"])
async def test_a_tcp_address_that_is_none_is_refused(node: Any, socket_path: str, address: str) -> None:
    with pytest.raises(Cannot, match="write HOST:PORT"):
        await Served(node, settings_for(socket_path, tcp=Tcp(address))).server.start()


async def test_a_port_in_use_is_an_error(serve: Any, node: Any, tmp_path: Path) -> None:
    served = await serve(tcp=Tcp("127.0.0.1:0"))
    (host, port), *_ = served.server.addresses
    other = Served(node, settings_for(str(tmp_path / "other"), tcp=Tcp(f"{host}:{port}")))

    with pytest.raises(Cannot, match="cannot listen on tcp"):
        await other.server.start()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for ca in ("ca", "other-ca"):
        openssl(
            "req",
            "-x509",
            *key,
            "-keyout",
            f"{ca}.key",
            "-out",
            f"{ca}.pem",
            "-subj",
            f"/CN={ca}",
            "-days",
            "9",
        )
    for name, ca, common_name in [
        ("server", "ca", "localhost"),
        ("good", "ca", "deploy"),
        ("star", "ca", "*"),
        ("stranger", "other-ca", "deploy"),
    ]:
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={common_name}")
        sign = ("-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial", "-days", "9")
        openssl("x509", "-req", "-in", f"{name}.csr", *sign, "-out", f"{name}.pem")
    return folder


async def test_client_certificates_name_the_caller(serve: Any, rule: Any, certificates: Path) -> None:
    tls = Tls(*(str(certificates / name) for name in ("server.pem", "server.key", "ca.pem")))
    served = await serve(access=[rule(common_name="deploy", may="read")], tcp=Tcp("127.0.0.1:0", tls))
    (host, port), *_ = served.server.addresses

    async def status(client: str | None) -> int | None:
        context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        context.check_hostname = False
        if client:
            context.load_cert_chain(certificates / f"{client}.pem", certificates / f"{client}.key")
        try:
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            writer.write(b"GET /v1/sys/mounts HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
        except (OSError, ssl.SSLError):
            return None
        return int(answer.split()[1]) if answer else None

    assert [await status(one) for one in ("good", "star", "stranger", None)] == [200, 403, None, None]


async def test_a_connection_with_tls_ends_after_its_answer_when_another_server_goes_on(
    serve: Any, node: Any, rule: Any, certificates: Path
) -> None:
    tls = Tls(*(str(certificates / name) for name in ("server.pem", "server.key", "ca.pem")))
    served = await serve(access=[rule(common_name="deploy", may="reload")], tcp=Tcp("127.0.0.1:0", tls))
    (host, port), *_ = served.server.addresses
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    context.check_hostname = False
    context.load_cert_chain(certificates / "good.pem", certificates / "good.key")
    idle, _idle = await asyncio.open_connection(host, port, ssl=context)
    busy, asks = await asyncio.open_connection(host, port, ssl=context)
    node.finishes_at_once = False
    asks.write(
        b"POST /v1/sys/plugins/reload/auth/mock-plugin HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    )
    await node.asked.wait()

    await served.server.quiesce(0.1)

    answer = (await busy.read()).lower()
    assert answer.startswith(b"http/1.1 202 ")
    assert b"\r\nconnection: close\r\n" in answer
    assert await idle.read() == b""
    for writer in (asks, _idle):
        writer.close()


async def test_files_of_tls_that_cannot_be_read_are_an_error(node: Any, socket_path: str) -> None:
    tcp = Tcp("127.0.0.1:0", Tls("/nope.pem", "/nope.key"))

    with pytest.raises(Cannot, match=r"cannot use the files of tcp\.tls"):
        await Served(node, settings_for(socket_path, tcp=tcp), QUICK).server.start()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
async def test_the_kernel_says_who_calls(node: Any, rule: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is root's alone, and pytest keeps it so
        Path(folder).chmod(0o755)
        served = Served(node, settings_for(f"{folder}/s", access=[rule(uid=65534, may="read")]))
        await served.server.start()
        Path(served.path).chmod(0o666)
        read = await curl_as_nobody(served, "supervisor/instances")
        stop = await curl_as_nobody(served, "supervisor/stop/kv", "-XPOST")
        await served.server.stop(0)

    assert '"instances"' in read
    assert "permission denied" in stop
    assert node.audited[0][:2] == ("uid 65534 (curl)", "POST supervisor/stop/kv")


async def curl_as_nobody(served: Any, path: str, *words: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "--unix-socket", served.path, f"http://x/v1/{path}", *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        user=65534,
        group=65534,
        extra_groups=[],
    )
    out, _ = await process.communicate()
    return out.decode()
