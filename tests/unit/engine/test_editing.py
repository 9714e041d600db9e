"""What people change in the catalog file through plugind: it is in force at once, and moves no process."""

import asyncio

import pytest
from engine_fakes import (
    KV,
    MOCK,
    TEAM,
    V1,
    House,
    Script,
    a_catalog,
    a_key,
    caller_named,
    nonsense,
    results,
    settle,
)
from structlog.testing import capture_logs

from supervisor.domain.errors import BadRequest, CatalogInvalid, Conflict, Held, Unavailable
from supervisor.domain.registering import Registered
from supervisor.engine.reload import Options

BOB = caller_named("bob")
NEW = Registered("/opt/mock-4", "ab" * 32, ("--fast",))


async def test_a_pin_is_written_and_moves_no_process(house: House) -> None:
    await house.begun(a_catalog("auth/a"))

    with capture_logs() as told:
        data = await house.node.editing.set_pin(MOCK, "v2", BOB)

    row = house.row("auth/a")
    assert (data.type, data.name, data.version) == ("auth", "mock", "v2")
    assert (row.version, row.pinned_version) == ("v1", "v2")
    assert house.processes.did == []
    assert {
        "event": "pin_written",
        "plugin": "auth/mock",
        "version": "v2",
        "by": "bob",
        "log_level": "info",
    } in told


async def test_a_pin_is_undone_and_moves_no_process(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    await house.node.editing.set_pin(MOCK, "v2", BOB)

    data = await house.node.editing.undo_pin(MOCK, BOB)

    assert (data.version, house.row("auth/a").pinned_version) == ("v1", "v1")
    assert house.processes.did == []
    with pytest.raises(Conflict):
        await house.node.editing.undo_pin(MOCK, BOB)


async def test_a_pin_that_is_there_already_is_not_told_as_written(house: House) -> None:
    await house.begun(a_catalog("auth/a"))

    with capture_logs() as told:
        assert (await house.node.editing.set_pin(MOCK, "v1", BOB)).version == "v1"

    assert "pin_written" not in [entry["event"] for entry in told]


async def test_a_pin_is_taken_out(house: House) -> None:
    await house.begun(a_catalog(own={"auth/a": "v1"}))

    assert (await house.node.editing.remove_pin(MOCK, BOB)).version is None
    assert house.node.catalog.plugins[MOCK].pin is None


async def test_a_version_is_added_and_can_be_pinned_and_reloaded(house: House) -> None:
    await house.begun(a_catalog("auth/a"))

    with capture_logs() as told:
        await house.node.editing.add_version(MOCK, "v4", NEW, BOB)
    assert house.processes.did == []
    await house.node.editing.set_pin(MOCK, "v4", BOB)

    assert results(await house.reload()) == {"auth/a": "reloaded"}
    assert house.row("auth/a").version == "v4"
    assert {
        "event": "version_added",
        "plugin": "auth/mock",
        "version": "v4",
        "by": "bob",
        "log_level": "info",
    } in told


async def test_a_digest_that_takes_long_keeps_nobody_waiting(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.file.hashing = asyncio.Event()
    asked = house.tasks.create_task(
        house.node.editing.add_version(MOCK, "v4", Registered("/opt/mock-4"), BOB)
    )
    await settle()

    assert results(await house.reload()) == {"auth/a": "reloaded"}
    assert (await house.node.editing.set_pin(MOCK, "v2", BOB)).version == "v2"
    assert (await house.node.holding.set(TEAM, "release 1.4", BOB)).namespace == "team-a"

    house.file.hashing.set()
    await asked
    assert house.node.catalog.plugins[MOCK].versions["v4"].launch.sha256 == "cd" * 32


async def test_a_version_that_nothing_needs_is_removed(house: House) -> None:
    await house.begun(a_catalog("auth/a"))

    with capture_logs() as told:
        await house.node.editing.remove_version(MOCK, "v3", BOB)

    assert "v3" not in house.node.catalog.plugins[MOCK].versions
    assert [entry["event"] for entry in told if entry["event"].startswith("version")] == ["version_removed"]


async def test_a_version_that_runs_is_not_removed_whatever_is_pinned(house: House) -> None:
    await house.begun(a_catalog("auth/a", "team-a:auth/b"))
    house.pin("v2")

    with pytest.raises(BadRequest, match=r"it is what runs as auth/a/ in root, auth/b/ in team-a"):
        await house.node.editing.remove_version(MOCK, "v1", BOB)

    assert "v1" in house.node.catalog.plugins[MOCK].versions


async def test_a_version_that_is_about_to_run_is_not_removed(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.pin("v2")
    house.processes.gate = asyncio.Event()
    ticket = await house.reload()
    house.pin("v1")

    with pytest.raises(BadRequest, match="it is what runs as auth/a/ in root"):
        await house.node.editing.remove_version(MOCK, "v2", BOB)

    house.processes.gate.set()
    await settle()
    assert results(ticket) == {"auth/a": "reloaded"}


async def test_a_version_that_waits_for_its_backoff_is_not_removed(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.processes.scripts["v1"] = Script(refused="no such file")
    house.processes.living("auth/a")[0].exit(1)
    await settle()
    house.pin("v2")

    with pytest.raises(BadRequest, match="it is what runs as auth/a/ in root"):
        await house.node.editing.remove_version(MOCK, "v1", BOB)


async def test_what_is_held_gets_no_version_and_loses_none(house: House) -> None:
    await house.begun(a_catalog("auth/a", own={"team-a:auth/b": "v1"}))
    await house.node.holding.set(TEAM, "release 1.4", BOB)
    before = house.file.says

    with pytest.raises(Held, match="cannot add v4 to auth/mock: team-a is held"):
        await house.node.editing.add_version(MOCK, "v4", NEW, BOB)
    with pytest.raises(Held, match="cannot remove v3 from auth/mock: team-a is held"):
        await house.node.editing.remove_version(MOCK, "v3", BOB)

    assert house.file.says is before
    await house.node.editing.add_version(KV, "v4", NEW, BOB)


async def test_an_undo_is_held_like_a_pin(house: House) -> None:
    await house.begun(a_catalog("auth/a", "team-a:auth/b"))
    await house.node.editing.set_pin(MOCK, "v2", BOB)
    await house.node.holding.set(TEAM, "release 1.4", BOB)

    for edit in (house.node.editing.undo_pin, house.node.editing.remove_pin):
        with pytest.raises(Held, match="team-a is held"):
            await edit(MOCK, BOB)
    assert house.node.catalog.plugins[MOCK].pin == "v2"


async def test_a_faulty_file_and_an_end_refuse_every_edit(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.file.says = nonsense()
    with pytest.raises(CatalogInvalid):
        await house.node.editing.set_pin(MOCK, "v2", BOB)

    house.file.says = a_catalog("auth/a")
    await house.node.shut_down()
    with pytest.raises(Unavailable):
        await house.node.editing.set_pin(MOCK, "v2", BOB)


async def test_an_added_version_whose_file_is_unfit_is_found_by_a_dry_run(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.binaries.unfit["/opt/mock-4"] = "it is gone"
    await house.node.editing.add_version(MOCK, "v4", NEW, BOB)
    await house.node.editing.set_pin(MOCK, "v4", BOB)

    ticket = await house.reload(options=Options(dry_run=True, partial=True))

    assert results(ticket) == {"auth/a": "failed"}
    assert (house.row("auth/a").version, V1.version) == ("v1", "v1")
    assert house.node.why(a_key("auth/a"))
