"""`pluginctl catalog`: which plugins there are, and in which versions."""

from typing import Final

import click

from supervisor.cli.render import NOTHING, Cell, Row, rows_of, word
from supervisor.cli.session import Session, read_plugin, shared_options

HEADER: Final = ("PLUGIN", "VERSION", "PINNED", "MOUNTS", "SHA256", "COMMAND")
DIGEST_SHOWN: Final = 12


@click.command("catalog")
@click.argument("plugin_ref", metavar="[TYPE/NAME]", required=False)
@shared_options
@click.pass_obj
def command(session: Session, plugin_ref: str | None) -> int:
    """Show the versions of all plugins, or of one, and which is pinned."""
    wanted = read_plugin(plugin_ref) if plugin_ref else None
    answer = session.daemon().ask("GET", "sys/plugins/catalog")
    session.warn(answer)
    rows = rows_of(answer.data, "detailed")
    found = [row for row in rows if wanted in {None, (row.get("type"), row.get("name"))}]
    if wanted and not found:
        raise click.UsageError(
            f"The catalog has no plugin {plugin_ref}: pluginctl catalog shows which there are."
        )
    if session.as_json:
        session.write_json({"detailed": found} if wanted else answer.data)
        return 0
    if found:
        lines = [_line(row) for row in found]
        # who may read less is told less: a column that says nothing is left out
        kept = [
            column
            for column in range(len(HEADER))
            if any(line[column] not in {"", NOTHING} for line in lines)
        ]
        table = [[line[column] for column in kept] for line in lines]
        session.write(session.look().table([HEADER[column] for column in kept], table, right="MOUNTS"))
    else:
        session.write("the catalog has no plugins\n")
    return 0


def _line(row: Row) -> list[Cell]:
    command_line = [row["command"]] if row.get("command") else []
    arguments = row.get("args")
    return [
        f"{word(row.get('type'))}/{word(row.get('name'))}",
        word(row.get("version")),
        "pinned" if row.get("pinned") else "",
        word(row.get("mounts")),
        word(row.get("sha256"))[:DIGEST_SHOWN],
        " ".join(map(str, [*command_line, *(arguments if isinstance(arguments, list) else [])])),
    ]
