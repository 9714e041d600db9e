"""`plugins:` of the catalog: what may be run. Drafts first, as mounts add to the layers of a version."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from supervisor.domain.catalog import Launch, Plugin, Policies, Version
from supervisor.domain.names import NAME_RULE, PLUGIN_TYPES, PluginRef, is_name, shortened
from supervisor.files import fields as f
from supervisor.files import values as v
from supervisor.files.faults import Faults, Page
from supervisor.files.layers import SETTINGS, Defaults, Layer, launch_of, merged, policies_of
from supervisor.files.yaml import Mapping, Node, Scalar

_MOST_VARIABLES: Final = 200_000
_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)


class Variables:
    """How many variables the environments of one load have, together.

    Each version and mount has its own, with what it is given from above: a hundred kilobytes of
    catalog could otherwise ask for gigabytes.
    """

    def __init__(self) -> None:
        self._left = _MOST_VARIABLES

    def count(self, page: Page, place: Scalar, layer: Layer) -> None:
        """Take those of `layer` off.

        Raises:
            TooManyFaults: There are too many by now; its fault is noted.
        """
        self._left -= len(layer.get("env", ()))
        if self._left < 0:
            page.stop(
                place, f"more than {_MOST_VARIABLES:,} environment variables in all versions and mounts"
            )


@dataclass(slots=True)
class VersionDraft:
    """A version with its layers merged, mounts' ones not yet."""

    page: Page
    key: Scalar
    base: Launch
    layer: Layer
    variables: "Variables"
    _resolved: tuple[Launch, Policies] | None = None

    def resolved(self) -> tuple[Launch, Policies]:
        """What a mount without settings of its own runs; worked out once."""
        if self._resolved is None:
            self._resolved = self.resolve(self.page, self.key, {})
        return self._resolved

    def resolve(self, page: Page, place: Scalar, own: Layer) -> tuple[Launch, Policies]:
        layer = merged(self.layer, own)
        if own:
            self.variables.count(page, place, layer)
        return launch_of(self.base, layer), policies_of(page, place, layer)


@dataclass(slots=True)
class PluginDraft:
    """A plugin as far as it could be read. `is_whole` says that nothing of it is missing for a fault."""

    ref: PluginRef
    page: Page
    key: Scalar
    pin: str | None = None
    is_pin_given: bool = False
    is_whole: bool = True
    versions: dict[str, VersionDraft] = field(default_factory=dict)


def version_name(page: Page, node: Node) -> str:
    value = f.text(page, node)
    if not is_name(value):
        raise f.Wrong(f'"{shortened(value)}" cannot name a version: write {NAME_RULE}')
    return value


def _sha256(page: Page, node: Node) -> str:
    value = f.text(page, node)
    if not _SHA256.fullmatch(value):
        raise f.Wrong(
            f'"{shortened(value, 20)}" is no SHA-256: write the 64 hex digits that sha256sum prints'
        )
    return value.lower()


def _versions(_page: Page, node: Node) -> Mapping:
    return f.mapping(node, "versions")


_VERSION: Final[f.Table] = {**SETTINGS, "command": v.path, "sha256": _sha256}
_PLUGIN: Final[f.Table] = {**SETTINGS, "pin": version_name, "versions": _versions}
_OF_PLUGIN: Final = frozenset({"pin", "versions"})
_OF_VERSION: Final = frozenset({"command", "sha256"})


class PluginReader:
    """Takes the `plugins` of one file after the other; what they are together is in `drafts`."""

    def __init__(self, faults: Faults, defaults: Defaults) -> None:
        self._faults = faults
        self._defaults = defaults
        self._variables = Variables()
        self.drafts: dict[PluginRef, PluginDraft] = {}
        self.is_whole = True
        """Whether every plugin is among the drafts; a fault may have hidden some."""

    def take(self, page: Page, node: Node) -> None:
        for key, value in f.entries(page, node, "plugins"):
            if key.text not in PLUGIN_TYPES:
                self.is_whole = False
                page.unknown(key, "plugin type", key.text, PLUGIN_TYPES)
            elif f.read(page, value, self._take_type(key.text)) is None:
                self.is_whole = False

    def _take_type(self, kind: str) -> f.Reader[bool]:
        def read_type(page: Page, node: Node) -> bool:
            for key, value in f.entries(page, node, f"plugins of type {kind}"):
                if is_name(key.text):
                    self._take_plugin(page, PluginRef.parse(f"{kind}/{key.text}"), key, value)
                else:
                    self.is_whole = False
                    page.fault(key, f'"{shortened(key.text)}" cannot name a plugin: write {NAME_RULE}')
            return True

        return read_type

    def _take_plugin(self, page: Page, ref: PluginRef, key: Scalar, node: Node) -> None:
        first = self.drafts.get(ref)
        if first is not None:
            page.fault(key, f"{ref} is already defined in {first.page.file}:{first.key.line}")
        draft = PluginDraft(ref, page, key)
        # its own faults are told even where the plugin stands twice
        self.drafts.setdefault(ref, draft)
        values = f.read(page, node, f.section(f"plugin {ref}", _PLUGIN))
        if values is None:
            draft.is_whole = False
            return
        draft.is_pin_given = f.child(node, "pin") is not None
        draft.pin = values.get("pin")
        layer = merged(self._defaults.layer, _without(values, _OF_PLUGIN))
        self._variables.count(page, key, layer)
        versions = values.get("versions")
        if versions is not None:
            self._take_versions(draft, layer, versions)
        else:
            draft.is_whole = False
            f.missing(page, f.mapping(node, "a plugin"), ["versions"])
        self._check_pin(draft, node)

    def _take_versions(self, draft: PluginDraft, layer: Layer, node: Mapping) -> None:
        page = draft.page
        for key, value in f.entries(page, node, "versions"):
            if not is_name(key.text):
                page.fault(key, f'"{shortened(key.text)}" cannot name a version: write {NAME_RULE}')
                continue
            values = f.read(page, value, f.section(f"version {key.text}", _VERSION))
            if values is not None and isinstance(value, Mapping):
                self._check_needed(page, value, values)
            values = values or {}
            base = Launch(draft.ref, key.text, values.get("command", ""), values.get("sha256"))
            own = merged(layer, _without(values, _OF_VERSION))
            self._variables.count(page, key, own)
            draft.versions[key.text] = VersionDraft(page, key, base, own, self._variables)
        draft.is_whole &= len(draft.versions) == len(node.entries)
        if not node.entries:
            page.fault(node, f"{draft.ref} has no version")

    def _check_needed(self, page: Page, node: Mapping, values: dict[str, Any]) -> None:
        f.missing(page, node, ["command"])
        if not self._defaults.sha256_optional:
            where = f" of {values['command']}" if "command" in values else ""
            f.missing(
                page,
                node,
                ["sha256"],
                f": write the SHA-256{where}, or `defaults: {{sha256: optional}}` in plugind.yaml",
            )

    def _check_pin(self, draft: PluginDraft, node: Node) -> None:
        if draft.pin is None or draft.pin in draft.versions or not draft.is_whole:
            return
        place = f.child(node, "pin") or draft.key
        near = self._faults.near(draft.pin, draft.versions)
        draft.page.fault(
            place, f'{draft.ref} is pinned to "{draft.pin}", which is not among its versions{near}'
        )

    def finish(self) -> None:
        """Check every version as it runs where a mount adds nothing."""
        for draft in self.drafts.values():
            for version in draft.versions.values():
                version.resolved()

    def plugins(self) -> dict[PluginRef, Plugin]:
        return {
            ref: Plugin(
                ref,
                draft.pin,
                {
                    name: Version(*version.resolved(), version.page.mark(version.key))
                    for name, version in draft.versions.items()
                },
                draft.page.mark(draft.key),
            )
            for ref, draft in self.drafts.items()
        }


def _without(values: dict[str, Any], keys: Iterable[str]) -> Layer:
    return {key: value for key, value in values.items() if key not in keys}
