"""Text to a tree whose every node knows its place. Says nothing about what the keys mean.

The tree is built here, in one walk over the events of PyYAML's C parser, because its composer
segfaults on 100 KB of `[` and its constructor turns `1.10` into `1.1`. What would let a small file
cost much (depth, aliases, merge keys) or mean something else (tags, a second document, duplicate
keys) is a fault. What a plain scalar means to other YAML tools is told by `yaml_type`.
"""

import re
from typing import Any, Final, TypeAlias

from msgspec import Struct
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
from supervisor.files.text import Undecodable, checked

MOST_EVENTS: Final = 120_000
"""10,000 mounts of 1,000 plugins have 77,000. Each costs 6 us and 400 bytes until all is checked."""
MOST_DEPTH: Final = 32
_MOST_FAULTS: Final = 200
_MOST_DIRECTIVES: Final = 32
"""The parser compares each `%TAG` with all before it, in one call: minutes for a few megabytes."""
_INDENTED_WITH_TAB: Final = re.compile(rb" *\t")
_TOO_MANY_EVENTS: Final = f"more than {MOST_EVENTS:,} YAML events: a catalog of 10,000 mounts has 77,000"


# structs, and untracked: a large file has a hundred thousand nodes, and they form no cycles


class Scalar(Struct, eq=False, gc=False):
    """A single value as it is written. `text[start:end]` of the file is its token, quotes included."""

    text: str
    plain: bool
    line: int
    column: int
    start: int = 0
    end: int = 0


class Mapping(Struct, eq=False, gc=False):
    entries: list[tuple[Scalar, "Node"]]
    line: int
    column: int
    end: int = 0
    """Where `text` goes on after it; known of one in braces only, 0 otherwise."""


class Sequence(Struct, eq=False, gc=False):
    items: list["Node"]
    line: int
    column: int
    end: int = 0
    """The same, in brackets."""


class Broken(Struct, eq=False, gc=False):
    """A node that was already reported; who meets it says nothing more."""

    line: int
    column: int


Node: TypeAlias = Scalar | Mapping | Sequence | Broken


class Allowance:
    """The events that the files of one load may still have, together; -1 after that was too few."""

    def __init__(self) -> None:
        self.events = MOST_EVENTS


def read_tree(page: Page, data: str | bytes, allowance: Allowance | None = None) -> Node | None:
    """The one document of `data`; None when there is none or it could not be read to its end.

    Faults go to `page`. An empty document is no fault here: see `is_empty`.
    """
    try:
        content = checked(data)
    except Undecodable as error:
        page.fault(error, error.message)
        return Broken(error.line, error.column)
    allowance = allowance or Allowance()
    if allowance.events < 0:
        return Broken(1, 1)
    if content.count(b"\n%") + content.count(b"\r%") > _MOST_DIRECTIVES:
        page.fault(
            Broken(1, 1), f"more than {_MOST_DIRECTIVES} lines begin with %: directives are not allowed"
        )
        return Broken(1, 1)
    parser = CParser(content)
    try:
        return _Walk(page, allowance).run(parser)
    except _GaveUp:
        pass
    except MarkedYAMLError as error:
        page.fault(*_place_and_words(error, content))
    except YAMLError as error:
        page.fault(Broken(1, 1), f"not YAML: {shortened(str(error), 300)}")
    finally:
        parser.dispose()
    return Broken(1, 1)


def _place_and_words(error: MarkedYAMLError, content: bytes) -> tuple[Broken, str]:
    mark = error.problem_mark or error.context_mark
    place = Broken(mark.line + 1, mark.column + 1) if mark else Broken(1, 1)
    words = error.problem or "cannot be read"
    if error.context:
        words = f"{error.context}: {words}"
    start = 0
    for _ in range(place.line - 1):
        start = content.find(b"\n", start) + 1
    if _INDENTED_WITH_TAB.match(content, start):
        words += " (indent with spaces, not with tabs)"
    return place, f"not YAML: {shortened(words, 300)}"


def _start(event: Any) -> Broken:
    mark = event.start_mark
    return Broken(mark.line + 1, mark.column + 1)


class _GaveUp(Exception):
    """A limit was reached, and its fault is noted."""


class _Open:
    """A container whose end has not come yet, or the stream. `items` is None in a mapping."""

    __slots__ = ("entries", "items", "key", "node", "seen")

    def __init__(self, node: Mapping | Sequence | None, items: list[Node] | None) -> None:
        self.node = node
        self.items = items
        self.entries = node.entries if type(node) is Mapping else []
        self.key: Scalar | Broken | None = None
        self.seen: dict[str, Scalar] = {}


class _Walk:
    def __init__(self, page: Page, allowance: Allowance) -> None:
        self._page = page
        self._allowance = allowance
        self._roots: list[Node] = []
        self._open = [_Open(None, self._roots)]
        self._documents = 0
        self._faults = 0

    def run(self, parser: Any) -> Node | None:
        next_event = parser.get_event
        left = self._allowance.events
        event: Any = None
        for number in range(left):
            event = next_event()
            kind = type(event)
            if kind is ScalarEvent:
                self._place(self._scalar(event))
            elif kind is StreamEndEvent:
                self._allowance.events = left - number - 1
                return self._roots[0] if self._roots else None
            else:
                self._take(kind, event)
        self._allowance.events = -1
        place = _start(event) if event is not None else Broken(1, 1)
        self._give_up(place, _TOO_MANY_EVENTS)
        return None

    def _take(self, kind: type, event: Any) -> None:
        if kind is MappingEndEvent or kind is SequenceEndEvent:
            node = self._open.pop().node
            assert node is not None  # noqa: S101 - for mypy: only the stream has none, and it has no end here
            if event.end_mark.index != event.start_mark.index:  # of a block, nothing is there to end it
                node.end = event.end_mark.index
            self._place_container(node)
            return
        place = _start(event)
        if kind is MappingStartEvent or kind is SequenceStartEvent:
            # here, as the parser itself takes minutes over a megabyte of `[`
            if len(self._open) > MOST_DEPTH:
                self._give_up(place, f"nested more than {MOST_DEPTH} levels deep")
            self._check_properties(event, place)
            if kind is MappingStartEvent:
                self._open.append(_Open(Mapping([], place.line, place.column), None))
            else:
                items: list[Node] = []
                self._open.append(_Open(Sequence(items, place.line, place.column), items))
        elif kind is AliasEvent:
            self._fault(place, f"aliases are not allowed: write out what *{shortened(event.anchor)} means")
            self._place(place)
        elif kind is DocumentStartEvent:
            self._documents += 1
            if self._documents > 1:
                self._give_up(place, "a second document is not allowed: one file, one document")

    def _scalar(self, event: Any) -> Scalar:
        mark = event.start_mark
        plain = event.implicit[0] and event.tag is None
        node = Scalar(event.value, plain, mark.line + 1, mark.column + 1, mark.index, event.end_mark.index)
        if event.anchor is not None or event.tag is not None:
            self._check_properties(event, node)
        return node

    def _check_properties(self, event: Any, place: Node) -> None:
        if event.anchor is not None:
            self._fault(place, f"anchors are not allowed: remove &{shortened(event.anchor)}")
        if event.tag is not None:
            self._fault(place, f"tags are not allowed: remove {shortened(event.tag)}")

    def _place_container(self, node: Mapping | Sequence) -> None:
        top = self._open[-1]
        if top.items is None and top.key is None:
            self._fault(node, "a key must be a single value")
            top.key = Broken(node.line, node.column)
        else:
            self._place(node)

    def _place(self, node: Node) -> None:
        top = self._open[-1]
        key = top.key
        if top.items is not None:
            top.items.append(node)
        elif key is None:
            top.key = self._checked_key(top, node)
        else:
            if type(key) is Scalar:
                top.entries.append((key, node))
            top.key = None

    def _checked_key(self, top: _Open, node: Node) -> Scalar | Broken:
        if type(node) is not Scalar:
            return Broken(node.line, node.column)
        text = node.text
        if text == "<<" and node.plain:
            self._fault(node, "merge keys are not allowed: write out what << would merge")
            return Broken(node.line, node.column)
        first = top.seen.setdefault(text, node)
        if first is not node:
            self._fault(node, f'duplicate key "{shortened(text)}": first in line {first.line}')
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


_LONG: Final = 1000
_LONG_NUMBER: Final = re.compile(r"[-+]?(?:0x[0-9a-fA-F_]+|[0-9_.:]+(?:[eE][-+]?[0-9]+)?)")
"""The patterns of PyYAML remember every `:59` of a megabyte, 40 bytes each."""


def yaml_type(node: Scalar) -> str | None:
    """What YAML 1.1 makes of a plain scalar, in words; None when it is the string that is written."""
    if not node.plain:
        return None
    if len(node.text) > _LONG:
        return "a number" if _LONG_NUMBER.fullmatch(node.text) else None
    for tag, pattern in _RESOLVERS.get(node.text[:1], ()):
        if pattern.match(node.text):
            return _TYPES.get(tag.rpartition(":")[2], "something else")
    return None


def is_null(node: Node) -> bool:
    """Whether the value is absent: `key:`, `~` or `null`."""
    return isinstance(node, Scalar) and yaml_type(node) == "nothing"
