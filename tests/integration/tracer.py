"""Kills a process at its n-th system call, counted over all its threads, or makes that call fail.

strace counts per thread and per kind of call; here one number is one point, and what a vforked child does
before its exec counts too, as the daemon may die then as well. ptrace(2) through ctypes; the tracer is a
process of its own that is forked from the driver. Linux on x86_64.
"""

import ctypes
import json
import os
import signal
import traceback
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

import injected

SEIZE, INTERRUPT, SYSCALL, CONT, DETACH = 0x4206, 0x4207, 24, 7, 17
GET_SYSCALL_INFO, GETEVENTMSG, PEEKUSER, POKEUSER = 0x420E, 0x4201, 3, 6
SYSGOOD, ON_FORK, ON_VFORK, ON_CLONE, ON_EXEC = 1, 2, 4, 8, 16
EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC, EVENT_STOP = 1, 2, 3, 4, 128
WALL: Final = 0x40000000
ORIG_RAX, RAX = 15 * 8, 10 * 8
CALLS: Final = {
    0: "read", 1: "write", 2: "open", 3: "close", 4: "stat", 5: "fstat", 6: "lstat", 7: "poll",
    8: "lseek", 9: "mmap", 11: "munmap", 16: "ioctl", 17: "pread64", 18: "pwrite64", 20: "writev",
    28: "madvise", 32: "dup", 39: "getpid", 41: "socket", 44: "sendto", 45: "recvfrom", 46: "sendmsg",
    47: "recvmsg", 49: "bind", 50: "listen", 53: "socketpair", 56: "clone", 57: "fork", 58: "vfork",
    59: "execve", 61: "wait4", 62: "kill", 72: "fcntl", 73: "flock", 74: "fsync", 75: "fdatasync",
    77: "ftruncate", 80: "chdir", 82: "rename", 83: "mkdir", 84: "rmdir", 87: "unlink", 89: "readlink",
    90: "chmod", 91: "fchmod", 92: "chown", 93: "fchown", 133: "mknod", 202: "futex", 217: "getdents64",
    230: "clock_nanosleep", 231: "exit_group", 232: "epoll_wait", 233: "epoll_ctl", 247: "waitid",
    254: "inotify_add_watch", 257: "openat", 258: "mkdirat", 259: "mknodat", 262: "newfstatat",
    263: "unlinkat", 264: "renameat", 275: "splice", 276: "tee", 281: "epoll_pwait", 288: "accept4",
    289: "signalfd4", 290: "eventfd2", 291: "epoll_create1", 293: "pipe2", 294: "inotify_init1",
    302: "prlimit64", 316: "renameat2", 424: "pidfd_send_signal", 434: "pidfd_open", 435: "clone3",
    436: "close_range",
}  # fmt: skip
DULL: Final = frozenset({9, 11, 13, 14, 24, 28, 39, 60, 186, 202, 228, 232, 281})
"""Waiting and memory: nothing outside is another before than after, so they are not counted."""
FIRST_OWN: Final = "/proc/self/fd"
"""With a look at that a plugind begins to take what another left to it."""
LOADING: Final = 100
"""Of the calls before it, one of so many counts."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


@dataclass(frozen=True, slots=True)
class Aim:
    """What is done at which system call. `number` 0: never, only count."""

    number: int = 0
    errno: int = 0
    """0: SIGKILL; else only calls that can fail so are counted, and that one does, and does nothing."""
    times: int = 1
    """How many calls from there on fail."""


class _SyscallInfo(ctypes.Structure):
    _fields_ = (
        ("op", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("ip", ctypes.c_uint64),
        ("sp", ctypes.c_uint64),
        ("nr", ctypes.c_uint64),
        ("rest", ctypes.c_uint64 * 10),
    )


class _Done(Exception):
    pass


def _ptrace(request: int, pid: int, address: int = 0, data: Any = None) -> int:
    done: int = _libc.ptrace(request, pid, address, data)
    if done == -1 and ctypes.get_errno():
        error = ctypes.get_errno()
        ctypes.set_errno(0)
        raise OSError(error, os.strerror(error))
    return done


class Tracing:
    """Runs in the tracer's process."""

    def __init__(self, pid: int, aim: Aim) -> None:
        self.pid = pid
        self.aim = aim
        self.count = 0
        self.injected: list[str] = []
        self.hit: str | None = None
        self.is_over = False
        self.tail: deque[str] = deque(maxlen=25)
        self.can_fail: Counter[int] = Counter()
        self.roles: dict[int, str] = {}
        self._loaded = 0
        """Calls since the program that is traced became another one, until that is all there; else 0."""
        self._failing: set[int] = set()
        self._info = _SyscallInfo()

    def attach(self) -> None:
        options = SYSGOOD | ON_FORK | ON_VFORK | ON_CLONE | ON_EXEC
        again = True
        while again:  # a thread that was begun meanwhile
            again = False
            for name in sorted(map(int, os.listdir(f"/proc/{self.pid}/task"))):  # noqa: PTH208 - names only
                if name not in self.roles:
                    with suppress(ProcessLookupError, PermissionError):  # gone, or traced already as a clone
                        _ptrace(SEIZE, name, 0, options)
                        _ptrace(INTERRUPT, name)
                        again = True
                    self.roles[name] = f"thread {len(self.roles)}" if self.roles else "main"

    def run(self, attached: Any) -> None:
        waited = set(self.roles)
        while True:
            tid, status = os.waitpid(-1, WALL)
            if os.WIFSTOPPED(status):
                with suppress(ProcessLookupError):
                    self._stopped(tid, status)
                if waited:
                    waited.discard(tid)
                    if not waited:
                        attached()
            elif tid == self.pid:
                self.is_over = True
                raise _Done

    def _stopped(self, tid: int, status: int) -> None:
        number, event = os.WSTOPSIG(status), status >> 16
        if number == signal.SIGTRAP | 0x80:
            self._at_call(tid)
        elif event == EVENT_EXEC and tid != self.pid:
            _ptrace(DETACH, tid)  # a plugin from now on
        elif event == EVENT_EXEC:  # an upgrade
            self._loaded = 1
            self._failing.clear()
            _ptrace(SYSCALL, tid)
        elif event:
            if event in {EVENT_FORK, EVENT_VFORK, EVENT_CLONE}:
                message = ctypes.c_ulong()
                _ptrace(GETEVENTMSG, tid, 0, ctypes.byref(message))
                self.roles[message.value] = f"thread {len(self.roles)}" if event == EVENT_CLONE else "child"
            _ptrace(SYSCALL, tid)
        else:
            _ptrace(SYSCALL, tid, 0, 0 if number == signal.SIGTRAP else number)

    def _at_call(self, tid: int) -> None:
        _ptrace(GET_SYSCALL_INFO, tid, ctypes.sizeof(self._info), ctypes.byref(self._info))
        if self._info.op == 1:
            if self._enters(tid, self._info.nr, tuple(self._info.rest[:6])):
                return
        elif tid in self._failing:
            self._failing.discard(tid)
            _ptrace(POKEUSER, tid, RAX, ctypes.c_void_p(-self.aim.errno))
        _ptrace(SYSCALL, tid)

    def _enters(self, tid: int, number: int, arguments: tuple[int, ...]) -> bool:
        """Count a call; whether that was the end of it all."""
        kind = CALLS.get(number, str(number))
        self.tail.append(f"{self.roles.get(tid, tid)}: {kind}")
        if not self._counts(tid, number, kind, arguments):
            return False
        self.count += 1
        if not self.aim.number or not self.aim.number <= self.count < self.aim.number + self.aim.times:
            return False
        place = self._place(tid, kind, arguments) if self.aim.errno else ""
        self.hit = self.hit or f"{self.roles.get(tid, tid)}: {kind} {place}".rstrip()
        if self.aim.errno:
            _ptrace(POKEUSER, tid, ORIG_RAX, ctypes.c_void_p(-1))
            self._failing.add(tid)
            self.injected.append(f"{kind} {place}".rstrip())
            return False
        self.is_over = True
        with os.fdopen(os.pidfd_open(self.pid)) as handle:
            signal.pidfd_send_signal(handle.fileno(), signal.SIGKILL)
        raise _Done

    def _counts(self, tid: int, number: int, kind: str, arguments: tuple[int, ...]) -> bool:
        if self._loaded:
            return self._loads(tid, number, kind, arguments)
        if not self.aim.errno and self.aim.number:
            return number not in DULL
        possible = injected.errors_of(kind, self._place(tid, kind, arguments), arguments)
        self.can_fail.update(possible)
        return self.aim.errno in possible if self.aim.errno else number not in DULL

    def _loads(self, tid: int, number: int, kind: str, arguments: tuple[int, ...]) -> bool:
        """Ten thousand calls load Python and all that is imported; nothing outside is another by them."""
        self._loaded += 1
        if kind == "openat" and self._text(tid, arguments[1]) == FIRST_OWN:
            self._loaded = 0
        return not self.aim.errno and number not in DULL and self._loaded % LOADING == 0

    def _place(self, tid: int, kind: str, arguments: tuple[int, ...]) -> str:
        """The file that a call is about: by its path, else by its descriptor."""
        at, fd = injected.path_of(kind), injected.descriptor_of(kind)
        if at is not None:
            path = self._text(tid, arguments[at])
            fd = 0 if at else None  # of an empty path the descriptor counts
            if path:
                return path
        if fd is None:
            return ""
        try:
            return os.readlink(f"/proc/{tid}/fd/{arguments[fd] & 0xFFFFFFFF}")  # noqa: PTH115
        except OSError:
            return ""

    @staticmethod
    def _text(tid: int, address: int) -> str:
        try:
            with open(f"/proc/{tid}/mem", "rb", buffering=0) as memory:  # noqa: PTH123
                memory.seek(address)
                return os.fsdecode(memory.read(512).partition(b"\0")[0])
        except (OSError, ValueError, OverflowError):
            return ""

    def result(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "hit": self.hit,
            "tail": list(self.tail),
            "injected": self.injected,
            "can_fail": self.can_fail,
        }


class Tracer:
    """One tracing, seen from the driver."""

    def __init__(self, pid: int, aim: Aim) -> None:
        self._result, writes = os.pipe()
        begun, tells = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(begun)
            os.close(self._result)
            _trace(pid, aim, tells, writes)
        os.close(writes)
        os.close(tells)
        with os.fdopen(begun, "rb") as stream:
            stream.read()  # all is traced, or the end of it is reached already

    def end(self) -> dict[str, Any]:
        """Let go of what is traced, and say what was seen."""
        with os.fdopen(os.pidfd_open(self._pid)) as handle:
            signal.pidfd_send_signal(handle.fileno(), signal.SIGTERM)
        with os.fdopen(self._result, "rb") as stream:
            text = stream.read()
        os.waitpid(self._pid, 0)
        found: dict[str, Any] = json.loads(text)
        assert "broke" not in found, found["broke"]
        return found


def _trace(pid: int, aim: Aim, tells: int, writes: int) -> NoReturn:
    tracing = Tracing(pid, aim)

    def done(_number: int, _frame: FrameType | None) -> None:
        if not tracing.is_over:
            tracing.is_over = True
            raise _Done

    signal.signal(signal.SIGTERM, done)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    found: dict[str, Any] = {}
    try:
        tracing.attach()
        tracing.run(lambda: (os.write(tells, b"."), os.close(tells)))
    except (_Done, ChildProcessError):
        found = tracing.result()
    except BaseException:  # noqa: BLE001 - told by the driver
        found = {"broke": traceback.format_exc()}
    # the end of a tracer lets go of all that it traces
    os.write(writes, json.dumps(found).encode())
    os._exit(0)


def allow_tracing() -> None:
    """In what is to be traced, where Yama lets only ancestors trace. Source: prctl(2) PR_SET_PTRACER."""
    if Path("/proc/sys/kernel/yama/ptrace_scope").exists():
        _libc.prctl(0x59616D61, ctypes.c_ulong(-1 & 0xFFFFFFFFFFFFFFFF))
