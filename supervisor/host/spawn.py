"""From a Launch to a process: posix_spawn, with one exec helper in front only where the launch asks for it.

No Python code runs between fork and exec. What the child has: a session of its own, stdin /dev/null,
no inherited descriptors but 0, 1, 2 and its listeners, an empty signal mask, default handlers, umask 022 and
cwd `/` (plugind's own, set in daemon.py), and a clean environment.
"""

import asyncio
import errno
import grp
import os
import pwd
import resource
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final, NoReturn

from supervisor.domain.catalog import FromFile, Identity, Launch, Listener
from supervisor.domain.errors import Cannot, SpawnRefused
from supervisor.domain.events import Instance
from supervisor.domain.names import MountKey
from supervisor.host.launcher import Launcher
from supervisor.host.orphans import MARK_VARIABLE, Marks
from supervisor.host.posixspawn import Program
from supervisor.host.processes import Handle, moment

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TRANSIENT: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
PATIENCE: Final = 1.0
"""Seconds in which a descriptor has to be found for what was started."""
RESERVE: Final = 16
"""Descriptors that no start takes: for the control socket, files and looks into /proc."""
SPARE: Final = 4
"""Of those beyond, so many are for mounts whose last instance has just given its own back."""
EACH: Final = 2
"""Descriptors that a start under way has still to take: its pidfd, and one for its log file."""


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a plugin runs as."""

    uid: int
    gid: int
    home: str


def account_of(launch: Launch) -> Account:
    """The account that `launch` runs as: its `user` and `group`, or plugind's own.

    Raises:
        Cannot: There is no such user or group.
    """
    account = own_account()
    try:
        if launch.user is not None:
            user = pwd.getpwuid(int(launch.user)) if launch.user.isdecimal() else pwd.getpwnam(launch.user)
            account = Account(user.pw_uid, user.pw_gid, user.pw_dir)
        if launch.group is not None:
            name = launch.group
            group = grp.getgrgid(int(name)) if name.isdecimal() else grp.getgrnam(name)
            account = replace(account, gid=group.gr_gid)
    except KeyError as error:
        raise Cannot(f"cannot run as {launch.user or ''}:{launch.group or ''}: {error.args[0]}") from error
    return account


@cache
def own_account() -> Account:
    """Plugind's own, which it has as long as it lives."""
    try:
        home = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        home = "/"
    return Account(os.geteuid(), os.getegid(), home)


def environment(
    key: MountKey, instance: Instance, account: Account, folder: str, extra: Mapping[str, str]
) -> dict[str, str]:
    """The whole environment of an instance.

    Raises:
        SpawnRefused: A value that stands in a file cannot be read.
    """
    launch = instance.launch
    env = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": account.home, "TMPDIR": folder}
    for name, value in launch.env:
        env[name] = _read_value(name, value) if isinstance(value, FromFile) else value
    env.update(extra)
    env["PLUGIND_NAMESPACE"] = str(key.namespace)
    env["PLUGIND_MOUNT"] = key.path
    env["PLUGIND_PLUGIN"] = str(launch.plugin)
    env["PLUGIND_VERSION"] = launch.version
    env[MARK_VARIABLE] = instance.id
    return env


def listen_environment(listen: Sequence[Listener]) -> dict[str, str]:
    """What tells a program of the sockets that it was handed; LISTEN_PID is set by the helper in front.

    Source: sd_listen_fds(3).
    """
    if not listen:
        return {}
    return {"LISTEN_FDS": str(len(listen)), "LISTEN_FDNAMES": ":".join(listener.name for listener in listen)}


def _read_value(name: str, value: FromFile) -> str:
    try:
        text = Path(value.path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpawnRefused(f"cannot read the value of {name} from {value.path}: {error}") from error
    return text.removesuffix("\n")


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file to run that is open in plugind, and has no path that leads to it."""

    descriptor: int
    name: str
    """Where it was."""
    is_own: bool
    """It is run as plugind's own user, who may look into /proc of plugind."""

    @property
    def path(self) -> str:
        """A script is opened by its interpreter once more, so that the path has to lead there then too.

        Source: proc(5), /proc/PID/fd; execve(2).
        """
        return f"/proc/{os.getpid() if self.is_own else 'self'}/fd/{self.descriptor}"


@dataclass(frozen=True, slots=True)
class Given:
    """Descriptors of plugind's that a program gets."""

    listening: tuple[int, ...] = ()
    file: OpenFile | None = None
    """What is run: its path stands in `argv`; where it comes first the program is told its old name."""

    def program(self, argv: list[str], env: Mapping[str, str], output: str) -> Program:
        file = self.file
        if file is None:
            return Program(argv, env, output, listening=self.listening)
        words = [file.name if argv[0] == file.path else argv[0], *argv[1:]]
        inherited = None if file.is_own else file.descriptor
        return Program(words, env, output, path=argv[0], inherited=inherited, listening=self.listening)


NOTHING: Final = Given()


class Spawner:
    """Starts processes; between them plugind's own limits are what they were."""

    def __init__(self, marks: Marks, plugin_files: tuple[int, int] | None = None) -> None:
        """`plugin_files` is the limit of descriptors for plugins, where plugind's own is raised already."""
        self._launcher = Launcher(marks.own)
        self._files = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.plugin_files = plugin_files or self._files
        self._null = -1
        self._under_way = 0

    def open(self) -> None:
        """Raise plugind's own limit of descriptors to the hard one; plugins get the original."""
        hard = self._files[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._files = (hard, hard)
        self._null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._launcher.start()

    def close(self) -> None:
        if self._null >= 0:
            self._launcher.stop()
            os.close(self._null)
            self._null = -1

    async def spawn(
        self,
        argv: list[str],
        env: Mapping[str, str],
        output: str,
        mark: int,
        given: Given = NOTHING,
    ) -> Handle:
        """Start `argv`, whose stdout and stderr are `output`, opened read-write by the child.

        It inherits what is `given` and no other descriptor.

        Raises:
            SpawnRefused: No process came to be.

        Source: posix_spawn(3).
        """
        program = given.program(argv, env, output)
        self._under_way += 1
        try:
            if self._files == self.plugin_files:
                pid = await self._launcher.launch(program, mark)
            else:  # plugind has another limit than plugins for a moment: nothing else may open anything then
                pid = self._launcher.launch_now(program, mark, (self._files, self.plugin_files))
        except OSError as error:
            transient = error.errno in TRANSIENT
            raise SpawnRefused(f"cannot start {argv[0]}: {error.strerror}", transient=transient) from error
        finally:
            self._under_way -= 1
        return await _handle(pid)

    def keep_reserve(self, command: str, *, replaces: bool) -> None:
        """Return if there are descriptors for a start: who should mend a want of them has to be let in.

        What an instance gave back its successor may have; no other start takes that meanwhile.

        Raises:
            SpawnRefused: Too few are left just now.
        """
        if self._null < 0:
            return
        try:
            free = os.dup(self._null)
        except OSError as error:
            raise SpawnRefused(f"cannot start {command}: {error.strerror}", transient=True) from error
        os.close(free)
        spare = 0 if replaces else SPARE
        if free + EACH * self._under_way + spare >= self._files[0] - RESERVE:
            raise SpawnRefused(f"cannot start {command}: too few descriptors are left", transient=True)


async def _handle(pid: int) -> Handle:
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            handle = Handle.open(pid)
        except Cannot as error:
            if asyncio.get_running_loop().time() < deadline:
                await moment()
                continue
            _end(pid, error)
        if handle is None:
            raise SpawnRefused(f"pid {pid} vanished: somebody else reaps the children of plugind")
        return handle


def _end(pid: int, error: Cannot) -> NoReturn:
    """Nobody could watch it: better none."""
    os.kill(pid, signal.SIGKILL)  # noqa: TID251 - our own child, not reaped yet: the pid cannot be another's
    os.waitpid(pid, 0)
    raise SpawnRefused(f"cannot watch what was started: {error}", transient=True) from error


def check_identity(command: str, identity: Identity | None) -> None:
    """Right before the exec: is it still the file that was hashed?

    Raises:
        SpawnRefused: It is another one, or somebody wrote to it.
    """
    if identity is None:
        return
    try:
        found = os.stat(command)  # noqa: PTH116 - on the path of every start
    except OSError as error:
        raise SpawnRefused(f"cannot start {command}: {error.strerror}") from error
    now = Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    if now != identity:
        raise SpawnRefused(f"cannot start {command}: the file was changed after it was checked")
