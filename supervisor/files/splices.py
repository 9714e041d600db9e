"""Where and how a YAML text changes so that a scalar or an entry of a mapping does, and nothing beside it.

Pure text. It goes by the marks of the parser where they are right, and by indentation where they are
not; what came of a splice is compared with what it was to be in `edit.py`, before anything is written.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from supervisor.files.yaml import Mapping, Node, Scalar, Sequence, yaml_type

_PLAIN: Final = re.compile(r"-{0,2}[A-Za-z0-9_./][A-Za-z0-9_./+=@%-]*", re.ASCII)
_LINE_BREAK: Final = re.compile("\r\n|\n|\r")
_BLOCK: Final = ("|", ">")


class CannotSplice(Exception):
    """It is written in a way that is not edited; the message says which."""


@dataclass(frozen=True, slots=True)
class Splice:
    """`text[start:end]` becomes `put`. `line` is where, for people."""

    start: int
    end: int
    put: str
    line: int

    def done(self, text: str) -> str:
        return text[: self.start] + self.put + text[self.end :]


def quoted(value: str, quote: str = "") -> str:
    """`value` as a scalar that every YAML tool reads as that string: as it is, or in quotes.

    Raises:
        CannotSplice: It holds a character that no catalog needs.
    """
    if not value.isprintable():
        raise CannotSplice(f"{value!r} holds a character that is not printable")
    if _PLAIN.fullmatch(value):
        if quote in {"'", '"'}:
            return f"{quote}{value}{quote}"
        if yaml_type(Scalar(value, plain=True, line=0, column=0)) is None:
            return value
    return json.dumps(value, ensure_ascii=False)


def in_braces(entries: Iterable[tuple[str, str]]) -> str:
    """A mapping on one line, of keys and of values that are YAML already."""
    return "{" + ", ".join(f"{quoted(key)}: {value}" for key, value in entries) + "}"


def in_brackets(values: Iterable[str]) -> str:
    return "[" + ", ".join(map(quoted, values)) + "]"


def scalar(text: str, node: Scalar, value: str) -> Splice:
    """Another value in the quotes that are there. Raises CannotSplice."""
    token = text[node.start : node.end]
    if token.startswith(_BLOCK):
        raise CannotSplice("a block scalar is not edited")
    return Splice(node.start, node.end, quoted(value, token[:1]), node.line)


def first_entry(text: str, mapping: Mapping, entry: str) -> Splice:
    """A new entry before all others."""
    first = mapping.entries[0][0]
    if mapping.end:
        return Splice(first.start, first.start, f"{entry}, ", first.line)
    indent = text[_line_start(first) : first.start]
    return Splice(first.start, first.start, f"{entry}{_line_break(text)}{indent}", first.line)


def last_entry(text: str, mapping: Mapping, entry: str) -> Splice:
    """A new entry after all others. Raises CannotSplice."""
    if not mapping.entries:  # in braces: nothing else is a mapping without an entry
        return Splice(mapping.end - 1, mapping.end - 1, entry, mapping.line)
    key, value = mapping.entries[-1]
    if mapping.end:
        at = _end(value) or key.end
        return Splice(at, at, f", {entry}", _line_of(text, at))
    indent = _indent(text, key)
    at = _end_of_lines(text, key, value)
    line_break = _line_break(text)
    line = _line_of(text, at)
    if at and text[at - 1] not in "\r\n":
        return Splice(at, at, f"{line_break}{indent}{entry}", line + 1)
    return Splice(at, at, f"{indent}{entry}{line_break}", line)


def no_entry(text: str, mapping: Mapping, name: str) -> Splice:
    """An entry is taken out, with what stands on its lines. Raises CannotSplice."""
    number = next(at for at, (key, _) in enumerate(mapping.entries) if key.text == name)
    key, value = mapping.entries[number]
    if len(mapping.entries) == 1:
        raise CannotSplice("it is the only one there")
    if not mapping.end:
        start = key.start - len(_indent(text, key))
        return Splice(start, _end_of_lines(text, key, value), "", key.line)
    start, end = key.start, _end(value) or key.end
    after = re.compile(r"[ \t]*,[ \t]*").match(text, end)
    if after is not None:
        end = after.end()
        start_of_line = _line_start(key)
        rest = _LINE_BREAK.match(text, end)
        if rest is not None and not text[start_of_line:start].strip(" \t"):  # it had its lines for itself
            start, end = start_of_line, rest.end()
    elif before := re.compile(r",\s*\Z").search(text, mapping.entries[number - 1][0].end, start):
        start = before.start()
    return Splice(start, end, "", key.line)


def _indent(text: str, key: Scalar) -> str:
    indent = text[_line_start(key) : key.start]
    if indent.strip(" "):
        raise CannotSplice(f"line {key.line} begins with something else than the key")
    return indent


def _line_start(key: Scalar) -> int:
    return key.start - (key.column - 1)


def _line_of(text: str, index: int) -> int:
    return sum(1 for _ in _LINE_BREAK.finditer(text, 0, index)) + 1


def _line_break(text: str) -> str:
    """That of the file."""
    found = _LINE_BREAK.search(text)
    return found[0] if found else "\n"


def _end(node: Node) -> int:
    """Where a node in braces, or a scalar on a line, ends; 0 where its marks do not tell."""
    if isinstance(node, Mapping | Sequence) and node.end:
        return node.end
    return node.end if isinstance(node, Scalar) and node.end > node.start else 0


def _last_known(text: str, node: Node) -> int:
    """The last place that is known to belong to a node."""
    if _end(node):
        is_block = isinstance(node, Scalar) and text[node.start : node.end].startswith(_BLOCK)
        return node.start if is_block and isinstance(node, Scalar) else _end(node)
    if isinstance(node, Mapping) and node.entries:
        key, value = node.entries[-1]
        return max(key.end, _last_known(text, value))
    if isinstance(node, Sequence) and node.items:
        return _last_known(text, node.items[-1])
    return 0


def _end_of_lines(text: str, key: Scalar, value: Node) -> int:
    """Where the lines of a block entry end: those that it is known to have, and the deeper ones below."""
    known = max(key.end, _last_known(text, value))
    end = _next_line(text, known)
    at = end
    while at < len(text):
        following = _next_line(text, at)
        line = text[at:following]
        inner = line.lstrip(" ")
        if inner.strip():
            if len(line) - len(inner) < key.column:
                break
            end = following
        at = following
    return end


def _next_line(text: str, index: int) -> int:
    found = _LINE_BREAK.search(text, index)
    return found.end() if found else len(text)
