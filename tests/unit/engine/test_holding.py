"""A hold: what it refuses and touches nothing, what goes on, and what a crash or a start runs meanwhile."""

import asyncio
import random
from contextlib import suppress

import pytest
from engine_fakes import (
    ALICE,
    MOCK,
    PLAIN,
    TEAM,
    V1,
    V2,
    House,
    a_catalog,
    a_key,
    caller_named,
    pinned,
    results,
    row_of,
    settle,
)
from structlog.testing import capture_logs

from supervisor.domain.catalog import Policies, StopPolicy
from supervisor.domain.errors import Cannot, Conflict, Held, NotFound
from supervisor.domain.names import ROOT, Namespace
from supervisor.domain.plan import ByPlugin
from supervisor.engine.reload import Options

BOB = caller_named("bob")
EVERYWHERE = ByPlugin("mock", "auth", everywhere=True)
PARTIAL = Options(partial=True, parallel=1)
TWO = ("auth/a", "team-a:auth/b")


async def held(house: House, *mounts: str, namespace: Namespace = TEAM) -> None:
    await house.begun(a_catalog(*(mounts or TWO)))
    await house.node.holding.set(namespace, "release 1.4", BOB)


# --- what is refused


async def test_a_reload_that_means_a_held_mount_is_refused_whole_and_touches_nothing(house: House) -> None:
    await held(house)
    house.pin("v2")

    with pytest.raises(Held, match=r"cannot reload: team-a is held since .* by bob: release 1.4"):
        await house.node.reload(EVERYWHERE, ROOT, PLAIN, ALICE, "r1")
    with pytest.raises(Held, match="to end it: pluginctl hold --release -n team-a"):
        await house.reload(namespace=TEAM)
    assert house.processes.did == []
    assert house.node.history(10) == []


async def test_a_reload_that_means_no_held_mount_is_done(house: House) -> None:
    await held(house)

    assert results(await house.reload("auth/a")) == {"auth/a": "reloaded"}


async def test_with_partial_the_others_are_reloaded_and_the_held_ones_say_why_not(house: House) -> None:
    await held(house)
    house.pin("v2")

    ticket = await house.node.reload(EVERYWHERE, ROOT, PARTIAL, ALICE, "r1")
    await settle()

    assert results(ticket) == {"auth/a": "reloaded", "auth/b": "skipped"}
    assert row_of(ticket, "auth/b").error.startswith("team-a is held since ")


async def test_the_files_of_a_held_mount_are_not_what_a_partial_reload_looks_at(house: House) -> None:
    await held(house)
    house.binaries.verified.clear()

    await house.node.reload(EVERYWHERE, ROOT, PARTIAL, ALICE, "r1")

    assert [len(specs) for specs in house.binaries.verified] == [1]


async def test_a_dry_run_says_what_the_hold_does(house: House) -> None:
    await held(house)
    house.pin("v2")

    with pytest.raises(Held):
        await house.node.reload(EVERYWHERE, ROOT, Options(dry_run=True), ALICE, "r1")
    ticket = await house.node.reload(EVERYWHERE, ROOT, Options(dry_run=True, partial=True), ALICE, "r2")

    assert results(ticket) == {"auth/a": "unchanged", "auth/b": "skipped"}
    assert row_of(ticket, "auth/b").new_version == "v1"
    assert "team-a is held" in row_of(ticket, "auth/b").error


@pytest.mark.parametrize("change", ["replace", "start", "stop", "settings"])
async def test_an_apply_that_would_change_something_held_is_refused(house: House, change: str) -> None:
    await held(house)
    house.file.says = {
        "replace": pinned(a_catalog(*TWO), MOCK, "v2"),
        "start": a_catalog(*TWO, "team-a:auth/new"),
        "stop": a_catalog("auth/a"),
        "settings": a_catalog(*TWO, policies=Policies(stop=StopPolicy(timeout=77.0))),
    }[change]

    with pytest.raises(Held, match="cannot apply: team-a is held"):
        await house.apply()
    with pytest.raises(Held, match="cannot apply: team-a is held"):
        await house.apply(namespace=Namespace(("team-a", "dev")))
    ticket = await house.apply(PARTIAL)

    assert house.row("team-a:auth/b").version == "v1"
    assert [step for step in house.processes.did if "auth/b" in step or "new" in step] == []
    assert [row.result for row in ticket.report().mounts if row.namespace == "team-a"].count("skipped") == 1


async def test_an_apply_that_changes_nothing_held_is_done(house: House) -> None:
    await held(house)
    house.file.says = a_catalog(*TWO, "auth/new")

    assert results(await house.apply()) == {
        "auth/a": "unchanged",
        "auth/b": "unchanged",
        "auth/new": "started",
    }


async def test_a_hold_of_the_root_namespace_is_one_of_everything(house: House) -> None:
    await held(house, namespace=ROOT)

    for namespace in (ROOT, TEAM):
        with pytest.raises(Held, match=r"cannot reload: root is held .*hold --release"):
            await house.reload(namespace=namespace)
        with pytest.raises(Held, match="cannot apply: root is held"):
            await house.apply(namespace=namespace)
    with pytest.raises(Held, match="cannot pin auth/mock"):
        await house.node.editing.set_pin(MOCK, "v2", ALICE)


async def test_a_pin_that_a_held_mount_follows_is_not_written(house: House) -> None:
    await held(house)
    before = house.file.says

    with pytest.raises(Held, match="cannot pin auth/mock: team-a is held"):
        await house.node.editing.set_pin(MOCK, "v2", ALICE)

    assert house.file.says is before


async def test_a_pin_that_no_held_mount_follows_is_written(house: House) -> None:
    await house.begun(a_catalog("auth/a", own={"team-a:auth/b": "v1"}))
    await house.node.holding.set(TEAM, "release 1.4", BOB)

    assert (await house.node.editing.set_pin(MOCK, "v2", ALICE)).version == "v2"


async def test_a_plan_shows_what_would_be_refused(house: House) -> None:
    await held(house)

    assert [hold.namespace for hold in (await house.node.plan(ROOT)).holds] == ["team-a"]
    assert (await house.node.plan(Namespace(("team-b",)))).holds == []
    assert [hold.who for hold in house.node.status().holds] == ["bob"]


# --- what was begun before


async def test_a_hold_leaves_what_was_not_begun_of_a_reload_as_it_is(house: House) -> None:
    await house.begun(a_catalog("auth/a", "auth/b", "auth/c"))
    house.pin("v2")
    house.processes.gate = asyncio.Event()
    ticket = await house.reload(options=Options(parallel=1))

    await house.node.holding.set(ROOT, "stop", BOB)
    house.processes.gate.set()
    await settle()

    assert results(ticket) == {"auth/a": "reloaded", "auth/b": "skipped", "auth/c": "skipped"}
    assert row_of(ticket, "auth/c").error.startswith("root is held")
    assert [house.row(f"auth/{name}").version for name in "abc"] == ["v2", "v1", "v1"]


async def test_a_hold_that_comes_while_files_are_checked_is_in_time(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.binaries.gate = asyncio.Event()
    asked = house.tasks.create_task(house.node.reload(EVERYWHERE, ROOT, PLAIN, ALICE, "r1"))
    await settle()

    await house.node.holding.set(ROOT, "stop", BOB)
    house.binaries.gate.set()
    ticket = await asked
    await settle()

    assert results(ticket) == {"auth/a": "skipped"}
    assert house.processes.did == []


# --- what goes on, by the version that ran


async def test_a_crash_is_restarted_by_the_version_that_ran_whatever_is_pinned(house: House) -> None:
    await held(house)
    house.pin("v2")
    await house.node.catalog_changed()

    house.processes.living("team-a:auth/b")[0].exit(1)
    await house.clock.advance(10)

    assert (house.row("team-a:auth/b").state, house.row("team-a:auth/b").version) == ("ready", "v1")


async def test_a_stop_start_and_restart_by_hand_are_done_and_bring_no_other_version(house: House) -> None:
    await held(house)
    house.pin("v2")
    await house.node.catalog_changed()
    key = a_key("team-a:auth/b")

    assert (await house.node.restart(key, BOB)).new_version == "v1"
    assert (await house.node.stop(key, BOB)).result == "stopped"
    assert (await house.node.start(key, BOB)).new_version == "v1"
    assert house.binaries.verified[-1] == ("v1",)
    await house.node.holding.release(TEAM, BOB)
    await house.node.stop(key, BOB)
    assert (await house.node.start(key, BOB)).new_version == "v2"


async def test_a_next_plugind_keeps_the_hold_and_starts_what_last_worked(house: House) -> None:
    await held(house)
    house.pin("v2")
    await house.memory.flush()

    await house.begun(house.file.says, proved=False)

    assert house.row("team-a:auth/b").version == "v1"
    assert house.row("auth/a").version == "v2"
    assert [(hold.namespace, hold.why, hold.who) for hold in house.node.status().holds] == [
        ("team-a", "release 1.4", "bob")
    ]
    with pytest.raises(Held):
        await house.reload(namespace=TEAM)


async def test_an_adopted_instance_that_ends_under_a_hold_comes_back_as_it_was(house: House) -> None:
    await held(house)
    catalog = pinned(house.file.says, MOCK, "v2")
    process = house.adopted("team-a:auth/b", V1, generation=50)
    await house.begun(catalog)

    process.exit(1)
    await house.clock.advance(10)

    assert (house.row("team-a:auth/b").version, V2.version) == ("v1", "v2")


async def test_a_mount_that_never_worked_starts_as_the_catalog_says(house: House) -> None:
    await held(house)

    await house.begun(a_catalog(*TWO, "team-a:auth/new"), proved=False)

    assert house.row("team-a:auth/new").version == "v1"


# --- set and released


async def test_a_hold_is_on_disk_before_its_answer_and_gone_from_it_before_the_release_is(
    house: House,
) -> None:
    await held(house)
    assert [hold.namespace for hold in house.holds.disk] == [TEAM]

    with capture_logs() as told:
        ended = await house.node.holding.release(TEAM, ALICE)

    assert (house.holds.disk, ended.who) == ([], "bob")
    assert told == [
        {
            "event": "namespace_released",
            "namespace": "team-a",
            "held_by": "bob",
            "by": "alice",
            "log_level": "info",
        }
    ]
    assert results(await house.reload(namespace=TEAM)) == {"auth/b": "reloaded"}


async def test_a_hold_that_no_disk_takes_is_refused_and_none(house: House) -> None:
    await house.begun(a_catalog(*TWO))
    house.holds.fails = "no space left"

    with pytest.raises(Cannot, match="no space left"):
        await house.node.holding.set(TEAM, "release 1.4", BOB)

    assert house.node.status().holds == []
    assert results(await house.reload(namespace=TEAM)) == {"auth/b": "reloaded"}


async def test_a_release_that_no_disk_takes_is_refused_and_the_hold_stays(house: House) -> None:
    await held(house)
    house.holds.fails = "no space left"

    with pytest.raises(Cannot, match="no space left"):
        await house.node.holding.release(TEAM, BOB)

    with pytest.raises(Held):
        await house.reload(namespace=TEAM)


async def test_a_second_hold_and_a_second_release_are_refused(house: House) -> None:
    await held(house)

    with pytest.raises(Conflict, match=r"by bob: release 1.4"):
        await house.node.holding.set(TEAM, "mine", ALICE)
    await house.node.holding.release(TEAM, ALICE)
    with pytest.raises(NotFound, match="not held"):
        await house.node.holding.release(TEAM, ALICE)


async def test_where_nobody_knows_what_was_held_everything_is_until_somebody_looks(house: House) -> None:
    house.holds.damaged = "cannot use holds.json: it is kept as holds.json.damaged"
    await house.begun(a_catalog(*TWO))

    with pytest.raises(
        Held, match=r"root is held .* by plugind: cannot use holds.json.*release it if nothing"
    ):
        await house.reload("auth/a")
    assert [hold.namespace for hold in house.holds.disk] == [ROOT]
    await house.node.holding.release(ROOT, BOB)
    assert results(await house.reload("auth/a")) == {"auth/a": "reloaded"}


async def test_a_pin_that_is_being_written_is_in_the_file_before_a_hold_is_answered(house: House) -> None:
    await house.begun(a_catalog(*TWO))
    async with house.node.holding.steady():
        asked = house.tasks.create_task(house.node.holding.set(TEAM, "release 1.4", BOB))
        await settle()
        assert not asked.done()
    await settle()

    assert asked.done()


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_happens_under_a_hold_no_other_version_ever_runs_there(
    house: House, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - to repeat it
    await held(house, "auth/a", "team-a:auth/b", "team-a:auth/c")
    keys = [a_key("team-a:auth/b"), a_key("team-a:auth/c")]
    since = len(house.processes.spawned)

    async def edit() -> None:
        house.pin(chance.choice(["v1", "v2", "v3"]))
        await house.node.catalog_changed()

    async def reload() -> None:
        options = Options(partial=chance.random() < 0.5, canary=chance.randrange(2), canary_for=1)
        with suppress(Held):
            await house.node.reload(EVERYWHERE, ROOT, options, ALICE, str(chance.random()))

    async def apply() -> None:
        with suppress(Held):
            await house.apply(Options(partial=chance.random() < 0.5))

    async def crash() -> None:
        for process in house.processes.living()[: chance.randrange(3)]:
            process.exit(chance.randrange(2))

    async def by_hand() -> None:
        command = chance.choice([house.node.start, house.node.stop, house.node.restart])
        house.tasks.create_task(command(chance.choice(keys), BOB))

    async def reboot() -> None:
        await house.node.leave()
        await house.memory.flush()
        for process in house.processes.living():
            process.exit(signal=9)
        await settle()
        await house.begun(house.file.says, proved=False)

    for _ in range(25):
        await chance.choice([edit, edit, reload, apply, crash, by_hand, reboot])()
        await house.clock.advance(chance.choice([0, 0.05, 1, 20]))

    await house.clock.advance(100)
    seen = {one.instance.launch.version for one in house.processes.spawned[since:] if one.key in keys}
    assert seen <= {"v1"}
    assert [hold.namespace for hold in house.node.status().holds] == ["team-a"]
    await house.node.start(keys[0], BOB)
    assert house.row("team-a:auth/b").version == "v1"
