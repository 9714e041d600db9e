"""Guarantee 5: a crash is seen at once, restarted with backoff, and a crash loop ends in `failed`."""

import os
import shutil
import signal
from datetime import datetime

import pytest
from harness import Plugind

SLEEPER = "#!/bin/sh\nexec sleep 1000\n"


def kill(pid: int) -> None:
    handle = os.pidfd_open(pid)
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    os.close(handle)


def running(daemon: Plugind, text: str, settings: str) -> Plugind:
    path = daemon.plugin("plugin", text)
    mounts = {"root": {"auth/mock": "{plugin: auth/mock}", "auth/other": "{plugin: auth/mock, args: [x]}"}}
    daemon.write({"v1": (path, [])}, mounts, "v1", settings)
    return daemon.start(ready=False)


def test_a_killed_plugin_is_back_with_a_new_pid(plugind: Plugind) -> None:
    daemon = running(plugind, SLEEPER, "restart: {backoff: 0s}")
    daemon.until(lambda: all(row["state"] == "ready" for row in daemon.rows().values()))
    before = daemon.pids()

    kill(before["root:auth/mock"])

    daemon.saw("instance_exited", pid=before["root:auth/mock"], reason="signal 9 (SIGKILL)")
    daemon.until(lambda: daemon.rows()["root:auth/mock"]["pid"] not in {None, before["root:auth/mock"]})
    row = daemon.rows()["root:auth/mock"]
    assert (row["state"], row["restarts"], row["last_exit"]) == ("ready", 1, "signal 9 (SIGKILL)")
    assert daemon.pids()["root:auth/other"] == before["root:auth/other"]


def test_a_crash_loop_ends_in_failed_with_a_reason_and_start_ends_that(plugind: Plugind) -> None:
    flag = plugind.folder / "mended"
    text = f'#!/bin/sh\n[ "$1" = x ] || [ -e {flag} ] || exit 9\nexec sleep 1000\n'
    daemon = running(plugind, text, "restart: {backoff: 1ms, burst: 3, within: 60s}")

    failed = daemon.saw("mount_failed", mount="auth/mock")

    assert "exit 9" in failed["reason"]
    assert "4 crashes within 1m" in failed["reason"]
    rows = daemon.rows()
    assert rows["root:auth/mock"]["state"] == "failed"
    assert (rows["root:auth/other"]["state"], rows["root:auth/other"]["restarts"]) == ("ready", 0)
    flag.touch()
    assert daemon.call("POST", "supervisor/start/auth/mock").data["result"] == "started"
    assert daemon.rows()["root:auth/mock"]["state"] == "ready"


def test_a_reload_does_not_wait_for_the_backoff(plugind: Plugind) -> None:
    flag = plugind.folder / "mended"
    text = f'#!/bin/sh\n[ "$1" = x ] || [ -e {flag} ] || exit 9\nexec sleep 1000\n'
    daemon = running(plugind, text, "restart: {backoff: 1h, max_backoff: 1h}")
    daemon.until(lambda: daemon.rows()["root:auth/mock"]["state"] == "backoff")
    flag.touch()

    answer = daemon.reload()

    assert answer.status == 200
    assert daemon.rows()["root:auth/mock"]["state"] == "ready"


def gaps(daemon: Plugind, mount: str) -> list[float]:
    """Seconds from each end of an instance to the start of the next one, which is ready at once."""
    told = [entry for entry in daemon.log if entry.get("mount") == mount]
    ends = [entry["timestamp"] for entry in told if entry["event"] == "instance_exited"]
    starts = [entry["timestamp"] for entry in told if entry["event"] == "instance_ready"][1:]
    return [
        (datetime.fromisoformat(start) - datetime.fromisoformat(end)).total_seconds()
        for end, start in zip(ends, starts, strict=False)
    ]


def test_pauses_double_from_crash_to_crash_and_begin_anew_after_one_that_ran_well(plugind: Plugind) -> None:
    """Ready for `within` is to have run well (RS2): no number of such crashes ends in `failed` either."""
    text = '#!/bin/sh\n[ "$1" = x ] && exec sleep 0.4\nexit 9\n'
    daemon = running(plugind, text, "restart: {backoff: 300ms, max_backoff: 1h, burst: 3, within: 300ms}")

    daemon.until(lambda: len(gaps(daemon, "auth/mock")) >= 3 and len(gaps(daemon, "auth/other")) >= 4)

    grows, well = gaps(daemon, "auth/mock"), gaps(daemon, "auth/other")
    assert all(gap >= pause for gap, pause in zip(grows, (0.3, 0.6, 1.2), strict=False))
    assert all(gap >= 0.3 for gap in well)
    assert well[3] < 8 * 0.3, "it would have waited for so long without having run well"
    assert daemon.rows()["root:auth/other"]["state"] != "failed"


def test_why_tells_the_last_transitions_with_their_reasons(plugind: Plugind) -> None:
    daemon = running(plugind, SLEEPER, "restart: {backoff: 0s}")
    daemon.until(lambda: all(row["state"] == "ready" for row in daemon.rows().values()))
    kill(daemon.pids()["root:auth/mock"])
    daemon.until(lambda: daemon.rows()["root:auth/mock"]["restarts"] == 1)

    steps = daemon.call("GET", "supervisor/why/auth/mock").data["transitions"]

    assert [step["event"] for step in steps][:3] == ["start", "spawned", "became_ready"]
    exited = next(step for step in steps if step["event"] == "exited")
    assert (exited["before"], exited["reason"]) == ("ready", "signal 9 (SIGKILL)")


@pytest.mark.parametrize("between", ["a restart", "a reboot"])
def test_a_stop_by_hand_holds_over_what_comes_between_until_start(plugind: Plugind, between: str) -> None:
    """A reboot leaves no process, and nothing in the runtime_dir (ST5)."""
    daemon = running(plugind, SLEEPER, "")
    daemon.until(lambda: all(row["state"] == "ready" for row in daemon.rows().values()))
    assert daemon.call("POST", "supervisor/stop/auth/mock").data["result"] == "stopped"
    daemon.stop()
    if between == "a reboot":
        shutil.rmtree(daemon.folder / "run")
        daemon.socket.unlink(missing_ok=True)

    daemon.start(ready=False)
    daemon.until(lambda: daemon.rows()["root:auth/other"]["state"] == "ready")

    row = daemon.rows()["root:auth/mock"]
    assert (row["state"], row["pid"]) == ("stopped", None)
    assert row["stopped_by"]
    assert daemon.call("POST", "supervisor/apply", {}).status == 200
    assert daemon.rows()["root:auth/mock"]["state"] == "stopped"
    assert {row["mount"]: row["result"] for row in daemon.reload().data["mounts"]}["auth/mock"] == "skipped"
    kill(daemon.pids()["root:auth/other"])
    daemon.until(lambda: daemon.rows()["root:auth/other"]["restarts"] == 1)
    assert daemon.rows()["root:auth/mock"]["state"] == "stopped"
    daemon.call("POST", "supervisor/start/auth/mock")
    assert daemon.rows()["root:auth/mock"]["state"] == "ready"
