"""The samples of plugins/ run without plugind: what they promise it is checked from outside."""

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
# mock-plugin-slow takes 3 s a time and is 1.1.0 otherwise; test_shipped_catalog.py compares their texts
SERVING = ["mock-plugin-1.0.0", "mock-plugin-1.1.0", "kv-1.0.0", "kv-2.0.0"]
DEADLINE = 20.0
# what plugind gives every plugin; a version manager's python3 in the caller's PATH has no say
CLEAN = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/",
}
LINE = re.compile(r"(\d{6}) \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \S.*")


class Client:
    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(DEADLINE)
        self._socket.connect(str(path))
        self._answers = self._socket.makefile("rb")

    def ask(self, request: str) -> dict[str, object]:
        self._socket.sendall(request.encode() + b"\n")
        answer = json.loads(self._answers.readline())
        assert isinstance(answer, dict)
        return answer

    def is_hung_up_on_after(self, request: bytes) -> bool:
        try:
            self._socket.sendall(request)
            return self._answers.readline() == b""
        except (BrokenPipeError, ConnectionResetError):
            return True

    def close(self) -> None:
        self._answers.close()
        self._socket.close()


class Sample:
    """One process of a sample, in a folder of its own, with the socket it notifies."""

    def __init__(self, name: str, args: tuple[str, ...], env: dict[str, str], folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.socket = folder / f"{name.rpartition('-')[0]}.sock"
        self._told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._told.settimeout(DEADLINE)
        address = env.get("NOTIFY_SOCKET", str(folder / "notify"))
        self._told.bind("\0" + address[1:] if address.startswith("@") else address)
        self._clients: list[Client] = []
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [PLUGINS / name, *args],
            env=CLEAN | {"TMPDIR": str(folder), "NOTIFY_SOCKET": address} | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def next_notification(self) -> str:
        return self._told.recv(4096).decode()

    def wait_ready(self) -> "Sample":
        while not self.next_notification().startswith("READY=1\nSTATUS="):
            pass
        return self

    def client(self) -> Client:
        self._clients.append(Client(self.socket))
        return self._clients[-1]

    def ask(self, request: str) -> dict[str, object]:
        return self.client().ask(request)

    def finish(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, out, err

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        return self.finish()

    def clean_up(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=DEADLINE)
        self._told.close()
        for client in self._clients:
            client.close()


Start = Callable[..., Sample]


@pytest.fixture
def folder() -> Iterator[Path]:
    # pytest's own tmp_path may be too long for a Unix socket
    with tempfile.TemporaryDirectory(prefix="plugind-") as path:
        yield Path(path)


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    samples: list[Sample] = []

    def start_one(name: str, *args: str, **env: str) -> Sample:
        own = folder / str(len(samples))
        own.mkdir()
        samples.append(Sample(name, args, env, own))
        return samples[-1]

    yield start_one
    for sample in samples:
        sample.clean_up()


def version_of(name: str) -> str:
    return {"mock-plugin-slow": "v1.3.0-slow"}.get(name, f"v{name.rpartition('-')[2]}")


@pytest.mark.parametrize("name", [*SERVING, "mock-plugin-slow"])
def test_a_sample_says_ready_answers_and_stops_cleanly(start: Start, name: str) -> None:
    sample = start(name, PLUGIND_NAMESPACE="team-a/dev", PLUGIND_MOUNT="auth/mock", PLUGIND_INSTANCE="i-7")

    answer = sample.wait_ready().ask("version")
    status, out, err = sample.stop()

    assert answer["version"] == version_of(name)
    assert answer["namespace"] == "team-a/dev"
    assert answer["mount"] == "auth/mock"
    assert answer["instance"] == "i-7"
    assert answer["pid"] == sample.process.pid
    assert sample.next_notification().startswith("STOPPING=1\n")
    assert (status, err) == (0, "")
    assert not sample.socket.exists()
    assert out.splitlines()[-1].endswith("stopping on SIGTERM")


@pytest.mark.parametrize("name", SERVING)
def test_every_line_of_a_log_is_whole_numbered_and_has_a_time(start: Start, name: str) -> None:
    sample = start(
        name, PLUGIND_NAMESPACE="root", PLUGIND_MOUNT="kv", PLUGIND_PLUGIN="secret/kv", PLUGIND_VERSION="v9"
    )
    sample.wait_ready().ask("version")
    _, out, _ = sample.stop()

    found = [LINE.fullmatch(line) for line in out.splitlines()]

    assert [int(line[1]) for line in found if line] == list(range(1, len(found) + 1))
    assert "namespace=root mount=kv plugin=secret/kv version=v9 instance=-" in out.splitlines()[0]
    assert f" started {sample.socket.stem} {version_of(name)} pid={sample.process.pid} " in out
    assert f" listening on {sample.socket}\n" in out
    assert " request 'version': done\n" in out


@pytest.mark.parametrize("name", SERVING)
def test_a_sample_is_ready_within_80_ms(start: Start, name: str) -> None:
    def milliseconds() -> float:
        sample = start(name).wait_ready()
        return (time.monotonic() - sample.started) * 1000

    assert min(milliseconds() for _ in range(5)) < 80


@pytest.mark.parametrize("name", SERVING)
def test_a_sample_runs_by_hand_and_prints_where_it_listens(folder: Path, name: str) -> None:
    path = folder / "by-hand.sock"
    process = subprocess.Popen(
        [PLUGINS / name, "--socket", path],
        env=CLEAN,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout
        while not (line := process.stdout.readline()).endswith(f"listening on {path}\n"):
            assert line, "ended before it listened"
        client = Client(path)
        assert client.ask("version")["namespace"] == ""
        client.close()
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert not path.exists()


@pytest.mark.parametrize("name", SERVING)
def test_wrong_arguments_are_answered_with_the_usage(start: Start, name: str) -> None:
    status, out, err = start(name, "--sockte", "/x").finish()

    assert (status, out) == (1, "")
    assert err.startswith("usage: ")
    assert "[--socket PATH]" in err


@pytest.mark.parametrize("name", SERVING)
def test_an_abstract_notify_socket_is_told_too(start: Start, name: str) -> None:
    sample = start(name, NOTIFY_SOCKET=f"@plugind-test-{os.getpid()}-{name}").wait_ready()

    assert sample.stop()[0] == 0
    assert sample.next_notification().startswith("STOPPING=1\n")


@pytest.mark.parametrize("name", SERVING)
def test_a_supervisor_that_went_away_does_not_spoil_the_stop(start: Start, name: str) -> None:
    sample = start(name).wait_ready()
    (sample.folder / "notify").unlink()

    status, out, err = sample.stop()

    assert status == 0
    assert "error: cannot notify" in err
    assert out.endswith("stopping on SIGTERM\n")


@pytest.mark.parametrize("name", SERVING)
def test_what_python_finds_in_the_environment_is_ignored(start: Start, folder: Path, name: str) -> None:
    (folder / "json.py").write_text("raise SystemExit('the wrong json')")

    assert start(name, PYTHONPATH=str(folder)).wait_ready().ask("version")["version"] == version_of(name)


def test_a_sample_tells_its_own_version_whatever_the_catalog_calls_it(start: Start) -> None:
    sample = start("kv-1.0.0", PLUGIND_PLUGIN="secret/kv", PLUGIND_VERSION="v9.9.9").wait_ready()

    assert sample.ask("version")["version"] == "v1.0.0"


@pytest.mark.parametrize("name", ["mock-plugin-1.0.0", "mock-plugin-1.1.0", "mock-plugin-slow"])
def test_who_logs_in_gets_a_token_that_is_found_again(start: Start, name: str) -> None:
    sample = start(name).wait_ready()

    token = sample.ask("login alice")["token"]

    assert sample.ask(f"lookup {token}")["user"] == "alice"
    assert sample.ask("lookup nonsense") == {"error": "no such token"}
    assert str(token) not in sample.stop()[1]


def test_from_1_1_0_on_a_token_expires_and_can_be_ended(start: Start) -> None:
    old, new = start("mock-plugin-1.0.0").wait_ready(), start("mock-plugin-1.1.0").wait_ready()

    login = new.ask("login alice")

    assert login["ttl"] == 3600
    assert new.ask(f"logout {login['token']}") == {"user": "alice"}
    assert new.ask(f"lookup {login['token']}") == {"error": "no such token"}
    assert "ttl" not in old.ask("login alice")
    assert str(old.ask("logout x")["error"]).startswith("use: version, login NAME")


@pytest.mark.parametrize("name", ["kv-1.0.0", "kv-2.0.0"])
def test_what_was_put_is_got_until_it_is_deleted(start: Start, name: str) -> None:
    sample = start(name).wait_ready()

    sample.ask("put greeting hello  there")

    assert sample.ask("GET greeting")["value"] == "hello  there"
    assert sample.ask("delete greeting")["key"] == "greeting"
    assert "error" in sample.ask("get greeting")
    assert "error" in sample.ask("put greeting")
    out = sample.stop()[1]
    assert " request 'put greeting': done\n" in out
    assert "hello" not in out


def test_from_2_0_0_on_kv_keeps_versions_and_lists_keys(start: Start) -> None:
    old, new = start("kv-1.0.0").wait_ready(), start("kv-2.0.0").wait_ready()
    for number in range(1, 13):
        assert new.ask(f"put a value-{number}") == {"key": "a", "version": number}
    new.ask("put b other")

    assert new.ask("get a") == {"key": "a", "version": 12, "value": "value-12"}
    assert new.ask("get a 3") == {"key": "a", "version": 3, "value": "value-3"}
    assert new.ask("get a 2") == {"error": "no such key or version"}
    assert new.ask("get a newest") == {"error": "no such key or version"}
    assert new.ask("list") == {"keys": {"a": 12, "b": 1}}
    assert str(old.ask("list")["error"]).startswith("use: ")


@pytest.mark.parametrize("name", SERVING)
def test_a_hostile_client_costs_nobody_else_anything(start: Start, name: str) -> None:
    sample = start(name).wait_ready()
    idle = sample.client()

    assert "error" in sample.ask("")
    assert "error" in sample.ask("\x1b[31m\r\udcff".encode(errors="replace").decode())
    assert sample.client().is_hung_up_on_after(b"put k " + b"x" * 70_000 + b"\n")
    assert sample.client().is_hung_up_on_after(b"x" * 70_000)
    assert sample.ask("version") == idle.ask("version")

    status, out, err = sample.stop()
    assert (status, err) == (0, "")
    assert all(LINE.fullmatch(line) for line in out.split("\n")[:-1])
    assert "\x1b" not in out


@pytest.mark.parametrize("name", SERVING)
def test_the_socket_that_a_killed_run_left_behind_is_replaced(start: Start, folder: Path, name: str) -> None:
    path = folder / "shared.sock"
    start(name, "--socket", str(path)).wait_ready().stop(signal.SIGKILL)
    assert path.is_socket()

    sample = start(name, "--socket", str(path)).wait_ready()

    sample.socket = path
    assert sample.ask("version")["pid"] == sample.process.pid


@pytest.mark.parametrize("name", SERVING)
def test_a_path_that_is_in_use_is_not_taken(start: Start, folder: Path, name: str) -> None:
    first = start("kv-1.0.0", "--socket", str(folder / "taken")).wait_ready()
    (folder / "file").write_text("precious")

    for path, why in (
        (folder / "taken", "somebody answers there"),
        (folder / "file", "Address already in use"),
    ):
        status, _, err = start(name, "--socket", str(path)).finish()
        assert status == 1
        assert f"error: cannot listen on {path}: {why}" in err
    assert (folder / "file").read_text() == "precious"
    first.socket = folder / "taken"
    assert first.ask("version")["pid"] == first.process.pid


@pytest.mark.parametrize("name", SERVING)
def test_a_folder_too_long_for_a_socket_path_will_do(
    start: Start, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = folder / ("d" * 120)
    deep.mkdir()

    sample = start(name, TMPDIR=str(deep)).wait_ready()

    monkeypatch.chdir(deep)
    sample.socket = Path(sample.socket.name)
    assert sample.ask("version")["pid"] == sample.process.pid
    assert sample.stop()[0] == 0
    assert not sample.socket.exists()


@pytest.mark.parametrize("name", [*SERVING, "mock-plugin-broken"])
def test_a_second_living_instance_of_a_mount_is_a_violation(start: Start, folder: Path, name: str) -> None:
    oracle = folder / "oracle"
    oracle.mkdir()
    told = {"PLUGIND_ORACLE_DIR": str(oracle), "PLUGIND_NAMESPACE": "team-a/dev"}

    start("kv-1.0.0", **told, PLUGIND_MOUNT="auth/mock").wait_ready()
    start("kv-1.0.0", **told, PLUGIND_MOUNT="kv").wait_ready().stop()
    start("kv-2.0.0", **told, PLUGIND_MOUNT="kv").wait_ready()
    assert not (oracle / "violations").exists()

    second = start(name, **told, PLUGIND_MOUNT="auth/mock")
    if name == "mock-plugin-broken":
        second.finish()
    else:
        second.wait_ready()

    violations = (oracle / "violations").read_text().splitlines()
    assert len(violations) == 1
    assert violations[0].startswith("team-a+dev=auth+mock v")
    assert f" pid {second.process.pid}: another instance is alive" in violations[0]


def test_the_broken_version_exits_1_with_its_reason_on_stderr(start: Start) -> None:
    status, out, err = start("mock-plugin-broken").finish()

    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert LINE.fullmatch(err.rstrip("\n"))
    assert err.endswith(" error: cannot start mock-plugin v1.2.0-broken: it is broken on purpose\n")


def test_the_slow_version_is_ready_after_3_seconds(start: Start) -> None:
    sample = start("mock-plugin-slow")

    assert sample.next_notification().startswith("STATUS=mock-plugin v1.3.0-slow is warming up")
    assert not sample.socket.exists()
    assert sample.next_notification().startswith("READY=1\n")
    assert 3 <= time.monotonic() - sample.started < 5


def test_the_slow_version_can_be_stopped_before_it_is_ready(start: Start) -> None:
    sample = start("mock-plugin-slow")
    sample.next_notification()

    status, out, err = sample.stop()

    assert (status, err) == (0, "")
    assert "stopping: told to before it was ready" in out
    assert time.monotonic() - sample.started < 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", SERVING)
def test_a_stop_takes_effect_at_once(start: Start, name: str, number: signal.Signals) -> None:
    sample = start(name).wait_ready()
    idle = sample.client()  # who holds a connection holds nothing up
    began = time.monotonic()

    status, out, _ = sample.stop(number)

    assert status == 0
    assert out.endswith(f"stopping on {number.name}\n")
    assert time.monotonic() - began < 5
    assert idle.is_hung_up_on_after(b"version\n")
