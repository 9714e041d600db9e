"""Handlers that tell clients and load balancers what they talk to: health, seal status, who am I."""

import re
from datetime import UTC, datetime
from typing import Final, get_args
from uuid import NAMESPACE_URL, uuid5

import msgspec

from supervisor import wire
from supervisor.api.calls import Answer, Bare, Call
from supervisor.domain.access import Verb, may
from supervisor.domain.errors import BadRequest
from supervisor.domain.names import ROOT, shortened

_CLUSTER_ID: Final = "00000000-0000-0000-0000-000000000000"


async def health(call: Call) -> Bare:
    """Answers as soon as the socket does, also while mounts start."""
    if not call.namespace.is_root:
        raise BadRequest("operation unavailable in namespaces")
    document = {
        "initialized": True,
        "sealed": False,
        "standby": False,
        "replication_performance_mode": "disabled",
        "replication_dr_mode": "disabled",
        "server_time_utc": int(datetime.now(UTC).timestamp()),
        "version": call.node.version,
        "cluster_name": _cluster(call),
        "cluster_id": _CLUSTER_ID,
    }
    code = call.query.get("activecode", "200")
    if not re.fullmatch(r"[2-5]\d\d", code, re.ASCII):
        raise BadRequest(f'cannot use activecode "{shortened(code)}": write a status from 200 to 599')
    return Bare(document, int(code))


async def seal_status(call: Call) -> Bare:
    return Bare(
        {
            "type": "plugind",
            "initialized": True,
            "sealed": False,
            "t": 1,
            "n": 1,
            "progress": 0,
            "nonce": "",
            "version": call.node.version,
            "build_date": "",
            "migration": False,
            "cluster_name": _cluster(call),
            "cluster_id": _CLUSTER_ID,
            "recovery_seal": False,
            "storage_type": "file",
        }
    )


async def leader(call: Call) -> Bare:
    del call
    return Bare({"ha_enabled": False})


async def init(call: Call) -> Bare:
    del call
    return Bare({"initialized": True})


async def ha_status(call: Call) -> Bare:
    """The nodes stand twice: `bao operator members` reads them beside `data`."""
    node = {
        "hostname": call.node.name,
        "api_address": f"unix://{call.settings.socket.path}",
        "cluster_address": "",
        "active_node": True,
        "last_echo": None,
        "version": call.node.version,
    }
    envelope = wire.Envelope(request_id=call.request_id, data={"nodes": [node]})
    return Bare({**msgspec.structs.asdict(envelope), "nodes": [node]})


async def lookup_self(call: Call) -> Answer:
    """GET auth/token/lookup-self: who the kernel or TLS says that you are."""
    caller = call.caller
    policies = ["root"] if caller.trusted else _verbs(call)
    identity = uuid5(NAMESPACE_URL, f"plugind:{caller.uid}:{caller.token_sha256}:{caller.common_name}")
    return Answer(
        {
            "id": "",
            "accessor": identity.hex[:24],
            "policies": policies,
            "display_name": caller.name,
            "path": "auth/peer",
            "ttl": 0,
            "creation_ttl": 0,
            "creation_time": 0,
            "explicit_max_ttl": 0,
            "expire_time": None,
            "issue_time": None,
            "entity_id": "",
            "meta": {"uid": str(caller.uid)} if caller.uid is not None else None,
            "num_uses": 0,
            "orphan": True,
            "renewable": False,
            "type": "service",
        }
    )


def _cluster(call: Call) -> str:
    return call.settings.cluster.name if call.settings.cluster is not None else call.node.name


def _verbs(call: Call) -> list[str]:
    places = {place for rule in call.settings.access for place in rule.namespaces or (ROOT,)}
    return [
        verb
        for verb in get_args(Verb)
        if any(may(call.caller, verb, place, call.settings.access) for place in places)
    ]
