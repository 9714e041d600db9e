"""A node with a catalog in memory, fitting engine/node.py's signatures; reloads end when told to."""
# ruff: noqa: ARG002 - the signatures are engine/node.py's

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import contextmanager

import msgspec

from supervisor import wire
from supervisor.domain.access import Caller
from supervisor.domain.catalog import (
    AccessRule,
    Catalog,
    Launch,
    MountSpec,
    Plugin,
    Policies,
    Settings,
    Socket,
    Tcp,
    Version,
)
from supervisor.domain.errors import BadRequest, NotFound, Unavailable
from supervisor.domain.names import MountKey, Namespace, PluginRef, Seconds
from supervisor.domain.plan import Target, select
from supervisor.domain.registering import Registered
from supervisor.engine.node import Options

AT = "2026-01-02T03:04:05.678901Z"
TEAM = Namespace(("team-a",))
DEV = Namespace(("team-a", "dev"))


def settings_for(path: str, *, access: Iterable[AccessRule] = (), tcp: Tcp | None = None) -> Settings:
    return Settings("catalog.yaml", "host-a", Socket(path), "/r", "/s", "/l", tcp=tcp, access=tuple(access))


def a_plugin(ref: PluginRef, pin: str | None, *versions: str) -> Plugin:
    def version(name: str) -> Version:
        command = f"/opt/{ref.name}-{name}"
        env = (("LEVEL", "hunter2"),)
        return Version(Launch(ref, name, command, "ab" * 32, ("--fast",), env), Policies())

    return Plugin(ref, pin, {name: version(name) for name in versions})


def a_catalog() -> Catalog:
    plugins = [
        a_plugin(PluginRef("auth", "mock-plugin"), "v1.1.0", "v1.0.0", "v1.1.0"),
        a_plugin(PluginRef("auth", "both"), "v1.0.0", "v1.0.0"),
        a_plugin(PluginRef("secret", "both"), "v1.0.0", "v1.0.0"),
        a_plugin(PluginRef("secret", "kv"), "v2.0.0", "v2.0.0"),
        a_plugin(PluginRef("secret", "idle"), None, "v1.0.0"),
        a_plugin(PluginRef("secret", "loose"), None, "v1.0.0", "v2.0.0"),
    ]
    by_ref = {plugin.ref: plugin for plugin in plugins}
    mounts = {}
    for namespace, path, ref in [
        (Namespace(), "auth/mock", plugins[0].ref),
        (Namespace(), "auth/both", plugins[1].ref),
        (Namespace(), "both", plugins[2].ref),
        (Namespace(), "kv", plugins[3].ref),
        (TEAM, "kv", plugins[3].ref),
        (DEV, "auth/mock", plugins[0].ref),
    ]:
        plugin = by_ref[ref]
        key = MountKey(namespace, path)
        mounts[key] = MountSpec(key, plugin.versions[plugin.pin or ""].launch, Policies())
    return Catalog(by_ref, mounts, frozenset({Namespace(), TEAM, DEV}))


class FakeTicket:
    def __init__(self, data: wire.ReloadData) -> None:
        self.reload_id = data.reload_id
        self.data = data
        self.finished = asyncio.Event()

    async def wait(self, seconds: Seconds) -> bool:
        try:
            await asyncio.wait_for(self.finished.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def report(self) -> wire.ReloadData:
        return self.data

    def finish(self) -> None:
        self.data = msgspec.structs.replace(self.data, done=True, finished_at=AT)
        self.finished.set()


class FakeHolding:
    def __init__(self) -> None:
        self.rows: dict[str, wire.HoldData] = {}

    def seen_from(self, namespace: Namespace) -> list[wire.HoldData]:
        return [row for place, row in self.rows.items() if namespace.covers(Namespace.parse(place))]

    async def set(self, namespace: Namespace, why: str, caller: Caller) -> wire.HoldData:
        if not why:
            raise BadRequest("say why")
        row = wire.HoldData(namespace=str(namespace), why=why, who=caller.name, since=AT)
        return self.rows.setdefault(str(namespace), row)

    async def release(self, namespace: Namespace, caller: Caller) -> wire.HoldData:
        if str(namespace) not in self.rows:
            raise NotFound("it is not held")
        return self.rows.pop(str(namespace))


class FakeEditing:
    def __init__(self, node: "FakeNode") -> None:
        self.node = node

    async def set_pin(self, ref: PluginRef, version: str, caller: Caller) -> wire.PinData:
        self.node.calls.append(("set_pin", ref, version))
        plugins = self.node.known.plugins
        if ref not in plugins or version not in plugins[ref].versions:
            raise BadRequest(f'{ref.type} plugin "{ref.name}" version {version} does not exist')
        return wire.PinData(type=ref.type, name=ref.name, version=version)

    async def remove_pin(self, ref: PluginRef, caller: Caller) -> wire.PinData:
        self.node.calls.append(("remove_pin", ref))
        return wire.PinData(type=ref.type, name=ref.name, version=None)

    async def undo_pin(self, ref: PluginRef, caller: Caller) -> wire.PinData:
        self.node.calls.append(("undo_pin", ref))
        return wire.PinData(type=ref.type, name=ref.name, version="v1.0.0")

    async def add_version(self, ref: PluginRef, version: str, added: Registered, caller: Caller) -> None:
        self.node.calls.append(("add_version", ref, version, added))

    async def remove_version(self, ref: PluginRef, version: str, caller: Caller) -> None:
        self.node.calls.append(("remove_version", ref, version))
        if ref not in self.node.known.plugins or version not in self.node.known.plugins[ref].versions:
            raise NotFound("it has no such version")


class FakeNode:
    name = "host-a"
    version = "0.1.0"

    def __init__(self) -> None:
        self.known = a_catalog()
        self.holding = FakeHolding()
        self.editing = FakeEditing(self)
        self.calls: list[tuple[object, ...]] = []
        self.audited: list[tuple[str, str, str, str]] = []
        self.tickets: dict[str, FakeTicket] = {}
        self.row: Callable[[MountKey], dict[str, object]] = lambda _: {}
        self.finishes_at_once = True
        self.asked = asyncio.Event()
        self.breaks: Exception | None = None
        self.open_streams = 0
        self.stream_ended = asyncio.Event()
        self.log: list[bytes] = [b"one", b"two \xff"]
        self.flood = False
        self.lags = False

    @property
    def catalog(self) -> Catalog:
        if self.breaks is not None:
            raise self.breaks
        return self.known

    def status(self) -> wire.NodeStatus:
        state = wire.CatalogState(file="/etc/plugind/catalog.yaml", source="file", mounts=6, plugins=6)
        return wire.NodeStatus(
            node="host-a",
            version="0.1.0",
            pid=1,
            started_at=AT,
            catalog=state,
            counts={"ready": 5, "stopped": 1},
            uses={},
        )

    def instances(self, namespace: Namespace) -> list[wire.InstanceRow]:
        return [
            wire.InstanceRow(
                namespace=str(key.namespace),
                mount=key.path,
                type=spec.plugin.type,
                plugin=spec.plugin.name,
                version="v1.0.0" if spec.plugin.name == "mock-plugin" else spec.launch.version,
                pinned_version=self.known.plugins[spec.plugin].pin,
                state="ready",
                pid=100 + number,
                cpu_seconds=1.5,
                memory_bytes=4096,
            )
            for number, (key, spec) in enumerate(sorted(self.known.mounts.items()))
            if namespace.covers(key.namespace)
        ]

    async def plan(self, namespace: Namespace) -> wire.PlanData:
        self.calls.append(("plan", namespace))
        return wire.PlanData(mounts=[], catalog=self.status().catalog)

    async def reload(
        self, target: Target, namespace: Namespace, options: Options, caller: Caller, reload_id: str
    ) -> FakeTicket:
        self.calls.append(("reload", target, namespace, options, reload_id))
        if self.breaks is not None:
            raise self.breaks
        return self._begin(select(self.known, target, namespace), caller, reload_id, "reload")

    async def apply(
        self, namespace: Namespace, options: Options, caller: Caller, reload_id: str
    ) -> FakeTicket:
        self.calls.append(("apply", namespace, options))
        keys = [key for key in sorted(self.known.mounts) if namespace.covers(key.namespace)]
        return self._begin(keys, caller, reload_id, "apply")

    def _begin(self, keys: Iterable[MountKey], caller: Caller, reload_id: str, verb: str) -> FakeTicket:
        rows = [self._result(key, "pending" if not self.finishes_at_once else "reloaded") for key in keys]
        data = wire.ReloadData(
            reload_id=reload_id, verb=verb, mounts=rows, by=caller.name, started_at=AT, node="host-a"
        )
        ticket = self.tickets[reload_id] = FakeTicket(data)
        if self.finishes_at_once:
            ticket.finish()
        self.asked.set()
        return ticket

    def _result(self, key: MountKey, result: str) -> wire.MountResult:
        row = wire.MountResult(
            namespace=str(key.namespace),
            mount=key.path,
            plugin=str(self.known.mounts[key].plugin),
            result=result,
            old_version="v1.0.0",
            new_version="v1.1.0",
        )
        return msgspec.structs.replace(row, **self.row(key))

    async def start(self, key: MountKey, caller: Caller) -> wire.MountResult:
        return self._one("start", key, "started")

    async def stop(self, key: MountKey, caller: Caller) -> wire.MountResult:
        return self._one("stop", key, "stopped")

    async def restart(self, key: MountKey, caller: Caller) -> wire.MountResult:
        return self._one("restart", key, "reloaded")

    def _one(self, verb: str, key: MountKey, result: str) -> wire.MountResult:
        self.calls.append((verb, key))
        self._exists(key)
        return self._result(key, result)

    def _exists(self, key: MountKey) -> None:
        if key not in self.known.mounts:
            raise NotFound(f"no mount at {key}")

    async def upgrade(self, caller: Caller, upgrade_id: str) -> wire.UpgradeData:
        self.calls.append(("upgrade", upgrade_id))
        if self.breaks is not None:
            raise self.breaks
        return wire.UpgradeData(upgrade_id=upgrade_id, result="under way", old_version="0.1.0", began_at=AT)

    def report(self, reload_id: str) -> wire.ReloadData | None:
        ticket = self.tickets.get(reload_id)
        return ticket.report() if ticket else None

    def history(self, most: int) -> list[wire.ReloadData]:
        return [ticket.report() for ticket in reversed(self.tickets.values())][:most]

    def why(self, key: MountKey) -> list[wire.TransitionRow]:
        self._exists(key)
        return [self._transition(1, key)]

    def _transition(self, number: int, key: MountKey) -> wire.TransitionRow:
        return wire.TransitionRow(
            id=number,
            at=AT,
            namespace=str(key.namespace),
            mount=key.path,
            event="became_ready",
            before="starting",
            after="ready",
        )

    async def events(
        self, namespace: Namespace, after: int | None
    ) -> AsyncGenerator[wire.TransitionRow, None]:
        self.calls.append(("events", namespace, after))
        with self._streaming():
            for number in range((after or 0) + 1, 4):
                yield self._transition(number, MountKey(namespace, "kv"))
            await asyncio.Event().wait()

    async def log_tail(self, key: MountKey, lines: int) -> list[bytes]:
        self._exists(key)
        return self.log[-lines:]

    def log_follow(self, key: MountKey, lines: int) -> AsyncGenerator[bytes, None]:
        self._exists(key)
        return self._followed(lines)

    async def _followed(self, lines: int) -> AsyncGenerator[bytes, None]:
        with self._streaming():
            for line in self.log[-lines:]:
                yield line + b"\n"
            while self.flood:
                yield b"x" * 65536
            if self.lags:
                yield b"half a line"
                raise Unavailable("the reader was too slow")
            await asyncio.Event().wait()

    @contextmanager
    def _streaming(self) -> Iterator[None]:
        self.open_streams += 1
        try:
            yield
        finally:
            self.open_streams -= 1
            self.stream_ended.set()

    def audit(self, caller: Caller, what: str, namespace: Namespace, result: str) -> None:
        self.audited.append((caller.name, what, str(namespace), result))
