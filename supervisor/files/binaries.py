"""Whether what the catalog names is fit to run as it is on disk now, and which file that is.

The digest is taken of an open file, in a worker thread, once per identity however many mounts run
it. What is unsafe about a path is told by `trust.py`, whether the kernel would take the file by
`executables.py`; here are the account, the folder, the environment, and how it is all reported.
"""

import asyncio
import hashlib
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor.domain.catalog import Admitted, FromFile, Identity, Launch, MountSpec, Policies
from supervisor.domain.errors import Cannot, Fault, TargetUnfit
from supervisor.files import executables, trust
from supervisor.files.accounts import Account, runner_of
from supervisor.files.held import Held

_MOST_CACHED: Final = 4096
_WORKERS: Final = 4
_SETTLED: Final = 20_000_000
"""Nanoseconds: two writes within one tick of the clock may leave one mtime, so nothing younger is cached."""
_LONGEST_VALUE: Final = 128 << 10


class Binaries:
    """Checks files before they run. `private` are folders that plugind writes to: nothing in them is run.

    `held` is what is held.
    """

    def __init__(self, private: Iterable[str] = (), held: Held | None = None) -> None:
        self._private = tuple(Path(folder) for folder in private)
        self._digests: dict[Identity, str] = {}
        self._fit: dict[Launch, Identity] = {}
        """Launches that had no fault, and the file that they had none with."""
        self._held = held if held is not None else Held()
        self._pending: dict[Identity, Future[str]] = {}
        self._lock = threading.Lock()

    async def verify(self, specs: Iterable[MountSpec]) -> None:
        """Return if every one of `specs` could be started now.

        Raises:
            TargetUnfit: With every fault of every one, at its mount's line.
        """
        by_launch: dict[Launch, list[MountSpec]] = {}
        beside: dict[_Beside, list[MountSpec]] = {}
        for spec in specs:
            by_launch.setdefault(spec.launch, []).append(spec)
            for name, command in commands_of(spec.policies):
                beside.setdefault(_Beside(name, command, spec.launch.user, spec.launch.group), []).append(
                    spec
                )
        left = list(by_launch)
        faults: list[Fault] = []
        for one, its in beside.items():
            faults += [_fault(spec, problem) for problem in one.problems() for spec in its]

        async def work() -> None:
            while left:
                launch = left.pop()
                _, problems = await asyncio.to_thread(self._examine, launch)
                for problem in problems:
                    faults.extend(_fault(spec, problem) for spec in by_launch[launch])

        async with asyncio.TaskGroup() as workers:
            for _ in range(min(_WORKERS, len(left))):
                workers.create_task(work())
        if faults:
            raise TargetUnfit(faults)

    async def admit(self, launch: Launch) -> Admitted:
        """The file that `launch` would run now; at once where its digest is known. It is held from now on.

        Where it was replaced or deleted since it was admitted before, it is what is held.

        Raises:
            Cannot: It is not fit; with every reason.
        """
        known = self._known(launch)
        if known is not None and self._held.has(launch):
            return Admitted(known)
        return await asyncio.to_thread(self._admit, launch)

    def recall(self, launch: Launch, pid: int) -> None:
        """Hold what `pid` runs, which another plugind started from `launch`."""
        self._held.recall(launch, pid)

    def keep_only(self, launches: Iterable[Launch]) -> None:
        """Hold no files but those of `launches`."""
        self._held.keep_only(launches)

    def _admit(self, launch: Launch) -> Admitted:
        identity, problems = self._examine(launch, hold=True)
        if not problems and identity is not None:
            return Admitted(identity)
        why = "; ".join(problems)
        try:
            account = runner_of(launch.user, launch.group, launch.groups)
            descriptor = None
            if not [*account.problems, *_cwd(launch, account), *_env_files(launch)]:
                descriptor = self._held.find(launch, self._digest, identity_of)
            if descriptor is not None and not self._unfit(Path(launch.command), descriptor, account):
                return Admitted(identity_of(os.fstat(descriptor)), descriptor, why)
        except OSError as error:
            why = f"{why}; the file that ran cannot be read: {(error.strerror or str(error)).lower()}"
        raise Cannot(f"cannot run {_shown(launch)}: {why}")

    def _unfit(self, path: Path, descriptor: int, account: Account) -> list[str]:
        return [
            *trust.unsafe(path, os.fstat(descriptor), account.trusted),
            *executables.unfit(path, descriptor, account.runner),
        ]

    def _known(self, launch: Launch) -> Identity | None:
        fit = self._fit.get(launch)
        if fit is None or fit not in self._digests:
            return None
        try:
            # on the path of every start
            return fit if identity_of(os.stat(launch.command)) == fit else None  # noqa: PTH116
        except OSError:
            return None

    def _examine(self, launch: Launch, *, hold: bool = False) -> tuple[Identity | None, list[str]]:
        problems: list[str] = []
        identity: Identity | None = None
        try:
            account = runner_of(launch.user, launch.group, launch.groups)
            problems += account.problems
            problems += _cwd(launch, account)
            problems += _env_files(launch)
            identity, found = self._examine_file(launch, account, hold=hold)
            problems += found
        except FileNotFoundError as error:
            problems.append(_missing(launch.command, error.filename))
        except OSError as error:
            problems.append(f"{error.filename or launch.command}: {(error.strerror or str(error)).lower()}")
        self._note(launch, None if problems else identity)
        return identity, list(dict.fromkeys(problems))

    def _note(self, launch: Launch, fit_with: Identity | None) -> None:
        with self._lock:
            self._fit.pop(launch, None)
            if fit_with is not None:
                self._fit[launch] = fit_with
            while len(self._fit) > _MOST_CACHED:
                del self._fit[next(iter(self._fit))]

    def _examine_file(
        self, launch: Launch, account: Account, *, hold: bool
    ) -> tuple[Identity | None, list[str]]:
        path = Path(launch.command)
        walked = trust.walk(path, account.trusted, account.runner)
        problems = list(walked.problems)
        problems += [
            f"{walked.target} lies in {folder}, where plugind writes: put it elsewhere"
            for folder in self._private
            if walked.target.is_relative_to(folder.resolve())
        ]
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                what = (
                    "a folder: name the program in it"
                    if stat.S_ISDIR(found.st_mode)
                    else "not a regular file"
                )
                return None, [*problems, f"{path} is {what}"]
            problems += trust.unsafe(walked.target, found, account.trusted)
            problems += executables.unfit(path, descriptor, account.runner)
            problems += self._digest_problems(launch, descriptor, identity_of(found))
            if hold and not problems:
                self._held.keep(launch, descriptor)
            return identity_of(found), problems
        finally:
            os.close(descriptor)

    def _digest_problems(self, launch: Launch, descriptor: int, identity: Identity) -> Iterator[str]:
        digest = self._digest(descriptor, identity)
        if identity_of(os.fstat(descriptor)) != identity:
            yield f"{launch.command} was changed while it was read: ask again"
        elif launch.sha256 is not None and digest != launch.sha256:
            yield (
                f"{launch.command} has SHA-256 {digest[:12]}…, the catalog says {launch.sha256[:12]}…: "
                "the file was changed, or the catalog was not"
            )

    def _digest(self, descriptor: int, identity: Identity) -> str:
        with self._lock:
            known = self._digests.get(identity)
            if known is not None:
                return known
            other = self._pending.get(identity)
            mine: Future[str] = Future()
            if other is None:
                self._pending[identity] = mine
        if other is not None:
            return other.result()
        try:
            began = time.time_ns()
            digest = _sha256(descriptor)
            if max(identity.mtime, identity.ctime) < began - _SETTLED:
                with suppress(OSError):  # then it is read again next time
                    self._keep(descriptor, identity, digest)
            mine.set_result(digest)
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._pending[identity]
        return digest

    def _keep(self, descriptor: int, identity: Identity, digest: str) -> None:
        if identity_of(os.fstat(descriptor)) != identity:
            return
        with self._lock:
            self._digests[identity] = digest
            while len(self._digests) > _MOST_CACHED:
                del self._digests[next(iter(self._digests))]


def identity_of(found: os.stat_result) -> Identity:
    """Which file it is and in which state, by its stat."""
    return Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _sha256(descriptor: int) -> str:
    with os.fdopen(os.dup(descriptor), "rb", buffering=0) as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def commands_of(policies: Policies) -> Iterator[tuple[str, str]]:
    """What is run beside the plugin, by the key that it stands under."""
    liveness = policies.liveness.probe.command if policies.liveness else ()
    named = (("ready", policies.ready.command), ("liveness", liveness), ("stop", policies.stop.command))
    # what lies in $TMPDIR the plugin itself puts there
    return ((name, words[0]) for name, words in named if words and "$TMPDIR" not in words[0])


@dataclass(frozen=True, slots=True)
class _Beside:
    """A program that is run for an instance, by its user."""

    name: str
    command: str
    user: str | None
    group: str | None

    def problems(self) -> Iterator[str]:
        try:
            found = Path(self.command).stat()
        except OSError as error:
            yield f"{self.name}.command {self.command} {_why(error)}"
            return
        runner = runner_of(self.user, self.group).runner
        if not stat.S_ISREG(found.st_mode):
            yield f"{self.name}.command {self.command} is not a regular file"
        elif not runner.may_execute(found):
            who = trust.shown_user(runner.uid)
            yield f"{self.name}.command {self.command} is not executable by {who}: chmod +x {self.command}"


def _cwd(launch: Launch, account: Account) -> Iterator[str]:
    try:
        found = Path(launch.cwd).stat()
    except OSError as error:
        yield f"cwd {launch.cwd} {_why(error)}"
        return
    if not stat.S_ISDIR(found.st_mode):
        yield f"cwd {launch.cwd} is not a directory"
    elif not account.runner.may_execute(found):
        yield f"cwd {launch.cwd} cannot be entered by {trust.shown_user(account.runner.uid)}"


def _env_files(launch: Launch) -> Iterator[str]:
    for name, value in launch.env:
        if not isinstance(value, FromFile):
            continue
        try:
            descriptor = os.open(value.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as error:
            yield f"env {name}: {value.path} {_why(error)}"
            continue
        found = os.fstat(descriptor)
        os.close(descriptor)
        if not stat.S_ISREG(found.st_mode):
            yield f"env {name}: {value.path} is not a regular file"
        elif found.st_size >= _LONGEST_VALUE:
            yield f"env {name}: {value.path} is larger than {_LONGEST_VALUE >> 10} KiB"


def _missing(command: str, name: str | None) -> str:
    if name is None or name == command:
        return f"{command} does not exist"
    return f"{command} leads to {name}, which does not exist"


def _why(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    return f"cannot be read: {(error.strerror or str(error)).lower()}"


def _shown(launch: Launch) -> str:
    return f"{launch.plugin} {launch.version}"


def _fault(spec: MountSpec, problem: str) -> Fault:
    command = spec.launch.command
    where = "" if command in problem else f" ({command})"
    message = f"cannot run {_shown(spec.launch)}{where} for {spec.key}: {problem}"
    return Fault(spec.mark.file, spec.mark.line, spec.mark.column, message)
