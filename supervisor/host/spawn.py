"""From a Launch to a process: posix_spawn, with one exec helper in front only where the launch asks for it.

No Python code runs between fork and exec. What the child has: a session of its own, stdin /dev/null,
no inherited descriptors but 0, 1 and 2, an empty signal mask, default handlers, umask 022 and
cwd `/` (plugind's own, set in daemon.py), and a clean environment.
"""

import errno
import grp
import os
import pwd
import resource
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

from supervisor.domain.catalog import FromFile, Identity, Launch, Limits
from supervisor.domain.errors import Cannot, SpawnRefused
from supervisor.domain.events import Instance
from supervisor.domain.names import MountKey
from supervisor.host.orphans import MARK_VARIABLE, Marks
from supervisor.host.processes import Handle

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SIGNALS: Final = tuple(
    number for number in signal.valid_signals() if number not in {signal.SIGKILL, signal.SIGSTOP}
)
TRANSIENT: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
RESERVE: Final = 16
"""Descriptors that no start takes: for the control socket, files and looks into /proc."""
LIMIT_OPTIONS: Final = ("nofile", "nproc", "core")


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


def unsupported(launch: Launch) -> str | None:
    """What this version cannot give a process, or None."""
    for name in ("memory", "cpu", "pids"):
        if getattr(launch.limits, name) is not None:
            return f"limits.{name} needs a cgroup, and this version of plugind makes none"
    if launch.listen:
        return "held listeners (`listen`) are not supported by this version"
    return None


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


def _read_value(name: str, value: FromFile) -> str:
    try:
        text = Path(value.path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpawnRefused(f"cannot read the value of {name} from {value.path}: {error}") from error
    return text.removesuffix("\n")


def command_line(launch: Launch, account: Account) -> list[str]:
    """argv, with what has to happen before the exec in front of it.

    Source: prlimit(1), setpriv(1), both of util-linux; sh(1) for the folder.
    """
    argv = [launch.command, *launch.args]
    if (account.uid, account.gid) != (os.geteuid(), os.getegid()):
        groups = ["--init-groups"] if launch.user is not None else ["--keep-groups"]
        argv = ["/usr/bin/setpriv", f"--reuid={account.uid}", f"--regid={account.gid}", *groups, "--", *argv]
    options = _limit_options(launch.limits)
    if options:
        argv = ["/usr/bin/prlimit", *options, "--", *argv]
    if launch.cwd != "/":
        argv = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', launch.cwd, *argv]
    return argv


def _limit_options(limits: Limits) -> list[str]:
    values = ((name, getattr(limits, name)) for name in LIMIT_OPTIONS)
    return [f"--{name}={value}" for name, value in values if value is not None]


class Spawner:
    """Starts processes; between them plugind's own limits are what they were."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._files = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._plugin_files = self._files
        self._null = self._low = -1

    def raise_own_limit(self) -> None:
        """Raise plugind's own limit of descriptors to the hard one; plugins get the original."""
        hard = self._files[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._files = (hard, hard)
        self._null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._low = os.dup(self._null)

    def close(self) -> None:
        if self._low >= 0:
            os.close(self._low)
            os.close(self._null)
            self._null = self._low = -1

    def spawn(self, argv: list[str], env: Mapping[str, str], output: int, mark: int) -> Handle:
        """Start `argv`, whose stdout and stderr are the descriptor `output`.

        Raises:
            SpawnRefused: No process came to be.

        Source: posix_spawn(3); setrlimit(2) for the mark and the limit of descriptors.
        """
        if self._low < 0 or output < self._plugin_files[0]:
            return self._spawn(argv, env, output, mark)
        os.dup2(output, self._low, inheritable=False)  # posix_spawn refuses numbers above the soft limit
        try:
            return self._spawn(argv, env, self._low, mark)
        finally:
            os.dup2(self._null, self._low, inheritable=False)

    def keep_reserve(self, command: str) -> None:
        """Return if there are descriptors for a start: who should mend a want of them has to be let in.

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
        if free >= self._files[0] - RESERVE:
            raise SpawnRefused(f"cannot start {command}: too few descriptors are left", transient=True)

    def _spawn(self, argv: list[str], env: Mapping[str, str], output: int, mark: int) -> Handle:
        actions = (
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        )
        own, hard = self._marks.own
        raised = self._files != self._plugin_files
        try:
            if mark:
                resource.setrlimit(resource.RLIMIT_MSGQUEUE, (mark, hard))
            if raised:
                resource.setrlimit(resource.RLIMIT_NOFILE, self._plugin_files)
            pid = os.posix_spawn(
                argv[0], argv, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=SIGNALS
            )
        except OSError as error:
            transient = error.errno in TRANSIENT
            raise SpawnRefused(f"cannot start {argv[0]}: {error.strerror}", transient=transient) from error
        except ValueError as error:
            raise SpawnRefused(f"cannot start {argv[0]}: {error}") from error
        finally:
            if mark:
                resource.setrlimit(resource.RLIMIT_MSGQUEUE, (own, hard))
            if raised:
                resource.setrlimit(resource.RLIMIT_NOFILE, self._files)
        return _handle(pid)


def _handle(pid: int) -> Handle:
    try:
        handle = Handle.open(pid)
    except Cannot as error:
        os.kill(pid, signal.SIGKILL)  # noqa: TID251 - our own child, not reaped yet: the pid cannot be another's
        os.waitpid(pid, 0)
        raise SpawnRefused(f"cannot watch what was started: {error}", transient=True) from error
    if handle is None:
        raise SpawnRefused(f"pid {pid} vanished: somebody else reaps the children of plugind")
    return handle


def check_identity(command: str, identity: Identity | None) -> None:
    """Right before the exec: is it still the file that was hashed?

    Raises:
        SpawnRefused: It is another one, or somebody wrote to it.
    """
    if identity is None:
        return
    try:
        found = Path(command).stat()
    except OSError as error:
        raise SpawnRefused(f"cannot start {command}: {error.strerror}") from error
    now = Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    if now != identity:
        raise SpawnRefused(f"cannot start {command}: the file was changed after it was checked")
