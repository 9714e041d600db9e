"""What plugind is doing while `crash_points.py` kills it or lets its system calls fail."""

import http.client
import os
import random
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from harness import Answer
from stage import PATIENCE, SETTINGS, Broken, Stage
from tracer import Aim, Tracer

UPGRADED: Final = 202
NOT_KNOWN: Final = {"result": "failed", "error": "plugind began as after a crash"}
SURE: Final = 0.02
"""Seconds after which a process that was told to end is dead."""


def nothing(_: Stage) -> None:
    pass


def reload(stage: Stage) -> None:
    stage.write("v2" if stage.pin == "v1" else "v1")
    stage.asked(stage.plugind.reload)


def pinned_well(stage: Stage) -> None:
    stage.write("v1")
    stage.asked(stage.plugind.reload)


def rollback(stage: Stage) -> None:
    stage.write("bad")
    stage.asked(stage.plugind.reload)


def stop(stage: Stage) -> None:
    stage.asked(lambda: stage.plugind.call("POST", "supervisor/stop/auth/m0"))


def start(stage: Stage) -> None:
    stage.asked(lambda: stage.plugind.call("POST", "supervisor/start/auth/m0"))


def apply(stage: Stage) -> None:
    """One mount is new, one is removed, the others change."""
    other = ("m0", "talk", "m2") if "m1" in stage.mounts else ("m0", "talk", "m1")
    stage.write("v2" if stage.pin == "v1" else "v1", other)
    stage.asked(lambda: stage.plugind.call("POST", "supervisor/apply", {}))


def crash(stage: Stage) -> None:
    """A plugin dies, and is there again."""
    before = stage.pids["root:auth/m0"]
    signalled(before, signal.SIGKILL)
    stage.plugind.until(lambda: stage.plugind.is_dead() or before not in stage.holders()["m0"])
    stage.plugind.until(lambda: stage.plugind.is_dead() or len(stage.holders()["m0"]) == 3)


def rotate(stage: Stage) -> None:
    """The talker writes more than a log file takes."""
    path = stage.folder / "log/root/auth+talk.log"
    before = 0

    def is_there() -> bool:
        nonlocal before
        before = inode_of(path)
        return bool(before)

    stage.plugind.until(is_there)  # the last kill may have been between two files
    signalled(stage.pids["root:auth/talk"], signal.SIGUSR1)
    stage.plugind.until(lambda: stage.plugind.is_dead() or inode_of(path) not in {0, before})


def inode_of(path: Path) -> int:
    """0 where there is none just now: it is being rotated."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def signalled(pid: int, number: int) -> None:
    with os.fdopen(os.pidfd_open(pid)) as handle:
        signal.pidfd_send_signal(handle.fileno(), number)


def upgrade(stage: Stage) -> None:
    """Its answer is how it ended: 202 where another plugind runs."""
    stage.asked(lambda: stage.plugind.call("POST", "supervisor/upgrade"))
    begun = stage.answer
    if begun is None or begun.status != UPGRADED:
        return
    stage.answer = None
    told: dict[str, Any] = {}

    def ended() -> bool:
        nonlocal told
        try:
            told = stage.plugind.call("GET", "supervisor/status").data["upgrade"] or NOT_KNOWN
        except (OSError, http.client.HTTPException):  # it begins as after a crash
            return False
        return bool(told["result"] != "under way")

    stage.plugind.until(lambda: ended() or stage.plugind.is_dead())
    if told == NOT_KNOWN:
        stage.settle()
    if told.get("result") == "done":
        stage.answer = begun
    elif told.get("result") == "failed":
        stage.answer = Answer(400, {"errors": [told["error"]]}, {})


Step = Callable[[Stage], None]
SCENARIOS: Final[dict[str, tuple[Step, Step]]] = {
    "reload": (nothing, reload),
    "rollback": (pinned_well, rollback),
    "stop": (start, stop),
    "start": (stop, start),
    "crash": (nothing, crash),
    "apply": (nothing, apply),
    "rotate": (nothing, rotate),
    "adopt": (nothing, nothing),
    "upgrade": (nothing, upgrade),
}
"""What is there before, and what is done.

`adopt` is the start of a daemon over what another left that was killed, in the middle of a reload too.
"""
WELL: Final = {"rollback": 400, "upgrade": UPGRADED}
"""Statuses of answers to what went as it should; of all others it is 200."""
MORE: Final = ("m0", "m1", "m3", "m4", "m5", "talk")
VARIANTS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "": (SETTINGS, ("m0", "m1", "talk")),
    "start_first": (f"{SETTINGS}\nreload: {{order: start_first}}", ("m0", "m1", "talk")),
    "more mounts": (SETTINGS, MORE),
}
VARIED: Final = frozenset({"reload", "rollback"})
"""Scenarios that are tried with each variant, the others with the first only."""


def acted(stage: Stage, scenario: str, aim: Aim, seed: int) -> dict[str, Any]:
    """Do it while the daemon is traced; what the tracer saw."""
    before, act = SCENARIOS[scenario]
    stage.answer, stage.lost = None, ""
    if scenario == "adopt":
        return _adopted(stage, aim, seed)
    before(stage)
    stage.settle()
    stage.answer, stage.opened, stage.pids = None, stage.descriptors(), stage.plugind.pids()
    tracer = Tracer(stage.plugind.pid, aim)
    try:
        unless_dead(act, stage, is_killed=not aim.errno)
    finally:
        found = tracer.end()
    return found


def _adopted(stage: Stage, aim: Aim, seed: int) -> dict[str, Any]:
    mess = random.Random(seed).randrange(1, 900) if seed % 2 else 0  # noqa: S311 - to repeat a choice
    if mess:
        tracer = Tracer(stage.plugind.pid, Aim(mess))
        try:
            unless_dead(reload, stage)
        finally:
            tracer.end()
        stage.lost = ""
    stage.plugind.kill()
    threading.Event().wait(SURE)
    stage.note_living()
    ours, gate = socket.socketpair()
    with ours, gate:
        stage.plugind.begin(gate.fileno())
        ours.recv(1)  # what it did until now is the driver's
        tracer = Tracer(stage.plugind.pid, aim)
        ours.send(b".")
    try:
        stage.plugind.until(lambda: stage.plugind.is_dead() or _is_up(stage))
        unless_dead(Stage.settle, stage, is_killed=not aim.errno)
    finally:
        found = tracer.end()
    return found


def unless_dead(act: Step, stage: Stage, *, is_killed: bool = True) -> None:
    """What a client sees of a daemon that is killed is no fault; of one that lives on it is noted."""
    try:
        act(stage)
    except (OSError, http.client.HTTPException) as error:
        if is_killed:
            stage.plugind.until(stage.plugind.is_dead, PATIENCE)  # what else, is for the caller to see
        stage.lost = repr(error)
    except Broken:
        if is_killed:
            stage.plugind.until(stage.plugind.is_dead, PATIENCE)
        elif not stage.plugind.is_dead():
            raise
    except AssertionError:
        if not stage.plugind.is_dead():
            raise


def _is_up(stage: Stage) -> bool:
    try:
        return bool(stage.plugind.rows())
    except (OSError, http.client.HTTPException):
        return False
