"""Guarantee 10: a namespace sees only itself, a caller may do what a rule says, and all of it is written."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Plugind

SLEEPS = "#!/bin/sh\nexec sleep 1000\n"
READER, RELOADER, ADMIN, STRANGER = 54001, 54002, 54003, 54004
ACCESS = f"""\
access:
  - {{uid: {READER}, namespaces: [team-a], may: read}}
  - {{uid: {RELOADER}, namespaces: [team-a/dev], may: reload}}
  - {{uid: {ADMIN}, namespaces: [root], may: admin}}
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


def catalog(command: Path) -> str:
    version = f"{{command: {command}, sha256: {hashlib.sha256(command.read_bytes()).hexdigest()}}}"
    both = f"{{v1: {version}, v2: {version}}}"
    return f"""\
plugins:
  auth:
    mock:
      pin: v1
      versions: {both}
  secret:
    mock:
      pin: v1
      versions: {both}
    idle:
      versions: {both}
namespaces:
  root:
    mounts:
      auth/mock: {{plugin: auth/mock}}
      mock: {{plugin: secret/mock}}
  team-a:
    mounts:
      auth/mock: {{plugin: auth/mock}}
  team-a/dev:
    mounts:
      auth/mock: {{plugin: auth/mock}}
  team-a/dev/deep:
    mounts:
      auth/mock: {{plugin: auth/mock}}
  team-b:
    mounts:
      auth/mock: {{plugin: auth/mock}}
"""


@pytest.fixture(scope="module")
def running(shared_plugind: Plugind) -> Iterator[Plugind]:
    daemon = shared_plugind
    open_to_all = Path(tempfile.mkdtemp(prefix="plugind-"))  # pytest's own folders are private
    open_to_all.chmod(0o755)
    daemon.settings(ACCESS)
    config = daemon.config.read_text()
    daemon.socket = open_to_all / "control.sock"
    before = f"{{path: {daemon.folder}/control.sock}}"
    assert before in config
    daemon.config.write_text(config.replace(before, f'{{path: {daemon.socket}, mode: "0666"}}'))
    daemon.catalog.write_text(catalog(daemon.plugin("one", SLEEPS)))
    yield daemon.start()
    daemon.stop()
    shutil.rmtree(open_to_all)


def changed(daemon: Plugind, before: dict[str, int]) -> set[str]:
    return {name for name, pid in daemon.pids().items() if pid != before[name]}


# --- what a namespace sees


def test_reload_of_a_plugin_by_type_and_name_works_from_root_only(running: Plugind) -> None:
    before = running.pids()

    for namespace in ("team-a", "team-a/dev", "team-b"):
        answer = running.call("POST", "sys/plugins/reload/auth/mock", {}, namespace=namespace)
        assert (answer.status, answer.error) == (404, "unsupported path")
        answer = running.call("POST", f"{namespace}/sys/plugins/reload/auth/mock", {})
        assert (answer.status, answer.error) == (404, "unsupported path")
    assert changed(running, before) == set()

    assert running.reload().status == 200
    assert changed(running, before) == set(before) - {"root:mock"}


def test_type_unknown_means_both_types(running: Plugind) -> None:
    before = running.pids()

    answer = running.call("POST", "sys/plugins/reload/unknown/mock", {})

    assert answer.status == 200
    assert changed(running, before) == set(before)


def test_an_unmounted_plugin_gives_a_warning_and_an_unknown_one_an_error(running: Plugind) -> None:
    idle = running.call("POST", "sys/plugins/reload/secret/idle", {})
    unknown = running.call("POST", "sys/plugins/reload/secret/moc", {})

    assert (idle.status, idle.body["warnings"]) == (200, ["no plugins were reloaded"])
    assert unknown.status == 400
    assert "did you mean" in unknown.error


@pytest.mark.parametrize("namespace", ["team-a", "team-b"])
def test_the_backend_form_sees_its_own_namespace_and_no_child(running: Plugind, namespace: str) -> None:
    before = running.pids()

    answer = running.call("POST", "sys/plugins/reload/backend", {"plugin": "mock"}, namespace=namespace)

    assert answer.status == 200
    assert {row["namespace"] for row in answer.data["mounts"]} == {namespace}
    assert changed(running, before) == {f"{namespace}:auth/mock"}


def test_a_list_of_mounts_reaches_into_no_other_namespace(running: Plugind) -> None:
    before = running.pids()

    for path in ("mock", "team-a/auth/mock", "../auth/mock", "dev/auth/mock", "root/auth/mock"):
        answer = running.call(
            "POST", "sys/plugins/reload/backend", {"mounts": ["auth/mock", path]}, namespace="team-a"
        )
        assert answer.status == 400, path
        assert "cannot fetch mount entry" in answer.error
    assert changed(running, before) == set()


@pytest.mark.parametrize(
    ("header", "prefix"),
    [
        ("team-a/dev", ""),
        ("team-a/dev/", ""),
        ("/team-a/dev/", ""),
        ("", "team-a/dev/"),
        ("team-a", "dev/"),
        ("team-a/", "dev/"),
        ("/team-a/", "dev/"),
    ],
)
def test_a_namespace_may_be_a_header_a_prefix_or_both(running: Plugind, header: str, prefix: str) -> None:
    rows = running.call("GET", f"{prefix}supervisor/instances", namespace=header).data["instances"]
    mounts = running.call("GET", f"{prefix}sys/auth", namespace=header).data

    assert [row["namespace"] for row in rows] == ["team-a/dev", "team-a/dev/deep"]
    assert list(mounts) == ["mock/"]


def test_an_unknown_namespace_is_not_found_in_either_form(running: Plugind) -> None:
    answers = [
        running.call("GET", "supervisor/instances", namespace="team-c"),
        running.call("GET", "team-c/supervisor/instances"),
        running.call("GET", "dev/supervisor/instances"),
        running.call("GET", "team-b/supervisor/instances", namespace="team-a"),
        running.call("POST", "sys/plugins/reload/backend", {"plugin": "mock"}, namespace="team-a/prod"),
    ]

    assert [(answer.status, answer.error) for answer in answers] == [(404, "namespace not found")] * 5


def test_a_namespace_is_told_nothing_of_its_parents_and_siblings(running: Plugind) -> None:
    assert running.reload().status == 200
    seen = {
        path: json.dumps(running.call("GET", path, namespace="team-a/dev").body)
        for path in (
            "supervisor/instances",
            "supervisor/status",
            "supervisor/plan",
            "supervisor/reloads",
            "sys/auth",
        )
    }

    for text in seen.values():
        assert "team-b" not in text
        assert '"namespace": "root"' not in text
        assert '"namespace": "team-a"' not in text
    for path in ("logs", "why"):
        answer = running.call("GET", f"supervisor/{path}/mock", namespace="team-a/dev")
        assert answer.status == 404
    keys = running.call("LIST", "sys/namespaces", namespace="team-a").data["keys"]
    assert keys == ["dev/"]


# --- who may do what


def ask(
    daemon: Plugind, uid: int, method: str, path: str, namespace: str = "", body: str = "{}"
) -> tuple[int, Any]:
    """What another user is told."""
    command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    command += ["curl", "-sS", "--unix-socket", daemon.socket, "-X", method, "-w", "\n%{http_code}"]
    command += ["-H", f"X-Vault-Namespace: {namespace}"] if namespace else []
    command += ["-d", body] if method in {"POST", "PUT"} else []
    told = subprocess.run(
        [*command, f"http://localhost/v1/{path}"], capture_output=True, text=True, check=True, cwd="/"
    )
    text, _, status = told.stdout.rpartition("\n")
    return int(status), json.loads(text) if text else None


DENIED = (403, {"errors": ["permission denied"]})
BACKEND = "sys/plugins/reload/backend"


@needs_root
@pytest.mark.parametrize("namespace", ["", "team-a", "team-b", "team-c", "team-a/none"])
def test_a_caller_without_a_rule_is_told_nothing_of_what_exists(running: Plugind, namespace: str) -> None:
    for method, path in [
        ("GET", "supervisor/instances"),
        ("GET", "supervisor/nothing/of/this/name"),
        ("GET", "sys/auth/mock"),
        ("GET", "sys/auth/none"),
        ("POST", BACKEND),
        ("POST", "sys/plugins/reload/auth/mock"),
        ("POST", "supervisor/stop/auth/mock"),
        ("POST", "supervisor/apply"),
    ]:
        assert ask(running, STRANGER, method, path, namespace) == DENIED, path


@needs_root
def test_a_rule_to_read_covers_its_namespace_and_children_and_changes_nothing(running: Plugind) -> None:
    before = running.pids()

    for namespace in ("team-a", "team-a/dev", "team-a/dev/deep"):
        assert ask(running, READER, "GET", "supervisor/instances", namespace)[0] == 200
        for method, path in [
            ("POST", BACKEND),
            ("PUT", BACKEND),
            ("POST", "supervisor/restart/auth/mock"),
            ("POST", "supervisor/stop/auth/mock"),
            ("POST", "supervisor/apply"),
        ]:
            assert ask(running, READER, method, path, namespace, '{"plugin": "mock"}') == DENIED, path
    assert ask(running, READER, "GET", "supervisor/instances", "team-a/none")[0] == 404
    for namespace in ("", "root", "team-b", "team-c", "team-ab"):
        assert ask(running, READER, "GET", "supervisor/instances", namespace) == DENIED
    assert changed(running, before) == set()


@needs_root
def test_a_rule_to_reload_reloads_where_it_covers_and_nowhere_else(running: Plugind) -> None:
    before = running.pids()

    status, answer = ask(running, RELOADER, "POST", BACKEND, "team-a/dev", '{"plugin": "mock"}')

    assert (status, answer["data"]["mounts"][0]["result"]) == (200, "reloaded")
    assert changed(running, before) == {"team-a/dev:auth/mock"}
    for namespace in ("", "team-a", "team-b", "team-c"):
        assert ask(running, RELOADER, "POST", BACKEND, namespace, '{"plugin": "mock"}') == DENIED
    # from a child the root path is not even there, for who may see the child; for others nothing is
    assert ask(running, RELOADER, "POST", "sys/plugins/reload/auth/mock", "team-a/dev")[0] in {403, 404}
    assert ask(running, RELOADER, "POST", "sys/plugins/reload/auth/mock") == DENIED
    assert ask(running, RELOADER, "PUT", "sys/plugins/pins/auth/mock", "", '{"version": "v2"}') == DENIED
    assert changed(running, before) == {"team-a/dev:auth/mock"}


@needs_root
def test_a_method_in_a_header_changes_nothing_about_the_rule(running: Plugind) -> None:
    before = running.pids()
    command = ["setpriv", f"--reuid={READER}", f"--regid={READER}", "--clear-groups", "curl", "-sS"]
    command += [
        "--unix-socket",
        running.socket,
        "-H",
        "X-HTTP-Method-Override: POST",
        "-H",
        "X-Vault-Token: root",
    ]
    url = f"http://localhost/v1/team-a/{BACKEND}?plugin=mock"

    told = subprocess.run([*command, url], capture_output=True, text=True, check=True, cwd="/")

    assert "permission denied" in told.stdout or "unsupported" in told.stdout
    assert changed(running, before) == set()


@needs_root
def test_an_admin_of_root_pins_and_reloads_everywhere(running: Plugind) -> None:
    text = running.catalog.read_text()
    try:
        assert ask(running, ADMIN, "PUT", "sys/plugins/pins/auth/mock", "", '{"version": "v2"}')[0] in {
            200,
            204,
        }
        assert ask(running, ADMIN, "POST", "sys/plugins/reload/auth/mock")[0] == 200
        versions = {name: row["version"] for name, row in running.rows().items()}
    finally:
        running.catalog.write_text(text)
        running.reload()

    assert {version for name, version in versions.items() if name != "root:mock"} == {"v2"}


# --- audit.log


def audited(daemon: Plugind) -> list[dict[str, Any]]:
    path = daemon.logs / "audit.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_each_command_that_changes_something_is_one_line_with_who_what_and_result(running: Plugind) -> None:
    at = len(audited(running))

    for method, path, body in [
        ("POST", "sys/plugins/reload/auth/mock", {}),
        ("POST", "sys/plugins/reload/auth/mock", {"dry_run": True}),
        ("POST", "sys/plugins/reload/auth/nope", {}),
        ("POST", BACKEND, {"plugin": "mock"}),
        ("POST", "supervisor/stop/mock", None),
        ("POST", "supervisor/start/mock", None),
        ("POST", "supervisor/restart/nope", None),
        ("POST", "supervisor/apply", {}),
        ("GET", "supervisor/instances", None),
        ("GET", "supervisor/plan", None),
    ]:
        running.call(method, path, body)
    running.call("PUT", BACKEND, {"mounts": ["auth/mock"]}, namespace="team-b")

    lines = audited(running)[at:]
    assert [(line["what"], line["namespace"], line["result"].partition(":")[0]) for line in lines] == [
        ("reload auth/mock in all namespaces", "root", "done"),
        ("dry run of reload auth/mock in all namespaces", "root", "done"),
        ("reload auth/nope in all namespaces", "root", "refused"),
        ("reload any type/mock in root", "root", "done"),
        ("stop mock/", "root", "done"),
        ("start mock/", "root", "done"),
        ("restart nope/", "root", "refused"),
        ("apply", "root", "done"),
        ("reload auth/mock in team-b", "team-b", "done"),
    ]
    assert {(line["uid"], line["pid"]) for line in lines} == {(os.geteuid(), os.getpid())}
    assert all(line["who"] and line["at"] for line in lines)


@needs_root
def test_what_was_denied_is_in_the_audit_log_too(running: Plugind) -> None:
    at = len(audited(running))

    ask(running, STRANGER, "POST", "sys/plugins/reload/auth/mock")
    ask(running, READER, "POST", "supervisor/stop/auth/mock", "team-a")
    ask(running, STRANGER, "GET", "supervisor/instances")

    lines = audited(running)[at:]
    assert [(line["uid"], line["result"]) for line in lines] == [
        (STRANGER, "refused: permission denied"),
        (READER, "refused: permission denied"),
    ]
    assert "sys/plugins/reload/auth/mock" in lines[0]["what"]
    assert lines[1]["namespace"] == "team-a"
