"""`pluginctl plan`: what `apply` would do."""

from collections import Counter
from typing import Final

import click

from supervisor.cli.render import (
    Cell,
    Look,
    Row,
    Style,
    counted,
    held_lines,
    rows_of,
    shown_mount,
    texts_of,
    visible,
    word,
)
from supervisor.cli.session import Session, shared_options

ACTIONS: Final[dict[str, Style]] = {
    "start": "good",
    "stop": "bad",
    "replace": "warn",
    "settings": "dim",
    "keep": "dim",
}
HEADER: Final = ("NAMESPACE", "MOUNT", "PLUGIN", "ACTION", "VERSION", "WHY")


@click.command("plan")
@click.option("-v", "--verbose", is_flag=True, help="Also the mounts that stay as they are.")
@shared_options
@click.pass_obj
def command(session: Session, *, verbose: bool) -> int:
    """Show what `pluginctl apply` would do now, from the catalog file as it is.

    start, stop and replace touch processes; settings take effect without one.
    """
    answer = session.daemon().ask("GET", "supervisor/plan")
    session.warn(answer)
    if session.as_json:
        session.write_json(answer.data)
        return 0
    look = session.look()
    rows = rows_of(answer.data, "mounts")
    shown = [row for row in rows if verbose or row.get("action") != "keep" or row.get("changed")]
    if shown:
        session.write(look.table(HEADER, [_line(row, look) for row in shown]))
    counts = Counter(word(row.get("action")) for row in rows)
    acts = any(counts[action] for action in ("start", "stop", "replace", "settings"))
    summary = visible(counted(counts, tuple(ACTIONS)))
    held = held_lines(answer.data)
    does_it = "and something is held" if held else "pluginctl apply does it"
    session.write(f"{summary}: {does_it}\n" if acts else "everything is as the catalog says\n")
    session.write(held)
    catalog = answer.data.get("catalog")
    if isinstance(catalog, dict):
        session.warn(texts_of(catalog, "faults"))
    return 0


def _line(row: Row, look: Look) -> list[Cell]:
    action = word(row.get("action"))
    why = texts_of(row, "changed")
    if row.get("has_own_version"):
        why.append("own version")
    return [
        word(row.get("namespace")),
        shown_mount(row),
        word(row.get("plugin")),
        (action, ACTIONS[action]) if action in ACTIONS else action,
        look.change(word(row.get("running_version")), word(row.get("wanted_version"))),
        ", ".join(why),
    ]
