"""The end of an instance: kill its main process and all that it forked, and know that none is left."""

import asyncio
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from supervisor.domain.errors import Cannot, TreeSurvived
from supervisor.domain.names import Seconds
from supervisor.host.identity import Scarce
from supervisor.host.orphans import Mark, Orphans, descendants
from supervisor.host.processes import Handle, Main

PATIENCE: Final[Seconds] = 10.0
"""How long a killed process may take to die before it counts as one that cannot be killed."""
SCARCITY: Final[Seconds] = 0.05
"""How long to wait for descriptors before another try."""


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

    async def end_members(self, mark: Mark, grace: Seconds) -> bool:
        """The same for what carries the mark, where the main process is dead; whether there was any."""
        loop = asyncio.get_running_loop()
        may_stay = loop.time() + grace
        until = may_stay + PATIENCE
        had_any = False
        while True:
            try:
                members = await self._members(mark)
                if not members:
                    return had_any
                had_any = True
                now = loop.time()
                if now < may_stay:
                    await _any_ended(members, may_stay - now)
                elif now < until:
                    await _kill(members, until - now)
                else:
                    raise TreeSurvived(members)
            except Scarce:
                if loop.time() >= until:
                    raise
                await _moment()

    async def _members(self, mark: Mark) -> list[int]:
        orphans = await self._orphans.of(mark)
        return orphans + list(descendants(orphans))


async def _kill_from_the_top(main: Main) -> None:
    handles: list[Handle] = []
    with suppress(Scarce):  # then they are found as orphans
        # before: what outlives its parent hangs below us afterwards
        handles = _opened(descendants([main.pid]))
    try:
        refused = _killed([main.handle, *handles])
    finally:
        _close(handles)
    if main.pid in refused:
        raise TreeSurvived(refused)
    try:
        async with asyncio.timeout(PATIENCE):
            await main.exited()
    except TimeoutError as error:
        raise TreeSurvived([main.pid]) from error


async def _kill(pids: Iterable[int], seconds: Seconds) -> None:
    handles = _opened(pids)
    try:
        left = set(_killed(handles))
        for handle in handles:
            if handle.pid not in left and not await handle.ended(seconds):
                left.add(handle.pid)
    finally:
        _close(handles)
    if left:
        raise TreeSurvived(left)


def _killed(handles: Iterable[Handle]) -> list[int]:
    """Kill every one, and name those that may not be signalled."""
    refused: list[int] = []
    for handle in handles:
        try:
            handle.send(signal.SIGKILL)
        except Cannot:
            refused.append(handle.pid)
    return refused


def _close(handles: Iterable[Handle]) -> None:
    for handle in handles:
        handle.close()


async def _moment() -> None:
    """Let others give descriptors back."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    timer = asyncio.get_running_loop().call_later(SCARCITY, over.set_result, None)
    try:
        await over
    finally:
        timer.cancel()


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
        _close(handles)


def _opened(pids: Iterable[int]) -> list[Handle]:
    """As many of them as there are descriptors for: the others are found again in the next round.

    Raises:
        Scarce: There is none even for the first.
    """
    own = os.getpid()
    handles: list[Handle] = []
    try:
        for pid in pids:
            handle = Handle.open(pid) if pid not in {1, own} else None
            if handle is not None:
                handles.append(handle)
    except Scarce:
        if not handles:
            raise
    return handles
