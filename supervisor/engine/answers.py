"""Who waits for an answer of one mount, and what they are told; who waits no more reads it in the history."""

import asyncio
from collections.abc import Mapping
from typing import Generic

from supervisor.domain.events import Answer, Instance, Outcome
from supervisor.domain.names import MountKey
from supervisor.engine.effects import Effects
from supervisor.engine.ports import P
from supervisor.engine.world import Ended, World


class Answers(Generic[P]):
    __slots__ = ("_effects", "_key", "_pids", "_waiting", "_world")

    def __init__(self, key: MountKey, world: World[P], effects: Effects, pids: Mapping[int, int]) -> None:
        self._key = key
        self._world = world
        self._effects = effects
        self._pids = pids
        self._waiting: dict[str, asyncio.Future[Ended]] = {}

    def expect(self, command: str) -> asyncio.Future[Ended]:
        answered: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._waiting[command] = answered
        return answered

    def give(self, answer: Answer) -> None:
        ended = Ended(
            self._key,
            answer.outcome,
            answer.reason,
            old_version=answer.old.launch.version if answer.old else None,
            old_pid=self._pids.get(answer.old.generation) if answer.old else None,
            new_version=answer.new.launch.version if answer.new else None,
            new_pid=self._pids.get(answer.new.generation) if answer.new else None,
            down=answer.down,
        )
        if answer.failed is None:
            self._tell(answer, ended)
        else:
            self._effects.begin(
                self._tell_with_log(answer, ended, answer.failed), lambda _: self._tell(answer, ended)
            )

    def leave(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                why = "plugind ends and leaves its plugins to the next one: it goes on there"
                waiting.set_result(Ended(self._key, Outcome.SKIPPED, why))

    async def _tell_with_log(self, answer: Answer, ended: Ended, failed: Instance) -> None:
        lines = await self._world.logs.last_lines(self._key, failed.id)
        ended.log.extend(lines)
        self._tell(answer, ended)

    def _tell(self, answer: Answer, ended: Ended) -> None:
        for command in answer.commands:
            waiting = self._waiting.pop(command, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(ended)
            else:
                self._world.amended(command, ended)
