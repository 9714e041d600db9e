"""Start and reload of 100, 1,000 and 10,000 mounts of /bin/sleep: what one mount costs must stay flat.

The target: from the smallest to the largest the time per mount grows by no more than 1.3. Small ones are
measured several times, and the median counts. As root the limit of descriptors is raised, of which a mount
takes three; where the machine cannot hold 10,000, that is said, and as many are taken as it can.
"""

import argparse
import os
import resource
import statistics
from contextlib import suppress
from pathlib import Path

from bench_reload import plugind

COUNTS = (100, 1_000, 10_000)
TARGET = 1.3
EACH = 3
"""Descriptors that a mount takes."""
OTHERS = 500
"""Descriptors, or processes, that are there for everything else."""


def room() -> tuple[int, str]:
    """How many mounts this machine can hold, and what sets that limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if os.geteuid() == 0:
        with suppress(ValueError, OSError):
            wanted = EACH * max(COUNTS) + 2 * OTHERS
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, max(hard, wanted)))
    limits = {"RLIMIT_NOFILE": (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - OTHERS) // EACH}
    others = sum(1 for entry in Path("/proc").iterdir() if entry.name.isdigit()) + OTHERS
    limits["pid_max"] = number_in(Path("/proc/sys/kernel/pid_max")) - others
    limits["threads-max"] = number_in(Path("/proc/sys/kernel/threads-max")) - others
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if os.geteuid() != 0 and processes != resource.RLIM_INFINITY:
        limits["RLIMIT_NPROC"] = processes - OTHERS
    for name in ("pids", ""):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == name:
                base = Path("/sys/fs/cgroup", name) if name else Path("/sys/fs/cgroup")
                limits[f"pids.max of {path}"] = number_in(Path(f"{base}{path.rstrip('/')}/pids.max")) - OTHERS
    narrowest = min(limits, key=limits.__getitem__)
    return limits[narrowest], narrowest


def number_in(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # there is none, or it is "max"
        return 1 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mounts", type=int, nargs="+", default=COUNTS)
    asked = parser.parse_args()
    most, why = room()
    counts = sorted({min(count, most) for count in asked.mounts})
    if most < max(asked.mounts):
        print(f"this machine holds {most} mounts only ({why}), not {max(asked.mounts)}")
    each: dict[str, list[float]] = {
        "start": [],
        "reload": [],
        "CPU of the start": [],
        "CPU of the reload": [],
    }
    for count in counts:
        measured = [plugind(count) for _ in range(max(1, min(5, 2_000 // count)))]
        line = []
        for place, name in enumerate(each):
            each[name].append(statistics.median(times[place] for times in measured) / count)
            line.append(f"{name} {each[name][-1] * 1000:.2f} ms")
        print(f"{count:6} mounts, each: {', '.join(line)}", flush=True)
    for name, times in each.items():
        growth = times[-1] / times[0]
        verdict = (
            f", target {TARGET}: {'kept' if growth <= TARGET else 'MISSED'}" if "CPU" not in name else ""
        )
        print(f"{name}: one of {counts[-1]} took {growth:.2f} of what one of {counts[0]} took{verdict}")


if __name__ == "__main__":
    main()
