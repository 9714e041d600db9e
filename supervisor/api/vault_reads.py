"""What Vault's clients read under /v1/sys: catalog, mounts, namespaces. Shapes: COMPAT, section 4."""

import re
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from supervisor import wire
from supervisor.api.calls import Answer, Call
from supervisor.domain.catalog import MountSpec, Plugin, Version
from supervisor.domain.errors import BadRequest, NotFound
from supervisor.domain.names import PLUGIN_TYPES, Namespace, shortened

_SEMVER: Final = re.compile(r"v?\d+(\.\d+){0,2}([-+][0-9A-Za-z.+-]+)?", re.ASCII)


async def list_catalog(call: Call) -> Answer:
    """All three types, empty or not: `bao plugin list TYPE` fails without them."""
    plugins = sorted(call.node.catalog.plugins.items())
    data: dict[str, Any] = {
        kind: [ref.name for ref, _ in plugins if ref.type == kind] for kind in PLUGIN_TYPES
    }
    data["detailed"] = [
        {
            "type": ref.type,
            "name": ref.name,
            "version": version.launch.version,
            "builtin": False,
            "sha256": version.launch.sha256 or "",
            "pinned": version.launch.version == plugin.pin,
        }
        for ref, plugin in plugins
        for version in _sorted(plugin)
    ]
    return Answer(data)


async def list_type(call: Call) -> Answer:
    if call.params["type"] not in PLUGIN_TYPES:
        raise NotFound("unsupported path")
    names = sorted(ref.name for ref in call.node.catalog.plugins if ref.type == call.params["type"])
    if not names:
        raise NotFound("")
    return Answer({"keys": names})


async def read_plugin(call: Call) -> Answer:
    plugin = next(
        (
            plugin
            for ref, plugin in call.node.catalog.plugins.items()
            if (ref.type, ref.name) == (call.params["type"], call.params["name"])
        ),
        None,
    )
    if plugin is None:
        raise NotFound("")
    version, warnings = _chosen(plugin, call.query.get("version", ""))
    launch = version.launch
    data = {
        "name": launch.plugin.name,
        "version": launch.version,
        "command": launch.command,
        "args": list(launch.args),
        "env": [name for name, _ in launch.env],
        "sha256": launch.sha256 or "",
        "builtin": False,
        "oci": False,
        "declarative": True,
        "pinned": launch.version == plugin.pin,
    }
    return Answer(data, warnings=warnings)


def _chosen(plugin: Plugin, asked: str) -> tuple[Version, tuple[str, ...]]:
    if asked:
        bare = asked.removeprefix("v")
        for name in (asked, bare, f"v{bare}"):
            if name in plugin.versions:
                return plugin.versions[name], ()
        if not _SEMVER.fullmatch(asked):
            raise BadRequest(
                f'version "{shortened(asked)}" is not a valid semantic version: malformed version'
            )
        raise NotFound("")
    if plugin.pin is not None:
        return plugin.versions[plugin.pin], ()
    if len(plugin.versions) == 1:
        (only,) = plugin.versions.values()
        return only, (
            f"no version was given and none is pinned: this is the only one, {only.launch.version}",
        )
    names = ", ".join(version.launch.version for version in _sorted(plugin))
    raise BadRequest(f"no version was given and none is pinned: {plugin.ref} has the versions {names}")


def _sorted(plugin: Plugin) -> list[Version]:
    def order(version: Version) -> list[tuple[int, int, str]]:
        parts = re.findall(r"\d+|[^\d.]+", version.launch.version.removeprefix("v"))
        return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]

    return sorted(plugin.versions.values(), key=order)


async def list_mounts(call: Call) -> Answer:
    return Answer(_mounts(call, is_auth=False))


async def list_auth(call: Call) -> Answer:
    return Answer(_mounts(call, is_auth=True))


async def read_mount(call: Call) -> Answer:
    path = call.params["mount"].rstrip("/") + "/"
    found = _mounts(call, is_auth=False).get(path)
    if found is None:
        raise BadRequest(f"No secret engine mount at {shortened(path)}")
    return Answer(found)


async def read_auth(call: Call) -> Answer:
    path = call.params["mount"].rstrip("/") + "/"
    found = _mounts(call, is_auth=True).get(path)
    if found is None:
        raise BadRequest(f"No auth engine at {shortened(path)}")
    return Answer(found)


def _mounts(call: Call, *, is_auth: bool) -> dict[str, dict[str, Any]]:
    rows = {
        row.mount.rstrip("/"): row
        for row in call.node.instances(call.namespace)
        if row.namespace == str(call.namespace)
    }
    catalog = call.node.catalog
    return {
        key.shown.removeprefix("auth/"): _mount(
            spec, catalog.plugins[spec.plugin], rows.get(key.path), is_auth=is_auth
        )
        for key, spec in sorted(catalog.mounts.items())
        if key.namespace == call.namespace and (spec.plugin.type == "auth") == is_auth
    }


def _mount(spec: MountSpec, plugin: Plugin, row: wire.InstanceRow | None, *, is_auth: bool) -> dict[str, Any]:
    running = row.version if row is not None else None
    build = plugin.versions.get(running or "")
    identity = uuid5(NAMESPACE_URL, f"plugind:{spec.key}")
    config = {"default_lease_ttl": 0, "max_lease_ttl": 0, "force_no_cache": False}
    return {
        "type": spec.plugin.name,
        "description": "",
        "accessor": f"{spec.plugin.type}_{spec.plugin.name}_{identity.hex[:8]}",
        "uuid": str(identity),
        "config": {**config, "token_type": "default-service"} if is_auth else config,
        "options": None,
        "local": True,
        "seal_wrap": False,
        "external_entropy_access": False,
        "plugin_version": spec.launch.version,
        "running_plugin_version": running or "",
        "running_sha256": (build.launch.sha256 or "") if build is not None else "",
        "deprecation_status": "",
    }


async def list_namespaces(call: Call) -> Answer:
    return _namespaces(call, deep=False)


async def scan_namespaces(call: Call) -> Answer:
    return _namespaces(call, deep=True)


def _namespaces(call: Call, *, deep: bool) -> Answer:
    own = call.namespace
    found = {
        "/".join(other.parts[len(own.parts) :]) + "/": _namespace(other)
        for other in sorted(call.node.catalog.namespaces)
        if other != own and own.covers(other) and (deep or len(other.parts) == len(own.parts) + 1)
    }
    if not found:
        raise NotFound("")
    return Answer({"keys": list(found), "key_info": found})


async def read_namespace(call: Call) -> Answer:
    asked = call.namespace.joined(Namespace.parse(call.params["namespace"]))
    if asked == call.namespace or asked not in call.node.catalog.namespaces:
        raise NotFound("")
    return Answer(_namespace(asked))


def _namespace(namespace: Namespace) -> dict[str, Any]:
    identity = uuid5(NAMESPACE_URL, f"plugind:{namespace}")
    return {
        "id": identity.hex[:5],
        "uuid": str(identity),
        "path": f"{namespace}/",
        "tainted": False,
        "locked": False,
        "custom_metadata": {},
    }
