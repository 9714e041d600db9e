"""Equal work for one plugind, and what it has in memory after each piece of it.

A piece is reloads of all mounts, a crash, a version that is rolled back and a file that is refused. What
plugind remembers on purpose (transitions, reports, what `why` shows) is bounded, and full after the first
pieces; of those after them, the last third may not find more memory in use than the first.
"""

import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from harness import Answer, is_alive, send
from soak_operations import Started
from stage import remove_cgroups

MOUNTS: Final = 8
BLOCK: Final = 4
"""Reloads in a piece."""
FULL: Final = 240
"""Reloads after which everything bounded is full."""
LEAST: Final = 80
"""Reloads that are measured."""
MOST_PER_RELOAD: Final = 1024
"""Bytes that plugind may grow by a reload."""
STEP: Final = 2 << 20
"""Bytes that come and go: a journal that is written afresh is in memory once."""
LOOSE: Final = 4
"""Descriptors of connections that are just being closed."""
SETTINGS: Final = "restart: {backoff: 1ms, max_backoff: 1ms, burst: 10000}"


class Violation(Exception):
    """A promise was not kept."""


def rss_of(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_in(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def equal_work(seconds: float) -> str:
    """Do it for so long, and so much of it that it tells something; what to print.

    Raises:
        Violation: It takes more and more memory.
    """
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    folder.chmod(0o755)
    plugind = Started(folder)
    try:
        sleeper = plugind.plugin("sleeper", "#!/bin/sh\nexec sleep 1000\n")
        versions = {"v1": (sleeper, []), "v2": (sleeper, ["2"]), "bad": (Path("/bin/false"), [])}
        mounts = {"root": {f"auth/m{number}": "{plugin: auth/mock}" for number in range(MOUNTS)}}
        plugind.write(versions, mounts, "v1", SETTINGS)
        plugind.begin()
        plugind.until(plugind.socket.exists)
        plugind.until(lambda: is_ready(plugind))
        taken, reloads = _pieces(plugind, time.monotonic() + seconds)
        if plugind.stop():
            raise Violation(f"plugind ended with {plugind.status}")
    finally:
        plugind.kill()
        for pid in plugind.living():
            send(pid)
        remove_cgroups(folder)
        shutil.rmtree(folder)
    return _judged(taken, reloads)


def _pieces(plugind: Started, until: float) -> tuple[list[int], int]:
    taken: list[int] = []
    reloads = 0
    _piece(plugind)
    opened = open_in(plugind.pid)
    while reloads < FULL + LEAST or time.monotonic() < until:
        _piece(plugind)
        reloads += BLOCK
        if reloads > FULL:
            taken.append(rss_of(plugind.pid))
    if open_in(plugind.pid) > opened + LOOSE:
        raise Violation(f"{open_in(plugind.pid)} descriptors after {reloads} reloads, {opened} before")
    return taken, reloads


def _piece(plugind: Started) -> None:
    pin = "v1"
    for number in range(BLOCK):
        plugind.edit(f"pin: {pin}", f"pin: {(pin := 'v1' if number % 2 else 'v2')}")
        _expect(plugind.reload(), 200)
    plugind.edit("pin: v1", "pin: bad")
    plugind.reload()  # it ends at once; whether before or after the answer is a matter of moments
    plugind.until(lambda: is_ready(plugind))
    plugind.edit("pin: bad", "pni: v1")
    _expect(plugind.reload(), 400)
    plugind.edit("pni: v1", "pin: v1")
    victim = plugind.rows()["root:auth/m1"]["pid"]
    send(victim)
    plugind.until(lambda: not is_alive(victim) and is_ready(plugind))


def is_ready(plugind: Started) -> bool:
    return all(row["state"] == "ready" and row["version"] != "bad" for row in plugind.rows().values())


def _expect(answer: Answer, status: int) -> None:
    if answer.status != status:
        raise Violation(f"{answer.status}, not {status}: {answer.body}")


def _judged(taken: list[int], reloads: int) -> str:
    third = len(taken) // 3
    first, last = statistics.median(taken[:third]), statistics.median(taken[-third:])
    measured = (len(taken) - third) * BLOCK
    told = (
        f"memory: {reloads} reloads of {MOUNTS} mounts by one plugind; its RSS was {first / 1024:.0f} KiB, "
        f"and over {measured} of them it went up by {(last - first) / 1024:.0f} KiB, "
        f"{(last - first) / measured:.0f} bytes a reload"
    )
    if last - first > measured * MOST_PER_RELOAD + STEP:
        raise Violation(told)
    return told
