"""`pluginctl catalog`: which plugins there are, and in which versions."""

import click

from supervisor.cli.render import Cell, Row, rows_of, word
from supervisor.cli.session import Session, read_plugin, shared_options

HEADER = ("PLUGIN", "VERSION", "PINNED", "MOUNTS", "SHA256", "COMMAND")
DIGEST_SHOWN = 12


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
        session.write(session.look().table(HEADER, [_line(row) for row in found], right="MOUNTS"))
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
