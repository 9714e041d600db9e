"""What a plugin says of itself over NOTIFY_SOCKET, also to a daemon that is not there, and new settings."""

import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from harness import Plugind
from test_05_a_crash import SLEEPER

NOTIFIER = f"""#!{sys.executable} -IS
import os, pathlib, signal, socket, sys, time
def say(text):
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        peer.sendto(text, os.environ["NOTIFY_SOCKET"])
    except OSError as error:
        pathlib.Path(sys.argv[1] + ".failed").write_text(str(error))
say(b"STATUS=warming up")
if "extend" in sys.argv:
    say(b"EXTEND_TIMEOUT_USEC=60000000")
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
say(b"READY=1")
signal.pause()
"""
MOUNTS = {"root": {"auth/mock": "{plugin: auth/mock}"}}


def notifier(daemon: Plugind, *args: str, timeout: str) -> Path:
    flag = daemon.folder / "go"
    path = daemon.plugin("plugin", NOTIFIER)
    settings = f"ready: {{kind: notify, timeout: {timeout}}}"
    daemon.write({"v1": (path, [str(flag), *args])}, MOUNTS, "v1", settings)
    daemon.start(ready=False)
    return flag


def state(daemon: Plugind) -> str:
    return str(daemon.rows()["root:auth/mock"]["state"])


def test_what_a_plugin_says_is_shown_and_more_time_is_given_where_it_asks_for_it(plugind: Plugind) -> None:
    flag = notifier(plugind, "extend", timeout="500ms")
    plugind.until(lambda: plugind.rows()["root:auth/mock"]["says"] == "warming up")
    pid = plugind.pids()["root:auth/mock"]
    began = plugind.rows()["root:auth/mock"]["started_at"]
    plugind.until(lambda: _age(plugind) > 1.0)
    waiting = state(plugind)
    flag.touch()

    plugind.until(lambda: state(plugind) == "ready")

    assert waiting == "starting"
    assert plugind.pids()["root:auth/mock"] == pid
    assert plugind.rows()["root:auth/mock"]["started_at"] == began


def _age(daemon: Plugind) -> float:
    started = datetime.fromisoformat(daemon.rows()["root:auth/mock"]["started_at"])
    return (datetime.now(UTC) - started).total_seconds()


def test_one_that_said_ready_while_no_plugind_ran_is_not_killed_for_it(plugind: Plugind) -> None:
    flag = notifier(plugind, timeout="1s")
    plugind.until(lambda: plugind.rows()["root:auth/mock"]["says"] == "warming up")
    pid = plugind.pids()["root:auth/mock"]
    plugind.kill()
    flag.touch()
    failed = Path(f"{flag}.failed")
    plugind.until(failed.exists)

    plugind.start(ready=False)
    told = plugind.saw("instance_taken_as_ready", pid=pid)

    row = plugind.rows()["root:auth/mock"]
    assert (row["state"], row["pid"]) == ("ready", pid)
    assert row["reason"] == told["reason"] == "taken as ready: adopted, and silent for 1s since"
    plugind.stop(signal.SIGUSR1)
    plugind.start()
    assert plugind.pids()["root:auth/mock"] == pid


def test_one_that_says_ready_to_the_next_plugind_is_ready_without_a_guess(plugind: Plugind) -> None:
    flag = notifier(plugind, timeout="10s")
    plugind.until(lambda: plugind.rows()["root:auth/mock"]["says"] == "warming up")
    plugind.kill()
    plugind.start(ready=False)
    waiting = state(plugind)

    flag.touch()
    plugind.until(lambda: state(plugind) == "ready")

    assert waiting == "starting"
    assert plugind.rows()["root:auth/mock"]["reason"] is None


def test_liveness_that_was_changed_by_apply_holds_for_what_runs(plugind: Plugind) -> None:
    path = plugind.plugin("plugin", SLEEPER)
    plugind.write({"v1": (path, [])}, MOUNTS, "v1")
    plugind.start()
    pid = plugind.pids()["root:auth/mock"]
    missing = plugind.folder / "missing.sock"
    liveness = f"liveness: {{kind: unix, path: {missing}, interval: 50ms, failures: 2}}"
    plugind.write({"v1": (path, [])}, MOUNTS, "v1", liveness)

    (row,) = plugind.call("POST", "supervisor/apply", {}).data["mounts"]
    plugind.until(lambda: plugind.rows()["root:auth/mock"]["restarts"] > 0)

    assert row["result"] == "unchanged"
    assert row["new_pid"] in {None, pid}
    why = plugind.call("GET", "supervisor/why/auth/mock").data["transitions"]
    assert "not alive, 2 times in a row" in next(
        step["reason"] for step in why if step["event"] == "probe_failed"
    )
    plugind.write({"v1": (path, [])}, MOUNTS, "v1")
    plugind.call("POST", "supervisor/apply", {})
    plugind.until(lambda: state(plugind) == "ready")
