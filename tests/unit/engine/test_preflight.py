"""Before the first kill: every fault of every mount that would be started, and of no other."""

from dataclasses import replace

import pytest
from engine_fakes import V1, V2, FakeBinaries, FakeClock, FakeListeners, FakeProcesses, a_key, a_spec
from msgspec import structs

from supervisor.domain.catalog import Listener
from supervisor.domain.errors import TargetUnfit, Unavailable
from supervisor.engine.preflight import Preflight
from supervisor.engine.reload import Job


@pytest.fixture
def binaries() -> FakeBinaries:
    return FakeBinaries()


@pytest.fixture
def processes() -> FakeProcesses:
    return FakeProcesses(FakeClock())


@pytest.fixture
def listeners() -> FakeListeners:
    return FakeListeners()


@pytest.fixture
def preflight(binaries: FakeBinaries, listeners: FakeListeners, processes: FakeProcesses) -> Preflight:
    return Preflight(binaries, listeners, processes)


A = Job(a_key("auth/a"), "reload", "auth/mock", a_spec("auth/a", V1, line=1))
B = Job(a_key("auth/b"), "start", "auth/mock", a_spec("auth/b", V2, line=2))


async def test_all_faults_are_told_at_once_each_at_its_mount(
    preflight: Preflight, binaries: FakeBinaries, processes: FakeProcesses
) -> None:
    processes.unsupported_versions["v1"] = "no cgroups here"
    binaries.unfit[V2.command] = "it does not exist"

    with pytest.raises(TargetUnfit) as caught:
        await preflight.fit([A, B], partial=False)

    assert str(caught.value).splitlines() == [
        "catalog.yaml:1:3: cannot run auth/mock v1 (/bin/mock-v1) for auth/a/ in root: no cgroups here",
        "catalog.yaml:2:3: cannot run auth/b/ in root: it does not exist",
    ]


@pytest.mark.parametrize("partial", [False, True])
async def test_where_nothing_could_be_started_nothing_is_stopped(
    preflight: Preflight, processes: FakeProcesses, *, partial: bool
) -> None:
    processes.impeded = "cannot write to /run/plugind: Read-only file system"

    with pytest.raises(
        Unavailable, match=r"cannot start anything now: cannot write to /run/plugind: .* nothing was"
    ):
        await preflight.fit([A, B], partial=partial)


async def test_what_is_fit_goes_through_as_it_is(preflight: Preflight, binaries: FakeBinaries) -> None:
    assert await preflight.fit([A, B], partial=False) == [A, B]
    assert await preflight.fit([A, B], partial=True) == [A, B]
    assert sorted(binaries.verified) == [("v1",), ("v1", "v2"), ("v2",)]


@pytest.mark.parametrize("partial", [False, True])
async def test_what_starts_nothing_needs_no_file(
    preflight: Preflight, binaries: FakeBinaries, *, partial: bool
) -> None:
    binaries.unfit[V1.command] = "it does not exist"
    jobs = [
        replace(A, held_by="bob"),
        replace(A, verb="keep"),
        replace(A, verb="settings"),
        replace(A, verb="stop", spec=None),
    ]

    assert await preflight.fit(jobs, partial=partial) == jobs


L = structs.replace(V1, listen=(Listener("stream", "127.0.0.1:7", "listen0"),))
C = Job(a_key("auth/c"), "reload", "auth/mock", a_spec("auth/c", L, line=3))


async def test_listeners_are_reserved_last_and_for_somebody_only(
    preflight: Preflight, binaries: FakeBinaries, listeners: FakeListeners
) -> None:
    await preflight.fit([C], partial=False)
    assert listeners.reserved == {}
    binaries.unfit[V2.command] = "it does not exist"
    with pytest.raises(TargetUnfit):
        await preflight.fit([B, C], partial=False, owner="r1")
    assert listeners.reserved == {}

    await preflight.fit([C], partial=False, owner="r1")

    assert listeners.reserved == {"r1": {a_key("auth/c"): {"127.0.0.1:7"}}}


async def test_an_address_that_is_taken_is_a_fault_beside_the_others(
    preflight: Preflight, binaries: FakeBinaries, listeners: FakeListeners
) -> None:
    listeners.taken.add("127.0.0.1:7")
    binaries.unfit[V2.command] = "it does not exist"

    with pytest.raises(TargetUnfit) as caught:
        await preflight.fit([B, C], partial=False, owner="r1")
    first, second = await preflight.fit([A, C], partial=True, owner="r1")

    assert [fault.line for fault in caught.value.faults] == [2, 3]
    assert (first.refusal, second.refusal) == (
        None,
        "catalog.yaml:3:3: cannot run auth/c/ in root: 127.0.0.1:7",
    )


async def test_with_partial_each_job_carries_its_own_reason(
    preflight: Preflight, binaries: FakeBinaries
) -> None:
    binaries.unfit[V2.command] = "it does not exist"

    fit, unfit = await preflight.fit([A, B], partial=True)

    assert fit.refusal is None
    assert unfit.refusal == "catalog.yaml:2:3: cannot run auth/b/ in root: it does not exist"
