"""Text to a tree whose every node knows its place. Says nothing about what the keys mean.

The tree is built here, in one walk over the events of PyYAML's C parser, because its composer
segfaults on 100 KB of `[` and its constructor turns `1.10` into `1.1`. What would let a small file
cost much (depth, aliases, merge keys) or mean something else (tags, a second document, duplicate
keys) is a fault. What a plain scalar means to other YAML tools is told by `yaml_type`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from yaml import YAMLError
from yaml._yaml import CParser
from yaml.error import MarkedYAMLError
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from yaml.resolver import Resolver

from supervisor.domain.names import shortened
from supervisor.files.faults import Page
from supervisor.files.text import MOST_BYTES, Undecodable, decode

MOST_EVENTS: Final = 500_000
MOST_DEPTH: Final = 32
_MOST_FAULTS: Final = 200
_COUNTED_FIRST: Final = 3 << 18
"""A longer text may have more events than fit into 100 MB, so they are counted before anything is built."""
_BITS: Final = MOST_BYTES.bit_length()
_MASK: Final = (1 << _BITS) - 1


class Scalar:
    """A single value as it is written. `text[start:end]` of the file is its token, quotes included."""

    __slots__ = ("_place", "plain", "text")

    def __init__(self, text: str, *, plain: bool, place: tuple[int, int, int, int]) -> None:
        self.text = text
        self.plain = plain
        line, column, start, end = place
        # one number instead of four: half the memory of a large file
        self._place = ((line << _BITS | column) << _BITS | start) << _BITS | end

    @property
    def line(self) -> int:
        return self._place >> 3 * _BITS

    @property
    def column(self) -> int:
        return self._place >> 2 * _BITS & _MASK

    @property
    def start(self) -> int:
        return self._place >> _BITS & _MASK

    @property
    def end(self) -> int:
        return self._place & _MASK


@dataclass(slots=True, eq=False)
class Mapping:
    entries: list[tuple[Scalar, "Node"]]
    line: int
    column: int


@dataclass(slots=True, eq=False)
class Sequence:
    items: list["Node"]
    line: int
    column: int


@dataclass(slots=True, eq=False)
class Broken:
    """A node that was already reported; who meets it says nothing more."""

    line: int
    column: int


Node: TypeAlias = Scalar | Mapping | Sequence | Broken


def read_tree(page: Page, data: str | bytes) -> Node | None:
    """The one document of `data`; None when there is none or it could not be read to its end.

    Faults go to `page`. An empty document is no fault here: see `is_empty`.
    """
    try:
        text = decode(data)
    except Undecodable as error:
        page.fault(error, error.message)
        return Broken(error.line, error.column)
    walk = _Walk(page)
    try:
        return walk.run(text)
    except _GaveUp:
        return Broken(1, 1)
    except MarkedYAMLError as error:
        page.fault(*_place_and_words(error, text))
    except YAMLError as error:
        page.fault(Broken(1, 1), f"not YAML: {shortened(str(error), 300)}")
    return Broken(1, 1)


def _place_and_words(error: MarkedYAMLError, text: str) -> tuple[Broken, str]:
    mark = error.problem_mark or error.context_mark
    place = Broken(mark.line + 1, mark.column + 1) if mark else Broken(1, 1)
    words = error.problem or "cannot be read"
    if error.context:
        words = f"{error.context}: {words}"
    lines = text.split("\n")
    if place.line <= len(lines) and re.match(r" *\t", lines[place.line - 1]):
        words += " (indent with spaces, not with tabs)"
    return place, f"not YAML: {shortened(words, 300)}"


def _start(event: Any) -> Broken:
    return Broken(event.start_mark.line + 1, event.start_mark.column + 1)


class _GaveUp(Exception):
    """A limit was reached, and its fault is noted."""


class _Open:
    """A container whose end has not come yet."""

    __slots__ = ("key", "node", "seen")

    def __init__(self, node: Mapping | Sequence) -> None:
        self.node = node
        self.key: Scalar | Broken | None = None
        self.seen: dict[str, Scalar] = {}


class _Walk:
    def __init__(self, page: Page) -> None:
        self._page = page
        self._stack: list[_Open] = []
        self._root: Node | None = None
        self._documents = 0
        self._faults = 0

    def run(self, text: str) -> Node | None:
        if len(text) > _COUNTED_FIRST:
            for _ in self._events(text):
                pass
        for event in self._events(text):
            self._take(event)
        return self._root

    def _events(self, text: str) -> Iterator[Any]:
        parser = CParser(text)
        event: Any = None
        depth = 0
        try:
            for _ in range(MOST_EVENTS):
                event = parser.get_event()
                kind = type(event)
                if event is None or kind is StreamEndEvent:
                    return
                if kind is MappingStartEvent or kind is SequenceStartEvent:
                    depth += 1
                    # here, as the parser itself takes minutes over a megabyte of `[`
                    if depth > MOST_DEPTH:
                        self._give_up(_start(event), f"nested more than {MOST_DEPTH} levels deep")
                elif kind is MappingEndEvent or kind is SequenceEndEvent:
                    depth -= 1
                yield event
        finally:
            parser.dispose()
        self._give_up(
            _start(event), f"more than {MOST_EVENTS:,} YAML events: split the file, or is this no catalog?"
        )

    def _take(self, event: Any) -> None:
        kind = type(event)
        mark = event.start_mark
        line, column = mark.line + 1, mark.column + 1
        if kind is ScalarEvent:
            self._check_properties(event, line, column)
            plain = event.implicit[0] and event.tag is None
            place = (line, column, mark.index, event.end_mark.index)
            self._place(Scalar(event.value, plain=plain, place=place))
        elif kind is MappingStartEvent:
            self._check_properties(event, line, column)
            self._open(Mapping([], line, column))
        elif kind is SequenceStartEvent:
            self._check_properties(event, line, column)
            self._open(Sequence([], line, column))
        elif kind is MappingEndEvent or kind is SequenceEndEvent:
            self._place_container(self._stack.pop().node)
        elif kind is AliasEvent:
            self._fault(
                Broken(line, column), f"aliases are not allowed: write out what *{event.anchor} means"
            )
            self._place(Broken(line, column))
        elif kind is DocumentStartEvent:
            self._documents += 1
            if self._documents > 1:
                self._give_up(
                    Broken(line, column), "a second document is not allowed: one file, one document"
                )

    def _check_properties(self, event: Any, line: int, column: int) -> None:
        if event.anchor is not None:
            self._fault(Broken(line, column), f"anchors are not allowed: remove &{event.anchor}")
        if event.tag is not None:
            self._fault(Broken(line, column), f"tags are not allowed: remove {shortened(event.tag)}")

    def _open(self, node: Mapping | Sequence) -> None:
        self._stack.append(_Open(node))

    def _place_container(self, node: Mapping | Sequence) -> None:
        if self._stack and isinstance(self._stack[-1].node, Mapping) and self._stack[-1].key is None:
            self._fault(node, "a key must be a single value")
            self._stack[-1].key = Broken(node.line, node.column)
        else:
            self._place(node)

    def _place(self, node: Node) -> None:
        if not self._stack:
            self._root = node
            return
        top = self._stack[-1]
        if isinstance(top.node, Sequence):
            top.node.items.append(node)
        elif top.key is None:
            top.key = self._checked_key(top, node)
        else:
            if isinstance(top.key, Scalar):
                top.node.entries.append((top.key, node))
            top.key = None

    def _checked_key(self, top: _Open, node: Node) -> Scalar | Broken:
        if not isinstance(node, Scalar):
            return Broken(node.line, node.column)
        if node.plain and node.text == "<<":
            self._fault(node, "merge keys are not allowed: write out what << would merge")
            return Broken(node.line, node.column)
        first = top.seen.setdefault(node.text, node)
        if first is not node:
            self._fault(node, f'duplicate key "{shortened(node.text)}": first in line {first.line}')
            return Broken(node.line, node.column)
        return node

    def _fault(self, node: Node, message: str) -> None:
        self._page.fault(node, message)
        self._faults += 1
        if self._faults >= _MOST_FAULTS:
            self._give_up(node, f"more than {_MOST_FAULTS} faults: the rest of the file was not read")

    def _give_up(self, node: Node, message: str) -> None:
        self._page.fault(node, message)
        raise _GaveUp


def is_empty(node: Node | None) -> bool:
    """Whether there is nothing but comments."""
    return node is None or (isinstance(node, Scalar) and node.plain and not node.text)


_RESOLVERS: Final = Resolver.yaml_implicit_resolvers
_TYPES: Final = {
    "bool": "true or false",
    "float": "a number",
    "int": "a number",
    "null": "nothing",
    "timestamp": "a date",
    "merge": "a merge key",
    "value": "a default value",
}


def yaml_type(node: Scalar) -> str | None:
    """What YAML 1.1 makes of a plain scalar, in words; None when it is the string that is written."""
    if not node.plain:
        return None
    for tag, pattern in _RESOLVERS.get(node.text[:1], ()):
        if pattern.match(node.text):
            return _TYPES.get(tag.rpartition(":")[2], "something else")
    return None


def is_null(node: Node) -> bool:
    """Whether the value is absent: `key:`, `~` or `null`."""
    return isinstance(node, Scalar) and yaml_type(node) == "nothing"
