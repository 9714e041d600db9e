"""Listening sockets: one daemon per socket path, never a moment with a wider mode, never a stranger's file.

The lock file beside the socket decides who owns the path; the socket itself is asked as well, as
a daemon on another file system view, or without the lock, may still answer there.
"""

import contextlib
import errno
import fcntl
import grp
import ipaddress
import os
import socket
import ssl
import stat
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from supervisor.domain.catalog import Socket, Tcp, Tls
from supervisor.domain.errors import AlreadyRunning, Cannot

_LONGEST_PATH: Final = 107
BACKLOG: Final = 4096
_LOCK_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class Lock:
    """Held as long as this process lives; the kernel lets go of it at any death."""

    def __init__(self, path: Path, held: int | None = None) -> None:
        """Take the lock, or go on with the one that the descriptor `held` has."""
        self.path = path
        self._fd = _locked(path) if held is None else held

    @property
    def is_in_place(self) -> bool:
        """Whether whoever opens the path meets our lock."""
        return _is_at(self.path, os.fstat(self._fd))

    def close(self) -> None:
        os.close(self._fd)

    def release(self) -> int:
        """The descriptor that has the lock, for another plugind; this one has it no more."""
        return self._fd


def _locked(path: Path) -> int:
    while True:
        try:
            fd = os.open(path, _LOCK_FLAGS, 0o600)
        except OSError as error:
            raise Cannot(f"cannot open the lock file {path}: {error.strerror}") from error
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            os.close(fd)
            raise Cannot(f"cannot use the lock file {path}: it is no regular file with one name; remove it")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = _pid_in(fd)
            os.close(fd)
            raise AlreadyRunning(pid, str(path).removesuffix(".lock")) from error
        if _is_at(path, found):
            with contextlib.suppress(OSError):  # a full disk; the pid is for people
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            return fd
        os.close(fd)  # removed between open and flock: it guards nothing


def _is_at(path: Path, found: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        return _identity(found) == _identity(os.lstat(path))
    return False


def _pid_in(fd: int) -> int | None:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def check_path(path: str) -> None:
    """Refuse what the kernel would cut off or misread."""
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise Cannot(
            f"cannot listen on {path}: a Unix socket's path has at most {_LONGEST_PATH} bytes, this one "
            f"has {len(os.fsencode(path))}; choose a shorter socket.path"
        )


def make_folder(path: Path) -> None:
    """Make the folder of the socket and what is missing above it, each 0755."""
    missing = [folder for folder in path.parents if not folder.exists()]
    for folder in reversed(missing):
        try:
            folder.mkdir(0o755, exist_ok=True)
            folder.chmod(0o755)  # whatever the umask
        except OSError as error:
            raise Cannot(f"cannot make the folder {folder}: {error.strerror}") from error


def bind_unix(settings: Socket) -> tuple[socket.socket, tuple[int, int]]:
    """A listening socket at the path, and the identity of its file. The lock must be held.

    Raises:
        AlreadyRunning: Somebody answers there.
        Cannot: The path cannot be used.
    """
    path = Path(settings.path)
    group = _group_id(settings.group)
    _clear_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)  # 0600 until group and mode are right
    try:
        sock.bind(settings.path)
    except OSError as error:
        sock.close()
        raise Cannot(f"cannot listen on {path}: {error.strerror}") from error
    finally:
        os.umask(before)
    try:
        _dress(path, group, settings.mode)
        sock.listen(BACKLOG)
        return sock, _identity(path.lstat())
    except OSError as error:
        sock.close()
        raise Cannot(f"cannot give {path} its group and mode: {error.strerror}") from error


def take_unix(settings: Socket, descriptor: int, identity: tuple[int, int]) -> socket.socket:
    """The listening socket that the plugind before this one had there; mode and group may be others now."""
    path = Path(settings.path)
    with contextlib.suppress(OSError, Cannot):  # it served with what it had so far
        if is_ours(settings.path, identity):
            _dress(path, _group_id(settings.group), settings.mode)
    return socket.socket(fileno=descriptor)


def _dress(path: Path, group: int | None, mode: int) -> None:
    if group is not None:
        os.chown(path, -1, group, follow_symlinks=False)
    path.chmod(mode)


def is_ours(path: str, identity: tuple[int, int]) -> bool:
    """Whether the path leads to our socket.

    Raises:
        OSError: That cannot be found out now, e.g. for want of memory; it may still be ours.
    """
    try:
        return _identity(os.lstat(path)) == identity
    except (FileNotFoundError, NotADirectoryError):
        return False


def remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _group_id(name: str | None) -> int | None:
    if name is None:
        return None
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise Cannot(f"cannot give the socket to the group {name}: there is no such group") from error


def _clear_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise Cannot(f"cannot look at {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(found.st_mode):
        raise Cannot(f"cannot listen on {path}: what is there is no socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        refused = probe.connect_ex(str(path))
        if refused in {0, errno.EAGAIN}:  # EAGAIN: alive, with a full backlog
            pid = None if refused else _peer_pid(probe)
            raise AlreadyRunning(pid, str(path))
    if refused != errno.ECONNREFUSED:
        raise Cannot(f"cannot listen on {path}: {os.strerror(refused)}")
    path.unlink(missing_ok=True)


def _peer_pid(probe: socket.socket) -> int:
    raw = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[0])


def bind_tcp(settings: Tcp, held: Sequence[int] = ()) -> tuple[list[socket.socket], ssl.SSLContext | None]:
    """Listening sockets for `tcp`, new ones or those `held`, and TLS for them.

    Raises:
        Cannot: The address is not of this host, or is not loopback and has no TLS.
    """
    addresses, context = prepare_tcp(settings)
    if held:
        return [socket.socket(fileno=descriptor) for descriptor in held], context
    return [_bound(family, where) for family, where in addresses], context


def try_unix(settings: Socket) -> None:
    """Find out whether `take_unix` would do.

    Raises:
        Cannot: It would not.
    """
    check_path(settings.path)
    _group_id(settings.group)


def try_tcp(settings: Tcp, *, binds: bool) -> None:
    """Find out whether `bind_tcp` would do; whether the address is free, only where it `binds`.

    Raises:
        Cannot: It would not.
    """
    addresses, _ = prepare_tcp(settings)
    for family, where in addresses if binds else []:
        _bound(family, where).close()


def prepare_tcp(settings: Tcp) -> tuple[list[tuple[int, tuple[Any, ...]]], ssl.SSLContext | None]:
    """Families and addresses that `tcp` means, and TLS for them.

    Raises:
        Cannot: The address is not of this host, or is not loopback and has no TLS.
    """
    host, colon, port = settings.address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdigit() or not host:
        raise Cannot(f'cannot listen on tcp "{settings.address}": write HOST:PORT, or [::1]:PORT')
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise Cannot(f"cannot listen on tcp {settings.address}: {error.strerror}") from error
    addresses = {(family, where[:2]): where for family, _, _, _, where in found}
    if settings.tls is None and not all(
        ipaddress.ip_address(str(where[0])).is_loopback for where in addresses.values()
    ):
        raise Cannot(
            f"cannot listen on tcp {settings.address}: tokens would cross the network in the clear; "
            "set tcp.tls, or use a loopback address"
        )
    context = _tls(settings.tls) if settings.tls is not None else None
    return [(family, where) for (family, _), where in addresses.items()], context


def _bound(family: int, where: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise Cannot(f"cannot listen on tcp {where[0]}:{where[1]}: {error.strerror}") from error
    return sock


def _tls(settings: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=settings.client_ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(settings.cert, settings.key)
    except (OSError, ssl.SSLError) as error:
        raise Cannot(f"cannot use the files of tcp.tls: {error}") from error
    if settings.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
