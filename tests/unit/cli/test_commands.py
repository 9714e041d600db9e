import json

from supervisor.cli.main import pluginctl as group


def a_transition(**changes):
    row = {
        "id": 7,
        "at": "2026-01-31T12:00:00Z",
        "namespace": "team-a",
        "mount": "auth/mock",
        "event": "exited",
        "before": "ready",
        "after": "backoff",
        "version": "v1.0.0",
        "pid": 42,
        "reason": "exit status 3",
        "reload_ids": ["r-1"],
    }
    return {**row, **changes}


def sse(event_id, document):
    return f"id: {event_id}\nevent: transition\ndata: {json.dumps(document)}\n\n".encode()


def chunked(*pieces, is_whole=True):
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n" * is_whole


def test_plan_shows_what_apply_would_do_and_leaves_out_what_stays(daemon, pluginctl) -> None:
    def a_step(mount, action, running, wanted, **more):
        keys = {"running_version": running, "wanted_version": wanted}
        return {"namespace": "root", "mount": mount, "plugin": "secret/kv", "action": action, **keys, **more}

    daemon.answer(
        "GET supervisor/plan",
        {
            "mounts": [
                a_step("kv", "replace", "v1.0.0", "v2.0.0", changed=["version", "env (SIZE)"]),
                a_step("new", "start", None, "v2.0.0", has_own_version=True),
                a_step("off", "keep", None, "v1.0.0", changed=["stopped by hand"]),
                a_step("same", "keep", "v1.0.0", "v1.0.0"),
            ],
            "catalog": {"faults": []},
        },
    )

    assert pluginctl("plan").out == (
        "NAMESPACE  MOUNT  PLUGIN     ACTION   VERSION          WHY\n"
        "root       kv/    secret/kv  replace  v1.0.0 → v2.0.0  version, env (SIZE)\n"
        "root       new/   secret/kv  start    v2.0.0           own version\n"
        "root       off/   secret/kv  keep     v1.0.0           stopped by hand\n"
        "1 start, 1 replace, 2 keep: pluginctl apply does it\n"
    )
    assert "same/" in pluginctl("plan", "-v").out


def test_a_plan_without_steps_says_that_all_is_well(daemon, pluginctl) -> None:
    daemon.answer("GET supervisor/plan", {"mounts": [], "catalog": {"faults": []}})

    assert pluginctl("plan").out == "everything is as the catalog says\n"


def test_a_pin_is_written_and_the_old_one_shown(daemon, pluginctl) -> None:
    place = "sys/plugins/pins/auth/mock-plugin"
    daemon.answer(f"GET {place}", {"type": "auth", "name": "mock-plugin", "version": "v1.0.0"})
    daemon.answer(f"PUT {place}", {"type": "auth", "name": "mock-plugin", "version": "v1.1.0"})

    outcome = pluginctl("pin", "auth/mock-plugin", "v1.1.0")

    assert outcome.out == (
        "pin of auth/mock-plugin: v1.0.0 → v1.1.0\n"
        "what runs is not touched; to start it: pluginctl reload auth/mock-plugin\n"
    )
    assert daemon.asked[-1].body == {"version": "v1.1.0"}
    assert pluginctl("pin", "auth/mock-plugin").out == "v1.0.0\n"


def test_an_apply_is_told_how_as_a_reload_is(daemon, pluginctl) -> None:
    daemon.answer("POST supervisor/apply", {"reload_id": "r-1", "verb": "apply", "mounts": [], "done": True})

    pluginctl(
        *("apply", "--canary", "1", "--canary-for", "30s", "--parallel", "2"),
        *("--on-failure", "continue", "--max-failures", "3", "--partial"),
    )

    assert daemon.asked[0].body == {
        "canary": 1,
        "canary_for": "30s",
        "parallel": 2,
        "on_failure": "continue",
        "max_failures": 3,
        "partial": True,
        "wait": True,
    }


def test_a_pin_is_undone_and_both_versions_are_shown(daemon, pluginctl) -> None:
    place = "sys/plugins/pins/auth/mock-plugin"
    daemon.answer(f"GET {place}", {"version": "v1.1.0"})
    daemon.answer("POST supervisor/pins/auth/mock-plugin/undo", {"version": "v1.0.0"})
    daemon.answer("POST supervisor/pins/auth/mock-plugin/undo", {"version": None})

    assert pluginctl("pin", "auth/mock-plugin", "--undo").out == (
        "pin of auth/mock-plugin: v1.1.0 → v1.0.0\n"
        "what runs is not touched; to start it: pluginctl reload auth/mock-plugin\n"
    )
    assert pluginctl("pin", "auth/mock-plugin", "--undo").out.startswith(
        "pin of auth/mock-plugin: none, it was v1.1.0\n"
    )
    assert pluginctl("pin", "auth/mock-plugin", "v1.0.0", "--undo").status == 2


def test_a_pin_is_undone_and_reloaded_in_one_command(daemon, pluginctl) -> None:
    daemon.answer("POST supervisor/pins/secret/kv/undo", {"version": "v1"})
    daemon.answer("POST sys/plugins/reload/secret/kv", {"reload_id": "r-1", "mounts": [], "done": True})

    assert pluginctl("pin", "secret/kv", "--undo", "--reload").out == (
        "pin of secret/kv: v1\nreload r-1: no mount was touched\n"
    )


def test_a_version_is_added_with_an_absolute_path_and_its_digest_is_shown(
    daemon, pluginctl, tmp_path, monkeypatch
) -> None:
    place = "sys/plugins/catalog/auth/mock-plugin"
    daemon.raw(f"PUT {place}", b"HTTP/1.1 204 No Content\r\n\r\n")
    daemon.answer(f"GET {place}?version=v3", {"version": "v3", "sha256": "ab" * 32})
    monkeypatch.chdir(tmp_path)

    outcome = pluginctl(
        *(
            "catalog",
            "add",
            "auth/mock-plugin",
            "v3",
            "--command",
            "bin/x",
            "--env",
            "A=1",
            "--",
            "--fast",
            "-x",
        )
    )

    assert outcome.out == (
        f"added to auth/mock-plugin: v3, SHA-256 {'ab' * 32}\n"
        "what runs is not touched; to pin it: pluginctl pin auth/mock-plugin v3\n"
    )
    assert daemon.asked[0].body == {
        "version": "v3",
        "command": f"{tmp_path}/bin/x",
        "args": ["--fast", "-x"],
        "env": ["A=1"],
    }


def test_a_version_is_removed_and_one_that_is_not_there_is_told(daemon, pluginctl) -> None:
    place = "sys/plugins/catalog/auth/mock-plugin?version=v3"
    daemon.answer(f"GET {place}", {"version": "v3"})
    daemon.raw(f"DELETE {place}", b"HTTP/1.1 204 No Content\r\n\r\n")

    assert (
        pluginctl("catalog", "remove", "auth/mock-plugin", "v3").out == "removed from auth/mock-plugin: v3\n"
    )
    outcome = pluginctl("catalog", "remove", "auth/mock-plugin", "v4")
    assert (outcome.status, outcome.err) == (
        2,
        "pluginctl: auth/mock-plugin has no version v4, or is not in the catalog\n",
    )
    assert [one.method for one in daemon.asked] == ["GET", "DELETE", "GET"]


def test_the_catalog_is_shown_as_before_its_commands(daemon, pluginctl) -> None:
    row = {"type": "secret", "name": "kv", "version": "v1"}
    daemon.answer("GET sys/plugins/catalog", {"detailed": [row, {**row, "name": "other"}]})

    assert "secret/other" in pluginctl("catalog").out
    assert pluginctl("catalog", "secret/kv").out == "PLUGIN     VERSION\nsecret/kv  v1\n"
    assert json.loads(pluginctl("catalog", "secret/kv", "--json").out) == {"detailed": [row]}
    assert json.loads(pluginctl("--json", "catalog", "secret/kv").out) == {"detailed": [row]}
    assert pluginctl("catalog", "kv").status == 2
    assert pluginctl("catalog", "ad", "secret/kv", "v2").status == 2


def test_a_pin_with_reload_is_one_command(daemon, pluginctl) -> None:
    daemon.answer("PUT sys/plugins/pins/secret/kv", {"version": "v2.0.0"})
    daemon.answer("POST sys/plugins/reload/secret/kv", {"reload_id": "r-1", "mounts": [], "done": True})

    outcome = pluginctl("pin", "secret/kv", "v2.0.0", "--reload", "--parallel", "2")

    assert outcome.out == "pin of secret/kv: v2.0.0\nreload r-1: no mount was touched\n"
    assert daemon.asked[-1].body == {"parallel": 2, "wait": True}


def test_a_pin_whose_options_make_no_sense_together_writes_nothing(daemon, pluginctl) -> None:
    for options in (["v1", "--parallel", "2"], ["v1", "--reload", "--dry-run"], ["--reload"]):
        assert pluginctl("pin", "secret/kv", *options).status == 2
    assert daemon.asked == []


def test_a_mount_is_started_in_the_namespace_that_stands_before_it(daemon, pluginctl) -> None:
    row = {
        "namespace": "team-a",
        "mount": "auth/mock",
        "result": "started",
        "new_pid": 9,
        "new_version": "v1",
    }
    daemon.answer("POST supervisor/start/auth/mock", row)

    outcome = pluginctl("start", "team-a:auth/mock/")

    assert outcome.out == (
        "NAMESPACE  MOUNT       VERSION  PID  DOWN  RESULT   NOTE\n"
        "team-a     auth/mock/  v1       9    -     started\n"
    )
    assert daemon.asked[0].headers["X-Vault-Namespace"] == "team-a"
    assert pluginctl("start", "team-a:auth/mock", "-n", "team-b").status == 2


def test_a_restart_that_failed_is_exit_status_1_with_the_reason(daemon, pluginctl) -> None:
    row = {
        "namespace": "root",
        "mount": "kv",
        "result": "failed",
        "old_pid": 8,
        "error": "gone",
        "log": ["boom"],
    }
    daemon.answer("POST supervisor/restart/kv", row, status=400, errors=["kv/ in root: gone"])

    outcome = pluginctl("restart", "kv")

    assert outcome.status == 1
    assert outcome.out == (
        "NAMESPACE  MOUNT  VERSION  PID  DOWN  RESULT  NOTE\n"
        "root       kv/    -        8    -     failed\n"
        "kv/ in root: failed: gone\n"
        "    | boom\n"
    )


def test_why_shows_each_step_with_its_reason(daemon, pluginctl) -> None:
    rows = [a_transition(), a_transition(before="backoff", reason=None, reload_ids=[], pid=None)]
    daemon.answer("GET supervisor/why/auth/mock", {"transitions": rows})

    assert pluginctl("why", "auth/mock").out == (
        "AT                   EVENT   STATE            VERSION  PID  REASON\n"
        "2026-01-31 12:00:00  exited  ready → backoff  v1.0.0    42  exit status 3; reload r-1\n"
        "2026-01-31 12:00:00  exited  backoff          v1.0.0     -\n"
    )


def test_history_shows_each_reload_on_one_line(daemon, pluginctl) -> None:
    report = {
        "reload_id": "r-1",
        "verb": "reload",
        "target": "auth/mock-plugin in all namespaces",
        "by": "uid 0",
        "started_at": "2026-01-31T12:00:00Z",
        "finished_at": "2026-01-31T12:01:05Z",
        "mounts": [{"result": "reloaded"}, {"result": "rolled_back"}],
        "done": True,
    }
    daemon.answer("GET supervisor/reloads?limit=20", {"reloads": [report]})

    assert pluginctl("history").out == (
        "ID   AT                   WHAT                                       BY     TOOK   RESULT\n"
        "r-1  2026-01-31 12:00:00  reload auth/mock-plugin in all namespaces  uid 0  1m05s  "
        "1 reloaded, 1 rolled back\n"
    )


def test_the_catalog_can_be_asked_for_one_plugin(daemon, pluginctl) -> None:
    rows = [
        {"type": "auth", "name": "mock", "version": "v1", "pinned": True, "mounts": 3, "sha256": "ab" * 32},
        {"type": "secret", "name": "kv", "version": "v2", "command": "/bin/kv", "args": ["--x"], "mounts": 0},
    ]
    daemon.answer("GET sys/plugins/catalog", {"detailed": rows})

    assert pluginctl("catalog").out == (
        "PLUGIN     VERSION  PINNED  MOUNTS  SHA256        COMMAND\n"
        "auth/mock  v1       pinned       3  abababababab\n"
        "secret/kv  v2                    0  -             /bin/kv --x\n"
    )
    assert json.loads(pluginctl("catalog", "secret/kv", "--json").out) == {"detailed": [rows[1]]}
    assert pluginctl("catalog", "secret/nothing").status == 2


def test_logs_go_into_a_pipe_byte_by_byte(daemon, capfdbinary) -> None:
    daemon.raw("GET supervisor/logs/auth/mock?lines=5&follow=true", chunked(b"\x1b[31m\xff\x00", b"\r\nend"))

    status = group.main(
        ["logs", "auth/mock", "-f", "--lines", "5"], prog_name="pluginctl", standalone_mode=False
    )

    assert (status, capfdbinary.readouterr().out) == (0, b"\x1b[31m\xff\x00\r\nend")


def test_a_log_that_breaks_off_is_told(daemon, pluginctl) -> None:
    daemon.raw("GET supervisor/logs/kv?lines=100", chunked(b"one\n", is_whole=False))

    outcome = pluginctl("logs", "kv")

    assert outcome.out == "one\n"
    assert outcome.status == 3
    assert "broke off; plugind has ended, or it has dropped a reader that was too slow" in outcome.err


def test_logs_as_json_are_strings_of_whole_lines(daemon, pluginctl) -> None:
    daemon.raw(
        "GET supervisor/logs/kv?lines=100", chunked("é".encode()[:1], "é".encode()[1:] + b"\x1b\nrest")
    )

    assert [json.loads(line) for line in pluginctl("--json", "logs", "kv").out.splitlines()] == [
        "é\x1b",
        "rest",
    ]


def test_events_go_on_after_the_last_one_when_the_stream_ends(daemon, pluginctl) -> None:
    first = chunked(
        b": hello\n\n", sse(7, a_transition())[:20], sse(7, a_transition())[20:], b"data: garbage\n\n"
    )
    daemon.raw("GET supervisor/events", first)
    daemon.raw(
        "GET supervisor/events", chunked(sse(8, a_transition(event="\x1b", reload_ids=[])), is_whole=False)
    )
    daemon.answer("GET supervisor/events", status=403, errors=["permission denied"])

    outcome = pluginctl("events")

    assert outcome.out == (
        "2026-01-31 12:00:00  auth/mock/ in team-a:  exited  ready → backoff  v1.0.0  pid 42  "
        "exit status 3; reload r-1\n"
        "2026-01-31 12:00:00  auth/mock/ in team-a:  \\x1b  ready → backoff  v1.0.0  pid 42  exit status 3\n"
    )
    assert [asked.headers.get("Last-Event-ID") for asked in daemon.asked] == [None, "7", "8"]
    assert outcome.status == 2


def test_check_reports_every_fault_with_its_place(tmp_path, pluginctl) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("plugins: {}\n")
    bad.write_text("plugins: {}\nnamespaces:\n  root: {mounts: {auth/x: {plugin: auth/none}}, typo: 1}\n")

    outcome = pluginctl("check", str(good), str(bad))

    assert outcome.out == f"{good}: 0 plugins, 0 versions, 0 mounts in 0 namespaces: good\n"
    assert outcome.status == 2
    assert all(line.startswith(f"{bad}:3:") for line in outcome.err.splitlines())
    assert len(outcome.err.splitlines()) == 2
    document = json.loads(pluginctl("check", "--json", str(bad)).out)
    assert {fault["line"] for fault in document["faults"]} == {3}


def test_every_command_has_help_and_the_shared_options(pluginctl) -> None:
    names = group.list_commands(None)

    assert len(names) >= 15
    for name in names:
        outcome = pluginctl(name, "--help")
        assert outcome.status == 0
        for option in ("--socket", "--namespace", "--json", "--help"):
            assert option in outcome.out, name


def test_a_misspelt_command_is_answered_with_the_near_one(pluginctl) -> None:
    outcome = pluginctl("relaod")

    assert outcome.status == 2
    assert outcome.err.endswith("Error: No such command 'relaod'. Did you mean reload?\n")
