"""One point of `crash_points.py`: kill plugind there, or let a system call fail, and look at everything."""

import errno
import http.client
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import injected
from harness import is_alive
from scenarios import SCENARIOS, SURE, WELL, acted
from stage import Broken, Stage
from tracer import Aim

BURST: Final = 12
"""So many calls in a row fail at every fourth point."""
REFUSED: Final = frozenset({1, 2})
"""Exit statuses of a plugind that says why it cannot start."""
STARTS: Final = frozenset({"adopt", "upgrade"})
"""Scenarios in which a plugind starts."""
LASTING: Final = 5.0
LOOSE: Final = 3
"""Descriptors that may be open at one time and not at another: a request under way."""


@dataclass(frozen=True, slots=True)
class Point:
    """The `number`-th system call, or the `number`-th that can fail with `errno`."""

    number: int
    errno: int = 0

    @property
    def aim(self) -> Aim:
        return Aim(self.number, self.errno, BURST if self.errno and self.number % 4 == 0 else 1)

    def __str__(self) -> str:
        return f"{self.number} {name_of(self.errno)}"


def name_of(number: int) -> str:
    return errno.errorcode[number] if number else "kill"


@dataclass
class Tally:
    """What was tried of one scenario."""

    available: dict[str, int] = field(default_factory=dict)
    points: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Also from what `plain` gave."""
        self.points, self.hits, self.bad = Counter(self.points), Counter(self.hits), Counter(self.bad)

    def plain(self) -> dict[str, Any]:
        """For JSON. Not `asdict`: it cannot copy a Counter."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def add(self, other: "Tally") -> None:
        self.points.update(other.points)
        self.hits.update(other.hits)
        self.bad.update(other.bad)
        self.seconds += other.seconds
        self.violations += other.violations

    def note(self, point: Point, found: dict[str, Any]) -> None:
        kind = name_of(point.errno)
        self.points[kind] += 1
        self.hits[kind] += found["hit"] is not None

    def blame(self, point: Point, scenario: str, found: dict[str, Any], faults: Sequence[str]) -> None:
        """Raises Broken if there are faults: the stage is not to be used any more."""
        if faults:
            self.bad[name_of(point.errno)] += 1
            calls = found["injected"] or [found["hit"]]
            place = f"{scenario} {point} at {calls}, after {found['tail'][-12:]}"
            self.violations += [f"{place}: {fault}" for fault in faults]
            raise Broken(faults[0])


def one_point(stage: Stage, scenario: str, point: Point, tally: Tally) -> None:
    """Try it; where this run had fewer calls than the one that was counted, an earlier one instead."""
    one = one_error if point.errno else one_kill
    found = one(stage, scenario, point, tally)
    calls = found["can_fail"].get(str(point.errno), 0) if point.errno else found["count"]
    if found["hit"] is None and calls > 1:
        tally.points[name_of(point.errno)] -= 1
        one(stage, scenario, Point(1 + point.number % (calls // 2), point.errno), tally)


def one_kill(stage: Stage, scenario: str, point: Point, tally: Tally) -> dict[str, Any]:
    """Kill the daemon at `point`, start the next one, and look at everything; what the tracer saw."""
    rows = stage.plugind.rows()
    known = {report["reload_id"] for report in stage.reports()}
    found = acted(stage, scenario, point.aim, point.number)
    stage.plugind.kill()
    tally.note(point, found)
    threading.Event().wait(SURE)
    untouched = {name: row["pid"] for name, row in rows.items() if row["pid"] and is_alive(row["pid"])}
    alone = {name for name in untouched if len(stage.instances().get(name.rpartition("/")[2], ())) == 1}
    touched = [name for name, row in rows.items() if row["pid"] and name not in untouched]
    faults: list[str] = []
    try:
        stage.up()
        faults += lasting_faults(stage)
        after = stage.plugind.rows()
        for name in alone & after.keys():
            if not after[name]["stopped_by"] and after[name]["pid"] != untouched[name]:
                faults.append(f"{name}: {untouched[name]} was not adopted: {after[name]}")
        faults += history_faults(stage, scenario, known, touched)
        stage.wait_for_log()
        faults += stage.lines()
    except (Broken, OSError, http.client.HTTPException, AssertionError) as error:
        faults.append(f"{error!r}"[:1500])
    faults += stage.broken_code()
    tally.blame(point, scenario, found, faults)
    return found


def history_faults(stage: Stage, scenario: str, known: set[str], touched: Sequence[str]) -> list[str]:
    """Every reload that touched something is in history, and none is under way for ever."""
    reports = stage.reports()
    found = [f"history: under way for ever: {report}" for report in reports if not report["done"]]
    new = [report for report in reports if report["reload_id"] not in known]
    if scenario in {"reload", "rollback", "apply"} and touched and not new:
        found.append(f"history knows nothing of the reload that ended {touched}")
    for report in new:
        words = {row["result"] for row in report["mounts"]}
        if not report["mounts"] or words & {"pending"}:
            found.append(f"history: {report}")
    return found


def lasting_faults(stage: Stage) -> list[str]:
    """What stays wrong: after its exec a process has no environment yet, a former one may still be ending."""
    deadline = time.monotonic() + LASTING
    while (faults := _faults_now(stage)) and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    return faults


def _faults_now(stage: Stage) -> list[str]:
    try:
        return stage.faults()
    except FileNotFoundError as error:  # it went while it was looked at
        return [repr(error)]


# --- a system call that fails


def one_error(stage: Stage, scenario: str, point: Point, tally: Tally) -> dict[str, Any]:
    """Let calls of the daemon fail there: it comes to rights by itself, and so does the next one.

    Returns what the tracer saw.
    """
    before = stage.plugind.rows()
    known = {report["reload_id"] for report in stage.reports()}
    faults: list[str] = []
    found: dict[str, Any] = {"hit": None, "tail": [], "injected": []}
    try:
        found = acted(stage, scenario, point.aim, point.number)
        tally.note(point, found)
        faults += _survived(stage, scenario, found)
        faults += _answered(stage, scenario, before, found)
        stage.settle()
        faults += _untidy_excepted(lasting_faults(stage), found)
        faults += history_faults(stage, "", known, ())
        if scenario != "adopt":
            faults += _leaked(stage)
        stage.wait_for_log()
        faults += stage.lines()
        faults += stage.broken_code(told_damage=bool(found["injected"]))
        stage.note_living()
        stage.plugind.kill()
        stage.up()
        faults += lasting_faults(stage) + stage.not_adopted()
    except (Broken, OSError, http.client.HTTPException, AssertionError) as error:
        faults.append(f"{error!r}"[:1500])
        faults.append(stage.plugind.told.read_text(errors="replace")[-2500:])
    faults += stage.broken_code(told_damage=bool(found["injected"]))
    tally.blame(point, scenario, found, faults)
    return found


def _survived(stage: Stage, scenario: str, found: dict[str, Any]) -> list[str]:
    """It lives; or it could not begin, said why, and the next one can."""
    if not stage.plugind.is_dead():
        try:
            return _not_adopted(stage, found) if scenario in STARTS else []
        except OSError:  # it was just ending: what its start still had to do was refused
            stage.plugind.until(stage.plugind.is_dead, LASTING)
    status = (stage.plugind.status or 0) >> 8
    told = stage.plugind.told.read_text(errors="replace")
    is_mute = any(call.endswith("/stderr") for call in found["injected"])
    says_why = is_mute or any(line.startswith("plugind: ") for line in told.splitlines())
    if scenario not in STARTS or status not in REFUSED or not says_why or "Traceback" in told:
        return [f"it ended with {stage.plugind.status}: {told[-1500:]}"]
    stage.up()
    return _not_adopted(stage, found)


def _not_adopted(stage: Stage, found: dict[str, Any]) -> list[str]:
    """Those whose record could be read are adopted; the others only if they lived long enough to be known."""
    unreadable = {
        name for name, one in stage.living.items() if any(one in call for call in found["injected"])
    }
    return [fault for fault in stage.not_adopted() if fault.partition(":")[0] not in unreadable]


def _answered(
    stage: Stage, scenario: str, before: dict[str, dict[str, Any]], found: dict[str, Any]
) -> list[str]:
    """The answer is true, and if it tells of a failure, the same command works now."""
    faults: list[str] = []
    answer = stage.answer
    if stage.lost and not any(call.split()[0] in injected.NETWORK for call in found["injected"]):
        faults.append(f"no answer: {stage.lost}")
    if scenario in {"adopt", "crash", "rotate"}:
        return faults
    if answer is not None and answer.status >= 400:
        data = (answer.body or {}).get("data")
        if not data:
            after = stage.plugind.rows()
            faults += [
                f"{name}: refused, and yet touched: {answer.body}"
                for name, row in before.items()
                if scenario in {"reload", "apply"} and after[name]["pid"] != row["pid"]
            ]
            faults += [f"an error without a reason: {answer.body}"] * (not answer.error)
    elif answer is not None:
        faults += _untrue(stage, scenario, answer.data)
    well = WELL.get(scenario, 200)
    is_well = answer is not None and answer.status == well
    if not is_well:
        if scenario != "apply":  # what was not begun of an apply nobody does by himself
            stage.settle()
        SCENARIOS[scenario][1](stage)
        again = stage.answer
        if again is None or again.status != well:
            first = answer.body if answer is not None else stage.lost
            faults.append(f"asked again, it answered {again and again.body}; at first: {first}")
    return faults


def _untrue(stage: Stage, scenario: str, data: dict[str, Any]) -> list[str]:
    """Rows of an answer that do not fit what runs."""
    now = stage.plugind.rows()
    found: list[str] = []
    for row in data.get("mounts", ()) if scenario in {"reload", "apply"} else ():
        there = now.get(f"{row['namespace']}:{row['mount']}")
        if row["result"] in {"reloaded", "started"}:
            version = there and there["version"]
            if not there or there["pid"] != row["new_pid"] or version != row["new_version"]:
                found.append(f"the answer says {row}, and there is {there}")
        elif row["result"] not in {"stopped", "unchanged"}:
            found.append(f"200 for {row}")
    return found


def _untidy_excepted(faults: Sequence[str], found: dict[str, Any]) -> list[str]:
    """A file that could not be removed may be there until the next start."""
    if not any(call.split()[0] in injected.REMOVES for call in found["injected"]):
        return list(faults)
    return [
        fault for fault in faults if not fault.startswith(("tmp: ", "instances: ", "root: ", "temporary"))
    ]


def _leaked(stage: Stage) -> list[str]:
    """Descriptors that are open now and were not when it began, apart from those of the mounts' logs."""
    more: Counter[str] = Counter()
    for attempt in range(50):
        more = stage.descriptors()
        more.subtract(stage.opened)
        more = +Counter({what: more[what] for what in more if "/logs/" not in what and "/log/" not in what})
        if more.total() <= LOOSE or attempt == 49:
            break
        threading.Event().wait(0.02)
    return [f"descriptors: {more}"] if more.total() > LOOSE else []
