"""What all actors of a node share, and what each of them answers."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Generic
from uuid import uuid4

import msgspec
import structlog

from supervisor.domain.errors import PlugindError
from supervisor.domain.events import Outcome
from supervisor.domain.memory import Remembered
from supervisor.domain.names import MountKey, Seconds
from supervisor.engine.feed import Feed
from supervisor.engine.pace import Pace
from supervisor.engine.ports import Binaries, Clock, Listeners, Logs, Memory, P, Processes

log = structlog.get_logger(__name__)


def command_id(verb: str) -> str:
    """The id of a command that is no reload, so that it is known by its verb wherever it is shown."""
    return f"{verb}:{uuid4()}"


def begin_in(tasks: asyncio.TaskGroup, work: Coroutine[None, None, None]) -> None:
    """Begin `work`, unless all that is under way there is being broken off."""
    try:
        tasks.create_task(work)
    except RuntimeError:
        work.close()


class Ended(msgspec.Struct, frozen=True):
    """How a command ended for one mount, with what people want to know of it."""

    key: MountKey
    outcome: Outcome
    reason: str | None = None
    old_version: str | None = None
    old_pid: int | None = None
    new_version: str | None = None
    new_pid: int | None = None
    down: Seconds | None = None
    log: list[str] = msgspec.field(default_factory=list)


@dataclass(frozen=True, slots=True)
class World(Generic[P]):
    """What all actors of a node share."""

    clock: Clock
    processes: Processes[P]
    listeners: Listeners
    binaries: Binaries
    logs: Logs
    memory: Memory
    feed: Feed
    pace: Pace
    tasks: asyncio.TaskGroup
    amended: Callable[[str, Ended], None]

    def remember(self, key: MountKey, remembered: Remembered) -> None:
        try:
            self.memory.remember(key, remembered)
        except PlugindError as error:  # what was decided is done all the same
            log.error("mount_not_remembered", mount=str(key), reason=str(error))
