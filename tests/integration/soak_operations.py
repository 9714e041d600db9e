"""What is done to plugind and its plugins in a soak, and what may run afterwards.

Each operation tells the model what it means, and says what of plugind's answers is not true. Which one
comes next, and its choices, come from the seed alone; what the machine makes of the moments does not.
"""

import http.client
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from harness import BIN, Answer, is_alive, send
from soak_model import GOOD, Model, look
from stage import Broken, Forked, Stage

ALL: Final = ("m0", "m1", "m2", "m3", "m4", "m5", "talk")
BAD_TEXTS: Final = (
    lambda text: text[: len(text) // 2] + "\n  : {",
    lambda text: text.replace("pin: ", "pni: ", 1),
    lambda text: text.replace("pin: v", "pin: w", 1),
    lambda text: text.replace("sha256: ", "sha256: 0", 1),
    lambda text: text + text,
    lambda _: "",
    lambda _: "[" * 200_000,
)
LONGEST: Final = 0.25
"""Seconds in which the daemon is killed after something was begun."""


_REAPING: Final = threading.Lock()


@dataclass
class Started(Forked):
    """A plugind as people start it: its memory is its own. Several threads may ask whether it is dead."""

    answered: dict[str, Any] = field(default_factory=dict)
    """Reports of reloads and applies by their ids."""

    def is_dead(self) -> bool:
        with _REAPING:
            return super().is_dead()

    def call(self, method: str, path: str, *more: Any, **others: Any) -> Answer:
        answer = super().call(method, path, *more, **others)
        data = (answer.body or {}).get("data")
        if method == "POST" and isinstance(data, dict) and data.get("done") and not data["dry_run"]:
            self.answered[data["reload_id"]] = data
        return answer

    def begin(self, gate: int | None = None) -> None:
        assert gate is None
        self.status = None
        command = [BIN / "plugind", "--config", self.config]
        with self.told.open("ab") as told:
            # reaped by its pid: a plugind may be waited for in several places
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=told, stderr=told)
        process.returncode = 0
        self.pid = process.pid


@dataclass
class Soak:
    """One run: the stage, the model, the dice."""

    stage: Stage
    model: Model
    dice: random.Random
    pool: ThreadPoolExecutor
    wrong: list[str] = field(default_factory=list)
    deaths: int = 0

    # --- what plugind is asked

    def call(self, path: str, body: Any = None) -> Answer | None:
        """The answer; None where the daemon died of a signal of ours before it came."""
        try:
            return self.stage.plugind.call("POST", path, body or {})
        except (OSError, http.client.HTTPException, ValueError) as error:
            with suppress(Broken):
                self.stage.plugind.until(self.stage.plugind.is_dead, 2)
            if not self.stage.plugind.is_dead():
                self.wrong.append(f"{path} had no answer of a living plugind: {error!r}")
            return None

    def expect(self, answer: Answer | None, status: int, what: str) -> bool:
        """Whether it was answered, which goes without saying as long as nobody kills the daemon."""
        if answer is None:
            self.wrong.append(f"{what}: no answer")
        elif answer.status != status:
            self.wrong.append(f"{what}: {answer.status}, not {status}: {answer.body}")
        return answer is not None and answer.status == status

    # --- dice

    def some(self, names: Iterable[str], most: int) -> list[str]:
        known = sorted(names)
        return self.dice.sample(known, self.dice.randint(1, min(most, len(known)))) if known else []

    def listed(self, *, held: bool = False) -> list[str]:
        mounts = self.model.mounts
        return [name for name in sorted(self.model.listed) if mounts[name].held is held]

    def running(self) -> list[str]:
        return [name for name, known in self.model.mounts.items() if known.may != {None}]

    # --- files

    def edit(self, pin: str | None = None, listed: Iterable[str] | None = None) -> None:
        self.stage.write(pin, tuple(listed) if listed is not None else None)
        if self.stage.pin in GOOD:
            self.model.edited(self.stage.mounts, self.stage.pin)

    def load(self) -> None:
        """Have the file read now, and not when its change is noticed."""
        answer = self.stage.plugind.call("GET", "supervisor/plan")
        self.expect(answer, 200, "plan")
        self.model.loaded()

    # --- the daemon

    def new_daemon(self, killed: Iterable[str] = ()) -> None:
        """Start the next one; `killed` are mounts whose plugin died meanwhile."""
        self.deaths += 1
        seen = look(self.stage)
        dead = {name for name in self.model.mounts if name not in seen} | set(killed)
        self.model.began(dead)
        self.stage.plugind.begin()

    def next_of_a_busy_one(self) -> None:
        """The same where the former one was killed in the middle of something."""
        may = {name: set(known.may) for name, known in self.model.mounts.items()}
        self.new_daemon()
        for name, known in self.model.mounts.items():  # what lives now may be on its way to its end
            if name not in self.model.listed:
                known.may |= may[name] | {None}
            elif known.is_doubtful:
                known.may |= may[name] | {self.model.pin}
            elif not known.held:
                known.may |= may[name] - {None} | {self.model.pin}

    def kill_plugins(self, names: Iterable[str]) -> None:
        """SIGKILL their main processes, or all of them that are known by name."""
        seen = look(self.stage)
        whole = self.dice.random() < 0.3
        for name in names:
            members = seen[name].marked | seen[name].holders if name in seen else set()
            # in the middle of an exec one of them shows its environment or its lock only
            victims = {pid for pid in members if parent_of(pid) not in members}
            if whole:
                victims |= seen[name].marked
            for pid in victims:
                with suppress(ProcessLookupError):
                    send(pid, signal.SIGKILL)
            self.stage.plugind.until(lambda pids=victims: not any(map(is_alive, pids)))


Operation = Callable[[Soak], None]


def reload_all(soak: Soak) -> None:
    soak.edit(soak.dice.choice(GOOD))
    answer = soak.stage.plugind.reload()
    soak.model.loaded()
    if soak.expect(answer, 200, "reload"):
        for row in answer.data["mounts"]:
            name = row["mount"].strip("/").removeprefix("auth/")
            held = soak.model.mounts[name].held
            if (row["result"] == "skipped") is not held or (
                not held and row["new_version"] != soak.stage.pin
            ):
                soak.wrong.append(f"reload to {soak.stage.pin}, held {held}: {row}")
        soak.model.replaced(soak.model.listed, surely=True)


def reload_some(soak: Soak) -> None:
    names = soak.some(soak.listed(), 3)
    if not names:
        return
    soak.edit(soak.dice.choice(GOOD))
    body = {"mounts": [f"auth/{name}" for name in names]}
    answer = soak.stage.plugind.call("POST", "sys/plugins/reload/backend", body)
    soak.model.loaded()
    if soak.expect(answer, 200, "reload of some"):
        soak.model.replaced(names, surely=True)


def reload_bad(soak: Soak) -> None:
    """A version that ends at once is pinned: all that ran comes back."""
    if any(soak.model.mounts[name].may == {None} for name in soak.listed()):
        return  # where nothing ran, nothing can come back
    if not soak.listed():
        return
    former = soak.stage.pin
    soak.edit("bad")
    answer = soak.stage.plugind.reload()
    soak.expect(answer, 400, "reload to a bad version")
    soak.model.fell_back(soak.listed())
    soak.edit(former)
    soak.load()


def bad_catalog(soak: Soak) -> None:
    """A file that cannot be used is refused, whatever is asked for, and touches nobody."""
    soak.load()
    text = soak.stage.plugind.catalog.read_text()
    before = {name: seen.instances for name, seen in look(soak.stage).items()}
    soak.stage.plugind.catalog.write_text(soak.dice.choice(BAD_TEXTS)(text))
    for path in ("sys/plugins/reload/auth/mock", "supervisor/apply"):
        answer = soak.stage.plugind.call("POST", path, {})
        if answer.status != 400 or (answer.body or {}).get("data"):
            soak.wrong.append(f"{path} with a bad catalog: {answer.status} {answer.body}")
    after = {name: seen.instances for name, seen in look(soak.stage).items()}
    if after != before:
        soak.wrong.append(f"a refused command touched something: {before}, then {after}")
    if soak.dice.random() < 0.3:  # the last good one is what the next plugind has
        soak.stage.plugind.kill()
        soak.new_daemon()
        soak.stage.plugind.until(lambda: is_up(soak.stage))
    soak.stage.plugind.catalog.write_text(text)
    soak.load()


def edit(soak: Soak) -> None:
    """Staging only: another pin, or a mount more or less."""
    listed = set(soak.model.listed)
    if soak.dice.random() < 0.5:
        listed ^= {
            soak.dice.choice(ALL[2:-1])
        }  # the talker stays: a mount that comes back counts from 1 again
    soak.edit(soak.dice.choice(GOOD), [name for name in ALL if name in listed])
    if soak.dice.random() < 0.5:
        soak.load()


def apply(soak: Soak) -> None:
    edit(soak)
    answer = soak.stage.plugind.call("POST", "supervisor/apply", {})
    soak.model.loaded()
    if soak.expect(answer, 200, "apply"):
        soak.model.replaced(soak.model.listed, surely=True)
        soak.model.forget()


def stop(soak: Soak) -> None:
    for name in soak.some(soak.listed(), 2):
        answer = soak.stage.plugind.call("POST", f"supervisor/stop/auth/{name}")
        if soak.expect(answer, 200, f"stop of {name}"):
            soak.model.mounts[name].may, soak.model.mounts[name].held = {None}, True


def start(soak: Soak) -> None:
    soak.load()
    for name in soak.some(soak.listed(held=True), 3):
        answer = soak.stage.plugind.call("POST", f"supervisor/start/auth/{name}")
        if soak.expect(answer, 200, f"start of {name}"):
            soak.model.mounts[name].held = False
            soak.model.began([name])


def restart(soak: Soak) -> None:
    for name in soak.some(set(soak.listed()) & set(soak.running()), 2):
        answer = soak.stage.plugind.call("POST", f"supervisor/restart/auth/{name}")
        soak.expect(answer, 200, f"restart of {name}")
        soak.model.restarted([name])


def crash(soak: Soak) -> None:
    names = soak.some(soak.running(), 3)
    soak.kill_plugins(names)
    soak.model.crashed(names)


def freeze(soak: Soak) -> None:
    """SIGSTOP to all that is known by name; the next reload has to end it all the same."""
    seen = look(soak.stage)
    for name in soak.some(seen, 2):
        for pid in seen[name].marked:
            with suppress(ProcessLookupError):
                send(pid, signal.SIGSTOP)


def talk(soak: Soak) -> None:
    """The talker writes more than a log file takes."""
    for pid in sorted(look(soak.stage)["talk"].marked)[:1] if "talk" in soak.running() else ():
        with suppress(ProcessLookupError, FileNotFoundError):
            if is_caught(pid, signal.SIGUSR1):  # it would die of it, as long as it is only about to listen
                send(pid, signal.SIGUSR1)


def kill_daemon(soak: Soak) -> None:
    """Nobody notices; where a plugin died too, it is started."""
    soak.stage.plugind.kill()
    dead = soak.some(soak.running(), 2) if soak.dice.random() < 0.4 else []
    soak.kill_plugins(dead)
    soak.new_daemon(dead)


def leave(soak: Soak) -> None:
    """SIGUSR1: plugind ends and leaves its plugins to the next one."""
    status = soak.stage.plugind.stop(signal.SIGUSR1)
    if status:
        soak.wrong.append(f"SIGUSR1 ended plugind with {status}")
    soak.new_daemon()


def stop_daemon(soak: Soak) -> None:
    """SIGTERM stops everything; the next one starts what nobody stopped by hand."""
    status = soak.stage.plugind.stop()
    left = look(soak.stage)
    if status or left:
        soak.wrong.append(f"SIGTERM ended plugind with {status} and left {left}")
    soak.new_daemon()


def cut_off(soak: Soak) -> None:
    """The daemon is killed in the middle of something, at any moment of it."""
    begin = soak.dice.choice(CUT)
    delay = soak.dice.random() ** 2 * LONGEST
    former = soak.stage.pin
    doing = begin(soak)
    threading.Event().wait(delay)
    soak.stage.plugind.kill()
    if doing is not None:
        doing.result()
    if soak.stage.pin not in GOOD:
        soak.edit(former)
    soak.next_of_a_busy_one()


Doing = Future[object] | None


def _begin_reload(soak: Soak) -> Doing:
    soak.edit(soak.dice.choice(GOOD))
    doing = soak.pool.submit(soak.call, "sys/plugins/reload/auth/mock")
    soak.model.replaced(soak.model.listed, surely=False)
    return doing


def _begin_bad(soak: Soak) -> Doing:
    if any(soak.model.mounts[name].may == {None} for name in soak.listed()):
        return _begin_reload(soak)  # where nothing ran, nothing can come back
    soak.edit("bad")
    doing = soak.pool.submit(soak.call, "sys/plugins/reload/auth/mock")
    soak.model.fell_back(soak.listed())
    for name in soak.listed():
        soak.model.mounts[name].is_torn = True
    return doing


def _begin_apply(soak: Soak) -> Doing:
    edit(soak)
    doing = soak.pool.submit(soak.call, "supervisor/apply")
    soak.model.replaced(soak.model.listed, surely=False)
    for name in soak.model.removed():
        soak.model.mounts[name].may.add(None)
    return doing


def _begin_stop(soak: Soak) -> Doing:
    return _begin_by_hand(soak, "stop", soak.some(soak.listed(), 2))


def _begin_start(soak: Soak) -> Doing:
    return _begin_by_hand(soak, "start", soak.some(soak.listed(held=True), 2))


def _begin_by_hand(soak: Soak, verb: str, names: list[str]) -> Doing:
    for name in names:
        known = soak.model.mounts[name]
        known.is_doubtful = True
        known.may |= {None, *soak.model.pins, *(GOOD if known.is_torn else ())}
    return soak.pool.submit(lambda: [soak.call(f"supervisor/{verb}/auth/{name}") for name in names])


def _begin_crash(soak: Soak) -> Doing:
    crash(soak)
    return None


CUT: Final = (_begin_reload, _begin_bad, _begin_apply, _begin_stop, _begin_start, _begin_crash)


def together(soak: Soak) -> None:
    """Several reloads at one time, crashes among them, and half the time the death of the daemon."""
    model = soak.model
    soak.edit(soak.dice.choice(GOOD))
    names = soak.some(soak.listed(), 3)
    body = {"mounts": [f"auth/{name}" for name in names]}
    doing = [soak.pool.submit(soak.call, "sys/plugins/reload/auth/mock") for _ in range(3)]
    doing += [soak.pool.submit(soak.call, "sys/plugins/reload/backend", body) for _ in names[:1]]
    model.replaced(model.listed, surely=False)
    crashed = soak.some(soak.running(), 3)
    soak.kill_plugins(crashed)
    model.crashed(crashed)
    for name in crashed:
        model.mounts[name].is_torn = True
    if soak.dice.random() < 0.5:
        soak.stage.plugind.kill()
    for one in doing:
        one.result()
    if soak.stage.plugind.is_dead():
        soak.next_of_a_busy_one()


def upgrade(soak: Soak) -> None:
    """Another plugind goes on in the same process, and nobody notices."""
    before = main_processes(soak)
    command = [BIN / "pluginctl", "--socket", soak.stage.plugind.socket, "upgrade"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        soak.wrong.append(f"upgrade: {done.returncode} {done.stdout}{done.stderr}")
    after = main_processes(soak)
    if any(after.get(name) != pid for name, pid in before.items()):
        soak.wrong.append(f"an upgrade touched plugins: {before}, then {after}")
    for name in soak.listed():
        if name not in before:  # new, or crashed a moment ago
            soak.model.mounts[name].may.add(soak.model.pin)


def is_caught(pid: int, number: int) -> bool:
    """Whether the process has a handler for that signal. Source: proc(5) SigCgt."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)


def main_processes(soak: Soak) -> dict[str, int]:
    """By mount. Not all that is seen: what was just started may be forking still."""
    rows = soak.stage.plugind.rows()
    return {name.removeprefix("root:auth/"): row["pid"] for name, row in rows.items() if row["pid"]}


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def is_up(stage: Stage) -> bool:
    try:
        return stage.plugind.call("GET", "supervisor/status").status == 200
    except (OSError, http.client.HTTPException):
        return False


def has_upgrade() -> bool:
    return (Path(__file__).parents[2] / "supervisor/cli/commands/upgrade.py").exists()


OPERATIONS: Final[dict[Operation, int]] = {
    reload_all: 6,
    reload_some: 4,
    reload_bad: 3,
    bad_catalog: 3,
    edit: 3,
    apply: 5,
    stop: 3,
    start: 4,
    restart: 3,
    crash: 8,
    freeze: 2,
    talk: 4,
    kill_daemon: 4,
    leave: 1,
    stop_daemon: 1,
    cut_off: 8,
    together: 4,
    **({upgrade: 3} if has_upgrade() else {}),
}
"""And how often each comes."""
