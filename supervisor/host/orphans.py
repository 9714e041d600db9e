"""Whose is a process that no longer hangs below its main process?

plugind is a child subreaper, so what a plugin daemonizes becomes our child. It belongs to the
instance whose mark it carries: the soft RLIMIT_MSGQUEUE, a number of the instance that is set
around each spawn and survives setsid, forks, exec and a cleared environment; else PLUGIND_INSTANCE
in its environment; else the session. One that fits nobody is left alone.

Of a former daemon's instance the orphans went to init, among strangers and the plugins of other
plugind: there PLUGIND_INSTANCE counts with a TMPDIR or an output of ours only, the number where the
environment names no other instance, and both only of what is no older than the instance.
"""

import asyncio
import os
import resource
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final

from supervisor.domain.errors import Cannot
from supervisor.domain.names import InstanceId, Seconds
from supervisor.host.cgroup import Cgroup
from supervisor.host.identity import SCARCE, Scarce, children_of, is_alive, start_ticks
from supervisor.host.processes import Children, reap_orphan

MARK_VARIABLE: Final = "PLUGIND_INSTANCE"
_NO_LIMIT: Final = 1 << 20
TOGETHER: Final[Seconds] = 0.001
"""The shortest time between two looks; with many children it is as long as a look took."""
_TRIES: Final = 3
"""Passes over /proc until none has lost a process between its name and a look at it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What members of an instance are known by."""

    instance: InstanceId
    number: int
    session: int
    folder: str = ""
    """Its TMPDIR, two below the runtime_dir: other plugind may have instances of the same id."""
    adopted: bool = False
    """Started by a former daemon: its orphans went to init, not to us."""
    since: int = 0
    """Start ticks of the main process, where they are known."""
    cgroup: Cgroup | None = field(default=None, compare=False)


class Marks:
    """Numbers for RLIMIT_MSGQUEUE, each given to one living instance at most."""

    def __init__(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
        self.own = (soft, hard)
        self._most = (_NO_LIMIT if hard == resource.RLIM_INFINITY else hard) - 1
        self._used: set[int] = set()
        # not from 1: another plugind on this machine counts too
        self._last = int.from_bytes(os.urandom(4)) % max(1, self._most)

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

    def is_used(self, number: int) -> bool:
        return number in self._used

    def give_back(self, number: int) -> None:
        self._used.discard(number)


class Orphans:
    """Looks for orphans, once for all kills under way: a look costs O(children of plugind)."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._waiting: dict[Mark, list[asyncio.Future[list[int]]]] = {}
        self._next_look: Seconds = 0.0
        self._dead: set[tuple[int, int]] = set()
        """Zombies that others have to reap and that were seen, by pid and start."""

    async def of(self, mark: Mark) -> list[int]:
        """Pids of orphans of the instance; those that were dead already are reaped, and nobody next time.

        Raises:
            Scarce: It could not be found out.
        """
        loop = asyncio.get_running_loop()
        if not self._waiting:  # at once, but in a busy time once for all that end meanwhile
            loop.call_at(max(loop.time(), self._next_look), self._look)
        found: asyncio.Future[list[int]] = loop.create_future()
        self._waiting.setdefault(mark, []).append(found)
        return await found

    def _look(self) -> None:
        waiting, self._waiting = self._waiting, {}
        began = asyncio.get_running_loop().time()
        try:
            found = self._found(waiting)
        except (OSError, Cannot) as error:  # no descriptor was left: nobody can say that nobody is left
            for future in chain.from_iterable(waiting.values()):
                if not future.done():
                    future.set_exception(Scarce(f"cannot look for processes: {error}"))
            return
        finally:
            ended = asyncio.get_running_loop().time()
            self._next_look = ended + max(TOGETHER, ended - began)
        for mark, futures in waiting.items():
            for future in futures:
                if not future.done():
                    future.set_result(found[mark])

    def _found(self, marks: Collection[Mark]) -> dict[Mark, list[int]]:
        found: dict[Mark, list[int]] = {mark: [] for mark in marks}
        by_number = {mark.number: mark for mark in marks if mark.number}
        by_name = {mark.instance: mark for mark in marks}
        by_session = {mark.session: mark for mark in marks if mark.session}
        self._dead = {(pid, ticks) for pid, ticks in self._dead if start_ticks(pid) == ticks}
        for pid in self._children.orphans():
            # whose first: one that is dead may just have left a child that `ours` does not have yet
            mark = _whose(pid, by_number, by_name, by_session)
            is_reaped = reap_orphan(pid)
            if mark is not None and (is_reaped or self._counts(pid)):
                found[mark].append(pid)
        for pid in self._children.helpers():
            mark = _whose(pid, by_number, by_name, {})
            if mark is not None:
                found[mark].append(pid)
        adopted = [mark for mark in marks if mark.adopted]
        if adopted:
            for pid, mark in self._among_strangers(adopted, set(self._children.all())):
                found[mark].append(pid)
        return found

    def _among_strangers(self, adopted: Collection[Mark], ours: set[int]) -> list[tuple[int, Mark]]:
        strangers = Strangers(adopted)
        found: list[tuple[int, Mark]] = []
        for _ in range(_TRIES):
            found, vanished = [], False
            for pid in self._children.others(_all_pids() - ours):
                mark = strangers.whose(pid)
                ticks = None if mark is None else start_ticks(pid)
                vanished = vanished or (mark is None and not os.path.lexists(f"/proc/{pid:d}"))
                if mark is not None and ticks is not None and self._counts(pid):
                    found.append((pid, mark))
            if found or not vanished:
                break
        return found

    def _counts(self, pid: int) -> bool:
        """Whether it lives; one that is dead counts once, as it may just have left a child.

        It may stay for ever: a zombie that init never reaps, or that a debugger does not let go of.
        """
        ticks = start_ticks(pid)
        if ticks is None or is_alive(pid):
            return ticks is not None
        is_known = (pid, ticks) in self._dead
        self._dead.add((pid, ticks))
        return not is_known


class Strangers:
    """Tells the members of adopted instances from everybody else on this machine."""

    def __init__(self, marks: Iterable[Mark]) -> None:
        self._by_number = {mark.number: mark for mark in marks if mark.number}
        self._by_name = {mark.instance: mark for mark in marks}
        self._by_session = {mark.session: mark for mark in marks if mark.session}

    def whose(self, pid: int) -> Mark | None:
        by_session = _by_session(pid, self._by_session)
        by_number = self._by_number.get(number_of(pid))
        environ = environ_of(pid)
        name = environ.get(MARK_VARIABLE.encode())
        by_name = None if name is None else self._by_name.get(InstanceId(name.decode(errors="replace")))
        if by_name is not None and not (by_name is by_number or is_below(pid, environ, by_name.folder)):
            by_name = None
        mark = by_session or by_name or (by_number if name is None or by_number is by_name else None)
        if mark is None or (start_ticks(pid) or 0) < mark.since:
            return None
        return mark


def is_below(pid: int, environ: Mapping[bytes, bytes], folder: str) -> bool:
    """Whether a process has this TMPDIR, or an output that lies in its runtime_dir, two above."""
    if environ.get(b"TMPDIR") == os.fsencode(folder):
        return True
    runtime_dir = f"{Path(folder).parents[1]}/"
    for output in (1, 2):
        with suppress(OSError):
            if os.readlink(f"/proc/{pid:d}/fd/{output}").startswith(runtime_dir):  # noqa: PTH115 - compared as text
                return True
    return False


def _whose(
    pid: int, by_number: dict[int, Mark], by_name: dict[InstanceId, Mark], by_session: dict[int, Mark]
) -> Mark | None:
    number = number_of(pid)
    if number in by_number:
        return by_number[number]
    name = instance_of(pid)
    if name in by_name:
        return by_name[name]
    return _by_session(pid, by_session)


def _by_session(pid: int, marks: Mapping[int, Mark]) -> Mark | None:
    """The mark of the session that a process is in: the instance's, not a later one of the same number."""
    mark = marks.get(_session_of(pid))
    if mark is None:
        return None
    leader = start_ticks(mark.session)
    return mark if leader is None or not mark.since or leader == mark.since else None


def number_of(pid: int) -> int:
    """The number that a process is marked with, or any other limit of its own; 0 where it is nobody's.

    Raises:
        Scarce: No descriptor is left.
    """
    try:
        return resource.prlimit(pid, resource.RLIMIT_MSGQUEUE)[0]
    except PermissionError:  # of another user: root in a container may not ask, but anybody may read
        return _number_told(pid)
    except OSError:
        return 0


def _number_told(pid: int) -> int:
    """The same as proc(5) tells everybody in /proc/PID/limits."""
    try:
        with open(f"/proc/{pid:d}/limits", "rb", buffering=0) as file:  # noqa: PTH123 - no file of anybody's
            text = file.readall()
    except OSError as error:
        if error.errno in SCARCE:
            raise Scarce(f"cannot read /proc/{pid:d}/limits: {error.strerror}") from error
        return 0
    soft = text.partition(b"Max msgqueue size")[2].split(maxsplit=1)[:1]
    return int(soft[0]) if soft and soft[0].isdigit() else 0


def mark_of(pid: int) -> int:
    """The same, and 0 where it has what every other process has."""
    number = number_of(pid)
    return 0 if number == resource.getrlimit(resource.RLIMIT_MSGQUEUE)[0] or number >= _NO_LIMIT else number


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


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
    """The environment that a process was started with; empty where it cannot be read.

    Raises:
        Scarce: No descriptor is left.
    """
    try:
        with Path(f"/proc/{pid:d}/environ").open("rb", buffering=0) as file:
            entries = file.readall().split(b"\0")
    except OSError as error:
        if error.errno in SCARCE:
            raise Scarce(f"cannot read /proc/{pid:d}/environ: {error.strerror}") from error
        return {}
    return dict(entry.split(b"=", 1) for entry in entries if b"=" in entry)


def instance_of(pid: int) -> InstanceId | None:
    """The instance that a process was started in, by its environment; None where it cannot be read."""
    value = environ_of(pid).get(MARK_VARIABLE.encode())
    return None if value is None else InstanceId(value.decode(errors="replace"))


def _all_pids() -> set[int]:
    names = os.listdir("/proc")  # noqa: PTH208 - names only
    return {int(name) for name in names if name.isdigit()}
