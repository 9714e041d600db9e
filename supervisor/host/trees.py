"""The end of an instance: kill its main process and all that it forked, and know that none is left."""

import asyncio
import os
import signal
from collections.abc import Iterable
from typing import Final

from supervisor.domain.errors import Cannot, TreeSurvived
from supervisor.domain.names import Seconds
from supervisor.host.orphans import Mark, Orphans, descendants
from supervisor.host.processes import Handle, Main

PATIENCE: Final[Seconds] = 10.0
"""How long a killed process may take to die before it counts as one that cannot be killed."""


class Trees:
    def __init__(self, orphans: Orphans) -> None:
        self._orphans = orphans

    async def end(self, main: Main, mark: Mark, grace: Seconds) -> None:
        """Return once no process of the instance is left.

        Rounds go on until one finds nobody, so a fork between scan and signal does not get away.
        Members that outlive the main process get `grace` seconds to go by themselves.

        Raises:
            TreeSurvived: A member did not die of SIGKILL, or may not be signalled; names the pids.

        Source: proc(5) children, prctl(2) PR_SET_CHILD_SUBREAPER.
        """
        if not main.is_dead:
            await _kill_from_the_top(main)
        await self.end_members(mark, grace)

    async def end_members(self, mark: Mark, grace: Seconds) -> None:
        """The same for what carries the mark, where the main process is dead or unknown."""
        loop = asyncio.get_running_loop()
        may_stay = loop.time() + grace
        until = may_stay + PATIENCE
        while members := await self._members(mark):
            now = loop.time()
            if now < may_stay:
                await _any_ended(members, may_stay - now)
            elif now < until:
                await _kill(members, until - now)
            else:
                raise TreeSurvived(members)

    async def _members(self, mark: Mark) -> list[int]:
        orphans = await self._orphans.of(mark)
        return orphans + list(descendants(orphans))


async def _kill_from_the_top(main: Main) -> None:
    members = list(descendants([main.pid]))  # before: what outlives its parent hangs below us afterwards
    handles = _opened(members)
    try:
        main.handle.send(signal.SIGKILL)
        for handle in handles:
            handle.send(signal.SIGKILL)
    except Cannot as error:
        raise TreeSurvived([main.pid]) from error
    finally:
        for handle in handles:
            handle.close()
    try:
        async with asyncio.timeout(PATIENCE):
            await main.exited()
    except TimeoutError as error:
        raise TreeSurvived([main.pid]) from error


async def _kill(pids: Iterable[int], seconds: Seconds) -> None:
    handles = _opened(pids)
    try:
        for handle in handles:
            handle.send(signal.SIGKILL)
        left = [handle.pid for handle in handles if not await handle.ended(seconds)]
    except Cannot as error:
        raise TreeSurvived(pids) from error
    finally:
        for handle in handles:
            handle.close()
    if left:
        raise TreeSurvived(left)


async def _any_ended(pids: Iterable[int], seconds: Seconds) -> None:
    handles = _opened(pids)
    if not handles:
        return
    try:
        waits = [asyncio.ensure_future(handle.ended(seconds)) for handle in handles]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
    finally:
        for handle in handles:
            handle.close()


def _opened(pids: Iterable[int]) -> list[Handle]:
    own = os.getpid()
    handles: list[Handle] = []
    try:
        for pid in pids:
            handle = Handle.open(pid) if pid not in {1, own} else None
            if handle is not None:
                handles.append(handle)
    except BaseException:
        for handle in handles:
            handle.close()
        raise
    return handles
