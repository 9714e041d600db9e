"""The one door: what a request is refused for, what it does, and what is told of it afterwards."""

import asyncio

import pytest
from engine_fakes import (
    ALICE,
    KV,
    PLAIN,
    V1,
    V2,
    FakeProcess,
    House,
    Script,
    a_catalog,
    a_key,
    caller_named,
    nonsense,
    pinned,
    results,
    row_of,
    settle,
)
from structlog.testing import capture_logs

from supervisor.domain.catalog import Policies, ReloadPolicy, StopPolicy
from supervisor.domain.errors import BadRequest, CatalogInvalid, NotFound, TargetUnfit, Unavailable
from supervisor.domain.names import ROOT
from supervisor.domain.plan import ByMounts, ByPlugin
from supervisor.engine import feed
from supervisor.engine.reload import Options

BOB = caller_named("bob")
A, B = a_key("auth/a"), a_key("auth/b")


# --- reload and apply


async def test_a_reload_reads_the_file_as_it_is_now(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.pin("v2")

    ticket = await house.reload()

    assert row_of(ticket, "auth/a").new_version == "v2"
    assert house.node.catalog is house.file.says


async def test_a_broken_file_refuses_a_reload_and_an_apply_and_touches_nothing(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.file.says = nonsense()

    with pytest.raises(CatalogInvalid):
        await house.node.reload(ByMounts(("auth/a",)), ROOT, PLAIN, ALICE, "r1")
    with pytest.raises(CatalogInvalid):
        await house.node.apply(ROOT, PLAIN, ALICE, "r2")
    assert house.processes.did == []
    assert house.node.status().catalog.faults == ["catalog.yaml:3:1: unknown key"]


async def test_an_unknown_mount_refuses_the_whole_reload(house: House) -> None:
    await house.begun(a_catalog("auth/a"))

    with pytest.raises(BadRequest, match="auth/z"):
        await house.reload("auth/a", "auth/z")
    assert house.processes.did == []


async def test_a_reload_of_a_plugin_means_its_mounts_in_all_namespaces(house: House) -> None:
    await house.begun(a_catalog("auth/a", "team-a:auth/b"))

    ticket = await house.node.reload(ByPlugin("mock", "auth", everywhere=True), ROOT, PLAIN, ALICE, "r1")
    await settle()

    report = ticket.report()
    assert results(report) == {"auth/a": "reloaded", "auth/b": "reloaded"}
    assert (report.target, report.by, report.node) == ("auth/mock in all namespaces", "alice", "host-a")
    assert report.finished_at is not None


async def test_a_reload_of_a_plugin_that_is_mounted_nowhere_is_done_at_once(house: House) -> None:
    await house.begun(a_catalog("auth/a"))

    ticket = await house.node.reload(ByPlugin("kv"), ROOT, Options(canary=1, canary_for=5), ALICE, "r1")
    await settle()

    assert (ticket.is_done, results(ticket)) == (True, {})


async def test_an_edit_between_plan_and_apply_is_what_apply_goes_by(house: House) -> None:
    await house.begun(a_catalog("auth/a", "auth/b"))
    house.pin("v2")
    plan = await house.node.plan(ROOT)
    house.file.says = a_catalog("auth/a", pin="v3")

    ticket = await house.apply()

    assert [row.wanted_version for row in plan.mounts] == ["v2", "v2"]
    assert results(ticket) == {"auth/a": "reloaded", "auth/b": "stopped"}
    assert house.row("auth/a").version == "v3"


async def test_an_edit_while_the_files_are_being_checked_changes_nothing_of_this_reload(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.pin("v2")
    house.binaries.gate = asyncio.Event()
    reload = house.tasks.create_task(house.node.reload(ByMounts(("auth/a",)), ROOT, PLAIN, ALICE, "r1"))
    await settle()
    house.pin("v3")
    await house.node.catalog_changed()

    house.binaries.gate.set()
    await settle()

    assert row_of(await reload, "auth/a").new_version == "v2"
    assert house.row("auth/a").pinned_version == "v3"


async def test_a_disk_that_does_not_tell_what_the_catalog_is_leaves_what_is_in_force(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    good, house.file.says = house.file.says, Unavailable("cannot look at the catalog: input/output error")

    await house.node.catalog_changed()

    assert house.node.status().catalog.faults == ["cannot look at the catalog: input/output error"]
    with pytest.raises(Unavailable):
        await house.node.reload(ByMounts(("auth/a",)), ROOT, PLAIN, ALICE, "r1")
    house.file.says = good
    await house.node.catalog_changed()
    assert house.node.status().catalog.faults == []
    assert house.row("auth/a").state == "ready"


async def test_a_plan_shows_drift_and_touches_nothing(house: House) -> None:
    await house.begun(a_catalog("auth/a", own={"auth/b": "v1"}))
    house.pin("v2")

    plan = await house.node.plan(ROOT)

    assert [(row.mount, row.action, row.has_own_version) for row in plan.mounts] == [
        ("auth/a", "replace", False),
        ("auth/b", "keep", True),
    ]
    assert plan.mounts[0].changed == ["version", "command"]
    assert plan.catalog.mounts == 2
    assert house.processes.did == []


async def test_commands_wait_until_what_a_former_daemon_left_is_known(house: House) -> None:
    house.file.says = a_catalog("auth/a")
    process = house.adopted("auth/a", V1)
    house.remains.gate = asyncio.Event()
    house.node = house.build()
    begun = house.tasks.create_task(house.node.begin())
    await settle()
    reload = house.tasks.create_task(house.node.reload(ByMounts(("auth/a",)), ROOT, PLAIN, ALICE, "r1"))
    await settle()
    spawned_before = len(house.processes.spawned)

    house.remains.gate.set()
    await begun
    await settle()

    assert spawned_before == 1
    assert row_of(await reload, "auth/a").old_pid == process.pid
    assert house.processes.most_of_one_mount == 1


# --- reports


async def test_a_report_is_known_while_it_is_under_way_and_from_history_later(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.processes.gate = asyncio.Event()
    ticket = await house.reload()
    under_way = house.node.report(ticket.reload_id)
    listed = [data.done for data in house.node.history(5)]

    house.processes.gate.set()
    await settle()

    later = house.build().report(ticket.reload_id)
    assert under_way is not None
    assert listed == [False]
    assert later is not None
    assert (later.done, results(later)) == (True, {"auth/a": "reloaded"})
    assert house.node.report("unknown") is None


async def test_a_reload_that_its_plugind_did_not_survive_is_told_as_interrupted(house: House) -> None:
    await house.begun(a_catalog("auth/a", "auth/b"))
    done = (await house.reload("auth/a")).reload_id
    house.processes.gate = asyncio.Event()
    begun = (await house.reload("auth/b")).reload_id

    await house.begun(a_catalog("auth/a", "auth/b"))

    first, second = house.node.history(5)
    assert (first.reload_id, first.done, results(first)) == (begun, True, {"auth/b": "interrupted"})
    assert (second.reload_id, results(second)) == (done, {"auth/a": "reloaded"})
    assert first.finished_at is not None
    assert house.history.unended() == []


async def test_nothing_is_killed_before_a_next_plugind_would_know_of_the_reload(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    noted: list[set[str]] = []
    signal_main = house.processes.signal_main

    def spy(process: FakeProcess, number: int) -> None:
        noted.append(set(house.history.noted))
        signal_main(process, number)

    house.processes.signal_main = spy  # type: ignore[method-assign]
    reload_id = (await house.reload()).reload_id

    assert noted == [{reload_id}]


async def test_history_is_newest_first_and_no_longer_than_asked(house: House) -> None:
    await house.begun(a_catalog("auth/a", "auth/b"))
    done = [(await house.reload("auth/a")).reload_id for _ in range(3)]
    house.processes.gate = asyncio.Event()
    under_way = (await house.reload("auth/b")).reload_id

    listed = [data.reload_id for data in house.node.history(3)]

    assert listed == [under_way, done[2], done[1]]


async def test_finished_reloads_leave_memory_and_stay_in_history(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    tickets = [await house.reload() for _ in range(203)]

    found = house.node.report(tickets[0].reload_id)

    assert len(house.node._reports._reloads) <= 202
    assert found is not None
    assert results(found) == {"auth/a": "reloaded"}


async def test_a_history_that_breaks_costs_no_other_reload(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.history.append = None  # type: ignore[assignment,method-assign]

    with capture_logs() as logs:
        ticket = await house.reload()

    assert results(ticket) == {"auth/a": "reloaded"}
    assert "reload_broke" in [line["event"] for line in logs]


# --- start, stop, restart


async def test_a_stop_by_hand_is_on_disk_before_its_answer(house: House) -> None:
    await house.begun(a_catalog("auth/a"))

    row = await house.node.stop(A, BOB)

    held = house.memory.disk[A].held
    assert (row.result, row.plugin, row.mount) == ("stopped", "auth/mock", "auth/a")
    assert held is not None
    assert held.who == "bob"


async def test_a_start_by_hand_is_on_disk_before_its_answer(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    await house.node.stop(A, BOB)

    await house.node.start(A, ALICE)

    assert house.memory.disk[A].held is None, "a next plugind would stop it again"


async def test_a_start_ends_the_hold(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    await house.node.stop(A, BOB)

    row = await house.node.start(A, ALICE)

    assert (row.result, row.new_version) == ("started", "v1")
    assert house.row("auth/a").stopped_by is None


async def test_a_stop_of_a_mount_that_was_never_applied_holds_it(house: House) -> None:
    await house.begun(a_catalog())
    house.file.says = a_catalog("auth/a")
    await house.node.catalog_changed()

    await house.node.stop(A, BOB)
    ticket = await house.apply()

    assert results(ticket) == {"auth/a": "skipped"}
    assert house.processes.spawned == []


async def test_a_mount_that_the_catalog_does_not_list_any_more_can_be_stopped_and_not_started(
    house: House,
) -> None:
    await house.begun(a_catalog("auth/a"))
    house.file.says = a_catalog()
    await house.node.catalog_changed()

    row = await house.node.stop(A, BOB)

    assert (row.result, row.plugin) == ("stopped", "")
    with pytest.raises(NotFound):
        await house.node.start(A, BOB)


async def test_what_does_not_exist_is_not_found(house: House) -> None:
    await house.begun(a_catalog("auth/a"))

    for command in (house.node.start, house.node.stop, house.node.restart):
        with pytest.raises(NotFound):
            await command(a_key("auth/z"), BOB)
    with pytest.raises(NotFound):
        house.node.why(a_key("auth/z"))
    with pytest.raises(NotFound):
        await house.node.log_tail(a_key("auth/z"), 1)
    with pytest.raises(NotFound):
        house.node.log_follow(a_key("auth/z"), 1)


async def test_a_start_of_an_unfit_file_is_refused_and_the_hold_stays(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    await house.node.stop(A, BOB)
    house.binaries.unfit[V1.command] = "it does not exist"

    with pytest.raises(TargetUnfit):
        await house.node.start(A, ALICE)
    assert house.row("auth/a").stopped_by == "bob"


async def test_a_start_runs_by_the_settings_that_the_catalog_has_now(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    await house.node.stop(A, BOB)
    house.file.says = a_catalog("auth/a", policies=Policies(stop=StopPolicy(signal=2)))
    await house.node.catalog_changed()

    await house.node.start(A, ALICE)
    await house.node.stop(A, BOB)

    assert house.processes.spawned[-1].signals == [2]


async def test_a_start_of_what_runs_changes_no_settings(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.file.says = a_catalog("auth/a", policies=Policies(stop=StopPolicy(signal=2)))
    await house.node.catalog_changed()

    row = await house.node.start(A, ALICE)
    await house.node.stop(A, BOB)

    assert row.result == "started"
    assert house.processes.spawned[-1].signals == [15]


async def test_after_a_rollback_a_start_runs_what_last_worked_and_checks_that_file(house: House) -> None:
    await rolled_back(house)
    await house.node.stop(A, BOB)
    house.binaries.unfit[V2.command] = "it does not exist"

    row = await house.node.start(A, ALICE)

    assert (row.result, row.new_version) == ("started", "v1")


async def test_a_rollback_is_on_disk_before_its_answer(house: House) -> None:
    await rolled_back(house)

    assert house.memory.disk[A].rolled_back_from == V2, "a next plugind would start it once more"


async def test_a_version_that_works_after_all_is_on_disk_before_its_answer(house: House) -> None:
    await rolled_back(house)
    del house.processes.scripts["v2"]

    await house.reload()

    assert house.row("auth/a").version == "v2"
    assert house.memory.disk[A].rolled_back_from is None, "a next plugind would start v1"


async def test_a_mount_that_an_apply_removes_is_forgotten_on_disk_before_its_answer(house: House) -> None:
    await house.begun(a_catalog("auth/a", "auth/b"))
    await house.node.stop(A, BOB)
    house.file.says = a_catalog("auth/b")

    await house.apply()

    assert A not in house.memory.disk, "a next plugind would hold it, were it listed again"


async def rolled_back(house: House) -> None:
    """The mount runs v1, as the pinned v2 did not work."""
    await house.begun(a_catalog("auth/a"))
    house.pin("v2")
    house.processes.scripts["v2"] = Script(never_ready="no handshake")
    await house.reload()
    await house.clock.advance(20)


async def test_a_restart_is_a_new_instance_of_what_runs_whatever_is_pinned(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.pin("v2")
    await house.node.catalog_changed()

    row = await house.node.restart(A, BOB)

    assert (row.result, row.old_version, row.new_version) == ("reloaded", "v1", "v1")
    assert len(house.processes.spawned) == 2


async def test_a_restart_checks_the_file_that_it_will_run(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.pin("v2")
    await house.node.catalog_changed()
    house.binaries.unfit[V1.command] = "it was deleted"

    with pytest.raises(TargetUnfit, match="it was deleted"):
        await house.node.restart(A, BOB)
    assert house.processes.did == []


async def test_a_restart_does_not_mind_a_pinned_file_that_it_will_not_run(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.pin("v2")
    await house.node.catalog_changed()
    house.binaries.unfit[V2.command] = "it does not exist"

    row = await house.node.restart(A, BOB)

    assert (row.result, row.new_version) == ("reloaded", "v1")


@pytest.mark.parametrize("order", ["stop_first", "start_first"])
async def test_a_restart_during_a_reload_does_not_undo_it(house: House, order: str) -> None:
    policies = Policies(reload=ReloadPolicy(order=order))  # type: ignore[arg-type]
    await house.begun(a_catalog("auth/a", policies=policies))
    house.pin("v2")
    house.processes.scripts["v2"] = Script(ready=False)
    house.processes.gate = asyncio.Event()
    reload = await house.reload()
    restart = house.tasks.create_task(house.node.restart(A, BOB))
    await settle()

    house.processes.gate.set()
    await settle()
    while not restart.done():
        for process in house.processes.living():
            process.become_ready()
        await settle()

    assert (await restart).new_version == "v2"
    assert row_of(reload, "auth/a").new_version == "v2"
    assert house.row("auth/a").version == "v2"


async def test_a_restart_behind_a_reload_that_waits_runs_what_that_one_asked_for(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.processes.scripts["v2"] = house.processes.scripts["v3"] = Script(ready=False)
    house.pin("v2")
    await house.reload()
    house.pin("v3")
    await house.reload()
    restart = house.tasks.create_task(house.node.restart(A, BOB))
    await settle()

    while not restart.done():
        for process in house.processes.living():
            process.become_ready()
        await settle()

    assert (await restart).new_version == "v3"


async def test_a_restart_whose_check_took_so_long_that_another_version_runs_is_of_that_one(
    house: House,
) -> None:
    await house.begun(a_catalog("auth/a"))
    house.binaries.gate = asyncio.Event()
    restart = house.tasks.create_task(house.node.restart(A, BOB))
    await settle()
    checking, house.binaries.gate = house.binaries.gate, None
    house.pin("v2")
    await house.reload()

    checking.set()

    assert (await restart).new_version == "v2"
    assert house.row("auth/a").version == "v2"


async def test_a_restart_while_it_falls_back_is_of_what_comes_back(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.pin("v2")
    house.processes.scripts["v2"] = Script(never_ready="no handshake")
    house.processes.gate = asyncio.Event()
    await house.reload()
    house.processes.gate.set()
    house.processes.gate = asyncio.Event()
    await settle()

    restart = house.tasks.create_task(house.node.restart(A, BOB))
    await settle()
    house.processes.gate.set()
    await settle()

    row = await restart
    assert (row.result, row.new_version) == ("reloaded", "v1")
    assert [one.instance.launch.version for one in house.processes.spawned].count("v2") == 1


async def test_a_restart_of_what_is_stopped_by_hand_starts_it(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    await house.node.stop(A, BOB)

    row = await house.node.restart(A, ALICE)

    assert row.result == "started"
    assert house.row("auth/a").state == "ready"


async def test_a_restart_of_what_waits_for_its_backoff_starts_it_at_once(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.processes.spawned[0].exit(1)
    await settle()

    row = await house.node.restart(A, ALICE)

    assert row.result == "started"
    assert len(house.processes.living()) == 1


async def test_when_plugind_ends_commands_are_refused(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    await house.node.shut_down()

    for work in (
        house.node.reload(ByMounts(("auth/a",)), ROOT, PLAIN, ALICE, "r1"),
        house.node.apply(ROOT, PLAIN, ALICE, "r2"),
        house.node.start(A, BOB),
        house.node.stop(A, BOB),
        house.node.restart(A, BOB),
    ):
        with pytest.raises(Unavailable, match="shutting down"):
            await work
    assert house.processes.living() == []


async def test_a_command_whose_check_goes_on_while_plugind_ends_starts_nothing(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    await house.node.stop(A, BOB)
    house.binaries.gate = asyncio.Event()
    start = house.tasks.create_task(house.node.start(A, BOB))
    await settle()
    await house.node.shut_down()

    house.binaries.gate.set()

    assert (await start).result == "skipped"
    assert house.processes.living() == []


# --- warnings, audit, logs, events


async def test_what_was_found_at_the_start_and_later_is_shown_and_the_newest_stay(house: House) -> None:
    house.remains.troubles = ["instance x-1 had lost its record: the rest was killed"]
    await house.begun(a_catalog())

    for number in range(25):
        house.node.warn(f"trouble {number}")

    warnings = house.node.status().warnings
    assert (len(warnings), warnings[-1]) == (20, "trouble 24")


async def test_status_says_what_this_node_is(house: House) -> None:
    house.remains.troubles = ["something was left"]
    await house.begun(a_catalog("auth/a"))

    status = house.node.status()

    assert (status.node, status.version, status.pid, status.uses) == (
        "host-a",
        "1.2.3",
        42,
        {"cgroups": "no"},
    )
    assert status.warnings == ["something was left"]


async def test_audit_says_who_did_what_where(house: House) -> None:
    await house.begun(a_catalog())

    house.node.audit(ALICE, "reload auth/mock", ROOT, "reloaded 2 mounts")

    entry = dict(house.audit.entries[0])
    assert entry.pop("at")
    assert entry == {
        "who": "alice",
        "uid": 1000,
        "pid": 77,
        "what": "reload auth/mock",
        "namespace": "root",
        "result": "reloaded 2 mounts",
    }


async def test_an_audit_that_cannot_be_written_is_told_with_what_it_would_have_said(house: House) -> None:
    await house.begun(a_catalog())
    house.audit.fails = "no space left on device"

    with capture_logs() as logs:
        house.node.audit(ALICE, "reload", ROOT, "done")

    assert logs[0]["event"] == "audit_not_written"
    assert logs[0]["entry"]["what"] == "reload"


async def test_logs_are_read_of_mounts_of_the_catalog_and_of_those_that_still_run(house: House) -> None:
    await house.begun(a_catalog("auth/a", "auth/b"))
    house.file.says = a_catalog("auth/b")
    await house.node.catalog_changed()

    assert await house.node.log_tail(A, 1) == [b"a line of auth/a/ in root"]
    assert [line async for line in house.node.log_follow(B, 1)] == [b"a line of auth/b/ in root"]


async def test_a_mount_that_was_never_applied_has_no_log_to_follow(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.file.says = a_catalog("auth/a", "auth/b")
    await house.node.catalog_changed()

    with pytest.raises(NotFound, match="was never applied"):
        house.node.log_follow(B, 1)


async def test_a_start_by_hand_that_turns_out_bad_later_is_in_no_history(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    await house.node.stop(A, BOB)
    house.pin("v2")
    await house.node.catalog_changed()
    row = await house.node.start(A, ALICE)

    house.processes.spawned[-1].exit(1)
    await settle()

    assert (row.result, row.new_version) == ("started", "v2")
    assert house.row("auth/a").version == "v1"
    assert house.node.history(9) == []


async def test_who_is_too_slow_for_the_events_is_told_so(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "SLOW", 2)
    await house.begun(a_catalog("auth/a"))
    events = house.node.events(ROOT, 0)
    await anext(events)

    await house.reload()

    with pytest.raises(feed.Lagged):
        _ = [row async for row in events]


async def test_events_are_those_of_the_namespace_and_below(house: House) -> None:
    await house.begun(a_catalog("auth/a", "team-a:auth/b", "team-a/dev:auth/c"), proved=False)

    events = house.node.events(a_key("team-a:x").namespace, 0)

    seen = [await anext(events) for _ in range(6)]
    assert {row.mount for row in seen} == {"auth/b", "auth/c"}
    assert [row.event for row in seen if row.mount == "auth/b"] == ["start", "spawned", "became_ready"]


async def test_why_tells_the_last_transitions_of_a_mount_oldest_first(house: House) -> None:
    await house.begun(a_catalog("auth/a", "auth/b"))
    house.processes.of("auth/a")[0].exit(3)
    await house.clock.advance(1)

    rows = house.node.why(A)

    assert [row.event for row in rows][-5:] == [
        "exited",
        "tree_gone",
        "timer_fired",
        "spawned",
        "became_ready",
    ]
    assert {row.mount for row in rows} == {"auth/a"}
    assert next(row.reason for row in rows if row.event == "exited") == "exit 3"


async def test_a_plugin_of_another_pin_stays_as_it_is(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    assert not isinstance(house.file.says, CatalogInvalid)
    house.file.says = pinned(house.file.says, KV, "v1")

    plan = await house.node.plan(ROOT)

    assert [row.action for row in plan.mounts] == ["keep"]
