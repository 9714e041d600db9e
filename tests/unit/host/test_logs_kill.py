"""plugind may be killed at any instruction: what was written is written once, and the rest is still there."""

import asyncio
import multiprocessing
import multiprocessing.connection
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from host_probing import entered

from supervisor.domain.catalog import LogPolicy
from supervisor.domain.names import ROOT, MountKey
from supervisor.host.logfifo import Fifo
from supervisor.host.logs import Logs

KEY = MountKey(ROOT, "auth/mock")
POLICY = LogPolicy(max_size=2_000_000, keep=10_000)
KILLS = 30
WRITER = """
import os, select
n = 0
while not select.select([0], [], [], 0)[0]:
    data = memoryview(b"".join(b"%d\\n".rjust(998, b".") % i for i in range(n, n + 60)))
    n += 60
    while data:
        data = data[os.write(1, data):]
os.write(2, b"%d" % n)
"""


def pump(folder: Path, started: multiprocessing.connection.Connection) -> None:
    """A daemon: captures for ever, and says when it has begun."""

    async def run() -> None:
        logs = Logs(folder / "run", folder / "log", POLICY)
        logs.start()
        logs.open(KEY)
        await logs.drain(KEY)
        started.send_bytes(b".")
        await asyncio.Event().wait()

    asyncio.run(run())


def lines_of(text: bytes) -> Iterator[int]:
    for line in text.splitlines():
        yield int(line.lstrip(b"."))


def test_after_each_of_many_kills_the_next_daemon_goes_on_without_gap_or_repeat(tmp_path: Path) -> None:
    chance = random.SystemRandom()  # which instruction is hit cannot be repeated anyway
    processes = multiprocessing.get_context("fork")
    fifo = Fifo.opened(tmp_path / "run" / "root" / "auth+mock.fifo")
    with subprocess.Popen(
        [sys.executable, "-c", WRITER],
        stdin=subprocess.PIPE,
        stdout=entered(fifo.door),
        stderr=subprocess.PIPE,
    ) as writer:
        fifo.close()
        for _ in range(KILLS):
            here, there = processes.Pipe()
            daemon = processes.Process(target=pump, args=(tmp_path, there))
            daemon.start()
            assert here.poll(10)
            threading.Event().wait(chance.uniform(0, 0.01))  # any instruction after the first ones
            daemon.kill()
            daemon.join()
            daemon.close()
            here.close()
            there.close()

        logs = Logs(tmp_path / "run", tmp_path / "log", POLICY)
        logs.start()
        logs.open(KEY)
        _, last = writer.communicate(b"stop\n")
        logs.stop()

    files = sorted((tmp_path / "log" / "root").glob("*.log.[0-9]*"), key=lambda path: -int(path.suffix[1:]))
    expected = 0
    for path in (*files, tmp_path / "log" / "root" / "auth+mock.log"):
        text = path.read_bytes()
        assert text.endswith(b"\n")
        for number in lines_of(text):
            assert number == expected
            expected += 1
        path.unlink()
    assert expected == int(last)
    assert len(files) > 1
