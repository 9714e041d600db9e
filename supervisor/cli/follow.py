"""A reload or an apply from the request to the last mount: wait, show how far it is, report."""

import select
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final, TypeVar

import click

from supervisor.cli.client import LONG, Daemon, NotReachable, Refused, quoted
from supervisor.cli.progress import BAD, Screen
from supervisor.cli.render import (
    NOTHING,
    Cell,
    Look,
    Row,
    Style,
    between,
    counted,
    duration,
    rows_of,
    shown_mount,
    texts_of,
    visible,
    visible_lines,
    word,
)
from supervisor.cli.session import Session

F = TypeVar("F", bound=Callable[..., object])

SOME_FAILED: Final = 1
INTERRUPTED: Final = 130
FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 0.2
PATIENCE: Final = 30.0
"""Seconds for which a daemon that was there may be away: it is upgraded or started again."""
LOG_LINES: Final = 5
RESULTS: Final[dict[str, Style]] = {
    "reloaded": "good",
    "started": "good",
    "stopped": "good",
    "unchanged": "dim",
    "skipped": "warn",
    "pending": "warn",
    "rolled_back": "bad",
    "failed": "bad",
    "interrupted": "bad",
}
HEADER: Final = ("NAMESPACE", "MOUNT", "VERSION", "PID", "DOWN", "RESULT", "NOTE")


class Interrupted(click.ClickException):
    """Ctrl-C; what the daemon does goes on."""

    exit_code = INTERRUPTED


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a reload is to be done, and whether to see its end."""

    body: Mapping[str, object]
    wait: bool = True

    @property
    def is_rehearsal(self) -> bool:
        return bool(self.body.get("dry_run"))


def reload_options(function: F) -> F:
    """Add the options that reload and apply share; the command gets them as keywords for `wishes`."""
    options = (
        click.option("--dry-run", is_flag=True, help="Check everything and say what would be done."),
        click.option("--no-wait", is_flag=True, help="Return as soon as it has begun."),
        click.option("--parallel", type=click.IntRange(1), metavar="N", help="Mounts at a time."),
        click.option(
            "--on-failure",
            type=click.Choice(["halt", "continue"]),
            help="After a mount failed: leave the mounts that are not begun as they are (default), or go on.",
        ),
        click.option(
            "--max-failures", type=click.IntRange(0), metavar="N", help="Halt only after more than N failed."
        ),
        click.option("--partial", is_flag=True, help="Where a target is unfit, do the others."),
        click.option(
            "--canary", type=click.IntRange(1), metavar="N", help="First N mounts alone; go on if well."
        ),
        click.option("--canary-for", metavar="TIME", help="Watch the canaries for this long, such as 30s."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def wishes(options: Mapping[str, object]) -> Wishes:
    """What the options ask for: only what was said is sent."""
    said = {name: value for name, value in options.items() if value is not None and value is not False}
    return Wishes({name: value for name, value in said.items() if name != "no_wait"}, "no_wait" not in said)


def carry_out(session: Session, daemon: Daemon, target: str, asked: Wishes) -> int:
    """Ask for it, see it to its end, print the report; the exit status."""
    screen = None if session.as_json or asked.is_rehearsal else Screen.of_terminal()
    body = {**asked.body, "wait": asked.wait and screen is None}
    try:
        answer = daemon.ask("POST", target, body, quiet_for=LONG)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; what was begun goes on: see pluginctl history") from None
    session.warn(answer)
    data: Row = answer.data
    reload_id = word(data.get("reload_id"))
    if answer.status == 202:  # noqa: PLR2004 - HTTP: accepted
        if not asked.wait:
            return _begun(session, data, reload_id)
        data = follow(daemon, reload_id, screen)
    status = print_report(session, data)
    if status == 0 and answer.errors:
        session.tell("pluginctl: " + "\n".join(answer.errors))
        return SOME_FAILED
    return status


def _begun(session: Session, data: Row, reload_id: str) -> int:
    if session.as_json:
        session.write_json(data)
    else:
        shown = visible(reload_id)
        session.write(f"begun: {shown}\nfollow it: pluginctl reload-status --wait {shown}\n")
    return 0


def follow(daemon: Daemon, reload_id: str, screen: Screen | None) -> Row:
    """The report of a reload under way, once it is done; meanwhile `screen` shows how far it is."""
    began = monotonic()
    heard = began
    pause = FIRST_PAUSE
    state: Row = {}
    try:
        while True:
            try:
                state = reload_state(daemon, reload_id)
                heard = monotonic()
            except NotReachable as error:
                if monotonic() - heard > PATIENCE:
                    raise NotReachable(
                        f"{error.format_message()}\n{reload_id} may still be under way: "
                        f"pluginctl reload-status {reload_id}"
                    ) from error
            if state and is_done(state):
                break
            if screen is not None:
                screen.show(state, monotonic() - began)
            select.select([], [], [], pause)
            pause = min(pause * 2, LONGEST_PAUSE)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; {reload_id} goes on: follow it with pluginctl reload-status --wait {reload_id}"
        ) from None
    finally:
        if screen is not None:
            screen.clear()
    return full_report(daemon, reload_id, state)


def reload_state(daemon: Daemon, reload_id: str) -> Row:
    return daemon.ask("GET", f"sys/plugins/reload/backend/status?reload_id={quoted(reload_id)}").data


def is_done(state: Row) -> bool:
    """Whether no node is still at it."""
    return bool(state["done"]) if "done" in state else not state.get("pending")


def full_report(daemon: Daemon, reload_id: str, state: Row) -> Row:
    """What history has of a reload, and the nodes' results; what the status has where history has nothing."""
    try:
        report: Row = daemon.ask("GET", f"supervisor/reloads/{quoted(reload_id)}").data
    except Refused:
        report = {"reload_id": reload_id}
    return {**state, **report}


def print_report(session: Session, data: Row) -> int:
    """Write the report of a reload or apply, and say by the exit status whether all went well."""
    if session.as_json:
        session.write_json(data)
    else:
        session.write(report(data, session.look()))
    if any(row.get("result") in BAD for row in rows_of(data, "mounts")):
        return SOME_FAILED
    errors = [error for _, error in _nodes(data) if error]
    if errors and data.get("scope") != "global":
        session.tell("pluginctl: " + "\n".join(errors))
    return SOME_FAILED if errors else 0


def report(data: Row, look: Look) -> str:
    """A table of the mounts, what went wrong with each, and a line that sums it up."""
    rows = rows_of(data, "mounts")
    shown = [row for row in rows if row.get("result") != "unchanged" or data.get("dry_run")]
    text = results_table(shown, look) if shown else ""
    text += "".join(result_trouble(row, look) for row in shown if row.get("result") in BAD)
    for node, error in _nodes(data):
        if error and data.get("scope") == "global":
            text += f"{look.styled('node ' + visible(node), 'bad')}: {visible_lines(error)}\n"
    return text + _summary(data, rows)


def results_table(rows: list[Row], look: Look) -> str:
    return look.table(HEADER, [_result_line(row, look) for row in rows])


def _result_line(row: Row, look: Look) -> list[Cell]:
    result = word(row.get("would_be") or row.get("result"))
    shown = _result(row)
    return [
        word(row.get("namespace")),
        shown_mount(row),
        look.change(word(row.get("old_version")), word(row.get("new_version"))),
        look.change(word(row.get("old_pid")), word(row.get("new_pid"))),
        duration(row.get("down_seconds")),
        (shown, RESULTS[result]) if result in RESULTS else shown,
        _note(row, result),
    ]


def _result(row: Row) -> str:
    """Of a dry run what it would be, where it would be done anything with."""
    would_be = word(row.get("would_be"))
    if would_be in {"reloaded", "started", "stopped"}:
        return f"would be {would_be}"
    return word(row.get("result")).replace("_", " ")


def _note(row: Row, result: str) -> str:
    changed = ", ".join(texts_of(row, "changed"))
    if changed:
        return f"changed: {changed}"
    return "" if result in BAD or not row.get("error") else str(row["error"])


def result_trouble(row: Row, look: Look) -> str:
    """Why a mount is not as it was asked for, and the last that its plugin said."""
    where = f"{visible(shown_mount(row))} in {visible(word(row.get('namespace')))}"
    what = visible(word(row.get("result"))).replace("_", " ")
    why = visible_lines(str(row.get("error") or "no reason given"))
    log = texts_of(row, "log")[-LOG_LINES:]
    return f"{look.styled(where, 'bad')}: {what}: {why}\n" + "".join(
        f"    | {visible(line)}\n" for line in log
    )


def _summary(data: Row, rows: list[Row]) -> str:
    counts = Counter(map(_result, rows))
    name = (
        "dry run"
        if data.get("dry_run")
        else f"{word(data.get('verb') or 'reload')} {word(data.get('reload_id'))}"
    )
    took = between(data.get("started_at"), data.get("finished_at"))
    results = counted(counts, tuple(name.replace("_", " ") for name in RESULTS)) or "no mount was touched"
    silent = ", ".join(texts_of(data, "pending")) if data.get("scope") == "global" else ""
    left = (
        f" (still under way{f' on {visible(silent)}' if silent else ''})" if data.get("done") is False else ""
    )
    return f"{visible(name)}: {visible(results)}{'' if took == NOTHING else f' in {took}'}{left}\n"


def _nodes(data: Row) -> list[tuple[str, str]]:
    """Each node that is done with it, and its error (empty: all went well there)."""
    results = data.get("results")
    if not isinstance(results, dict):
        return []
    return [
        (str(node), str(result.get("error") or ""))
        for node, result in sorted(results.items())
        if isinstance(result, dict)
    ]
