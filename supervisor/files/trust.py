"""Who could put another file in the place of this one: owners and modes of every element of a path.

Decided here: which elements are looked at and what is unsafe about one. Whom to trust is told by
the caller. Symlinks are followed element by element, as the kernel does, because a link in a
folder of a stranger is a door whatever the folder of its target looks like.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MOST_LINKS: Final = 40
_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Runner:
    """As whom a plugin runs."""

    uid: int
    gid: int
    groups: frozenset[int]

    def may_execute(self, found: os.stat_result) -> bool:
        """Whether an execute or search bit of `found` is for this user."""
        if self.uid == 0:
            return stat.S_ISDIR(found.st_mode) or bool(found.st_mode & 0o111)
        if found.st_uid == self.uid:
            return bool(found.st_mode & stat.S_IXUSR)
        if found.st_gid in self.groups or found.st_gid == self.gid:
            return bool(found.st_mode & stat.S_IXGRP)
        return bool(found.st_mode & stat.S_IXOTH)


@dataclass(frozen=True, slots=True)
class Walked:
    """What a path leads to, and everything that is wrong on the way."""

    target: Path
    problems: tuple[str, ...]


def walk(path: Path, trusted: frozenset[int], runner: Runner) -> Walked:
    """Follow `path` from the root; `trusted` are the uids that may own and write its elements.

    Problems name the element and the remedy. The target itself is not looked at, as it is judged
    by its open descriptor: see `unsafe`.

    Raises:
        OSError: An element does not exist, or there are too many links.
    """
    problems: dict[str, None] = {}
    here = Path("/")
    left = list(reversed(path.parts[1:]))
    links = 0
    while left:
        name = left.pop()
        if name == "..":
            here = here.parent
            continue
        folder, entry = os.lstat(here), here / name
        found = os.lstat(entry)
        problems.update(dict.fromkeys(_folder(here, folder, entry, found, trusted)))
        if not runner.may_execute(folder):
            problems[f"{here} cannot be entered by {shown_user(runner.uid)}: chmod +x {here}"] = None
        if not stat.S_ISLNK(found.st_mode):
            here = entry
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(f"it leads through more than {_MOST_LINKS} symlinks")
        target = entry.readlink()
        if target.is_absolute():
            here = Path("/")
        left += [part for part in reversed(target.parts) if part != "/"]
    return Walked(here, tuple(problems))


def _folder(
    path: Path, folder: os.stat_result, entry: Path, found: os.stat_result, trusted: frozenset[int]
) -> Iterator[str]:
    if folder.st_uid not in trusted:
        yield _stranger(path, folder)
    if not folder.st_mode & _WRITABLE:
        return
    if not folder.st_mode & stat.S_ISVTX:
        yield _writable(path, folder)
    elif found.st_uid not in trusted:
        # sticky: only the owner of an entry may rename it away
        yield _stranger(entry, found)


def unsafe(path: Path, found: os.stat_result, trusted: frozenset[int]) -> Iterator[str]:
    """What is unsafe about a file itself, by its stat."""
    if found.st_uid not in trusted:
        yield _stranger(path, found)
    if found.st_mode & _WRITABLE:
        yield _writable(path, found)


def _writable(path: Path, found: os.stat_result) -> str:
    # with an ACL the group bits are its mask: a user who may write by ACL shows here too
    if found.st_mode & stat.S_IWOTH:
        return f"{path} is writable by everybody: chmod go-w {path}"
    return f"{path} is writable by its group: chmod g-w {path}"


def _stranger(path: Path, found: os.stat_result) -> str:
    return f"{path} belongs to {shown_user(found.st_uid)}, who could change what runs: chown root {path}"


def shown_user(uid: int) -> str:
    """`root`, or `user alice` or `uid 4711`."""
    import pwd  # noqa: PLC0415 - only where something is wrong, and it may ask the network

    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
    return name if uid == 0 else f"user {name}"
