"""One thing of the catalog is changed in place; everything else stays byte for byte.

The edit is made in the text, read again as a catalog, compared node by node, and only then renamed over
the file. What cannot be done so that this holds is refused: people edit the file too. Which edits there
are stands in `pins.py` and `versions.py`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor.domain.catalog import Catalog, Plugin
from supervisor.domain.errors import BadRequest, CatalogInvalid, Conflict, NotFound
from supervisor.domain.names import PluginRef
from supervisor.files import replace
from supervisor.files.faults import Faults, Page
from supervisor.files.fields import child
from supervisor.files.layers import NO_DEFAULTS, Defaults
from supervisor.files.load import parse_catalog
from supervisor.files.sources import Source, Unreadable, read_sources, read_whole
from supervisor.files.splices import CannotSplice, Splice
from supervisor.files.text import decode, encoding_of
from supervisor.files.yaml import Mapping, Node, Scalar, Sequence, read_tree

Where = tuple[str | int, ...]
Flat = dict[Where, str]
_BY_HAND: Final = "it is written in a way that is not edited: edit the file by hand"
_NOTHING: Final = Sequence([], 0, 0)


@dataclass(frozen=True, slots=True)
class Edit:
    """What was written where: a pin, or the name of a version. None: there was, or is, none."""

    file: str
    line: int
    old: str | None
    new: str | None

    @property
    def is_written(self) -> bool:
        return self.old != self.new


@dataclass(frozen=True, slots=True)
class Change:
    """A splice of a file, and what then stands at `path` in its tree, where it alone changes something."""

    source: Source
    splice: Splice
    path: tuple[str, ...]
    then: Flat


@dataclass(frozen=True, slots=True)
class Place:
    """A plugin in the text of its file."""

    source: Source
    text: str
    node: Mapping
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Texts:
    """What an edit starts from."""

    sources: tuple[Source, ...]
    catalog: Catalog

    def found(self, ref: PluginRef, deed: str) -> tuple[Plugin, Place]:
        """A plugin and where it stands. Raises NotFound, CannotSplice."""
        plugin = self.catalog.plugins.get(ref)
        if plugin is None:
            raise NotFound(f"cannot {deed}: the catalog has no such plugin")
        source = next(source for source in self.sources if source.path == plugin.mark.file)
        path = ("plugins", ref.type, ref.name)
        node = at(tree(source), path)
        if not isinstance(node, Mapping) or not node.entries:
            raise CannotSplice("it is no mapping with a key")
        return plugin, Place(source, text_of(source), node, path)


@dataclass(frozen=True, slots=True)
class Editor:
    """Edits of one catalog.

    Args:
        path: The catalog, a file or a directory.
        defaults: What the catalog is read with.
        expect: The files as the caller knows them; None takes them as they are.
    """

    path: str | os.PathLike[str]
    defaults: Defaults = NO_DEFAULTS
    expect: tuple[Source, ...] | None = None

    def carry_out(
        self,
        ref: PluginRef,
        deed: str,
        make: Callable[[Texts], Change | None],
        before_write: Callable[[], None] = lambda: None,
    ) -> Change | None:
        """Make a change of a plugin and write it; None where there is nothing to write.

        Raises:
            CatalogInvalid: The catalog is not valid as it is.
            BadRequest: It would not be valid any more, or is written in a way that is not edited.
            Conflict: The files changed meanwhile, or cannot be replaced.
            Refused: `make` or `before_write` did.
        """
        sources = read_sources(self.path)
        if self.expect is not None and sources != self.expect:
            raise Conflict(f"cannot {deed}: the catalog changed meanwhile: read it again")
        catalog = parse_catalog(sources, self.defaults)
        try:
            change = make(Texts(sources, catalog))
        except CannotSplice as error:
            plugin = catalog.plugins.get(ref)
            where = f" in {plugin.mark.file}:{plugin.mark.line}" if plugin is not None else ""
            raise BadRequest(f"cannot {deed}{where}: {error}: {_BY_HAND}") from error
        if change is None:
            return None
        source = change.source
        edited = _encoded(change.splice.done(text_of(source)), _bytes(source))
        after = Source(source.path, edited)
        _compare(source, after, change, deed)
        try:
            parse_catalog([after if one is source else one for one in sources], self.defaults)
        except CatalogInvalid as error:
            raise BadRequest(
                f"cannot {deed} in {source.path}: it would not be valid any more: {error}"
            ) from error
        before_write()
        _write(source, edited)
        return change


# ---- texts and trees


def text_of(source: Source) -> str:
    return decode(_bytes(source))


def tree(source: Source) -> Node:
    page = Page(source.path, "/", Faults())
    return read_tree(page, source.text) or _NOTHING


def at(node: Node, path: tuple[str, ...]) -> Node:
    """What stands at `path`; nothing, as a list, where nothing does."""
    for name in path:
        node = child(node, name) or _NOTHING
    return node


def flat(node: Node, path: Where = ()) -> Iterator[tuple[Where, str]]:
    """Each node with the path to it."""
    if isinstance(node, Scalar):
        yield path, node.text
    elif isinstance(node, Mapping):
        yield path, "{}"
        for key, value in node.entries:
            yield from flat(value, (*path, key.text))
    elif isinstance(node, Sequence):
        yield path, "[]"
        for number, item in enumerate(node.items):
            yield from flat(item, (*path, number))


def _bytes(source: Source) -> bytes:
    return source.text if isinstance(source.text, bytes) else source.text.encode()


def _encoded(text: str, original: bytes) -> bytes:
    """`text` in the encoding of `original`, with a byte order mark where that has one."""
    if encoding_of(original) == "utf-16":
        codec = "utf-16-le" if original[:2] == b"\xff\xfe" else "utf-16-be"
        return original[:2] + text.encode(codec)
    mark = b"\xef\xbb\xbf"
    return (mark if original.startswith(mark) else b"") + text.encode()


# ---- what came of it


def _compare(before: Source, after: Source, change: Change, deed: str) -> None:
    depth = len(change.path)

    def beside(flat: Flat) -> Flat:
        return {path: text for path, text in flat.items() if path[:depth] != change.path}

    old, new = dict(flat(tree(before))), dict(flat(tree(after)))
    if {path: text for path, text in new.items() if path[:depth] == change.path} != change.then:
        raise BadRequest(f"cannot {deed} in {before.path}: {_BY_HAND}")
    if beside(old) != beside(new):
        raise BadRequest(f"cannot {deed} in {before.path}: more than that would change: {_BY_HAND}")


def _write(source: Source, edited: bytes) -> None:
    target = Path(source.path).resolve()
    original = _bytes(source)

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
