"""An apply goes about it as a reload does: canary, how many at a time, when to halt; for starts too."""

from dataclasses import replace

import pytest
from engine_fakes import House, Script, a_catalog, results, row_of, settle

from supervisor.domain.catalog import Policies, RestartPolicy
from supervisor.engine.reload import Options

FOUR = ("auth/a", "auth/b", "auth/c", "auth/d")


async def drifted(house: House) -> None:
    """Four mounts of v1, with v2 pinned."""
    await house.begun(a_catalog(*FOUR))
    house.pin("v2")


async def nothing_yet(house: House) -> None:
    """Four mounts that are new in the catalog, of v2."""
    await house.begun(a_catalog())
    house.file.says = a_catalog(*FOUR, pin="v2")


BOTH = pytest.mark.parametrize(
    ("prepared", "done", "bad"),
    [(drifted, "reloaded", "rolled_back"), (nothing_yet, "started", "failed")],
    ids=["replaced", "new"],
)


@BOTH
async def test_a_canary_goes_alone_and_is_watched_before_the_rest(
    house: House, prepared, done: str, bad: str
) -> None:
    await prepared(house)

    ticket = await house.apply(Options(canary=1, canary_for=5))
    await house.clock.advance(4.9)
    before = results(ticket)
    await house.clock.advance(0.1)

    assert before == {"auth/a": done, "auth/b": "pending", "auth/c": "pending", "auth/d": "pending"}
    assert results(ticket) == dict.fromkeys(FOUR, done)
    assert bad not in before.values()


@BOTH
async def test_a_canary_that_does_not_come_up_stops_the_rest(
    house: House, prepared, done: str, bad: str
) -> None:
    await prepared(house)
    house.processes.scripts["v2"] = Script(never_ready="no handshake")

    ticket = await house.apply(Options(canary=1, canary_for=5))
    await house.clock.advance(60)

    assert results(ticket) == {"auth/a": bad, "auth/b": "skipped", "auth/c": "skipped", "auth/d": "skipped"}
    assert done not in results(ticket).values()
    assert [step for step in house.processes.did if "auth/b" in step] == []


@BOTH
async def test_a_canary_that_dies_while_it_is_watched_stops_the_rest(
    house: House, prepared, done: str, bad: str
) -> None:
    await prepared(house)
    ticket = await house.apply(Options(canary=1, canary_for=5))
    await house.clock.advance(1)
    assert results(ticket)["auth/a"] == done

    house.processes.of("auth/a")[-1].exit(1)
    await house.clock.advance(5)

    assert results(ticket) == {"auth/a": bad, "auth/b": "skipped", "auth/c": "skipped", "auth/d": "skipped"}


@BOTH
async def test_no_more_at_a_time_than_was_said(house: House, prepared, done: str, bad: str) -> None:
    await prepared(house)
    house.processes.scripts["v2"] = Script(ready=False)

    ticket = await house.apply(Options(parallel=2))
    while not ticket.is_done:
        for process in house.processes.living():
            process.become_ready()
        await settle()

    assert house.processes.most_starting == 2
    assert results(ticket) == dict.fromkeys(FOUR, done)
    assert bad not in results(ticket).values()


@BOTH
@pytest.mark.parametrize(
    ("options", "begun"),
    [
        (Options(parallel=1), 1),
        (Options(parallel=1, max_failures=1), 2),
        (Options(parallel=1, max_failures=3), 4),
        (Options(parallel=1, on_failure="continue"), 4),
    ],
    ids=["halt", "one more", "three more", "continue"],
)
async def test_it_halts_when_more_failed_than_were_allowed(
    house: House, prepared, done: str, bad: str, options: Options, begun: int
) -> None:
    await prepared(house)
    house.processes.scripts["v2"] = Script(never_ready="no handshake")

    ticket = await house.apply(options)
    await house.clock.advance(60)

    found = list(results(ticket).values())
    assert (found.count(bad), found.count("skipped")) == (begun, 4 - begun)
    assert done not in found


async def test_what_is_removed_stays_where_the_apply_halted_before_it(house: House) -> None:
    await house.begun(a_catalog("auth/a", "auth/z"))
    house.file.says = a_catalog("auth/a", pin="v2")
    house.processes.scripts["v2"] = Script(never_ready="no handshake")

    ticket = await house.apply(Options(parallel=1))

    assert results(ticket) == {"auth/a": "rolled_back", "auth/z": "skipped"}
    assert row_of(ticket, "auth/z").error == "not begun, as other mounts failed: it runs as before"
    assert house.row("auth/z").state == "ready"


async def test_the_canary_is_tried_before_anything_is_removed(house: House) -> None:
    await house.begun(a_catalog("auth/a", "auth/b"))
    house.file.says = a_catalog("auth/b", pin="v2")

    ticket = await house.apply(Options(canary=1, canary_for=5))
    before = results(ticket)
    await house.clock.advance(5)

    assert before == {"auth/a": "pending", "auth/b": "reloaded"}
    assert results(ticket) == {"auth/a": "stopped", "auth/b": "reloaded"}


@BOTH
@pytest.mark.parametrize("lenient", [Options(max_failures=3), Options(on_failure="continue")])
async def test_a_bad_canary_stops_the_rest_however_many_may_fail(
    house: House, prepared, done: str, bad: str, lenient: Options
) -> None:
    await prepared(house)
    house.processes.scripts["v2"] = Script(never_ready="no handshake")

    ticket = await house.apply(replace(lenient, canary=1))
    await house.clock.advance(60)

    assert sorted(results(ticket).values()) == sorted([bad, "skipped", "skipped", "skipped"])
    assert done not in results(ticket).values()


async def test_a_canary_of_the_same_version_that_crashes_while_it_is_watched_stops_the_rest(
    house: House,
) -> None:
    await house.begun(a_catalog(*FOUR))
    ticket = await house.reload(options=Options(canary=2, canary_for=5, parallel=1))
    await house.clock.advance(1)

    house.processes.of("auth/b")[-1].exit(1)
    await house.clock.advance(5)

    assert results(ticket) == {
        "auth/a": "reloaded",
        "auth/b": "failed",
        "auth/c": "skipped",
        "auth/d": "skipped",
    }
    assert row_of(ticket, "auth/b").error == "crashed while it was watched, and was restarted"
    assert house.row("auth/b").state == "ready"


async def test_a_canary_that_is_given_up_while_it_is_watched_says_why(house: House) -> None:
    await house.begun(a_catalog())
    never = Policies(restart=RestartPolicy(policy="never"))
    house.file.says = a_catalog(*FOUR, policies=never)
    ticket = await house.apply(Options(canary=1, canary_for=5))

    house.processes.of("auth/a")[-1].exit(3)
    await house.clock.advance(5)

    assert results(ticket)["auth/a"] == "failed"
    assert "exit 3" in row_of(ticket, "auth/a").error


async def test_a_former_crash_of_a_canary_does_not_count(house: House) -> None:
    await house.begun(a_catalog(*FOUR))
    house.processes.of("auth/a")[-1].exit(1)
    await house.clock.advance(100)

    ticket = await house.reload(options=Options(canary=1, canary_for=5))
    await house.clock.advance(5)

    assert results(ticket) == dict.fromkeys(FOUR, "reloaded")


async def test_what_a_later_apply_took_out_of_the_catalog_is_not_started_any_more(house: House) -> None:
    await house.begun(a_catalog())
    house.file.says = a_catalog("auth/a", "auth/b", pin="v2")
    house.processes.scripts["v2"] = Script(ready=False)
    first = await house.apply(Options(parallel=1))
    await settle()

    house.file.says = a_catalog("auth/a", pin="v2")
    second = await house.apply(Options())
    house.processes.of("auth/a")[-1].become_ready()
    await settle()

    assert results(second) == {"auth/a": "unchanged"}
    assert results(first) == {"auth/a": "started", "auth/b": "skipped"}
    assert row_of(first, "auth/b").error == "its mount is no longer in the catalog"
    assert not house.processes.of("auth/b")
