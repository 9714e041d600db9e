"""Addresses of held listeners as people write them, and which two of them exclude each other.

The notation is that of ListenStream= and ListenDatagram=. Source: systemd.socket(5). Who binds them: `host/`.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

Family = Literal["ipv4", "ipv6", "unix", "abstract"]
Kind = Literal["stream", "datagram"]
LONGEST_PATH: Final = 107
"""Bytes of sun_path, without its NUL. Source: unix(7)."""
MOST: Final = 64
"""Listeners of a mount: each is a descriptor of plugind, and one of the plugin."""
FIRST: Final = 3
"""The descriptor by which a plugin gets the first one. Source: sd_listen_fds(3)."""
HIGHEST_PORT: Final = 65535
_MANY: Final = 4 * (FIRST + MOST)
_IPV6: Final = re.compile(r"\[([0-9a-fA-F:.]+)(?:%([\w.-]+))?\]:([0-9]{1,5})(?:%([\w.-]+))?", re.ASCII)
_IPV4: Final = re.compile(r"([0-9.]+):([0-9]{1,5})", re.ASCII)
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)
_HOW: Final = 'write "127.0.0.1:7000", "[::1]:7000", "7000" (of all addresses), "/run/x.sock" or "@name"'
T = TypeVar("T")


def floor(most: int) -> int:
    """The lowest number that a plugin gets no listener by, of a plugind that has so many descriptors."""
    return FIRST + MOST if most >= _MANY else max(FIRST + 1, most // 4)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a socket is bound: `host` is an IP address, a path, or the name of an abstract socket."""

    family: Family
    host: str
    port: int = 0
    scope: str = ""
    """The interface of a link-local address."""

    @property
    def is_any(self) -> bool:
        """All addresses of the host, those of IPv4 too where it is `::`."""
        return self.family in {"ipv4", "ipv6"} and self.host in {"0.0.0.0", "::"}  # noqa: S104 - it is compared

    @property
    def is_file(self) -> bool:
        return self.family == "unix"

    def __str__(self) -> str:
        match self.family:
            case "ipv4":
                return f"{self.host}:{self.port}"
            case "ipv6":
                return f"[{self.host}]:{self.port}{'%' * bool(self.scope)}{self.scope}"
            case "unix":
                return self.host
            case "abstract":
                return f"@{self.host}"


def parsed(text: str) -> Endpoint:
    """What `text` means; an absolute path is one of a Unix socket.

    Raises:
        ValueError: It is no address; says what is wrong and how to write one.
    """
    if text.startswith(("/", "@")):
        return _unix(text)
    if _PORT.fullmatch(text):
        return Endpoint("ipv6", "::", _port(text))
    if (found := _IPV6.fullmatch(text)) is not None:
        return _ipv6(found[1], found[3], found[2] or found[4] or "")
    if (found := _IPV4.fullmatch(text)) is not None:
        try:
            return Endpoint("ipv4", str(ipaddress.IPv4Address(found[1])), _port(found[2]))
        except ipaddress.AddressValueError as error:
            raise ValueError(f"{found[1]} is no IPv4 address") from error
    raise ValueError(f"it is no address: {_HOW}")


def _unix(text: str) -> Endpoint:
    name = text.removeprefix("@")
    if not name or "\0" in text:
        raise ValueError("a socket needs a name, without NUL")
    if len(text.encode()) > LONGEST_PATH:
        raise ValueError(f"a socket's path has at most {LONGEST_PATH} bytes, this one {len(text.encode())}")
    return Endpoint("abstract" if text.startswith("@") else "unix", name)


def _ipv6(host: str, port: str, scope: str) -> Endpoint:
    try:
        address = ipaddress.IPv6Address(host)
    except ipaddress.AddressValueError as error:
        raise ValueError(f"{host} is no IPv6 address") from error
    if address.ipv4_mapped is not None:
        raise ValueError(f"write it as what it is, {address.ipv4_mapped}:{port}")
    if bool(scope) != address.is_link_local:
        raise ValueError("an interface belongs to a link-local address, and to no other: [fe80::1]:7000%eth0")
    return Endpoint("ipv6", address.compressed, _port(port), scope)


def _port(text: str) -> int:
    if not 1 <= int(text) <= HIGHEST_PORT:
        raise ValueError(f"a port is a number from 1 to {HIGHEST_PORT}")
    return int(text)


def exclude_each_other(one: Endpoint, other: Endpoint) -> bool:
    """Whether the kernel lets only one of two sockets of the same kind have its address.

    Source: ip(7), ipv6(7): `::` takes the addresses of IPv4 too.
    """
    taken: Taken[bool] = Taken()
    taken.add("stream", one, owner=True)
    return taken.add("stream", other, owner=False) is not None


class Taken(Generic[T]):
    """Who has which addresses: each is compared with all before in constant time."""

    def __init__(self) -> None:
        self._exact: dict[tuple[Kind, Family, str, str, int], T] = {}
        self._any: dict[tuple[Kind, Family, int], T] = {}
        """Who has all addresses of a family."""
        self._some: dict[tuple[Kind, Family, int], T] = {}
        """Who was first with one of them."""

    def add(self, kind: Kind, endpoint: Endpoint, owner: T) -> T | None:
        """Who has it already, or what excludes it; None if it is `owner`'s now.

        Source: unix(7): a path is one file, whatever kind of socket is bound to it.
        """
        if endpoint.is_file:
            kind = "stream"
        exact = (kind, endpoint.family, endpoint.host, endpoint.scope, endpoint.port)
        first = self._exact.get(exact)
        families: tuple[Family, ...] = (endpoint.family,)
        if endpoint.port:
            if endpoint.is_any and endpoint.family == "ipv6":
                families = ("ipv6", "ipv4")
            among = (self._any, self._some) if endpoint.is_any else (self._any,)
            for place in among:
                for family in families:
                    first = first if first is not None else place.get((kind, family, endpoint.port))
        if first is not None:
            return first
        self._exact[exact] = owner
        for family in families if endpoint.port else ():
            (self._any if endpoint.is_any else self._some).setdefault((kind, family, endpoint.port), owner)
        return None
