"""Kind `command`: exit status 0 is ready; running it is the spawner's."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from host_probing import a_subject, is_ready_within

from supervisor.domain.catalog import Probe
from supervisor.domain.errors import Cannot, SpawnRefused
from supervisor.host.probes import prepare


class Commands:
    """Stands for the spawner: gives one status after the other, the last one again and again."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.ran: list[tuple[str, ...]] = []

    async def __call__(self, argv: Sequence[str]) -> int:
        self.ran.append(tuple(argv))
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


async def test_it_is_ready_at_the_first_status_of_0(tmp_path: Path) -> None:
    run = Commands(1, 2, 0)
    probe = prepare(
        Probe("command", command=("/bin/ok", "$TMPDIR/s"), interval=0.001), str(tmp_path), run=run
    )

    assert await is_ready_within(probe, a_subject(tmp_path))
    assert run.ran == [("/bin/ok", f"{tmp_path}/s")] * 3
    await probe.check(a_subject(tmp_path))
    probe.close()


@pytest.mark.parametrize(("status", "why"), [(7, "exit status 7"), (-9, "ended by signal 9")])
async def test_another_status_is_the_reason(tmp_path: Path, status: int, why: str) -> None:
    probe = prepare(Probe("command", command=("/bin/no",)), str(tmp_path), run=Commands(status))

    with pytest.raises(Cannot, match=f"^command /bin/no: {why}$"):
        await probe.check(a_subject(tmp_path))


async def test_a_command_that_cannot_be_started_is_a_reason_too(tmp_path: Path) -> None:
    async def run(argv: Sequence[str]) -> int:
        raise SpawnRefused(f"cannot run {argv[0]}: No such file or directory")

    probe = prepare(Probe("command", command=("/bin/nowhere",), interval=0.001), str(tmp_path), run=run)

    assert not await is_ready_within(probe, a_subject(tmp_path), 0.02)
    assert probe.why_not() == "command /bin/nowhere: cannot run /bin/nowhere: No such file or directory"


async def test_a_command_that_hangs_is_cancelled_after_the_timeout(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def run(_: Sequence[str]) -> int:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return 0

    probe = prepare(Probe("command", command=("/bin/hang",), timeout=0.02), str(tmp_path), run=run)

    with pytest.raises(Cannot, match="command /bin/hang: no answer in 20ms"):
        await probe.check(a_subject(tmp_path))
    assert ended.is_set()


def test_without_a_command_it_is_refused_before_the_spawn(tmp_path: Path) -> None:
    with pytest.raises(Cannot, match="no command is given"):
        prepare(Probe("command"), str(tmp_path), run=Commands(0))
    with pytest.raises(Cannot, match="no command is given"):
        prepare(Probe("command", command=("/bin/true",)), str(tmp_path))
