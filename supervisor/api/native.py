"""Handlers under /v1/supervisor: what Vault has no word for."""

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from supervisor import wire
from supervisor.api import bodies
from supervisor.api.calls import Answer, Call, Stream, Text
from supervisor.api.outcomes import answer_of, settled, shown, visible
from supervisor.domain.access import Caller
from supervisor.domain.errors import BadRequest, NotFound, PlugindError
from supervisor.domain.names import MountKey, Namespace, shortened

Item = TypeVar("Item")
_PLAIN: Final = "text/plain; charset=utf-8"
_MOST_LINES: Final = 10_000


async def instances(call: Call) -> Answer:
    return Answer({"instances": call.node.instances(call.namespace)})


async def status(call: Call) -> Answer:
    """GET supervisor/status; a namespace is told the counts of its own mounts only."""
    found = call.node.status()
    if call.namespace.is_root:
        return Answer(found)
    rows = call.node.instances(call.namespace)
    state = wire.CatalogState(file="", loaded_at=found.catalog.loaded_at, mounts=len(rows))
    counts = dict(Counter(row.state for row in rows))
    return Answer(
        msgspec.structs.replace(
            found,
            catalog=state,
            counts=counts,
            uses={},
            warnings=[],
            holds=call.node.holding.seen_from(call.namespace),
            upgrade=None,
        )
    )


async def plan(call: Call) -> Answer:
    return Answer(await call.node.plan(call.namespace))


async def apply(call: Call) -> Answer:
    """POST supervisor/apply: everything that plan shows for this namespace and its children."""
    asked = bodies.reload_request(call.body, call.headers.get("Content-Type", ""), takes_target=False)
    if asked.scope and call.settings.cluster is not None:
        raise BadRequest("cannot apply: scope global over a cluster is not supported by this version")
    call.deed = f"{'dry run of ' * asked.options.dry_run}apply"
    call.begun = True
    ticket = await call.node.apply(call.namespace, asked.options, call.caller, call.request_id)
    is_done = await settled(call, ticket, asked)
    return answer_of(ticket.report(), is_done=is_done, warnings=asked.warnings)


async def start(call: Call) -> Answer:
    return await _command(call, "start", call.node.start)


async def stop(call: Call) -> Answer:
    return await _command(call, "stop", call.node.stop)


async def restart(call: Call) -> Answer:
    return await _command(call, "restart", call.node.restart)


async def _command(
    call: Call, verb: str, act: Callable[[MountKey, Caller], Awaitable[wire.MountResult]]
) -> Answer:
    key = _key(call)
    call.deed = f"{verb} {key.shown}"
    call.begun = True
    row = await act(key, call.caller)
    if row.result in {"failed", "rolled_back"}:
        why = f"{shown(row)}: {row.result.replace('_', ' ')}: {row.error or 'no reason given'}"
        return Answer(row, status=400, errors=(f"cannot {verb} {why}",), outcome=why)
    return Answer(row)


async def holds(call: Call) -> Answer:
    """GET supervisor/hold: what freezes this namespace, and what is held below it."""
    return Answer({"holds": call.node.holding.seen_from(call.namespace)})


async def hold(call: Call) -> Answer:
    """POST supervisor/hold: keep this namespace and its children as they are."""
    given = bodies.fields(call.body, call.headers.get("Content-Type", ""))
    ignored = bodies.unknown_keys(given, ("why",))
    why = bodies.text_field(given, "why")
    call.deed = f"hold: {shortened(why)}"
    set_now = await call.node.holding.set(call.namespace, why, call.caller)
    return Answer(set_now, warnings=bodies.ignored_warning(ignored))


async def release(call: Call) -> Answer:
    """DELETE supervisor/hold: with `?namespace=` of a child, also where the catalog has it no more."""
    below = Namespace.parse(call.query.get("namespace", ""))
    held = call.namespace.joined(below)
    call.deed = f"release {held}"
    return Answer(await call.node.holding.release(held, call.caller))


async def upgrade(call: Call) -> Answer:
    """POST supervisor/upgrade: 202, as it goes on after the answer; supervisor/status tells its end."""
    call.deed = "upgrade"
    if bodies.fields(call.body, call.headers.get("Content-Type", "")):
        raise BadRequest("cannot upgrade: it takes no parameters")
    begun = await call.node.upgrade(call.caller, call.request_id)
    return Answer(begun, status=202, outcome="going on")


async def logs(call: Call) -> Text | Stream:
    """GET supervisor/logs/{mount}: the bytes as the plugin wrote them."""
    key, lines = _key(call), _number(call, "lines", 100, _MOST_LINES)
    if bodies.flag(call.query.get("follow", "false")):
        pieces = _as_they_come(call.node.log_follow(key, lines))
        return Stream(pieces, _PLAIN, farewell=b"plugind: %s\n")
    tail = await call.node.log_tail(key, lines)
    return Text(b"".join(line + b"\n" for line in tail), _PLAIN)


async def _as_they_come(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """`pieces`; what plugind has to say after them begins on a line of its own."""
    piece = b"\n"
    try:
        async for piece in _closing(pieces):
            yield piece
    except PlugindError:
        if not piece.endswith(b"\n"):
            yield b"\n"
        raise


async def why(call: Call) -> Answer:
    return Answer({"transitions": call.node.why(_key(call))})


async def events(call: Call) -> Stream:
    """GET supervisor/events: each transition as a server-sent event; Last-Event-ID resumes."""
    last = call.headers.get("Last-Event-ID", "") or call.query.get("after", "")
    if last and not (last.isascii() and last.isdigit() and len(last) < 19):  # noqa: PLR2004 - int64
        raise BadRequest(f'cannot resume after "{shortened(last)}": Last-Event-ID is a number')
    rows = call.node.events(call.namespace, int(last) if last else None)
    return Stream(_as_events(rows), "text/event-stream", heartbeat=b":\n\n", farewell=b": %s\n\n")


async def _as_events(rows: AsyncIterator[wire.TransitionRow]) -> AsyncGenerator[bytes, None]:
    yield b": plugind\n\n"  # so that a client sees at once that it is heard
    async for row in _closing(rows):
        data = msgspec.json.encode(row)
        yield b"id: %d\nevent: %s\ndata: %s\n\n" % (row.id, row.event.encode(), data)


async def history(call: Call) -> Answer:
    most = _number(call, "limit", 50, 1000)
    reports = [visible(report, call.namespace) for report in call.node.history(most)]
    return Answer({"reloads": [report for report in reports if report is not None]})


async def read_reload(call: Call) -> Answer:
    report = visible(call.node.report(call.params["id"]), call.namespace)
    if report is None:
        raise NotFound(f'no reload has the id "{shortened(call.params["id"])}"')
    return Answer(report)


async def _closing(items: AsyncIterator[Item]) -> AsyncGenerator[Item, None]:
    """`items`, closed for sure: what a generator holds is given back when its reader goes."""
    try:
        async for item in items:
            yield item
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


def _key(call: Call) -> MountKey:
    return MountKey.parse(call.namespace, call.params["mount"])


def _number(call: Call, name: str, default: int, most: int) -> int:
    text = call.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 0 < int(text) <= most):  # noqa: PLR2004
        raise BadRequest(f'cannot use {name} "{shortened(text)}": write a number from 1 to {most}')
    return int(text)
