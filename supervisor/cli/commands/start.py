"""`pluginctl start`: one mount, by hand."""

import click

from supervisor.cli.mounts import MOUNT, change_mount
from supervisor.cli.session import Session, shared_options


@click.command("start")
@MOUNT
@shared_options
@click.pass_obj
def command(session: Session, mount: str) -> int:
    """Start a mount that was stopped by hand, or that had failed.

    It stays wanted from then on: after a crash, an upgrade and a reboot.
    """
    return change_mount(session, "start", mount)
