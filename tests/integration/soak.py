"""Minutes of crashes, commands, edits and deaths of the daemon; then what runs is what should run.

    python tests/integration/soak.py [--seconds N] [--seed N] [--variant NAME]

First operations of `soak_operations.py` in the order of the seed. After each one the processes themselves
are asked (their locks, environments and cgroups): exactly what the model of `soak_model.py` allows runs.
After each twenty the node is brought to one state, in which descriptors, threads, zombies, cgroups, FIFOs,
temporary files and the lines of a log are looked at; at the end nothing is left. Then comes the equal work
of `soak_memory.py`, by one plugind. Prints seed, operations by kind and figures; the exit status is 1 after a
violation.
"""

import argparse
import contextlib
import http.client
import os
import random
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from scenarios import VARIANTS
from soak_memory import Violation, equal_work, rss_of
from soak_model import WATCH, Model, cgroup_of, cgroup_root, look
from soak_operations import ALL, OPERATIONS, Soak, Started, is_up
from stage import Broken, Stage

CHAOS: Final = 0.65
"""Part of the time; the rest is for equal work."""
EACH: Final = 20
"""Operations between two looks at everything."""
AMENDED: Final = ("rolled_back", "failed")
"""What may become of a version that was answered as ready."""
LOOSE: Final = 2
"""Descriptors of connections that are just being closed."""


class Run:
    def __init__(self, soak: Soak) -> None:
        self.soak = soak
        self.stage = soak.stage
        self.done: Counter[str] = Counter()
        self.last: list[str] = []
        self.descriptors: Counter[str] = Counter()
        self.threads = 0
        self.young: list[int] = []
        """RSS of new daemons at rest, each with the same mounts and no work behind it."""
        self.deaths = -1

    def chaos(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.look_at_everything()
        while time.monotonic() < until:
            for _ in range(EACH):
                operation = self.soak.dice.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
                self.last.append(
                    f"{operation.__name__} by {self.soak.model.pin} {sorted(self.soak.model.listed)}"
                )
                operation(self.soak)
                self.done[operation.__name__] += 1
                self.settle()
            self.look_at_everything()

    def settle(self) -> None:
        """Return once what should run runs, and plugind says so too."""
        wrong: list[str] = []

        def holds() -> bool:
            nonlocal wrong
            if self.stage.plugind.is_dead():
                raise Violation(f"plugind ended with status {self.stage.plugind.status}")
            wrong = self.soak.wrong or self._says_otherwise() or self.soak.model.settle(look(self.stage))
            return not wrong or bool(self.soak.wrong)

        with contextlib.suppress(Broken):
            self.stage.plugind.until(holds, 20)
        self.raise_if(wrong)

    def _says_otherwise(self) -> list[str]:
        """Where plugind is not done, or wrong about what runs."""
        if not is_up(self.stage):
            return ["plugind does not answer"]
        rows = {name.removeprefix("root:auth/"): row for name, row in self.stage.plugind.rows().items()}
        seen = look(self.stage)
        found = [
            f"{name} is {row['state']}"
            for name, row in rows.items()
            if row["state"] not in {"ready", "stopped"}
        ]
        for name, known in self.soak.model.mounts.items():  # a new plugind answers before it has begun
            row = rows.get(name)
            if known.is_doubtful and row and row["state"] == "stopped" and not row["stopped_by"]:
                found.append(f"{name} is not started yet")
        said = {row["instance"] for row in rows.values()} - {None}
        runs = {instance for there in seen.values() for instance in there.instances}
        return found + [f"plugind tells of {sorted(said)}, there are {sorted(runs)}"] * (said != runs)

    # --- everything

    def to_rest(self) -> None:
        """All mounts are listed and run v1."""
        for name in sorted(self.soak.model.mounts):
            if self.soak.model.mounts[name].held and name in self.soak.model.listed:
                self.soak.load()
                self.soak.expect(self.soak.call(f"supervisor/start/auth/{name}"), 200, f"start of {name}")
                self.soak.model.mounts[name].held = False
        self.soak.edit("v1", ALL)
        if self.soak.expect(self.soak.call("supervisor/apply"), 200, "apply"):
            self.soak.model.loaded()
            self.soak.model.replaced(ALL, surely=True)
            self.soak.model.forget()
        self.settle()

    def look_at_everything(self) -> None:
        self.to_rest()
        self.raise_if(self._leaks())  # of one that has done something; the next one has not
        is_young = self.deaths != self.soak.deaths
        self.deaths = self.soak.deaths
        if is_young:  # one that has done nothing else
            self.stage.plugind.kill()
            self.soak.new_daemon()
            self.deaths = self.soak.deaths
            self.settle()
            self.young.append(rss_of(self.stage.plugind.pid))
        self.raise_if(self._history())
        self.stage.wait_for_log()
        self.raise_if(self._cgroups() + self._files())
        self.raise_if(self.stage.lines() + self.stage.broken_code())
        if (self.stage.folder / "violations").exists():
            self.raise_if([f"two at once: {(self.stage.folder / 'violations').read_text().split()}"])
        if os.waitpid(self.stage.decoy, os.WNOHANG)[0]:
            self.raise_if(["the decoy was killed"])

    def _history(self) -> list[str]:
        """Whatever was answered stands there, amended at most; and nothing is under way."""
        rows = self.stage.plugind.call("GET", "supervisor/reloads?limit=1000").data["reloads"]
        kept = {row["reload_id"]: row for row in rows}
        wrong = [f"history has {name} under way at rest" for name, row in kept.items() if not row["done"]]
        for name, told in self.stage.plugind.answered.items():
            if name not in kept:
                wrong.append(f"{name} was answered and is not in the history")
                continue
            now = {row["mount"]: row["result"] for row in kept[name]["mounts"]}
            for row in told["mounts"]:
                may = {row["result"], *(AMENDED if row["result"] == "reloaded" else ())}
                if now.get(row["mount"]) not in may:
                    wrong.append(f"{name}: {row} was answered, {now.get(row['mount'])} is in the history")
        self.stage.plugind.answered.clear()
        return wrong

    def _leaks(self) -> list[str]:
        """Descriptors and threads that there were not at the first rest, and zombies."""
        found: list[str] = []

        def is_clean() -> bool:
            found.clear()
            now, threads = self.stage.descriptors(), threads_of(self.stage.plugind.pid)
            before = self.descriptors or now
            more, fewer = now - before, before - now
            if more.total() > LOOSE or fewer.total() > LOOSE:
                found.append(f"descriptors: more {dict(more)}, fewer {dict(fewer)}")
            if self.threads and threads > self.threads:
                found.append(f"threads: {threads}, at first {self.threads}")
            found.extend(f"zombie {pid}" for pid in zombies_of(self.stage.plugind.pid))
            if not found and not self.descriptors:
                self.descriptors, self.threads = now, threads
            return not found

        with contextlib.suppress(Broken):
            self.stage.plugind.until(is_clean, 5)
        return found

    def _cgroups(self) -> list[str]:
        """Each process is in the cgroup of its mount, and there are no others."""
        root, own = cgroup_root(), cgroup_of(self.stage.plugind.pid)
        # what a plugin forked before plugind put it there is known by other marks, and is where plugind is
        of_mounts = {
            name: {cgroup_of(pid) for pid in there.holders} - {own}
            for name, there in look(self.stage).items()
        }
        paths = {path for paths in of_mounts.values() for path in paths}
        if root is None or not paths:
            return []
        wrong = [f"{name} is in {paths}" for name, paths in of_mounts.items() if not is_named(paths, name)]
        for tree in {path.rpartition("/")[0] for path in paths}:
            there = {f"{tree}/{path.name}" for path in (root / tree.lstrip("/")).iterdir() if path.is_dir()}
            wrong += [f"cgroups without a mount: {there - paths}"] * bool(there - paths)
        return wrong

    def _files(self) -> list[str]:
        run = self.stage.folder / "run"
        wanted = {instance for there in look(self.stage).values() for instance in there.instances}
        found = []
        for folder, expected in (
            (run / "tmp", wanted),
            (run / "instances", {f"{instance}.json" for instance in wanted}),
            (run / "logs/root", {f"auth+{name}.fifo" for name in ALL}),
        ):
            names = {path.name for path in folder.iterdir()}
            if names != expected:
                found.append(f"{folder.name}: {sorted(names)}, not {sorted(expected)}")
        strays = [str(path) for path in self.stage.folder.rglob("*") if path.suffix in {".tmp", ".new"}]
        return found + [f"temporary files {strays}"] * bool(strays)

    # --- memory

    def compare_young(self) -> str:
        first, last = self.young[0], statistics.median(self.young[-3:])
        told = (
            f"memory of a new plugind: {first / 1024:.0f} KiB at first, {last / 1024:.0f} KiB after all this"
        )
        if last > first + (4 << 20):
            raise Violation(told)
        return told

    # --- the end

    def end(self) -> None:
        """Stop plugind: nothing of it is left."""
        root = cgroup_root()
        trees = {cgroup_of(pid).rpartition("/")[0] for pid in self.stage.everyone()}
        wrong = self.stage.left_behind()
        wrong += [
            f"cgroup {tree} is left"
            for tree in trees
            if root and "/plugind-" in tree and (root / tree[1:]).exists()
        ]
        for folder in ("tmp", "instances"):
            wrong += [f"{path} is left" for path in (self.stage.folder / "run" / folder).iterdir()]
        wrong += [f"{path} is left" for path in [self.stage.plugind.socket] if path.exists()]
        self.raise_if(wrong + self.stage.broken_code())

    def raise_if(self, wrong: list[str]) -> None:
        if wrong:
            raise Violation("\n  ".join(wrong))


def is_named(paths: set[str], mount: str) -> bool:
    """Whether it is that of the mount, or none: it was just started when plugind was killed."""
    return not paths or {path.rpartition("/")[2].partition("~")[0] for path in paths} == {
        f"root:auth+{mount}"
    }


def threads_of(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())


def zombies_of(parent: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        for child in (task / "children").read_text().split():
            try:
                stat = Path(f"/proc/{child}/stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if stat.rpartition(")")[2].split()[0] == "Z":
                found.append(int(child))
    return found


def soaked(asked: argparse.Namespace) -> int:
    settings, _ = VARIANTS[asked.variant]
    watch = f"watch: {WATCH}"
    settings = settings.replace("{order: start_first}", f"{{order: start_first, {watch}}}")
    if "reload:" not in settings:
        settings += f"\nreload: {{{watch}}}"
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    stage = Stage(settings, ALL, folder=folder, daemon=Started)
    status = 0
    print(f"seed {asked.seed}", flush=True)
    with ThreadPoolExecutor(8) as pool:
        run = Run(Soak(stage, Model(ALL, "v1"), random.Random(asked.seed), pool))  # noqa: S311 - to repeat it
        began = time.monotonic()
        try:
            stage.plugind.begin()
            run.settle()
            run.chaos(asked.seconds * CHAOS)
            print(run.compare_young())
            run.end()
            print(equal_work(asked.seconds * (1 - CHAOS)))
        except (Violation, Broken, OSError, http.client.HTTPException, AssertionError) as error:
            status = 1
            print(f"VIOLATION after {run.done.total()} operations: {error}")
            print("".join(traceback.format_exc()) if not isinstance(error, Violation) else "", end="")
            print("  the last operations:", *run.last[-6:], sep="\n    ")
            print(f"  plugind said: {stage.plugind.told.read_text(errors='replace')[-4000:]}")
        finally:
            stage.down()
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(run.done.items()))
    print(f"{run.done.total()} operations in {time.monotonic() - began:.0f} s: {kinds}")
    print(f"daemons: {run.soak.deaths + 1}; violations: {status}")
    return status


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)))
    parser.add_argument("--variant", default="", choices=VARIANTS)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was begun is ended
    sys.exit(soaked(parser.parse_args()))


if __name__ == "__main__":
    main()
