"""Guarantee 1: a reload checks everything before it touches a process."""

import os
import shutil
import subprocess
from http import HTTPStatus
from pathlib import Path

import pytest
from harness import Plugind, send

SLEEPER = "#!/bin/sh\nexec sleep 1000\n"


@pytest.fixture
def running(plugind: Plugind) -> Plugind:
    one, two = plugind.plugin("one", SLEEPER), plugind.plugin("two", SLEEPER + "# two\n")
    mounts = {"root": {"auth/a": "{plugin: auth/mock}"}, "team-a": {"auth/b": "{plugin: auth/mock}"}}
    plugind.write({"v1": (one, []), "v2": (two, [])}, mounts, "v1")
    return plugind.start()


def untouched(daemon: Plugind, before: dict[str, int]) -> bool:
    return daemon.pids() == before and all(row["state"] == "ready" for row in daemon.rows().values())


def test_a_catalog_that_does_not_parse_refuses_the_reload_with_file_and_line(running: Plugind) -> None:
    before = running.pids()
    running.edit("namespaces:", "namespaces: [")

    answer = running.reload()

    assert answer.status == 400
    assert f"{running.catalog}:" in answer.error
    assert untouched(running, before)


def test_a_wrong_digest_refuses_the_reload_and_names_mount_and_line(running: Plugind) -> None:
    before = running.pids()
    running.edit("pin: v1", "pin: v2")
    (running.folder / "two").write_text(SLEEPER + "# somebody changed it\n")

    answer = running.reload()

    assert answer.status == 400
    assert "auth/a" in answer.error
    assert "auth/b" in answer.error
    assert "has SHA-256" in answer.error
    assert untouched(running, before)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.chmod(0o644),
        lambda path: path.chmod(0o777),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), path.symlink_to("nowhere")),
        lambda path: (path.unlink(), os.mkfifo(path, 0o755)),
    ],
    ids=["missing", "not executable", "writable by all", "a folder", "a dangling link", "a fifo"],
)
def test_a_file_that_could_not_run_refuses_the_reload(running: Plugind, spoil) -> None:
    before = running.pids()
    running.edit("pin: v1", "pin: v2")
    spoil(running.folder / "two")

    answer = running.reload()

    assert answer.status == 400
    assert str(running.folder / "two") in answer.error
    assert untouched(running, before)


@pytest.mark.parametrize("folder", ["run", "run/tmp", "run/instances", "run/logs"])
def test_a_runtime_dir_that_somebody_removed_is_made_again(running: Plugind, folder: str) -> None:
    before = running.pids()
    shutil.rmtree(running.folder / folder)
    running.edit("pin: v1", "pin: v2")

    answer = running.reload()

    assert answer.status == HTTPStatus.OK
    assert {row["version"] for row in running.rows().values()} == {"v2"}
    assert not before.keys() - running.pids().keys()
    assert len([*(running.folder / "run" / "instances").glob("*.json")]) == len(before)


def test_a_crash_after_that_is_restarted(running: Plugind) -> None:
    before = running.pids()["root:auth/a"]
    shutil.rmtree(running.folder / "run")
    send(before)

    running.until(lambda: running.pids()["root:auth/a"] not in {before, None})
    running.until(lambda: running.rows()["root:auth/a"]["state"] == "ready")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a disk")
def test_a_runtime_dir_that_takes_nothing_refuses_the_reload(running: Plugind) -> None:
    before = running.pids()
    run = running.folder / "run"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", run / "tmp"], check=True)
    try:
        answer = running.reload()
        started = running.call("POST", "supervisor/restart/auth/a")
        told = running.pids()
    finally:
        subprocess.run(["umount", run / "tmp"], check=True)

    why = (
        f"cannot start anything now: cannot write to {run / 'tmp'}: Read-only file system; "
        "nothing was stopped for it"
    )
    assert (answer.status, answer.error) == (HTTPStatus.SERVICE_UNAVAILABLE, why)
    assert (started.status, started.error) == (HTTPStatus.SERVICE_UNAVAILABLE, why)
    assert told == before
    assert running.reload().status == HTTPStatus.OK


def test_every_fault_of_every_target_is_told_at_once(running: Plugind) -> None:
    running.edit("pin: v1", "pin: v2\n      cwd: /no/such/folder\n      user: nobody-of-this-name")
    (running.folder / "two").unlink()

    error = running.reload().error

    assert "/no/such/folder" in error
    assert "nobody-of-this-name" in error
    assert str(running.folder / "two") in error


def test_a_mount_that_does_not_exist_refuses_the_whole_list(running: Plugind) -> None:
    before = running.pids()

    answer = running.call("POST", "sys/plugins/reload/backend", {"mounts": ["auth/a", "auth/nope", "kv"]})

    assert answer.status == 400
    assert answer.error == (
        '2 errors occurred:\n\t* cannot fetch mount entry on "auth/nope/"'
        '\n\t* cannot fetch mount entry on "kv/"\n\n'
    )
    assert untouched(running, before)


def test_an_unknown_plugin_is_refused_with_near_matches(running: Plugind) -> None:
    answer = running.reload("mokc")

    assert answer.status == 400
    assert answer.error == 'plugin not found in the catalog: "mokc" (did you mean auth/mock?)'


def test_a_misspelt_dry_run_kills_nothing(running: Plugind) -> None:
    before = running.pids()

    answer = running.reload(dryrun=True)

    assert answer.status == 400
    assert "dry_run" in answer.error
    assert untouched(running, before)


def test_a_dry_run_says_what_would_happen_and_does_nothing(running: Plugind) -> None:
    before = running.pids()
    running.edit("pin: v1", "pin: v2")

    answer = running.reload(dry_run=True)

    assert answer.status == 200
    assert [(row["old_version"], row["new_version"], row["result"]) for row in answer.data["mounts"]] == [
        ("v1", "v2", "unchanged"),
        ("v1", "v2", "unchanged"),
    ]
    for row in answer.data["mounts"]:
        assert row["would_be"] == "reloaded"
        assert row["old_sha256"] in running.catalog.read_text()
        assert row["new_sha256"] in running.catalog.read_text()
        assert "version" in row["changed"]
    assert untouched(running, before)


def test_a_bad_edit_alone_touches_nothing_and_shows_in_status(running: Plugind) -> None:
    before = running.pids()
    seen = len(running.log)

    running.catalog.write_text("plugins: [")
    running.saw("catalog_refused", since=seen)

    catalog = running.call("GET", "supervisor/status").data["catalog"]
    assert catalog["source"] == "file"
    assert catalog["faults"]
    assert untouched(running, before)


def test_a_good_edit_alone_touches_nothing_and_shows_as_drift(running: Plugind) -> None:
    before = running.pids()
    seen = len(running.log)

    running.edit("pin: v1", "pin: v2")
    running.saw("catalog_loaded", since=seen)

    assert {row["pinned_version"] for row in running.rows().values()} == {"v2"}
    assert untouched(running, before)
    plan = running.call("GET", "supervisor/plan").data["mounts"]
    assert {row["action"] for row in plan} == {"replace"}


def test_a_partial_reload_replaces_what_is_fit_and_names_the_rest(running: Plugind) -> None:
    before = running.pids()
    bad = running.plugin("bad", SLEEPER + "# bad\n")
    text = running.catalog.read_text()
    digest = "f" * 64
    text = text.replace(
        "      versions:\n", f"      versions:\n        v3: {{command: {bad}, sha256: {digest}}}\n"
    )
    running.catalog.write_text(
        text.replace("auth/b: {plugin: auth/mock}", "auth/b: {plugin: auth/mock, version: v3}")
    )

    answer = running.reload(partial=True)

    rows = {row["mount"]: row["result"] for row in answer.data["mounts"]}
    assert answer.status == 400
    assert rows == {"auth/a": "reloaded", "auth/b": "failed"}
    assert running.pids()["team-a:auth/b"] == before["team-a:auth/b"]
    assert running.pids()["root:auth/a"] != before["root:auth/a"]
    assert Path(f"/proc/{before['team-a:auth/b']}").exists()
