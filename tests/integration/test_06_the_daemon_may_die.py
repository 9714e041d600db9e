"""Guarantee 6: SIGKILL plugind; the plugins go on and the next plugind adopts them."""

import signal
import subprocess
from pathlib import Path

import pytest
from harness import BIN, Plugind, is_alive, send

TALKER = "#!/bin/sh\nn=0\nwhile :; do n=$((n + 1)); echo line $n; sleep 0.01; done\n"
SLEEPER = "#!/bin/sh\nexec sleep 1000\n"


@pytest.fixture
def running(plugind: Plugind) -> Plugind:
    path, talker = plugind.plugin("plugin", SLEEPER), plugind.plugin("talker", TALKER)
    mounts = {
        "root": {"auth/mock": "{plugin: auth/mock}", "auth/talker": "{plugin: auth/mock, version: talker}"},
        "team-a": {"auth/mock": "{plugin: auth/mock}"},
    }
    plugind.write({"v1": (path, []), "talker": (talker, [])}, mounts, "v1")
    return plugind.start()


def lines(daemon: Plugind) -> list[int]:
    log = daemon.logs / "root" / "auth+talker.log"
    text = log.read_text() if log.exists() else ""
    return [int(line.split()[1]) for line in text.splitlines() if line.count(" ") == 1]


def test_after_a_sigkill_the_same_pids_are_adopted_and_nothing_is_doubled(running: Plugind) -> None:
    before = running.pids()
    living = running.living()
    running.kill()
    assert all(is_alive(pid) for pid in before.values())

    running.start()

    assert running.pids() == before
    running.saw("instances_adopted", count=3)
    assert set(before.values()) <= running.living()
    assert len(running.living() - living) <= 1  # the talker's current `sleep`


def test_what_it_tried_its_folders_with_when_it_was_killed_is_gone_with_the_next(running: Plugind) -> None:
    before = running.pids()
    running.kill()
    tried = [running.folder / "run" / name / ".trial" for name in ("instances", "tmp")]
    for folder in tried:
        folder.mkdir()

    running.start()

    assert not any(folder.exists() for folder in tried)
    assert running.pids() == before


def test_no_log_line_is_lost_or_repeated_over_a_sigkill(running: Plugind) -> None:
    running.until(lambda: len(lines(running)) > 20)
    running.kill()
    running.start()
    at = len(lines(running))
    running.until(lambda: len(lines(running)) > at + 20)

    told = lines(running)

    assert told == list(range(1, len(told) + 1))


def test_an_adopted_instance_that_dies_is_seen_and_restarted(running: Plugind) -> None:
    running.kill()
    running.start()
    pid = running.pids()["team-a:auth/mock"]
    send(pid)

    running.saw("instance_exited", pid=pid, reason="exit status unknown")

    running.until(lambda: running.rows()["team-a:auth/mock"]["pid"] not in {None, pid})


def test_an_adopted_instance_can_be_reloaded_and_stopped(running: Plugind) -> None:
    before = running.pids()
    running.kill()
    running.start()

    assert running.reload().status == 200

    assert not any(is_alive(pid) for pid in before.values())
    running.stop()
    assert running.living() == set()


def test_what_died_while_the_daemon_was_away_is_started_again(running: Plugind) -> None:
    before = running.pids()
    running.kill()
    send(before["root:auth/mock"])

    running.start()

    after = running.pids()
    assert after["root:auth/mock"] != before["root:auth/mock"]
    assert after["team-a:auth/mock"] == before["team-a:auth/mock"]


def test_a_reused_pid_in_a_record_is_a_stranger_and_lives(running: Plugind) -> None:
    running.stop()
    with subprocess.Popen(["sleep", "1005"], start_new_session=True) as decoy:
        try:
            running.start()
            running.kill()
            [record] = [
                path
                for path in (running.folder / "run" / "instances").glob("*.json")
                if '"team-a"' in path.read_text()
            ]
            pid = running_pid(record)
            send(pid)
            record.write_text(record.read_text().replace(f'"pid":{pid}', f'"pid":{decoy.pid}'))

            running.start()

            assert running.pids()["team-a:auth/mock"] not in {pid, decoy.pid}
            assert running.reload().status == 200
            assert decoy.poll() is None
        finally:
            decoy.kill()


def running_pid(record: Path) -> int:
    return int(record.read_text().partition('"pid":')[2].partition(",")[0])


def until_seen(daemon: Plugind) -> None:
    """Wait until the main process of each mount stands in the file of transitions."""
    seen = daemon.folder / "run" / "transitions.jsonl"
    wanted = [f'"pid":{pid},' for pid in daemon.pids().values()]
    daemon.until(lambda: seen.exists() and all(pid in seen.read_text() for pid in wanted))


@pytest.mark.parametrize("lost", ["removed", "damaged", "a folder", "all and their folder"])
def test_an_instance_whose_record_is_lost_is_known_by_its_environment_and_adopted(
    running: Plugind, lost: str
) -> None:
    before = running.pids()
    until_seen(running)
    running.kill()
    records = running.folder / "run" / "instances"
    for record in sorted(records.glob("*.json")):
        text = record.read_bytes()
        record.unlink()
        if lost == "damaged":
            record.write_bytes(text[: len(text) // 2])
        elif lost == "a folder":
            record.mkdir()
    if lost == "all and their folder":
        records.rmdir()

    running.start()

    assert running.pids() == before
    warnings = "\n".join(running.call("GET", "supervisor/status").data["warnings"])
    assert warnings.count("had lost its record") == 3
    until_seen(running)
    running.kill()
    running.start()  # the records are there again
    assert running.pids() == before
    assert running.call("GET", "supervisor/status").data["warnings"] == []
    assert running.reload().status == 200
    assert not any(is_alive(pid) for pid in before.values())


def test_what_has_no_record_and_is_of_a_version_that_nobody_knows_is_replaced_by_one_that_is(
    running: Plugind,
) -> None:
    before = running.pids()
    until_seen(running)
    running.kill()
    for record in (running.folder / "run" / "instances").glob("*.json"):
        record.unlink()
    (running.folder / "state" / "mounts.json").unlink()
    running.edit("pin: v1", "pin: v9")
    running.edit("        v1: ", "        v9: ")

    running.start()

    after = running.pids()
    assert after["root:auth/talker"] == before["root:auth/talker"]
    for mount in ("root:auth/mock", "team-a:auth/mock"):
        assert after[mount] != before[mount]
        assert not is_alive(before[mount])


def test_what_a_dead_main_process_left_is_not_taken_for_it_when_the_record_is_lost(plugind: Plugind) -> None:
    path = plugind.plugin("plugin", "#!/bin/sh\nsetsid sleep 1000 &\nexec sleep 1000\n")
    plugind.write({"v1": (path, [])}, {"root": {"auth/mock": "{plugin: auth/mock}"}}, "v1")
    plugind.start()
    plugind.until(lambda: len(plugind.living()) == 2)
    until_seen(plugind)
    [main] = plugind.pids().values()
    [left] = plugind.living() - {main}
    plugind.kill()
    send(main)
    for record in (plugind.folder / "run" / "instances").glob("*.json"):
        record.unlink()

    plugind.start()

    assert plugind.pids()["root:auth/mock"] not in {main, left}
    assert not is_alive(left)


def test_sigusr1_leaves_the_plugins_to_the_next_daemon(running: Plugind) -> None:
    before = running.pids()

    assert running.stop(signal.SIGUSR1) == 0

    assert all(is_alive(pid) for pid in before.values())
    running.start()
    assert running.pids() == before


def test_a_broken_catalog_at_the_start_keeps_what_lives_and_runs_the_last_good_one(running: Plugind) -> None:
    before = running.pids()
    running.kill()
    running.catalog.write_text("plugins: [\n")

    running.start()

    assert running.pids() == before
    catalog = running.call("GET", "supervisor/status").data["catalog"]
    assert catalog["source"] == "last good"
    assert catalog["faults"]


def test_a_second_daemon_ends_with_status_3_and_names_the_pid_of_the_first(running: Plugind) -> None:
    assert running.process is not None

    second = subprocess.run(
        [BIN / "plugind", "--config", running.config], capture_output=True, text=True, check=False, timeout=20
    )

    assert second.returncode == 3
    assert str(running.process.pid) in second.stderr
    assert "Traceback" not in second.stderr
    assert all(row["state"] == "ready" for row in running.rows().values())


def test_sigterm_stops_every_plugin_and_exits_0(running: Plugind) -> None:
    before = running.pids()

    assert running.stop() == 0

    assert not any(is_alive(pid) for pid in before.values())
    assert running.living() == set()
    assert not running.socket.exists()
