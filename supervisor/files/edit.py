"""One thing of the catalog is changed in place; everything else stays byte for byte.

A pin is set or taken out, a version added or removed. The edit is made in the text, read again as a catalog,
compared node by node, and only then renamed over the file. What cannot be done so that this holds is
refused: people edit the file too.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor.domain.catalog import Catalog, Plugin
from supervisor.domain.errors import BadRequest, CatalogInvalid, Conflict, NotFound
from supervisor.domain.names import PluginRef, is_name, shortened
from supervisor.domain.registering import Registered, check_removable
from supervisor.files import replace, splices
from supervisor.files.faults import Faults, Page
from supervisor.files.fields import child
from supervisor.files.layers import NO_DEFAULTS, Defaults
from supervisor.files.load import parse_catalog
from supervisor.files.sources import Source, Unreadable, read_sources, read_whole
from supervisor.files.splices import CannotSplice, Splice
from supervisor.files.text import decode, encoding_of
from supervisor.files.yaml import Mapping, Node, Scalar, Sequence, read_tree

Flat = dict[tuple[str | int, ...], str]
_BY_HAND: Final = "it is written in a way that is not edited: edit the file by hand"


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
class _Change:
    """A splice, and what then stands at `path` in the tree, where it alone changes something."""

    splice: Splice
    path: tuple[str, ...]
    then: Flat


@dataclass(frozen=True, slots=True)
class _Place:
    """A plugin in the text of its file."""

    source: Source
    text: str
    node: Mapping
    ref: PluginRef

    @property
    def path(self) -> tuple[str, ...]:
        return ("plugins", self.ref.type, self.ref.name)


@dataclass(frozen=True, slots=True)
class Editor:
    """Edits of one catalog.

    Args:
        path: The catalog, a file or a directory.
        defaults: What the catalog is read with.
        expect: The files as the caller knows them; None takes them as they are.

    Each edit raises:
        CatalogInvalid: The catalog is not valid as it is.
        NotFound: There is no such plugin.
        BadRequest: It cannot be so, or is written in a way that is not edited.
        Conflict: The files changed meanwhile, or cannot be replaced.
    """

    path: str | os.PathLike[str]
    defaults: Defaults = NO_DEFAULTS
    expect: tuple[Source, ...] | None = None

    def set_pin(
        self, ref: PluginRef, version: str, before_write: Callable[[Edit], None] = lambda _: None
    ) -> Edit:
        """Pin `ref` to `version`. `before_write` may refuse what is about to be written."""
        return self._pin(ref, lambda _: version, f"pin {ref}", before_write)

    def remove_pin(self, ref: PluginRef, before_write: Callable[[Edit], None] = lambda _: None) -> Edit:
        """Leave `ref` without a pin, where every mount of it has a version of its own."""
        return self._pin(ref, lambda _: None, f"remove the pin of {ref}", before_write)

    def undo_pin(self, ref: PluginRef, old: str | None, new: str | None) -> Edit:
        """Put `old` back in the place of `new`. Raises Conflict where another one stands there."""
        deed = f"undo the pin of {ref}"

        def back(plugin: Plugin) -> str | None:
            if plugin.pin != new:
                raise Conflict(
                    f"cannot {deed}: it is {plugin.pin or 'none'} now, and {new or 'none'} is what plugind "
                    "wrote last: pin the version that you want"
                )
            return old

        return self._pin(ref, back, deed, lambda _: None)

    def add_version(self, ref: PluginRef, version: str, added: Registered) -> Edit:
        """Add a version to those of `ref`. Where just that version is there already nothing is written."""
        deed = f"add {shortened(version)} to {ref}"
        if not is_name(version):
            raise BadRequest(f"cannot {deed}: that cannot name a version")

        def add(place: _Place, plugin: Plugin, _: Catalog) -> _Change | None:
            versions = child(place.node, "versions")
            if not isinstance(versions, Mapping):
                raise CannotSplice("it has no versions that could be added to")
            value = _as_yaml(added)
            path = (*place.path, "versions", version)
            alone = _flat(_tree(Source("", f"{{x: {value}}}")))
            then = {(*path, *inner[1:]): text for inner, text in alone if inner}
            if version in plugin.versions:
                there = {key: text for key, text in _flat(_tree(place.source)) if key[: len(path)] == path}
                if there == then:
                    return None
                raise Conflict(
                    f"cannot {deed}: there is one of that name that is another one: remove it first"
                )
            entry = f"{splices.quoted(version)}: {value}"
            return _Change(splices.last_entry(place.text, versions, entry), path, then)

        file, line = self._carry_out(ref, deed, add)
        return Edit(file, line, None if line else version, version)

    def remove_version(self, ref: PluginRef, version: str) -> Edit:
        """Take a version out that is not pinned, and that no mount has for its own."""
        deed = f"remove {shortened(version)} from {ref}"

        def remove(place: _Place, plugin: Plugin, catalog: Catalog) -> _Change:
            check_removable(catalog, plugin, version)
            versions = child(place.node, "versions")
            assert isinstance(versions, Mapping)  # noqa: S101 - for mypy: it holds the version
            return _Change(
                splices.no_entry(place.text, versions, version), (*place.path, "versions", version), {}
            )

        file, line = self._carry_out(ref, deed, remove)
        return Edit(file, line, version, None)

    # ---- one edit

    def _pin(
        self,
        ref: PluginRef,
        choose: Callable[[Plugin], str | None],
        deed: str,
        before_write: Callable[[Edit], None],
    ) -> Edit:
        made: list[Edit] = []

        def change(place: _Place, plugin: Plugin, _: Catalog) -> _Change | None:
            version = choose(plugin)
            if version is not None:
                _check(plugin, version)
            pin = child(place.node, "pin")
            line = pin.line if pin is not None else place.node.entries[0][0].line
            made.append(Edit(place.source.path, line, plugin.pin, version))
            if not made[-1].is_written:
                return None
            if version is None:
                splice = splices.no_entry(place.text, place.node, "pin")
            elif isinstance(pin, Scalar):
                splice = splices.scalar(place.text, pin, version)
            else:
                splice = splices.first_entry(place.text, place.node, f"pin: {splices.quoted(version)}")
            path = (*place.path, "pin")
            return _Change(splice, path, {} if version is None else {path: version})

        self._carry_out(ref, deed, change, lambda: before_write(made[-1]))
        return made[-1]

    def _carry_out(
        self,
        ref: PluginRef,
        deed: str,
        make: Callable[[_Place, Plugin, Catalog], _Change | None],
        before_write: Callable[[], None] = lambda: None,
    ) -> tuple[str, int]:
        """Make a change and write it; the file, and the line (0: there is nothing to write)."""
        sources = read_sources(self.path)
        if self.expect is not None and sources != self.expect:
            raise Conflict(f"cannot {deed}: the catalog changed meanwhile: read it again")
        catalog = parse_catalog(sources, self.defaults)
        plugin = catalog.plugins.get(ref)
        if plugin is None:
            raise NotFound(f"cannot {deed}: the catalog has no such plugin")
        number = next(n for n, source in enumerate(sources) if source.path == plugin.mark.file)
        source = sources[number]
        try:
            change = make(_place(source, ref), plugin, catalog)
        except CannotSplice as error:
            line = plugin.mark.line
            raise BadRequest(f"cannot {deed} in {source.path}:{line}: {error}: {_BY_HAND}") from error
        if change is None:
            return source.path, 0
        edited = _encoded(change.splice.done(decode(_bytes(source))), _bytes(source))
        after = (*sources[:number], Source(source.path, edited), *sources[number + 1 :])
        _compare(source, after[number], change, deed)
        try:
            parse_catalog(after, self.defaults)
        except CatalogInvalid as error:
            raise BadRequest(
                f"cannot {deed} in {source.path}: it would not be valid any more: {error}"
            ) from error
        before_write()
        _write(source, edited)
        return source.path, change.splice.line


def _check(plugin: Plugin, version: str) -> None:
    if version not in plugin.versions or not is_name(version):
        near = Faults().near(version, plugin.versions)
        raise BadRequest(f'cannot pin {plugin.ref} to "{shortened(version)}": it has no such version{near}')


# ---- in the text


def _place(source: Source, ref: PluginRef) -> _Place:
    node = child(child(child(_tree(source), "plugins") or _NOTHING, ref.type) or _NOTHING, ref.name)
    if not isinstance(node, Mapping) or not node.entries:
        raise CannotSplice("it is no mapping with a key")
    return _Place(source, decode(_bytes(source)), node, ref)


_NOTHING: Final = Sequence([], 0, 0)


def _as_yaml(added: Registered) -> str:
    entries = [("command", splices.quoted(added.command))]
    if added.sha256:
        entries.append(("sha256", splices.quoted(added.sha256)))
    if added.args:
        entries.append(("args", splices.in_brackets(added.args)))
    if added.env:
        entries.append(("env", splices.in_braces((name, splices.quoted(value)) for name, value in added.env)))
    return splices.in_braces(entries)


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


def _compare(before: Source, after: Source, change: _Change, deed: str) -> None:
    depth = len(change.path)

    def beside(flat: Flat) -> Flat:
        return {path: text for path, text in flat.items() if path[:depth] != change.path}

    old, new = dict(_flat(_tree(before))), dict(_flat(_tree(after)))
    if {path: text for path, text in new.items() if path[:depth] == change.path} != change.then:
        raise BadRequest(f"cannot {deed} in {before.path}: {_BY_HAND}")
    if beside(old) != beside(new):
        raise BadRequest(f"cannot {deed} in {before.path}: more than that would change: {_BY_HAND}")


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
