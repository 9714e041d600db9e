"""An upgrade as the engine sees it: the check before, what is left, and what is made of that."""

from dataclasses import replace

import msgspec
import pytest
from engine_fakes import ALICE, V1, House, Script, a_catalog, a_key, results, settle

from supervisor.domain.catalog import Policies, RestartPolicy
from supervisor.domain.errors import Cannot, Conflict
from supervisor.domain.legacy import Errand, HandedNode
from supervisor.domain.names import ROOT
from supervisor.engine.node import Node, Options

ERRAND = Errand(upgrade_id="u1", old_version="1.0.0", began_at="2026-01-01T00:00:00Z", left_at=-2.0)


def next_house(house: House, handed: HandedNode, errand: Errand = ERRAND) -> House:
    """The house of the next plugind in the same process: the same world, told what the former one left."""
    following = House(house.tasks)
    following.clock, following.processes = house.clock, house.processes
    following.remains, following.memory, following.history = house.remains, house.memory, house.history
    following.journal, following.file = house.journal, house.file
    following.handed, following.errand = handed, errand
    return following


async def taken_over(house: House, handed: HandedNode, errand: Errand = ERRAND) -> Node:
    following = next_house(house, handed, errand)
    following.node = following.build()
    await following.node.begin()
    await settle()
    house.node = following.node
    return following.node


async def test_a_new_plugind_that_would_start_takes_over(house: House) -> None:
    node = await house.begun(a_catalog("auth/a"))

    begun = await node.upgrade(ALICE, "u1")

    assert (begun.result, begun.upgrade_id, begun.old_version) == ("under way", "u1", "1.2.3")
    assert [errand.upgrade_id for errand in house.successor.took_over] == ["u1"]
    assert node.status().upgrade == begun
    with pytest.raises(Conflict, match="under way already"):
        await node.upgrade(ALICE, "u2")


async def test_one_that_would_not_is_refused_and_may_be_tried_again(house: House) -> None:
    node = await house.begun(a_catalog("auth/a"))
    house.successor.refuses = "cannot upgrade: SyntaxError"

    with pytest.raises(Cannot, match="SyntaxError"):
        await node.upgrade(ALICE, "u1")

    upgrade = node.status().upgrade
    assert upgrade is not None
    assert (upgrade.result, upgrade.error) == ("failed", "cannot upgrade: SyntaxError")
    assert house.successor.took_over == []
    house.successor.refuses = None
    assert (await node.upgrade(ALICE, "u2")).result == "under way"


async def test_the_next_one_says_that_it_is_done_and_how_long_it_took(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    errand = msgspec.structs.replace(ERRAND, left_at=house.clock.time() - 2)

    node = await taken_over(house, await house.node.leave(), errand)

    upgrade = node.status().upgrade
    assert upgrade is not None
    assert (upgrade.result, upgrade.old_version, upgrade.new_version, upgrade.seconds) == (
        "done",
        "1.0.0",
        "1.2.3",
        2,
    )


async def test_where_the_exec_failed_the_old_one_says_so(house: House) -> None:
    await house.begun(a_catalog("auth/a"))

    node = await taken_over(
        house, await house.node.leave(), msgspec.structs.replace(ERRAND, error="no memory")
    )

    upgrade = node.status().upgrade
    assert upgrade is not None
    assert (upgrade.result, upgrade.error, upgrade.new_version) == ("failed", "no memory", None)


async def test_one_that_is_broken_off_before_anything_was_let_go_of_may_be_tried_again(house: House) -> None:
    node = await house.begun(a_catalog("auth/a"))
    await node.upgrade(ALICE, "u1")

    node.upgrade_failed("no descriptors")

    upgrade = node.status().upgrade
    assert upgrade is not None
    assert (upgrade.result, upgrade.error) == ("failed", "no descriptors")
    assert (await node.upgrade(ALICE, "u2")).result == "under way"


async def test_a_mount_that_is_new_in_the_file_waits_for_apply_over_an_upgrade(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    house.adopted("auth/a", V1)
    house.file.says = a_catalog("auth/a", "auth/b")

    node = await taken_over(house, await house.node.leave())

    assert house.processes.did == []
    assert {row.mount: row.state for row in node.instances(ROOT)} == {"auth/a": "ready", "auth/b": "stopped"}


async def test_what_ran_and_is_gone_starts_again(house: House) -> None:
    await house.begun(a_catalog("auth/a"))

    node = await taken_over(house, await house.node.leave())

    assert {row.mount: row.state for row in node.instances(ROOT)} == {"auth/a": "ready"}


async def test_events_are_counted_on_and_a_follower_misses_none(house: House) -> None:
    await house.begun(a_catalog("auth/a"))
    handed = await house.node.leave()
    house.adopted("auth/a", V1)

    node = await taken_over(house, handed)

    stream = node.events(ROOT, 1)
    seen = [await anext(stream) for _ in range(handed.number)]
    assert [row.id for row in seen] == list(range(2, handed.number + 2))
    assert seen[-1].event == "adopted"
    fresh = node.events(ROOT, 10**6)  # of some other plugind: all that is known
    assert (await anext(fresh)).id == 1


async def test_a_reload_that_is_not_done_is_interrupted_in_history(house: House) -> None:
    node = await house.begun(a_catalog("auth/a", "auth/b"))
    house.processes.scripts["v2"] = Script(ready=False)
    house.pin("v2")
    ticket = await house.reload(options=Options(parallel=1))
    await node.settled(0.01)

    await node.leave()
    await settle()

    assert ticket.is_done
    report = node.report(ticket.reload_id)
    assert report is not None
    assert results(report) == {"auth/a": "interrupted", "auth/b": "interrupted"}
    assert house.history.unended() == []
    assert [one.key.path for one in house.processes.spawned[2:]] == ["auth/a"]


async def test_a_backoff_goes_on_to_its_end_and_a_failed_mount_stays_failed(house: House) -> None:
    slow, hopeless = RestartPolicy(backoff=50.0, max_backoff=50.0), RestartPolicy(policy="never")
    specs = {"auth/slow": Policies(restart=slow), "auth/hopeless": Policies(restart=hopeless)}
    catalog = a_catalog(*specs)
    mounts = {key: replace(spec, policies=specs[key.path]) for key, spec in catalog.mounts.items()}
    await house.begun(replace(catalog, mounts=mounts))
    for process in house.processes.living():
        process.exit(1)
    await settle()
    before = {row.mount: row for row in house.node.instances(ROOT)}

    node = await taken_over(house, await house.node.leave())

    rows = {row.mount: row for row in node.instances(ROOT)}
    assert rows == before
    assert {name: row.state for name, row in rows.items()} == {
        "auth/slow": "backoff",
        "auth/hopeless": "failed",
    }
    await house.clock.advance(65)
    assert house.row("auth/slow").state == "ready"
    assert house.row("auth/hopeless").state == "failed"


async def test_a_stop_under_way_is_ended(house: House) -> None:
    node = await house.begun(a_catalog("auth/a"))
    house.processes.scripts["v1"].ignores_signals = True
    waits = house.tasks.create_task(node.stop(a_key("auth/a"), ALICE))
    await settle()
    handed = await node.leave()
    assert (await waits).result == "skipped"
    house.adopted("auth/a", V1)

    await taken_over(house, handed)

    await house.clock.advance(60)
    row = house.row("auth/a")
    assert (row.state, row.pid, row.stopped_by) == ("stopped", None, ALICE.name)
