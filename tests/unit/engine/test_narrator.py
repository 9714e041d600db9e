"""Which transitions people are told of, under which name, and what `why` shows of each."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from engine_fakes import V1, V2, a_key
from msgspec.structs import replace
from structlog.testing import capture_logs

from supervisor.domain.events import (
    Adopted,
    Answer,
    BecameReady,
    Event,
    Exited,
    Instance,
    Outcome,
    SpawnFailed,
    Stop,
    StopCommandDone,
    TimerFired,
)
from supervisor.domain.mount import Mount, Phase
from supervisor.domain.names import InstanceId
from supervisor.engine.feed import Transition
from supervisor.engine.narrator import narrate, row_of

INSTANCE = Instance(InstanceId("x-1"), 1, V1)
READY = Mount(a_key("team-a:auth/a"), phase=Phase.READY, instance=INSTANCE)
STARTING = replace(READY, phase=Phase.STARTING)
STOPPING = replace(READY, phase=Phase.STOPPING)
STOPPED = replace(READY, phase=Phase.STOPPED, instance=None, reason="stopped by hand by bob")
FAILED = replace(STOPPED, phase=Phase.FAILED, reason="exit 1; given up after 6 crashes within 1m")
ROLLED_BACK = Answer(("r1", "r2"), Outcome.ROLLED_BACK, "exit 7")


def step(before: Mount, event: Event, after: Mount, *actions: Any) -> Transition:
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    return Transition(before, event, after, actions, 1.0, 77, 12, at)


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        (step(STARTING, BecameReady(1), READY), [("info", "instance_ready", None)]),
        (step(READY, Exited(1, "exit 1"), STOPPING), [("warning", "instance_exited", "exit 1")]),
        (step(STARTING, Exited(1, "exit 1"), STOPPING), [("warning", "instance_exited", "exit 1")]),
        (step(STOPPING, Exited(1, "signal 15"), STOPPING), []),
        (
            step(STARTING, SpawnFailed(1, "EAGAIN"), STOPPED),
            [
                ("warning", "instance_not_started", "EAGAIN"),
                ("info", "mount_stopped", "stopped by hand by bob"),
            ],
        ),
        (step(STOPPING, StopCommandDone(1), FAILED), [("error", "mount_failed", FAILED.reason)]),
        (step(STOPPED, Stop(), STOPPED), []),
        (step(FAILED, Stop(), FAILED), []),
        (step(READY, Stop(), READY, ROLLED_BACK), [("warning", "reload_rolled_back", "exit 7")]),
        (step(READY, Stop(), READY, msgspec.structs.replace(ROLLED_BACK, outcome=Outcome.DONE)), []),
    ],
    ids=lambda value: (
        f"{type(value.event).__name__} {value.before.phase}" if isinstance(value, Transition) else ""
    ),
)
def test_people_are_told_by_name_and_level(
    shown: Transition, told: list[tuple[str, str, str | None]]
) -> None:
    with capture_logs() as logs:
        narrate(shown)

    assert [(line["log_level"], line["event"], line.get("reason")) for line in logs] == told


def test_each_line_names_mount_version_instance_and_pid() -> None:
    with capture_logs() as logs:
        narrate(step(READY, Exited(1, "exit 1"), STOPPED))

    assert logs[0] == {
        "event": "instance_exited",
        "log_level": "warning",
        "namespace": "team-a",
        "mount": "auth/a",
        "version": "v1",
        "instance": "x-1",
        "pid": 77,
        "reason": "exit 1",
    }


def test_a_mount_that_never_ran_is_told_without_an_instance() -> None:
    with capture_logs() as logs:
        narrate(step(replace(STOPPED, phase=Phase.BACKOFF), Stop(), STOPPED))

    assert (logs[0]["version"], logs[0]["instance"]) == (None, None)


def test_a_row_says_what_took_the_mount_from_where_to_where() -> None:
    row = row_of(step(READY, Exited(1, "exit 1"), STOPPED, ROLLED_BACK))

    assert (row.id, row.at, row.event) == (12, "2026-01-02T03:04:05.678+00:00", "exited")
    assert (row.before, row.after, row.reason) == ("ready", "stopped", "exit 1")
    assert (row.namespace, row.mount, row.version, row.instance) == ("team-a", "auth/a", "v1", "x-1")
    assert row.reload_ids == ["r1", "r2"]


@pytest.mark.parametrize(
    ("event", "name", "reason"),
    [
        (TimerFired("ready", 1, "no READY=1"), "timer_fired", "no READY=1"),
        (TimerFired("stop", 1), "timer_fired", "stopped by hand by bob"),
        (Adopted(INSTANCE, ready=True), "adopted", "stopped by hand by bob"),
        (BecameReady(1), "became_ready", "stopped by hand by bob"),
    ],
)
def test_the_reason_is_the_events_own_or_else_that_of_the_mount(event: Event, name: str, reason: str) -> None:
    row = row_of(step(STOPPED, event, STOPPED))

    assert (row.event, row.reason, row.version) == (name, reason, None)


def test_a_row_is_of_the_instance_that_is_there_afterwards() -> None:
    second = Instance(InstanceId("x-2"), 2, V2)

    row = row_of(step(READY, BecameReady(2), replace(READY, instance=second)))

    assert (row.version, row.instance) == ("v2", "x-2")
