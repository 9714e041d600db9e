"""The tasks of one mount: they are the node's, and one that breaks costs its mount a step."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from supervisor.domain.names import MountKey

log = structlog.get_logger(__name__)


class Effects:
    __slots__ = ("_key", "_starts", "_tasks")

    def __init__(self, key: MountKey, tasks: asyncio.TaskGroup) -> None:
        self._key = key
        self._tasks = tasks
        self._starts: dict[int, asyncio.Task[None]] = {}

    def begin(self, work: Coroutine[Any, Any, None], broke: Callable[[str], None]) -> asyncio.Task[None]:
        """Begin `work`; `broke` is told why, if it raises what nobody foresaw."""
        task = self._tasks.create_task(self._guarded(work, broke))
        task.add_done_callback(lambda _: work.close())  # of one that was cancelled before it began
        return task

    def begin_start(
        self, generation: int, work: Coroutine[Any, Any, None], broke: Callable[[str], None]
    ) -> None:
        """Begin what brings up and watches the instance of `generation`."""
        task = self.begin(work, broke)
        self._starts[generation] = task
        task.add_done_callback(lambda _: self._ended(generation, task))

    def cancel_start(self, generation: int) -> None:
        task = self._starts.get(generation)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def leave(self) -> None:
        for task in self._starts.values():
            task.cancel()

    def _ended(self, generation: int, task: asyncio.Task[None]) -> None:
        if self._starts.get(generation) is task:
            del self._starts[generation]

    async def _guarded(self, work: Coroutine[Any, Any, None], broke: Callable[[str], None]) -> None:
        try:
            await work
        except Exception as error:
            # one of the two edges: a fault here costs this mount a failed step, the others nothing
            log.exception("effect_broke", namespace=str(self._key.namespace), mount=self._key.path)
            broke(f"plugind failed at it: {error!r}")
