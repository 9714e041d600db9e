"""The per-plugin settings: how they are read at one level, merged over the levels, and resolved.

Levels are defaults, plugin, version, mount; the inner wins. `env`, `ready`, `liveness`, `stop`,
`restart`, `reload` and `limits` merge by key, everything else is replaced. A layer holds only what
was written; what is left open is filled by the defaults of `domain/catalog.py`.
"""

import re
from collections.abc import Mapping as MappingType
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from supervisor.domain.catalog import (
    EnvValue,
    FromFile,
    Launch,
    Limits,
    Liveness,
    Policies,
    Probe,
    ReloadPolicy,
    RestartPolicy,
    StopPolicy,
)
from supervisor.domain.names import shortened
from supervisor.files import fields as f
from supervisor.files import values as v
from supervisor.files.faults import Page, Placed
from supervisor.files.listeners import listen
from supervisor.files.yaml import Mapping, Node

Layer: TypeAlias = MappingType[str, Any]


@dataclass(frozen=True, slots=True)
class At:
    """A value that can be found unfit only when the layers are merged, with its place.

    None stands for a value that is already reported, so that nobody misses it as well.
    """

    value: Any
    page: Page = field(compare=False, repr=False)
    node: Placed = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Defaults:
    """The `defaults` of plugind.yaml: the outermost layer of every plugin."""

    layer: Layer = field(default_factory=dict, hash=False)
    sha256_optional: bool = False


NO_DEFAULTS: Final = Defaults()

_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_FOR_ANY_KIND: Final = frozenset({"kind", "timeout", "interval"})
_OF_KIND: Final[MappingType[str, tuple[str, ...]]] = {
    "exec": ("settle",),
    "notify": (),
    "handshake": (),
    "http": ("url",),
    "tcp": ("address",),
    "unix": ("path",),
    "command": ("command",),
}
_NEEDED: Final = frozenset({"url", "address", "path", "command"})
_OF_LIVENESS: Final = frozenset({"interval", "failures"})
_FIELD_OF: Final = {"url": "address", "path": "address"}
_BY_KEY: Final = frozenset({"env", "stop", "restart", "reload", "limits"})
_PROBES: Final = frozenset({"ready", "liveness"})
_OF_POLICIES: Final = frozenset({"ready", "liveness", "stop", "restart", "reload"})
_POLICIES: Final = Policies()
_NO_LIMITS: Final = Limits()


# ---- one layer


def _environment(page: Page, node: Node) -> dict[str, At]:
    values: dict[str, At] = {}
    for key, value in f.entries(page, node, "env"):
        if not _ENV_NAME.fullmatch(key.text):
            page.fault(key, f'"{shortened(key.text)}" cannot name a variable: write letters, digits and _')
        elif key.text.startswith("PLUGIND_"):
            page.fault(key, f"{shortened(key.text)} is set by plugind: choose a name that begins otherwise")
        elif (wanted := f.read(page, value, _env_value)) is not None:
            values[key.text] = At(wanted, page, key)
    return values


def _env_value(page: Page, node: Node) -> EnvValue:
    if not isinstance(node, Mapping):
        return v.argument(page, node)
    found = f.fields(page, node, "env", {"file": v.path})
    f.missing(page, node, ["file"])
    if "file" not in found:
        raise f.Reported
    return FromFile(found["file"])


def _probe(what: str, table: f.Table) -> f.Reader[dict[str, At]]:
    def read_probe(page: Page, node: Node) -> dict[str, At]:
        values = f.fields(page, node, what, table)
        kind = values.get("kind")
        found: dict[str, At] = {}
        for key, _ in f.mapping(node, what).entries:
            if key.text not in table:
                continue
            if kind is not None and not _fits(key.text, kind):
                page.fault(key, _misfit(what, kind, key.text))
            else:
                found[key.text] = At(values.get(key.text), page, key)
        return found

    return read_probe


def _fits(key: str, kind: str) -> bool:
    return key not in _OF_ONE_KIND or key in _OF_KIND[kind]


def _misfit(what: str, kind: str, key: str) -> str:
    return f'{what} of kind {kind} has no key "{key}"'


_OF_ONE_KIND: Final = frozenset(key for keys in _OF_KIND.values() for key in keys)

_PROBE: Final[f.Table] = {
    "kind": v.choice(*_OF_KIND),
    "timeout": v.positive_duration,
    "interval": v.positive_duration,
    "settle": v.duration,
    "url": v.url,
    "address": v.address,
    "path": v.own_path,
    "command": v.command,
}
_MANY: Final = (1 << 63) - 1

SETTINGS: Final[f.Table] = {
    "args": f.many(v.argument),
    "env": _environment,
    "cwd": v.path,
    "user": f.optional(v.account),
    "group": f.optional(v.account),
    "groups": f.optional(f.many(v.account)),
    "umask": v.mode,
    "ready": _probe("ready", _PROBE),
    "liveness": f.optional(_probe("liveness", {**_PROBE, "failures": v.integer(1, 1_000_000)})),
    "stop": f.section(
        "stop", {"signal": v.signal_number, "timeout": v.duration, "command": f.optional(v.command)}
    ),
    "restart": f.section(
        "restart",
        {
            "policy": v.choice("always", "on-failure", "never"),
            "backoff": v.duration,
            "max_backoff": v.duration,
            "burst": v.integer(1, 1_000_000),
            "within": v.duration,
        },
    ),
    "reload": f.section(
        "reload",
        {"rollback": v.boolean, "order": v.choice("stop_first", "start_first"), "watch": v.duration},
    ),
    "limits": f.section(
        "limits",
        {
            "nofile": f.optional(v.integer(3, _MANY)),
            "nproc": f.optional(v.integer(1, _MANY)),
            "core": f.optional(v.size),
            "memory": f.optional(v.size),
            "cpu": f.optional(v.number),
            "pids": f.optional(v.integer(1, _MANY)),
            "nice": f.optional(v.signed(-20, 19)),
            "oom_score_adj": f.optional(v.signed(-1000, 1000)),
        },
    ),
    "listen": listen,
}


# ---- all layers


def merged(outer: Layer, inner: Layer) -> Layer:
    """`outer` as `inner` changes it."""
    if not inner:
        return outer
    result = dict(outer)
    for name, value in inner.items():
        before = outer.get(name)
        if before and value and name in _PROBES:
            result[name] = _merged_probe(before, value)
        elif before and name in _BY_KEY:
            result[name] = {**before, **value}
        else:
            result[name] = value
    return result


def _merged_probe(outer: MappingType[str, At], inner: MappingType[str, At]) -> dict[str, At]:
    if "kind" in inner and "kind" in outer and inner["kind"] != outer["kind"]:
        # what the outer kind asked for means nothing to another one
        outer = {key: value for key, value in outer.items() if key not in _OF_ONE_KIND}
    return {**outer, **inner}


def launch_of(base: Launch, layer: Layer) -> Launch:
    """`base`, which names plugin, version and file, with everything else from `layer`."""
    return Launch(
        plugin=base.plugin,
        version=base.version,
        command=base.command,
        sha256=base.sha256,
        args=layer.get("args", ()),
        env=tuple(sorted((name, at.value) for name, at in env.items())) if (env := layer.get("env")) else (),
        cwd=layer.get("cwd", "/"),
        user=layer.get("user"),
        group=layer.get("group"),
        groups=layer.get("groups"),
        umask=layer.get("umask", 0o022),
        limits=Limits(**layer["limits"]) if "limits" in layer else _NO_LIMITS,
        listen=layer.get("listen", ()),
    )


def policies_of(page: Page, place: Placed, layer: Layer) -> Policies:
    """How an instance with the settings of `layer` is treated; notes what fits only level by level."""
    if _OF_POLICIES.isdisjoint(layer):
        return _POLICIES
    ready = _ready(page, place, "ready", layer.get("ready") or {})
    _check_handshake(ready, layer.get("env", {}))
    return Policies(
        ready=ready,
        liveness=_liveness(page, place, layer.get("liveness")),
        stop=_stop(layer["stop"]) if "stop" in layer else _POLICIES.stop,
        restart=RestartPolicy(**layer["restart"]) if "restart" in layer else _POLICIES.restart,
        reload=ReloadPolicy(**layer["reload"]) if "reload" in layer else _POLICIES.reload,
    )


def _stop(values: MappingType[str, Any]) -> StopPolicy:
    if values.get("command", ()) is None:
        values = {**values, "command": ()}
    return StopPolicy(**values)


def _ready(page: Page, place: Placed, what: str, values: MappingType[str, At]) -> Probe:
    kind = values["kind"].value if "kind" in values else "exec"
    if kind is None:
        return Probe()
    for key in _OF_KIND[kind]:
        if key in _NEEDED and key not in values:
            at = values.get("kind", At(None, page, place))
            at.page.fault(at.node, f'{what} of kind {kind} needs the key "{key}"')
    found: dict[str, Any] = {}
    for key, at in values.items():
        if at.value is None:
            continue
        if _fits(key, kind):
            found[_FIELD_OF.get(key, key)] = at.value
        else:
            at.page.fault(at.node, _misfit(what, kind, key))
    return Probe(**found)


def _liveness(page: Page, place: Placed, values: MappingType[str, At] | None) -> Liveness | None:
    if values is None:
        return None
    kind = values.get("kind")
    if kind is None:
        at = next(iter(values.values()), At(None, page, place))
        at.page.fault(at.node, 'liveness needs the key "kind"')
        return None
    if kind.value == "exec":
        kind.page.fault(kind.node, "liveness of kind exec would check nothing: an exit is seen anyway")
        return None
    own = {name: at.value for name, at in values.items() if name in _OF_LIVENESS and at.value}
    probe = {name: at for name, at in values.items() if name not in _OF_LIVENESS}
    return Liveness(_ready(page, place, "liveness", probe), **own)


def _check_handshake(ready: Probe, env: MappingType[str, At]) -> None:
    at = env.get("PLUGIN_MULTIPLEX_GRPC")
    if at is not None and ready.kind == "handshake":
        # a plugin so started takes the probe's connection for its multiplexer and ends with it
        at.page.fault(at.node, "PLUGIN_MULTIPLEX_GRPC does not go with ready kind handshake: remove it")
