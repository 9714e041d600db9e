"""`plan` says what `apply` would do and touches nothing; `apply`, by request or SIGHUP, does exactly that."""

import hashlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Plugind, is_alive, send

SLEEPS = "#!/bin/sh\nexec sleep 1000\n"
IGNORES_TERM = "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1000; done\n"
FAILS = "#!/bin/sh\nexit 3\n"
POLICIES = "restart: {backoff: 10ms}\n      ready: {settle: 100ms, timeout: 5s}\n      stop: {timeout: 500ms}"


class Catalog:
    """What is in the file: each attribute may be changed, then `save`."""

    def __init__(self, daemon: Plugind) -> None:
        self.daemon = daemon
        self.pin = "v1"
        self.policies = POLICIES
        self.env = ""
        self.mounts = {
            "root": {"auth/mock": "", "auth/own": "version: v1"},
            "team-a": {"auth/mock": ""},
            "team-a/dev": {"auth/mock": ""},
        }

    def save(self) -> None:
        lines = ["plugins:", "  auth:", "    mock:", f"      pin: {self.pin}", "      versions:"]
        for name, file, args in [
            ("v1", "sleeps", "[]"),
            ("v2", "sleeps", "['2']"),
            ("bad", "fails", "[]"),
            ("stubborn", "ignores", "[]"),
        ]:
            path = self.daemon.folder / file
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            lines.append(f"        {name}: {{command: {path}, sha256: {digest}, args: {args}}}")
        lines += [f"      {line}" for line in [self.policies, self.env] if line]
        lines.append("namespaces:")
        for namespace, mounts in self.mounts.items():
            lines += [f"  {namespace}:", "    mounts:"]
            lines += [
                f"      {path}: {{plugin: auth/mock{', ' * bool(own)}{own}}}" for path, own in mounts.items()
            ]
        self.daemon.catalog.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def daemon(shared_plugind: Plugind) -> Plugind:
    for name, text in {"sleeps": SLEEPS, "fails": FAILS, "ignores": IGNORES_TERM}.items():
        shared_plugind.plugin(name, text)
    Catalog(shared_plugind).save()
    return shared_plugind.start()


@pytest.fixture
def catalog(daemon: Plugind) -> Iterator[Catalog]:
    """All as in a new `Catalog`, applied; and so again afterwards."""
    yield Catalog(daemon)
    Catalog(daemon).save()
    assert apply(daemon).status == 200
    daemon.until(lambda: all(row["state"] == "ready" for row in daemon.rows().values()))


def apply(daemon: Plugind, namespace: str = "") -> Any:
    return daemon.call("POST", "supervisor/apply", {}, namespace=namespace)


def planned(daemon: Plugind, namespace: str = "") -> dict[str, tuple[str, list[str]]]:
    rows = daemon.call("GET", "supervisor/plan", namespace=namespace).data["mounts"]
    return {f"{row['namespace']}:{row['mount']}": (row["action"], row["changed"]) for row in rows}


def results(answer: Any) -> dict[str, str]:
    return {f"{row['namespace']}:{row['mount']}": row["result"] for row in answer.data["mounts"]}


def change_everything(catalog: Catalog) -> None:
    """One mount of each kind: started, stopped, replaced, kept."""
    catalog.mounts["team-b"] = {"auth/new": ""}
    del catalog.mounts["team-a/dev"]
    catalog.mounts["team-a"]["auth/mock"] = "version: v2"
    catalog.save()


def test_plan_says_what_would_happen_and_why_and_touches_nothing(catalog: Catalog) -> None:
    daemon = catalog.daemon
    before = daemon.pids()
    change_everything(catalog)

    for _ in range(2):
        assert planned(daemon) == {
            "root:auth/mock": ("keep", []),
            "root:auth/own": ("keep", []),
            "team-a:auth/mock": ("replace", ["version", "args"]),
            "team-a/dev:auth/mock": ("stop", []),
            "team-b:auth/new": ("start", []),
        }

    rows = daemon.rows()
    assert {name: rows[name]["pid"] for name in before} == before
    assert (rows["team-b:auth/new"]["state"], rows["team-b:auth/new"]["pid"]) == ("stopped", None)
    assert "apply starts it" in rows["team-b:auth/new"]["reason"]
    assert "apply stops it" in rows["team-a/dev:auth/mock"]["reason"]


def test_apply_does_exactly_what_plan_says(catalog: Catalog) -> None:
    daemon = catalog.daemon
    before = daemon.pids()
    change_everything(catalog)

    answer = apply(daemon)

    assert answer.status == 200
    assert results(answer) == {
        "root:auth/mock": "unchanged",
        "root:auth/own": "unchanged",
        "team-a:auth/mock": "reloaded",
        "team-a/dev:auth/mock": "stopped",
        "team-b:auth/new": "started",
    }
    rows = daemon.rows()
    assert set(rows) == {"root:auth/mock", "root:auth/own", "team-a:auth/mock", "team-b:auth/new"}
    assert {name for name in before if name in rows and rows[name]["pid"] == before[name]} == {
        "root:auth/mock",
        "root:auth/own",
    }
    assert (rows["team-a:auth/mock"]["version"], rows["team-b:auth/new"]["state"]) == ("v2", "ready")
    assert not is_alive(before["team-a/dev:auth/mock"])
    assert not is_alive(before["team-a:auth/mock"])
    assert daemon.call("GET", "supervisor/why/auth/mock", namespace="team-a/dev").status == 404
    assert {action for action, _ in planned(daemon).values()} == {"keep"}


def test_a_second_apply_has_nothing_left_to_do(catalog: Catalog) -> None:
    change_everything(catalog)
    apply(catalog.daemon)
    before = catalog.daemon.pids()

    answer = apply(catalog.daemon)

    assert set(results(answer).values()) == {"unchanged"}
    assert catalog.daemon.pids() == before


def test_a_dry_run_of_apply_touches_nothing(catalog: Catalog) -> None:
    before = catalog.daemon.pids()
    change_everything(catalog)

    answer = catalog.daemon.call("POST", "supervisor/apply", {"dry_run": True})

    assert answer.status == 200
    pids = catalog.daemon.pids()
    assert {name: pids[name] for name in before} == before
    assert pids["team-b:auth/new"] is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pin": "v2"}, ["version", "args"]),
        ({"env": "env: {LEVEL: debug}"}, ["env (LEVEL)"]),
        ({"env": "cwd: /tmp"}, ["cwd"]),
        ({"env": "limits: {nofile: 100}"}, ["limits"]),
    ],
    ids=["pin", "env", "cwd", "limits"],
)
def test_what_a_process_is_made_of_replaces_it(
    catalog: Catalog, change: dict[str, str], reason: list[str]
) -> None:
    daemon = catalog.daemon
    before = daemon.pids()
    vars(catalog).update(change)
    catalog.save()
    expected = dict.fromkeys(before, ("replace", reason))
    if "pin" in change:
        expected["root:auth/own"] = ("keep", [])  # its own version wins over the pin

    assert planned(daemon) == expected
    assert apply(daemon).status == 200

    kept = {name for name, pid in daemon.pids().items() if pid == before[name]}
    assert kept == {name for name, (action, _) in expected.items() if action == "keep"}


def test_a_mount_with_its_own_version_says_so_and_does_not_follow_the_pin(catalog: Catalog) -> None:
    catalog.pin = "v2"
    catalog.save()
    apply(catalog.daemon)

    own, other = (catalog.daemon.rows()[f"root:auth/{name}"] for name in ("own", "mock"))

    assert (own["version"], own["pinned_version"], own["has_own_version"]) == ("v1", "v1", True)
    assert (other["version"], other["pinned_version"], other["has_own_version"]) == ("v2", "v2", False)
    assert catalog.daemon.reload().status == 200
    assert catalog.daemon.rows()["root:auth/own"]["version"] == "v1"


def test_a_change_of_backoff_alone_moves_no_pid_and_counts_from_then_on(catalog: Catalog) -> None:
    daemon = catalog.daemon
    before = daemon.pids()
    catalog.policies = POLICIES.replace("backoff: 10ms", "backoff: 1h, max_backoff: 1h")
    catalog.save()

    assert set(map(repr, planned(daemon).values())) == {repr(("settings", ["restart"]))}
    answer = apply(daemon)

    assert answer.status == 200
    assert set(results(answer).values()) == {"unchanged"}
    assert daemon.pids() == before
    assert {action for action, _ in planned(daemon).values()} == {"keep"}
    send(before["root:auth/mock"])
    daemon.until(lambda: daemon.rows()["root:auth/mock"]["state"] == "backoff")
    assert daemon.rows()["root:auth/mock"]["pid"] is None
    assert daemon.call("POST", "supervisor/start/auth/mock").status == 200


def test_a_change_of_the_stop_timeout_alone_moves_no_pid_and_counts_from_then_on(catalog: Catalog) -> None:
    daemon = catalog.daemon
    catalog.mounts = {"root": {"auth/mock": "version: stubborn"}}
    catalog.policies = POLICIES.replace("stop: {timeout: 500ms}", "stop: {timeout: 1h}")
    catalog.save()
    apply(daemon)
    before = daemon.pids()
    catalog.policies = POLICIES.replace("stop: {timeout: 500ms}", "stop: {timeout: 200ms}")
    catalog.save()

    assert planned(daemon) == {"root:auth/mock": ("settings", ["stop"])}
    apply(daemon)
    assert daemon.pids() == before
    began = time.monotonic()
    assert daemon.call("POST", "supervisor/stop/auth/mock").data["result"] == "stopped"

    assert 0.2 <= time.monotonic() - began < 10
    assert daemon.call("POST", "supervisor/start/auth/mock").status == 200


def test_a_reload_takes_changed_settings_with_it(catalog: Catalog) -> None:
    catalog.policies = POLICIES.replace("backoff: 10ms", "backoff: 20ms")
    catalog.save()

    assert catalog.daemon.reload().status == 200

    assert {action for action, _ in planned(catalog.daemon).values()} == {"keep"}


def test_sighup_is_apply(catalog: Catalog) -> None:
    daemon = catalog.daemon
    before = daemon.pids()
    since = len(daemon.log)
    change_everything(catalog)

    daemon.process.send_signal(signal.SIGHUP)

    done = daemon.saw("apply_done", since=since)
    assert {word: done[word] for word in ("started", "stopped", "reloaded", "unchanged")} == {
        "started": 1,
        "stopped": 1,
        "reloaded": 1,
        "unchanged": 2,
    }
    rows = daemon.rows()
    assert "team-a/dev:auth/mock" not in rows
    assert rows["team-b:auth/new"]["state"] == "ready"
    assert rows["root:auth/mock"]["pid"] == before["root:auth/mock"]


def test_sighup_with_a_broken_catalog_touches_nothing_and_says_so(catalog: Catalog) -> None:
    daemon = catalog.daemon
    before = daemon.pids()
    since = len(daemon.log)
    daemon.catalog.write_text("plugins: [")

    daemon.process.send_signal(signal.SIGHUP)

    refused = daemon.saw("apply_refused", since=since)
    assert f"{daemon.catalog}:2:1: not YAML" in refused["reason"]
    assert daemon.pids() == before


def test_apply_with_an_unfit_file_touches_nothing_at_all(catalog: Catalog) -> None:
    daemon = catalog.daemon
    before = daemon.pids()
    change_everything(catalog)
    (daemon.folder / "sleeps").chmod(0o644)
    try:
        answer = apply(daemon)
    finally:
        (daemon.folder / "sleeps").chmod(0o755)

    assert answer.status == 400
    assert "team-b" in answer.error
    assert {name: pid for name, pid in daemon.pids().items() if name in before} == before


def test_apply_in_a_namespace_touches_it_and_its_children_only(catalog: Catalog) -> None:
    daemon = catalog.daemon
    before = daemon.pids()
    catalog.pin = "v2"
    catalog.mounts["team-b"] = {"auth/new": ""}
    catalog.save()

    plan = planned(daemon, namespace="team-a")
    answer = apply(daemon, namespace="team-a")

    assert set(plan) == set(results(answer)) == {"team-a:auth/mock", "team-a/dev:auth/mock"}
    assert set(results(answer).values()) == {"reloaded"}
    after = daemon.pids()
    assert {name for name in before if after[name] == before[name]} == {"root:auth/mock", "root:auth/own"}
    assert after["team-b:auth/new"] is None


def test_a_mount_that_was_rolled_back_shows_as_replace(catalog: Catalog) -> None:
    daemon = catalog.daemon
    catalog.mounts = {"root": {"auth/mock": ""}}
    catalog.save()
    apply(daemon)
    catalog.pin = "bad"
    catalog.save()

    answer = apply(daemon)

    assert answer.status == 400
    assert results(answer) == {"root:auth/mock": "rolled_back"}
    row = daemon.rows()["root:auth/mock"]
    assert (row["version"], row["pinned_version"], row["rolled_back_from"]) == ("v1", "bad", "bad")
    assert planned(daemon)["root:auth/mock"][0] == "replace"


def test_a_bad_canary_of_an_apply_leaves_the_others_as_they_are(catalog: Catalog) -> None:
    daemon = catalog.daemon
    before = daemon.pids()
    catalog.pin = "bad"
    catalog.mounts["team-b"] = {"auth/new": ""}
    catalog.save()

    answer = daemon.call("POST", "supervisor/apply", {"canary": 1, "canary_for": "50ms", "max_failures": 9})

    assert answer.status == 400
    assert results(answer) == {
        "root:auth/mock": "rolled_back",
        "root:auth/own": "unchanged",
        "team-a:auth/mock": "skipped",
        "team-a/dev:auth/mock": "skipped",
        "team-b:auth/new": "skipped",
    }
    after = daemon.pids()
    assert {name for name in before if after[name] != before[name]} == {"root:auth/mock"}
    assert after["team-b:auth/new"] is None


def test_apply_skips_what_was_stopped_by_hand_and_says_so(catalog: Catalog) -> None:
    daemon = catalog.daemon
    assert daemon.call("POST", "supervisor/stop/auth/mock", namespace="team-a").status == 200
    catalog.pin = "v2"
    catalog.save()

    answer = apply(daemon)

    [row] = [row for row in answer.data["mounts"] if row["namespace"] == "team-a"]
    assert (answer.status, row["result"]) == (200, "skipped")
    assert row["error"].startswith("stopped by hand")
    assert any("auth/mock/ in team-a" in warning for warning in answer.body["warnings"])
    assert daemon.rows()["team-a:auth/mock"]["state"] == "stopped"
    assert daemon.call("POST", "supervisor/start/auth/mock", namespace="team-a").status == 200
    assert daemon.rows()["team-a:auth/mock"]["version"] == "v2"


def test_a_mount_that_was_removed_and_added_again_starts_afresh(catalog: Catalog) -> None:
    daemon = catalog.daemon
    mounts = dict(catalog.mounts)
    del catalog.mounts["team-a/dev"]
    catalog.save()
    apply(daemon)
    catalog.mounts = mounts
    catalog.save()

    answer = apply(daemon)

    assert results(answer)["team-a/dev:auth/mock"] == "started"
    row = daemon.rows()["team-a/dev:auth/mock"]
    assert (row["state"], row["restarts"], row["last_exit"]) == ("ready", 0, None)
    assert Path(f"/proc/{row['pid']}").exists()
