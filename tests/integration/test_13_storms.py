"""Many crashes at once: in turn, at the daemon's pace, while people's commands wait for nobody."""

import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from harness import Plugind
from test_05_a_crash import SLEEPER, kill

COUNT = 20


def many(daemon: Plugind, text: str, settings: str, rate: str, count: int = COUNT) -> Plugind:
    daemon.settings(f"restarts: {rate}\n")
    mounts = {"root": {f"auth/m{number}": "{plugin: auth/mock}" for number in range(count)}}
    daemon.write({"v1": (daemon.plugin("plugin", text), [])}, mounts, "v1", settings)
    return daemon.start(ready=False)


def is_all_ready(daemon: Plugind) -> bool:
    return all(row["state"] == "ready" for row in daemon.rows().values())


def why(daemon: Plugind, mount: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.call("GET", f"supervisor/why/{mount}").data["transitions"]
    return found


def test_crashes_while_the_daemon_was_stopped_are_restarted_by_their_backoff_and_at_its_pace(
    plugind: Plugind,
) -> None:
    daemon = many(plugind, SLEEPER, "restart: {backoff: 50ms}", "{burst: 4, per_second: 20}")
    daemon.until(lambda: is_all_ready(daemon))
    assert daemon.process is not None
    pids = [pid for pid in daemon.pids().values() if pid]
    daemon.process.send_signal(signal.SIGSTOP)
    for pid in pids:
        kill(pid)
    daemon.process.send_signal(signal.SIGCONT)

    daemon.until(lambda: sum(row["restarts"] for row in daemon.rows().values()) == COUNT)
    daemon.until(lambda: is_all_ready(daemon))

    started = sorted(datetime.fromisoformat(row["started_at"]) for row in daemon.rows().values())
    assert (started[-1] - started[3]).total_seconds() > (COUNT - 4) / 20 * 0.9
    steps = [step for number in range(COUNT) for step in why(daemon, f"auth/m{number}")]
    waited = [step for step in steps if step["event"] == "paced"]
    assert len(waited) >= COUNT - 6
    assert all("20 restarts a second" in step["reason"] for step in waited)


def test_in_a_storm_no_mount_starves_and_a_reload_waits_for_nobody(plugind: Plugind) -> None:
    flag = plugind.folder / "mended"
    text = f"#!/bin/sh\n[ -e {flag} ] || exit 3\nexec sleep 1000\n"
    endless = "restart: {backoff: 1ms, max_backoff: 1ms, burst: 100000}"
    daemon = many(plugind, text, endless, "{burst: 1, per_second: 20}")

    def restarts() -> list[int]:
        return [row["restarts"] for row in daemon.rows().values()]

    daemon.until(lambda: sum(restarts()) >= 3 * COUNT)
    counted = restarts()
    daemon.until(lambda: "waits for its turn" in str([row["reason"] for row in daemon.rows().values()]))
    flag.touch()
    before = time.monotonic()
    answer = daemon.call("POST", "sys/plugins/reload/backend", {"mounts": ["auth/m7"]})
    took = time.monotonic() - before

    assert max(counted) - min(counted) <= 1
    assert answer.status == 200
    assert daemon.rows()["root:auth/m7"]["state"] == "ready"
    assert took < COUNT / 20 / 2, "it waited for its turn"


@pytest.mark.parametrize(
    ("end", "policy", "starts", "state"),
    [
        ("exit 0", "always", 3, "failed"),
        ("exit 0", "on-failure", 1, "stopped"),
        ("exit 0", "never", 1, "stopped"),
        ("kill -9 $$", "on-failure", 3, "failed"),
        ("kill -9 $$", "never", 1, "failed"),
    ],
)
def test_what_ends_at_once_is_started_as_often_as_its_policy_says(
    plugind: Plugind, end: str, policy: str, starts: int, state: str
) -> None:
    told = plugind.folder / "starts"
    text = f"#!/bin/sh\necho >> {told}\n{end}\n"
    restart = f"restart: {{policy: {policy}, backoff: 1ms, burst: 2}}"
    daemon = many(plugind, text, restart, "{burst: 100}", count=1)

    daemon.until(lambda: daemon.rows()["root:auth/m0"]["state"] == state)

    assert told.read_text().count("\n") == starts
    assert daemon.call("POST", "supervisor/start/auth/m0").data["result"] == "started"


@contextmanager
def no_new_processes(pid: int, folder: Path) -> Iterator[None]:
    """fork says EAGAIN to `pid`: by its limit, or, as that does not bind root, by strace."""
    if os.geteuid() != 0:
        before = resource.prlimit(pid, resource.RLIMIT_NPROC)
        resource.prlimit(pid, resource.RLIMIT_NPROC, (1, before[1]))
        yield
        resource.prlimit(pid, resource.RLIMIT_NPROC, before)
        return
    calls = "clone,clone3,vfork"
    output = folder / "trace"
    command = ["strace", "-f", "-p", str(pid), "-o", str(output), "-e", f"trace={calls}"]
    with subprocess.Popen(
        [*command, "-e", f"inject={calls}:error=EAGAIN"], stderr=subprocess.PIPE, text=True
    ) as tracer:
        assert tracer.stderr is not None
        assert "attached" in tracer.stderr.readline()
        yield
        tracer.terminate()
    assert "EAGAIN" in output.read_text()


@pytest.mark.skipif(
    os.geteuid() == 0 and not shutil.which("strace"),
    reason="strace is not installed: apt-get install strace",
)
def test_a_reload_while_the_machine_has_no_process_to_give_ends_ready(plugind: Plugind) -> None:
    path = plugind.plugin("plugin", SLEEPER)
    mounts = {"root": {"auth/mock": "{plugin: auth/mock}"}}
    plugind.write({"v1": (path, []), "v2": (path, ["x"])}, mounts, "v1")
    daemon = plugind.start()
    assert daemon.process is not None
    daemon.edit("pin: v1", "pin: v2")
    answers: list[Any] = []
    asker = threading.Thread(target=lambda: answers.append(daemon.reload()))

    with no_new_processes(daemon.process.pid, daemon.folder):
        asker.start()
        daemon.saw("instance_not_started")
        waiting = daemon.rows()["root:auth/mock"]
        daemon.until(lambda: sum(line["event"] == "instance_not_started" for line in daemon.log) >= 3)
    asker.join()

    assert (waiting["state"], waiting["restarts"]) == ("backoff", 0)
    assert "temporarily unavailable" in waiting["reason"]
    assert answers[0].status == 200
    (row,) = answers[0].data["mounts"]
    assert (row["result"], row["new_version"]) == ("reloaded", "v2")
