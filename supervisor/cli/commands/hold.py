"""`pluginctl hold`: keep a namespace as it is until it is released."""

import click

from supervisor.cli.client import Refused, quoted
from supervisor.cli.render import Look, Row, local_time, rows_of, shown_hold, visible, word
from supervisor.cli.session import Session, shared_options

PLACE = "supervisor/hold"
NOT_FOUND = 404
HEADER = ("NAMESPACE", "SINCE", "BY", "WHY")


@click.command("hold")
@click.option("--why", metavar="TEXT", help="Hold the namespace, and tell this to whoever is refused.")
@click.option("--release", is_flag=True, help="End the hold of the namespace.")
@shared_options
@click.pass_obj
def command(session: Session, *, why: str | None, release: bool) -> int:
    """Keep a namespace as it is; without options, show what is held.

    Until the release every reload, apply and write of a pin or a version is refused that would change
    something in the namespace (-n) or below it; from root, anywhere. What crashes is restarted as it was.
    """
    if why is not None and release:
        raise click.UsageError("--why begins a hold and --release ends one: leave one out.")
    if release:
        return _release(session)
    if why is None:
        return _show(session)
    answer = session.daemon().ask("PUT", PLACE, {"why": why})
    session.warn(answer)
    if session.as_json:
        session.write_json(answer.data)
        return 0
    place = answer.data.get("namespace")
    whose = f" -n {visible(word(place))}" if session.namespace else ""
    what = f"{visible(word(place))} and what is below it" if session.namespace else "everything"
    session.write(f"held: {what}, until pluginctl hold --release{whose}\n")
    return 0


def _release(session: Session) -> int:
    try:
        answer = session.daemon().ask("DELETE", PLACE)
    except Refused as error:
        if error.status != NOT_FOUND or not session.namespace or "namespace not found" not in str(error):
            raise
        # it was taken out of the catalog: root can still end its hold
        answer = session.daemon("").ask("DELETE", f"{PLACE}?namespace={quoted(session.namespace)}")
    if session.as_json:
        session.write_json(answer.data)
    else:
        session.write(f"released: {visible(shown_hold(answer.data))}\n")
    return 0


def _show(session: Session) -> int:
    answer = session.daemon().ask("GET", PLACE)
    if session.as_json:
        session.write_json(answer.data)
        return 0
    rows = rows_of(answer.data, "holds")
    session.write(table(rows, session.look()) if rows else "nothing is held\n")
    return 0


def table(rows: list[Row], look: Look) -> str:
    lines = [
        [word(row.get("namespace")), local_time(row.get("since")), word(row.get("who")), word(row.get("why"))]
        for row in rows
    ]
    return look.table(HEADER, lines)
