"""`pluginctl catalog`: which plugins there are, and in which versions; one more, or one less."""

import os
from typing import Final

import click

from supervisor.cli.client import Daemon, Refused, quoted
from supervisor.cli.render import NOTHING, Cell, Row, rows_of, visible, word
from supervisor.cli.session import Session, read_plugin, shared_options

HEADER: Final = ("PLUGIN", "VERSION", "PINNED", "MOUNTS", "SHA256", "COMMAND")
DIGEST_SHOWN: Final = 12


NOT_FOUND: Final = 404


class _Catalog(click.Group):
    """What is no command is a plugin to be shown."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and "/" in args[0]:
            return show.name, show, args
        return super().resolve_command(ctx, args)


@click.group(
    "catalog",
    cls=_Catalog,
    invoke_without_command=True,
    subcommand_metavar="[TYPE/NAME | add | remove]",
)
@shared_options
@click.pass_context
def command(context: click.Context) -> int:
    """Show the versions of all plugins, or of one, and which is pinned; add or remove one."""
    return 0 if context.invoked_subcommand is not None else _shown(context.ensure_object(Session), None)


@click.command("show")
@click.argument("plugin_ref", metavar="TYPE/NAME")
@shared_options
@click.pass_obj
def show(session: Session, plugin_ref: str) -> int:
    return _shown(session, plugin_ref)


@command.command("add")
@click.argument("plugin_ref", metavar="TYPE/NAME")
@click.argument("version")
@click.argument("args", nargs=-1, metavar="[-- ARGS...]")
@click.option("--command", "path", metavar="PATH", required=True, help="The executable.")
@click.option("--sha256", metavar="HEX", help="Its SHA-256. Default: that of the file as it is.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable; may be given more than once.")
@shared_options
@click.pass_obj
def add(  # noqa: PLR0913 - one for each option
    session: Session,
    plugin_ref: str,
    version: str,
    args: tuple[str, ...],
    *,
    path: str,
    sha256: str | None,
    env: tuple[str, ...],
) -> int:
    """Add a version to a plugin: one entry in the catalog file, and nothing else in it changes.

    What stands after -- becomes its args. Nothing runs it before it is pinned and reloaded.
    """
    place = _place(plugin_ref)
    body: dict[str, object] = {"version": version, "command": os.path.abspath(path)}  # noqa: PTH100 - pathlib is 5 ms
    body |= {key: value for key, value in (("sha256", sha256), ("args", args), ("env", env)) if value}
    daemon = session.daemon()
    session.warn(daemon.ask("PUT", place, body))
    made = daemon.ask("GET", f"{place}?version={quoted(version)}")
    if session.as_json:
        session.write_json(made.data)
        return 0
    digest = word(made.data.get("sha256"))
    session.write(visible(f"added to {plugin_ref}: {version}, SHA-256 {digest}") + "\n")
    session.write(
        visible(f"what runs is not touched; to pin it: pluginctl pin {plugin_ref} {version}") + "\n"
    )
    return 0


@command.command("remove")
@click.argument("plugin_ref", metavar="TYPE/NAME")
@click.argument("version")
@shared_options
@click.pass_obj
def remove(session: Session, plugin_ref: str, version: str) -> int:
    """Remove a version that nothing needs: it is not pinned, and no mount has or runs it."""
    place = f"{_place(plugin_ref)}?version={quoted(version)}"
    daemon = session.daemon()
    _must_exist(daemon, place, plugin_ref, version)
    session.warn(daemon.ask("DELETE", place))
    if session.as_json:
        session.write_json({})
    else:
        session.write(visible(f"removed from {plugin_ref}: {version}") + "\n")
    return 0


def _place(plugin_ref: str) -> str:
    kind, name = read_plugin(plugin_ref)
    return f"sys/plugins/catalog/{quoted(kind)}/{quoted(name)}"


def _must_exist(daemon: Daemon, place: str, plugin_ref: str, version: str) -> None:
    """Vault's API takes one that is not there for one that was removed; a typing error is told here."""
    try:
        daemon.ask("GET", place)
    except Refused as error:
        if error.status != NOT_FOUND:
            raise
        raise Refused(
            f"{plugin_ref} has no version {version}, or is not in the catalog", NOT_FOUND
        ) from error


def _shown(session: Session, plugin_ref: str | None) -> int:
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
