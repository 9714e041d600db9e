"""Guarantee 4: a bad version never takes a mount down."""

import re
from pathlib import Path
from typing import Any

import pytest
from harness import Plugind, is_alive, send

SLEEPER = "#!/bin/sh\nexec sleep 1000\n"
SAYS_READY = """#!/usr/bin/env -S python3 -IS
import os, socket, time
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
time.sleep(1000)
"""
MOUNT = {"root": {"auth/mock": "{plugin: auth/mock}"}}
FAST = "stop: {timeout: 500ms}\nready: {timeout: 700ms}"


def running(daemon: Plugind, bad: str, settings: str = FAST) -> Plugind:
    good, new = daemon.plugin("good", SLEEPER), daemon.plugin("bad", bad)
    daemon.write(
        {"v1": (good, []), "v2": (new, [])}, {"root": {"auth/mock": "{plugin: auth/mock}"}}, "v1", settings
    )
    daemon.start()
    daemon.edit("pin: v1", "pin: v2")
    return daemon


SETTLES = FAST.replace("ready: {timeout: 700ms}", "ready: {settle: 300ms, timeout: 2s}")


@pytest.mark.parametrize(
    ("bad", "settings", "reason"),
    [
        (
            "#!/bin/sh\necho cannot open the database >&2\nexit 3\n",
            SETTLES,
            "ended before it was ready: exit 3",
        ),
        ("#!/bin/sh\nkill -SEGV $$\n", SETTLES, "ended before it was ready: signal 11 (SIGSEGV)"),
    ],
    ids=["exits at once", "crashes at once"],
)
def test_a_version_that_does_not_start_gives_way_to_the_one_before(
    plugind: Plugind, bad: str, settings: str, reason: str
) -> None:
    daemon = running(plugind, bad, settings)

    answer = daemon.reload()

    [row] = answer.data["mounts"]
    assert answer.status == 400
    assert (row["result"], row["old_version"], row["new_version"]) == ("rolled_back", "v1", "v1")
    assert row["error"] == reason
    now = daemon.rows()["root:auth/mock"]
    assert (now["state"], now["version"], now["pinned_version"]) == ("ready", "v1", "v2")
    assert now["rolled_back_from"] == "v2"
    assert is_alive(now["pid"])
    assert row["new_pid"] == now["pid"]
    assert reason in answer.error


def test_the_answer_has_the_last_log_lines_of_the_version_that_failed(plugind: Plugind) -> None:
    daemon = running(plugind, "#!/bin/sh\necho cannot open the database >&2\nexit 3\n", SETTLES)

    [row] = daemon.reload().data["mounts"]

    assert row["log"] == ["cannot open the database"]


def test_a_version_that_never_says_ready_is_rolled_back_after_its_timeout(plugind: Plugind) -> None:
    good, bad = plugind.plugin("good", SAYS_READY), plugind.plugin("bad", SLEEPER)
    plugind.write(
        {"v1": (good, []), "v2": (bad, [])},
        {"root": {"auth/mock": "{plugin: auth/mock}"}},
        "v1",
        "stop: {timeout: 500ms}\nready: {kind: notify, timeout: 2s}",
    )
    plugind.start()
    plugind.edit("pin: v1", "pin: v2")

    [row] = plugind.reload().data["mounts"]

    assert row["result"] == "rolled_back"
    assert row["error"].startswith("not ready in 2s")
    assert plugind.rows()["root:auth/mock"]["version"] == "v1"


def test_a_version_that_dies_after_it_was_ready_is_rolled_back_and_the_answer_amended(
    plugind: Plugind,
) -> None:
    daemon = running(plugind, "#!/bin/sh\nsleep 0.5\nexit 4\n", FAST + "\nreload: {watch: 10s}")

    answer = daemon.reload()

    assert answer.status == 200
    assert answer.data["mounts"][0]["result"] == "reloaded"
    told = daemon.saw("reload_rolled_back")
    assert re.fullmatch(r"ended .+s after it was ready: exit 4", told["reason"])
    daemon.until(lambda: daemon.rows()["root:auth/mock"]["version"] == "v1")
    report = f"supervisor/reloads/{answer.data['reload_id']}"
    daemon.until(lambda: daemon.call("GET", report).data["mounts"][0]["result"] == "rolled_back")
    status = daemon.call(
        "GET", f"sys/plugins/reload/backend/status?reload_id={answer.data['reload_id']}"
    ).data
    assert "exit 4" in status["results"]["test"]["error"]


@pytest.mark.parametrize("how", ["upgraded", "killed"])
def test_the_answer_is_amended_too_by_the_next_plugind(plugind: Plugind, how: str) -> None:
    daemon = running(plugind, SLEEPER + "# another one\n", FAST + "\nreload: {watch: 60s}")
    answered = daemon.reload().data
    row = answered["mounts"][0]
    assert row["result"] == "reloaded"
    memory = daemon.folder / "state" / "mounts.json"
    daemon.until(lambda: answered["reload_id"] in memory.read_text())
    if how == "killed":
        daemon.kill()
        daemon.start()
    else:
        daemon.call("POST", "supervisor/upgrade", {})
        daemon.saw("upgrade_done")

    send(row["new_pid"])

    def amended() -> dict[str, Any]:
        found: dict[str, Any] = daemon.call("GET", f"supervisor/reloads/{answered['reload_id']}").data
        return found["mounts"][0]

    daemon.until(lambda: amended()["result"] == "rolled_back")
    now = amended()
    assert "after it was ready" in now["error"]
    assert (now["old_version"], now["old_pid"]) == (row["old_version"], row["old_pid"])
    assert now["new_pid"] == daemon.pids()["root:auth/mock"]
    daemon.until(lambda: answered["reload_id"] not in memory.read_text())


def test_a_crash_after_a_rollback_restarts_the_good_version_and_so_does_a_new_daemon(
    plugind: Plugind,
) -> None:
    daemon = running(plugind, "#!/bin/sh\nexit 3\n", SETTLES + "\nrestart: {backoff: 0s}")
    daemon.reload()
    pid = daemon.rows()["root:auth/mock"]["pid"]

    daemon.call("POST", "supervisor/restart/auth/mock")
    assert daemon.rows()["root:auth/mock"]["version"] == "v1"
    daemon.until(lambda: daemon.rows()["root:auth/mock"]["pid"] != pid)
    daemon.stop()
    daemon.start()

    row = daemon.rows()["root:auth/mock"]
    assert (row["version"], row["pinned_version"], row["rolled_back_from"]) == ("v1", "v2", "v2")


def test_the_next_reload_tries_the_pin_again(plugind: Plugind) -> None:
    flag = plugind.folder / "mended"
    daemon = running(plugind, f"#!/bin/sh\n[ -e {flag} ] || exit 3\nexec sleep 1000\n", SETTLES)
    assert daemon.reload().data["mounts"][0]["result"] == "rolled_back"
    flag.touch()

    answer = daemon.reload()

    assert answer.data["mounts"][0]["result"] == "reloaded"
    row = daemon.rows()["root:auth/mock"]
    assert (row["version"], row["rolled_back_from"]) == ("v2", None)


def test_what_comes_back_has_its_own_arguments_environment_and_limits(plugind: Plugind) -> None:
    good, bad = plugind.plugin("good", SLEEPER), plugind.plugin("bad", "#!/bin/sh\nexit 3\n")
    plugind.write({"v1": (good, []), "v2": (bad, ["--two"])}, MOUNT, "v1", SETTLES)
    plugind.edit("args: []", "args: [--one], env: {LEVEL: one}, limits: {nofile: 77}, umask: '027'")
    plugind.edit('["--two"]', '["--two"], env: {LEVEL: two}, limits: {nofile: 99}')
    plugind.start()
    before = _made_of(plugind)
    plugind.edit("pin: v1", "pin: v2")

    [row] = plugind.reload().data["mounts"]

    assert row["result"] == "rolled_back"
    assert row["old_pid"] != row["new_pid"]
    assert _made_of(plugind) == before
    assert (before[1], before[2]) == ("LEVEL=one", "77")


def _made_of(daemon: Plugind) -> tuple[str, str, str, str]:
    """Command line, LEVEL, open files and umask, once the shell has come to its end."""
    proc = Path(f"/proc/{daemon.rows()['root:auth/mock']['pid']}")
    daemon.until(lambda: "sleep" in (proc / "cmdline").read_text())
    files = next(
        line for line in (proc / "limits").read_text().splitlines() if line.startswith("Max open files")
    )
    level = next(name for name in (proc / "environ").read_text().split("\0") if name.startswith("LEVEL="))
    umask = next(line for line in (proc / "status").read_text().splitlines() if line.startswith("Umask"))
    return (proc / "cmdline").read_text(), level, files.split()[3], umask


def test_the_next_plugind_ends_a_trial_and_what_comes_back_is_treated_as_when_it_worked(
    plugind: Plugind,
) -> None:
    good, bad = plugind.plugin("good", SLEEPER), plugind.plugin("bad", SLEEPER + "# never ready\n")
    plugind.write({"v1": (good, []), "v2": (bad, [])}, MOUNT, "v1", "stop: {timeout: 500ms}")
    text = plugind.catalog.read_text()
    at = text.index("        v2: {") + len("        v2: {")
    plugind.catalog.write_text(f"{text[:at]}ready: {{kind: notify, timeout: 3s}}, {text[at:]}")
    plugind.start()
    plugind.edit("pin: v1", "pin: v2")
    plugind.reload(wait=False)
    plugind.until(lambda: plugind.rows()["root:auth/mock"]["version"] == "v2")
    memory = plugind.folder / "state" / "mounts.json"
    plugind.until(lambda: '"policies":{' in memory.read_text())
    plugind.kill()

    plugind.start(ready=False)

    plugind.until(lambda: plugind.rows()["root:auth/mock"]["state"] == "ready")
    now = plugind.rows()["root:auth/mock"]
    assert (now["version"], now["rolled_back_from"]) == ("v1", "v2")
    assert now["reason"].startswith("rolled back from v2: not ready in 3s: ")


def test_a_bad_version_halts_the_reload_and_the_other_mounts_stay_as_they_are(plugind: Plugind) -> None:
    good, bad = plugind.plugin("good", SLEEPER), plugind.plugin("bad", "#!/bin/sh\nexit 3\n")
    mounts = {f"auth/m{number}": "{plugin: auth/mock}" for number in range(10)}
    plugind.write({"v1": (good, []), "v2": (bad, [])}, {"root": mounts}, "v1", SETTLES)
    plugind.start()
    before = plugind.pids()
    plugind.edit("pin: v1", "pin: v2")

    answer = plugind.reload(canary=1, parallel=1)

    results = [row["result"] for row in answer.data["mounts"]]
    assert answer.status == 400
    assert results.count("rolled_back") == 1
    assert results.count("skipped") == 9
    assert sum(plugind.pids()[name] == pid for name, pid in before.items()) == 9
