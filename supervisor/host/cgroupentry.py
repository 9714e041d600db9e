"""Puts processes that were just started into their cgroups, at no cost to the loop.

A write to cgroup.procs waits for a grace period of RCU: 7 to 20 ms on a machine that forks little, and
0.07 ms where another was written in the last 20 (measured). So the first of a burst is written by a
worker thread, and the others by the loop. What a process forks before that is known by its mark.
Until then it is not reaped, so that its pid can be nobody else's.
"""

import asyncio
import fcntl
import os
import resource
from contextlib import suppress
from functools import partial
from typing import Final

import structlog

from supervisor.domain.names import Seconds
from supervisor.host.cgroup import Cgroup
from supervisor.host.processes import Main
from supervisor.host.spawn import RESERVE

log = structlog.get_logger(__name__)
FEW: Final = 4096
"""Descriptors; a table of more is not made longer for one."""
WARM: Final[Seconds] = 0.01
"""How long after a write the next one is cheap."""


class Entries:
    def __init__(self) -> None:
        self._waiting: list[tuple[Cgroup, Main]] = []
        self._is_writing = False
        self._warm_until: Seconds = 0.0

    def add(self, cgroup: Cgroup, main: Main) -> None:
        """Let `main` enter soon."""
        loop = asyncio.get_running_loop()
        if not self._is_writing and loop.time() < self._warm_until:
            self._enter(cgroup, main)
            return
        if self._is_writing:
            main.hold()
            self._waiting.append((cgroup, main))
            return
        try:
            door = _out_of_the_way(os.open(f"{cgroup.path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            _tell(cgroup, error)
            return
        main.hold()
        self._is_writing = True
        self._waiting.append((cgroup, main))
        written = loop.run_in_executor(None, _write, door, main.pid)
        written.add_done_callback(partial(self._entered, cgroup))

    def _entered(self, cgroup: Cgroup, written: "asyncio.Future[None]") -> None:
        self._is_writing = False
        self._warm_until = asyncio.get_running_loop().time() + WARM
        error = None if written.cancelled() else written.exception()
        if error is not None:
            _tell(cgroup, error)
        waiting, self._waiting = self._waiting, []
        for number, (other, main) in enumerate(waiting):
            if number:
                self._enter(other, main)
            main.release()

    def _enter(self, cgroup: Cgroup, main: Main) -> None:
        try:
            cgroup.enter(main.pid)
        except OSError as error:
            _tell(cgroup, error)
        self._warm_until = asyncio.get_running_loop().time() + WARM


def _out_of_the_way(descriptor: int) -> int:
    """The same at a high number, where there are few: a hole among low ones would pass for many free."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most > FEW:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, most - RESERVE)
    finally:
        os.close(descriptor)


def _write(door: int, pid: int) -> None:
    try:
        with suppress(ProcessLookupError):
            os.write(door, b"%d" % pid)
    finally:
        os.close(door)


def _tell(cgroup: Cgroup, error: BaseException) -> None:
    """Its tree is known by its marks all the same."""
    log.warning("cgroup_not_entered", cgroup=cgroup.path, reason=str(error))
