"""All mounts: what a start of the daemon adopts, starts and leaves, what apply does, how it ends."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from engine_fakes import (
    MOCK,
    V1,
    V2,
    House,
    Script,
    a_catalog,
    a_key,
    a_launch,
    caller_named,
    results,
    row_of,
    settle,
)
from structlog.testing import capture_logs

from supervisor.domain.catalog import EMPTY, Policies, ReloadPolicy, StopPolicy, Version
from supervisor.domain.errors import NotFound
from supervisor.domain.memory import Remembered, StoppedBy, Unrecorded
from supervisor.domain.names import PluginRef, instance_id
from supervisor.engine.reload import Options

BY_HAND = StoppedBy("bob", 1.0)
SLOWER = Policies(stop=StopPolicy(timeout=60.0))


# --- the start of a daemon


async def test_every_mount_is_started_and_its_files_are_checked_together(house: House) -> None:
    house.file.says = a_catalog("auth/a", "auth/b")
    house.node = house.build()

    await house.node.begin()
    await settle()

    assert sorted(house.processes.did) == ["spawn auth/a v1", "spawn auth/b v1"]
    assert house.binaries.verified == [("v1", "v1")]


async def test_a_file_that_is_not_fit_costs_its_mounts_only(house: House) -> None:
    house.binaries.unfit["/bin/mock-v3"] = "it does not exist"

    await house.begun(a_catalog("auth/a", own={"auth/b": "v3"}))

    assert (house.row("auth/a").state, house.row("auth/b").state) == ("ready", "failed")
    assert "it does not exist" in str(house.row("auth/b").reason)


async def test_what_lives_is_adopted_and_no_duplicate_is_started(house: House) -> None:
    process = house.adopted("auth/a", V1)

    with capture_logs() as logs:
        await house.begun(a_catalog("auth/a", "auth/b", pin="v2"))

    assert house.processes.of("auth/a") == [process]
    assert process.signals == []
    assert (house.row("auth/a").pid, house.row("auth/a").version) == (process.pid, "v1")
    assert house.row("auth/b").state == "ready"
    assert {"event": "instances_adopted", "log_level": "info", "count": 1} in logs


async def test_of_several_instances_of_a_mount_the_newest_that_is_ready_stays(house: House) -> None:
    older = house.adopted("auth/a", V1, 5)
    newer = house.adopted("auth/a", V1, 6)
    unready = house.adopted("auth/a", V2, 7, ready=False)

    await house.begun(a_catalog("auth/a"))

    assert (older.is_gone, newer.is_gone, unready.is_gone) == (True, False, True)
    assert house.row("auth/a").pid == newer.pid


async def test_of_several_that_are_not_ready_the_newest_stays(house: House) -> None:
    older = house.adopted("auth/a", V1, 5, ready=False)
    newer = house.adopted("auth/a", V1, 6, ready=False)

    await house.begun(a_catalog("auth/a"))

    assert (older.is_gone, newer.is_gone) == (True, False)


async def test_a_surplus_instance_that_cannot_be_killed_is_told(house: House) -> None:
    house.adopted("auth/a", V1, 5).script = Script(unkillable=True)
    house.adopted("auth/a", V1, 6)

    with capture_logs() as logs:
        await house.begun(a_catalog("auth/a"))

    assert "surplus_instance_survived" in [line["event"] for line in logs]


async def test_a_mount_stopped_by_hand_is_not_started(house: House) -> None:
    house.memory.disk[a_key("auth/a")] = Remembered(held=BY_HAND)

    await house.begun(a_catalog("auth/a"))

    assert house.processes.spawned == []
    assert house.row("auth/a").stopped_by == "bob"


async def test_a_stop_by_hand_that_the_former_daemon_did_not_finish_is_finished(house: House) -> None:
    house.memory.disk[a_key("auth/a")] = Remembered(held=BY_HAND)
    process = house.adopted("auth/a")

    await house.begun(a_catalog("auth/a"))

    assert process.is_gone
    assert process.signals[0] == 15
    row = house.row("auth/a")
    assert (row.state, row.stopped_by, row.reason) == ("stopped", "bob", "stopped by hand by bob")


async def test_after_a_rollback_a_new_daemon_starts_what_last_worked(house: House) -> None:
    house.memory.disk[a_key("auth/a")] = Remembered(good=V1, rolled_back_from=V2, generation=8)

    await house.begun(a_catalog("auth/a", pin="v2"))

    row = house.row("auth/a")
    assert (row.version, row.pinned_version, row.rolled_back_from) == ("v1", "v2", "v2")
    assert house.processes.living()[0].instance.generation == 9


async def test_after_a_rollback_a_new_pin_is_started(house: House) -> None:
    house.memory.disk[a_key("auth/a")] = Remembered(good=V1, rolled_back_from=V2)

    await house.begun(a_catalog("auth/a", pin="v3"))

    assert house.row("auth/a").version == "v3"


async def test_an_adopted_instance_that_dies_is_restarted_as_the_catalog_says(house: House) -> None:
    process = house.adopted("auth/a", V1)
    await house.begun(a_catalog("auth/a"))

    process.exit()
    await house.clock.advance(1)

    assert house.row("auth/a").state == "ready"
    assert house.processes.living()[0] is not process


async def test_an_id_that_a_former_daemon_gave_is_not_given_again_though_it_was_not_remembered(
    house: House,
) -> None:
    house.memory.disk[a_key("auth/a")] = Remembered(generation=7)
    house.remains.dead = {a_key("auth/a"): 8}
    house.adopted("auth/b", generation=2)
    house.adopted("auth/b", generation=3, ready=False)  # start_first: the second one

    await house.begun(a_catalog("auth/a", "auth/b"))
    await house.reload()

    assert [house.memory.disk[a_key(path)].generation for path in ("auth/a", "auth/b")] >= [8, 3]
    assert house.remains.is_clear
    assert [process.instance.generation for process in house.processes.of("auth/a")] == [9, 10]
    assert [process.instance.generation for process in house.processes.of("auth/b")] == [2, 3, 4]


async def test_what_a_lost_instance_was_started_from_is_what_worked_or_what_the_catalog_says(
    house: House,
) -> None:
    key = a_key("auth/a")
    house.memory.disk[key] = Remembered(good=V1, rolled_back_from=V2)
    row = dict.fromkeys(("at", "event", "before", "after"), "") | {"namespace": "root", "mount": "auth/a"}
    house.journal.data = json.dumps(row | {"id": 1, "instance": instance_id(key, 3), "pid": 7}).encode()

    await house.begun(a_catalog("auth/a", pin="v3"))

    def known(version: str, plugin: str = "auth/mock", pid: int = 7, path: str = "auth/a") -> str | None:
        mount = a_key(path)
        seen = Unrecorded(mount, instance_id(mount, 3), pid, plugin, version)
        launch = house.remains.launch_of(seen)
        return launch and launch.version

    assert [known(version) for version in ("v1", "v2", "v3", "v4")] == ["v1", "v2", "v3", None]
    assert known("v1", plugin="auth/other") is None
    assert known("v1", path="auth/gone") is None
    assert known("v1", pid=8) is None, "what a main process left behind is not taken for it"


async def test_adopted_instances_have_the_settings_of_the_catalog_or_the_default_ones(house: House) -> None:
    house.adopted("auth/a")
    house.adopted("auth/no-longer-mounted")
    house.adopted("auth/no-plugin", a_launch("v1", PluginRef("auth", "gone")))

    await house.begun(a_catalog("auth/a", policies=SLOWER))

    assert house.remains.policies == {
        a_key("auth/a"): SLOWER,
        a_key("auth/no-longer-mounted"): SLOWER,
        a_key("auth/no-plugin"): Policies(),
    }


async def test_a_pin_that_was_edited_meanwhile_brings_its_settings_to_nothing_that_runs(house: House) -> None:
    catalog = a_catalog("auth/a", policies=SLOWER)
    plugin = catalog.plugins[MOCK]
    v2 = Version(V2, Policies(stop=StopPolicy(signal=2)))
    plugins = {**catalog.plugins, MOCK: replace(plugin, pin="v2", versions={**plugin.versions, "v2": v2})}
    spec = replace(catalog.mounts[a_key("auth/a")], launch=V2, policies=v2.policies)
    house.adopted("auth/a", V1)

    await house.begun(replace(catalog, plugins=plugins, mounts={spec.key: spec}))
    await house.reload()

    assert house.remains.policies == {a_key("auth/a"): SLOWER}
    assert house.processes.of("auth/a")[0].signals == [SLOWER.stop.signal]
    assert SLOWER.stop.signal != 2


async def test_without_any_catalog_what_lives_is_left_alone_and_nothing_starts(house: House) -> None:
    process = house.adopted("auth/a")

    await house.begun(EMPTY)

    assert house.processes.living() == [process]
    assert house.row("auth/a").reason == "no longer in the catalog: apply stops it"


# --- apply


async def test_apply_starts_stops_replaces_and_leaves_the_rest_alone(house: House) -> None:
    await house.begun(a_catalog("auth/old", "auth/a", own={"auth/kept": "v1"}))
    house.file.says = a_catalog("auth/a", "auth/new", pin="v2", own={"auth/kept": "v1"})

    ticket = await house.apply()

    assert results(ticket) == {
        "auth/a": "reloaded",
        "auth/kept": "unchanged",
        "auth/new": "started",
        "auth/old": "stopped",
    }
    assert ticket.report().verb == "apply"
    assert sorted((one.key.path, one.instance.launch.version) for one in house.processes.living()) == [
        ("auth/a", "v2"),
        ("auth/kept", "v1"),
        ("auth/new", "v2"),
    ]
    assert len(house.processes.of("auth/kept")) == 1


async def test_other_settings_replace_no_process_and_hold_from_now_on(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.file.says = a_catalog("auth/a", policies=SLOWER)
    house.processes.living()[0].script.ignores_signals = True

    ticket = await house.apply()
    untouched = house.processes.did.copy()
    house.tasks.create_task(house.node.stop(a_key("auth/a"), caller_named("bob")))
    await house.clock.advance(59)

    assert results(ticket) == {"auth/a": "unchanged"}
    assert untouched == []
    assert len(house.processes.living()) == 1


async def test_a_reload_brings_the_other_settings_along(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.file.says = a_catalog("auth/a", policies=Policies(stop=StopPolicy(signal=2)))

    await house.reload()

    assert house.processes.spawned[0].signals == [2]


async def test_a_second_apply_changes_nothing(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.file.says = a_catalog("auth/a", "auth/b", pin="v2")
    await house.apply()
    house.processes.did.clear()

    ticket = await house.apply()

    assert results(ticket) == {"auth/a": "unchanged", "auth/b": "unchanged"}
    assert house.processes.did == []


async def test_a_removed_mount_is_forgotten_with_all_it_had(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.logs.open(a_key("auth/a"))
    house.file.says = a_catalog()

    await house.apply()

    assert house.node.instances(a_key("x").namespace) == []
    assert a_key("auth/a") not in house.memory.known
    assert house.logs.opened == {}
    assert house.processes.forgotten == [a_key("auth/a")]
    with pytest.raises(NotFound):
        house.node.why(a_key("auth/a"))


async def test_a_mount_that_is_removed_goes_also_when_it_was_stopped_by_hand(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    await house.node.stop(a_key("auth/a"), caller_named("bob"))
    house.file.says = a_catalog()

    ticket = await house.apply()

    assert results(ticket) == {"auth/a": "stopped"}
    assert house.node.instances(a_key("x").namespace) == []


async def test_a_removed_mount_that_cannot_be_killed_stays_in_sight(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.processes.spawned[0].script.unkillable = True
    house.file.says = a_catalog()

    ticket = await house.apply()

    assert results(ticket) == {"auth/a": "failed"}
    assert house.row("auth/a").state == "failed"


async def test_two_applies_that_remove_one_mount_both_say_so(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.processes.gate = asyncio.Event()
    house.file.says = a_catalog()
    first, second = await house.apply(), await house.apply()

    house.processes.gate.set()
    await settle()

    assert results(first) == results(second) == {"auth/a": "stopped"}


async def test_a_removal_whose_turn_comes_after_another_one_is_done_already(house: House) -> None:
    await house.begun(a_catalog("auth/a", "auth/b"))
    house.processes.gate = asyncio.Event()
    house.file.says = a_catalog()
    slow = await house.apply(Options(parallel=1))
    await house.apply()

    house.processes.gate.set()
    await settle()

    assert results(slow) == {"auth/a": "stopped", "auth/b": "stopped"}


async def test_a_mount_that_is_removed_while_it_is_reloaded_ends_stopped_and_both_are_told(
    house: House,
) -> None:
    await house.begun(a_catalog("auth/a"))
    house.processes.scripts["v2"] = Script(ready=False)
    house.pin("v2")
    reload = await house.reload()
    house.file.says = a_catalog()

    apply = await house.apply()

    assert results(reload) == {"auth/a": "skipped"}
    assert row_of(reload, "auth/a").error == "its mount is no longer in the catalog"
    assert results(apply) == {"auth/a": "stopped"}
    assert house.processes.living() == []


async def test_a_mount_that_is_back_while_it_is_removed_is_kept(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.processes.gate = asyncio.Event()
    house.file.says = a_catalog()
    removal = await house.apply()
    house.file.says = a_catalog("auth/a")
    await house.node.catalog_changed()
    started = house.tasks.create_task(house.node.start(a_key("auth/a"), caller_named("bob")))
    await settle()

    house.processes.gate.set()
    await settle()

    assert results(removal) == {"auth/a": "skipped"}
    assert (await started).result == "started"
    assert house.row("auth/a").state == "ready"


async def test_apply_of_a_namespace_leaves_the_others_alone(house: House) -> None:
    await house.begun(a_catalog("auth/a", "team-a:auth/b", "team-a/dev:auth/c"))
    house.pin("v2")

    ticket = await house.apply(namespace=a_key("team-a:x").namespace)

    assert results(ticket) == {"auth/b": "reloaded", "auth/c": "reloaded"}
    assert house.row("auth/a").version == "v1"


async def test_a_stop_by_hand_during_an_apply_is_not_undone_by_it(house: House) -> None:
    await house.begun(a_catalog())
    house.file.says = a_catalog("auth/a", "auth/b")
    house.processes.scripts["v1"] = Script(ready=False)
    apply = await house.apply(Options(parallel=1))
    await house.node.stop(a_key("auth/b"), caller_named("bob"))

    house.processes.spawned[0].become_ready()
    await settle()

    assert results(apply) == {"auth/a": "started", "auth/b": "skipped"}
    assert row_of(apply, "auth/b").error == "stopped by hand by bob"
    assert house.row("auth/b").stopped_by == "bob"


# --- the end of a daemon


async def test_shutting_down_stops_everything_and_holds_nothing(house: House) -> None:
    await house.begun(a_catalog("auth/a", "auth/b"))
    await house.node.stop(a_key("auth/b"), caller_named("bob"))

    await house.node.shut_down()

    assert house.processes.living() == []
    assert house.memory.disk[a_key("auth/a")].held is None
    assert house.memory.disk[a_key("auth/b")].held is not None


async def test_shutting_down_while_mounts_start_answers_every_command(house: House) -> None:
    await house.begun(a_catalog("auth/a", "auth/b", "auth/c"))
    house.processes.scripts["v2"] = Script(ready=False)
    house.pin("v2")
    reloads = [await house.reload("auth/a"), await house.reload("auth/a", "auth/b")]
    restarted = house.tasks.create_task(house.node.restart(a_key("auth/c"), caller_named("bob")))
    await settle()

    await house.node.shut_down()
    await settle()

    assert results(reloads[0]) == {"auth/a": "skipped"}
    assert results(reloads[1]) == {"auth/a": "skipped", "auth/b": "skipped"}
    assert (await restarted).result in {"reloaded", "skipped"}
    assert house.processes.living() == []


async def test_shutting_down_while_a_mount_is_being_stopped_waits_for_it_and_answers(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.processes.gate = asyncio.Event()
    stopped = house.tasks.create_task(house.node.stop(a_key("auth/a"), caller_named("bob")))
    await settle()
    down = house.tasks.create_task(house.node.shut_down())
    await settle()
    before = down.done()

    house.processes.gate.set()
    await down

    assert not before
    assert (await stopped).result == "stopped"


async def test_shutting_down_while_an_apply_is_under_way_starts_nothing_more(house: House) -> None:
    await house.begun(a_catalog())
    house.file.says = a_catalog("auth/a", "auth/b", "auth/c")
    house.processes.scripts["v1"] = Script(ready=False)
    apply = await house.apply(Options(parallel=1))

    await house.node.shut_down()
    await settle()

    assert set(results(apply).values()) == {"skipped"}
    assert house.processes.living() == []
    assert [one.key.path for one in house.processes.spawned] == ["auth/a"]


async def test_leaving_lets_go_of_every_process(house: House) -> None:
    await house.begun(a_catalog("auth/a", "auth/b"))

    await house.node.leave()

    assert all(process.is_left for process in house.processes.living())
    assert house.processes.did == []
    assert house.memory.disk[a_key("auth/a")].good == V1


# --- a broken effect


async def test_a_mount_whose_start_breaks_says_so_and_the_others_run(house: House) -> None:
    house.processes.scripts["v3"] = Script(broken="spawn")

    await house.begun(a_catalog("auth/a", own={"auth/b": "v3"}))

    assert house.row("auth/a").state == "ready"
    assert house.row("auth/b").state == "failed"
    assert "plugind failed at it: RuntimeError" in str(house.row("auth/b").reason)


@pytest.mark.parametrize("port", ["spawn", "ready"])
async def test_a_reload_to_what_breaks_is_rolled_back_and_answered(house: House, port: str) -> None:
    await house.begun(a_catalog("auth/a"))
    house.processes.scripts["v2"] = Script(broken=port)
    house.pin("v2")

    ticket = await house.reload()

    assert results(ticket) == {"auth/a": "rolled_back"}
    assert house.row("auth/a").version == "v1"


async def test_with_start_first_a_reload_has_two_instances_and_never_three(house: House) -> None:
    await house.begun(a_catalog("auth/a", policies=Policies(reload=ReloadPolicy(order="start_first"))))
    house.pin("v2")
    tickets: list[Any] = [await house.reload() for _ in range(5)]

    assert {row.result for ticket in tickets for row in ticket.report().mounts} == {"reloaded"}
    assert house.processes.most_of_one_mount == 2
