"""Readers: mappings against a table of the keys they may have, and how faults are noted on the way.

A reader takes one node and returns its value, or raises `Wrong`; a fault in one value hides none in
another. The readers of single values are in `values.py`; which keys there are stands in
`settings.py`, `layers.py`, `plugins.py` and `mounts.py`.
"""

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Mapping as MappingType
from typing import Any, Final, TypeAlias, TypeVar

from supervisor.domain.names import shortened
from supervisor.files.faults import Page, Placed
from supervisor.files.yaml import Broken, Mapping, Node, Scalar, Sequence, is_null, yaml_type

T = TypeVar("T")
Reader: TypeAlias = Callable[[Page, Node], T]
Table: TypeAlias = MappingType[str, Reader[Any]]


_ELSEWHERE: Final = {
    "plugin": ": it belongs under a mount",
    "version": ": it belongs under a mount",
    "pin": ": it belongs under a plugin",
    "versions": ": it belongs under a plugin",
    "command": ": it belongs under a version",
    "sha256": ": it belongs under a version",
    "mounts": ": it belongs under a namespace",
}


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
            page.unknown(key, "key", key.text, table, _ELSEWHERE.get(key.text, ""))
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
    if kind == "nothing":
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


def section(what: str, table: Table) -> Reader[dict[str, Any]]:
    return lambda page, node: fields(page, node, what, table)


def missing(page: Page, node: Mapping, keys: Iterable[str], hint: str = "") -> bool:
    """Whether a key that must be there is not; notes a fault for each."""
    there = {key.text for key, _ in node.entries}
    absent = [key for key in keys if key not in there]
    for key in absent:
        page.fault(node, f'missing key "{key}"{hint}')
    return bool(absent)
