"""All mounts of this node: their actors from the start of the daemon to its end, and jobs done with one."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

import msgspec
import structlog

from supervisor.domain import events
from supervisor.domain.catalog import Catalog, Launch, MountSpec, Policies
from supervisor.domain.errors import NotFound, PlugindError, TargetUnfit
from supervisor.domain.events import Outcome
from supervisor.domain.legacy import HandedMount, left_behind, resumed
from supervisor.domain.memory import Remembered, Unrecorded
from supervisor.domain.mount import Mount, Phase, launch_to_start, remembering
from supervisor.domain.names import InstanceId, MountKey
from supervisor.domain.plan import Current
from supervisor.engine import views
from supervisor.engine.adoption import one_each
from supervisor.engine.mount import MountActor
from supervisor.engine.ports import Found, P, Remains
from supervisor.engine.reload import Job
from supervisor.engine.world import Ended, World, command_id

log = structlog.get_logger(__name__)
WasMain = Callable[[InstanceId, int], bool]
"""Whether a process is known to have been the main process of an instance."""


class Fleet(Mapping[MountKey, MountActor[P]]):
    def __init__(self, world: World[P], is_frozen: Callable[[MountKey], bool] = lambda _: False) -> None:
        self._world = world
        self.is_frozen = is_frozen
        """Whether a hold keeps a mount as it is: then a start runs what last worked."""
        self._asked: dict[MountKey, tuple[int, MountSpec]] = {}
        """What was last done with a mount: the number of its catalog, and what was asked for."""
        self._actors: dict[MountKey, MountActor[P]] = {}
        self._remembered: dict[MountKey, Remembered] = {}
        self._closing = False

    def __getitem__(self, key: MountKey) -> MountActor[P]:
        return self._actors[key]

    def __iter__(self) -> Iterator[MountKey]:
        return iter(self._actors)

    def __len__(self) -> int:
        return len(self._actors)

    def needed(self) -> set[Launch]:
        """All whose files may be run without that anybody asks for it."""
        return {launch for actor in self._actors.values() for launch in actor.mount.needed}

    def phases(self) -> Counter[Phase]:
        return Counter(actor.mount.phase for actor in self._actors.values())

    def currents(self) -> dict[MountKey, Current]:
        return {key: views.current(actor) for key, actor in self._actors.items()}

    def crashes(self, key: MountKey) -> tuple[int, str | None]:
        """How often a mount has crashed, ever, and why it was given up, if it was."""
        actor = self._actors.get(key)
        if actor is None:
            return 0, None
        is_given_up = actor.mount.phase is Phase.FAILED
        return actor.crashes, (actor.mount.reason or "it was given up") if is_given_up else None

    def launches(self) -> list[tuple[MountKey, Launch]]:
        """What runs and what is about to, of every mount."""
        return [(key, launch) for key, actor in self._actors.items() for launch in actor.mount.launches]

    async def begin(
        self,
        catalog: Catalog,
        remains: Remains[P],
        was_main: WasMain,
        handed: Iterable[HandedMount] | None = None,
    ) -> list[str]:
        """Adopt what lives, then start every mount that is not stopped by hand; what people should know.

        Over an upgrade, which left `handed`, nothing starts that did not run: it goes on where it was.
        """
        left = None if handed is None else {one.key: one for one in handed}
        self._remembered = dict(self._world.memory.load())
        found, generations, troubles = await remains.living(
            lambda key, launch: self._running_as(catalog, key, launch).policies_of(launch),
            lambda seen: (
                known_launch(seen, catalog.mounts.get(seen.key), self._remembered.get(seen.key))
                if was_main(seen.instance, seen.pid)
                else None
            ),
        )
        await self._remember_generations(generations)
        kept = await one_each(found, self._world.processes)
        remains.clear()
        for key, one in kept.items():
            mount = self._running_as(catalog, key, one.instance.launch)
            self._adopt(one, mount, (left or {}).get(key))
        for one in kept.values():
            self._world.binaries.recall(one.instance.launch, one.process.pid)
        if kept:
            log.info("instances_adopted", count=len(kept))
        self._world.logs.keep_only(catalog.mounts.keys() | kept.keys())
        # after an upgrade a mount that is new in the file waits for apply, as it did before
        specs = [
            spec for key, spec in catalog.mounts.items() if key not in kept and (left is None or key in left)
        ]
        await self._start([(spec, left[spec.key] if left is not None else None) for spec in specs])
        for actor in self._actors.values():
            actor.hold()
        self._world.listeners.keep_only([key for key, actor in self.items() if actor.listens])
        return troubles

    def _adopt(self, found: Found[P], mount: Mount, handed: HandedMount | None) -> None:
        actor = self._made(mount)
        if handed is not None:
            actor.resume(resumed(actor.mount, handed, lives=True), handed)
        actor.adopt(found.instance, found.process, ready=found.ready)
        # the former plugind ended while it stopped this one
        if actor.mount.held is not None or (handed is not None and handed.is_being_stopped):
            actor.post(events.Stop(by=actor.mount.held))

    async def _start(self, mounts: Sequence[tuple[MountSpec, HandedMount | None]]) -> None:
        """Start those that are due, and have an actor for each."""
        due = [spec for spec, handed in mounts if handed is None or handed.is_due]
        with suppress(
            TargetUnfit
        ):  # so that many mounts of one file hash it once; each start says what is wrong
            await self._world.binaries.verify(due)
        for spec, handed in mounts:
            actor = self.actor(spec)
            if handed is not None:
                actor.resume(resumed(actor.mount, handed, lives=False), handed)
            if actor.mount.held is None and (handed is None or handed.is_due):
                launch = launch_to_start(spec, actor.mount, is_frozen=self.is_frozen(spec.key))
                actor.post(events.Start(launch))

    async def _remember_generations(self, generations: Mapping[MountKey, int]) -> None:
        """One may be gone before it was remembered: without its record its id would be given again."""
        is_new = False
        for key, generation in generations.items():
            known = self._remembered.get(key, Remembered())
            if generation > known.generation:
                is_new = True
                self._remembered[key] = known.at_least(generation)
                with suppress(PlugindError):  # it was written as a record, so it can be
                    self._world.memory.remember(key, self._remembered[key])
        if is_new:
            await self._world.memory.flush()

    def actor(self, spec: MountSpec) -> MountActor[P]:
        """The actor of a mount, which is new if the mount is."""
        found = self._actors.get(spec.key)
        return found if found is not None else self._made(self._remembered_as(spec.key, spec.policies))

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

    def kept(self, jobs: Iterable[Job]) -> None:
        """A later command wants these as they are: an older one that comes to them yet is joined with it."""
        for job in jobs:
            read, _ = self._asked.get(job.key, (0, job.spec))
            if job.verb == "keep" and job.spec is not None and read <= job.read:
                self._asked[job.key] = job.read, job.spec

    async def do(self, job: Job, command: str) -> Ended:
        """Carry out one job of a reload or an apply; `command` is its id.

        Where a later command was first, it is joined with that: an older catalog undoes no newer one.
        """
        read, spec = self._asked.get(job.key, (0, job.spec))
        if read <= job.read:
            read, spec = job.read, job.spec
        elif job.spec is None:
            return Ended(job.key, Outcome.SKIPPED, "it is in the catalog again, and was started from there")
        if spec is None:
            self._asked.pop(job.key, None)
            return await self._remove(job.key, command)
        self._asked[job.key] = read, spec
        actor = self.actor(spec)
        if actor.mount.policies != spec.policies:
            actor.post(events.Configure(spec.policies, spec.launch))
        match job.verb:
            case "reload":
                return await actor.ask(events.Reload(spec.launch, command), command)
            case "start":
                if actor.mount.held is not None:  # after this was planned, and it is for nobody else to end
                    why = f"stopped by hand by {actor.mount.held.who}"
                    return Ended(job.key, Outcome.SKIPPED, why)
                return await actor.ask(events.Start(spec.launch, command), command)
            case "settings" | "keep" | "stop":
                return Ended(job.key, Outcome.DONE)

    async def shut_down(self) -> None:
        """Return when every instance is stopped, and the sticky stops are what they were."""
        self._close()
        stops = [
            actor.ask(events.Stop(command), command)
            for actor in self._actors.values()
            for command in [command_id("shutdown")]
        ]
        await asyncio.gather(*stops)
        await self._world.memory.flush()

    async def leave(self) -> tuple[HandedMount, ...]:
        """Let go of every instance: the next plugind adopts them; what it should know beside that."""
        self._close()
        for actor in self._actors.values():
            actor.leave()
        await self._world.memory.flush()
        return tuple(
            left_behind(actor.mount, restarts=actor.crashes, last_exit=actor.last_exit)
            for actor in self._actors.values()
        )

    def _close(self) -> None:
        """Reloads that are under way go on, and start nothing more; also where a mount is new."""
        self._closing = True
        for actor in self._actors.values():
            actor.is_closing = True

    async def _remove(self, key: MountKey, command: str) -> Ended:
        actor = self._actors.get(key)
        if actor is None:
            return Ended(key, Outcome.DONE)
        ended = await actor.ask(events.Stop(command, why="its mount is no longer in the catalog"), command)
        if actor.mount.is_empty and self._actors.get(key) is actor:  # another apply may have been first
            del self._actors[key]
            self._world.memory.forget(key)
            self._remembered.pop(key, None)
            self._world.logs.close(key)
            self._world.processes.forget(key)
        return ended

    def _made(self, mount: Mount) -> MountActor[P]:
        actor = MountActor(mount, self._world)
        actor.is_closing = self._closing
        self._actors[mount.key] = actor
        return actor

    def _running_as(self, catalog: Catalog, key: MountKey, launch: Launch) -> Mount:
        """The mount where `launch` lives, which need not be what the catalog asks for by now."""
        spec = catalog.mounts.get(key)
        mount = self._remembered_as(key, spec.policies if spec is not None else Policies())
        its = catalog.policies_of(key, launch)
        if launch in dict(mount.former) or its == mount.policies:
            return mount
        return msgspec.structs.replace(mount, former=(*mount.former, (launch, its)))

    def _remembered_as(self, key: MountKey, policies: Policies) -> Mount:
        return remembering(key, policies, self._remembered.get(key, Remembered()))


def known_launch(seen: Unrecorded, spec: MountSpec | None, remembered: Remembered | None) -> Launch | None:
    """What it was started from some time ago, if that is still known."""
    worked = remembered.good if remembered is not None else None
    failed = remembered.rolled_back_from if remembered is not None else None
    for launch in (worked, spec.launch if spec is not None else None, failed):
        if launch is not None and (str(launch.plugin), launch.version) == (seen.plugin, seen.version):
            return launch
    return None


def launch_to_restart(spec: MountSpec, mount: Mount, *, is_frozen: bool = False) -> Launch:
    """What runs, or what is about to: a restart undoes no reload. Where nothing runs, what a start runs."""
    if mount.held is not None or mount.instance is None:
        return launch_to_start(spec, mount, is_frozen=is_frozen)
    return mount.bound_for or launch_to_start(spec, mount, is_frozen=is_frozen)
