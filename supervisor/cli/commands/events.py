"""`pluginctl events`: what happens to the mounts, as it happens."""

import json
import select
import sys
from collections.abc import Iterator
from time import monotonic
from typing import Final

import click

from supervisor.cli.client import Daemon, NotReachable
from supervisor.cli.commands.why import reason, step
from supervisor.cli.follow import LONGEST_PAUSE, PATIENCE
from supervisor.cli.render import Look, Row, local_time, shown_mount, visible, word
from supervisor.cli.session import Session, shared_options

_LONGEST_EVENT: Final = 1 << 20


@click.command("events")
@shared_options
@click.pass_obj
def command(session: Session) -> int:
    """Show every transition of every mount, until Ctrl-C.

    An upgrade of the daemon does not end it: it goes on with the event after the last one seen. With --json
    each event is one line.
    """
    look = session.look()
    for event in _events(session.daemon()):
        if session.as_json:
            session.write_json_line(event)
        else:
            session.write(_line(event, look))
        sys.stdout.flush()
    return 0


def _events(daemon: Daemon) -> Iterator[Row]:
    """All events from now on; where the daemon is away for a moment, without a gap."""
    last_id = ""
    heard: float | None = None
    while True:
        try:
            with daemon.stream(
                "supervisor/events", {"Last-Event-ID": last_id} if last_id else None
            ) as pieces:
                heard = monotonic()
                for event_id, event in parsed(pieces):
                    last_id = event_id or last_id
                    heard = monotonic()
                    yield event
        except NotReachable:
            if heard is None or monotonic() - heard > PATIENCE:
                raise
        select.select([], [], [], LONGEST_PAUSE)


def parsed(pieces: Iterator[bytes]) -> Iterator[tuple[str, Row]]:
    """The id and content of each server-sent event; comments and what is no JSON object are passed over.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    rest, event_id, data = b"", "", b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in (line.removesuffix(b"\r") for line in lines):
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"id":
                text = value.decode("utf-8", "replace")
                event_id = text if text.isprintable() and text.isascii() else ""
            elif name == b"data":
                data += value
            elif not line and data:
                event = _object(data)
                data = b""
                if event is not None:
                    yield event_id, event
        if len(rest) + len(data) > _LONGEST_EVENT:
            rest, data = b"", b""


def _object(data: bytes) -> Row | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _line(event: Row, look: Look) -> str:
    parts = [
        local_time(event.get("at")),
        f"{shown_mount(event)} in {word(event.get('namespace'))}:",
        word(event.get("event")),
        step(event, look),
    ]
    if event.get("version"):
        parts.append(word(event["version"]))
    if event.get("pid"):
        parts.append(f"pid {event['pid']}")
    why = reason(event)
    return "  ".join(map(visible, [*parts, *([why] if why else [])])) + "\n"
