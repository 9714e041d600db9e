"""What plugind costs while nothing happens, with 1,000 mounts of /bin/sleep.

CPU under 0.5 % of a core; no wakeups but timers that are due, which are two: a look at the socket every two
seconds, and one at the catalog by a worker thread every five. Memory that counts as plugind's own (PSS) under
50 MB and 15 KB a mount. A wakeup is a voluntary context switch of one of its threads.
"""

import argparse
import os
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from bench_reload import BIN, PATIENCE, Ready, cpu, prepare

MOST_CPU = 0.005
MOST_MEMORY, MOST_EACH = 50_000_000, 15_000
DUE = {"look at the socket": (2.0, 2), "look at the catalog": (5.0, 6)}
"""Timers: seconds between two, and how often threads are woken for one at most."""
SETTLED = 8.0
"""Seconds after which what a start leaves to be done later is done."""


def wakeups(pid: int) -> dict[str, int]:
    """Voluntary context switches by thread."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                found[f"{name} {task.name}"] = int(line.split()[1])
    return found


def pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this kernel tells no PSS")


def said(name: str, figure: str, target: str, *, is_kept: bool) -> None:
    print(f"{name}: {figure}, target {target}: {'kept' if is_kept else 'MISSED'}")


def idle(daemon: "subprocess.Popen[str]", mounts: int, seconds: float) -> None:
    assert daemon.stderr is not None
    ready = Ready(daemon.stderr, mounts)
    assert ready.all.wait(PATIENCE)
    threading.Event().wait(SETTLED)
    used, before, began = cpu(daemon.pid), wakeups(daemon.pid), time.perf_counter()
    threading.Event().wait(seconds)
    used, passed = cpu(daemon.pid) - used, time.perf_counter() - began
    woken = {name: count - before.get(name, 0) for name, count in wakeups(daemon.pid).items()}
    due = sum((int(passed / seconds) + 1) * each for seconds, each in DUE.values())
    told = "by thread " + ", ".join(str(count) for count in woken.values() if count)
    print(f"{mounts} mounts, nothing happens for {passed:.0f} s")
    said("CPU", f"{used / passed:.2%} of a core", f"{MOST_CPU:.1%}", is_kept=used / passed < MOST_CPU)
    count = sum(woken.values())
    said("wakeups", f"{count} ({told})", f"{due} for what is due", is_kept=count <= due)
    memory, most = pss(daemon.pid), MOST_MEMORY + MOST_EACH * mounts
    said("PSS", f"{memory / 1e6:.1f} MB", f"{most / 1e6:.1f} MB", is_kept=memory < most)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mounts", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20.0)
    asked = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if asked.mounts * 3 + 500 > hard:
        raise SystemExit(f"{asked.mounts} mounts need more descriptors than {hard}")
    folder = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="bench-"))
    folder.chmod(0o755)
    command = [BIN / "plugind", "--config", prepare(folder, asked.mounts)]
    daemon = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        idle(daemon, asked.mounts, asked.seconds)
    finally:
        daemon.terminate()
        daemon.wait(PATIENCE)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
