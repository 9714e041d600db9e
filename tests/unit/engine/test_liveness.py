"""The rhythm of a liveness probe, and waiting on the engine's clock."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from engine_fakes import V1, FakeClock, FakeProcess, Script, a_key, keeping, settle, with_liveness

from supervisor.domain.errors import Cannot
from supervisor.domain.events import Instance
from supervisor.domain.names import InstanceId
from supervisor.engine.liveness import pause, watch_liveness


@pytest.fixture
async def tasks() -> AsyncIterator[asyncio.TaskGroup]:
    async with keeping() as group:
        yield group


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def process(clock: FakeClock) -> FakeProcess:
    return FakeProcess(a_key("auth/a"), Instance(InstanceId("x-1"), 1, V1), 77, Script(), clock)


def watched(
    clock: FakeClock, process: FakeProcess, failures: int = 3, timeout: float = 10.0
) -> "asyncio.Task[None]":
    liveness = with_liveness(failures, timeout).liveness
    assert liveness is not None
    return asyncio.get_running_loop().create_task(watch_liveness(clock, process, liveness))


async def test_a_process_that_is_well_is_asked_once_an_interval(
    clock: FakeClock, process: FakeProcess
) -> None:
    watch = watched(clock, process)

    await clock.advance(35)

    assert (process.checked, watch.done()) == (3, False)
    watch.cancel()


async def test_it_takes_as_many_failures_in_a_row_as_was_said(clock: FakeClock, process: FakeProcess) -> None:
    process.checks = [False, False, False]
    watch = watched(clock, process)

    await clock.advance(29)
    before = watch.done()
    await clock.advance(1)

    assert not before
    with pytest.raises(Cannot, match="not alive, 3 times in a row: check 3 failed"):
        await watch


async def test_one_success_begins_the_count_again(clock: FakeClock, process: FakeProcess) -> None:
    process.checks = [False, False, True, False, False]
    watch = watched(clock, process)

    await clock.advance(60)

    assert (process.checked, watch.done()) == (6, False)
    watch.cancel()


async def test_no_answer_in_time_is_a_failure(clock: FakeClock, process: FakeProcess) -> None:
    process.checks = [asyncio.get_running_loop().create_future()]
    watch = watched(clock, process, failures=1, timeout=0.001)

    await clock.advance(10)

    with pytest.raises(Cannot, match=r"^not alive: no answer in 0\.001s"):
        await watch


async def test_a_timeout_of_zero_is_none(clock: FakeClock, process: FakeProcess) -> None:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    process.checks = [answer]
    watch = watched(clock, process, failures=1, timeout=0)

    await clock.advance(10)
    answer.set_result(None)
    await clock.advance(10)

    assert (process.checked, watch.done()) == (2, False)
    watch.cancel()


async def test_a_pause_ends_at_its_instant(clock: FakeClock, tasks: asyncio.TaskGroup) -> None:
    waiting = tasks.create_task(pause(clock, 5))

    await clock.advance(4.9)
    before = waiting.done()
    await clock.advance(0.1)

    assert (before, waiting.done()) == (False, True)


async def test_a_pause_that_is_cancelled_leaves_no_timer(clock: FakeClock, tasks: asyncio.TaskGroup) -> None:
    waiting = tasks.create_task(pause(clock, 5))
    await settle()

    waiting.cancel()
    await settle()

    assert clock.timers == []
