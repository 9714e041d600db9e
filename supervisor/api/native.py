"""Handlers under /v1/supervisor: what Vault has no word for."""

from supervisor.api.calls import Answer, Call


async def instances(call: Call) -> Answer:
    return Answer({"instances": call.node.instances(call.namespace)})
