"""plugind may be killed at any instruction: what was written is written once, and the rest is still there."""

import asyncio
import multiprocessing
import multiprocessing.connection
import random
import subprocess
import sys
from pathlib import Path

from supervisor.domain.catalog import LogPolicy
from supervisor.domain.names import ROOT, MountKey
from supervisor.host.logfifo import Fifo
from supervisor.host.logs import Logs

KEY = MountKey(ROOT, "auth/mock")
POLICY = LogPolicy(max_size=300_000, keep=1000)
KILLS = 30
WRITER = """
import os, select
n = 0
while not select.select([0], [], [], 0)[0]:
    for _ in range(100):
        n += 1
        os.write(1, b"%d\\n" % n)
os.write(2, b"%d" % n)
"""


def pump(folder: Path, rounds: int, done: multiprocessing.connection.Connection) -> None:
    """A daemon: captures, and says so after `rounds` drains; never stops by itself."""

    async def run() -> None:
        logs = Logs(folder / "run", folder / "log", POLICY)
        logs.start()
        logs.open(KEY)
        number = 0
        while True:
            await logs.drain(KEY)
            number += 1
            if number == rounds:
                done.send_bytes(b".")

    asyncio.run(run())


def test_after_each_of_many_kills_the_next_daemon_goes_on_without_gap_or_repeat(tmp_path: Path) -> None:
    chance = random.SystemRandom()  # which instruction it hits cannot be repeated anyway
    processes = multiprocessing.get_context("fork")
    fifo = Fifo.opened(tmp_path / "run" / "root" / "auth+mock.fifo")
    with subprocess.Popen(
        [sys.executable, "-c", WRITER],
        stdin=subprocess.PIPE,
        stdout=fifo.refreshed(),
        stderr=subprocess.PIPE,
    ) as writer:
        fifo.close()
        for _ in range(KILLS):
            here, there = processes.Pipe()
            daemon = processes.Process(target=pump, args=(tmp_path, chance.randrange(1, 40), there))
            daemon.start()
            assert here.poll(10)
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
    data = [path.read_bytes() for path in (*files, tmp_path / "log" / "root" / "auth+mock.log")]
    count = int(last)
    assert count > 10_000
    assert len(files) > 1
    assert b"".join(data) == b"".join(b"%d\n" % n for n in range(1, count + 1))
    assert all(text.endswith(b"\n") for text in data[:-1])
