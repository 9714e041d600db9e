"""The `listen` setting: sockets that plugind holds open over reloads. Who binds them: `host/`."""

from collections.abc import Iterator
from typing import Any, Final

from supervisor.domain.addresses import LONGEST_PATH, MOST, Kind, Taken, exclude_each_other, parsed
from supervisor.domain.catalog import Listener, Policies, Probe
from supervisor.domain.names import is_name, shortened
from supervisor.files import fields as f
from supervisor.files import values as v
from supervisor.files.faults import Page
from supervisor.files.yaml import Broken, Mapping, Node, Sequence

LONGEST_SOCKET_PATH: Final = LONGEST_PATH


def socket_path(page: Page, node: Node) -> str:
    """A path that fits into a Unix socket's address.

    Raises:
        Wrong: It is longer than sun_path.
    """
    value = v.path(page, node)
    if len(value.encode()) > LONGEST_SOCKET_PATH:
        raise f.Wrong(
            f"a socket's path has at most {LONGEST_SOCKET_PATH} bytes, this one {len(value.encode())}"
        )
    return value


def listen(page: Page, node: Node) -> tuple[Listener, ...]:
    """The listeners in their order; one without a name is called after its place: `listen0`, `listen1`."""
    if isinstance(node, Broken):
        raise f.Reported
    if not isinstance(node, Sequence):
        raise f.Wrong(f"must be a list, not {f.shape(node)}")
    if len(node.items) > MOST:
        raise f.Wrong(f"has {len(node.items)} listeners: at most {MOST} are held for a mount")
    found: list[Listener] = []
    names: set[str] = set()
    taken: Taken[str] = Taken()
    for number, item in enumerate(node.items):
        values = f.read(page, item, _listener)
        if values is None:
            continue
        listener = Listener(**{"name": f"listen{number}", **values})
        if listener.name in names:
            page.fault(item, f'two listeners are called "{listener.name}": give one another name')
        first = taken.add(listener.kind, parsed(listener.address), listener.address)
        if first == listener.address:
            page.fault(item, f"{listener.address} is listed twice")
        elif first is not None:
            page.fault(item, f"{listener.address} and {first} exclude each other")
        names.add(listener.name)
        found.append(listener)
    return tuple(found)


def probes_of(policies: Policies) -> Iterator[tuple[str, Probe]]:
    yield "ready", policies.ready
    if policies.liveness is not None:
        yield "liveness", policies.liveness.probe


def says_nothing(probe: Probe, held: tuple[Listener, ...]) -> bool:
    """Whether the probe connects to a socket that is held: that succeeds whatever becomes of the plugin."""
    if probe.kind not in {"tcp", "unix"} or probe.address is None:
        return False
    try:
        asked = parsed(probe.address.replace("localhost", "127.0.0.1"))
    except ValueError:  # a host's name, or a path in $TMPDIR
        return False
    return any(one.kind == "stream" and exclude_each_other(parsed(one.address), asked) for one in held)


def _listener(page: Page, node: Node) -> dict[str, Any]:
    if not isinstance(node, Mapping):
        return {"kind": "stream", "address": _address(page, node)}
    values = f.fields(page, node, "a listener", _LISTENER)
    kinds: list[Kind] = [kind for kind in ("stream", "datagram") if f.child(node, kind) is not None]
    if len(kinds) != 1:
        raise f.Wrong('a listener needs one of "stream" and "datagram"')
    if kinds[0] not in values:
        raise f.Reported
    values["kind"] = kinds[0]
    values["address"] = values.pop(kinds[0])
    if "mode" in values and not values["address"].startswith("/"):
        raise f.Wrong('"mode" is for Unix sockets with a path')
    if "backlog" in values and kinds[0] == "datagram":
        raise f.Wrong('"backlog" is for stream sockets')
    return values


def _address(page: Page, node: Node) -> str:
    """As systemd writes it; of a path that is relative to the file, the absolute one."""
    written = f.text(page, node)
    if "/" in written and not written.startswith("@"):
        return socket_path(page, node)
    try:
        return str(parsed(written))
    except ValueError as error:
        raise f.Wrong(f'"{shortened(written)}" cannot be listened on: {error}') from error


def _name(page: Page, node: Node) -> str:
    value = f.text(page, node)
    if not is_name(value):
        raise f.Wrong("must be letters, digits and . _ -")
    return value


_LISTENER: Final[f.Table] = {
    "stream": _address,
    "datagram": _address,
    "name": _name,
    "mode": v.mode,
    "backlog": v.integer(1, 65535),
}
