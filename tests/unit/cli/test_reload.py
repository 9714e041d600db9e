import json

RELOAD = "POST sys/plugins/reload/auth/mock-plugin"
STATUS = "GET sys/plugins/reload/backend/status?reload_id=r-1"
REPORT = "GET supervisor/reloads/r-1"


def a_result(mount="auth/mock", **changes):
    row = {
        "namespace": "root",
        "mount": mount,
        "plugin": "auth/mock-plugin",
        "result": "reloaded",
        "old_version": "v1.0.0",
        "new_version": "v1.1.0",
        "old_pid": 41,
        "new_pid": 42,
        "down_seconds": 0.085,
        "error": None,
        "log": [],
    }
    return {**row, **changes}


def a_report(*rows, **changes):
    times = {"started_at": "2026-01-31T12:00:00Z", "finished_at": "2026-01-31T12:00:01.24Z"}
    return {"reload_id": "r-1", "verb": "reload", "mounts": list(rows), "done": True, **times, **changes}


def test_a_reload_shows_what_ran_and_what_runs(daemon, pluginctl) -> None:
    daemon.answer(
        RELOAD, a_report(a_result(), a_result("auth/off", result="skipped", error="stopped by uid 0"))
    )

    outcome = pluginctl("reload", "auth/mock-plugin")

    assert outcome.out == (
        "NAMESPACE  MOUNT       VERSION          PID      DOWN  RESULT    NOTE\n"
        "root       auth/mock/  v1.0.0 → v1.1.0  41 → 42  85ms  reloaded\n"
        "root       auth/off/   v1.0.0 → v1.1.0  41 → 42  85ms  skipped   stopped by uid 0\n"
        "reload r-1: 1 reloaded, 1 skipped in 1.24s\n"
    )
    assert (outcome.status, outcome.err) == (0, "")
    assert daemon.asked[0].body == {"wait": True}


def test_a_mount_that_failed_is_shown_with_its_last_words_and_exit_status_1(daemon, pluginctl) -> None:
    log = [f"line {number}" for number in range(7)] + ["\x1b[31mpanic"]
    rolled_back = a_result(
        "auth/x", result="rolled_back", new_version="v1.0.0", error="not ready in 10s", log=log
    )
    daemon.answer(
        RELOAD, a_report(a_result(), rolled_back), status=400, errors=["1 of 2 mounts was rolled back"]
    )

    outcome = pluginctl("reload", "auth/mock-plugin")

    assert outcome.status == 1
    assert outcome.out == (
        "NAMESPACE  MOUNT       VERSION          PID      DOWN  RESULT       NOTE\n"
        "root       auth/mock/  v1.0.0 → v1.1.0  41 → 42  85ms  reloaded\n"
        "root       auth/x/     v1.0.0 → v1.0.0  41 → 42  85ms  rolled back\n"
        "auth/x/ in root: rolled back: not ready in 10s\n"
        "    | line 3\n"
        "    | line 4\n"
        "    | line 5\n"
        "    | line 6\n"
        "    | \\x1b[31mpanic\n"
        "reload r-1: 1 reloaded, 1 rolled back in 1.24s\n"
    )


def test_a_refused_reload_is_exit_status_2_and_says_why(daemon, pluginctl) -> None:
    error = "2 errors occurred:\n\t* c.yaml:3:5: no such file\n\t* \x1b[31mbad\n\n"
    daemon.answer(RELOAD, status=400, errors=[error])

    outcome = pluginctl("reload", "auth/mock-plugin")

    assert outcome.status == 2
    assert outcome.out == ""
    assert outcome.err == (
        "pluginctl: 2 errors occurred:\n    * c.yaml:3:5: no such file\n    * \\x1b[31mbad\n"
    )


def test_a_202_is_followed_to_its_end(daemon, pluginctl) -> None:
    pending = a_result(result="pending")
    daemon.answer(RELOAD, a_report(pending, done=False), status=202)
    daemon.answer(STATUS, {"results": {}, "mounts": [pending], "done": False})
    daemon.raw(STATUS, b"")  # it goes away for a moment, as in an upgrade
    daemon.answer(STATUS, {"results": {}, "mounts": [pending], "done": True})
    daemon.answer(REPORT, a_report(a_result(result="failed", error="no")))

    outcome = pluginctl("reload", "auth/mock-plugin")

    assert outcome.status == 1
    assert outcome.out.endswith("auth/mock/ in root: failed: no\nreload r-1: 1 failed in 1.24s\n")
    assert len(daemon.asked) == 5


def test_no_wait_returns_at_once_and_says_how_to_follow(daemon, pluginctl) -> None:
    daemon.answer(RELOAD, {"reload_id": "r-1"}, status=202)

    outcome = pluginctl("reload", "auth/mock-plugin", "--no-wait")

    assert (outcome.status, outcome.out) == (
        0,
        "begun: r-1\nfollow it: pluginctl reload-status --wait r-1\n",
    )
    assert daemon.asked[0].body == {"wait": False}


def test_every_option_is_sent_as_its_key(daemon, pluginctl) -> None:
    daemon.answer("POST sys/plugins/reload/backend", a_report(dry_run=True))

    options = (
        "--dry-run --parallel 3 --on-failure continue --max-failures 2 --partial --canary 1 --canary-for 30s"
    )
    outcome = pluginctl(
        "reload", "--plugin", "mock-plugin", "--scope", "global", "-n", "team-a", *options.split()
    )

    assert outcome.out == "dry run: no mount was touched in 1.24s\n"
    assert daemon.asked[0].headers["X-Vault-Namespace"] == "team-a"
    assert daemon.asked[0].body == {
        "plugin": "mock-plugin",
        "scope": "global",
        "dry_run": True,
        "parallel": 3,
        "on_failure": "continue",
        "max_failures": 2,
        "partial": True,
        "canary": 1,
        "canary_for": "30s",
        "wait": True,
    }


def test_a_rehearsal_shows_what_would_become_of_each_mount(daemon, pluginctl) -> None:
    row = a_result(result="unchanged", old_pid=None, new_pid=None, down_seconds=None)
    changed = ["version", "args"]
    mounts = [{**row, "would_be": "reloaded", "changed": changed}, {**row, "would_be": "unchanged"}]
    daemon.answer(RELOAD, {**a_report(row, dry_run=True), "mounts": mounts})

    outcome = pluginctl("reload", "auth/mock-plugin", "--dry-run")

    first, second, total = outcome.out.splitlines()[1:]
    assert "v1.0.0 → v1.1.0" in first
    assert first.endswith("would be reloaded  changed: version, args")
    assert second.endswith("unchanged")
    assert total == "dry run: 1 unchanged, 1 would be reloaded in 1.24s"


def test_mounts_are_named_in_any_spelling_of_one_namespace(daemon, pluginctl) -> None:
    daemon.answer("POST sys/plugins/reload/backend", a_report(a_result()))

    assert (
        pluginctl("reload", "--mounts", "team-a:auth/mock/,team-a/:kv", "--mounts", "team-a:/x").status == 0
    )
    assert pluginctl("reload", "--mounts", "team-a:kv,auth/mock").status == 2

    assert len(daemon.asked) == 1
    assert daemon.asked[0].headers["X-Vault-Namespace"] == "team-a"
    assert daemon.asked[0].body == {"mounts": ["auth/mock", "kv", "x"], "wait": True}


def test_a_target_that_can_be_misread_is_wrong_usage(daemon, pluginctl) -> None:
    for arguments in (
        [],
        ["auth/mock-plugin", "--plugin", "x"],
        ["mock-plugin"],
        ["auth/../../sys"],
        ["auth/mock-plugin", "-n", "team-a"],
        ["--mounts", ","],
        ["--mounts", "../x"],
        ["--plugin", "x", "-n", "a\r\nb"],
        ["--plugin", "x", "--parallel", "0"],
    ):
        outcome = pluginctl("reload", *arguments)
        assert (outcome.status, outcome.out) == (2, ""), arguments
        assert "Error: " in outcome.err
    assert daemon.asked == []


def test_json_is_what_the_api_holds_also_when_mounts_failed(daemon, pluginctl) -> None:
    report = a_report(a_result(result="failed", error="\x1b"))
    daemon.answer(RELOAD, report, status=400, errors=["1 of 1 mounts failed"])

    outcome = pluginctl("--json", "reload", "auth/mock-plugin")

    assert json.loads(outcome.out) == report
    assert outcome.status == 1


def test_warnings_go_to_stderr(daemon, pluginctl) -> None:
    daemon.answer(RELOAD, a_report(), warnings=["no plugins were reloaded"])

    outcome = pluginctl("reload", "auth/mock-plugin")

    assert outcome.err == "warning: no plugins were reloaded\n"
    assert outcome.out == "reload r-1: no mount was touched in 1.24s\n"


def test_what_the_daemon_calls_a_failure_is_one_after_a_202_too(daemon, pluginctl) -> None:
    rows = [a_result(result="skipped", error="its file is not executable")]
    daemon.answer(RELOAD, a_report(done=False), status=202)
    daemon.answer(STATUS, {"results": {"a": {"error": "0 of 1 mount failed (1 skipped)"}}, "pending": []})
    daemon.answer(REPORT, a_report(*rows))

    outcome = pluginctl("reload", "auth/mock-plugin", "--partial")

    assert (outcome.status, outcome.err) == (1, "pluginctl: 0 of 1 mount failed (1 skipped)\n")


def test_reload_status_shows_the_nodes_that_failed(daemon, pluginctl) -> None:
    results = {"a": {"error": "", "timestamp": "x"}, "b": {"error": "1 mount failed", "timestamp": "x"}}
    daemon.answer(STATUS, {"results": results, "mounts": [a_result()], "done": True})
    daemon.answer(REPORT, a_report(a_result(), scope="global"))

    outcome = pluginctl("reload-status", "r-1")

    assert outcome.status == 1
    assert outcome.out.endswith("\nnode b: 1 mount failed\nreload r-1: 1 reloaded in 1.24s\n")


def test_apply_leaves_out_what_is_unchanged(daemon, pluginctl) -> None:
    rows = [
        a_result(result="started", old_version=None, old_pid=None),
        a_result("kv", result="unchanged"),
        a_result("auth/old", result="stopped", new_version=None, new_pid=None),
    ]
    daemon.answer("POST supervisor/apply", a_report(*rows, verb="apply"))

    assert pluginctl("apply").out == (
        "NAMESPACE  MOUNT       VERSION  PID  DOWN  RESULT   NOTE\n"
        "root       auth/mock/  v1.1.0   42   85ms  started\n"
        "root       auth/old/   v1.0.0   41   85ms  stopped\n"
        "apply r-1: 1 started, 1 stopped, 1 unchanged in 1.24s\n"
    )
