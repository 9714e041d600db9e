"""plugind dies, or is refused, at system call 1, 2, 3 … of a scenario; then the processes are asked.

    python tests/integration/crash_points.py [--scenario NAME]... [--only KIND]... [--most N] [--errors N]
                                             [--seed S]... [--jobs J] [--at N [--variant NAME]]

A point is a scenario, a variant of its settings, and the number of a system call, counted over all threads
from the begin of the scenario: there the daemon is killed (`kill`), or the call fails with ENOSPC, EMFILE,
ENOMEM, EAGAIN or EIO, where it can (`injected.py`), and at every fourth point the next ones with it. How
many there are is found by a run in which nothing happens. After a kill the next plugind starts; after an
error the same one has to come to rights by itself, and then the next one, after a kill. Every promise is
looked at by the oracles of `stage.py` and `points.py`. `--most` and `--errors` are how many kills and how
many errors of each scenario are tried; 0, the default: all; -1: none. Several seeds choose a part each.

Prints points, hits and violations of each scenario and kind; fewer than 1,000 points for reload, or less
than seven hits for ten of them, is a failure of this driver, and its exit status.
"""

import argparse
import itertools
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Sequence
from typing import Final, TypeVar

import injected
from points import Point, Tally, name_of, one_point
from scenarios import SCENARIOS, VARIANTS, VARIED, acted
from stage import Broken, Stage
from tracer import Aim

LEAST: Final = 1000
"""Points of reload; fewer would be a driver that does not do its work."""
KINDS: Final = {name_of(number): number for number in (0, *injected.RULES)}
T = TypeVar("T")
Share = tuple[str, list[Point]]
"""A variant, and points of it."""


def counted(scenario: str, variant: str) -> dict[str, int]:
    """System calls of the scenario by what can be done to them, in runs in which nothing is.

    Of all, those that are there in both runs: the first of a stage may have ten times as many (rotate:
    1,180, else about 100).
    """
    stage = Stage(*VARIANTS[variant])
    try:
        stage.up()
        runs = [acted(stage, scenario, Aim(), 0) for _ in range(2)]
    finally:
        stage.down()
    found: dict[str, int] = {"kill": min(run["count"] for run in runs)}
    for kind, number in KINDS.items():
        if number:
            found[kind] = min(run["can_fail"].get(str(number), 0) for run in runs)
    return found


def tried(scenario: str, share: Share) -> Tally:
    """Each of these points, one after the other over the same folder; a new one after a violation."""
    variant, points = share
    tally = Tally()
    begun = time.monotonic()
    waiting = deque(points)
    while waiting:
        stage = Stage(*VARIANTS[variant])
        left: list[str] = []
        try:
            stage.up()
            while waiting:
                one_point(stage, scenario, waiting.popleft(), tally)
        except Broken:
            pass  # it is in the tally
        except Exception:  # noqa: BLE001 - one bad point costs no other
            tally.violations.append(f"{scenario}: {traceback.format_exc()}")
        else:
            left = [f"{scenario}: {what}" for what in stage.left_behind()]
        finally:
            stage.down()
        tally.violations += left
    tally.seconds = time.monotonic() - begun
    return tally


def chosen(scenario: str, asked: argparse.Namespace) -> tuple[dict[str, int], list[Share]]:
    """How many points of each kind a scenario has; and by variant all, or as many as were asked for."""
    available: Counter[str] = Counter()
    points: dict[str, list[tuple[str, Point]]] = {}
    for variant in VARIANTS if scenario in VARIED else [""]:
        for kind, count in counted(scenario, variant).items():
            available[kind] += count
            numbers = range(1, count + 1)
            points.setdefault(kind, []).extend((variant, Point(at, KINDS[kind])) for at in numbers)
    kinds = asked.only or KINDS
    seeds = asked.seed or ["1"]
    some = sampled([points[kind] for kind in kinds if not KINDS[kind]], asked.most, scenario, seeds)
    some += sampled([points[kind] for kind in kinds if KINDS[kind]], asked.errors, scenario, seeds)
    by_variant: dict[str, list[Point]] = {}
    for variant, point in some:
        by_variant.setdefault(variant, []).append(point)
    return dict(available), list(by_variant.items())


def sampled(kinds: list[list[T]], most: int, scenario: str, seeds: Sequence[str]) -> list[T]:
    """All of them, or `most`, of each kind in turn and an equal part by each seed."""
    if most <= 0:
        return [] if most else [point for points in kinds for point in points]
    found: list[T] = []
    for at, seed in enumerate(seeds):
        by_seed = random.Random(f"{seed} {scenario}")  # noqa: S311 - to repeat a choice
        left = [by_seed.sample(points, len(points)) for points in kinds]
        by_seed.shuffle(left)
        turns = itertools.chain.from_iterable(itertools.zip_longest(*left))
        part = most * (at + 1) // len(seeds) - most * at // len(seeds)
        found += itertools.islice((point for point in turns if point is not None), part)
    return found


def in_parallel(scenario: str, shares: Sequence[Share]) -> Tally:
    """Each share in a process of its own."""
    total = Tally()
    readers = []
    for share in shares:
        reads, writes = os.pipe()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                os.close(reads)
                with os.fdopen(writes, "w") as stream:
                    json.dump(tried(scenario, share).plain(), stream)
                status = 0
            finally:
                os._exit(status)
        os.close(writes)
        readers.append((pid, reads))
    for pid, reads in readers:
        with os.fdopen(reads) as stream:
            text = stream.read()
        os.waitpid(pid, 0)
        if text:
            total.add(Tally(**json.loads(text)))
        else:
            total.violations.append(f"{scenario}: a worker of the driver died")
    return total


def run(scenario: str, asked: argparse.Namespace) -> Tally:
    if asked.at:
        points = [Point(asked.at, KINDS[kind]) for kind in asked.only or ["kill"]]
        available, by_variant = {}, [(asked.variant, points)]
    else:
        available, by_variant = chosen(scenario, asked)
    total = Tally(available)
    for variant, points in by_variant:
        jobs = range(min(asked.jobs, len(points)))
        total.add(in_parallel(scenario, [(variant, points[job :: asked.jobs]) for job in jobs]))
    return total


def told(scenario: str, tally: Tally) -> bool:
    """Print what came of a scenario; whether anything is bad, with plugind or with this driver."""
    tries = tally.points.total()
    line = f"{scenario}: {tally.points['kill']} of {tally.available.get('kill', 0)} points, "
    line += f"{tally.hits['kill']} kills, {tally.bad['kill']} violations"
    for kind in sorted(tally.points - Counter(kill=tries)):
        line += f"; {kind} {tally.points[kind]} of {tally.available.get(kind, 0)}, {tally.hits[kind]} hits, "
        line += f"{tally.bad[kind]} violations"
    print(f"{line} ({tally.seconds / max(tries, 1):.2f} s each)", flush=True)
    for what in tally.violations:
        print(f"  {what}", flush=True)
    missed = tally.hits.total() < 0.7 * tries  # a run may have fewer calls than the one that was counted
    too_few = scenario == "reload" and 0 < tally.available.get("kill", 0) < LEAST
    if missed or too_few:
        print(f"  the driver failed: {tally.hits.total()} hits; {LEAST} points of reload are due")
    return missed or too_few or bool(tally.violations)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenario", action="append", choices=SCENARIOS)
    parser.add_argument("--only", action="append", choices=KINDS, help="kinds of points; all without it")
    parser.add_argument("--most", type=int, default=0, help="kills per scenario; 0: all, -1: none")
    parser.add_argument("--errors", type=int, default=0, help="errors per scenario; the same")
    parser.add_argument("--seed", action="append")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--at", type=int, help="this point only, to see it again")
    parser.add_argument("--variant", default="", choices=VARIANTS)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was begun is ended
    is_bad = [told(scenario, run(scenario, asked)) for scenario in asked.scenario or SCENARIOS]
    sys.exit(any(is_bad))


if __name__ == "__main__":
    main()
