"""Which system calls can fail in which way: what `crash_points.py` makes fail, and what it leaves alone.

Only what a kernel really answers: a full disk refuses to make a file and to make one longer, a damaged one
to read or write anything, and want of descriptors or memory whatever makes one. Left alone, with the reason:

- futex, rt_sig*, mmap, munmap, mprotect, brk, madvise, set_robust_list, rseq: the C library's and Python's
  own; want of memory there ends any Python program with MemoryError, or abort(3).
- epoll_wait, poll, select, nanosleep, wait4, waitid: waiting, which has no error of these five kinds.
- close: Linux has freed the descriptor whatever it answers, and what matters was synced before.
- exit, kill, pidfd_send_signal, prctl, prlimit64, setsid, umask, get*: refuse for want of rights only.
- socketpair: asyncio's own, at a start: plugind ends with its reason, and Python complains of a half loop.
- the files of Python itself: they are read at a start only, and one that has not all of its code ends.
- /proc and /dev have no disk below them (EIO, ENOSPC); a descriptor or memory may be missing there too.
- a plugin, from its exec on. What happens between vfork and exec is plugind's, and fails too.
"""

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import supervisor.daemon

CREATES: Final = 0o100
"""O_CREAT."""
DUPLICATES: Final = frozenset({0, 1030})
"""F_DUPFD, F_DUPFD_CLOEXEC."""

_DESCRIPTOR: Final = {
    "read": 0, "write": 0, "pread64": 0, "pwrite64": 0, "writev": 0, "getdents64": 0, "fsync": 0,
    "fdatasync": 0, "ftruncate": 0, "fchmod": 0, "fchown": 0, "fstat": 0, "lseek": 0, "splice": 2,
    "tee": 0, "accept4": 0,
    "recvfrom": 0, "recvmsg": 0, "sendto": 0, "sendmsg": 0, "fcntl": 0,
}  # fmt: skip
"""The argument that is the descriptor which counts."""
_PATH: Final = {
    "open": 0, "openat": 1, "mkdir": 0, "mkdirat": 1, "mknod": 0, "mknodat": 1, "rename": 0, "renameat": 1,
    "renameat2": 1, "unlink": 0, "unlinkat": 1, "rmdir": 0, "chmod": 0, "chown": 0, "stat": 0, "lstat": 0,
    "newfstatat": 1, "inotify_add_watch": 1, "execve": 0, "readlink": 0,
}  # fmt: skip
_CHANGES_NAMES: Final = frozenset({
    "mkdir", "mkdirat", "mknod", "mknodat", "rename", "renameat", "renameat2",
})  # fmt: skip
_STARTS: Final = frozenset({"clone", "clone3", "fork", "vfork", "execve"})
_MAKES_DESCRIPTORS: Final = frozenset({
    "open", "openat", "pipe2", "eventfd2", "epoll_create1", "pidfd_open", "signalfd4", "socket", "accept4",
    "dup", "inotify_init1",
})  # fmt: skip
_ON_SOCKETS: Final = frozenset({"accept4", "recvfrom", "recvmsg", "sendto", "sendmsg"})
_ON_DISK: Final = frozenset({
    "open", "openat", "read", "pread64", "write", "pwrite64", "writev", "getdents64", "fsync", "fdatasync",
    "ftruncate", "splice", "unlink", "unlinkat", "rmdir", "stat", "lstat", "newfstatat", "fchmod", "chmod",
    "fchown", "chown", "readlink",
}) | _CHANGES_NAMES  # fmt: skip
NETWORK: Final = _ON_SOCKETS | {"socket", "epoll_ctl"}
"""What a client may have no answer for."""
REMOVES: Final = frozenset({"unlink", "unlinkat", "rmdir", "openat", "getdents64", "newfstatat", "rename"})
"""What it left behind for want of these goes at the next start."""
_OWN_CODE: Final = tuple(
    str(place)
    for place in (
        sys.prefix,
        f"{sys.base_prefix}/lib",
        Path(supervisor.daemon.__file__).parent,
        *filter(None, sys.path),
    )
)


def descriptor_of(name: str) -> int | None:
    return _DESCRIPTOR.get(name)


def path_of(name: str) -> int | None:
    return _PATH.get(name)


Fits = Callable[[str, str, tuple[int, ...]], bool]


def _is_on_disk(place: str) -> bool:
    return place.startswith("/") and not f"{place}/".startswith(("/proc/", "/dev/", "/sys/"))


def _no_space(name: str, place: str, arguments: tuple[int, ...]) -> bool:
    if name == "inotify_add_watch":  # no watch is left
        return True
    if name in {"open", "openat"}:
        return bool(arguments[_PATH[name] + 1] & CREATES) and _is_on_disk(place)
    takes = name in _CHANGES_NAMES or name in {"write", "pwrite64", "writev", "splice", "fsync", "fdatasync"}
    return takes and _is_on_disk(place)


def _no_descriptor(name: str, _place: str, arguments: tuple[int, ...]) -> bool:
    return name in _MAKES_DESCRIPTORS or (name == "fcntl" and arguments[1] in DUPLICATES)


def _no_memory(name: str, place: str, arguments: tuple[int, ...]) -> bool:
    if name == "read":  # what the kernel makes up when it is read
        return place.startswith(("/proc/", "/sys/"))
    if name == "epoll_ctl":
        return arguments[1] == 1  # EPOLL_CTL_ADD
    if name in {"getdents64", "newfstatat", "inotify_add_watch"}:
        return True
    return name in _STARTS | _MAKES_DESCRIPTORS | _CHANGES_NAMES


def _again(name: str, place: str, _arguments: tuple[int, ...]) -> bool:
    """Too many processes, or a descriptor that does not block and said that it was ready."""
    if name in _STARTS or name in _ON_SOCKETS or name in {"splice", "tee"}:
        return True
    if place == "anon_inode:inotify":  # it blocks
        return False
    # not a pipe of its own, which has what was just put into it; and an eventfd takes what it is given
    return name == "read" and (place.startswith("anon_inode:") or place.endswith(".fifo"))


def _damaged(name: str, place: str, _arguments: tuple[int, ...]) -> bool:
    if place.endswith(".fifo") and name in {"read", "write"}:
        return False
    return name in _ON_DISK and _is_on_disk(place)


RULES: Final[dict[int, Fits]] = {
    errno.ENOSPC: _no_space,
    errno.EMFILE: _no_descriptor,
    errno.ENOMEM: _no_memory,
    errno.EAGAIN: _again,
    errno.EIO: _damaged,
}


def errors_of(name: str, place: str, arguments: tuple[int, ...]) -> list[int]:
    """With which of the five this call can fail."""
    if place.startswith(_OWN_CODE) and name != "execve":
        return []
    return [number for number, fits in RULES.items() if fits(name, place, arguments)]
