"""What the tests of the ready kinds share."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from supervisor.host.probes import ReadyProbe, Subject


def a_subject(
    folder: Path, *, belongs: Callable[[int], bool] = lambda _: True, pid: int = 2**22 + 1
) -> Subject:
    """An instance of our own uid; its pid is beyond what the kernel gives out."""
    return Subject(pid, str(folder), os.geteuid(), belongs)


def descriptors() -> set[str]:
    """What this process holds open, by name."""
    return {f"{path.name} {path.readlink()}" for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}


_ENTERED: list[int] = []


def entered(door: str) -> int:
    """What a plugin has as its stdout, until `leave_all`."""
    _ENTERED.append(os.open(door, os.O_RDWR))
    return _ENTERED[-1]


def leave_all() -> None:
    while _ENTERED:
        os.close(_ENTERED.pop())


async def is_ready_within(probe: ReadyProbe, subject: Subject, seconds: float = 10) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await probe.wait_ready(subject)
    except TimeoutError:
        return False
    return True
