"""Whatever is at the other end, or at the end of the pipe: a sentence and an exit status, no traceback."""

import errno
import os
import signal
import socket
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor import wire
from supervisor.cli import client, follow
from supervisor.cli.client import default_socket

START = [sys.executable, "-m", "supervisor.cli.main"]


def test_no_socket_names_the_path_and_the_remedy(tmp_path, pluginctl) -> None:
    outcome = pluginctl("--socket", str(tmp_path / "none.sock"))

    assert (outcome.status, outcome.out) == (3, "")
    assert outcome.err == (
        f"pluginctl: cannot reach plugind at {tmp_path}/none.sock: no such file or directory; "
        "is plugind running? Try systemctl status plugind, or pass --socket PATH\n"
    )


def test_a_socket_that_nobody_serves_is_not_reachable(tmp_path, pluginctl) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(tmp_path / "c.sock"))
    outcome = pluginctl("status", "--socket", str(tmp_path / "c.sock"))

    assert outcome.status == 3
    assert "nobody listens there; is plugind running?" in outcome.err


@pytest.mark.usefixtures("daemon")
def test_a_socket_of_others_says_who_may(pluginctl, monkeypatch) -> None:
    def refuse(_self, _address):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)

    outcome = pluginctl()

    assert outcome.status == 3
    assert "permission denied; try it with sudo, or as a member of the group " in outcome.err


def test_a_socket_path_over_the_kernels_limit_is_reached_all_the_same(tmp_path, daemon, pluginctl) -> None:
    daemon.answer("GET supervisor/plan", {"mounts": []})
    deep = tmp_path / ("x" * 120)
    deep.symlink_to(tmp_path)

    assert pluginctl("plan", "--socket", str(deep / "c.sock")).status == 0


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "the connection was closed without one"),
        (b"SSH-2.0-OpenSSH\r\n", "it is no HTTP"),
        (b"\x00" * 70_000, "it is no HTTP"),
        (b"HTTP/1.1 200", "it is no HTTP"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "it is no HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 300, "it is no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "it ended in the middle"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}", "it is no HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "it is no HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", "it is no HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{}", "it ended in the middle"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<htm>", "it is no JSON"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000, "it is no JSON"),
        (b"HTTP/1.1 200 OK\r\n\r\n[]", "it is no JSON object"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"data": 5}', "its data is no JSON object"),
    ],
)
def test_an_answer_that_is_none_is_exit_status_3(daemon, pluginctl, answer, why) -> None:
    daemon.raw("POST sys/plugins/reload/auth/mock", answer)

    outcome = pluginctl("reload", "auth/mock")

    assert (outcome.status, outcome.out) == (3, "")
    assert f"cannot use the answer from {daemon.path}: {why}; " in outcome.err
    assert "may have been done: see pluginctl history" in outcome.err


def test_interim_answers_are_passed_over(daemon, pluginctl) -> None:
    body = b'HTTP/1.1 200 OK\r\ncontent-length: 22\r\n\r\n{"data":{"mounts":[]}}'
    daemon.raw("GET supervisor/plan", b"HTTP/1.1 100 Continue\r\n\r\n" + body)

    assert pluginctl("plan").status == 0


def test_an_error_without_a_reason_is_still_refused(daemon, pluginctl) -> None:
    daemon.raw("GET supervisor/plan", b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")

    outcome = pluginctl("plan")

    assert (outcome.status, outcome.err) == (2, "pluginctl: plugind answered 500 without a reason\n")


def test_a_daemon_that_says_nothing_is_given_up(pluginctl, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(client.Daemon.ask, "__kwdefaults__", {"quiet_for": 0.05})
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen()
        outcome = pluginctl("plan", "--socket", str(tmp_path / "silent.sock"))

    assert outcome.status == 3
    assert "nothing came in time; the daemon is stuck or overloaded" in outcome.err


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = sorted(
    {"instances", "mounts", "transitions", "reloads", "detailed", "catalog", "uses", "results", "version"}
    | {field for name in vars(wire).values() for field in getattr(name, "__struct_fields__", ())}
)
ROWS = st.dictionaries(st.sampled_from(KEYS), JSON, max_size=8)
DATA = st.dictionaries(st.sampled_from(KEYS), JSON | ROWS | st.lists(ROWS | JSON, max_size=3), max_size=8)
REQUESTS = {
    ("status", "-v"): ["GET supervisor/instances", "GET supervisor/status"],
    ("plan",): ["GET supervisor/plan"],
    ("apply",): ["POST supervisor/apply"],
    ("reload", "auth/x"): ["POST sys/plugins/reload/auth/x"],
    ("reload-status", "r"): [
        "GET sys/plugins/reload/backend/status?reload_id=r",
        "GET supervisor/reloads/r",
    ],
    ("stop", "kv"): ["POST supervisor/stop/kv"],
    ("why", "kv"): ["GET supervisor/why/kv"],
    ("history",): ["GET supervisor/reloads?limit=20"],
    ("catalog",): ["GET sys/plugins/catalog"],
    ("pin", "auth/x", "v1"): ["GET sys/plugins/pins/auth/x", "PUT sys/plugins/pins/auth/x"],
}


@given(data=DATA, command=st.sampled_from(sorted(REQUESTS)), status=st.sampled_from([200, 400]))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_data_of_any_shape_makes_no_traceback(daemon, pluginctl, data, command, status) -> None:
    daemon.answers.clear()
    for request in REQUESTS[command]:
        daemon.answer(request, data, status=status, errors=["x"])

    outcome = pluginctl(*command)

    assert outcome.status in {0, 1, 2}
    assert "\x1b" not in outcome.out + outcome.err


def test_a_reader_that_goes_away_ends_it_quietly(daemon) -> None:
    row = {"namespace": "root", "mount": "kv", "reason": "x" * 1000}
    daemon.answer("GET supervisor/instances", {"instances": [row] * 1000})
    daemon.answer("GET supervisor/status", {})

    run = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m supervisor.cli.main status | head -1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        check=False,
    )

    assert run.returncode == 141
    assert run.stdout.startswith(b"NAMESPACE")
    assert run.stderr == b""


def test_output_that_cannot_be_written_is_told(daemon) -> None:
    daemon.answer("GET supervisor/plan", {"mounts": []})

    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        run = subprocess.run([*START, "plan"], stdout=full, stderr=subprocess.PIPE, check=False)

    assert run.returncode == 2
    assert run.stderr == b"pluginctl: cannot write the output: No space left on device\n"


def test_closed_outputs_and_a_terminal_without_unicode_are_fine(daemon) -> None:
    rows = [{"namespace": "root", "mount": "kv", "action": "replace", "running_version": "v1", "plugin": "é"}]
    daemon.answer("GET supervisor/plan", {"mounts": [{**rows[0], "wanted_version": "v2"}]})
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}

    ascii_only = subprocess.run([*START, "plan"], env=environment, capture_output=True, check=True)
    closed = subprocess.run(["bash", "-c", f"{' '.join(START)} plan >&- 2>&-"], check=False)

    assert b"\\xe9" in ascii_only.stdout
    assert b"v1 -> v2" in ascii_only.stdout
    assert closed.returncode == 0


def test_ctrl_c_leaves_the_reload_running_and_says_how_to_follow_it(daemon) -> None:
    daemon.answer("POST sys/plugins/reload/auth/mock", {"reload_id": "r-1", "mounts": []}, status=202)
    daemon.answer("GET sys/plugins/reload/backend/status?reload_id=r-1", {"mounts": [], "done": False})

    with subprocess.Popen([*START, "reload", "auth/mock"], stderr=subprocess.PIPE) as process:
        while len(daemon.asked) < 3:  # it follows
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()

    assert process.returncode == 130
    assert err == (
        b"pluginctl: interrupted; r-1 goes on: follow it with pluginctl reload-status --wait r-1\n"
    )


def test_a_daemon_that_stays_away_is_given_up_and_the_id_is_told(daemon, pluginctl, monkeypatch) -> None:
    monkeypatch.setattr(follow, "PATIENCE", 0.05)
    daemon.answer("POST sys/plugins/reload/auth/mock", {"reload_id": "r-1", "mounts": []}, status=202)
    daemon.raw("GET sys/plugins/reload/backend/status?reload_id=r-1", b"")

    outcome = pluginctl("reload", "auth/mock")

    assert outcome.status == 3
    assert outcome.err.endswith("\nr-1 may still be under way: pluginctl reload-status r-1\n")


def test_the_socket_is_found_where_the_daemon_puts_it(monkeypatch) -> None:
    there: set[str] = set()
    monkeypatch.setattr(os.path, "exists", there.__contains__)
    user = {"XDG_RUNTIME_DIR": "/run/user/7", "HOME": "/home/x"}

    assert default_socket(7, {"PLUGIND_SOCKET": "/x.sock", **user}) == "/x.sock"
    assert default_socket(0, user) == "/run/plugind/control.sock"
    assert default_socket(7, user) == "/run/user/7/plugind/control.sock"
    assert default_socket(7, {"HOME": "/home/x"}) == "/home/x/.local/state/plugind/run/control.sock"
    there.add("/run/plugind/control.sock")
    assert default_socket(7, user) == "/run/plugind/control.sock"
    there.add("/run/user/7/plugind/control.sock")
    assert default_socket(7, user) == "/run/user/7/plugind/control.sock"


def test_exit_statuses_are_those_of_the_contract() -> None:
    assert follow.SOME_FAILED == wire.EXIT_SOME_FAILED
    assert client.Refused.exit_code == wire.EXIT_REFUSED
    assert client.NotReachable.exit_code == wire.EXIT_UNREACHABLE


def test_status_imports_nothing_heavy(daemon) -> None:
    daemon.answer("GET supervisor/instances", {"instances": []})
    daemon.answer("GET supervisor/status", {})
    program = (
        "import sys; from supervisor.cli.main import main; main(['status']); "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & set(sys.argv[1:])))"
    )
    heavy = [
        "rich",
        "aiohttp",
        "asyncio",
        "psutil",
        "msgspec",
        "yaml",
        "http",
        "pkgutil",
        "hashlib",
    ]

    run = subprocess.run([sys.executable, "-c", program, *heavy], capture_output=True, text=True, check=True)

    assert run.stdout == "0 mounts\n[]\n"
