"""All mounts of this node: their actors from the start of the daemon to its end, and jobs done with one."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from uuid import uuid4

import structlog

from supervisor.domain import events
from supervisor.domain.catalog import Catalog, Launch, MountSpec, Policies
from supervisor.domain.errors import NotFound, TargetUnfit
from supervisor.domain.events import Outcome
from supervisor.domain.memory import Remembered
from supervisor.domain.mount import Mount, Phase, launch_to_start, remembering
from supervisor.domain.names import MountKey
from supervisor.domain.plan import Current
from supervisor.engine import views
from supervisor.engine.adoption import one_each
from supervisor.engine.mount import MountActor
from supervisor.engine.ports import P, Remains
from supervisor.engine.reload import Job
from supervisor.engine.world import Ended, World

log = structlog.get_logger(__name__)


class Fleet(Mapping[MountKey, MountActor[P]]):
    def __init__(self, world: World[P]) -> None:
        self._world = world
        self._actors: dict[MountKey, MountActor[P]] = {}
        self._remembered: dict[MountKey, Remembered] = {}
        self._closing = False

    def __getitem__(self, key: MountKey) -> MountActor[P]:
        return self._actors[key]

    def __iter__(self) -> Iterator[MountKey]:
        return iter(self._actors)

    def __len__(self) -> int:
        return len(self._actors)

    def phases(self) -> Counter[Phase]:
        return Counter(actor.mount.phase for actor in self._actors.values())

    def currents(self) -> dict[MountKey, Current]:
        return {key: views.current(actor) for key, actor in self._actors.items()}

    async def begin(self, catalog: Catalog, remains: Remains[P]) -> list[str]:
        """Adopt what lives, then start every mount that is not stopped by hand; what people should know."""
        self._remembered = dict(self._world.memory.load())
        found, troubles = await remains.living(
            lambda key: catalog.mounts[key].policies if key in catalog.mounts else Policies()
        )
        kept = await one_each(found, self._world.processes)
        for key, one in kept.items():
            spec = catalog.mounts.get(key)
            actor = self._made(key, spec.policies if spec else Policies())
            actor.adopt(one.instance, one.process, ready=one.ready)
            if actor.mount.held is not None:  # the daemon was killed while it stopped this one
                actor.post(events.Stop(by=actor.mount.held))
        if kept:
            log.info("instances_adopted", count=len(kept))
        missing = [spec for key, spec in catalog.mounts.items() if key not in kept]
        with suppress(
            TargetUnfit
        ):  # so that many mounts of one file hash it once; each start says what is wrong
            await self._world.binaries.verify(missing)
        for key, spec in catalog.mounts.items():
            if key not in kept:
                actor = self.actor(spec)
                if actor.mount.held is None:
                    actor.post(events.Start(launch_to_start(spec, actor.mount)))
        return troubles

    def actor(self, spec: MountSpec) -> MountActor[P]:
        """The actor of a mount, which is new if the mount is."""
        found = self._actors.get(spec.key)
        return found if found is not None else self._made(spec.key, spec.policies)

    def mount(self, spec: MountSpec) -> Mount:
        """The state of a mount, also of one that has no actor yet."""
        actor = self._actors.get(spec.key)
        return actor.mount if actor is not None else self._remembered_as(spec.key, spec.policies)

    def found(self, key: MountKey) -> MountActor[P]:
        """The actor of a mount.

        Raises:
            NotFound: There is no such mount.
        """
        try:
            return self._actors[key]
        except KeyError:
            raise NotFound(f"no mount at {key}") from None

    async def do(self, job: Job, command: str) -> Ended:
        """Carry out one job of a reload or an apply; `command` is its id."""
        if job.spec is None:
            return await self._remove(job.key, command)
        actor = self.actor(job.spec)
        if actor.mount.policies != job.spec.policies:
            actor.post(events.Configure(job.spec.policies))
        match job.verb:
            case "reload":
                return await actor.ask(events.Reload(job.spec.launch, command), command)
            case "start":
                if actor.mount.held is not None:  # after this was planned, and it is for nobody else to end
                    why = f"stopped by hand by {actor.mount.held.who}"
                    return Ended(job.key, Outcome.SKIPPED, why)
                return await actor.ask(events.Start(job.spec.launch, command), command)
            case "settings" | "keep" | "stop":
                return Ended(job.key, Outcome.DONE)

    async def shut_down(self) -> None:
        """Return when every instance is stopped, and the sticky stops are what they were."""
        self._close()
        stops = [
            actor.ask(events.Stop(command), command)
            for actor in self._actors.values()
            for command in [str(uuid4())]
        ]
        await asyncio.gather(*stops)
        await self._world.memory.flush()

    async def leave(self) -> None:
        """Let go of every instance: the next plugind adopts them."""
        self._close()
        for actor in self._actors.values():
            actor.leave()
        await self._world.memory.flush()

    def _close(self) -> None:
        """Reloads that are under way go on, and start nothing more; also where a mount is new."""
        self._closing = True
        for actor in self._actors.values():
            actor.is_closing = True

    async def _remove(self, key: MountKey, command: str) -> Ended:
        actor = self._actors.get(key)
        if actor is None:
            return Ended(key, Outcome.DONE)
        ended = await actor.ask(events.Stop(command), command)
        if actor.mount.is_empty and self._actors.get(key) is actor:  # another apply may have been first
            del self._actors[key]
            self._world.memory.forget(key)
            self._remembered.pop(key, None)
            self._world.logs.close(key)
        return ended

    def _made(self, key: MountKey, policies: Policies) -> MountActor[P]:
        actor = MountActor(self._remembered_as(key, policies), self._world)
        actor.is_closing = self._closing
        self._actors[key] = actor
        return actor

    def _remembered_as(self, key: MountKey, policies: Policies) -> Mount:
        return remembering(key, policies, self._remembered.get(key, Remembered()))


def launch_to_restart(spec: MountSpec, mount: Mount) -> Launch:
    """What runs, or what is about to: a restart undoes no reload. Where nothing runs, what a start runs."""
    if mount.held is not None or mount.instance is None:
        return launch_to_start(spec, mount)
    if mount.queued is not None:
        return mount.queued.launch
    if mount.current is not None and mount.current.failure is None:
        return mount.current.launch
    return mount.wanted or mount.instance.launch
