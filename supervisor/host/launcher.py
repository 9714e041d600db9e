"""The thread that starts processes, one after the other, while the loop goes on.

A limit of plugind's own is what a child inherits, so a mark is set around each start, and no two starts
may be under way at once. Children of this thread are no children of the loop's thread: what hangs there
came to plugind as an orphan.
"""

import asyncio
import resource
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Final

from supervisor.host.posixspawn import Program

_Job = tuple[Program, int, Callable[[int, Exception | None], None]]
_NAME: Final = "plugind-spawn"


class Launcher:
    """Starts programs. `own` is RLIMIT_MSGQUEUE as plugind has it: what stands there is the mark."""

    def __init__(self, own: tuple[int, int]) -> None:
        self._own = own
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=_NAME, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return when what was asked for has been started and the thread is gone."""
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()

    async def launch(self, program: Program, mark: int) -> int:
        """The pid of a new process.

        Raises:
            OSError: There is none.
        """
        loop = asyncio.get_running_loop()
        started: asyncio.Future[int] = loop.create_future()

        def settle(pid: int, error: Exception | None) -> None:
            if started.done():
                return  # the loop ends: the next plugind finds it by its mark
            if error is not None:
                started.set_exception(error)
            else:
                started.set_result(pid)

        def done(pid: int, error: Exception | None) -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(settle, pid, error)

        self._jobs.put((program, mark, done))
        return await started

    def launch_now(self, program: Program, mark: int, files: tuple[tuple[int, int], tuple[int, int]]) -> int:
        """The same while everything else waits, with another limit of descriptors: plugind's own, the other.

        Raises:
            OSError: There is no process.
        """
        own, other = files
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, other)
            return self._marked(program, mark, lock=True)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, own)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            program, mark, done = job
            try:
                pid = self._marked(program, mark, lock=False)
            except Exception as error:  # noqa: BLE001 - for whoever asked; without this thread nothing starts any more
                done(0, error)
            else:
                done(pid, None)
            job = program = done = None  # type: ignore[assignment]  # they are freed by whoever asked

    def _marked(self, program: Program, mark: int, *, lock: bool) -> int:
        """Source: setrlimit(2); posix_spawn(3)."""
        if not mark:
            return program.start(lock=lock)
        own, hard = self._own
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (mark, hard))
        try:
            return program.start(lock=lock)
        finally:
            resource.setrlimit(resource.RLIMIT_MSGQUEUE, (own, hard))
