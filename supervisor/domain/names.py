"""The words of the catalog as values: plugins, namespaces, mounts, instances, durations, sizes.

Decided here: what a well-formed name is and how it is written. Whether a thing of that name
exists is the catalog's business (`domain/catalog.py`).
"""

import re
from hashlib import blake2s
from typing import Final, Literal, NewType, TypeAlias, get_args

import msgspec

from supervisor.domain.errors import BadRequest

Seconds: TypeAlias = float
"""A duration, or an instant of the monotonic clock; the name says which."""

PluginType = Literal["auth", "secret", "database"]
PLUGIN_TYPES: Final[tuple[PluginType, ...]] = get_args(PluginType)

NAME: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,63}", re.ASCII)
_PATH: Final = re.compile(rf"{NAME.pattern}(?:/{NAME.pattern})*", re.ASCII)
RESERVED_IN_NAMESPACE: Final = frozenset({"root", "sys"})
NAME_RULE: Final = "1 to 64 of a-z A-Z 0-9 . _ -, not beginning with . or -"

InstanceId = NewType("InstanceId", str)


def is_name(text: str) -> bool:
    """Whether `text` may name a plugin, a version, or one part of a namespace or mount path."""
    return NAME.fullmatch(text) is not None


class PluginRef(msgspec.Struct, frozen=True, order=True):
    """A (type, name) pair of the catalog."""

    type: PluginType
    name: str

    def __str__(self) -> str:
        return f"{self.type}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> "PluginRef":
        """Read `TYPE/NAME`.

        Raises:
            BadRequest: It is not of that form.
        """
        kind, slash, name = text.partition("/")
        for known in PLUGIN_TYPES:
            if slash and kind == known and is_name(name):
                return cls(known, name)
        raise BadRequest(
            f'cannot read "{shortened(text)}" as a plugin: '
            f"write TYPE/NAME with one of the types {', '.join(PLUGIN_TYPES)}"
        )


class Namespace(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """A path-like tenant. `parts` is empty for the root namespace."""

    parts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "/".join(self.parts) or "root"

    @property
    def is_root(self) -> bool:
        return not self.parts

    def covers(self, other: "Namespace") -> bool:
        """Whether `other` is this namespace or lies below it."""
        return other.parts[: len(self.parts)] == self.parts

    def joined(self, other: "Namespace") -> "Namespace":
        return Namespace(self.parts + other.parts)

    @classmethod
    def parse(cls, text: str) -> "Namespace":
        """Read `root`, ``, `team-a`, `/team-a/dev/`; one leading and one final slash are taken off.

        Raises:
            BadRequest: A part is no name, or is reserved.
        """
        inner = text.removeprefix("/").removesuffix("/")
        if inner in {"", "root"}:
            return ROOT
        parts = tuple(inner.split("/"))
        if not _PATH.fullmatch(inner) or not RESERVED_IN_NAMESPACE.isdisjoint(parts):
            raise BadRequest(
                f'cannot read "{shortened(text)}" as a namespace: '
                f"each part is {NAME_RULE}; root and sys are reserved"
            )
        return cls(parts)


ROOT: Final = Namespace()


class MountKey(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """One mount of one namespace; `path` is without leading and final slash."""

    namespace: Namespace
    path: str

    def __str__(self) -> str:
        return f"{self.path}/ in {self.namespace}"

    @property
    def shown(self) -> str:
        """The path as people see it, with its final slash."""
        return self.path + "/"

    @property
    def folder(self) -> str:
        """The namespace as a file name: `team-a+dev`."""
        return str(self.namespace).replace("/", "+")

    @property
    def stem(self) -> str:
        """The mount as a file name without an ending: `auth+mock`."""
        return self.path.replace("/", "+")

    @classmethod
    def parse(cls, namespace: Namespace, text: str) -> "MountKey":
        """Read `auth/mock`, `/auth/mock/`, `sys/auth/mock`: the forms that Vault's clients use.

        Raises:
            BadRequest: A part of the path is no name.
        """
        path = text.strip().removeprefix("/").removesuffix("/").removeprefix("sys/")
        if not _PATH.fullmatch(path):
            raise BadRequest(f'cannot read "{shortened(text)}" as a mount path: each part is {NAME_RULE}')
        return cls(namespace, path)


def instance_id(key: MountKey, generation: int) -> InstanceId:
    """The id of a mount's run number `generation`: short, as it is part of socket paths (108 bytes)."""
    digest = blake2s(f"{key.folder}/{key.stem}".encode(), digest_size=6).hexdigest()
    return InstanceId(f"{digest}-{generation}")


_DURATION_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|h|m|s))+", re.ASCII)
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)", re.ASCII)
_SIZE_UNITS: Final = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE: Final = re.compile(r"(\d{1,15})(|B|KiB|MiB|GiB|TiB)", re.ASCII)
_LONGEST: Final = 10 * 365 * 86400.0


def parse_duration(value: str | float) -> Seconds:
    """Seconds from `100ms`, `10s`, `1m30s`, `2h` or a number of seconds.

    Raises:
        ValueError: It is none of these, negative, not finite or over ten years.
    """
    if isinstance(value, str):
        text = value.strip()
        if _DURATION.fullmatch(text) and len(text) <= 40:  # noqa: PLR2004 - longer than any duration in use
            seconds = sum(
                float(number) * _DURATION_UNITS[unit] for number, unit in _DURATION_PART.findall(text)
            )
        elif re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", text, re.ASCII):
            seconds = float(text)
        else:
            raise ValueError("not a duration: write 100ms, 10s, 1m30s or a number of seconds")
    elif isinstance(value, bool):
        raise ValueError("not a duration: write 100ms, 10s, 1m30s or a number of seconds")  # noqa: TRY004 - one kind for callers
    else:
        # compared first: a whole number may be too large for a float
        seconds = float(value) if 0 <= value <= _LONGEST else -1.0
    if not 0 <= seconds <= _LONGEST:
        raise ValueError("not a duration: it must be between 0s and ten years")
    return seconds


def parse_size(value: str | int) -> int:
    """Bytes from `64KiB`, `16MiB`, `1GiB` or a number of bytes.

    Raises:
        ValueError: It is none of these.
    """
    match = _SIZE.fullmatch(str(value).strip())
    if match is None or isinstance(value, bool):
        raise ValueError("not a size: write 64KiB, 16MiB, 1GiB or a number of bytes")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def shown_duration(seconds: Seconds) -> str:
    """`0.25` as `250ms`, `90` as `1m30s`: what `parse_duration` reads."""
    if seconds < 1:
        return f"{seconds * 1000:.3f}".rstrip("0").rstrip(".") + "ms" if seconds else "0s"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    parts = [f"{hours}h"] * bool(hours) + [f"{minutes}m"] * bool(minutes)
    if rest or not parts:
        parts.append(f"{rest:.3f}".rstrip("0").rstrip(".") + "s")
    return "".join(parts)


def shortened(text: str, most: int = 100) -> str:
    """`text` for an error message: control characters escaped, at most `most` characters."""
    visible = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[: most + 1]
    )
    return visible if len(visible) <= most else visible[: most - 1] + "…"
