"""`why` over the end of a plugind: what is written when, what the next one reads, and where a gap is told."""

from typing import Any

import pytest
from engine_fakes import House, a_catalog, a_key, caller_named, keeping, settle
from structlog.testing import capture_logs

from supervisor.engine.chronicle import GAP, LATEST, QUIET, SHOWN

STARTED = ["start", "spawned", "became_ready"]


@pytest.fixture
async def house() -> Any:
    async with keeping() as tasks:
        house = House(tasks)
        await house.begun(a_catalog("auth/a", "auth/b"), proved=False)
        yield house


def events(house: House) -> list[str]:
    return [row.event for row in house.node.why(a_key("auth/a"))]


async def the_next(house: House) -> None:
    """Another plugind in the place of this one."""
    house.node = house.build()
    await house.node.begin()
    await settle()


async def test_what_a_plugind_that_left_had_seen_is_shown_by_the_next_one(house: House) -> None:
    await house.node.leave()
    await the_next(house)

    assert events(house) == STARTED * 2


async def test_what_was_written_some_moments_before_a_kill_is_shown_and_then_the_gap(house: House) -> None:
    await house.clock.advance(QUIET)
    house.processes.of("auth/a")[0].exit(1)
    await settle()
    await the_next(house)

    rows = house.node.why(a_key("auth/a"))
    assert events(house) == [*STARTED, "gap", *STARTED]
    assert (rows[3].reason, rows[3].before, rows[3].after) == (GAP, "ready", "ready")


async def test_the_next_one_but_one_shows_them_too_and_never_more_than_twenty(house: House) -> None:
    for _ in range(2):
        await house.node.leave()
        await the_next(house)
    assert events(house) == STARTED * 3

    for _ in range(8):
        await house.node.restart(a_key("auth/a"), caller_named("alice"))
    await house.node.leave()
    await the_next(house)

    assert len(events(house)) == SHOWN
    assert events(house)[-3:] == STARTED
    assert [row.event for row in house.node.why(a_key("auth/b"))] == STARTED * 4


async def test_nothing_is_written_while_things_happen_but_not_for_ever(house: House) -> None:
    await house.clock.advance(QUIET)
    writes = len(house.journal.writes)
    for number in range(int(LATEST / 0.2) + 1):
        if number == 5:
            assert len(house.journal.writes) == writes
        await house.node.restart(a_key("auth/a"), caller_named("alice"))
        await house.clock.advance(0.2)

    assert len(house.journal.writes) == writes + 1


async def test_a_write_that_fails_is_told_and_made_good_by_the_next_one(house: House) -> None:
    await house.clock.advance(QUIET)
    house.journal.fails = "no space left"
    with capture_logs() as told:
        await house.node.stop(a_key("auth/a"), caller_named("alice"))
        await house.clock.advance(QUIET)
    house.journal.fails = None
    await house.node.restart(a_key("auth/b"), caller_named("alice"))
    await house.clock.advance(QUIET)
    await the_next(house)

    assert "transitions_not_kept" in [line["event"] for line in told]
    assert events(house) == [*STARTED, "stop", "exited", "tree_gone", "gap"]


async def test_the_file_is_written_afresh_when_it_has_grown(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.engine.chronicle.MOST_BYTES", 20_000)
    for _ in range(100):
        await house.node.restart(a_key("auth/a"), caller_named("alice"))
        await house.clock.advance(QUIET)

    assert len(house.journal.data) < 60_000
    assert 2 < house.journal.writes.count(True) < 30


@pytest.mark.parametrize(
    "data", [b"\xff\xfe\n{}\n[]\n", b'{"id": 1}\n', b"[" * 100_000 + b"\n", b'{"ended": 5}\n']
)
async def test_a_file_of_nonsense_costs_nothing(house: House, data: bytes) -> None:
    await house.node.leave()
    house.journal.data = data + house.journal.data[:-40]  # the last line is cut off
    await the_next(house)

    assert events(house) == [*STARTED, "gap", *STARTED]


async def test_a_file_that_cannot_be_read_is_told(house: House) -> None:
    house.journal.fails = "it is a folder"
    with capture_logs() as told:
        await the_next(house)

    assert "transitions_not_kept" in [line["event"] for line in told]
    assert events(house) == STARTED


async def test_a_command_is_shown_by_its_verb_and_a_reload_by_its_id(house: House) -> None:
    ticket = await house.reload("auth/a")
    await house.node.restart(a_key("auth/a"), caller_named("alice"))
    await house.node.stop(a_key("auth/a"), caller_named("alice"))
    await house.node.start(a_key("auth/a"), caller_named("alice"))

    rows = house.node.why(a_key("auth/a"))
    assert [row.reload_ids for row in rows if row.reload_ids] == [[ticket.reload_id]]
    assert [row.commands for row in rows if row.commands] == [["restart"], ["stop"], ["start"]]
