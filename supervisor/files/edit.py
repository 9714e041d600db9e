"""One scalar of the catalog is changed in place; everything else stays byte for byte.

The edit is made in the text, read again as a catalog, compared node by node, and only then renamed
over the file. What cannot be done so that this holds is refused: people edit the file too.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor.domain.catalog import Plugin
from supervisor.domain.errors import BadRequest, CatalogInvalid, Conflict, NotFound
from supervisor.domain.names import PluginRef, is_name, shortened
from supervisor.files import replace
from supervisor.files.faults import Faults, Page
from supervisor.files.fields import child
from supervisor.files.layers import NO_DEFAULTS, Defaults
from supervisor.files.load import parse_catalog
from supervisor.files.sources import Source, Unreadable, read_sources, read_whole
from supervisor.files.text import decode, encoding_of
from supervisor.files.yaml import Mapping, Node, Scalar, Sequence, read_tree, yaml_type

_BLOCK: Final = ("|", ">")


@dataclass(frozen=True, slots=True)
class Edit:
    """What was written where. `old` is None when there was no pin; nothing was written when it is `new`."""

    file: str
    line: int
    old: str | None
    new: str


def set_pin(
    path: str | os.PathLike[str],
    ref: PluginRef,
    version: str,
    *,
    defaults: Defaults = NO_DEFAULTS,
    expect: tuple[Source, ...] | None = None,
) -> Edit:
    """Pin `ref` to `version` in the catalog at `path`, and change nothing else.

    Args:
        path: The catalog, a file or a directory.
        ref: The plugin.
        version: One of its versions.
        defaults: What the catalog is read with.
        expect: The files as the caller knows them; None takes them as they are.

    Raises:
        CatalogInvalid: The catalog is not valid as it is.
        NotFound: There is no such plugin.
        BadRequest: It has no such version, or the pin is written in a way that is not edited.
        Conflict: The files changed meanwhile, or cannot be replaced.
    """
    sources = read_sources(path)
    if expect is not None and sources != expect:
        raise Conflict(f"cannot pin {ref}: the catalog changed meanwhile: read it again")
    plugin = parse_catalog(sources, defaults).plugins.get(ref)
    _check(plugin, ref, version)
    assert plugin is not None  # noqa: S101 - for mypy: _check raised
    number = next(n for n, source in enumerate(sources) if source.path == plugin.mark.file)
    source = sources[number]
    edited, edit = _edited(source, ref, plugin.pin, version)
    if edit.old == version:
        return edit
    after = (*sources[:number], Source(source.path, edited), *sources[number + 1 :])
    _compare(source, after[number], ref, version)
    try:
        is_pinned = parse_catalog(after, defaults).plugins[ref].pin == version
    except CatalogInvalid as error:
        raise BadRequest(
            f"cannot pin {ref} in {source.path}: it would not be valid any more: {error}"
        ) from error
    if not is_pinned:
        raise BadRequest(f"cannot pin {ref} in {source.path}: {_BY_HAND}")
    _write(source, edited)
    return edit


_BY_HAND: Final = "its pin is written in a way that is not edited: edit the file by hand"


def _check(plugin: Plugin | None, ref: PluginRef, version: str) -> None:
    if plugin is None:
        raise NotFound(f"cannot pin {ref}: the catalog has no such plugin")
    if version not in plugin.versions or not is_name(version):
        near = Faults().near(version, plugin.versions)
        raise BadRequest(f'cannot pin {ref} to "{shortened(version)}": it has no such version{near}')


# ---- in the text


def _edited(source: Source, ref: PluginRef, old: str | None, version: str) -> tuple[bytes, Edit]:
    data = source.text if isinstance(source.text, bytes) else source.text.encode()
    text = decode(data)
    plugin = child(child(child(_tree(source), "plugins") or _NOTHING, ref.type) or _NOTHING, ref.name)
    if not isinstance(plugin, Mapping) or not plugin.entries:
        raise BadRequest(f"cannot pin {ref} in {source.path}: {_BY_HAND}")
    pin = child(plugin, "pin")
    if isinstance(pin, Scalar):
        token = text[pin.start : pin.end]
        if token.startswith(_BLOCK):
            raise BadRequest(
                f"cannot pin {ref} in {source.path}:{pin.line}: a block scalar is not edited: {_BY_HAND}"
            )
        start, end, line, written = pin.start, pin.end, pin.line, _quoted(version, token[:1])
    else:
        first = plugin.entries[0][0]
        start = end = first.start
        line, written = first.line, _new_entry(text, plugin, first, version)
    edited = text[:start] + written + text[end:]
    return _encoded(edited, data), Edit(source.path, line, old, version)


_NOTHING: Final = Sequence([], 0, 0)


def _quoted(version: str, quote: str) -> str:
    if quote in {"'", '"'}:
        return f"{quote}{version}{quote}"
    plain = Scalar(version, plain=True, line=0, column=0)
    return version if yaml_type(plain) is None else f'"{version}"'


def _new_entry(text: str, plugin: Mapping, first: Scalar, version: str) -> str:
    entry = f"pin: {_quoted(version, '')}"
    if (plugin.line, plugin.column) != (first.line, first.column):
        return f"{entry}, "  # in braces
    line_start = first.start - (first.column - 1)
    indent = text[line_start : first.start]
    before = text[:line_start]
    line_break = "\r\n" if before.endswith("\r\n") else before[-1:] or "\n"
    return f"{entry}{line_break}{indent}"


def _encoded(text: str, original: bytes) -> bytes:
    """`text` in the encoding of `original`, with a byte order mark where that has one."""
    if encoding_of(original) == "utf-16":
        codec = "utf-16-le" if original[:2] == b"\xff\xfe" else "utf-16-be"
        return original[:2] + text.encode(codec)
    mark = b"\xef\xbb\xbf"
    return (mark if original.startswith(mark) else b"") + text.encode()


# ---- what came of it


def _compare(before: Source, after: Source, ref: PluginRef, version: str) -> None:
    pin = ("plugins", ref.type, ref.name, "pin")
    old, new = dict(_flat(_tree(before))), dict(_flat(_tree(after)))
    old.pop(pin, None)
    if new.pop(pin, None) != version or old != new:
        raise BadRequest(f"cannot pin {ref} in {before.path}: {_BY_HAND}")


def _tree(source: Source) -> Node:
    page = Page(source.path, "/", Faults())
    return read_tree(page, source.text) or _NOTHING


def _flat(node: Node, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(node, Scalar):
        yield path, node.text
    elif isinstance(node, Mapping):
        yield path, "{}"
        for key, value in node.entries:
            yield from _flat(value, (*path, key.text))
    elif isinstance(node, Sequence):
        yield path, "[]"
        for number, item in enumerate(node.items):
            yield from _flat(item, (*path, number))


def _write(source: Source, edited: bytes) -> None:
    target = Path(source.path).resolve()
    original = source.text if isinstance(source.text, bytes) else source.text.encode()

    def check() -> None:
        # last thing before the rename: an editor may have saved since it was read
        with suppress(Unreadable):
            if read_whole(target) == original and Path(source.path).resolve() == target:
                return
        raise Conflict(f"cannot write {source.path}: it changed meanwhile: ask again")

    try:
        replace.in_place_of(target, edited, check)
    except OSError as error:
        raise Conflict(f"cannot write {source.path}: {(error.strerror or str(error)).lower()}") from error
