"""Which mounts a command means: `select` for a reload, `diff` for plan and apply."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

import msgspec

from supervisor.domain.catalog import Catalog, Launch, MountSpec
from supervisor.domain.errors import BadRequest
from supervisor.domain.names import MountKey, Namespace, PluginType, shortened


@dataclass(frozen=True, slots=True)
class ByPlugin:
    """Every mount of a plugin. `type` None is any type; `everywhere` is all namespaces."""

    name: str
    type: PluginType | None = None
    everywhere: bool = False


@dataclass(frozen=True, slots=True)
class ByMounts:
    """These mounts of one namespace, as the caller wrote their paths."""

    paths: tuple[str, ...]


Target = ByPlugin | ByMounts


def described(target: Target, namespace: Namespace) -> str:
    """What was asked for, for people: `auth/mock-plugin in all namespaces`, `auth/a, auth/b in team-a`."""
    match target:
        case ByPlugin(name, kind, everywhere):
            return f"{kind or 'any type'}/{name} in {'all namespaces' if everywhere else namespace}"
        case ByMounts(paths):
            return f"{', '.join(paths)} in {namespace}"


def select(catalog: Catalog, target: Target, namespace: Namespace) -> tuple[MountKey, ...]:
    """The mounts that `target`, asked for in `namespace`, means, in a stable order.

    Raises:
        BadRequest: The plugin is not in the catalog, or one of the mounts does not exist. The
            texts are Vault's and OpenBao's, as other programs compare them.
    """
    match target:
        case ByPlugin():
            return _by_plugin(catalog, target, namespace)
        case ByMounts():
            return _by_mounts(catalog, target, namespace)


def _by_plugin(catalog: Catalog, target: ByPlugin, namespace: Namespace) -> tuple[MountKey, ...]:
    refs = {ref for ref in catalog.plugins if ref.name == target.name and target.type in {None, ref.type}}
    if not refs:
        raise BadRequest(
            f'plugin not found in the catalog: "{shortened(target.name)}"' + _near(catalog, target)
        )
    return tuple(
        sorted(
            key
            for key, spec in catalog.mounts.items()
            if spec.plugin in refs and (target.everywhere or key.namespace == namespace)
        )
    )


def _near(catalog: Catalog, target: ByPlugin) -> str:
    elsewhere = sorted(str(ref) for ref in catalog.plugins if ref.name == target.name)
    names = get_close_matches(target.name[:100], {ref.name for ref in catalog.plugins}, n=3)
    near = elsewhere or sorted(str(ref) for ref in catalog.plugins if ref.name in names)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _by_mounts(catalog: Catalog, target: ByMounts, namespace: Namespace) -> tuple[MountKey, ...]:
    found: dict[MountKey, None] = {}
    missing: list[str] = []
    for path in target.paths:
        try:
            key = MountKey.parse(namespace, path)
        except BadRequest:
            key = None
        if key is None or key not in catalog.mounts:
            missing.append(f'cannot fetch mount entry on "{shortened(path.strip().strip("/"))}/"')
        else:
            found[key] = None
    if missing:
        raise BadRequest(multierror(missing))
    return tuple(sorted(found))


def multierror(errors: Collection[str]) -> str:
    """Several errors as the one string of go-multierror that Vault's clients print."""
    count = f"{len(errors)} error{'s' * (len(errors) != 1)} occurred:"
    return count + "".join(f"\n\t* {error}" for error in errors) + "\n\n"


PlanAction = Literal["start", "stop", "replace", "settings", "keep"]


@dataclass(frozen=True, slots=True)
class Step:
    """What `apply` would do with one mount, and why. `settings` changes no process."""

    key: MountKey
    action: PlanAction
    running: Launch | None
    wanted: MountSpec | None
    changed: tuple[str, ...] = ()
    """The keys that differ; of `env` only the names."""


@dataclass(frozen=True, slots=True)
class Current:
    """What a mount runs, as far as a plan needs it."""

    launch: Launch | None
    policies: object = None
    held: bool = False


def diff(catalog: Catalog, running: Mapping[MountKey, Current]) -> tuple[Step, ...]:
    """Catalog against what runs, one step per mount of either, in a stable order.

    A mount that is held (stopped by hand) is kept as it is: `apply` skips it and says so.
    """
    steps = [
        _step(key, catalog.mounts.get(key), running.get(key))
        for key in catalog.mounts.keys() | running.keys()
    ]
    return tuple(sorted(steps, key=lambda step: step.key))


def handed_on(steps: Iterable[Step]) -> dict[MountKey, tuple[MountKey, ...]]:
    """Of each mount that gets a listener of mounts that are removed, which these are: they end before."""
    steps = list(steps)
    owners = {
        (listener.kind, listener.address): step.key
        for step in steps
        if step.action == "stop" and step.running is not None
        for listener in step.running.listen
    }
    found: dict[MountKey, tuple[MountKey, ...]] = {}
    for step in steps if owners else ():
        if step.action in {"start", "replace"} and step.wanted is not None:
            names = [(listener.kind, listener.address) for listener in step.wanted.launch.listen]
            found[step.key] = tuple(dict.fromkeys(owners[name] for name in names if name in owners))
    return found


def _step(key: MountKey, wanted: MountSpec | None, current: Current | None) -> Step:
    if current is None:
        return Step(key, "start", None, wanted)
    if wanted is None:
        return Step(key, "stop", current.launch, None)
    if current.held:
        return Step(key, "keep", None, wanted, ("stopped by hand",))
    if current.launch is None:
        return Step(key, "start", None, wanted)
    if current.launch != wanted.launch:
        return Step(key, "replace", current.launch, wanted, changed_keys(current.launch, wanted.launch))
    if current.policies is not None and current.policies != wanted.policies:
        return Step(
            key, "settings", current.launch, wanted, _changed_policies(current.policies, wanted.policies)
        )
    return Step(key, "keep", current.launch, wanted)


def changed_keys(old: Launch, new: Launch) -> tuple[str, ...]:
    """The catalog keys in which two launches differ, without any value of `env`."""
    changed = [
        field.name
        for field in msgspec.structs.fields(Launch)
        if getattr(old, field.name) != getattr(new, field.name)
    ]
    if "env" in changed:
        names = {name for name, _ in set(old.env) ^ set(new.env)}
        changed[changed.index("env")] = f"env ({', '.join(sorted(names))})"
    return tuple(changed)


def _changed_policies(old: object, new: object) -> tuple[str, ...]:
    return tuple(
        name
        for name in ("ready", "liveness", "stop", "restart", "reload")
        if getattr(old, name) != getattr(new, name)
    )
