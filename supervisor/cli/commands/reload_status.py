"""`pluginctl reload-status`: how far a reload is, or how it ended."""

import click

from supervisor.cli.follow import follow, full_report, is_done, print_report, reload_state
from supervisor.cli.progress import Screen
from supervisor.cli.session import Session, shared_options


@click.command("reload-status")
@click.argument("reload_id", metavar="ID")
@click.option("-w", "--wait", is_flag=True, help="Follow it to its end.")
@shared_options
@click.pass_obj
def command(session: Session, reload_id: str, *, wait: bool) -> int:
    """Show a reload or an apply: each mount, and each node of a global one.

    The ID is what reload and apply print; `pluginctl history` lists the last ones.
    """
    daemon = session.daemon()
    state = reload_state(daemon, reload_id)
    if wait and not is_done(state):
        screen = None if session.as_json else Screen.of_terminal()
        return print_report(session, follow(daemon, reload_id, screen))
    return print_report(session, full_report(daemon, reload_id, state))
