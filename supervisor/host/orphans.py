"""Whose is a process that no longer hangs below its main process?

plugind is a child subreaper, so what a plugin daemonizes becomes our child. It belongs to the
instance whose mark it carries: the soft RLIMIT_MSGQUEUE, a number of the instance that is set
around each spawn and survives setsid, forks, exec and a cleared environment; else PLUGIND_INSTANCE
in its environment; else the session. One that fits nobody is left alone.
"""

import asyncio
import os
import resource
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor.domain.names import InstanceId, Seconds
from supervisor.host.identity import children_of
from supervisor.host.processes import Children, reap_orphan

MARK_VARIABLE: Final = "PLUGIND_INSTANCE"
_NO_LIMIT: Final = 1 << 20
TOGETHER: Final[Seconds] = 0.001
"""At most one look in this time."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What members of an instance are known by."""

    instance: InstanceId
    number: int
    session: int
    adopted: bool = False
    """Started by a former daemon: its orphans went to init, not to us."""


class Marks:
    """Numbers for RLIMIT_MSGQUEUE, each given to one living instance at most."""

    def __init__(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
        self.own = (soft, hard)
        self._most = (_NO_LIMIT if hard == resource.RLIM_INFINITY else hard) - 1
        self._used: set[int] = set()
        self._last = 0

    def take(self) -> int:
        """A number in use by nobody; 0, which marks nothing, where the hard limit leaves none."""
        for _ in range(self._most):
            self._last = self._last % self._most + 1
            if self._last not in self._used and self._last != self.own[0]:
                self._used.add(self._last)
                return self._last
        return 0

    def keep(self, number: int) -> None:
        """An adopted instance has it."""
        self._used.add(number)

    def give_back(self, number: int) -> None:
        self._used.discard(number)


class Orphans:
    """Looks for orphans, once for all kills under way: a look costs O(children of plugind)."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._waiting: dict[Mark, list[asyncio.Future[list[int]]]] = {}
        self._looked: Seconds = 0.0

    async def of(self, mark: Mark) -> list[int]:
        """Pids of living orphans of the instance; zombies among them are reaped."""
        loop = asyncio.get_running_loop()
        if not self._waiting:  # at once, but in a busy time once for all that end meanwhile
            loop.call_at(max(loop.time(), self._looked + TOGETHER), self._look)
        found: asyncio.Future[list[int]] = loop.create_future()
        self._waiting.setdefault(mark, []).append(found)
        return await found

    def _look(self) -> None:
        waiting, self._waiting = self._waiting, {}
        self._looked = asyncio.get_running_loop().time()
        found: dict[Mark, list[int]] = {mark: [] for mark in waiting}
        by_number = {mark.number: mark for mark in waiting if mark.number}
        by_name = {mark.instance: mark for mark in waiting}
        by_session = {mark.session: mark for mark in waiting if mark.session}
        ours = self._children.all()
        for pid in self._children.others(ours):
            if not reap_orphan(pid):
                mark = _whose(pid, by_number, by_name, by_session)
                if mark is not None:
                    found[mark].append(pid)
        adopted = {mark.instance: mark for mark in waiting if mark.adopted}
        if adopted:
            for pid in self._children.others(_all_pids() - set(ours)):
                mark = adopted.get(instance_of(pid) or InstanceId(""))
                if mark is not None:
                    found[mark].append(pid)
        for mark, futures in waiting.items():
            for future in futures:
                if not future.done():
                    future.set_result(found[mark])


def _whose(
    pid: int, by_number: dict[int, Mark], by_name: dict[InstanceId, Mark], by_session: dict[int, Mark]
) -> Mark | None:
    try:
        number = resource.prlimit(pid, resource.RLIMIT_MSGQUEUE)[0]
    except OSError:
        number = 0
    if number in by_number:
        return by_number[number]
    name = instance_of(pid)
    if name in by_name:
        return by_name[name]
    try:
        return by_session.get(os.getsid(pid))
    except OSError:
        return None


def descendants(pids: Iterable[int]) -> Iterator[int]:
    """Everything below `pids`, parents first."""
    waiting = list(pids)
    seen = set(waiting)
    while waiting:
        for child in children_of(waiting.pop()):
            if child not in seen:
                seen.add(child)
                waiting.append(child)
                yield child


def environ_of(pid: int) -> dict[bytes, bytes]:
    """The environment that a process was started with; empty where it cannot be read."""
    try:
        with Path(f"/proc/{pid:d}/environ").open("rb", buffering=0) as file:
            entries = file.readall().split(b"\0")
    except OSError:
        return {}
    return dict(entry.split(b"=", 1) for entry in entries if b"=" in entry)


def instance_of(pid: int) -> InstanceId | None:
    """The instance that a process was started in, by its environment; None where it cannot be read."""
    value = environ_of(pid).get(MARK_VARIABLE.encode())
    return None if value is None else InstanceId(value.decode(errors="replace"))


def _all_pids() -> set[int]:
    names = os.listdir("/proc")  # noqa: PTH208 - names only
    return {int(name) for name in names if name.isdigit()}
