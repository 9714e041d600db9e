"""`pluginctl upgrade`: another plugind goes on in the place of the running one."""

import select
from time import monotonic
from typing import Final

import click

from supervisor.cli.client import LONG, Daemon, NotReachable, Refused
from supervisor.cli.commands.status import STATES
from supervisor.cli.follow import FIRST_PAUSE, LONGEST_PAUSE, Interrupted
from supervisor.cli.render import Look, Row, counted, duration, visible, word
from supervisor.cli.session import Session, shared_options

PATIENCE: Final = 60.0
"""Seconds in which a daemon that was there has to answer: what is under way gets 10 of them."""
REFUSED: Final = 2


@click.command("upgrade")
@shared_options
@click.pass_obj
def command(session: Session) -> int:
    """Run the plugind that is installed now in the place of the running one.

    It is started on trial first: where that fails, the running one goes on, and nothing is touched. Its pid,
    its sockets and idle connections stay; no plugin is restarted, and no request is refused.
    """
    daemon = session.daemon()
    try:
        answer = daemon.ask("POST", "supervisor/upgrade", quiet_for=LONG)
        session.warn(answer)
        status, upgrade = _after(daemon, word(answer.data.get("upgrade_id")))
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the upgrade goes on: see pluginctl status") from None
    if session.as_json:
        session.write_json(upgrade)
    if upgrade.get("result") != "done":
        raise Refused(visible(word(upgrade.get("error"))), REFUSED)
    if not session.as_json:
        session.write(_told(status, upgrade, session.look()))
    return 0


def _after(daemon: Daemon, upgrade_id: str) -> tuple[Row, Row]:
    """The daemon's status, and what it says of that upgrade, once that is done or has failed."""
    heard, pause = monotonic(), FIRST_PAUSE
    while True:
        try:
            status = daemon.ask("GET", "supervisor/status").data
            heard = monotonic()
        except NotReachable as error:
            if monotonic() - heard > PATIENCE:
                raise NotReachable(
                    f"{error.format_message()}\nthe plugins go on; the next plugind takes them over"
                ) from error
        else:
            upgrade = status.get("upgrade")
            if not isinstance(upgrade, dict) or upgrade.get("upgrade_id") != upgrade_id:
                raise NotReachable("plugind was started anew meanwhile: see pluginctl status")
            if upgrade.get("result") != "under way":
                return status, upgrade
        select.select([], [], [], pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def _told(status: Row, upgrade: Row, look: Look) -> str:
    versions = look.change(*(visible(word(upgrade.get(name))) for name in ("old_version", "new_version")))
    counts = status.get("counts")
    mounts = counted(counts, tuple(STATES)) if isinstance(counts, dict) else ""
    took = duration(upgrade.get("seconds"))
    line = f"plugind {versions} in {took}, pid {visible(word(status.get('pid')))}"
    return f"{line}: {visible(mounts)}\n" if mounts else f"{line}\n"
