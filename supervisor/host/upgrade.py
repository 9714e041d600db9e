"""The exec by which another plugind, newer maybe, goes on in this process; and the try before it.

The process, its children, and the descriptors that `Legacy` names stay; all others are closed by the
exec. Where the exec itself fails, the caller goes on with the same legacy.
"""

import asyncio
import ctypes
import os
import resource
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import msgspec
import structlog

from supervisor.domain.errors import Cannot
from supervisor.domain.legacy import Errand, Expected, Legacy, decoded, encoded
from supervisor.domain.names import Seconds, shortened

log = structlog.get_logger(__name__)
VARIABLE: Final = "PLUGIND_UPGRADE"
"""In the environment of the new plugind: pid and descriptor of its legacy."""
EXPECTED: Final = "PLUGIND_UPGRADE_CHECK"
"""In the environment of the check: what may not be otherwise, as JSON."""
PATIENCE: Final[Seconds] = 30.0
"""For the check: it imports everything, on a machine that may be busy."""
_IN_FOLDER: Final = 'cd -- "$0" 2>/dev/null; exec "$@"'
_LINES: Final = 6
_LONGEST_COMM: Final = 15
_PR_GET_NAME: Final = 16


def _own_name() -> str:
    """Of the thread that asks: plugind's own in its main thread."""
    name = ctypes.create_string_buffer(_LONGEST_COMM + 1)
    ctypes.CDLL(None).prctl(_PR_GET_NAME, name, 0, 0, 0)
    return name.value.decode("utf-8", errors="replace")


@dataclass(frozen=True, slots=True)
class Program:
    """How this process was started, so that it can be started again: by its script, where it was."""

    argv: tuple[str, ...]
    folder: str

    @classmethod
    def of_this_process(cls) -> "Program":
        """Call it before the folder is changed.

        Source: execve(2) on scripts, and prctl(2) PR_GET_NAME: it is the script's name where the kernel
        found the interpreter by it. Unlike a look into /proc it needs no memory and no descriptor.
        """
        before = len(sys.orig_argv) - len(sys.argv) + 1
        first = sys.orig_argv[1:before]  # options of the interpreter, and the script
        name = _own_name()
        by_script = len(first) == 1 and Path(first[0]).name[:_LONGEST_COMM] == name
        program = first if by_script else [sys.executable or sys.orig_argv[0], *first]
        try:
            folder = os.getcwd()  # noqa: PTH109 - a name
        except OSError:  # it is gone
            folder = "/"
        return cls((*program, *sys.argv[1:]), folder)

    def run(self, legacy: Legacy) -> NoReturn:
        """Go on as it, with `legacy`.

        Raises:
            Cannot: The kernel refused; nothing has changed.

        Source: execve(2): pid, children, file locks and pending signals stay.
        """
        store = -1
        descriptors: tuple[int, ...] = ()
        try:
            store = os.memfd_create("plugind-legacy", os.MFD_CLOEXEC)
            _write(store, encoded(legacy))
            descriptors = (*legacy.descriptors, store)
            for descriptor in descriptors:
                os.set_inheritable(descriptor, True)  # noqa: FBT003 - its signature
            with suppress(OSError):
                os.chdir(self.folder)
            os.execve(self.argv[0], self.argv, {**os.environ, VARIABLE: f"{os.getpid()}:{store}"})  # noqa: S606
        except OSError as error:
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)  # noqa: FBT003 - its signature
            if store >= 0:
                os.close(store)
            os.chdir("/")
            raise Cannot(f"cannot run {self.argv[0]}: {error.strerror}") from error


def inherited() -> Legacy | None:
    """What the plugind before this one in the same process left; from now on no child gets any of it.

    Call it before anything is opened.
    """
    told = os.environ.pop(VARIABLE, "")
    handed = [descriptor for descriptor in _open_ones() if _is_inherited(descriptor)]
    for descriptor in handed:
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - its signature
    pid, _, store = told.partition(":")
    if pid != str(os.getpid()) or not store.isdigit():
        return None
    legacy = _read(int(store))
    if legacy is not None and set(legacy.descriptors) <= set(handed):
        os.close(int(store))
        return legacy
    log.error(
        "legacy_refused", reason="it is of another version of plugind: what it left is bound and found again"
    )
    for descriptor in handed:  # also the lock of the socket: it would be ours, and nobody would know
        os.close(descriptor)
    return None


def drop(legacy: Legacy) -> None:
    """Let go of what nobody took of it, once everything else is closed."""
    for descriptor in legacy.descriptors:
        with suppress(OSError):  # somebody took it, and has closed it
            os.close(descriptor)


def _open_ones() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2]  # noqa: PTH208, PLR2004
    except OSError:  # want of memory: then each that may be
        return list(range(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0]))


def _is_inherited(descriptor: int) -> bool:
    """Python opens nothing that an exec would keep. Source: PEP 446."""
    try:
        return os.get_inheritable(descriptor)
    except OSError:  # of the look itself
        return False


def _read(store: int) -> Legacy | None:
    try:
        return decoded(os.pread(store, os.fstat(store).st_size, 0))
    except OSError:
        return None


def _write(store: int, data: bytes) -> None:
    while data:
        data = data[os.write(store, data) :]


def expected() -> Expected | None:
    """What the running plugind, on behalf of which this is a check, counts on."""
    told = os.environ.get(EXPECTED, "")
    return msgspec.json.decode(told, type=Expected) if told else None


class Successor:
    """Fits `engine/ports.Successor`. `run` gives the status of a process, whose output is at a path."""

    def __init__(
        self,
        program: Program,
        run: Callable[[list[str], dict[str, str], str], Awaitable[int]],
        expects: Callable[[], Expected],
        take_over: Callable[[Errand], None],
    ) -> None:
        self._program = program
        self._run = run
        self._expects = expects
        self._take_over = take_over

    def take_over(self, errand: Errand) -> None:
        self._take_over(errand)

    async def check(self) -> None:
        """Start it with `--check`: it imports everything, reads the settings, and ends.

        Raises:
            Cannot: It does not end well; with what it said last.
        """
        try:
            with os.fdopen(os.memfd_create("plugind-check", os.MFD_CLOEXEC), "w+b", 0) as said:
                trouble = await self._trouble(said.fileno())
                text = _last_lines(said.fileno())
        except OSError as error:
            raise Cannot(f"cannot upgrade: the new plugind cannot be tried: {error.strerror}") from error
        if trouble:
            raise Cannot(f"cannot upgrade: the new plugind {trouble}{': ' if text else ''}{text}")
        if text:
            log.warning("upgrade_check_said", text=text)

    async def _trouble(self, said: int) -> str:
        env = {**os.environ, EXPECTED: msgspec.json.encode(self._expects()).decode()}
        argv = ["/bin/sh", "-c", _IN_FOLDER, self._program.folder, *self._program.argv, "--check"]
        try:
            async with asyncio.timeout(PATIENCE):
                status = await self._run(argv, env, f"/proc/self/fd/{said}")
        except TimeoutError:
            return f"did not get through its check in {PATIENCE:g} s"
        except Cannot as error:
            return f"cannot be tried: {error}"
        how = f"exit {status}" if status > 0 else f"signal {-status}"
        return f"does not start ({how})" if status else ""


def _last_lines(said: int) -> str:
    size = os.fstat(said).st_size
    data = os.pread(said, min(size, 1 << 16), max(0, size - (1 << 16)))
    lines = [line.strip() for line in data.decode(errors="replace").splitlines() if line.strip()]
    return "; ".join(shortened(line, 300) for line in lines[-_LINES:])
