"""On a terminal: colours, a width, a progress line; seen through a pseudo-terminal."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from datetime import UTC, datetime

import pytest

from supervisor.cli.commands import top
from supervisor.cli.progress import progress
from supervisor.cli.render import Look, visible, visible_lines

START = [sys.executable, "-m", "supervisor.cli.main"]


def on_a_terminal(*arguments, columns=80, meanwhile=lambda _: None, **environment):
    """What a terminal of that width is sent, and the exit status."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    clean = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with subprocess.Popen(
        [*START, *arguments], stdout=theirs, stderr=theirs, env={**clean, "TERM": "xterm", **environment}
    ) as process:
        os.close(theirs)
        try:
            meanwhile(process)
            seen = b""
            while piece := _read(ours):
                seen += piece
        except BaseException:
            process.kill()  # or it would be waited for without end
            raise
    os.close(ours)
    return seen.decode(errors="replace").replace("\r\n", "\n"), process.returncode


def _read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:  # EIO: nobody holds the other side any more
        return b""


@pytest.fixture
def a_failed_mount(daemon):
    row = {"namespace": "root", "mount": "kv", "type": "secret", "plugin": "kv", "state": "failed"}
    daemon.answer("GET supervisor/instances", {"instances": [{**row, "reason": "x" * 200}]})
    daemon.answer("GET supervisor/status", {})


@pytest.mark.usefixtures("a_failed_mount")
def test_a_line_is_cut_at_the_edge_and_the_state_is_coloured() -> None:
    seen, status = on_a_terminal("status", columns=100)

    assert status == 0
    line = seen.splitlines()[1]
    assert "\x1b[31mfailed\x1b[0m" in line
    assert len(line) == 100 + len("\x1b[31m\x1b[0m")
    assert line.endswith("x…")
    assert seen.endswith("\n… is cut here: pluginctl why MOUNT has the whole of it\n")


@pytest.mark.usefixtures("a_failed_mount")
@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_there_is_no_colour_where_none_is_wanted(environment) -> None:
    seen, _ = on_a_terminal("status", **environment)

    assert "\x1b" not in seen


def test_a_reload_shows_how_far_it_is_and_then_only_the_report(daemon) -> None:
    def rows(*results):
        return [{"namespace": "root", "mount": f"m{n}", "result": result} for n, result in enumerate(results)]

    request = "GET sys/plugins/reload/backend/status?reload_id=r-1"
    daemon.answer("POST sys/plugins/reload/auth/mock", {"reload_id": "r-1", "mounts": []}, status=202)
    daemon.answer(request, {"mounts": rows("reloaded", "failed", "pending"), "done": False})
    daemon.answer(request, {"mounts": [], "done": True})
    daemon.answer(
        "GET supervisor/reloads/r-1", {"reload_id": "r-1", "mounts": rows("reloaded"), "done": True}
    )

    seen, status = on_a_terminal("reload", "auth/mock", NO_COLOR="1")

    assert status == 0
    assert daemon.asked[0].body == {"wait": False}
    shown, _, report = seen.rpartition("\r\x1b[J")
    assert shown.startswith("\r\x1b[J+ root  m0/  reloaded  -  -\nx root  m1/  failed  -  -\n| root  m2/\n")
    assert "\n2 of 3 mounts done, 1 failed  " in shown
    assert shown.endswith("\x1b[3A")
    assert report == (
        "NAMESPACE  MOUNT  VERSION  PID  DOWN  RESULT    NOTE\n"
        "root       m0/    -        -    -     reloaded\n"
        "reload r-1: 1 reloaded\n"
    )


def test_a_reload_that_somebody_else_began_is_shown_in_the_same_way(daemon) -> None:
    request = "GET sys/plugins/reload/backend/status?reload_id=r-1"
    row = {"namespace": "root", "mount": "m", "result": "reloaded"}
    daemon.answer(request, {"mounts": [{**row, "result": "pending"}], "done": False})
    daemon.answer(request, {"mounts": [{**row, "result": "pending"}], "done": False})
    daemon.answer(request, {"mounts": [row], "done": True})
    daemon.answer("GET supervisor/reloads/r-1", {"reload_id": "r-1", "mounts": [row], "done": True})

    seen, status = on_a_terminal("reload-status", "--wait", "r-1", NO_COLOR="1")

    assert status == 0
    assert "| root  m/\n0 of 1 mount done" in seen
    assert seen.endswith("reload r-1: 1 reloaded\n")


def test_few_mounts_have_a_line_each_and_what_is_done_says_what_runs() -> None:
    state = {
        "mounts": [
            {
                "namespace": "team-a/dev",
                "mount": "auth/mock",
                "result": "rolled_back",
                "old_version": "v1",
                "new_version": "v1",
                "down_seconds": 0.25,
            },
            {"namespace": "root", "mount": "kv", "result": "pending"},
        ]
    }

    assert progress(state, 1.5, Look(), turn=1) == [
        "x team-a/dev  auth/mock/  rolled back  v1 → v1  250ms",
        "/ root        kv/",
        "1 of 2 mounts done, 1 rolled back  1.5s",
    ]


def test_many_mounts_share_a_bar_that_keeps_to_the_width() -> None:
    rows = [{"mount": f"m{n}", "result": "reloaded" if n < 300 else "pending"} for n in range(400)]

    assert progress({"mounts": rows}, 2.0, Look()) == [f"[{'#' * 22}{'.' * 8}] 300 of 400 mounts done  2.0s"]
    assert [len(line) for line in progress({"mounts": rows}, 2.0, Look(width=20))] == [19]


def test_a_log_on_a_terminal_shows_its_escapes_instead_of_obeying(daemon) -> None:
    body = "\x1b]0;title\x07é\tx\r".encode() + b"\xff\n"
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    daemon.raw("GET supervisor/logs/kv?lines=100", head + body)

    assert on_a_terminal("logs", "kv")[0] == "\\x1b]0;title\\x07é\tx\\r\\xff\n"
    assert on_a_terminal("logs", "kv", "--raw")[0].startswith("\x1b]0;title\x07")


def test_text_keeps_what_is_printed_and_escapes_the_rest() -> None:
    assert visible("plain é 漢") == "plain é 漢"
    assert visible("a\x1b\n\x9b\u202e\ud800") == "a\\x1b\\n\\x9b\\u202e\\ud800"
    assert visible_lines("a\n\tb\r\n\n") == "a\n    b\\r"


def test_a_change_is_written_with_what_the_output_can_show() -> None:
    assert Look().change("a", "b") == "a → b"
    assert Look(encoding="latin-1").change("a", "b") == "a -> b"
    assert Look().change("-", "b") == "b"
    assert Look().change("a", "-") == "a"


def a_busy_row(mount, cpu, **changes):
    row = {"namespace": "root", "mount": mount, "type": "secret", "plugin": "kv", "version": "v1", "pid": 5}
    return {**row, "state": "ready", "cpu_seconds": cpu, "memory_bytes": 13 << 19, "restarts": 0, **changes}


def test_top_puts_the_busiest_mount_first_and_keeps_to_the_screen() -> None:
    usage = top.Usage()
    usage.cores([a_busy_row("a", 1.0), a_busy_row("b", 1.0), a_busy_row("c", 1.0)], 10.0)
    rows = [a_busy_row("a", 1.1), a_busy_row("b", 2.0), a_busy_row("c", 0.5)]

    text = top.screen(rows, usage.cores(rows, 12.0), Look(), 6, datetime(2026, 1, 31, tzinfo=UTC))

    assert text == (
        "3 mounts: 3 ready\n"
        "NAMESPACE  MOUNT  PLUGIN     VERSION  STATE  PID  CPU  MEMORY  UP  RESTARTS\n"
        "root       b/     secret/kv  v1       ready    5  50%  6.5MiB  -          0\n"
        "root       a/     secret/kv  v1       ready    5   5%  6.5MiB  -          0\n"
    )


def test_top_leaves_the_terminal_as_it_was_at_ctrl_c(daemon) -> None:
    daemon.answer("GET supervisor/instances", {"instances": [a_busy_row("a", 1.0)]})

    def interrupt(process):
        while len(daemon.asked) < 3:
            os.sched_yield()
        process.send_signal(signal.SIGINT)

    seen, status = on_a_terminal("top", "--every", "0.1", meanwhile=interrupt)

    assert status == 0
    assert seen.startswith(top.BEGIN + top.TOP_LEFT + "1 mount: 1 ready\n")
    assert seen.endswith(top.END)


def test_top_without_a_terminal_is_wrong_usage(pluginctl) -> None:
    assert pluginctl("top").status == 2
