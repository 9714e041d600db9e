"""Opens and closes the sockets that plugind holds. Never takes a Unix socket's path from anybody who lives.

A bound socket is a bare descriptor here: nothing in plugind accepts, sends or receives on it.
"""

import errno
import fcntl
import os
import resource
import select
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from supervisor.domain import addresses
from supervisor.domain.addresses import Endpoint, Kind, parsed
from supervisor.domain.catalog import Listener
from supervisor.domain.errors import Cannot

MODE: Final = 0o666
_ALL: Final = 0x7FFFFFFF
"""The kernel makes net.core.somaxconn of it."""
_TYPES: Final[dict[Kind, socket.SocketKind]] = {
    "stream": socket.SOCK_STREAM,
    "datagram": socket.SOCK_DGRAM,
}
_ANY_TYPE: Final = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)
FileIdentity = tuple[int, int]
"""Device and inode of a Unix socket's file."""


class InUse(Cannot):
    """Somebody else has the address, who may give it up."""


def opened(listener: Listener, former: int | None = None) -> tuple[int, FileIdentity | None]:
    """A socket that is bound, and listens where it is a stream; of a Unix socket also which file it is.

    `former` is the inode of one of our own, whose file was removed.

    Raises:
        InUse: Somebody else has the address.
        Cannot: It cannot be had; says why and what helps.

    Source: bind(2), listen(2), ip(7), unix(7).
    """
    endpoint = parsed(listener.address)
    with _translated(listener, endpoint):
        if endpoint.is_file and not is_free(listener, endpoint, former):
            os.unlink(endpoint.host)  # noqa: PTH108 - a name
        sock = _bound(listener.kind, endpoint)
        try:
            if listener.kind == "stream":
                sock.listen(_backlog_of(listener))
            found = os.lstat(endpoint.host) if endpoint.is_file else None
            descriptor = out_of_the_way(sock.fileno())
        finally:
            sock.close()
    return descriptor, identity(found) if found is not None else None


def floor() -> int:
    """The lowest number of a listener here: a plugin gets it by one below, which is nobody else's then."""
    return addresses.floor(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def out_of_the_way(descriptor: int) -> int:
    """The same at a number that becomes none of a plugin's. Raises OSError."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, floor())


def check(listener: Listener, former: int | None = None) -> None:
    """Find out whether `opened` would do, without any effect.

    Raises:
        Cannot: It would not.
    """
    endpoint = parsed(listener.address)
    with _translated(listener, endpoint):
        if not endpoint.is_file:
            _bound(listener.kind, endpoint).close()
            return
        is_free(listener, endpoint, former)
        folder = os.path.dirname(endpoint.host)  # noqa: PTH120 - a name
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def listen(descriptor: int, listener: Listener) -> None:
    """Have a stream socket's backlog as long as `listener` says. Raises OSError."""
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        sock.listen(_backlog_of(listener))


def is_shut_down(descriptor: int) -> bool:
    """Whether somebody who has it called shutdown(2): then nobody is served by it any more, whoever gets it.

    Source: poll(2). Of a stream of IP listen(2) makes it one that listens again; of others nothing does.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    return bool(poll.poll(0))


def _backlog_of(listener: Listener) -> int:
    return _ALL if listener.backlog is None else listener.backlog


def identity(found: os.stat_result) -> FileIdentity:
    return found.st_dev, found.st_ino


def is_at(path: str, file: FileIdentity | None) -> bool:
    """Whether the path leads to this file."""
    with suppress(OSError):
        return file is not None and identity(os.lstat(path)) == file
    return False


def remove(path: str, file: FileIdentity | None) -> None:
    """Remove the file of a Unix socket, if it is still the one that was made for it."""
    if is_at(path, file):
        with suppress(OSError):  # whoever binds it next replaces it
            os.unlink(path)  # noqa: PTH108 - a name


def dress(path: str, file: FileIdentity, owner: tuple[int, int], mode: int | None) -> None:
    """Give a Unix socket's file its owner and mode; nobody can put another file in its place meanwhile.

    Raises:
        OSError: The kernel refused, or the file is gone.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if identity(found) != file:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        wanted = MODE if mode is None else mode
        door = f"/proc/self/fd/{descriptor}"
        if (found.st_uid, found.st_gid) != owner:
            os.chown(door, *owner)
        if stat.S_IMODE(found.st_mode) != wanted:
            os.chmod(door, wanted)  # noqa: PTH101 - of a descriptor
    finally:
        os.close(descriptor)


def is_what(descriptor: int, kind: Kind, endpoint: Endpoint) -> bool:
    """Whether this socket is one of `kind` at `endpoint`."""
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        if sock.type & ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) != _TYPES[kind]:
            return False
        name = sock.getsockname()
        if sock.family is socket.AF_UNIX:
            shown = f"@{name[1:].decode()}" if isinstance(name, bytes) else name
            return bool(shown == str(endpoint))
        return bool(name[1] == endpoint.port)


def _bound(kind: Kind, endpoint: Endpoint) -> socket.socket:
    family, where = _address_of(endpoint)
    try:
        sock = socket.socket(family, _TYPES[kind])
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT or not endpoint.is_any:
            raise
        return _bound(kind, Endpoint("ipv4", "0.0.0.0", endpoint.port))  # noqa: S104 - as it was asked for
    try:
        if kind == "stream" and family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not endpoint.is_any))
        if endpoint.is_file:
            os.fchmod(sock.fileno(), 0o600)  # its file is made with this mode: nobody comes too early
        sock.bind(where)
    except OSError:
        sock.close()
        raise
    return sock


def _address_of(endpoint: Endpoint) -> tuple[int, Any]:
    match endpoint.family:
        case "ipv4":
            return socket.AF_INET, (endpoint.host, endpoint.port)
        case "ipv6":
            return socket.AF_INET6, (endpoint.host, endpoint.port, 0, _scope_of(endpoint))
        case "unix":
            return socket.AF_UNIX, endpoint.host
        case "abstract":
            return socket.AF_UNIX, f"\0{endpoint.host}"


def _scope_of(endpoint: Endpoint) -> int:
    if not endpoint.scope or endpoint.scope.isdigit():
        return int(endpoint.scope or 0)
    return socket.if_nametoindex(endpoint.scope)


def is_free(listener: Listener, endpoint: Endpoint, former: int | None = None) -> bool:
    """Whether nothing is at the path; False where a dead socket is. One with the inode `former` is not there.

    Raises:
        Cannot: Somebody lives there, or what is there is no socket.
        OSError: There is no such folder.
    """
    try:
        found = os.lstat(endpoint.host)
    except FileNotFoundError:
        os.stat(os.path.dirname(endpoint.host))  # noqa: PTH116, PTH120 - a name
        return True
    if not stat.S_ISSOCK(found.st_mode):
        raise Cannot(f"cannot listen on {listener.shown}: what is there is no socket; move it away")
    if _lives(endpoint.host, former):
        raise InUse(f"cannot listen on {listener.shown}: somebody else has that socket")
    return False


def _lives(path: str, former: int | None) -> bool:
    """Source: unix(7): ECONNREFUSED is told of a socket that nobody has, and of one that does not listen."""
    refused = errno.EPROTOTYPE
    for kind in _ANY_TYPE:
        with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as probe:
            refused = probe.connect_ex(path)
        if refused != errno.EPROTOTYPE:
            break
    if refused == errno.ECONNREFUSED:
        return _is_bound_here(path, former)
    if refused in {errno.EACCES, errno.EPERM}:
        raise PermissionError(refused, os.strerror(refused))
    return refused != errno.ENOENT


def _is_bound_here(path: str, former: int | None) -> bool:
    """Whether somebody in this network namespace is bound to it. Source: proc(5) /proc/net/unix."""
    own = str(former).encode()
    with Path("/proc/net/unix").open("rb") as lines:
        bound = [line for line in lines if line.rstrip(b"\n").endswith(b" " + os.fsencode(path))]
    return any(line.split(None, 7)[6] != own for line in bound)


@contextmanager
def _translated(listener: Listener, endpoint: Endpoint) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = InUse if error.errno == errno.EADDRINUSE else Cannot
        raise kind(f"cannot listen on {listener.shown}: {_why(error, endpoint)}") from error


def _why(error: OSError, endpoint: Endpoint) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "somebody else has that address"
        case errno.EADDRNOTAVAIL:
            return "no interface of this host has that address"
        case errno.EACCES | errno.EPERM if endpoint.port:
            return f"plugind may not have a port below {_first_free_port()}: that takes CAP_NET_BIND_SERVICE"
        case errno.ENOENT | errno.ENOTDIR if endpoint.is_file:
            return f"there is no folder {os.path.dirname(endpoint.host)}"  # noqa: PTH120 - a name
        case errno.EACCES | errno.EPERM | errno.EROFS if endpoint.is_file:
            return f"plugind may not write in {os.path.dirname(endpoint.host)}"  # noqa: PTH120 - a name
    return error.strerror or str(error)


def _first_free_port() -> str:
    try:
        text = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text(encoding="ascii")
    except OSError:
        return "1024"
    return text.strip()
