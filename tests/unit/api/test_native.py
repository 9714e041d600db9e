"""Handlers under /v1/supervisor, metrics and streams."""

import asyncio
import inspect
import json
from dataclasses import replace
from typing import Any

import pytest
from api_fakes import DEV, FakeEditing, FakeHolding, FakeNode, FakeTicket
from prometheus_client.parser import text_string_to_metric_families

from supervisor.domain.names import MountKey, Namespace
from supervisor.engine.editing import Editing
from supervisor.engine.holding import Holding
from supervisor.engine.node import Node, Options, Ticket


@pytest.mark.parametrize(
    ("fake", "real"),
    [(FakeNode, Node), (FakeTicket, Ticket), (FakeHolding, Holding), (FakeEditing, Editing)],
)
def test_the_fake_has_the_signatures_of_the_real_one(fake: type, real: type) -> None:
    for name, method in inspect.getmembers(fake, inspect.isfunction):
        if not name.startswith("_") and name != "finish":
            names = list(inspect.signature(method).parameters)
            assert names == list(inspect.signature(getattr(real, name)).parameters), name


async def test_instances_are_those_of_the_namespace_and_its_children(served: Any) -> None:
    everywhere = (await served.ask("GET", "/v1/supervisor/instances")).data["instances"]
    team = (await served.ask("GET", "/v1/team-a/supervisor/instances")).data["instances"]

    assert len(everywhere) == 6
    assert [(row["namespace"], row["mount"]) for row in team] == [
        ("team-a", "kv"),
        ("team-a/dev", "auth/mock"),
    ]


async def test_status_tells_a_namespace_about_itself_only(served: Any) -> None:
    root = (await served.ask("GET", "/v1/supervisor/status")).data
    team = (await served.ask("GET", "/v1/team-a/supervisor/status")).data

    assert root["catalog"]["file"] == "/etc/plugind/catalog.yaml"
    assert (team["catalog"]["file"], team["counts"]) == ("", {"ready": 2})


async def test_plan_is_asked_for_the_namespace(served: Any, node: Any) -> None:
    got = await served.ask("GET", "/v1/team-a/dev/supervisor/plan")

    assert got.data["mounts"] == []
    assert node.calls == [("plan", DEV)]


async def test_apply_reports_like_a_reload(served: Any, node: Any) -> None:
    node.row = lambda key: {"result": "unchanged"} if key.path == "kv" else {}

    got = await served.ask("POST", "/v1/supervisor/apply", {"dry_run": True})

    assert got.status == 200
    assert got.warnings is None
    assert (got.data["verb"], len(got.data["mounts"])) == ("apply", 6)
    assert node.calls[0][2].dry_run
    assert [line[1:] for line in node.audited] == [("dry run of apply", "root", "done")]


async def test_apply_is_told_how_as_a_reload_is(served: Any, node: Any) -> None:
    how = {"canary": 2, "canary_for": "1m", "parallel": 3, "on_failure": "continue", "max_failures": 4}

    await served.ask("POST", "/v1/supervisor/apply", {**how, "partial": True})
    near = await served.ask("POST", "/v1/supervisor/apply", {"canaryfor": "1m"})

    assert node.calls[0][2] == Options(
        canary=2, canary_for=60.0, parallel=3, on_failure="continue", max_failures=4, partial=True
    )
    assert (near.status, len(node.calls)) == (400, 1)


@pytest.mark.parametrize(
    ("verb", "result"), [("start", "started"), ("stop", "stopped"), ("restart", "reloaded")]
)
@pytest.mark.parametrize("path", ["auth/mock", "auth/mock/"])
async def test_one_mount_is_started_stopped_and_restarted(
    served: Any, node: Any, verb: str, result: str, path: str
) -> None:
    got = await served.ask("POST", f"/v1/supervisor/{verb}/{path}")

    assert (got.status, got.data["result"]) == (200, result)
    assert node.calls == [(verb, MountKey(Namespace(), "auth/mock"))]
    assert [line[1:] for line in node.audited] == [(f"{verb} auth/mock/", "root", "done")]


async def test_a_start_that_failed_is_400_with_data(served: Any, node: Any) -> None:
    node.row = lambda _: {"result": "failed", "error": "exit 1", "log": ["boom"]}

    got = await served.ask("POST", "/v1/supervisor/start/kv")

    assert got.status == 400
    assert got.errors == ["cannot start kv/ in root: failed: exit 1"]
    assert got.data["log"] == ["boom"]
    assert node.audited[0][3] == "kv/ in root: failed: exit 1"


async def test_a_mount_that_is_not_there_is_404_and_noted(served: Any, node: Any) -> None:
    got = await served.ask("POST", "/v1/team-a/supervisor/stop/nope")

    assert (got.status, got.errors) == (404, ["no mount at nope/ in team-a"])
    assert node.audited[0][2:] == ("team-a", "refused: no mount at nope/ in team-a")


async def test_why_shows_transitions(served: Any) -> None:
    got = await served.ask("GET", "/v1/supervisor/why/auth/mock")

    assert got.data["transitions"][0]["event"] == "became_ready"


async def test_history_is_newest_first_and_limited(served: Any) -> None:
    ids = [(await served.ask("POST", "/v1/sys/plugins/reload/secret/kv")).data["reload_id"] for _ in range(3)]

    got = await served.ask("GET", "/v1/supervisor/reloads?limit=2")
    bad = await served.ask("GET", "/v1/supervisor/reloads?limit=0")

    assert [one["reload_id"] for one in got.data["reloads"]] == [ids[2], ids[1]]
    assert bad.status == 400


async def test_logs_are_the_bytes_of_the_plugin(served: Any) -> None:
    got = await served.ask("GET", "/v1/supervisor/logs/kv?lines=1")

    assert got.headers["content-type"].startswith("text/plain")
    assert got.body == b"two \xff\n"


async def test_logs_of_a_mount_that_is_not_there_are_404(served: Any) -> None:
    for query in ("", "?follow=true"):
        got = await served.ask("GET", f"/v1/supervisor/logs/nope{query}")
        assert (got.status, got.errors) == (404, ["no mount at nope/ in root"])


async def test_followed_logs_stream_until_the_client_goes(served: Any, node: Any) -> None:
    reader, writer = await served.connect()
    writer.write(b"GET /v1/supervisor/logs/kv?follow=true HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in await reader.readuntil(b"\r\n\r\n")
    await reader.readuntil(b"two \xff\n")
    assert node.open_streams == 1

    writer.close()

    async with asyncio.timeout(3):
        await node.stream_ended.wait()
    assert node.open_streams == 0


async def test_a_follower_that_is_too_slow_is_told_why_its_stream_is_not_whole(
    served: Any, node: Any
) -> None:
    node.lags = True
    reader, writer = await served.connect()

    writer.write(b"GET /v1/supervisor/logs/kv?follow=true HTTP/1.1\r\nHost: x\r\n\r\n")

    body = await reader.read()
    assert b"two \xff\n" in body
    assert b"half a line\r\n1\r\n\n\r\n" in body  # the reason is a line of its own
    assert body.endswith(b"plugind: the reader was too slow\n\r\n")  # and no last chunk
    writer.close()


async def test_a_stream_survives_a_half_close_and_ends_with_the_client(served: Any, node: Any) -> None:
    reader, writer = await served.connect()
    writer.write(b"GET /v1/supervisor/events HTTP/1.1\r\nHost: x\r\n\r\n")
    writer.write_eof()
    await reader.readuntil(b"id: 3")
    await reader.readuntil(b"\n:\n\n")  # a heartbeat
    assert node.open_streams == 1

    writer.close()

    async with asyncio.timeout(3):
        await node.stream_ended.wait()


async def test_events_resume_after_the_last_seen(served: Any, node: Any) -> None:
    reader, writer = await served.connect()
    writer.write(b"GET /v1/team-a/supervisor/events HTTP/1.1\r\nHost: x\r\nLast-Event-ID: 2\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    event = await reader.readuntil(b"}\n\n")
    writer.close()

    assert b"Content-Type: text/event-stream" in head
    assert b"id: 3\nevent: became_ready\ndata: " in event
    assert json.loads(event.split(b"data: ")[1])["namespace"] == "team-a"
    assert node.calls == [("events", Namespace(("team-a",)), 2)]


@pytest.mark.parametrize("last", ["x", "-1", "9" * 30, "\u0663"])
async def test_an_event_id_that_is_none_is_refused(served: Any, last: str) -> None:
    got = await served.ask("GET", "/v1/supervisor/events", headers={"Last-Event-ID": last})

    assert got.status == 400


async def test_metrics_are_read_by_prometheus(served: Any) -> None:
    got = await served.ask("GET", "/v1/sys/metrics?format=prometheus")

    families = {family.name: family for family in text_string_to_metric_families(got.body.decode())}
    states = {sample.labels["state"]: sample.value for sample in families["plugind_mounts"].samples}
    drift = {
        (sample.labels["namespace"], sample.labels["mount"])
        for sample in families["plugind_mount_drift"].samples
        if sample.value
    }
    assert got.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert states["ready"] == 6
    assert states["failed"] == 0
    assert drift == {("root", "auth/mock"), ("team-a/dev", "auth/mock")}


async def test_metrics_have_a_json_form_and_no_other(served: Any) -> None:
    as_json = await served.ask("GET", "/v1/team-a/sys/metrics")
    other = await served.ask("GET", "/v1/sys/metrics?format=xml")

    assert {"Name": "plugind.mounts", "Value": 2, "Labels": {"state": "ready"}} in as_json.json["Gauges"]
    assert (other.status, other.headers["content-type"]) == (400, "text/plain")


# --- hold


async def test_a_hold_is_set_shown_and_released_and_each_is_noted(served: Any, node: Any) -> None:
    for method in ("PUT", "POST"):
        got = await served.ask(method, "/v1/team-a/supervisor/hold", {"why": "release 1.4"})
        assert (got.status, got.data["namespace"], got.data["why"]) == (200, "team-a", "release 1.4")
    shown = await served.ask("GET", "/v1/supervisor/hold")
    status = await served.ask("GET", "/v1/team-a/supervisor/status")
    ended = await served.ask("DELETE", "/v1/team-a/supervisor/hold")
    again = await served.ask("DELETE", "/v1/team-a/supervisor/hold")

    assert [row["namespace"] for row in shown.data["holds"]] == ["team-a"]
    assert status.data["holds"] == shown.data["holds"]
    assert (ended.status, ended.data["why"], again.status) == (200, "release 1.4", 404)
    assert (await served.ask("GET", "/v1/supervisor/hold")).data == {"holds": []}
    assert [line[1:] for line in node.audited] == [
        ("hold: release 1.4", "team-a", "done"),
        ("hold: release 1.4", "team-a", "done"),
        ("release team-a", "team-a", "done"),
        ("release team-a", "team-a", "refused: it is not held"),
    ]


async def test_a_namespace_is_shown_no_hold_of_another(served: Any) -> None:
    await served.ask("PUT", "/v1/team-a/dev/supervisor/hold", {"why": "x"})

    async def seen(path: str) -> list[str]:
        got = await served.ask("GET", f"/v1/{path}supervisor/hold")
        return [row["namespace"] for row in got.data["holds"]]

    assert await seen("team-a/") == ["team-a/dev"]
    node_of_team = await served.ask("GET", "/v1/team-a/supervisor/status")
    assert len(node_of_team.data["holds"]) == 1


async def test_a_hold_of_a_namespace_that_is_no_more_is_released_from_above(served: Any, node: Any) -> None:
    await served.ask("PUT", "/v1/team-a/dev/supervisor/hold", {"why": "x"})
    node.known = replace(node.known, namespaces=frozenset({Namespace(), Namespace(("team-a",))}))

    gone = await served.ask("DELETE", "/v1/team-a/dev/supervisor/hold")
    ended = await served.ask("DELETE", "/v1/team-a/supervisor/hold?namespace=dev")

    assert (gone.status, gone.errors) == (404, ["namespace not found"])
    assert (ended.status, ended.data["namespace"]) == (200, "team-a/dev")


@pytest.mark.parametrize("body", [{}, {"why": ""}, {"why": ["x"]}, {"whyy": "x"}, b"["])
async def test_a_hold_without_a_why_is_refused(served: Any, node: Any, body: object) -> None:
    got = await served.ask("PUT", "/v1/supervisor/hold", body)

    assert got.status == 400
    assert node.holding.rows == {}


async def test_a_hold_takes_an_admin_of_the_namespace(serve: Any, as_uid: Any, rule: Any) -> None:
    as_uid(1000)
    team = (Namespace(("team-a",)),)
    reloads = await serve(access=[rule(uid=1000, namespaces=team, may="reload")])
    refused = await reloads.ask("PUT", "/v1/team-a/supervisor/hold", {"why": "x"})
    seen = await reloads.ask("GET", "/v1/team-a/supervisor/hold")
    await reloads.server.stop(0)
    admin = await serve(access=[rule(uid=1000, namespaces=team, may="admin")])

    own = await admin.ask("PUT", "/v1/team-a/dev/supervisor/hold", {"why": "x"})
    all_of_it = await admin.ask("PUT", "/v1/supervisor/hold", {"why": "x"})

    assert (refused.status, seen.status, own.status, all_of_it.status) == (403, 200, 200, 403)
