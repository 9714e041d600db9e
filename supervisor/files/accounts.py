"""As whom a plugin runs: names and numbers of users and groups, and whether plugind may become them."""

import grp
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass

from supervisor.files.trust import Runner


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs a plugin, who may own its files, and what is wrong with the names."""

    runner: Runner
    trusted: frozenset[int]
    problems: tuple[str, ...]


def runner_of(user: str | None, group: str | None, groups: tuple[str, ...] | None = None) -> Account:
    """The account that these of a launch stand for; None are plugind's own, or the groups of `user`."""
    own = os.geteuid()
    problems: list[str] = []
    entry = _entry(user, problems) if user is not None else None
    uid = entry.pw_uid if entry else int(user) if user and user.isdecimal() else own
    gid = entry.pw_gid if entry else os.getegid()
    own_groups = os.getgrouplist(entry.pw_name, gid) if entry else os.getgroups()
    if group is not None:
        gid = _gid(group, problems, gid)
    wanted = own_groups if groups is None else [_gid(name, problems, gid) for name in groups]
    problems += _not_allowed(user, group, uid, gid, own)
    if groups is not None and own != 0:
        problems.append("plugind does not run as root and cannot set groups")
    return Account(Runner(uid, gid, frozenset(wanted)), frozenset({0, own, uid}), tuple(problems))


def _entry(user: str, problems: list[str]) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        problems.append(f"user {user} does not exist")
        return None


def _gid(group: str, problems: list[str], otherwise: int) -> int:
    try:
        return (grp.getgrgid(int(group)) if group.isdecimal() else grp.getgrnam(group)).gr_gid
    except (KeyError, OverflowError):
        problems.append(f"group {group} does not exist")
        return otherwise


def _not_allowed(user: str | None, group: str | None, uid: int, gid: int, own: int) -> Iterator[str]:
    if own == 0:
        return
    if user is not None and uid != own:
        yield f"plugind does not run as root and cannot become user {user}"
    if group is not None and gid != os.getegid():
        yield f"plugind does not run as root and cannot become group {group}"
