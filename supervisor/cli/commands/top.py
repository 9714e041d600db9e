"""`pluginctl top`: which mounts use the most, again and again."""

import os
import select
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from time import monotonic
from typing import Final

import click

from supervisor.cli.client import Daemon, NotReachable
from supervisor.cli.commands.status import STATES, footer
from supervisor.cli.render import NOTHING, Cell, Look, Row, rows_of, shown_mount, since, visible_lines, word
from supervisor.cli.session import Session, shared_options

HEADER: Final = ("NAMESPACE", "MOUNT", "PLUGIN", "VERSION", "STATE", "PID", "CPU", "MEMORY", "UP", "RESTARTS")
RIGHT: Final = "PID CPU MEMORY RESTARTS"
BEGIN: Final = "\x1b[?1049h\x1b[?25l"
"""Another screen, no cursor; END takes both back."""
END: Final = "\x1b[?25h\x1b[?1049l"
TOP_LEFT: Final = "\x1b[H\x1b[J"
LINES_AROUND: Final = 4


class Usage:
    """CPU between two looks at an instance: `cpu_seconds` only ever grows."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, float]] = {}

    def cores(self, rows: list[Row], at: float) -> dict[str, float]:
        """How many cores each instance used since the last look, by instance."""
        used: dict[str, float] = {}
        seen: dict[str, tuple[float, float]] = {}
        for row in rows:
            instance, seconds = _instance(row), row.get("cpu_seconds")
            if isinstance(seconds, bool) or not isinstance(seconds, int | float):
                continue
            seen[instance] = (at, seconds)
            if instance in self._before:
                then, before = self._before[instance]
                used[instance] = max(seconds - before, 0.0) / max(at - then, 0.001)
        self._before = seen
        return used


@click.command("top")
@click.option("--every", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, metavar="SECONDS")
@shared_options
@click.pass_obj
def command(session: Session, every: float) -> int:
    """Show the mounts that use the most CPU, and go on until Ctrl-C.

    CPU is in percent of one core.
    """
    if session.as_json or not sys.stdout.isatty():
        raise click.UsageError("top needs a terminal; for programs there is status --json.")
    daemon, usage = session.daemon(), Usage()
    rows = _rows(daemon)
    trouble = ""
    sys.stdout.write(BEGIN)
    try:
        while True:
            now, cores = datetime.now(UTC), usage.cores(rows, monotonic())
            sys.stdout.write(TOP_LEFT + trouble + screen(rows, cores, session.look(), _height(), now))
            sys.stdout.flush()
            select.select([], [], [], every)
            try:
                rows, trouble = _rows(daemon), ""
            except NotReachable as error:  # it may come back
                trouble = visible_lines(error.format_message()) + "\n"
    except KeyboardInterrupt:
        return 0
    finally:
        sys.stdout.write(END)


def _rows(daemon: Daemon) -> list[Row]:
    return rows_of(daemon.ask("GET", "supervisor/instances").data, "instances")


def screen(rows: list[Row], cores: Mapping[str, float], look: Look, height: int, now: datetime) -> str:
    """As many mounts as there is room for, the busiest first, and the counts of all."""
    busiest = sorted(rows, key=lambda row: (-cores.get(_instance(row), -1.0), shown_mount(row)))
    room = max(height - LINES_AROUND, 1)
    lines = [_line(row, cores.get(_instance(row)), now) for row in busiest[:room]]
    return footer({}, rows) + (look.table(HEADER, lines, right=RIGHT) if lines else "")


def _line(row: Row, cores: float | None, now: datetime) -> list[Cell]:
    state = word(row.get("state"))
    return [
        word(row.get("namespace")),
        shown_mount(row),
        f"{word(row.get('type'))}/{word(row.get('plugin'))}",
        word(row.get("version")),
        (state, STATES[state]) if state in STATES else state,
        word(row.get("pid")),
        NOTHING if cores is None else f"{cores * 100:.0f}%",
        size(row.get("memory_bytes")),
        since(row.get("ready_at") or row.get("started_at"), now) if row.get("pid") is not None else NOTHING,
        word(row.get("restarts")),
    ]


def size(value: object) -> str:
    """Bytes as `12.5MiB`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return NOTHING
    amount, units = float(min(value, 1 << 80)), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:  # noqa: PLR2004 - of them make the next unit
        amount /= 1024
        units.pop(0)
    return f"{amount:.0f}{units[0]}" if units[0] == "B" else f"{amount:.1f}{units[0]}"


def _instance(row: Row) -> str:
    return f"{row.get('instance')} {row.get('pid')} {row.get('namespace')}/{row.get('mount')}"


def _height() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).lines or 24
    except (OSError, ValueError):
        return 24
