"""A reload from request to report: how many at a time, the canary, when to halt, what the rows say."""

import asyncio
from dataclasses import replace

import pytest
from engine_fakes import (
    V1,
    V2,
    FakeClock,
    House,
    Script,
    a_catalog,
    a_key,
    a_spec,
    caller_named,
    results,
    row_of,
    settle,
)

from supervisor.domain.catalog import Policies, ReloadPolicy
from supervisor.domain.errors import TargetUnfit
from supervisor.domain.events import Outcome
from supervisor.domain.names import ROOT
from supervisor.domain.plan import ByMounts, Current, Step
from supervisor.engine.reload import Job, Options, Reload, dry_row, fill, job_of, pending
from supervisor.engine.world import Ended
from supervisor.wire import ReloadData

FOUR = ("auth/a", "auth/b", "auth/c", "auth/d")
NO_ROLLBACK = Policies(reload=ReloadPolicy(rollback=False))


async def four(house: House, policies: Policies | None = None) -> House:
    """Four mounts that run v1; v2 is pinned, and nobody has asked for it yet."""
    await house.begun(a_catalog(*FOUR, policies=policies or Policies()))
    house.pin("v2")
    return house


async def test_every_mount_runs_what_is_pinned_when_the_reload_is_done(house: House) -> None:
    await four(house)

    ticket = await house.reload()

    assert await ticket.wait(1)
    assert results(ticket) == dict.fromkeys(FOUR, "reloaded")
    assert {process.instance.launch for process in house.processes.living()} == {V2}
    assert len(house.processes.living()) == 4


@pytest.mark.parametrize(("asked", "at_once"), [(None, 3), (1, 1), (2, 2), (100, 4)])
async def test_no_more_mounts_are_down_at_a_time_than_was_said(
    house: House, asked: int | None, at_once: int
) -> None:
    house.parallel = 3
    await four(house)
    house.processes.scripts["v2"] = Script(ready=False)

    ticket = await house.reload(options=Options(parallel=asked))
    starting = len([one for one in house.processes.living() if one.instance.launch == V2])
    while not ticket.is_done:
        for process in house.processes.living():
            process.become_ready()
        await settle()

    assert starting == at_once
    assert house.processes.most_starting == at_once
    assert results(ticket) == dict.fromkeys(FOUR, "reloaded")


async def test_a_canary_goes_alone_and_is_watched_before_the_rest(house: House) -> None:
    await four(house)

    ticket = await house.reload(options=Options(canary=1, canary_for=5))
    await house.clock.advance(4.9)
    before = results(ticket)
    await house.clock.advance(0.1)

    assert sorted(before.values()) == ["pending", "pending", "pending", "reloaded"]
    assert results(ticket) == dict.fromkeys(FOUR, "reloaded")


async def test_a_canary_that_is_rolled_back_stops_the_rest_at_once(house: House) -> None:
    await four(house)
    house.processes.scripts["v2"] = Script(never_ready="no handshake")

    ticket = await house.reload(options=Options(canary=1, canary_for=5))

    assert ticket.is_done
    assert results(ticket) == {
        "auth/a": "rolled_back",
        "auth/b": "skipped",
        "auth/c": "skipped",
        "auth/d": "skipped",
    }
    assert row_of(ticket, "auth/b").error == "not begun, as other mounts failed: it runs as before"
    assert [process.instance.launch for process in house.processes.living()] == [V1] * 4


async def test_a_canary_that_dies_while_it_is_watched_stops_the_rest(house: House) -> None:
    await four(house)
    ticket = await house.reload(options=Options(canary=1, canary_for=5))
    await house.clock.advance(1)

    house.processes.of("auth/a")[-1].exit(1)
    await house.clock.advance(5)

    assert sorted(results(ticket).values()) == ["rolled_back", "skipped", "skipped", "skipped"]


async def test_a_mount_that_is_stopped_by_hand_is_no_canary(house: House) -> None:
    node = (await four(house)).node
    await node.stop(a_key("auth/a"), caller_named("bob"))

    ticket = await house.reload(options=Options(canary=1, canary_for=5))

    assert results(ticket) == {
        "auth/a": "pending",
        "auth/b": "reloaded",
        "auth/c": "pending",
        "auth/d": "pending",
    }


async def test_an_apply_has_its_canary_among_what_it_touches(house: House) -> None:
    await house.begun(a_catalog("auth/b", "auth/c", own={"auth/a": "v1"}))
    house.pin("v2")

    ticket = await house.apply(options=Options(canary=1, canary_for=5))

    assert results(ticket) == {"auth/a": "pending", "auth/b": "reloaded", "auth/c": "pending"}


async def test_more_canaries_than_mounts_is_all_of_them(house: House) -> None:
    await four(house)

    ticket = await house.reload(options=Options(canary=9))

    assert results(ticket) == dict.fromkeys(FOUR, "reloaded")


async def test_a_failure_halts_and_what_was_not_begun_runs_as_before(house: House) -> None:
    await four(house)
    house.processes.scripts["v2"] = Script(never_ready="no handshake")

    ticket = await house.reload(options=Options(parallel=1))

    assert sorted(results(ticket).values()) == ["rolled_back", "skipped", "skipped", "skipped"]
    assert len(house.processes.of("auth/d")) == 1


async def test_on_failure_continue_goes_on_with_the_others(house: House) -> None:
    await four(house, NO_ROLLBACK)
    house.processes.scripts["v2"] = Script(never_ready="no handshake")

    ticket = await house.reload(options=Options(parallel=1, on_failure="continue"))

    assert results(ticket) == dict.fromkeys(FOUR, "failed")


async def test_as_many_failures_as_were_allowed_do_not_halt(house: House) -> None:
    await four(house)
    house.processes.scripts["v2"] = Script(never_ready="no handshake")

    ticket = await house.reload(options=Options(parallel=1, max_failures=1))

    assert list(results(ticket).values()) == ["rolled_back", "rolled_back", "skipped", "skipped"]


async def test_a_fault_of_one_target_refuses_the_whole_reload(house: House) -> None:
    await house.begun(a_catalog("auth/a", own={"auth/b": "v3"}))
    house.binaries.unfit["/bin/mock-v3"] = "it is not executable"

    with pytest.raises(TargetUnfit) as caught:
        await house.reload()

    assert str(caught.value) == "catalog.yaml:7:3: cannot run auth/b/ in root: it is not executable"
    assert house.processes.did == []


async def test_partial_does_what_can_be_done_and_says_why_the_rest_is_not(house: House) -> None:
    await house.begun(a_catalog("auth/a", own={"auth/b": "v3"}))
    house.binaries.unfit["/bin/mock-v3"] = "it is not executable"

    ticket = await house.reload(options=Options(partial=True))

    assert results(ticket) == {"auth/a": "reloaded", "auth/b": "failed"}
    assert "it is not executable" in str(row_of(ticket, "auth/b").error)
    assert len(house.processes.of("auth/b")) == 1


async def test_a_dry_run_touches_nothing_and_is_in_no_history(house: House) -> None:
    await four(house)

    ticket = await house.reload(options=Options(dry_run=True))

    report = ticket.report()
    assert (report.done, report.dry_run) == (True, True)
    assert {(row.result, row.old_version, row.new_version) for row in report.mounts} == {
        ("unchanged", "v1", "v2")
    }
    assert house.processes.did == []
    assert house.history.writes == []
    assert house.node.report(ticket.reload_id) is None


async def test_a_dry_run_refuses_what_a_reload_would_refuse(house: House) -> None:
    await four(house)
    house.binaries.unfit[V2.command] = "it does not exist"

    with pytest.raises(TargetUnfit):
        await house.reload(options=Options(dry_run=True))


async def test_a_dry_run_shows_the_partial_refusals(house: House) -> None:
    await four(house)
    house.binaries.unfit[V2.command] = "it does not exist"

    ticket = await house.reload("auth/a", options=Options(dry_run=True, partial=True))

    assert results(ticket) == {"auth/a": "failed"}
    assert "it does not exist" in str(row_of(ticket, "auth/a").error)


async def test_a_mount_stopped_by_hand_is_skipped_and_told_by_whom(house: House) -> None:
    node = (await four(house)).node
    await node.stop(a_key("auth/b"), caller_named("bob"))

    ticket = await house.reload()
    rehearsed = await house.reload(options=Options(dry_run=True))

    row = row_of(ticket, "auth/b")
    assert (row.result, row.error) == ("skipped", "stopped by hand by bob")
    assert results(ticket)["auth/a"] == "reloaded"
    assert row_of(rehearsed, "auth/b").error == "stopped by hand by bob"
    assert len(house.processes.of("auth/b")) == 1


async def test_an_answer_that_is_not_true_any_more_is_amended_in_report_and_history(house: House) -> None:
    await four(house)
    ticket = await house.reload()
    reported = results(ticket)
    await house.clock.advance(5)

    house.processes.of("auth/c")[-1].exit(7)
    await settle()

    assert reported == dict.fromkeys(FOUR, "reloaded")
    row = row_of(ticket, "auth/c")
    assert (row.result, row.error, row.new_version) == (
        "rolled_back",
        "ended 5s after it was ready: exit 7",
        "v1",
    )
    assert results(house.node.history(9)[0])["auth/c"] == "rolled_back"
    assert results(house.build().history(9)[0])["auth/c"] == "rolled_back"  # what a next plugind reads


async def test_an_amendment_before_the_end_shows_one_reload_and_no_half_report(house: House) -> None:
    await four(house)
    house.processes.scripts["v2"] = Script(ready=False)
    ticket = await house.reload(options=Options(parallel=2, max_failures=1))
    first = house.processes.of("auth/a")[-1]
    first.become_ready()
    await settle()

    first.exit(7)
    await settle()
    meanwhile = [(data.reload_id, data.done) for data in house.node.history(9)]
    for _ in range(len(FOUR)):
        for process in house.processes.living():
            process.become_ready()
        await settle()

    assert meanwhile == [(ticket.reload_id, False)]
    assert [(data.reload_id, data.done) for data in house.node.history(9)] == [(ticket.reload_id, True)]
    assert results(house.node.history(9)[0])["auth/a"] == "rolled_back"


async def test_an_amendment_reaches_the_history_of_a_reload_that_is_not_in_memory_any_more(
    house: House,
) -> None:
    await house.begun(a_catalog(*FOUR, policies=Policies(reload=ReloadPolicy(watch=3600))))
    house.pin("v2")
    first = await house.reload("auth/a")
    for _ in range(201):
        await house.reload("auth/b")

    house.processes.of("auth/a")[-1].exit(7)
    await settle()

    found = house.node.report(first.reload_id)
    assert found is not None
    assert results(found) == {"auth/a": "rolled_back"}


async def test_reloads_of_overlapping_mounts_both_get_true_answers(house: House) -> None:
    await four(house)
    house.processes.scripts["v2"] = Script(ready=False)

    first = await house.reload("auth/a", "auth/b")
    house.pin("v3")
    second = await house.reload("auth/b", "auth/c")
    for process in house.processes.living():
        process.become_ready()
    await settle()

    assert results(first) == {"auth/a": "reloaded", "auth/b": "reloaded"}
    assert results(second) == {"auth/b": "reloaded", "auth/c": "reloaded"}
    last_pids = {path: house.processes.living(path)[0].pid for path in FOUR[:3]}
    assert row_of(second, "auth/b").new_pid == last_pids["auth/b"]
    assert row_of(second, "auth/b").new_version == "v3"
    assert row_of(first, "auth/b").new_version == "v2"
    assert house.processes.most_of_one_mount == 1


async def test_a_hundred_reloads_at_once_cost_each_mount_two_replacements(house: House) -> None:
    await four(house)

    target = ByMounts(FOUR)
    tickets = [
        house.tasks.create_task(house.node.reload(target, ROOT, Options(), caller_named("bob"), f"r{number}"))
        for number in range(100)
    ]
    await settle()

    for ticket in tickets:
        assert results(await ticket) == dict.fromkeys(FOUR, "reloaded")
    assert all(len(house.processes.of(path)) <= 3 for path in FOUR)


async def test_waiting_ends_when_its_time_is_over_and_the_reload_goes_on(house: House) -> None:
    await four(house)
    house.processes.gate = asyncio.Event()
    ticket = await house.reload()

    in_time = await ticket.wait(0)
    house.processes.gate.set()
    await settle()

    assert not in_time
    assert await ticket.wait(0.1)


async def test_a_job_that_breaks_is_a_row_that_failed_and_the_others_are_done() -> None:
    jobs = [Job(a_key(path), "reload", "auth/mock", a_spec(path, V2)) for path in FOUR]
    reload = Reload(ReloadData(reload_id="r1"), jobs, Options(on_failure="continue"), FakeClock())

    async def do(job: Job, command: str) -> Ended:
        assert command == "r1"
        if job.key.path == "auth/b":
            raise RuntimeError("nobody expects this")
        return Ended(job.key, Outcome.DONE)

    await reload.run(do, 1)

    assert results(reload) == {**dict.fromkeys(FOUR, "reloaded"), "auth/b": "failed"}
    assert "nobody expects this" in str(row_of(reload, "auth/b").error)


async def test_a_reload_that_is_broken_off_says_so_in_every_row_that_was_not_done(house: House) -> None:
    await four(house)
    jobs = [Job(a_key(path), "reload", "auth/mock", a_spec(path, V2)) for path in FOUR]
    reload = Reload(ReloadData(reload_id="r1"), jobs, Options(), house.clock)

    async def do(job: Job, _command: str) -> Ended:
        if job.key.path != "auth/a":
            await asyncio.Event().wait()
        return Ended(job.key, Outcome.DONE)

    task = house.tasks.create_task(reload.run(do, 4))
    await settle()
    task.cancel()
    await settle()

    assert results(reload) == {**dict.fromkeys(FOUR, "failed"), "auth/a": "reloaded"}
    assert row_of(reload, "auth/d").error == "broken off before its end: see status for what runs"


def test_a_time_without_meaning_is_no_time() -> None:
    row = pending(Job(a_key("auth/a"), "reload", "auth/mock"))

    fill(row, Ended(a_key("auth/a"), Outcome.DONE, down=float("nan")), "reloaded")

    assert row.down_seconds is None


def test_an_amendment_about_another_mount_changes_no_row() -> None:
    reload = Reload(
        ReloadData(reload_id="r1"), [Job(a_key("auth/a"), "reload", "auth/mock")], Options(), FakeClock()
    )

    reload.amend(Ended(a_key("auth/z"), Outcome.FAILED))

    assert results(reload) == {"auth/a": "pending"}


@pytest.mark.parametrize(
    ("action", "verb"),
    [("replace", "reload"), ("start", "start"), ("stop", "stop"), ("settings", "settings"), ("keep", "keep")],
)
def test_each_step_of_a_plan_is_a_job(action: str, verb: str) -> None:
    job = job_of(Step(a_key("auth/a"), action, V1, a_spec("auth/a", V2)), None)  # type: ignore[arg-type]

    assert (job.verb, job.plugin, job.held_by) == (verb, "auth/mock", None)


def test_a_mount_that_is_removed_goes_whoever_stopped_it() -> None:
    held = job_of(Step(a_key("auth/a"), "keep", None, a_spec("auth/a")), "bob")
    removed = job_of(Step(a_key("auth/a"), "stop", V1, None), "bob")
    empty = job_of(Step(a_key("auth/a"), "stop", None, None), "bob")

    assert (held.held_by, removed.held_by, empty.plugin) == ("bob", None, "")


def test_a_rehearsed_row_shows_what_would_run() -> None:
    job = Job(a_key("auth/a"), "reload", "auth/mock", a_spec("auth/a", V2))

    rows = [
        dry_row(one, Current(V1))
        for one in (job, replace(job, verb="keep"), replace(job, verb="stop", spec=None))
    ]
    new = dry_row(replace(job, verb="start"), None)

    assert [(row.old_version, row.new_version) for row in rows] == [("v1", "v2"), ("v1", "v1"), ("v1", None)]
    assert (new.old_version, new.new_version) == (None, "v2")
