"""The rhythm of a liveness probe: every `interval`, until it failed `failures` times in a row."""

import asyncio

from supervisor.domain.catalog import Liveness
from supervisor.domain.errors import Cannot
from supervisor.domain.names import Seconds
from supervisor.engine.ports import Clock, Process


async def watch_liveness(clock: Clock, process: Process, liveness: Liveness) -> None:
    """Wait until the instance is not well.

    Raises:
        Cannot: It failed `liveness.failures` times in a row; the reason of the last one.
    """
    failures = 0
    while True:
        await pause(clock, liveness.interval)
        try:
            async with asyncio.timeout(liveness.probe.timeout or None):
                await process.alive()
        except Cannot as error:
            failures += 1
            reason = str(error)
        except TimeoutError:
            failures += 1
            reason = f"no answer in {liveness.probe.timeout:g}s"
        else:
            failures = 0
            continue
        if failures >= liveness.failures:
            often = f", {failures} times in a row" if failures > 1 else ""
            raise Cannot(f"not alive{often}: {reason}")


async def pause(clock: Clock, seconds: Seconds) -> None:
    """Let `seconds` pass on the engine's clock."""
    passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    timer = clock.call_at(clock.time() + seconds, _resolve, passed)
    try:
        await passed
    finally:
        timer.cancel()


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
