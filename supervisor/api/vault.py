"""Handlers under /v1/sys, wire-compatible with Vault and OpenBao; reading in vault_reads, vault_health."""

from contextlib import suppress

from supervisor import wire
from supervisor.api import bodies
from supervisor.api.calls import Answer, Call
from supervisor.api.outcomes import answer_of, problems, settled, visible
from supervisor.domain.errors import BadRequest, NotFound
from supervisor.domain.names import PLUGIN_TYPES, PluginRef, PluginType, is_name, shortened
from supervisor.domain.plan import ByPlugin, Target, described
from supervisor.domain.registering import registered

NO_CLUSTER = "no cluster is configured: reloaded on this node only"


async def reload_plugin(call: Call) -> Answer:
    """POST sys/plugins/reload/{type}/{name}: in all namespaces."""
    asked = bodies.reload_request(call.body, call.headers.get("Content-Type", ""), takes_target=False)
    kind = None if call.params["type"] == "unknown" else _type(call.params["type"])
    return await _reload(call, asked, ByPlugin(call.params["name"], kind, everywhere=True))


async def reload_nameless(call: Call) -> Answer:
    """POST sys/plugins/reload/{type}/: what a bug of the vault CLI sends."""
    if call.params["type"] == "backend":
        raise BadRequest("cannot write to a path ending in '/'")
    raise BadRequest(
        "cannot reload: the path names no plugin. `vault plugin reload -mounts=…` without a namespace sends "
        "this and loses the mounts on the way (a bug of the vault CLI); nothing was touched. Use "
        "`vault write sys/plugins/reload/backend mounts=…` or `bao plugin reload -mounts=…`"
    )


async def reload_backend(call: Call) -> Answer:
    """POST sys/plugins/reload/backend: in this namespace, not its children."""
    asked = bodies.reload_request(call.body, call.headers.get("Content-Type", ""))
    return await _reload(call, asked, asked.target())


async def _reload(call: Call, asked: bodies.ReloadRequest, target: Target) -> Answer:
    if asked.scope == "global" and call.settings.cluster is not None:
        raise BadRequest("cannot reload: scope global over a cluster is not supported by this version")
    call.deed = (
        f"{'dry run of ' * asked.options.dry_run}reload {shortened(described(target, call.namespace))}"
    )
    call.begun = True
    ticket = await call.node.reload(target, call.namespace, asked.options, call.caller, call.request_id)
    is_done = await settled(call, ticket, asked)
    warnings = asked.warnings + ((NO_CLUSTER,) if asked.scope else ())
    return answer_of(ticket.report(), is_done=is_done, warnings=warnings)


async def reload_status(call: Call) -> Answer:
    """GET sys/plugins/reload/backend/status: what each node did."""
    reload_id = call.query.get("reload_id", "")
    if not reload_id:
        raise BadRequest("reload_id must be provided")
    report = visible(call.node.report(reload_id), call.namespace)
    if report is None:
        raise NotFound(f'no reload has the id "{shortened(reload_id)}"')
    results = {}
    if report.done:
        error = problems(report) or ""
        results[report.node or call.node.name] = {"timestamp": report.finished_at, "error": error}
    pending = [] if report.done else [report.node or call.node.name]
    return Answer(
        {"reload_id": report.reload_id, "results": results, "pending": pending, "mounts": report.mounts}
    )


async def read_pins(call: Call) -> Answer:
    pinned = [
        wire.PinData(type=ref.type, name=ref.name, version=plugin.pin)
        for ref, plugin in sorted(call.node.catalog.plugins.items())
        if plugin.pin is not None
    ]
    return Answer({"pinned_versions": pinned})


async def read_pin(call: Call) -> Answer:
    plugin = call.node.catalog.plugins.get(ref_of(call))
    if plugin is None or plugin.pin is None:
        raise NotFound("")
    return Answer(wire.PinData(type=plugin.ref.type, name=plugin.ref.name, version=plugin.pin))


async def write_pin(call: Call) -> Answer:
    """POST sys/plugins/pins/{type}/{name}: edits the catalog file, moves no process."""
    given = bodies.fields(call.body, call.headers.get("Content-Type", ""))
    ignored = bodies.unknown_keys(given, ("version",))
    version = bodies.text_field(given, "version")
    if not version:
        raise BadRequest("missing plugin version")
    if not is_name(version):
        raise BadRequest(f'version "{shortened(version)}" is no version name')
    ref = ref_of(call)
    call.deed = f"pin {ref} {version}"
    call.begun = True
    return Answer(
        await call.node.editing.set_pin(ref, version, call.caller), warnings=bodies.ignored_warning(ignored)
    )


async def delete_pin(call: Call) -> Answer:
    """DELETE sys/plugins/pins/{type}/{name}: 204, also where there is no pin."""
    ref = ref_of(call)
    call.deed = f"remove the pin of {ref}"
    call.begun = True
    await call.node.editing.remove_pin(ref, call.caller)
    return Answer(status=204)


async def undo_pin(call: Call) -> Answer:
    """POST supervisor/pins/{type}/{name}/undo: what the last write of the pin replaced is back."""
    ref = ref_of(call)
    call.deed = f"undo the pin of {ref}"
    if bodies.fields(call.body, call.headers.get("Content-Type", "")):
        raise BadRequest("cannot undo a pin: it takes no parameters")
    call.begun = True
    return Answer(await call.node.editing.undo_pin(ref, call.caller))


async def register_plugin(call: Call) -> Answer:
    """POST sys/plugins/catalog/{type}/{name}: adds a version to a plugin of the catalog file; 204."""
    given = bodies.fields(call.body, call.headers.get("Content-Type", ""))
    ignored = bodies.unknown_keys(given, (*_REGISTER, *_CONTAINERS, *_ALSO_SENT))
    if asked := [key for key in _CONTAINERS if given.get(key)]:
        raise BadRequest(f"cannot register a plugin with {asked[0]}: plugins are files here")
    ref, version = ref_of(call), bodies.text_field(given, "version")
    if not version:
        raise BadRequest("missing plugin version: every version has a name here")
    call.deed = f"add {shortened(version)} to {ref}"
    added = registered(
        bodies.text_field(given, "command"),
        bodies.text_field(given, "sha256") or bodies.text_field(given, "sha_256"),
        bodies.texts_field(given, "args"),
        bodies.texts_field(given, "env"),
    )
    call.begun = True
    await call.node.editing.add_version(ref, version, added, call.caller)
    return Answer(status=204, warnings=bodies.ignored_warning(ignored))


async def deregister_plugin(call: Call) -> Answer:
    """DELETE sys/plugins/catalog/{type}/{name}?version=: 204, also where there is no such version."""
    ref, version = ref_of(call), call.query.get("version", "")
    if not version:
        raise BadRequest(f"missing plugin version: say which one of {ref}, as with -version")
    call.deed = f"remove {shortened(version)} from {ref}"
    call.begun = True
    with suppress(NotFound):
        await call.node.editing.remove_version(ref, version, call.caller)
    return Answer(status=204)


_REGISTER = ("version", "command", "sha256", "sha_256", "args", "env")
_CONTAINERS = ("oci_image", "runtime", "download")
_ALSO_SENT = ("type", "name")
"""By Vault's clients, which say it in the path too."""


def _type(text: str) -> PluginType:
    for known in PLUGIN_TYPES:
        if text == known:
            return known
    raise BadRequest(f'"{shortened(text)}" is no plugin type: write one of {", ".join(PLUGIN_TYPES)}')


def ref_of(call: Call) -> PluginRef:
    return PluginRef(_type(call.params["type"]), call.params["name"])
