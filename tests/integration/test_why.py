"""`pluginctl why` over the end of a daemon, and what it calls what people asked for."""

import signal
import subprocess
from typing import Any

from harness import BIN, Plugind
from test_05_a_crash import SLEEPER, kill

STARTED = ["start", "spawned", "became_ready"]


def why(daemon: Plugind) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.call("GET", "supervisor/why/auth/mock").data["transitions"]
    return found


def running(daemon: Plugind) -> Plugind:
    mounts = {"root": {"auth/mock": "{plugin: auth/mock}"}}
    path = daemon.plugin("plugin", SLEEPER)
    daemon.write({"v1": (path, [])}, mounts, "v1", "restart: {backoff: 0s}")
    return daemon.start()


def restarted_after_a_crash(daemon: Plugind) -> None:
    kill(daemon.pids()["root:auth/mock"])
    daemon.until(lambda: daemon.rows()["root:auth/mock"]["restarts"] == 1)
    daemon.until(lambda: daemon.rows()["root:auth/mock"]["state"] == "ready")


def test_a_daemon_that_leaves_hands_everything_it_saw_to_the_next_one(plugind: Plugind) -> None:
    daemon = running(plugind)
    restarted_after_a_crash(daemon)
    before = why(daemon)
    daemon.stop(signal.SIGUSR1)

    daemon.start()

    after = why(daemon)
    assert [step["event"] for step in before][:3] == STARTED
    assert "signal 9 (SIGKILL)" in [step["reason"] for step in before]
    assert after[: len(before)] == before
    assert [step["event"] for step in after[len(before) :]] == ["adopted"]


def test_a_daemon_that_was_killed_has_kept_all_but_its_last_moments_and_the_gap_is_told(
    plugind: Plugind,
) -> None:
    daemon = running(plugind)
    restarted_after_a_crash(daemon)
    before = why(daemon)
    journal = daemon.folder / "run" / "transitions.jsonl"
    daemon.until(lambda: journal.exists() and len(journal.read_bytes().splitlines()) >= len(before))
    daemon.kill()

    daemon.start()

    after = why(daemon)
    assert after[: len(before)] == before
    assert [step["event"] for step in after[len(before) :]] == ["gap", "adopted"]
    assert "may be missing" in after[len(before)]["reason"]
    shown = subprocess.run(
        [BIN / "pluginctl", "--socket", daemon.socket, "why", "auth/mock"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "gap" in shown
    assert "plugind ended without a word" in shown


def test_starts_stops_and_restarts_are_called_so_and_reloads_by_ids_that_history_knows(
    plugind: Plugind,
) -> None:
    daemon = running(plugind)
    for verb in ("restart", "stop", "start"):
        assert daemon.call("POST", f"supervisor/{verb}/auth/mock").status == 200
    reload_id = daemon.reload().data["reload_id"]

    steps = why(daemon)

    assert [step["commands"] for step in steps if step["commands"]] == [["restart"], ["stop"], ["start"]]
    assert [step["reload_ids"] for step in steps if step["reload_ids"]] == [[reload_id]]
    assert daemon.call("GET", f"supervisor/reloads/{reload_id}").status == 200
