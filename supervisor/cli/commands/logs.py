"""`pluginctl logs`: what a mount's plugin wrote."""

import codecs
import sys
from collections.abc import Iterator
from typing import Final

import click

from supervisor.cli.client import quoted_path
from supervisor.cli.mounts import MOUNT
from supervisor.cli.render import visible
from supervisor.cli.session import Session, read_mount, shared_options

_LONGEST_LINE: Final = 1 << 20


@click.command("logs")
@MOUNT
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option(
    "--lines", type=click.IntRange(1), default=100, show_default=True, metavar="N", help="The last N."
)
@click.option("--raw", is_flag=True, help="As it was written, on a terminal too: escapes work there.")
@shared_options
@click.pass_obj
def command(session: Session, mount: str, *, follow: bool, lines: int, raw: bool) -> int:
    """Show the last lines of a mount's log.

    Into a pipe or a file the bytes go out as they were written; on a terminal control characters are shown
    as escapes. With --json each line is a JSON string, and of a line over 1 MiB each piece.
    """
    namespace, path = read_mount(session, mount)
    target = f"supervisor/logs/{quoted_path(path)}?lines={lines}" + "&follow=true" * follow
    with session.daemon(namespace).stream(target) as pieces:
        if session.as_json:
            _write_strings(session, pieces)
        elif raw or not sys.stdout.isatty():
            for piece in pieces:
                sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
        else:
            for text in _decoded(pieces):
                session.write("".join(char if char in "\n\t" else visible(char) for char in text))
                sys.stdout.flush()
    return 0


def _decoded(pieces: Iterator[bytes]) -> Iterator[str]:
    """Text, though a character may be cut between two pieces, and need not be one."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    for piece in pieces:
        yield decoder.decode(piece)
    yield decoder.decode(b"", final=True)


def _write_strings(session: Session, pieces: Iterator[bytes]) -> None:
    rest = ""
    for text in _decoded(pieces):
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            session.write_json_line(line)
        if len(rest) > _LONGEST_LINE:
            session.write_json_line(rest)
            rest = ""
        sys.stdout.flush()
    if rest:
        session.write_json_line(rest)
