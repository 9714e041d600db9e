"""The end of a tree that forks faster than it is listed (PT5), without its luck."""

import signal
import subprocess
from collections.abc import Iterator

import pytest

from supervisor.domain.names import InstanceId
from supervisor.host.orphans import Mark
from supervisor.host.processes import Handle
from supervisor.host.trees import Trees

MARK = Mark(InstanceId("aa-1"), 0, 0)


class Forking:
    """Stands for Orphans: each look finds one more, as long as there are some."""

    def __init__(self, pids: list[int], children: list[subprocess.Popen[bytes]]) -> None:
        self._pids, self._children, self._looks = pids, children, 0

    async def of(self, _: Mark) -> list[int]:
        self._looks += 1
        return [
            pid
            for pid, child in zip(self._pids[: self._looks], self._children, strict=False)
            if child.poll() is None
        ]


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[bytes]]]:
    found = [subprocess.Popen(["sleep", "1000"]) for _ in range(3)]
    yield found
    for child in found:
        child.kill()
        child.wait()


async def test_all_are_stopped_before_the_first_is_killed(
    children: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each that is killed makes room for another: what is stopped forks no more."""
    sent: list[tuple[int, int]] = []
    send = Handle.send

    def noting(handle: Handle, number: int) -> bool:
        sent.append((number, handle.pid))
        return send(handle, number)

    monkeypatch.setattr(Handle, "send", noting)
    pids = [child.pid for child in children]

    assert await Trees(Forking(pids, children)).end_members(MARK, 0.0)  # type: ignore[arg-type]

    stops, kills = [
        [pid for number, pid in sent if number == kind] for kind in (signal.SIGSTOP, signal.SIGKILL)
    ]
    assert sorted(stops) == sorted(kills) == sorted(pids)
    assert [number for number, _ in sent] == [signal.SIGSTOP] * 3 + [signal.SIGKILL] * 3
