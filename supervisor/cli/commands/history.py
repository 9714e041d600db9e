"""`pluginctl history`: the last reloads and applies."""

from collections import Counter
from typing import Final

import click

from supervisor.cli.follow import RESULTS
from supervisor.cli.progress import BAD
from supervisor.cli.render import Cell, Row, between, counted, local_time, rows_of, word
from supervisor.cli.session import Session, shared_options

HEADER: Final = ("ID", "AT", "WHAT", "BY", "TOOK", "RESULT")


@click.command("history")
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, metavar="N", help="The last N."
)
@shared_options
@click.pass_obj
def command(session: Session, *, limit: int) -> int:
    """Show the last reloads and applies, newest first.

    `pluginctl reload-status ID` shows the mounts of one.
    """
    answer = session.daemon().ask("GET", f"supervisor/reloads?limit={limit}")
    session.warn(answer)
    if session.as_json:
        session.write_json(answer.data)
        return 0
    rows = rows_of(answer.data, "reloads")
    if rows:
        session.write(session.look().table(HEADER, [_line(row) for row in rows]))
    else:
        session.write("nothing was reloaded or applied yet\n")
    return 0


def _line(row: Row) -> list[Cell]:
    counts = Counter(word(mount.get("result")) for mount in rows_of(row, "mounts"))
    result = counted(counts, tuple(RESULTS)) or "no mount was touched"
    if not row.get("done"):
        result = f"under way: {result}"
    return [
        word(row.get("reload_id")),
        local_time(row.get("started_at")),
        f"{word(row.get('verb'))} {word(row.get('target'))}" if row.get("target") else word(row.get("verb")),
        word(row.get("by")),
        between(row.get("started_at"), row.get("finished_at")),
        (result, "bad") if BAD & counts.keys() else result,
    ]
