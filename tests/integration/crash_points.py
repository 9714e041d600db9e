"""SIGKILL plugind at a system call of a scenario, start it again, and ask the processes themselves.

    python tests/integration/crash_points.py SCENARIO MOST [SEED]

The scenario runs once to learn its system calls; then MOST of them are tried, chosen by SEED (0: in order).
At each strace kills the daemon, a new one starts, and then every mount has exactly one instance, nothing
else of any instance is alive, and the decoy lives. Prints points and violations.
"""

import http.client
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from harness import Plugind, is_alive, processes_below

MOUNTS = 3
FORKS = "#!/bin/sh\n(trap '' TERM; setsid sleep 1000) &\nexec sleep 1000\n"
ENDS = "#!/bin/sh\nexit 3\n"
SETTINGS = "stop: {timeout: 200ms}\nrestart: {backoff: 10ms}"


def stop(plugind: Plugind) -> None:
    plugind.call("POST", "supervisor/stop/auth/m0")


def start(plugind: Plugind) -> None:
    plugind.call("POST", "supervisor/start/auth/m0")


def apply(plugind: Plugind) -> None:
    plugind.call("POST", "supervisor/apply", {})


def to_another(plugind: Plugind, pin: str) -> None:
    plugind.edit("pin: v1", f"pin: {pin}")
    plugind.reload()


SCENARIOS: dict[str, tuple[Callable[[Plugind], None], Callable[[Plugind], None]]] = {
    "reload": (lambda _: None, lambda plugind: to_another(plugind, "v2")),
    "rollback": (lambda _: None, lambda plugind: to_another(plugind, "bad")),
    "stop": (lambda _: None, stop),
    "start": (stop, start),
    "apply": (lambda plugind: plugind.edit("pin: v1", "pin: v2"), apply),
}


@dataclass
class Tally:
    points: int = 0
    killed: int = 0
    violations: list[str] = field(default_factory=list)


def prepare(folder: Path) -> Plugind:
    folder.chmod(0o755)
    plugind = Plugind(folder)
    good, bad = plugind.plugin("plugin", FORKS), plugind.plugin("bad", ENDS)
    versions = {"v1": (good, []), "v2": (good, ["2"]), "bad": (bad, [])}
    mounts = {f"auth/m{number}": "{plugin: auth/mock}" for number in range(MOUNTS)}
    plugind.write(versions, {"root": mounts}, "v1", SETTINGS)
    return plugind


Point = tuple[str, int]
"""A system call, and which of its calls by one thread: strace counts so."""
_CALL = re.compile(r"^(\d+ +)?(\w+)\(", re.MULTILINE | re.ASCII)
_DULL = frozenset({"exit", "exit_group", "execve", "futex", "getpid", "poll", "restart_syscall"})
_MOST = 65
"""More calls of one kind are those of the thread that watches the catalog."""


def points_of(scenario: str) -> list[Point]:
    """All that can be tried, by a run in which nothing is killed."""
    before, act = SCENARIOS[scenario]
    with tempfile.TemporaryDirectory(prefix="crash-") as name:
        plugind = prepare(Path(name))
        try:
            plugind.start()
            before(plugind)
            trace = Path(name) / "trace"
            traced(plugind, ["-o", str(trace)], act)
            most: dict[str, int] = {}
            for (_, call), count in Counter(_CALL.findall(trace.read_text(errors="replace"))).items():
                most[call] = max(most.get(call, 0), count)
        finally:
            plugind.stop()
    calls = sorted(most.keys() - _DULL)
    return [(call, number) for call in calls for number in range(1, min(most[call], _MOST) + 1)]


def kill_at(plugind: Plugind, point: Point, act: Callable[[Plugind], None]) -> bool:
    """Do `act` while strace kills the daemon at `point`; whether it did."""
    call, number = point
    return traced(plugind, ["-o", "/dev/null", "-e", f"inject={call}:signal=KILL:when={number}"], act)


def traced(plugind: Plugind, options: list[str], act: Callable[[Plugind], None]) -> bool:
    assert plugind.process is not None
    pid = plugind.process.pid
    # each thread by itself: with -f the plugins would be traced and killed too
    threads = [word for thread in Path(f"/proc/{pid}/task").iterdir() for word in ("-p", thread.name)]
    command = ["strace", "-qq", *options, *threads]
    tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        plugind.until(lambda: plugind.process is None or plugind.process.poll() is not None or is_traced(pid))
        died = _died(act, plugind)
    finally:
        tracer.kill()  # what it traces goes on
        tracer.wait(10)
    if died:
        plugind.process.wait(10)
    return died


def is_traced(pid: int) -> bool:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return all("TracerPid:\t0\n" not in (thread / "status").read_text() for thread in threads)


def _died(act: Callable[[Plugind], None], plugind: Plugind) -> bool:
    """Whether the daemon died in the middle, or has just been killed after its answer."""
    try:
        act(plugind)
        plugind.rows()
    except (OSError, http.client.HTTPException):
        return True
    return False


def violations(plugind: Plugind, decoy: "subprocess.Popen[bytes]") -> list[str]:
    """What is not as promised after the next daemon is up."""
    found: list[str] = []
    held = {name for name, row in plugind.rows().items() if row["stopped_by"]}
    rows = plugind.rows()
    wanted = {row["instance"] for name, row in rows.items() if name not in held}
    alive = Counter(
        word.partition("=")[2]
        for environ in processes_below(plugind.folder).values()
        for word in environ.split()
        if word.startswith("PLUGIND_INSTANCE=")
    )
    if set(alive) != wanted:
        found.append(f"alive {dict(alive)}, wanted {wanted}")
    folders = set(os.listdir(plugind.folder / "run/tmp"))  # noqa: PTH208 - names only
    if folders != wanted:
        found.append(f"folders {folders}, wanted {wanted}")
    if decoy.poll() is not None:
        found.append("the decoy was killed")
    return found


def is_settled(plugind: Plugind) -> bool:
    rows = plugind.rows().values()
    return len(rows) == MOUNTS and all(row["state"] in {"ready", "stopped"} for row in rows)


def one_point(scenario: str, call: Point, tally: Tally) -> None:
    before, act = SCENARIOS[scenario]
    decoy = subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True)
    with tempfile.TemporaryDirectory(prefix="crash-") as name:
        plugind = prepare(Path(name))
        try:
            plugind.start()
            before(plugind)
            tally.points += 1
            tally.killed += kill_at(plugind, call, act)
            if plugind.process is not None and plugind.process.poll() is None:
                plugind.kill()
            plugind.start(ready=False)
            plugind.until(lambda: is_settled(plugind))
            found = violations(plugind, decoy)
            for _ in range(20):  # right after its exec a process has no environment yet
                found = found and violations(plugind, decoy)
            tally.violations += [f"{scenario} {call}: {what}" for what in found]
        except AssertionError as error:
            tally.violations.append(f"{scenario} {call}: {str(error)[:600]}")
        finally:
            if plugind.process is not None:
                plugind.stop()
            left = {pid for pid in processes_below(Path(name)) if is_alive(pid)}
            if left:
                tally.violations.append(f"{scenario} {call}: left after the stop: {left}")
            for pid in left:
                with os.fdopen(os.pidfd_open(pid)) as handle:
                    signal.pidfd_send_signal(handle.fileno(), signal.SIGKILL)
            decoy.kill()
            decoy.wait()


def tried(scenario: str, most: int, seed: int) -> Tally:
    points = points_of(scenario)
    if seed:
        random.Random(seed).shuffle(points)  # noqa: S311 - to repeat a choice
    tally = Tally()
    for point in points[:most]:
        one_point(scenario, point, tally)
    return tally


def main() -> None:
    scenario, most, *seed = sys.argv[1:]
    tally = tried(scenario, int(most), int(seed[0]) if seed else 0)
    print(f"{scenario}: {tally.points} points, {tally.killed} kills, {len(tally.violations)} violations")
    print("\n".join(tally.violations))
    sys.exit(bool(tally.violations))


if __name__ == "__main__":
    main()
