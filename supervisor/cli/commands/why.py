"""`pluginctl why`: the last steps of a mount's life, with their reasons."""

from typing import Final

import click

from supervisor.cli.client import quoted_path
from supervisor.cli.mounts import MOUNT
from supervisor.cli.render import Cell, Look, Row, local_time, rows_of, texts_of, word
from supervisor.cli.session import Session, read_mount, shared_options

HEADER: Final = ("AT", "EVENT", "STATE", "VERSION", "PID", "REASON")


@click.command("why")
@MOUNT
@shared_options
@click.pass_obj
def command(session: Session, mount: str) -> int:
    """Show how a mount came to be as it is: its last transitions, oldest first."""
    namespace, path = read_mount(session, mount)
    answer = session.daemon(namespace).ask("GET", f"supervisor/why/{quoted_path(path)}")
    session.warn(answer)
    if session.as_json:
        session.write_json(answer.data)
        return 0
    look = session.look()
    look.width = None  # the whole reason is what was asked for
    rows = rows_of(answer.data, "transitions")
    if rows:
        session.write(look.table(HEADER, [_line(row, look) for row in rows], right="PID"))
    else:
        session.write("nothing has happened to it since plugind began\n")
    return 0


def _line(row: Row, look: Look) -> list[Cell]:
    return [
        local_time(row.get("at")),
        word(row.get("event")),
        step(row, look),
        word(row.get("version")),
        word(row.get("pid")),
        reason(row),
    ]


def step(row: Row, look: Look) -> str:
    before, after = word(row.get("before")), word(row.get("after"))
    return after if before == after else look.change(before, after)


def reason(row: Row) -> str:
    """Why, and what was answered by it."""
    reloads = texts_of(row, "reload_ids")
    parts = [str(row["reason"])] if row.get("reason") else []
    answered = [*texts_of(row, "commands"), *(f"reload {reload_id}" for reload_id in reloads)]
    return "; ".join([*parts, *answered])
