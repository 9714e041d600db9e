"""`pluginctl status`: one line per mount, and what is wrong with the catalog."""

from collections import Counter
from datetime import UTC, datetime
from typing import Final

import click

from supervisor.cli.client import Refused
from supervisor.cli.render import (
    NOTHING,
    Cell,
    Look,
    Row,
    Style,
    counted,
    held_lines,
    local_time,
    plural,
    rows_of,
    shown_mount,
    since,
    texts_of,
    visible,
    word,
)
from supervisor.cli.session import Session, shared_options

STATES: Final[dict[str, Style]] = {
    "ready": "good",
    "starting": "warn",
    "stopping": "warn",
    "backoff": "warn",
    "failed": "bad",
    "stopped": "dim",
}
HEADER: Final = ("NAMESPACE", "MOUNT", "PLUGIN", "VERSION", "STATE", "PID", "UP", "RESTARTS", "NOTE")


@click.command("status")
@click.option("-v", "--verbose", is_flag=True, help="Also the daemon, its catalog file, and what is in use.")
@shared_options
@click.pass_obj
def command(session: Session, *, verbose: bool) -> int:
    """Show what runs: a line for each mount.

    NOTE says where a mount does not run what is pinned, why it does not run, and who stopped it.
    """
    daemon = session.daemon()
    answer = daemon.ask("GET", "supervisor/instances")
    try:
        node = daemon.ask("GET", "supervisor/status")
    except Refused:
        node = None  # not everybody may see the node
    session.warn(answer)
    if session.as_json:
        session.write_json({**answer.data, "status": node.data if node else None})
        return 0
    about: Row = node.data if node else {}
    rows = rows_of(answer.data, "instances")
    look = session.look()
    if verbose:
        session.write(_about(about, look, datetime.now(UTC)))
    if rows:
        now = datetime.now(UTC)
        session.write(look.table(HEADER, [_line(row, now) for row in rows], right="PID RESTARTS"))
    session.write(footer(about, rows) + held_lines(about))
    if look.has_cut:
        session.write(f"{look.more} is cut here: pluginctl why MOUNT has the whole of it\n")
    session.warn(_faults(about))
    session.warn(texts_of(about, "warnings"))
    return 0


def _line(row: Row, now: datetime) -> list[Cell]:
    state = word(row.get("state"))
    is_running = row.get("pid") is not None
    restarts = word(row.get("restarts"))
    return [
        word(row.get("namespace")),
        shown_mount(row),
        f"{word(row.get('type'))}/{word(row.get('plugin')).rpartition('/')[2]}",
        word(row.get("version")),
        (state, STATES[state]) if state in STATES else state,
        word(row.get("pid")),
        since(row.get("ready_at") or row.get("started_at"), now) if is_running else NOTHING,
        restarts,
        _note(row),
    ]


def _note(row: Row) -> str:
    """What is wrong comes first: the end may not fit on the line."""
    notes: list[str] = []
    reason = str(row.get("reason") or "")
    stopped_by, rolled_back = row.get("stopped_by"), f"rolled back from {row.get('rolled_back_from')}"
    if stopped_by and str(stopped_by) not in reason:  # a reason that says it as well says more
        notes.append(f"stopped by {stopped_by}")
    if reason:
        notes.append(reason)
    elif row.get("last_exit") and row.get("state") in {"backoff", "failed"}:
        notes.append(f"last: {row['last_exit']}")
    if row.get("rolled_back_from") and rolled_back not in reason:
        notes.append(rolled_back)
    version, pinned = row.get("version"), row.get("pinned_version")
    if row.get("has_own_version"):
        notes.append("own version")
    elif pinned and version and pinned != version:
        notes.append(f"pinned {pinned}")
    return "; ".join(notes)


def footer(about: Row, rows: list[Row]) -> str:
    counts = Counter(word(row.get("state")) for row in rows)
    node = f"{visible(word(about['node']))}: " if about.get("node") else ""
    total = plural(len(rows), "mount")
    return f"{node}{total}{': ' * bool(rows)}{visible(counted(counts, tuple(STATES)))}\n"


def _faults(about: Row) -> list[str]:
    catalog = about.get("catalog")
    if not isinstance(catalog, dict) or not catalog.get("file"):
        return []  # a namespace is not told about the file
    faults = texts_of(catalog, "faults")
    source = catalog.get("source")
    why = []
    if source == "none":
        why.append(f"no catalog is in force: nothing is started ({word(catalog.get('file'))})")
    elif faults or source == "last good":
        loaded = local_time(catalog.get("loaded_at"))
        why.append(f"{word(catalog.get('file'))} cannot come into force; the last good one, of {loaded}, is")
    return ["\n  ".join([*why, *faults])] if why or faults else []


def _about(about: Row, look: Look, now: datetime) -> str:
    catalog = about.get("catalog")
    uses = about.get("uses")
    facts = [
        ("node", word(about.get("node"))),
        ("plugind", f"{word(about.get('version'))}, pid {word(about.get('pid'))}"),
        ("up", since(about.get("started_at"), now)),
    ]
    if isinstance(catalog, dict):
        size = f"{word(catalog.get('plugins'))} plugins, {word(catalog.get('mounts'))} mounts"
        loaded = word(catalog.get("source"))
        if catalog.get("loaded_at"):
            loaded += f", loaded {local_time(catalog['loaded_at'])}"
        facts.append(("catalog", f"{word(catalog.get('file'))} ({loaded}: {size})"))
    if isinstance(uses, dict):
        facts += [(str(name), word(value)) for name, value in uses.items()]
    width = max(len(visible(name)) for name, _ in facts)
    return (
        "".join(
            f"{look.styled(visible(name).ljust(width), 'dim')}  {visible(value)}\n" for name, value in facts
        )
        + "\n"
    )
