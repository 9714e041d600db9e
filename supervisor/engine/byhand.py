"""What people ask of one mount: start, stop, restart. Everything is verified before it is done.

What becomes of the mount is decided in `domain/`; whether anybody may act now, by the node.
"""

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import structlog

from supervisor.domain import events
from supervisor.domain.access import Caller
from supervisor.domain.catalog import Launch, MountSpec
from supervisor.domain.errors import NotFound
from supervisor.domain.memory import StoppedBy
from supervisor.domain.mount import Mount, launch_to_start
from supervisor.domain.names import MountKey
from supervisor.engine.fleet import Fleet, launch_to_restart
from supervisor.engine.ports import Memory
from supervisor.engine.preflight import Preflight
from supervisor.engine.reload import DONE, Job, Verb, fill, pending
from supervisor.engine.staging import Staging
from supervisor.engine.world import Ended, command_id
from supervisor.wire import MountResult

log = structlog.get_logger(__name__)
PATIENCE: Final = 1.0
"""Seconds that a command waits for what is remembered to be on disk."""


class _Choose(Protocol):
    def __call__(self, spec: MountSpec, mount: Mount, *, is_frozen: bool) -> Launch: ...


class ByHand:
    def __init__(self, fleet: Fleet[Any], preflight: Preflight, memory: Memory, staging: Staging) -> None:
        self._fleet = fleet
        self._preflight = preflight
        self._memory = memory
        self._staging = staging

    async def start(self, key: MountKey, caller: Caller) -> MountResult:
        """Run it, whatever it was stopped by. Raises NotFound, TargetUnfit."""
        spec = self._spec(key)
        return await self._start(spec, await self._checked(spec, launch_to_start), caller)

    async def stop(self, key: MountKey, caller: Caller) -> MountResult:
        """Stop it, and keep it stopped over crash, upgrade and reboot. Raises NotFound."""
        spec = self._staging.catalog.mounts.get(key)
        actor = self._fleet.actor(spec) if spec else self._fleet.found(key)
        command = command_id("stop")
        by = StoppedBy(caller.name, datetime.now(UTC).timestamp())
        instance, process = actor.mount.instance, actor.process
        ended = await actor.ask(events.Stop(command, by), command)
        await self._memory.flush()  # before the answer: it holds over a power cut from now on
        row = self._result("stop", ended, caller)
        if instance is not None and process is not None:
            row.old_version, row.old_pid = instance.launch.version, process.pid
        return row

    async def restart(self, key: MountKey, caller: Caller) -> MountResult:
        """A new instance of what runs; a mount that runs nothing is started. Raises NotFound, TargetUnfit."""
        spec = self._spec(key)
        launch = await self._checked(spec, launch_to_restart)
        actor = self._fleet.actor(spec)
        if actor.mount.instance is None or actor.mount.held is not None:
            return await self._start(spec, launch, caller)
        command = command_id("restart")
        ended = await actor.ask(events.Reload(launch, command), command)
        return self._result("reload", ended, caller)

    def _spec(self, key: MountKey) -> MountSpec:
        spec = self._staging.catalog.mounts.get(key)
        if spec is None:
            raise NotFound(f"no mount at {key} in the catalog")
        return spec

    async def _checked(self, spec: MountSpec, choose: _Choose) -> Launch:
        """What is to run, once its files were checked; chosen again if the mount went on meanwhile."""

        def chosen() -> Launch:
            return choose(spec, self._fleet.mount(spec), is_frozen=self._fleet.is_frozen(spec.key))

        while True:
            launch = chosen()
            await self._preflight.check([replace(spec, launch=launch)])
            if chosen() == launch:
                return launch

    async def _start(self, spec: MountSpec, launch: Launch, caller: Caller) -> MountResult:
        actor = self._fleet.actor(spec)
        if actor.mount.is_empty and actor.mount.policies != spec.policies:
            actor.post(events.Configure(spec.policies, spec.launch))
        command = command_id("start")
        ended = await actor.ask(events.Start(launch, command), command)
        await on_disk(self._memory)  # before the answer: the stop that it ended does not come back
        return self._result("start", ended, caller)

    def _result(self, verb: Verb, ended: Ended, caller: Caller) -> MountResult:
        spec = self._staging.catalog.mounts.get(ended.key)
        row = pending(Job(ended.key, verb, str(spec.plugin) if spec else ""))
        fill(row, ended, DONE[verb])
        log.info("mount_commanded", verb=verb, mount=str(ended.key), result=row.result, by=caller.name)
        return row


async def on_disk(memory: Memory) -> None:
    """Return when what is remembered is on disk, or the disk hangs: then it is there when it can be."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            await memory.flush()
