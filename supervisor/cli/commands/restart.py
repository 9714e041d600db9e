"""`pluginctl restart`: one mount, by hand."""

import click

from supervisor.cli.mounts import MOUNT, change_mount
from supervisor.cli.session import Session, shared_options


@click.command("restart")
@MOUNT
@shared_options
@click.pass_obj
def command(session: Session, mount: str) -> int:
    """Kill a mount's instance and start a new one.

    For a newly pinned version use `pluginctl reload`: it checks first, and falls back.
    """
    return change_mount(session, "restart", mount)
