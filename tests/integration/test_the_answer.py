"""What is said of a reload: while it runs, at its end, and later; whoever listens."""

import json
import socket
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from arena import MOUNT, Real
from harness import UnixConnection


def report(arena: Real, reload_id: str) -> Any:
    return arena.plugind.call("GET", f"supervisor/reloads/{reload_id}").data


def results(data: Any) -> dict[str, str]:
    return {row["mount"].strip("/"): row["result"] for row in data["mounts"]}


def until_done(arena: Real, reload_id: str) -> Any:
    arena.plugind.until(lambda: report(arena, reload_id)["done"])
    return report(arena, reload_id)


def test_a_client_that_goes_away_cancels_nothing(arena: Real) -> None:
    arena.at_rest()
    before = arena.plugind.pids()[f"root:{MOUNT}"]
    arena.close_gate("ends")
    arena.write("v2")
    body = json.dumps({"mounts": [MOUNT]}).encode()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(arena.plugind.socket))
        head = f"POST /v1/sys/plugins/reload/backend HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
        client.sendall(head.encode() + b"\r\n\r\n" + body)
        arena.until_at("ends")
    arena.open_gates()

    newest = arena.plugind.call("GET", "supervisor/reloads?limit=1").data["reloads"][0]
    done = until_done(arena, newest["reload_id"])

    (row,) = done["mounts"]
    assert (row["result"], row["old_pid"], row["old_version"], row["new_version"]) == (
        "reloaded",
        before,
        "v1",
        "v2",
    )
    assert arena.plugind.pids()[f"root:{MOUNT}"] == row["new_pid"]


def test_how_far_a_reload_is_can_be_asked_for_and_later_who_did_it_and_how_long_each_mount_was_down(
    arena: Real,
) -> None:
    arena.at_rest()
    arena.close_gate("ends")
    arena.write("v2")
    asked = arena.plugind.reload(wait=False)
    reload_id = asked.data["reload_id"]
    arena.until_at("ends")
    status = f"sys/plugins/reload/backend/status?reload_id={reload_id}"
    meanwhile = arena.plugind.call("GET", status).data
    other = arena.plugind.rows()["root:auth/other"]
    arena.open_gates()
    done = until_done(arena, reload_id)

    assert asked.status == 202
    assert (meanwhile["pending"], results(meanwhile)[MOUNT]) == (["test"], "pending")
    assert other["state"] in {"ready", "starting", "stopping"}
    assert results(done) == {MOUNT: "reloaded", "auth/other": "reloaded"}
    assert done["by"].startswith("uid ")
    assert done["target"] == "auth/mock in all namespaces"
    took = datetime.fromisoformat(done["finished_at"]) - datetime.fromisoformat(done["started_at"])
    for row in done["mounts"]:
        assert 0 < row["down_seconds"] <= took.total_seconds() + 0.001


def events(arena: Real, after: str | None) -> Iterator[tuple[str, Any]]:
    """Ids and rows of the event stream, until nobody asks for more."""
    connection = UnixConnection(arena.plugind.socket)
    connection.request("GET", "/v1/supervisor/events", headers={"Last-Event-ID": after} if after else {})
    try:
        response = connection.getresponse()
        number = ""
        for text in response:
            line = text.decode().rstrip("\n")
            if line.startswith("id: "):
                number = line[4:]
            elif line.startswith("data: "):
                yield number, json.loads(line[6:])
    finally:
        connection.close()


def test_who_follows_the_events_sees_a_reload_and_goes_on_where_it_was(arena: Real) -> None:
    arena.at_rest()
    arena.close_gate("ready")
    arena.write("v2")
    start = str(arena.transitions())
    doing = arena.reload()
    stream = events(arena, start)
    seen = []
    for number, row in stream:
        seen.append((number, row["after"]))
        if row["after"] == "starting":
            break
    stream.close()
    arena.open_gates()
    assert doing.told() == "reloaded v2"

    for number, row in events(arena, seen[-1][0]):
        seen.append((number, row["after"]))
        if row["after"] == "ready":
            break

    numbers = [int(number) for number, _ in seen]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    phases = [phase for at, (_, phase) in enumerate(seen) if not at or seen[at - 1][1] != phase]
    assert phases == ["stopping", "starting", "ready"]
