"""`pluginctl pin`: edit the pin of a plugin in the catalog file."""

from typing import Final

import click

from supervisor.cli.client import Daemon, Refused, quoted
from supervisor.cli.follow import Wishes, carry_out, reload_options, wishes
from supervisor.cli.render import Look, visible, word
from supervisor.cli.session import Session, read_plugin, shared_options

NOT_FOUND: Final = 404


@click.command("pin")
@click.argument("plugin_ref", metavar="TYPE/NAME")
@click.argument("version", required=False)
@click.option("--undo", is_flag=True, help="Put back the pin that the last one replaced.")
@click.option("--reload", "and_reload", is_flag=True, help="Then reload the plugin in all namespaces.")
@reload_options
@shared_options
@click.pass_obj
def command(
    session: Session,
    /,
    plugin_ref: str,
    version: str | None,
    *,
    undo: bool,
    and_reload: bool,
    **options: object,
) -> int:
    """Pin a version of a plugin; without VERSION, show which one is pinned.

    This edits one word of the catalog file and moves no process: reload does. The options of reload count
    with --reload only. --undo is refused where the pin is not any more what plugind wrote last.
    """
    kind, name = read_plugin(plugin_ref)
    asked = wishes(options)
    _check(asked, version, undo=undo, and_reload=and_reload)
    daemon = session.daemon()
    place = f"sys/plugins/pins/{quoted(kind)}/{quoted(name)}"
    if version is None and not undo:
        return _show(session, daemon, place, plugin_ref)
    old = _pinned(daemon, place)
    if undo:
        answer = daemon.ask("POST", f"supervisor/pins/{quoted(kind)}/{quoted(name)}/undo")
    else:
        answer = daemon.ask("PUT", place, {"version": version})
    session.warn(answer)
    if not and_reload and session.as_json:
        session.write_json(answer.data)
        return 0
    if not session.as_json:
        what = _told(old, answer.data.get("version"), session.look())
        session.write(f"pin of {visible(plugin_ref)}: {visible(what)}\n")
    if not and_reload:
        if not session.as_json:
            session.write(f"what runs is not touched; to start it: pluginctl reload {kind}/{name}\n")
        return 0
    return carry_out(session, daemon, f"sys/plugins/reload/{quoted(kind)}/{quoted(name)}", asked)


def _check(asked: Wishes, version: str | None, *, undo: bool, and_reload: bool) -> None:
    if not and_reload and (asked.body or not asked.wait):
        raise click.UsageError("The options of reload need --reload.")
    if and_reload and asked.is_rehearsal:
        raise click.UsageError("--dry-run would still write the pin: use reload --dry-run afterwards.")
    if and_reload and version is None and not undo:
        raise click.UsageError("--reload needs a VERSION to pin, or --undo.")
    if undo and version is not None:
        raise click.UsageError("--undo knows the version: leave VERSION out.")


def _told(old: str | None, new: object, look: Look) -> str:
    if new is None:
        return f"none, it was {word(old)}"
    return f"already {word(new)}" if old == new else look.change(word(old), word(new))


def _show(session: Session, daemon: Daemon, place: str, plugin_ref: str) -> int:
    try:
        answer = daemon.ask("GET", place)
    except Refused as error:
        if error.status != NOT_FOUND:
            raise
        raise Refused(f"{plugin_ref} has no pin, or is not in the catalog", NOT_FOUND) from error
    session.warn(answer)
    if session.as_json:
        session.write_json(answer.data)
    else:
        session.write(visible(word(answer.data.get("version"))) + "\n")
    return 0


def _pinned(daemon: Daemon, place: str) -> str | None:
    """What was pinned before, for the message only: the daemon refuses where it must."""
    try:
        version = daemon.ask("GET", place).data.get("version")
    except Refused:
        return None
    return version if isinstance(version, str) else None
