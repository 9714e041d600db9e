import json
from datetime import UTC, datetime, timedelta

NODE = {
    "node": "host-a",
    "version": "0.1.0",
    "pid": 7,
    "started_at": "2026-01-31T12:00:00Z",
    "catalog": {
        "file": "/etc/plugind/catalog.yaml",
        "loaded_at": "2026-01-31T12:00:00Z",
        "source": "file",
        "faults": [],
        "mounts": 2,
        "plugins": 1,
    },
    "counts": {"ready": 2},
    "uses": {"cgroups": "v2, delegated", "etcd": "no"},
    "warnings": [],
}


def ago(seconds):
    return (datetime.now(UTC) - timedelta(seconds=seconds + 0.5)).isoformat()


def a_row(mount="auth/mock", **changes):
    row = {
        "namespace": "root",
        "mount": mount,
        "type": "auth",
        "plugin": "mock-plugin",
        "version": "v1.0.0",
        "pinned_version": "v1.0.0",
        "state": "ready",
        "pid": 4242,
        "started_at": ago(7950),
        "ready_at": ago(7950),
        "restarts": 0,
    }
    return {**row, **changes}


def given(daemon, *rows, **node):
    daemon.answer("GET supervisor/instances", {"instances": list(rows)})
    daemon.answer("GET supervisor/status", {**NODE, **node})


def test_a_line_for_each_mount_says_what_runs_and_where_it_drifts(daemon, pluginctl) -> None:
    given(
        daemon,
        a_row(),
        a_row("auth/two", namespace="team-a/dev", pinned_version="v1.1.0", restarts=12),
        a_row("auth/x", pinned_version="v1.1.0", rolled_back_from="v1.1.0", reason="not ready in 10s"),
        a_row("kv", type="secret", plugin="kv", has_own_version=True, pinned_version="v2.0.0"),
        a_row("auth/off", state="stopped", pid=None, version=None, stopped_by="uid 1000 at 12:00"),
        a_row("auth/bad", state="backoff", pid=None, last_exit="exit status 3", restarts=4),
    )

    outcome = pluginctl("status")

    assert outcome.err == ""
    assert outcome.status == 0
    assert outcome.out == (
        "NAMESPACE   MOUNT       PLUGIN            VERSION  STATE     PID  UP     RESTARTS  NOTE\n"
        "root        auth/mock/  auth/mock-plugin  v1.0.0   ready    4242  2h12m         0\n"
        "team-a/dev  auth/two/   auth/mock-plugin  v1.0.0   ready    4242  2h12m        1"
        "2  pinned v1.1.0\n"
        "root        auth/x/     auth/mock-plugin  v1.0.0   ready    4242  2h12m         "
        "0  not ready in 10s; rolled back from v1.1.0; pinned v1.1.0\n"
        "root        kv/         secret/kv         v1.0.0   ready    4242  2h12m         "
        "0  own version\n"
        "root        auth/off/   auth/mock-plugin  -        stopped     -  -             "
        "0  stopped by uid 1000 at 12:00\n"
        "root        auth/bad/   auth/mock-plugin  v1.0.0   backoff     -  -             "
        "4  last: exit status 3\n"
        "host-a: 6 mounts: 4 ready, 1 backoff, 1 stopped\n"
    )


def test_what_the_reason_says_already_is_not_said_twice(daemon, pluginctl) -> None:
    given(
        daemon,
        a_row("auth/x", rolled_back_from="v1.1.0", reason="rolled back from v1.1.0: exit 1"),
        a_row("auth/off", stopped_by="uid 0", reason="stopped by uid 0"),
    )

    out = pluginctl("status").out

    assert (out.count("rolled back from"), out.count("stopped by")) == (1, 1)


def test_status_is_what_happens_without_a_command(daemon, pluginctl) -> None:
    given(daemon, a_row())

    assert pluginctl().out == pluginctl("status").out
    assert pluginctl("-n", "team-a").status == 0
    assert [asked.headers.get("X-Vault-Namespace") for asked in daemon.asked] == [None] * 4 + ["team-a"] * 2


def test_a_catalog_that_cannot_come_into_force_is_told_beside_the_table(daemon, pluginctl) -> None:
    faults = ["/etc/plugind/catalog.yaml:3:5: unknown key \x1b[31m", "/etc/plugind/catalog.yaml:9:1: no pin"]
    given(
        daemon, catalog={**NODE["catalog"], "source": "last good", "faults": faults}, warnings=["low on pids"]
    )

    outcome = pluginctl("status")

    assert outcome.out == "host-a: 0 mounts\n"
    assert outcome.err == (
        "warning: /etc/plugind/catalog.yaml cannot come into force; "
        "the last good one, of 2026-01-31 12:00:00, is\n"
        "  /etc/plugind/catalog.yaml:3:5: unknown key \\x1b[31m\n"
        "  /etc/plugind/catalog.yaml:9:1: no pin\n"
        "warning: low on pids\n"
    )


def test_verbose_shows_the_daemon_and_what_is_in_use(daemon, pluginctl) -> None:
    given(daemon, a_row(), started_at=ago(90061))

    lines = pluginctl("status", "--verbose").out.splitlines()

    assert lines[:7] == [
        "node     host-a",
        "plugind  0.1.0, pid 7",
        "up       1d1h",
        "catalog  /etc/plugind/catalog.yaml (file, loaded 2026-01-31 12:00:00: 1 plugins, 2 mounts)",
        "cgroups  v2, delegated",
        "etcd     no",
        "",
    ]


def test_what_a_plugin_says_cannot_steer_the_terminal(daemon, pluginctl) -> None:
    given(daemon, a_row(reason="\x1b[2J\x07\u202egone\r\nroot  forged/"))

    out = pluginctl("status").out

    assert "\\x1b[2J\\x07\\u202egone\\r\\nroot  forged/" in out
    assert out.count("\n") == 3


def test_json_is_one_document_with_the_data_of_the_api(daemon, pluginctl) -> None:
    given(daemon, a_row(reason="\x1b"))

    for arguments in (["status", "--json"], ["--json", "status"], ["--json"]):
        document = json.loads(pluginctl(*arguments).out)
        assert document["instances"][0]["mount"] == "auth/mock"
        assert document["status"]["node"] == "host-a"


def test_who_may_not_see_the_node_still_sees_the_mounts(daemon, pluginctl) -> None:
    daemon.answer("GET supervisor/instances", {"instances": [a_row(namespace="team-a")]})
    daemon.answer("GET supervisor/status", status=403, errors=["permission denied"])

    outcome = pluginctl("-n", "team-a")

    assert outcome.out.endswith("\n1 mount: 1 ready\n")
    assert outcome.status == 0


def test_a_namespace_is_not_told_that_its_catalog_is_missing(daemon, pluginctl) -> None:
    given(daemon, a_row(), catalog={"file": "", "source": "none", "faults": []})

    assert pluginctl("-n", "team-a").err == ""
