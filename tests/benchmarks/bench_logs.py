"""What capturing a plugin's output costs the plugin, and plugind.

A writer puts 200 MB of 100-byte lines into a file itself, and then through the FIFO of a mount, on the same
disk: with one write(2) per line, as a plugin that logs does, and in blocks of 64 KiB, as fast as can be.
Printed are its seconds for each, their ratio, and plugind's own CPU time. Run: python
tests/benchmarks/bench_logs.py [FOLDER]
"""

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from supervisor.domain.catalog import LogPolicy
from supervisor.domain.names import ROOT, MountKey
from supervisor.host.logs import Logs

SIZE = 200_000_000
LINE = (
    b"2026-01-01T00:00:00.000Z info request served path=/v1/secret/data/app status=200 took=1.234ms id=%07d\n"
)
ROUNDS = 5


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def write(source: Path, block: int, to: int) -> float:
    """Seconds that the writer takes."""
    began = time.monotonic()
    subprocess.run(["dd", f"if={source}", f"bs={block}", "status=none"], stdout=to, check=True)
    return time.monotonic() - began


async def captured(folder: Path, source: Path, block: int) -> tuple[float, float]:
    """Seconds of the writer, CPU seconds of ours until all is in the files."""
    logs = Logs(folder / "run", folder / "log", LogPolicy())
    logs.start()
    key = MountKey(ROOT, "auth/mock")
    fd = os.open(logs.open(key), os.O_RDWR)
    await logs.drain(key)
    before = cpu()
    took = write(source, block, fd)
    await logs.drain(key)
    used = cpu() - before
    os.close(fd)
    logs.close(key)
    logs.stop()
    return took, used


def main() -> None:
    base = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as memory, tempfile.TemporaryDirectory(dir=base) as name:
        source = Path(memory) / "lines"
        with source.open("wb") as file:
            file.writelines(LINE[:92] + b"%07d\n" % number for number in range(SIZE // 100))
        for block, words in ((100, "one write per line"), (64 << 10, "blocks of 64 KiB")):
            direct, through, used = [], [], []
            for number in range(ROUNDS):
                folder = Path(name) / f"{block}-{number}"
                folder.mkdir()
                with (folder / "direct").open("wb") as file:
                    direct.append(write(source, block, file.fileno()))
                took, ours = asyncio.run(captured(folder, source, block))
                through.append(took)
                used.append(ours)
                subprocess.run(["rm", "-r", folder], check=True)
            file_s, fifo_s, cpu_s = (sorted(times)[ROUNDS // 2] for times in (direct, through, used))
            print(
                f"{words:20} to a file {file_s:.2f} s, through plugind {fifo_s:.2f} s "
                f"(ratio {fifo_s / file_s:.2f}), plugind's CPU {cpu_s:.2f} s"
            )


if __name__ == "__main__":
    main()
