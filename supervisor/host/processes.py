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
from supervisor.host.identity import (
    Scarce,
    children_of,
    children_of_thread,
    is_alive,
    start_ticks,
    wait_status,
)

ORPHANS_SOON: Final = 1.0
"""Seconds until zombies that are nobody's main process are reaped: they cost a table entry, no more."""
NOT_YET: Final = 0.05
LOOKS: Final = 10
"""How often to look whether a tracer let go of a dead process; then it may keep the zombie."""


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

    def is_there(self) -> bool:
        """Whether its pid is still its own: it may be dead, but nobody has reaped it."""
        return start_ticks(self.pid) == self.ticks

    async def ended(self, seconds: float) -> bool:
        """Wait until the process is dead (it may be a zombie), at most `seconds`; whether it is.

        Raises:
            Scarce: There is no memory or watch for it.
        """
        loop = asyncio.get_running_loop()
        dead: asyncio.Future[bool] = loop.create_future()
        try:
            loop.add_reader(self.pidfd, _resolve, dead, True)  # noqa: FBT003 - the value of the future
        except OSError as error:
            raise Scarce(f"cannot watch pid {self.pid}: {error.strerror}") from error
        timer = loop.call_later(seconds, _resolve, dead, False)  # noqa: FBT003
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
        self._is_held = False
        self._looks = 0
        self._watch()

    @property
    def is_dead(self) -> bool:
        return self._exit.done()

    async def exited(self) -> Exit:
        return await asyncio.shield(self._exit)

    def on_exit(self, tell: Callable[[Exit], None]) -> None:
        self._exit.add_done_callback(lambda exit_: None if exit_.cancelled() else tell(exit_.result()))

    def reap(self) -> None:
        """Take the exit status of a process that is dead.

        Source: waitpid(2); of one that is no child of ours the kernel tells no status.
        """
        if self._exit.done():
            return
        if self._is_held:
            self._loop.remove_reader(self.handle.pidfd)
            return
        status = self._status_of_child() if self._is_child else self._status_of_stranger()
        if status is None:
            return
        self._loop.remove_reader(self.handle.pidfd)
        self._children.forget(self)
        self._exit.set_result(status)

    def _status_of_child(self) -> Exit | None:
        """None where it cannot be had yet."""
        try:
            pid, word = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return Exit()
        if not pid and self._looks < LOOKS:
            self._look_later()
            return None
        if not pid:  # it is dead all the same, and its pid is nobody else's while it is kept
            word = wait_status(self.pid)
            self._children.reap_later(self.pid)
            if not word:  # what is hidden from us reads 0
                return Exit()
        code = os.waitstatus_to_exitcode(word)
        return Exit(signal=-code) if code < 0 else Exit(code=code)

    def _status_of_stranger(self) -> Exit | None:
        """None where it is not dead, or cannot be seen now that it is."""
        try:
            return None if is_alive(self.pid) and start_ticks(self.pid) == self.handle.ticks else Exit()
        except Scarce:
            self._look_later()
            return None

    def hold(self) -> None:
        """Do not reap it for now: while its pid is written somewhere, it must not become another's."""
        self._is_held = True

    def release(self) -> None:
        self._is_held = False
        if not self._exit.done():
            self._watch()

    def _watch(self) -> None:
        try:
            self._loop.add_reader(self.handle.pidfd, self.reap)
        except OSError:  # no memory or no watch for it just now: it runs all the same
            self._retry = self._loop.call_later(NOT_YET, self._watch)

    def _look_later(self) -> None:
        """Its status cannot be had yet (a tracer has not let go of it), and its pidfd wakes without end."""
        self._loop.remove_reader(self.handle.pidfd)
        self._looks += 1
        self._retry = self._loop.call_later(NOT_YET, self.reap)

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
        self._zombies: set[int] = set()
        """Main processes that a tracer does not let go of."""
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

    def all(self) -> list[int]:
        """Children of plugind, whichever of its threads started them."""
        return children_of(os.getpid())

    def orphans(self) -> list[int]:
        """Children of plugind that are no main process: plugins had them, and died or let them go.

        They come to the thread of the loop, and what plugind starts hangs below another (`launcher.py`);
        but of a former program in this process all came to this one.
        """
        own = os.getpid()
        return [int(pid) for pid in children_of_thread(own, own) if pid not in self._names]

    def others(self, pids: Iterable[int]) -> list[int]:
        """Those of `pids` that are no main process."""
        return [pid for pid in pids if pid not in self._mains]

    def leads(self, pid: int) -> bool:
        """Whether the session that `pid` is in is that of a main process."""
        try:
            return os.getsid(pid) in self._mains
        except OSError:
            return False

    def reap_later(self, pid: int) -> None:
        self._zombies.add(pid)

    def helpers(self) -> list[int]:
        """Those whose status somebody waits for, and that end with their instance all the same."""
        return list(self._helpers)

    def _noticed(self) -> None:
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(ORPHANS_SOON, self._reap_orphans)

    def _reap_orphans(self) -> None:
        # one sweep a second at most
        self._sweep = None
        self._zombies -= {pid for pid in self._zombies if reap_orphan(pid)}
        try:
            for pid in self.orphans():
                reap_orphan(pid)
        except Scarce:
            self._noticed()


async def moment() -> None:
    """Let others give descriptors back."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    timer = asyncio.get_running_loop().call_later(NOT_YET, over.set_result, None)
    try:
        await over
    finally:
        timer.cancel()


def reap_orphan(pid: int) -> bool:
    """Reap `pid` if it is a zombie and our child; whether it is gone by that."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return False
