"""The argv of a plugin, with what has to happen before its first instruction in front of it.

One helper, sh(1), does all that a shell can: cgroup, oom_score_adj, umask, folder, LISTEN_PID and limits.
nice(1) and setpriv(1) follow only where they are asked for. Each execs the next, so the pid stays, and
what fails ends the start with a line in the plugin's log. What cannot be applied is refused before:
`refusal`.
"""

import os
import resource
from collections.abc import Iterator
from functools import cache
from typing import Final

from supervisor.domain.catalog import Launch, Limits
from supervisor.host.own import most_files, own

PLUGINS_UMASK: Final = 0o022
"""plugind's own, set in daemon.py, as every plugin has it that asks for no other."""
_BLOCK: Final = 512
"""What ulimit -c counts in."""
_SH: Final = "/bin/sh"
_NICE: Final = "/usr/bin/nice"
_SETPRIV: Final = "/usr/bin/setpriv"
_NONE: Final = Limits()
_HARD: Final = {
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
    "core": resource.RLIMIT_CORE,
}


def command_line(launch: Launch, uid: int, gid: int, cgroup: str = "") -> list[str]:
    """argv; with `cgroup` the process puts itself there first.

    Source: sh(1p) ulimit, umask; nice(1) of coreutils; setpriv(1) of util-linux.
    """
    argv = [*_niced(launch.limits), *_as_account(launch, uid, gid), launch.command, *launch.args]
    steps: list[str] = []
    words: list[str] = []
    if cgroup:
        words.append(f"{cgroup}/cgroup.procs")
        steps.append(f'echo 0 >"${len(words)}"')
    score = _score(launch.limits)
    if score != own().oom_score_adj:
        steps.append(f"echo {score:d} >/proc/self/oom_score_adj")
    if launch.umask != PLUGINS_UMASK:
        steps.append(f"umask {launch.umask:03o}")
    if launch.cwd != "/":
        words.append(launch.cwd)
        steps.append(f'cd "${len(words)}"')
    if launch.listen:  # the shell's pid is that of what it execs: sd_listen_fds(3)
        steps.append("export LISTEN_PID=$$")
    steps += _limited(launch.limits)  # last: they bind the shell too
    if not steps:
        return argv
    if words:
        steps.append(f"shift {len(words)}")
    return [_SH, "-c", " && ".join([*steps, 'exec "$@"']), "sh", *words, *argv]


def _limited(limits: Limits) -> Iterator[str]:
    """What ulimit sets is the soft and the hard limit."""
    if limits.core is not None:
        yield f"ulimit -c {limits.core // _BLOCK:d}"
    if limits.nproc is not None:  # -u of bash is -p of dash
        yield f"{{ ulimit -u {limits.nproc:d} || ulimit -p {limits.nproc:d}; }} 2>/dev/null"
    if limits.nofile is not None:
        yield f"ulimit -n {limits.nofile:d}"


def _niced(limits: Limits) -> list[str]:
    """What is not asked for is 0, where that may be."""
    value = 0 if limits.nice is None else limits.nice
    if value == own().nice or not own().may_be_nice(value):
        return []
    return [_NICE, "-n", str(value - own().nice)]


def _score(limits: Limits) -> int:
    value = 0 if limits.oom_score_adj is None else limits.oom_score_adj
    return value if own().may_have_score(value) else own().oom_score_adj


def _as_account(launch: Launch, uid: int, gid: int) -> list[str]:
    is_other = (uid, gid) != (os.geteuid(), os.getegid())
    if not is_other and launch.groups is None:
        return []
    account = [f"--reuid={uid}", f"--regid={gid}"] if is_other else []
    if launch.groups is not None:
        groups = ["--groups", ",".join(launch.groups)] if launch.groups else ["--clear-groups"]
    else:
        groups = ["--init-groups" if launch.user is not None else "--keep-groups"]
    return [_SETPRIV, *account, *groups, "--"]


def refusal(launch: Launch) -> str | None:
    """What of `launch` plugind may not give a process, or None. Users and groups: `files/accounts.py`."""
    helpers = [*_niced(launch.limits)[:1], *_as_account(launch, os.geteuid(), os.getegid())[:1]]
    if launch.user is not None or launch.group is not None:
        helpers.append(_SETPRIV)
    for helper in helpers:
        if not _is_there(helper):
            return f"{helper} is needed, and is not there"
    return "; ".join(_refused(launch.limits)) or None


def _refused(limits: Limits) -> Iterator[str]:
    if limits == _NONE:
        return
    for name, kind in _HARD.items():
        value, hard = getattr(limits, name), resource.getrlimit(kind)[1]
        if value is None or own().may_raise or hard == resource.RLIM_INFINITY:
            continue
        if hard < value <= (most_files() if name == "nofile" else value):
            yield f"limits.{name} is {value}: plugind may not raise its own hard limit, {hard}"
    if limits.nofile is not None and limits.nofile > most_files():
        yield f"limits.nofile is {limits.nofile}: the kernel allows {most_files()} at most (fs.nr_open)"
    if limits.nice is not None and not own().may_be_nice(limits.nice):
        yield f"limits.nice is {limits.nice}: plugind may not lower its own, {own().nice}"
    if limits.oom_score_adj is not None and not own().may_have_score(limits.oom_score_adj):
        value = limits.oom_score_adj
        yield f"limits.oom_score_adj is {value}: plugind may not lower its own, {own().oom_score_adj}"


@cache
def _is_there(path: str) -> bool:
    return os.access(path, os.X_OK)
