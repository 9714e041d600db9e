"""A process as one value: pid, start and pidfd. The only signals that plugind sends are sent here.

A pid alone is nobody: it may be reused between a look and a signal. So every signal goes through a
pidfd whose process was compared by its start ticks after the pidfd was opened.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Iterable
from typing import Final

from supervisor.domain.errors import Cannot
from supervisor.domain.events import Exit
from supervisor.host.childsignal import ChildSignal
from supervisor.host.identity import Scarce, children_of_thread, is_alive, start_ticks

ORPHANS_SOON: Final = 1.0
"""Seconds until zombies that are nobody's main process are reaped: they cost a table entry, no more."""
HELD_BY_TRACER: Final = 0.05


class Handle:
    """One process that was alive when the handle was opened. Close it."""

    def __init__(self, pid: int, ticks: int, pidfd: int) -> None:
        self.pid = pid
        self.ticks = ticks
        self.pidfd = pidfd

    @classmethod
    def open(cls, pid: int, ticks: int | None = None) -> "Handle | None":
        """The process `pid`, where `ticks` is given only the one that started then; None if there is none.

        Source: pidfd_open(2).

        Raises:
            Scarce: No descriptor is left.
        """
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        except OSError as error:
            raise Scarce(f"cannot watch pid {pid}: {error.strerror}") from error
        try:
            found = start_ticks(pid)
        except Cannot:
            os.close(pidfd)
            raise
        if found is None or (ticks is not None and found != ticks):
            os.close(pidfd)
            return None
        return cls(pid, found, pidfd)

    def send(self, number: int) -> bool:
        """Send a signal; False if the process is gone.

        Raises:
            Cannot: It is not ours to signal.
        """
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return False
        except OSError as error:
            raise Cannot(f"cannot signal pid {self.pid}: {error.strerror}") from error
        return True

    async def ended(self, seconds: float) -> bool:
        """Wait until the process is dead (it may be a zombie), at most `seconds`; whether it is."""
        loop = asyncio.get_running_loop()
        dead: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_later(seconds, _resolve, dead, False)  # noqa: FBT003 - the value of the future
        loop.add_reader(self.pidfd, _resolve, dead, True)  # noqa: FBT003
        try:
            return await dead
        finally:
            loop.remove_reader(self.pidfd)
            timer.cancel()

    def close(self) -> None:
        os.close(self.pidfd)


def _resolve(future: "asyncio.Future[bool]", value: bool) -> None:  # noqa: FBT001 - a callback
    if not future.done():
        future.set_result(value)


class Main:
    """The main process of an instance (or a stop command), watched until it is dead and reaped."""

    def __init__(self, handle: Handle, children: "Children", *, is_child: bool) -> None:
        self.handle = handle
        self.pid = handle.pid
        self._children = children
        self._is_child = is_child
        self._loop = asyncio.get_running_loop()
        self._exit: asyncio.Future[Exit] = self._loop.create_future()
        self._retry: asyncio.TimerHandle | None = None
        self._loop.add_reader(handle.pidfd, self.reap)

    @property
    def is_dead(self) -> bool:
        return self._exit.done()

    async def exited(self) -> Exit:
        return await asyncio.shield(self._exit)

    def on_exit(self, tell: Callable[[Exit], None]) -> None:
        self._exit.add_done_callback(lambda exit_: None if exit_.cancelled() else tell(exit_.result()))

    def reap(self) -> None:
        """Take the exit status of a process that is dead.

        Source: waitid(2); of one that is no child of ours the kernel tells no status.
        """
        if self._exit.done():
            return
        status = Exit()
        if self._is_child:
            try:
                result = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                result = None
            else:
                if result is None:
                    self._look_later()
                    return
            if result is not None:
                killed = result.si_code in {os.CLD_KILLED, os.CLD_DUMPED}
                status = Exit(signal=result.si_status) if killed else Exit(code=result.si_status)
        elif is_alive(self.pid) and start_ticks(self.pid) == self.handle.ticks:
            return
        self._loop.remove_reader(self.handle.pidfd)
        self._children.forget(self)
        self._exit.set_result(status)

    def _look_later(self) -> None:
        """Dead, but a tracer has not let go of it: its pidfd would wake the loop without end."""
        self._loop.remove_reader(self.handle.pidfd)
        self._retry = self._loop.call_later(HELD_BY_TRACER, self.reap)

    def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        if not self._exit.done():
            self._loop.remove_reader(self.handle.pidfd)
            self._children.forget(self)
            self._exit.cancel()
        self.handle.close()


class Children:
    """All main processes; reaps the others that come to us, as plugind is a child subreaper or pid 1.

    Source: prctl(2) PR_SET_CHILD_SUBREAPER; waitid(2) WNOWAIT.
    """

    def __init__(self) -> None:
        self._mains: dict[int, Main] = {}
        self._names: set[bytes] = set()
        """The pids of `_mains` as the kernel writes them: most of what a look reads is compared as text."""
        self._helpers: set[int] = set()
        self._signal: ChildSignal | None = None
        self._sweep: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Reap orphans from now on; call it in the loop that owns the children."""
        self._signal = ChildSignal(self._noticed)

    def unwatch(self) -> None:
        if self._signal is not None:
            self._signal.close()
            self._signal = None
        if self._sweep is not None:
            self._sweep.cancel()

    def add(self, handle: Handle, *, is_child: bool = True, is_helper: bool = False) -> Main:
        """Watch it; a helper (a stop command, a probe) is also a member of its instance, and ends with it."""
        main = Main(handle, self, is_child=is_child)
        self._mains[handle.pid] = main
        self._names.add(b"%d" % handle.pid)
        if is_helper:
            self._helpers.add(handle.pid)
        return main

    def forget(self, main: Main) -> None:
        if self._mains.get(main.pid) is main:
            del self._mains[main.pid]
            self._names.discard(b"%d" % main.pid)
            self._helpers.discard(main.pid)

    def abandon(self, main: Main) -> None:
        """Nobody waits for it any more; it is reaped like an orphan."""
        self.forget(main)
        main.close()
        self._noticed()

    def all(self) -> list[int]:
        """Children of plugind."""
        return list(map(int, self._own()))

    def orphans(self) -> list[int]:
        """Children of plugind that are no main process: plugins had them, and died or let them go."""
        return list(map(int, set(self._own()) - self._names))

    def _own(self) -> list[bytes]:
        own = os.getpid()  # it forks in its main thread only, and orphans come to that one too
        return children_of_thread(own, own)

    def others(self, pids: Iterable[int]) -> list[int]:
        """Those of `pids` that are no main process."""
        return [pid for pid in pids if pid not in self._mains]

    def helpers(self) -> list[int]:
        """Those whose status somebody waits for, and that end with their instance all the same."""
        return list(self._helpers)

    def _noticed(self) -> None:
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(ORPHANS_SOON, self._reap_orphans)

    def _reap_orphans(self) -> None:
        # one sweep a second at most: the kernel walks all children to find a dead one
        self._sweep = None
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if dead is None:
                return
            main = self._mains.get(dead.si_pid)
            if main is not None:
                main.reap()
            else:
                reap_orphan(dead.si_pid)


def reap_orphan(pid: int) -> bool:
    """Reap `pid` if it is a zombie and our child; whether it is gone by that."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return False
