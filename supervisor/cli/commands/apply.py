"""`pluginctl apply`: make everything as the catalog says, as `plan` shows it."""

import click

from supervisor.cli.follow import carry_out, reload_options, wishes
from supervisor.cli.session import Session, shared_options


@click.command("apply")
@reload_options
@shared_options
@click.pass_obj
def command(session: Session, /, **options: object) -> int:
    """Start, stop and replace what differs from the catalog file.

    `pluginctl plan` shows it beforehand. What is as the catalog says is left alone.
    """
    return carry_out(session, session.daemon(), "supervisor/apply", wishes(options))
