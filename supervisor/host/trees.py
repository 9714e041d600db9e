"""The end of an instance: kill its main process and all that it forked, and know that none is left."""

import asyncio
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from supervisor.domain.errors import Cannot, TreeSurvived
from supervisor.domain.names import Seconds
from supervisor.host.cgroup import Cgroup
from supervisor.host.identity import Scarce
from supervisor.host.orphans import Mark, Orphans, descendants, number_of
from supervisor.host.processes import Handle, Main, moment

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

        Source: cgroups(7) cgroup.kill; proc(5) children, prctl(2) PR_SET_CHILD_SUBREAPER.
        """
        if not main.is_dead:
            if mark.cgroup is not None:
                with suppress(Scarce):
                    mark.cgroup.kill()
            await _kill_from_the_top(main, mark)
        await self.end_members(mark, grace)

    async def end_members(self, mark: Mark, grace: Seconds) -> bool:
        """The same for what carries the mark, where the main process is dead; whether there was any."""
        loop = asyncio.get_running_loop()
        may_stay = loop.time() + grace
        until: Seconds | None = None
        had_any = False
        while True:
            try:
                members = await self._members(mark)  # first: what is in a cgroup forks into it
                inside = mark.cgroup if mark.cgroup is not None and mark.cgroup.is_populated() else None
                if not members and inside is None:
                    return had_any
                had_any = True
                now = loop.time()
                if now < may_stay:
                    await _some_ended(members, inside, may_stay - now)
                elif until is None or now < until:
                    until = until or now + PATIENCE  # from the first kill on: a look may take long
                    await self._killed_all(members, inside, mark, until - now)
                else:
                    raise TreeSurvived({*members, *(inside.members() if inside is not None else ())})
            except Scarce:
                if loop.time() >= (until or may_stay + PATIENCE):
                    raise
                await moment()

    async def _killed_all(
        self, members: list[int], inside: Cgroup | None, mark: Mark, seconds: Seconds
    ) -> None:
        """Kill them; those in the cgroup at one stroke, with what they are just forking."""
        at_one_stroke = inside is not None and inside.kill()
        handles: list[Handle] = []
        try:
            await self._stop_all(handles, members, None if at_one_stroke else inside, mark)
            await _kill(handles, seconds)
        finally:
            _close(handles)
        if inside is not None and at_one_stroke:
            await inside.emptied(seconds)

    async def _stop_all(
        self, handles: list[Handle], members: list[int], inside: Cgroup | None, mark: Mark
    ) -> None:
        """Stop them until a look finds no other, and add each to `handles`.

        What is stopped forks no more. Killed one after the other, each would make room for another
        of a tree that forks faster than it is listed.
        """
        until = asyncio.get_running_loop().time() + PATIENCE / 2
        while True:
            if inside is not None:
                members = [*members, *inside.members()]
            try:
                found = _opened(set(members) - {handle.pid for handle in handles})
            except Scarce:
                if not handles:
                    raise
                return  # those that are held make room
            handles += found
            doubtful = _not_marked(found, mark)
            if doubtful:
                still = set(await self._members(mark))
                if inside is not None:
                    still.update(inside.members())
                _drop(handles, {handle for handle in doubtful if handle.pid not in still})
            stopped = [handle for handle in found if handle in handles]
            _signalled(stopped, signal.SIGSTOP)
            if not stopped or asyncio.get_running_loop().time() >= until:
                return
            members = await self._members(mark)

    async def _members(self, mark: Mark) -> list[int]:
        orphans = await self._orphans.of(mark)
        return orphans + list(descendants(orphans))


async def _kill_from_the_top(main: Main, mark: Mark) -> None:
    handles: list[Handle] = []
    with suppress(Scarce):  # then they are found as orphans
        # before: what outlives its parent hangs below us afterwards
        handles = _opened(descendants([main.pid]))
    try:
        doubtful = _not_marked(handles, mark)
        if doubtful:
            still = _still_below(main)
            _drop(handles, {handle for handle in doubtful if handle.pid not in still})
        refused = _signalled([main.handle, *handles], signal.SIGKILL)
    finally:
        _close(handles)
    if main.pid in refused:
        raise TreeSurvived(refused, refused=True)
    try:
        async with asyncio.timeout(PATIENCE):
            await main.exited()
    except TimeoutError as error:
        raise TreeSurvived([main.pid]) from error


async def _some_ended(members: list[int], inside: Cgroup | None, seconds: Seconds) -> None:
    if members:
        await _any_ended(members, seconds)
    elif inside is not None:
        await inside.emptied(seconds)


async def _kill(handles: Iterable[Handle], seconds: Seconds) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    refused = set(_signalled(handles, signal.SIGKILL))
    left = [
        handle.pid
        for handle in handles
        if handle.pid not in refused and not await handle.ended(max(0.0, until - loop.time()))
    ]
    if left or refused:
        raise TreeSurvived({*left, *refused}, refused=not left)


def _not_marked(handles: Iterable[Handle], mark: Mark) -> set[Handle]:
    """Those that do not carry the number: looked at only now that they are held, they may be strangers.

    Between a list and a pidfd the pid of one that died may have become anybody's.
    """
    return {handle for handle in handles if not _carries(handle.pid, mark.number)}


def _carries(pid: int, number: int) -> bool:
    try:
        return bool(number) and number_of(pid) == number
    except Scarce:
        return False


def _still_below(main: Main) -> set[int]:
    try:
        below = set(descendants([main.pid]))
        return below if main.handle.is_there() else set()
    except Scarce:
        return set()


def _drop(handles: list[Handle], strangers: set[Handle]) -> None:
    _close(strangers)
    handles[:] = [handle for handle in handles if handle not in strangers]


def _signalled(handles: Iterable[Handle], number: signal.Signals) -> list[int]:
    """Signal every one, and name those that may not be signalled."""
    refused: list[int] = []
    for handle in handles:
        try:
            handle.send(number)
        except Cannot:
            refused.append(handle.pid)
    return refused


def _close(handles: Iterable[Handle]) -> None:
    for handle in handles:
        handle.close()


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
