"""Kind `exec`, and what all kinds have in common."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import get_args

import pytest
from host_probing import a_subject, is_ready_within

from supervisor.domain.catalog import Liveness, Probe, ReadyKind
from supervisor.domain.errors import Cannot
from supervisor.host.probes import PROBES, prepare, prepare_both
from supervisor.host.probes.kind import pause


def steps_of(work: Coroutine[object, None, None]) -> int:
    """How often `work` gives way before it is done."""
    for steps in range(100):
        try:
            work.send(None)
        except StopIteration:
            return steps
    raise AssertionError("it is not done")


def test_every_kind_of_the_catalog_has_its_place() -> None:
    assert set(PROBES) == set(get_args(ReadyKind))


def test_without_settle_it_is_ready_without_giving_way_once(tmp_path: Path) -> None:
    probe = prepare(Probe(), str(tmp_path))

    assert steps_of(probe.wait_ready(a_subject(tmp_path))) == 0
    assert steps_of(probe.check(a_subject(tmp_path))) == 0
    probe.attend(a_subject(tmp_path))
    assert (dict(probe.env), probe.status) == ({}, "")
    probe.close()
    probe.close()


async def test_with_settle_it_is_ready_only_after_that_time(tmp_path: Path) -> None:
    probe = prepare(Probe(settle=0.05), str(tmp_path))
    loop = asyncio.get_running_loop()

    before = loop.time()
    assert not await is_ready_within(probe, a_subject(tmp_path), 0.01)
    assert await is_ready_within(probe, a_subject(tmp_path))
    assert loop.time() - before >= 0.05
    assert probe.why_not() == "exec: not yet alive for 50ms"


async def test_a_pause_that_is_cancelled_leaves_no_timer() -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(pause(3600))
        loop.call_soon(task.cancel)

    assert task.cancelled()
    assert all(timer.cancelled() for timer in loop._scheduled)  # type: ignore[attr-defined]


def test_a_handshake_is_refused_clearly(tmp_path: Path) -> None:
    with pytest.raises(Cannot, match="handshake: it is not supported by this version yet"):
        prepare(Probe("handshake"), str(tmp_path))


def test_ready_and_liveness_by_notify_share_one_socket(tmp_path: Path) -> None:
    probe, liveness = prepare_both(Probe("notify"), Liveness(Probe("notify"), interval=30), str(tmp_path))

    assert probe is liveness
    assert dict(probe.env) == {"NOTIFY_SOCKET": f"{tmp_path}/notify", "WATCHDOG_USEC": "30000000"}
    probe.close()


def test_two_kinds_are_two_probes_and_none_is_none(tmp_path: Path) -> None:
    probe, liveness = prepare_both(Probe(), Liveness(Probe("tcp", address="127.0.0.1:1")), str(tmp_path))
    assert liveness is not None
    assert liveness is not probe
    assert prepare_both(Probe(), None, str(tmp_path))[1] is None


def test_a_liveness_that_cannot_work_leaves_nothing_of_the_ready_probe(tmp_path: Path) -> None:
    with pytest.raises(Cannot):
        prepare_both(Probe("notify"), Liveness(Probe("handshake")), str(tmp_path))

    assert list(tmp_path.iterdir()) == []


async def test_a_liveness_by_notify_alone_makes_the_socket_too(tmp_path: Path) -> None:
    _, liveness = prepare_both(Probe(), Liveness(Probe("notify"), interval=5), str(tmp_path))
    assert liveness is not None

    await liveness.check(a_subject(tmp_path))

    assert set(liveness.env) == {"NOTIFY_SOCKET", "WATCHDOG_USEC"}
    liveness.close()
