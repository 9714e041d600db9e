"""Readers of single values: strings, numbers, durations, sizes, addresses, commands. All of them strict."""

import re
import signal
from pathlib import Path
from typing import Final

from supervisor.domain.names import Seconds, parse_duration, parse_size, shortened
from supervisor.files.faults import Page
from supervisor.files.fields import Reader, Reported, Wrong, read, shape, text
from supervisor.files.yaml import Broken, Node, Scalar, Sequence, is_null

_INTEGER: Final = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_DECIMAL: Final = re.compile(r"(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,9})?", re.ASCII)
_MODE: Final = re.compile(r"0?[0-7]{3}", re.ASCII)
_ACCOUNT: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,63}\$?", re.ASCII)
_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]+(?:%\w+)?\]|[a-zA-Z0-9._-]+):([0-9]{1,5})", re.ASCII)
_IS_CLEAN: Final = re.compile(r"/?[^/.][^/]*(?:/[^/.][^/]*)*").fullmatch
_LONGEST_ARGUMENT: Final = 128 << 10
_LONGEST_PATH: Final = 4095
_HIGHEST_PORT: Final = 65535


def argument(page: Page, node: Node) -> str:
    """A string that execve(2) takes."""
    value = text(page, node)
    if "\0" in value:
        raise Wrong("must not contain NUL", node)
    if len(value.encode()) >= _LONGEST_ARGUMENT:
        raise Wrong(f"must be shorter than {_LONGEST_ARGUMENT >> 10} KiB: the kernel takes no more", node)
    return value


def path(page: Page, node: Node) -> str:
    """An absolute path; a relative one is relative to the file it stands in."""
    value = text(page, node)
    if not value:
        raise Wrong('must be a path, not ""')
    if "\0" in value or "\n" in value or "\r" in value:
        raise Wrong("must not contain NUL or a line break")
    if len(value.encode()) > _LONGEST_PATH:
        raise Wrong(f"must be at most {_LONGEST_PATH} bytes long")
    if _IS_CLEAN(value):  # a tenth of the time, and there may be ten thousand
        return value if value.startswith("/") else f"{page.folder.rstrip('/')}/{value}"
    return str(Path(page.folder, value))


def own_path(page: Page, node: Node) -> str:
    """A path that may begin with `$TMPDIR`, the instance's own folder."""
    value = text(page, node)
    return value if value.startswith("$TMPDIR/") and "\0" not in value else path(page, node)


def account(_page: Page, node: Node) -> str:
    """A user or group, by name or number."""
    if isinstance(node, Scalar) and node.plain and _INTEGER.fullmatch(node.text):
        return node.text
    value = text(_page, node)
    if not _ACCOUNT.fullmatch(value):
        raise Wrong(f'"{shortened(value)}" cannot be the name of a user or group')
    return value


def address(_page: Page, node: Node) -> str:
    """HOST:PORT."""
    value = text(_page, node)
    match = _ADDRESS.fullmatch(value)
    if match is None or not 1 <= int(match[2]) <= _HIGHEST_PORT:
        raise Wrong(
            f'"{shortened(value)}" is no address: write HOST:PORT, e.g. 127.0.0.1:8080 or "[::1]:8080"'
        )
    return value


def url(page: Page, node: Node) -> str:
    """`http://HOST:PORT/PATH` or `unix:/SOCKET:/PATH`."""
    value = text(page, node)
    host, _, _ = value.removeprefix("http://").partition("/")
    is_http = value.startswith("http://") and re.fullmatch(r"[^\s@/?#]+", host)
    is_unix = re.fullmatch(r"unix:(?:/|\$TMPDIR/)[^:\s]+:/\S*", value)
    if not (is_http or is_unix) or not value.isprintable() or " " in value:
        raise Wrong(
            f'"{shortened(value)}" is no URL: write http://127.0.0.1:8080/health or unix:/run/x.sock:/health'
        )
    return value


def choice(*allowed: str) -> Reader[str]:
    def read_choice(page: Page, node: Node) -> str:
        value = node.text if isinstance(node, Scalar) else text(page, node)
        if value not in allowed:
            near = page.faults.near(value, allowed)
            raise Wrong(f'"{shortened(value)}" is none of {", ".join(allowed)}{near}')
        return value

    return read_choice


# ---- numbers


def _written(node: Node, what: str) -> str:
    if isinstance(node, Broken):
        raise Reported
    if not isinstance(node, Scalar):
        raise Wrong(f"must be {what}, not {shape(node)}")
    return node.text


def boolean(_page: Page, node: Node) -> bool:
    written = _written(node, "true or false")
    if not (isinstance(node, Scalar) and node.plain) or written not in {"true", "false"}:
        raise Wrong(f'"{shortened(written)}" is neither true nor false')
    return written == "true"


def integer(least: int, most: int) -> Reader[int]:
    def read_integer(_page: Page, node: Node) -> int:
        written = _written(node, "a whole number")
        if not _INTEGER.fullmatch(written) or not least <= int(written) <= most:
            raise Wrong(f'"{shortened(written, 40)}" is not a whole number from {least} to {most}')
        return int(written)

    return read_integer


def signed(least: int, most: int) -> Reader[int]:
    """A whole number that may be below 0."""

    def read_signed(_page: Page, node: Node) -> int:
        written = _written(node, "a whole number")
        if not _INTEGER.fullmatch(written.removeprefix("-")) or not least <= int(written) <= most:
            raise Wrong(f'"{shortened(written, 40)}" is not a whole number from {least} to {most}')
        return int(written)

    return read_signed


def number(_page: Page, node: Node) -> float:
    written = _written(node, "a number")
    if not _DECIMAL.fullmatch(written) or float(written) <= 0:
        raise Wrong(f'"{shortened(written, 40)}" is not a number above 0')
    return float(written)


def duration(_page: Page, node: Node) -> Seconds:
    written = _written(node, "a duration")
    try:
        return parse_duration(written)
    except ValueError as error:
        raise Wrong(f'"{shortened(written, 40)}" is {error}') from error


def positive_duration(page: Page, node: Node) -> Seconds:
    seconds = duration(page, node)
    if seconds <= 0:
        raise Wrong("must be longer than 0s")
    return seconds


def size(_page: Page, node: Node) -> int:
    written = _written(node, "a size")
    try:
        return parse_size(written)
    except ValueError as error:
        raise Wrong(f'"{shortened(written, 40)}" is {error}') from error


def mode(page: Page, node: Node) -> int:
    """File permissions, quoted: YAML reads 0660 as 432."""
    value = text(page, node)
    if not _MODE.fullmatch(value):
        raise Wrong(f'"{shortened(value, 40)}" is no mode: write three octal digits, e.g. "0660"')
    return int(value, 8)


def signal_number(_page: Page, node: Node) -> int:
    """`SIGTERM`, `TERM` or `15`."""
    written = _written(node, "a signal")
    if _INTEGER.fullmatch(written) and len(written) <= len("64") and int(written) in signal.valid_signals():
        return int(written)
    name = written.upper().removeprefix("SIG")
    member = signal.Signals.__members__.get(f"SIG{name}")
    if member is None:
        known = [known.removeprefix("SIG") for known in signal.Signals.__members__]
        near = _page.faults.near(name, known)
        raise Wrong(f'"{shortened(written, 40)}" is no signal{near}')
    return int(member)


def command(page: Page, node: Node) -> tuple[str, ...]:
    """One executable, or a list of it and its arguments."""
    if is_null(node):
        return ()
    if not isinstance(node, Sequence):
        return (path(page, node),)
    if not node.items:
        raise Wrong("must name an executable")
    first = read(page, node.items[0], path)
    rest = [read(page, item, argument) for item in node.items[1:]]
    return tuple(word for word in (first, *rest) if word is not None)
