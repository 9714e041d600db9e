"""The `listen` setting: sockets that plugind holds open over reloads. Who binds them: `host/`."""

from typing import Any, Final

from supervisor.domain.catalog import Listener
from supervisor.domain.names import is_name
from supervisor.files import fields as f
from supervisor.files import values as v
from supervisor.files.faults import Page
from supervisor.files.yaml import Broken, Mapping, Node, Sequence

LONGEST_SOCKET_PATH: Final = 107


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
    found: list[Listener] = []
    names: set[str] = set()
    addresses: set[tuple[str, str]] = set()
    for number, item in enumerate(node.items):
        values = f.read(page, item, _listener)
        if values is None:
            continue
        listener = Listener(**{"name": f"listen{number}", **values})
        if listener.name in names:
            page.fault(item, f'two listeners are called "{listener.name}": give one another name')
        if (listener.kind, listener.address) in addresses:
            page.fault(item, f"{listener.address} is listed twice")
        names.add(listener.name)
        addresses.add((listener.kind, listener.address))
        found.append(listener)
    return tuple(found)


def _listener(page: Page, node: Node) -> dict[str, Any]:
    if not isinstance(node, Mapping):
        return {"kind": "stream", "address": _address(page, node)}
    values = f.fields(page, node, "a listener", _LISTENER)
    kinds = [key.text for key, _ in node.entries if key.text in {"stream", "datagram"}]
    if len(kinds) != 1:
        raise f.Wrong('a listener needs one of "stream" and "datagram"')
    if kinds[0] not in values:
        raise f.Reported
    values["kind"] = kinds[0]
    values["address"] = values.pop(kinds[0])
    if "mode" in values and not values["address"].startswith("/"):
        raise f.Wrong('"mode" is for Unix sockets')
    if "backlog" in values and kinds[0] == "datagram":
        raise f.Wrong('"backlog" is for stream sockets')
    return values


def _address(page: Page, node: Node) -> str:
    return socket_path(page, node) if "/" in f.text(page, node) else v.address(page, node)


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
