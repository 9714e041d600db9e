"""What every command shares: the options that stand before or after its name, and where it writes."""

import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import click

from supervisor.cli.client import Answer, Daemon, default_socket
from supervisor.cli.render import Look, visible_lines

F = TypeVar("F", bound=Callable[..., object])


@dataclass(slots=True)
class Session:
    """One run of pluginctl."""

    socket: str | None = None
    namespace: str | None = None
    as_json: bool = False

    def daemon(self, namespace: str | None = None) -> Daemon:
        """The daemon that was asked for, seen from `namespace` (default: the one of -n, or root)."""
        wanted = namespace if namespace is not None else self.namespace or ""
        return Daemon(self.socket or default_socket(os.getuid(), os.environ), wanted)

    def look(self) -> Look:
        """How standard output may be written to."""
        if not sys.stdout.isatty():
            return Look(encoding=sys.stdout.encoding)
        try:
            width = os.get_terminal_size(sys.stdout.fileno()).columns or None
        except (OSError, ValueError):
            width = None
        is_coloured = not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
        return Look(width=width, coloured=is_coloured, encoding=sys.stdout.encoding)

    def write(self, text: str) -> None:
        sys.stdout.write(text)

    def write_json(self, document: object) -> None:
        """One document: indented for people, on one line for programs, which is four times faster."""
        sys.stdout.write(json.dumps(document, indent=2 if sys.stdout.isatty() else None) + "\n")

    def write_json_line(self, document: object) -> None:
        sys.stdout.write(json.dumps(document) + "\n")

    def tell(self, text: str) -> None:
        """Something for people, apart from the output."""
        sys.stderr.write(visible_lines(text) + "\n")

    def warn(self, warnings: Answer | Iterable[str]) -> None:
        for text in warnings.warnings if isinstance(warnings, Answer) else warnings:
            self.tell(f"warning: {text}")


def shared_options(function: F) -> F:
    """Add --socket, --namespace and --json; they are kept in the Session, not passed on."""
    options = (
        click.option(
            "--socket",
            metavar="PATH",
            expose_value=False,
            callback=_keep,
            help="The daemon's control socket. Default: $PLUGIND_SOCKET, else a user's own "
            "$XDG_RUNTIME_DIR/plugind/control.sock or /run/plugind/control.sock, whichever exists.",
        ),
        click.option(
            "-n",
            "--namespace",
            metavar="NS",
            expose_value=False,
            callback=_keep_namespace,
            help="Ask from this namespace; it sees itself and its children. Default: root.",
        ),
        click.option(
            "--json",
            "as_json",
            is_flag=True,
            expose_value=False,
            callback=_keep,
            help="One JSON document: the data of the API's answer.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _keep(context: click.Context, parameter: click.Parameter, value: object) -> None:
    session = context.ensure_object(Session)
    if value and parameter.name is not None:
        setattr(session, parameter.name, value)


def _keep_namespace(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        _keep(context, parameter, None)
        context.ensure_object(Session).namespace = read_namespace(value)


def read_namespace(text: str) -> str:
    """`team-a/dev` from `team-a/dev/`, nothing from `root`; whether it exists is the daemon's business."""
    inner = text.strip("/")
    if not (inner.isascii() and inner.isprintable()) or " " in inner:
        raise click.BadParameter(f"{text!r} cannot be a namespace: write team-a or team-a/dev")
    return "" if inner == "root" else inner


def read_mount(session: Session, text: str) -> tuple[str, str]:
    """The namespace and path of `auth/mock`, `auth/mock/` or `NAMESPACE:auth/mock`."""
    before, colon, after = text.rpartition(":")
    path = after.strip("/")
    if any(part in {"", ".", ".."} for part in path.split("/")):
        raise click.BadParameter(f"{text!r} cannot be a mount: write auth/mock or NAMESPACE:auth/mock")
    if not colon:
        return session.namespace or "", path
    namespace = read_namespace(before)
    if session.namespace is not None and session.namespace != namespace:
        raise click.UsageError(
            f"{text!r} is in another namespace than --namespace {session.namespace or 'root'}: leave one out"
        )
    return namespace, path


def read_plugin(text: str) -> tuple[str, str]:
    """The type and name of `auth/mock-plugin`."""
    kind, _, name = text.strip("/").partition("/")
    if not kind or not name or "/" in name or {".", ".."} & {kind, name}:
        raise click.BadParameter(f"{text!r} is no plugin: write TYPE/NAME, such as auth/mock-plugin")
    return kind, name
