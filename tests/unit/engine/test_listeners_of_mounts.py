"""When an actor and the node have listeners opened and closed."""

import asyncio
from typing import Any

import pytest
from engine_fakes import ALICE, PLAIN, V1, V2, Bench, House, Script, a_catalog, a_key, a_spec, keeping, settle
from msgspec.structs import replace

from supervisor.domain.catalog import Catalog, Launch, Listener, MountSpec, Policies, ReloadPolicy
from supervisor.domain.errors import TargetUnfit
from supervisor.domain.events import Reload, Start, Stop
from supervisor.domain.memory import StoppedBy
from supervisor.domain.names import ROOT, MountKey
from supervisor.domain.plan import ByMounts
from supervisor.engine.reload import Options

WATCHED = Policies(reload=ReloadPolicy(watch=10))


def listening(launch: Launch, address: str) -> Launch:
    return replace(launch, listen=(Listener("stream", address, "listen0"),))


ONE, TWO = listening(V1, "/1"), listening(V2, "/2")


@pytest.fixture
async def bench() -> Any:
    async with keeping() as tasks:
        yield Bench(tasks, policies=WATCHED)


async def ready(bench: Bench) -> None:
    bench.actor.post(Start(ONE))
    await bench.clock.advance(100)


async def test_the_new_address_is_kept_beside_the_old_one_until_it_has_proved_itself(bench: Bench) -> None:
    await ready(bench)

    bench.actor.post(Reload(TWO, "r1"))
    await bench.clock.advance(9)
    assert bench.listeners.kept == [{"/1"}, {"/1", "/2"}]
    await bench.clock.advance(2)

    assert bench.listeners.kept[2:] == [{"/2"}]


async def test_after_a_rollback_only_the_old_address_is_kept(bench: Bench) -> None:
    await ready(bench)
    bench.processes.scripts["v2"] = Script(never_ready="broken")

    bench.actor.post(Reload(TWO, "r1"))
    await settle()

    assert bench.listeners.kept[-1] == {"/1"}


async def test_who_hears_that_a_mount_is_stopped_is_refused_from_then_on(bench: Bench) -> None:
    await ready(bench)
    heard = bench.asked(Stop("stop:1", StoppedBy("alice", 1.0)))
    heard.add_done_callback(lambda _: bench.listeners.kept.append({"answered"}))

    await heard
    await settle()

    assert bench.listeners.kept == [{"/1"}, set(), {"answered"}]


async def test_a_crash_closes_nothing(bench: Bench) -> None:
    await ready(bench)

    bench.processes.living()[0].exit(1)
    await bench.clock.advance(100)

    assert bench.listeners.kept == [{"/1"}]


def catalog(**mounts: Launch) -> Catalog:
    specs: dict[MountKey, MountSpec] = {
        spec.key: spec for name, launch in mounts.items() for spec in [a_spec(f"auth/{name}", launch)]
    }
    whole = a_catalog("auth/a")
    return Catalog(whole.plugins, specs, whole.namespaces)


async def test_what_a_reload_needs_is_reserved_before_it_begins_and_released_at_its_end(house: House) -> None:
    await house.begun(catalog(a=ONE))
    house.file.says = catalog(a=TWO)
    house.processes.gate = asyncio.Event()

    ticket = await house.node.reload(ByMounts(("auth/a",)), ROOT, PLAIN, ALICE, "r1")
    assert house.listeners.reserved == {"r1": {a_key("auth/a"): {"/2"}}}
    house.processes.gate.set()
    await ticket.wait(1)

    assert house.listeners.reserved == {"r1": {}}
    assert house.listeners.open == {"/2"}


async def test_of_a_reload_that_halts_nothing_stays_reserved(house: House) -> None:
    await house.begun(catalog(a=ONE, b=V1))
    house.file.says = catalog(a=listening(V2, "/3"), b=TWO)
    house.processes.scripts["v2"] = Script(never_ready="broken")

    ticket = await house.node.reload(ByMounts(("auth/a", "auth/b")), ROOT, Options(parallel=1), ALICE, "r1")
    await ticket.wait(1)

    assert [row.result for row in ticket.report().mounts] == ["rolled_back", "skipped"]
    assert house.listeners.reserved == {"r1": {}}
    assert house.listeners.open == set()


@pytest.mark.parametrize("options", [Options(dry_run=True), Options(partial=True, dry_run=True)])
async def test_a_dry_run_reserves_nothing(house: House, options: Options) -> None:
    await house.begun(catalog(a=ONE))
    house.file.says = catalog(a=TWO)

    await house.node.reload(ByMounts(("auth/a",)), ROOT, options, ALICE, "r1")

    assert house.listeners.reserved == {}


async def test_what_somebody_else_has_refuses_an_apply_and_touches_nothing(house: House) -> None:
    await house.begun(catalog(a=ONE, b=V1))
    house.file.says = catalog(a=TWO, b=V2)
    house.listeners.taken.add("/2")

    with pytest.raises(TargetUnfit, match="cannot run auth/a/ in root: /2"):
        await house.node.apply(ROOT, PLAIN, ALICE, "r1")

    assert house.processes.did == []
    assert not house.listeners.reserved.get("r1")
