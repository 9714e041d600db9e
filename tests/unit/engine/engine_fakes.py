"""What the engine needs from the world, in memory: each fits its Protocol of `engine/ports.py`.

What they promise is tested in `test_ports_agree.py`, on them and on the real things. Nothing here
waits for the wall clock: time passes by `FakeClock.advance`, and `settle` lets the loop run dry.
"""
# ruff: noqa: ARG002 - the signatures are those of engine/ports.py

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from supervisor.domain.access import Caller
from supervisor.domain.catalog import (
    Admitted,
    Catalog,
    Identity,
    Launch,
    Listener,
    Liveness,
    Mark,
    MountSpec,
    Plugin,
    Policies,
    RestartRate,
    Version,
)
from supervisor.domain.errors import (
    Cannot,
    CatalogInvalid,
    Conflict,
    Fault,
    SpawnRefused,
    TargetUnfit,
    TreeSurvived,
    Unavailable,
)
from supervisor.domain.events import Exit, Instance
from supervisor.domain.holds import Hold
from supervisor.domain.legacy import Errand, HandedNode
from supervisor.domain.memory import Remembered, Unrecorded
from supervisor.domain.mount import Mount
from supervisor.domain.names import ROOT, InstanceId, MountKey, Namespace, PluginRef, Seconds, instance_id
from supervisor.domain.plan import ByMounts, Target
from supervisor.domain.registering import Registered
from supervisor.engine import ports
from supervisor.engine.facilities import About, Facilities
from supervisor.engine.feed import Feed, Transition
from supervisor.engine.mount import MountActor
from supervisor.engine.node import Node, Options
from supervisor.engine.pace import Pace
from supervisor.engine.reload import Reload
from supervisor.engine.world import Ended, World
from supervisor.wire import InstanceRow, MountResult, ReloadData

Read = TypeVar("Read")

# --- the loop and the clock


class _Turn:
    def __await__(self) -> Generator[None, None, None]:
        yield


async def settle() -> None:
    """Return when nothing is left that could go on by itself. Not for two tasks at a time."""
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]  # of every loop of asyncio
    while ready:
        await _Turn()


@asynccontextmanager
async def keeping() -> AsyncIterator[asyncio.TaskGroup]:
    """A TaskGroup in a task of its own; fails if something in it has ended it."""
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[asyncio.TaskGroup] = loop.create_future()
    over: asyncio.Future[None] = loop.create_future()

    async def keep() -> None:
        async with asyncio.TaskGroup() as tasks:
            opened.set_result(tasks)
            await over

    keeper = loop.create_task(keep())
    yield await opened
    assert not keeper.done(), "a task has ended the TaskGroup of the node"
    over.cancel()
    await asyncio.wait([keeper])


class FakeClock:
    def __init__(self) -> None:
        self.now: Seconds = 1000.0
        self._timers: list[asyncio.TimerHandle] = []

    def time(self) -> Seconds:
        return self.now

    def call_at(self, when: Seconds, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, asyncio.get_running_loop())
        self._timers.append(timer)
        return timer

    @property
    def timers(self) -> list[Seconds]:
        """In how many seconds the next ones are due."""
        return sorted(timer.when() - self.now for timer in self._timers if not timer.cancelled())

    async def advance(self, seconds: Seconds) -> None:
        """Let time pass; each timer runs at its instant, and all that follows from it before the next."""
        await settle()
        until = self.now + seconds
        while due := [timer for timer in self._timers if not timer.cancelled() and timer.when() <= until]:
            timer = min(due, key=asyncio.TimerHandle.when)
            self._timers.remove(timer)
            self.now = max(self.now, timer.when())
            timer._run()
            await settle()
        self.now = until


# --- processes


@dataclass
class Script:
    """How the processes of a version behave."""

    ready: bool = True
    """Otherwise not before `FakeProcess.become_ready`."""
    never_ready: str | None = None
    """It can never be ready: the reason."""
    why_not: str = ""
    says: str = ""
    extended_until: Seconds | None = None
    refused: str | None = None
    transient: bool = False
    ignores_signals: bool = False
    unkillable: bool = False
    stop_command_fails: bool = False
    broken: str = ""
    """The port that raises what nobody expects."""


class FakeProcess:
    def __init__(self, key: MountKey, instance: Instance, pid: int, script: Script, clock: FakeClock) -> None:
        self.key = key
        self.instance = instance
        self.pid = pid
        self.script = script
        self.started_at: float = clock.time()
        self.ready_at: float | None = None
        self.status: Exit | None = None
        self.is_gone = self.is_left = False
        self.signals: list[int] = []
        self.checks: list[bool | asyncio.Future[None]] = []
        """What the next liveness checks find; well when there is none."""
        self.checked = 0
        self.policies: Policies | None = None
        """Those it was configured with since its start."""
        self._ready: asyncio.Event = asyncio.Event()
        self._tell: list[Callable[[Exit], None]] = []

    def exit(self, code: int | None = None, *, signal: int | None = None) -> None:
        if self.status is None:
            self.status = Exit(code, signal)
            for tell in self._tell:
                asyncio.get_running_loop().call_soon(tell, self.status)

    def become_ready(self) -> None:
        self._ready.set()

    def on_exit(self, tell: Callable[[Exit], None]) -> None:
        if self.status is None:
            self._tell.append(tell)
        else:
            asyncio.get_running_loop().call_soon(tell, self.status)

    async def ready(self) -> None:
        if self.script.broken == "ready":
            raise RuntimeError("nobody expects this")
        if self.script.never_ready is not None:
            raise Cannot(self.script.never_ready)
        if not self.script.ready:
            await self._ready.wait()

    async def alive(self) -> None:
        self.checked += 1
        found = self.checks.pop(0) if self.checks else True
        if isinstance(found, asyncio.Future):
            await found
        elif not found:
            raise Cannot(f"check {self.checked} failed")

    def why_not_ready(self) -> str:
        return self.script.why_not

    @property
    def extended_until(self) -> Seconds | None:
        return self.script.extended_until

    @property
    def says(self) -> str:
        return self.script.says


class FakeProcesses:
    def __init__(self, clock: FakeClock) -> None:
        self.scripts: defaultdict[str, Script] = defaultdict(Script)
        """By version."""
        self.spawned: list[FakeProcess] = []
        self.did: list[str] = []
        self.forgotten: list[MountKey] = []
        self.impeded: str | None = None
        self.unsupported_versions: dict[str, str] = {}
        self.most_starting = 0
        self.most_of_one_mount = 0
        self.gate: asyncio.Event | None = None
        """While it is there and not set, no `end_tree` returns."""
        self.commands: asyncio.Event | None = None
        """The same for stop commands."""
        self._clock = clock
        self._pids = 100

    def of(self, path: str) -> list[FakeProcess]:
        """All processes of a mount, oldest first."""
        return [process for process in self.spawned if process.key == a_key(path)]

    def living(self, path: str | None = None) -> list[FakeProcess]:
        processes = self.spawned if path is None else self.of(path)
        return [process for process in processes if process.status is None]

    def make(self, key: MountKey, instance: Instance) -> FakeProcess:
        """A process that is there."""
        self._pids += 1
        process = FakeProcess(key, instance, self._pids, self.scripts[instance.launch.version], self._clock)
        self.spawned.append(process)
        of_one = Counter(other.key for other in self.spawned if other.status is None)
        self.most_of_one_mount = max(self.most_of_one_mount, *of_one.values())
        return process

    def unsupported(self, launch: Launch) -> str | None:
        return self.unsupported_versions.get(launch.version)

    def impediment(self) -> str | None:
        return self.impeded

    def unclaimed(self) -> list[str]:
        return []

    async def spawn(
        self, key: MountKey, instance: Instance, policies: Policies, file: Admitted | None
    ) -> FakeProcess:
        script = self.scripts[instance.launch.version]
        if script.broken == "spawn":
            raise RuntimeError("nobody expects this")
        if script.refused is not None:
            raise SpawnRefused(script.refused, transient=script.transient)
        process = self.make(key, instance)
        self.did.append(f"spawn {key.path} {instance.launch.version}")
        starting = [one for one in self.living() if not one.ready_at]
        self.most_starting = max(self.most_starting, len(starting))
        return process

    def signal_main(self, process: FakeProcess, number: int) -> None:
        self.did.append(f"signal {process.key.path} {number}")
        process.signals.append(number)
        if process.script.broken == "signal":
            raise Cannot("not ours to signal")
        if not process.script.ignores_signals:
            process.exit(signal=number)

    async def run_stop_command(self, process: FakeProcess, command: tuple[str, ...]) -> None:
        self.did.append(f"command {process.key.path} {' '.join(command)}")
        if process.script.broken == "command":
            raise RuntimeError("nobody expects this")
        if self.commands is not None:
            await self.commands.wait()
        if process.script.stop_command_fails:
            raise Cannot("it ended with 1")

    async def end_tree(self, process: FakeProcess, grace: Seconds) -> None:
        self.did.append(f"end {process.key.path} {process.instance.launch.version}")
        if self.gate is not None:
            await self.gate.wait()
        if process.script.broken == "end":
            raise RuntimeError("nobody expects this")
        if process.script.unkillable:
            raise TreeSurvived([process.pid])
        process.exit(signal=9)
        process.is_gone = True

    def configure(self, process: FakeProcess, policies: Policies) -> None:
        process.policies = policies

    def became_ready(self, process: FakeProcess) -> None:
        process.ready_at = self._clock.time()

    def leave(self, process: FakeProcess) -> None:
        process.is_left = True

    def forget(self, key: MountKey) -> None:
        self.forgotten.append(key)

    def usage(self, process: FakeProcess) -> tuple[float, int] | None:
        return None if process.status else (1.5, 4096)


class FakeListeners:
    """Holds addresses; nobody else has any but those that are `taken`."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        """Addresses that somebody else has."""
        self.users: defaultdict[str, set[MountKey]] = defaultdict(set)
        """Mounts by the addresses that are held for them."""
        self.reserved: dict[str, dict[MountKey, set[str]]] = {}
        self.kept: list[set[str]] = []
        """What mounts were to keep, in turn."""

    @property
    def open(self) -> set[str]:
        reserved = [one for mounts in self.reserved.values() for one in mounts.values()]
        return {address for address, users in self.users.items() if users}.union(*reserved)

    def check(self, specs: Iterable[MountSpec], leaving: Collection[MountKey]) -> list[Fault]:
        return [
            Fault(spec.mark.file, spec.mark.line, spec.mark.column, f"cannot run {spec.key}: {one.address}")
            for spec in specs
            for one in spec.launch.listen
            if one.address in self.taken or self.users[one.address] - {spec.key, *leaving}
        ]

    def reserve(self, owner: str, specs: Iterable[MountSpec], leaving: Collection[MountKey]) -> list[Fault]:
        specs = list(specs)
        faults = self.check(specs, leaving)
        if not faults:
            found = {spec.key: {one.address for one in spec.launch.listen} for spec in specs}
            self.reserved.setdefault(owner, {}).update(found)
        return faults

    def release(self, owner: str, key: MountKey | None = None) -> None:
        reserved = self.reserved.get(owner, {})
        for one in [one for one in reserved if key in {None, one}]:
            del reserved[one]

    def keep(self, key: MountKey, listeners: Collection[Listener]) -> None:
        wanted = {one.address for one in listeners}
        self.kept.append(wanted)
        for address, users in self.users.items():
            if address not in wanted:
                users.discard(key)
        for address in wanted & self.open:
            self.users[address] = self.users[address] or {key}

    def keep_only(self, keys: Collection[MountKey]) -> None:
        for users in self.users.values():
            users &= set(keys)

    def troubles(self) -> list[str]:
        return []


@dataclass
class FakeFound:
    key: MountKey
    instance: Instance
    ready: bool
    process: FakeProcess


class FakeRemains:
    def __init__(self) -> None:
        self.found: list[FakeFound] = []
        self.dead: dict[MountKey, int] = {}
        """The last generation of mounts of which nothing lives."""
        self.troubles: list[str] = []
        self.gate: asyncio.Event | None = None
        self.policies: dict[MountKey, Policies] = {}
        self.launch_of: Callable[[Unrecorded], Launch | None] = lambda *_: None

    async def living(
        self,
        policies: Callable[[MountKey, Launch], Policies],
        launch_of: Callable[[Unrecorded], Launch | None],
    ) -> tuple[list[FakeFound], dict[MountKey, int], list[str]]:
        if self.gate is not None:
            await self.gate.wait()
        self.policies = {one.key: policies(one.key, one.instance.launch) for one in self.found}
        self.launch_of = launch_of
        self.is_clear = False
        generations = self.dead | {one.key: one.instance.generation for one in self.found}
        return self.found, generations, self.troubles

    def clear(self) -> None:
        self.is_clear = True


# --- files


class FakeBinaries:
    def __init__(self) -> None:
        self.unfit: dict[str, str] = {}
        """By command, why its file must not run."""
        self.digests: dict[str, str] = {}
        """By command, where it is not what the catalog says."""
        self.verified: list[tuple[str, ...]] = []
        self.held: set[Launch] = set()
        self.gate: asyncio.Event | None = None
        """While it is there and not set, nothing is verified or admitted."""

    def _why_not(self, launch: Launch) -> str | None:
        digest = self.digests.get(launch.command)
        if digest is not None and launch.sha256 not in {None, digest}:
            return f"{launch.command} has SHA-256 {digest[:12]}…"
        return self.unfit.get(launch.command)

    async def verify(self, specs: Iterable[MountSpec]) -> None:
        specs = list(specs)
        self.verified.append(tuple(spec.launch.version for spec in specs))
        if self.gate is not None:
            await self.gate.wait()
        faults = [
            Fault(spec.mark.file, spec.mark.line, spec.mark.column, f"cannot run {spec.key}: {why}")
            for spec in specs
            if (why := self._why_not(spec.launch)) is not None
        ]
        if faults:
            raise TargetUnfit(faults)

    async def admit(self, launch: Launch) -> Admitted:
        if self.gate is not None:
            await self.gate.wait()
        why = self._why_not(launch)
        if why is not None:
            raise Cannot(f"cannot run {launch.plugin} {launch.version}: {why}")
        self.held.add(launch)
        return Admitted(Identity(1, 2, 3, 4, 5))

    def recall(self, launch: Launch, pid: int) -> None:
        self.held.add(launch)

    def keep_only(self, launches: Iterable[Launch]) -> None:
        self.held &= set(launches)


@dataclass(frozen=True)
class FakeEdit:
    old: str | None
    new: str | None


class FakeCatalogFile:
    def __init__(self, says: Catalog | CatalogInvalid | Unavailable) -> None:
        self.path = "/etc/plugind/catalog.yaml"
        self.says = says
        self.saved: Catalog | None = None
        self.why_none: str | None = None
        self.fails_to_keep: str | None = None
        self.hashing: asyncio.Event | None = None
        """While it is there and not set, `digest` does not return."""
        self.undoable: FakeEdit | None = None
        """What undoes the last write of a pin."""
        self.gate: asyncio.Event | None = None
        """While it is there and not set, `last_good` does not return."""
        self._last: Catalog | None = None

    async def load(self) -> Catalog:
        if isinstance(self.says, CatalogInvalid | Unavailable):
            raise self.says
        self._last = self.says
        return self.says

    async def last_good(self) -> Catalog | None:
        if self.gate is not None:
            await self.gate.wait()
        return self.saved

    async def keep(self) -> None:
        if self.fails_to_keep is not None:
            raise Cannot(self.fails_to_keep)
        self.saved = self._last

    async def set_pin(self, ref: PluginRef, version: str) -> FakeEdit:
        assert isinstance(self.says, Catalog)
        old = self.says.plugins[ref].pin
        self.says = pinned(self.says, ref, version)
        self.undoable = FakeEdit(version, old)
        return FakeEdit(old, version)

    async def remove_pin(self, ref: PluginRef) -> FakeEdit:
        assert isinstance(self.says, Catalog)
        plugin = self.says.plugins[ref]
        self.says = replace(self.says, plugins={**self.says.plugins, ref: replace(plugin, pin=None)})
        self.undoable = FakeEdit(None, plugin.pin)
        return FakeEdit(plugin.pin, None)

    async def undo_pin(self, ref: PluginRef) -> FakeEdit:
        assert isinstance(self.says, Catalog)
        undone = self.undoable
        if undone is None or undone.new is None or self.says.plugins[ref].pin != undone.old:
            raise Conflict("it is not what plugind wrote last")
        self.says = pinned(self.says, ref, undone.new)
        return undone

    async def digest(self, ref: PluginRef, command: str) -> str:
        if self.hashing is not None:
            await self.hashing.wait()
        return "cd" * 32

    async def add_version(self, ref: PluginRef, version: str, added: Registered) -> FakeEdit:
        launch = Launch(ref, version, added.command, added.sha256, added.args, added.env)
        return self._with(ref, version, Version(launch, DEFAULTS))

    async def remove_version(self, ref: PluginRef, version: str) -> FakeEdit:
        return self._with(ref, version, None)

    def _with(self, ref: PluginRef, name: str, version: Version | None) -> FakeEdit:
        assert isinstance(self.says, Catalog)
        plugin = self.says.plugins[ref]
        versions = {known: one for known, one in plugin.versions.items() if known != name}
        if version is not None:
            versions[name] = version
        plugins = {**self.says.plugins, ref: replace(plugin, versions=versions)}
        self.says = replace(self.says, plugins=plugins)
        return FakeEdit(None, name) if version is not None else FakeEdit(name, None)


def pinned(catalog: Catalog, ref: PluginRef, version: str) -> Catalog:
    """The same catalog with another pin."""
    plugin = catalog.plugins[ref]
    launch = plugin.versions[version].launch
    mounts = {
        key: replace(spec, launch=launch) if spec.plugin == ref and not spec.has_own_version else spec
        for key, spec in catalog.mounts.items()
    }
    return replace(catalog, plugins={**catalog.plugins, ref: replace(plugin, pin=version)}, mounts=mounts)


class FakeMemory:
    def __init__(self, disk: dict[MountKey, Remembered] | None = None) -> None:
        self.disk: dict[MountKey, Remembered] = {} if disk is None else disk
        self.known: dict[MountKey, Remembered] = {}
        self.flushes = 0
        self.fails: str | None = None

    def load(self) -> Mapping[MountKey, Remembered]:
        self.known = dict(self.disk)
        return dict(self.disk)

    def remember(self, key: MountKey, remembered: Remembered) -> None:
        if self.fails is not None:
            raise Cannot(self.fails)
        self.known[key] = remembered

    def forget(self, key: MountKey) -> None:
        self.known.pop(key, None)

    async def flush(self) -> None:
        self.flushes += 1
        self.disk.clear()
        self.disk.update(self.known)


class FakeHoldFile:
    def __init__(self) -> None:
        self.disk: list[Hold] = []
        self.fails: str | None = None
        self.damaged: str | None = None

    def load(self) -> list[Hold]:
        if self.damaged is not None:
            raise Cannot(self.damaged)
        return list(self.disk)

    async def write(self, holds: Sequence[Hold]) -> None:
        if self.fails is not None:
            raise Cannot(self.fails)
        self.disk = list(holds)


class FakeHistory:
    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}
        self.writes: list[str] = []
        self.noted: set[str] = set()

    async def append(self, reload_id: str, document: bytes) -> None:
        self.noted.discard(reload_id)
        self.writes.append(reload_id)
        self.documents[reload_id] = document

    async def amend(self, reload_id: str, document: bytes) -> None:
        await self.append(reload_id, document)

    async def note(self, reload_id: str, document: bytes) -> None:
        self.noted.add(reload_id)
        self.documents[reload_id] = document

    def unended(self) -> list[bytes]:
        return [document for known, document in self.documents.items() if known in self.noted]

    def get(self, reload_id: str) -> bytes | None:
        return self.documents.get(reload_id)

    def latest(self, most: int) -> list[bytes]:
        return list(reversed(self.documents.values()))[: max(most, 0)]


class FakeAudit:
    def __init__(self) -> None:
        self.entries: list[Mapping[str, Any]] = []
        self.fails: str | None = None

    def write(self, entry: Mapping[str, Any]) -> None:
        if self.fails is not None:
            raise Cannot(self.fails)
        self.entries.append(entry)


class FakeJournal:
    def __init__(self) -> None:
        self.data = b""
        self.writes: list[bool] = []
        """Of each, whether it was afresh."""
        self.fails: str | None = None

    async def load(self, read: Callable[[bytes], Read]) -> Read:
        if self.fails is not None:
            raise Cannot(self.fails)
        return read(self.data)

    async def write(self, make: Callable[[], bytes], *, afresh: bool) -> int:
        if self.fails is not None:
            raise Cannot(self.fails)
        self.data = make() if afresh else self.data + make()
        self.writes.append(afresh)
        return len(self.data)


class FakeLogs:
    def __init__(self) -> None:
        self.opened: dict[MountKey, str] = {}
        self.marks: list[tuple[InstanceId, str]] = []
        self.lines: dict[InstanceId, list[str]] = {}
        """What each instance wrote."""
        self.is_broken = False
        self.kept: set[MountKey] = set()

    def open(self, key: MountKey) -> str:
        return self.opened.setdefault(key, f"/dev/fd/{1000 + len(self.opened)}")

    def close(self, key: MountKey) -> None:
        self.opened.pop(key, None)

    def keep_only(self, keys: Collection[MountKey]) -> None:
        self.kept = set(keys)

    async def drain(self, key: MountKey) -> None: ...

    def mark(self, key: MountKey, instance: InstanceId, what: str, at: float) -> None:
        self.marks.append((instance, what))

    async def last_lines(self, key: MountKey, instance: InstanceId | None, lines: int = 5) -> list[str]:
        if self.is_broken:
            raise RuntimeError("nobody expects this")
        return self.lines.get(instance, [])[-lines:] if instance is not None else []

    async def tail(self, key: MountKey, lines: int) -> list[bytes]:
        return [f"a line of {key}".encode()][:lines]

    async def follow(self, key: MountKey, lines: int = 10) -> AsyncIterator[bytes]:
        for line in await self.tail(key, lines):
            yield line


# --- catalogs

DEFAULTS = Policies()
MOCK = PluginRef("auth", "mock")
KV = PluginRef("secret", "kv")
TEAM = Namespace(("team-a",))


def a_key(path: str) -> MountKey:
    """`auth/a` in the root namespace, `team-a:auth/a` elsewhere."""
    namespace, colon, name = path.rpartition(":")
    return MountKey(Namespace.parse(namespace) if colon else ROOT, name)


def a_launch(version: str, ref: PluginRef = MOCK) -> Launch:
    return Launch(ref, version, f"/bin/{ref.name}-{version}", "ab" * 32)


V1, V2, V3 = (a_launch(version) for version in ("v1", "v2", "v3"))


def a_spec(path: str, launch: Launch = V1, policies: Policies = DEFAULTS, line: int = 7) -> MountSpec:
    return MountSpec(a_key(path), launch, policies, mark=Mark("catalog.yaml", line, 3))


def a_catalog(
    *mounts: str, pin: str = "v1", policies: Policies = DEFAULTS, own: Mapping[str, str] | None = None
) -> Catalog:
    """Mounts of auth/mock (v1, v2, v3); `own` are those with a version of their own. And secret/kv v1."""
    plugins = {
        ref: Plugin(ref, pinned_version, {v: Version(a_launch(v, ref), policies) for v in versions})
        for ref, pinned_version, versions in ((MOCK, pin, ("v1", "v2", "v3")), (KV, "v1", ("v1",)))
    }
    specs = [a_spec(path, a_launch(pin), policies) for path in mounts]
    specs += [
        replace(a_spec(path, a_launch(version), policies), has_own_version=True)
        for path, version in (own or {}).items()
    ]
    namespaces = {ROOT} | {spec.key.namespace for spec in specs}
    return Catalog(plugins, {spec.key: spec for spec in specs}, frozenset(namespaces))


def nonsense(message: str = "unknown key") -> CatalogInvalid:
    return CatalogInvalid([Fault("catalog.yaml", 3, 1, message)])


# --- everything together

ALICE = Caller(uid=1000, pid=77, name="alice")
PLAIN = Options()


def caller_named(name: str) -> Caller:
    return Caller(uid=1001, name=name)


@dataclass
class Bench:
    """One actor and what it works with."""

    tasks: asyncio.TaskGroup
    clock: FakeClock = field(default_factory=FakeClock)
    policies: Policies = DEFAULTS
    rate: RestartRate = field(default_factory=RestartRate)
    amended: list[tuple[str, Ended]] = field(default_factory=list)
    told: list[Transition] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.processes = FakeProcesses(self.clock)
        self.binaries, self.logs, self.memory = FakeBinaries(), FakeLogs(), FakeMemory()
        self.listeners = FakeListeners()
        self.feed = Feed(self.told.append)
        world = World(
            self.clock,
            self.processes,
            self.listeners,
            self.binaries,
            self.logs,
            self.memory,
            self.feed,
            Pace(self.clock, self.rate),
            self.tasks,
            lambda command, ended: self.amended.append((command, ended)),
        )
        self.actor: MountActor[FakeProcess] = MountActor(Mount(a_key("auth/a"), self.policies), world)

    @property
    def steps(self) -> list[str]:
        """What happened, in turn."""
        return [type(step.event).__name__ for step in self.told]

    @property
    def phase(self) -> str:
        return self.actor.mount.phase.value

    def asked(self, event: Any) -> "asyncio.Task[Ended]":
        return self.tasks.create_task(self.actor.ask(event, event.command))


class FakeSuccessor:
    def __init__(self) -> None:
        self.refuses: str | None = None
        self.took_over: list[Errand] = []

    async def check(self) -> None:
        if self.refuses is not None:
            raise Cannot(self.refuses)

    def take_over(self, errand: Errand) -> None:
        self.took_over.append(errand)


class House:
    """A node and what it works with."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.tasks = tasks
        self.clock = FakeClock()
        self.processes = FakeProcesses(self.clock)
        self.listeners = FakeListeners()
        self.remains = FakeRemains()
        self.binaries = FakeBinaries()
        self.logs = FakeLogs()
        self.memory = FakeMemory()
        self.holds = FakeHoldFile()
        self.history = FakeHistory()
        self.journal = FakeJournal()
        self.audit = FakeAudit()
        self.file = FakeCatalogFile(a_catalog())
        self.successor = FakeSuccessor()
        self.parallel = 4
        self.handed: HandedNode | None = None
        self.errand: Errand | None = None

    def build(self) -> Node:
        return Node(
            About(
                "host-a",
                "1.2.3",
                42,
                {"cgroups": "no"},
                self.parallel,
                handed=self.handed,
                errand=self.errand,
            ),
            Facilities(
                self.clock,
                self.processes,
                self.listeners,
                self.remains,
                self.binaries,
                self.logs,
                self.memory,
                self.holds,
                self.history,
                self.journal,
                self.audit,
                self.file,
                self.successor,
            ),
            self.tasks,
        )

    async def begun(self, catalog: Catalog, *, proved: bool = True) -> Node:
        """A node that runs `catalog`, for so long that everything in it has proved itself."""
        self.file.says = catalog
        self.node = self.build()
        await self.node.begin()
        await settle()
        if proved:
            await self.clock.advance(100)
        self.processes.did.clear()
        self.processes.most_starting = 0
        self.binaries.verified.clear()
        return self.node

    def pin(self, version: str) -> None:
        assert isinstance(self.file.says, Catalog)
        self.file.says = pinned(self.file.says, MOCK, version)

    async def reload(self, *paths: str, options: Options = PLAIN, namespace: Namespace = ROOT) -> Reload:
        """Begin a reload of these mounts, in that namespace, or of every mount."""
        assert isinstance(self.file.says, Catalog)
        found = [key.path for key in self.file.says.mounts if key.namespace == namespace]
        target: Target = ByMounts(tuple(paths or found))
        ticket = await self.node.reload(target, namespace, options, ALICE, str(uuid4()))
        await settle()
        return ticket

    async def apply(self, options: Options = PLAIN, namespace: Namespace = ROOT) -> Reload:
        ticket = await self.node.apply(namespace, options, ALICE, str(uuid4()))
        await settle()
        return ticket

    def row(self, path: str) -> InstanceRow:
        key = a_key(path)
        rows = self.node.instances(key.namespace)
        return next(row for row in rows if (row.namespace, row.mount) == (str(key.namespace), key.path))

    def adopted(
        self, path: str, launch: Launch = V1, generation: int = 5, *, ready: bool = True
    ) -> FakeProcess:
        """A process that a former daemon left."""
        key = a_key(path)
        instance = Instance(instance_id(key, generation), generation, launch)
        process = self.processes.make(key, instance)
        self.remains.found.append(FakeFound(key, instance, ready, process))
        return process


def results(reload: Reload | ReloadData) -> dict[str, str]:
    data = reload.report() if isinstance(reload, Reload) else reload
    return {row.mount: row.result for row in data.mounts}


def row_of(reload: Reload, mount: str) -> MountResult:
    return next(row for row in reload.report().mounts if row.mount == mount)


def with_liveness(failures: int = 3, timeout: Seconds = 10.0) -> Policies:
    probe = replace(Policies().ready, timeout=timeout)
    return Policies(liveness=Liveness(probe, interval=10.0, failures=failures))


if TYPE_CHECKING:
    _clock = FakeClock()
    FITTING: tuple[
        ports.Clock,
        ports.Processes[FakeProcess],
        ports.Remains[FakeProcess],
        ports.Binaries,
        ports.Logs,
        ports.Memory,
        ports.HoldFile,
        ports.History,
        ports.Journal,
        ports.Audit,
        ports.CatalogFile,
        ports.Successor,
    ] = (
        _clock,
        FakeProcesses(_clock),
        FakeRemains(),
        FakeBinaries(),
        FakeLogs(),
        FakeMemory(),
        FakeHoldFile(),
        FakeHistory(),
        FakeJournal(),
        FakeAudit(),
        FakeCatalogFile(a_catalog()),
        FakeSuccessor(),
    )
