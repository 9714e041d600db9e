"""`pluginctl stop`: one mount, by hand."""

import click

from supervisor.cli.mounts import MOUNT, change_mount
from supervisor.cli.session import Session, shared_options


@click.command("stop")
@MOUNT
@shared_options
@click.pass_obj
def command(session: Session, mount: str) -> int:
    """Stop a mount and keep it stopped.

    Nothing starts it again but `pluginctl start`: no crash, no reload, no apply, no reboot.
    """
    return change_mount(session, "stop", mount)
