"""What the node shows of each mount: what runs, what is pinned, and why they differ."""

from dataclasses import replace

import pytest
from engine_fakes import KV, V1, V2, House, Script, a_catalog, a_key, a_launch, a_spec, caller_named, settle

from supervisor.domain.catalog import EMPTY
from supervisor.domain.mount import Phase
from supervisor.domain.plan import Step
from supervisor.engine import views


async def test_a_row_shows_what_runs_and_what_is_pinned(house: House) -> None:
    await house.begun(a_catalog("team-a:auth/a"))
    house.pin("v2")
    await house.node.catalog_changed()

    row = house.row("team-a:auth/a")

    process = house.processes.living()[0]
    assert (row.namespace, row.mount, row.type, row.plugin) == ("team-a", "auth/a", "auth", "mock")
    assert (row.version, row.pinned_version, row.state) == ("v1", "v2", "ready")
    assert (row.pid, row.instance) == (process.pid, process.instance.id)
    assert (row.started_at, row.ready_at) == ("1970-01-01T00:16:40.000+00:00",) * 2
    assert (row.restarts, row.last_exit, row.reason) == (0, None, None)
    assert (row.cpu_seconds, row.memory_bytes) == (1.5, 4096)
    assert (row.has_own_version, row.stopped_by, row.rolled_back_from) == (False, None, None)


async def test_a_mount_that_is_starting_is_not_ready_since_any_time(house: House) -> None:
    house.processes.scripts["v1"] = Script(ready=False)
    await house.begun(a_catalog("auth/a"), proved=False)

    row = house.row("auth/a")

    assert (row.state, row.ready_at) == ("starting", None)
    assert row.pid is not None


async def test_a_crash_is_counted_and_its_exit_shown(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.processes.living()[0].exit(3)
    await settle()

    row = house.row("auth/a")

    assert (row.state, row.restarts, row.last_exit, row.reason) == ("backoff", 1, "exit 3", "exit 3")
    assert (row.pid, row.version, row.cpu_seconds) == (None, None, None)


async def test_a_stopped_mount_shows_who_stopped_it(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    await house.node.stop(a_key("auth/a"), caller_named("bob"))

    row = house.row("auth/a")

    assert (row.state, row.pid, row.stopped_by) == ("stopped", None, "bob")


async def test_a_rollback_shows_from_what_as_long_as_that_is_pinned(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.processes.scripts["v2"] = Script(never_ready="no handshake")
    house.pin("v2")
    await house.reload()
    pinned = house.row("auth/a").rolled_back_from

    house.pin("v3")
    await house.node.catalog_changed()

    assert (pinned, house.row("auth/a").rolled_back_from) == ("v2", None)


async def test_a_mount_that_is_new_in_the_catalog_says_what_starts_it(house: House) -> None:
    await house.begun(a_catalog())
    house.file.says = a_catalog(own={"auth/new": "v3"})
    await house.node.catalog_changed()

    row = house.row("auth/new")

    assert (row.state, row.pid, row.version, row.pinned_version) == ("stopped", None, None, "v3")
    assert (row.type, row.plugin, row.has_own_version) == ("auth", "mock", True)
    assert row.reason == "new in the catalog: apply starts it"


async def test_a_mount_that_the_catalog_does_not_list_any_more_says_what_stops_it(house: House) -> None:
    await house.begun(a_catalog("auth/old"))
    house.file.says = a_catalog()
    await house.node.catalog_changed()

    row = house.row("auth/old")

    assert (row.version, row.pinned_version, row.plugin) == ("v1", None, "mock")
    assert row.reason == "no longer in the catalog: apply stops it"


async def test_rows_come_by_namespace_and_mount_and_a_namespace_sees_itself_and_below(house: House) -> None:
    await house.begun(a_catalog("auth/b", "team-a:auth/z", "auth/a", "team-a/dev:auth/c", "team-b:auth/d"))

    everything = [(row.namespace, row.mount) for row in house.node.instances(a_key("x").namespace)]
    of_team = [row.mount for row in house.node.instances(a_key("team-a:x").namespace)]

    assert everything == [
        ("root", "auth/a"),
        ("root", "auth/b"),
        ("team-a", "auth/z"),
        ("team-a/dev", "auth/c"),
        ("team-b", "auth/d"),
    ]
    assert of_team == ["auth/z", "auth/c"]


async def test_counts_name_every_state(house: House) -> None:
    await house.begun(a_catalog("auth/a", "auth/b"))
    await house.node.stop(a_key("auth/b"), caller_named("bob"))

    assert house.node.status().counts == {**{phase.value: 0 for phase in Phase}, "ready": 1, "stopped": 1}


def test_a_row_of_nothing_is_empty() -> None:
    row = views.instance_row(a_key("auth/a"), None, None, lambda _: None)

    assert (row.type, row.plugin, row.pinned_version, row.state) == ("", "", None, "stopped")


@pytest.mark.parametrize(
    ("step", "shown"),
    [
        (
            Step(a_key("a"), "replace", V1, a_spec("a", V2), ("version",)),
            ("auth/mock", "v1", "v2", ["version"]),
        ),
        (Step(a_key("a"), "start", None, a_spec("a", V2)), ("auth/mock", None, "v2", [])),
        (Step(a_key("a"), "stop", a_launch("v1", KV), None), ("secret/kv", "v1", None, [])),
        (Step(a_key("a"), "stop", None, None), ("", None, None, [])),
    ],
)
def test_a_row_of_a_plan_names_plugin_and_both_versions(step: Step, shown: tuple[object, ...]) -> None:
    row = views.plan_row(step, EMPTY)

    assert (row.plugin, row.running_version, row.wanted_version, row.changed) == shown


def test_a_row_of_a_plan_says_where_a_mount_has_its_own_version() -> None:
    spec = replace(a_spec("a"), has_own_version=True)

    assert views.plan_row(Step(spec.key, "keep", V1, spec), EMPTY).has_own_version
