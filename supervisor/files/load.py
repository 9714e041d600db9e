"""catalog.yaml to a `Catalog`: what there is, what is pinned, what is mounted where.

All faults of all files are found in one run. Decided here: which names must exist and may meet.
How a value is read stands in `fields.py`, the per-plugin settings in `layers.py`, whether the
files it names are fit to run in `binaries.py`.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from supervisor.domain.catalog import Catalog
from supervisor.domain.errors import Fault
from supervisor.files import fields as f
from supervisor.files.faults import Faults, Page, TooManyFaults
from supervisor.files.layers import NO_DEFAULTS, Defaults
from supervisor.files.mounts import MountReader
from supervisor.files.plugins import PluginReader
from supervisor.files.sources import Source, read_sources
from supervisor.files.yaml import Allowance, Node, is_empty, read_tree

__all__ = ["Defaults", "Source", "load_catalog", "parse_catalog", "read_sources"]

_TOP: Final = ("plugins", "namespaces")


def load_catalog(path: str | os.PathLike[str], defaults: Defaults = NO_DEFAULTS) -> Catalog:
    """The catalog that stands at `path`, a file or a directory of `*.yaml`.

    Raises:
        CatalogInvalid: With every fault of every file.
    """
    return parse_catalog(read_sources(path), defaults)


def parse_catalog(sources: Iterable[Source], defaults: Defaults = NO_DEFAULTS) -> Catalog:
    """The catalog that `sources` are together.

    Raises:
        CatalogInvalid: With every fault of every source.
    """
    faults = Faults()
    try:
        catalog = _parsed(sources, defaults, faults)
    except TooManyFaults:
        faults.raise_any()
        raise
    faults.raise_any()
    return catalog


def _parsed(sources: Iterable[Source], defaults: Defaults, faults: Faults) -> Catalog:
    plugins = PluginReader(faults, defaults)
    allowance = Allowance()
    parts = [part for source in sources for part in _parts(source, faults, plugins, allowance)]
    for page, key, node in parts:
        if key == "plugins":
            f.read(page, node, plugins.take)
    plugins.finish()
    mounts = MountReader(faults, plugins)
    for page, key, node in parts:
        if key == "namespaces":
            f.read(page, node, mounts.take)
    mounts.finish()
    return Catalog(plugins.plugins(), mounts.mounts, frozenset(mounts.namespaces))


def _parts(
    source: Source, faults: Faults, plugins: PluginReader, allowance: Allowance
) -> list[tuple[Page, str, Node]]:
    page = Page(source.path, str(Path(source.path).absolute().parent), faults)
    root = read_tree(page, source.text, allowance)
    if root is None or is_empty(root):
        # an editor empties a file before it writes: taken for a catalog, it would end every process
        faults.add(Fault(source.path, 0, 0, 'is empty: a catalog without plugins is "plugins: {}"'))
        return []
    found = f.read(page, root, _top)
    if found is None:
        plugins.is_whole = False
        return []
    return [(page, key, node) for key, node in found.items()]


def _top(page: Page, node: Node) -> dict[str, Node]:
    return f.fields(page, node, "a catalog", dict.fromkeys(_TOP, _as_it_is))


def _as_it_is(_page: Page, node: Node) -> Node:
    return node
