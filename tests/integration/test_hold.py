"""A hold: until its release nothing that people ask for changes a namespace, whatever becomes of plugind."""

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import BIN, Plugind, send

SLEEPS = "#!/bin/sh\nexec sleep 1000\n"
MOUNTS = {
    "root": {"auth/mock": "{plugin: auth/mock}"},
    "team-a": {"auth/mock": "{plugin: auth/mock}"},
    "team-a/dev": {"auth/mock": "{plugin: auth/mock}"},
}
WHY = "release 1.4 tonight"


@pytest.fixture(scope="module")
def daemon(shared_plugind: Plugind) -> Plugind:
    shared_plugind.plugin("sleeps", SLEEPS)
    write(shared_plugind, "v1")
    return shared_plugind.start()


def write(daemon: Plugind, pin: str) -> None:
    path = daemon.folder / "sleeps"
    settings = "restart: {backoff: 10ms}\nstop: {timeout: 500ms}"
    daemon.write({"v1": (path, []), "v2": (path, ["2"])}, MOUNTS, pin, settings)


@pytest.fixture
def held(daemon: Plugind) -> Iterator[Plugind]:
    """team-a and what is below it is held, with v2 pinned by hand; afterwards all is as before."""
    assert daemon.call("PUT", "supervisor/hold", {"why": WHY}, namespace="team-a").status == 200
    write(daemon, "v2")
    yield daemon
    for hold in daemon.call("GET", "supervisor/hold").data["holds"]:
        namespace = hold["namespace"].removeprefix("root")
        assert daemon.call("DELETE", "supervisor/hold", namespace=namespace).status == 200
    write(daemon, "v1")
    assert daemon.call("POST", "supervisor/apply", {}).status == 200


def versions(daemon: Plugind) -> dict[str, Any]:
    return {name: row["version"] for name, row in daemon.rows().items()}


ALL_V1 = {"root:auth/mock": "v1", "team-a:auth/mock": "v1", "team-a/dev:auth/mock": "v1"}
ASKED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "reload by name": ("POST", "sys/plugins/reload/auth/mock", {}, ""),
    "reload by name, global": ("POST", "sys/plugins/reload/auth/mock", {"scope": "global"}, ""),
    "reload of a plugin": ("PUT", "sys/plugins/reload/backend", {"plugin": "mock"}, "team-a"),
    "reload of mounts": ("PUT", "sys/plugins/reload/backend", {"mounts": ["auth/mock"]}, "team-a/dev"),
    "apply": ("POST", "supervisor/apply", {}, ""),
    "apply in it": ("POST", "supervisor/apply", {}, "team-a"),
    "a dry run": ("POST", "supervisor/apply", {"dry_run": True}, ""),
    "pin": ("PUT", "sys/plugins/pins/auth/mock", {"version": "v1"}, ""),
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())
def test_what_would_change_something_there_is_refused_with_the_reason_and_touches_nothing(
    held: Plugind, asked: tuple[str, str, dict[str, Any], str]
) -> None:
    method, path, body, namespace = asked
    before, text = held.pids(), held.catalog.read_bytes()

    answer = held.call(method, path, body, namespace=namespace)

    assert answer.status == 400
    assert "team-a is held since 20" in answer.error
    assert f"by uid {held.folder.stat().st_uid}" in answer.error
    assert WHY in answer.error
    assert (held.pids(), held.catalog.read_bytes()) == (before, text)
    assert f"refused: cannot {answer.error.split()[1]}" in audited(held)[-1]["result"]


def audited(daemon: Plugind) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (daemon.logs / "audit.log").read_text().splitlines()]


def test_a_sighup_is_refused_too_and_says_why(held: Plugind) -> None:
    before, since = held.pids(), len(held.log)

    held.process.send_signal(signal.SIGHUP)

    assert WHY in held.saw("apply_refused", since=since)["reason"]
    assert held.pids() == before


def test_partial_does_the_rest_and_says_of_the_others_that_they_are_held(held: Plugind) -> None:
    before = held.pids()

    answer = held.reload(partial=True)

    rows = {row["namespace"]: (row["result"], row["error"] or "") for row in answer.data["mounts"]}
    assert answer.status == 400  # not all of what was asked for
    assert rows["root"] == ("reloaded", "")
    assert rows["team-a"][0] == rows["team-a/dev"][0] == "skipped"
    assert rows["team-a"][1].startswith("team-a is held since ")
    assert versions(held) == {**ALL_V1, "root:auth/mock": "v2"}
    after = held.pids()
    assert {name for name in before if before[name] == after[name]} == {
        "team-a:auth/mock",
        "team-a/dev:auth/mock",
    }


def survive(daemon: Plugind) -> None:
    """Nothing happens to it."""


def killed(daemon: Plugind) -> None:
    daemon.kill()
    daemon.start()


def left(daemon: Plugind) -> None:
    daemon.stop(signal.SIGUSR1)
    daemon.start()


def stopped(daemon: Plugind) -> None:
    daemon.stop()
    daemon.start()


def upgraded(daemon: Plugind) -> None:
    since = len(daemon.log)
    assert daemon.call("POST", "supervisor/upgrade").status == 202
    daemon.saw("upgrade_done", since=since)


@pytest.mark.parametrize("what", [survive, killed, left, stopped, upgraded])
def test_a_hold_survives_and_what_crashes_under_it_comes_back_as_it_was(
    held: Plugind, what: Callable[[Plugind], None]
) -> None:
    [told] = held.call("GET", "supervisor/hold").data["holds"]

    what(held)

    assert held.call("GET", "supervisor/hold", namespace="team-a/dev").data["holds"] == [told]
    assert WHY in held.reload().error
    since = len(held.log)
    send(held.pids()["team-a:auth/mock"])
    held.saw("instance_ready", since=since, namespace="team-a")
    found = versions(held)
    assert {name: found[name] for name in ALL_V1 if "team" in name} == {
        name: "v1" for name in ALL_V1 if "team" in name
    }


def test_a_release_ends_it(held: Plugind) -> None:
    assert held.call("DELETE", "supervisor/hold", namespace="team-a").data["why"] == WHY

    assert held.reload().status == 200
    assert set(versions(held).values()) == {"v2"}


def test_pluginctl_shows_it_and_is_refused(held: Plugind) -> None:
    def pluginctl(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "pluginctl", "--socket", held.socket, *words], check=False, capture_output=True, text=True
        )

    assert WHY in pluginctl("hold").stdout
    assert "held: team-a since" in pluginctl("status").stdout
    assert "held: team-a since" in pluginctl("plan").stdout
    for words in (
        ["reload", "auth/mock"],
        ["apply"],
        ["pin", "auth/mock", "v1"],
        ["hold", "-n", "team-a", "--why", "x"],
    ):
        refused = pluginctl(*words)
        assert (refused.returncode, WHY in refused.stderr) == (2, True)
    assert pluginctl("hold", "--release", "-n", "team-a").returncode == 0
    assert pluginctl("hold").stdout == "nothing is held\n"


def test_a_namespace_that_is_taken_out_of_the_catalog_stays_until_its_hold_is_released_from_root(
    held: Plugind,
) -> None:
    before = held.pids()
    text = held.catalog.read_text()
    held.catalog.write_text(text[: text.index("  team-a:")])

    assert WHY in held.call("POST", "supervisor/apply", {}).error
    assert held.pids() == before
    command = [BIN / "pluginctl", "--socket", held.socket, "hold", "--release", "-n", "team-a"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)

    assert (done.returncode, WHY in done.stdout) == (0, True)
    assert held.call("POST", "supervisor/apply", {}).status == 200
    assert set(held.rows()) == {"root:auth/mock"}


def test_where_nobody_knows_what_was_held_nothing_is_touched_until_somebody_looks(held: Plugind) -> None:
    before, path = held.pids(), held.folder / "state" / "holds.json"
    held.kill()
    path.write_bytes(path.read_bytes()[:-20])

    held.start()

    assert held.pids() == before
    [told] = held.call("GET", "supervisor/hold").data["holds"]
    assert (told["namespace"], told["who"]) == ("root", "plugind")
    assert f"it is kept as {path}.damaged" in told["why"]
    for namespace, asked in (("", {"mounts": "auth/mock"}), ("team-a", {"plugin": "mock"})):
        assert (
            "root is held" in held.call("PUT", "sys/plugins/reload/backend", asked, namespace=namespace).error
        )
    assert held.call("DELETE", "supervisor/hold").status == 200
    assert held.reload().status == 200
