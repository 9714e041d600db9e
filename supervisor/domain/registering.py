"""Versions that are added to the catalog and removed from it: what one is made of, and which must stay."""

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from supervisor.domain.catalog import Catalog, Launch, Plugin
from supervisor.domain.errors import BadRequest, NotFound
from supervisor.domain.names import MountKey, PluginRef, shortened

_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_MOST_SHOWN: Final = 10


class Registered(msgspec.Struct, frozen=True):
    """What a new version is made of; the rest is that of its plugin. Checked: see `registered`."""

    command: str
    """Relative to the file of the catalog, or absolute."""
    sha256: str | None = None
    """None: not known yet."""
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


def registered(command: str, sha256: str, args: Iterable[str], env: Iterable[str]) -> Registered:
    """From what people say; `env` holds `NAME=VALUE`.

    Raises:
        BadRequest: A part of it is missing or malformed.
    """
    if not command:
        raise BadRequest("missing command value")
    if sha256 and not _SHA256.fullmatch(sha256):
        raise BadRequest(
            f'"{shortened(sha256, 20)}" is no SHA-256: write the 64 hex digits that sha256sum prints'
        )
    pairs: dict[str, str] = {}
    for text in env:
        name, is_pair, value = text.partition("=")
        if not is_pair or not _VARIABLE.fullmatch(name):
            raise BadRequest("cannot read a variable of env: write NAME=VALUE")
        pairs[name] = value
    return Registered(command, sha256.lower() or None, tuple(args), tuple(pairs.items()))


def check_removable(catalog: Catalog, plugin: Plugin, version: str) -> None:
    """Return if the catalog does without that version.

    Raises:
        NotFound: There is none.
        BadRequest: It is pinned, or mounts have it for their own.
    """
    what = f"cannot remove {shortened(version)} from {plugin.ref}"
    if version not in plugin.versions:
        raise NotFound(f"{what}: it has no such version")
    if plugin.pin == version:
        raise BadRequest(f"{what}: it is pinned: pin another one first")
    own = [
        spec.key
        for spec in catalog.mounts_of(plugin.ref)
        if spec.has_own_version and spec.launch.version == version
    ]
    if own:
        raise BadRequest(f"{what}: it is the own version of {_named(own)}")


def check_unused(ref: PluginRef, version: str, running: Iterable[tuple[MountKey, Launch]]) -> None:
    """Return if nothing runs that version. Raises BadRequest."""
    users = [key for key, launch in running if (launch.plugin, launch.version) == (ref, version)]
    if users:
        raise BadRequest(f"cannot remove {shortened(version)} from {ref}: it is what runs as {_named(users)}")


def _named(keys: Iterable[MountKey]) -> str:
    all_of_them = [str(key) for key in sorted(set(keys))]
    more = f" and {len(all_of_them) - _MOST_SHOWN} more" if len(all_of_them) > _MOST_SHOWN else ""
    return ", ".join(all_of_them[:_MOST_SHOWN]) + more
