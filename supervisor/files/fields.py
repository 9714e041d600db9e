"""Values of the tree as typed values, and mappings against a table of the keys they may have.

A reader takes one node and returns its value, or raises `Wrong`; a fault in one value hides none in
another. Which keys there are stands in `settings.py`, `layers.py` and `load.py`.
"""

import re
import signal
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Mapping as MappingType
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from supervisor.domain.names import Seconds, parse_duration, parse_size, shortened
from supervisor.files.faults import Page, Placed
from supervisor.files.yaml import Broken, Mapping, Node, Scalar, Sequence, is_null, yaml_type

T = TypeVar("T")
Reader: TypeAlias = Callable[[Page, Node], T]
Table: TypeAlias = MappingType[str, Reader[Any]]

_INTEGER: Final = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_DECIMAL: Final = re.compile(r"(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,9})?", re.ASCII)
_MODE: Final = re.compile(r"0?[0-7]{3}", re.ASCII)
_ACCOUNT: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,63}\$?", re.ASCII)
_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]+(?:%\w+)?\]|[a-zA-Z0-9._-]+):([0-9]{1,5})", re.ASCII)
_LONGEST_ARGUMENT: Final = 128 << 10
_LONGEST_PATH: Final = 4095
_HIGHEST_PORT: Final = 65535


class Wrong(Exception):
    """A value that is not what its key asks for. `node` is the place; None is the place of the value."""

    def __init__(self, message: str, node: Placed | None = None) -> None:
        super().__init__(message)
        self.message, self.node = message, node


class Reported(Wrong):
    """Something below is wrong and already noted; there is nothing to add."""

    def __init__(self) -> None:
        super().__init__("")


def read(page: Page, node: Node, reader: Reader[T]) -> T | None:
    """What `reader` makes of `node`; None after a fault, which is noted."""
    try:
        if isinstance(node, Broken):
            return None
        return reader(page, node)
    except Reported:
        return None
    except Wrong as error:
        page.fault(error.node or node, error.message)
        return None


def entries(page: Page, node: Node, what: str) -> Iterator[tuple[Scalar, Node]]:
    """The entries of a mapping whose keys are names that people choose.

    Raises:
        Wrong: It is no mapping.
    """
    for key, value in mapping(node, what).entries:
        if is_text(page, key):
            yield key, value


def fields(page: Page, node: Node, what: str, table: Table) -> dict[str, Any]:
    """The values of a mapping whose keys are those of `table`. Faulty ones are noted and left out.

    Raises:
        Wrong: It is no mapping.
    """
    found: dict[str, Any] = {}
    for key, value in mapping(node, what).entries:
        reader = table.get(key.text)
        if reader is None:
            page.unknown(key, "key", key.text, table)
            continue
        if isinstance(value, Broken):
            continue
        try:
            found[key.text] = reader(page, value)
        except Reported:
            pass
        except Wrong as error:
            page.fault(
                error.node or value, f"{key.text}: {error.message}" if error.node is None else error.message
            )
    return found


def child(node: Node, name: str) -> Node | None:
    """The value under a key, whatever it is."""
    if isinstance(node, Mapping):
        return next((value for key, value in node.entries if key.text == name), None)
    return None


def mapping(node: Node, what: str) -> Mapping:
    if isinstance(node, Broken):
        raise Reported
    if not isinstance(node, Mapping):
        raise Wrong(f"{what} must be a mapping (key: value), not {shape(node)}", node)
    return node


def shape(node: Node) -> str:
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    if is_null(node):
        return "nothing"
    return "a single value"


def is_text(page: Page, key: Scalar) -> bool:
    """Whether a key is the string that is written; notes a fault if not."""
    if (kind := yaml_type(key)) is None:
        return True
    page.fault(key, _quote_it(key, kind))
    return False


def _quote_it(node: Scalar, kind: str) -> str:
    if kind == "nothing" and not node.text:
        return "has no value"
    short = shortened(node.text, 40)
    return f'YAML reads {short} as {kind}: quote it: "{short}"'


# ---- strings


def text(_page: Page, node: Node) -> str:
    """A string that every YAML tool reads as this string."""
    if isinstance(node, Broken):
        raise Reported
    if not isinstance(node, Scalar):
        raise Wrong(f"must be a string, not {shape(node)}")
    if (kind := yaml_type(node)) is not None:
        raise Wrong(_quote_it(node, kind))
    return node.text


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


# ---- compositions


def optional(reader: Reader[T]) -> Reader[T | None]:
    """`reader`, or None where nothing or `null` is written."""
    return lambda page, node: None if is_null(node) else reader(page, node)


def many(reader: Reader[T]) -> Reader[tuple[T, ...]]:
    def read_many(page: Page, node: Node) -> tuple[T, ...]:
        if isinstance(node, Broken):
            raise Reported
        if not isinstance(node, Sequence):
            raise Wrong(f"must be a list, not {shape(node)}")
        values = [read(page, item, reader) for item in node.items]
        return tuple(value for value in values if value is not None)

    return read_many


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


def section(what: str, table: Table) -> Reader[dict[str, Any]]:
    return lambda page, node: fields(page, node, what, table)


def missing(page: Page, node: Mapping, keys: Iterable[str], hint: str = "") -> bool:
    """Whether a key that must be there is not; notes a fault for each."""
    there = {key.text for key, _ in node.entries}
    absent = [key for key in keys if key not in there]
    for key in absent:
        page.fault(node, f'missing key "{key}"{hint}')
    return bool(absent)
