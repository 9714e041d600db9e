"""The end of the daemon by SIGTERM, while everything else goes on too.

With FULL_SIZE=1 in the environment there are as many mounts as CASES.md says (SG1: 500, SG2: 100), which
takes a minute; -rP shows the figures.
"""

import os
import signal
import threading
import time
from collections import Counter
from typing import Any

from harness import Plugind, is_alive, processes_below

STARTING, RELOADING = (500, 100) if os.environ.get("FULL_SIZE") else (60, 30)
"""Mounts that are being started and mounts that are being reloaded."""
IGNORES = "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n"


def mounts(count: int, settings: str = "") -> dict[str, dict[str, str]]:
    more = f", {settings}" if settings else ""
    return {"root": {f"auth/m{number}": f"{{plugin: auth/mock{more}}}" for number in range(count)}}


def test_sigterm_during_the_start_of_many_that_are_slow_to_be_ready_ends_in_time_and_leaves_nothing(
    plugind: Plugind,
) -> None:
    path = plugind.plugin("plugin", IGNORES)
    settings = "ready: {kind: unix, path: $TMPDIR/never}\nstop: {timeout: 1s}"
    plugind.write({"v1": (path, [])}, mounts(STARTING), "v1", settings)
    plugind.start(ready=False)
    plugind.until(lambda: sum(row["pid"] is not None for row in plugind.rows().values()) > STARTING / 3)
    started = len(plugind.living())

    began = time.monotonic()
    status = plugind.stop()

    assert status == 0
    took = time.monotonic() - began
    print(f"{STARTING} mounts, {started} processes: ended {took:.2f} s after SIGTERM")
    assert took < 1.0 + 5.0
    assert plugind.living() == set()
    assert not list((plugind.folder / "run" / "instances").glob("*.json"))
    assert not list((plugind.folder / "run" / "tmp").iterdir())


def test_signals_of_every_kind_during_a_reload_of_many(plugind: Plugind) -> None:
    forks = "#!/bin/sh\nwhile :; do (:); (:); sleep 0.1; done\n"  # and a child of ours that forks ends too
    path = plugind.plugin("plugin", forks)
    plugind.write({"v1": (path, []), "v2": (path, ["x"])}, mounts(RELOADING), "v1")
    daemon = plugind.start()
    assert daemon.process is not None
    daemon.edit("pin: v1", "pin: v2")
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(daemon.reload())
        except OSError as error:
            answers.append(error)

    asker = threading.Thread(target=ask)
    asker.start()
    daemon.until(lambda: any(row["version"] == "v2" for row in daemon.rows().values()))
    for _ in range(50):
        daemon.process.send_signal(signal.SIGHUP)
        daemon.process.send_signal(signal.SIGCHLD)
    twice = [len(pids) for pids in _pids_by_mount(daemon).values() if len(pids) > 1]
    daemon.process.send_signal(signal.SIGTERM)
    daemon.process.send_signal(signal.SIGTERM)

    began = time.monotonic()
    status = daemon.stop()
    took = time.monotonic() - began
    asker.join(10)
    print(f"{RELOADING} mounts: ended {took:.2f} s after SIGTERM")

    assert status == 0
    assert twice == []
    assert len(answers) == 1, "neither an answer nor a clean close"
    if not isinstance(answers[0], OSError):
        results = Counter(row["result"] for row in answers[0].data["mounts"])
        print(f"the client was told {dict(results)}")
        assert results.keys() <= {"reloaded", "skipped"}
    assert daemon.living() == set()


def _pids_by_mount(daemon: Plugind) -> dict[str, set[int]]:
    """Main processes that live, by mount, as /proc knows them: session leaders with the mark."""
    found: dict[str, set[int]] = {}
    for pid, environ in processes_below(daemon.folder).items():
        try:
            leads = os.getsid(pid) == pid
        except ProcessLookupError:
            continue
        if leads:
            words = dict(word.split("=", 1) for word in environ.split() if "=" in word)
            found.setdefault(words["PLUGIND_MOUNT"], set()).add(pid)
    return found


def test_a_plugin_that_ends_by_itself_during_the_shutdown_is_no_crash(plugind: Plugind) -> None:
    flag = plugind.folder / "end"
    text = (
        f"#!/bin/sh\n[ \"$1\" = slow ] && trap 'touch {flag}' TERM || trap '' TERM\n"
        f'while [ "$1" = slow ] || ! [ -e {flag} ]; do sleep 0.02; done\nexit 7\n'
    )
    path = plugind.plugin("plugin", text)
    both = {"root": {"auth/slow": "{plugin: auth/mock, args: [slow]}", "auth/mock": "{plugin: auth/mock}"}}
    settings = "stop: {timeout: 1s}\nrestart: {backoff: 0s}"
    plugind.write({"v1": (path, [])}, both, "v1", settings)
    plugind.start()
    pids = plugind.pids()
    plugind.until(lambda: sum(entry["event"] == "instance_ready" for entry in plugind.log) == 2)
    seen = len(plugind.log)

    status = plugind.stop()

    assert status == 0
    told = [entry["event"] for entry in plugind.log[seen:]]
    assert told.count("mount_stopped") == 2
    assert not {"instance_exited", "instance_ready", "mount_failed"} & set(told)
    assert not any(is_alive(pid) for pid in pids.values())
    flag.unlink()
    plugind.start()
    assert {row["restarts"] for row in plugind.rows().values()} == {0}
