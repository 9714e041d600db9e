"""The cgroups (v2) of one plugind: a sub-tree of its own, in it one for each mount, kept over its instances.

The sub-tree lies below the cgroup that plugind runs in, where that is ours to use: delegated by
systemd, or where there is no systemd writable. It is named after the runtime_dir, and noted there, so
that the next plugind finds it wherever it is started. Without one everything goes on by marks.
"""

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from supervisor.domain.catalog import Limits
from supervisor.domain.errors import Cannot, SpawnRefused
from supervisor.domain.names import MountKey, Seconds
from supervisor.host.cgroup import Cgroup, read, write
from supervisor.host.cgroupmount import controllers_in, needed, own_folder, trouble_with

log = structlog.get_logger(__name__)
NOTE: Final = "cgroup"
"""The file in runtime_dir that says where the sub-tree is."""
_LONGEST: Final = 200
_PERIOD: Final = 100_000
"""Microseconds, of cpu.max."""


class Cgroups:
    def __init__(self, runtime_dir: Path, *, is_wanted: bool = True) -> None:
        self._note = runtime_dir / NOTE
        digest = hashlib.sha256(os.fsencode(runtime_dir.resolve())).hexdigest()
        self._name = f"plugind-{digest[:12]}"
        self._why_not = "" if is_wanted else "turned off in plugind.yaml"
        self._parent = ""
        self.leaf = ""
        """Where plugind itself went, so that controllers could be enabled above it."""
        self.enabled: set[str] = set()
        self._made: set[str] = set()
        self._in_use: set[str] = set()
        self._survivors: set[str] = set()
        """Cgroups of a former daemon with members that cannot be killed."""
        self.path = ""
        """The sub-tree; empty where there is none."""

    def open(self) -> None:
        """Find the sub-tree of a former plugind, or make one."""
        if self._why_not:
            return
        parent, self._why_not = own_folder()
        if parent and self.leaf:
            parent = os.path.dirname(self.leaf)  # noqa: PTH120 - a name
        noted = self._noted()
        if noted and (noted == f"{parent}/{self._name}" or Cgroup(noted).is_populated()):
            parent = os.path.dirname(noted)  # noqa: PTH120 - a name
        elif noted:
            self._clear(noted)
        if not parent:
            return
        path = f"{parent}/{self._name}"
        try:
            with suppress(FileExistsError):
                os.mkdir(path, 0o755)  # noqa: PTH102 - no file of anybody's
            self._note.write_text(path, encoding="utf-8")
        except OSError as error:
            self._why_not = f"cannot make {path}: {error.strerror}"
            return
        self.path, self._parent, self._why_not = path, parent, ""
        self._made = set(self._names())

    def go_on(self, leaf: str, enabled: Iterable[str]) -> None:
        """Before `open`: plugind is in that leaf already, and enabled these controllers for it."""
        self.leaf, self.enabled = leaf, set(enabled)

    def __str__(self) -> str:
        return f"v2, {self.path}" if self.path else f"not used: {self._why_not or 'not looked for yet'}"

    def take(self, key: MountKey, limits: Limits) -> Cgroup | None:
        """A cgroup for a new instance, which nobody else has; None where there are none.

        Raises:
            SpawnRefused: It asks for limits that cannot be set, or a former instance cannot be killed.
        """
        controllers = needed(limits)
        if not self.path:
            if controllers:
                raise SpawnRefused(str(self.refusal(limits)))
            return None
        self._check_survivors(key)
        name = next(name for name in _names_of(key) if name not in self._in_use)
        cgroup = Cgroup(f"{self.path}/{name}", is_limited=bool(controllers))
        try:
            if controllers:
                self._enable(controllers)
                self._remove(name)  # what a former instance left in memory counts for that one
            if name not in self._made:
                with suppress(FileExistsError):
                    os.mkdir(cgroup.path, 0o755)  # noqa: PTH102 - on the path of a start
            _limit(cgroup.path, limits)
        except OSError as error:
            if controllers:
                raise SpawnRefused(f"cannot limit it by a cgroup: {_told(error)}") from error
            log.warning("cgroup_not_made", cgroup=cgroup.path, reason=error.strerror)
            return None
        self._made.add(name)
        self._in_use.add(name)
        return cgroup

    def of(self, pid: int, key: MountKey) -> Cgroup | None:
        """The cgroup that an adopted process is in, if it is one for this mount."""
        if not self.path:
            return None
        line = next((line for line in _lines(f"/proc/{pid:d}/cgroup") if line.startswith("0::")), "")
        parts = line[3:].split("/")
        if self._name not in parts[:-1]:
            return None
        name = parts[parts.index(self._name) + 1]
        if name not in self._made or name not in _some_names_of(key) or name in self._in_use:
            return None
        self._in_use.add(name)
        return Cgroup(f"{self.path}/{name}", is_limited=True)  # not known: it is made afresh for the next

    def give_back(self, cgroup: Cgroup | None) -> None:
        """The instance has ended; the cgroup is kept for the next one where that one may have it as it is."""
        if cgroup is None:
            return
        name = os.path.basename(cgroup.path)  # noqa: PTH119 - a name
        self._in_use.discard(name)
        if cgroup.is_limited or not cgroup.is_clean():
            self._remove(name)

    def forget(self, key: MountKey) -> None:
        """The mount is gone."""
        for name in _some_names_of(key):
            if name in self._made and name not in self._in_use:
                self._remove(name)

    async def end_leftovers(self, patience: Seconds) -> list[str]:
        """Kill what is in cgroups that no adopted instance has, and remove them; what people should know."""
        troubles: list[str] = []
        for name in sorted(self._made - self._in_use):
            cgroup = Cgroup(f"{self.path}/{name}")
            try:
                if await cgroup.end(patience):
                    troubles.append(f"{cgroup.path} was left by a former plugind: what was in it was killed")
            except Cannot as error:
                troubles.append(f"{cgroup.path} was left by a former plugind: {error}")
                self._survivors.add(name)
            else:
                self._remove(name)
        return troubles

    def close(self) -> None:
        """Remove what nobody is in: where instances are left to the next plugind, theirs stay."""
        if not self.path:
            return
        for name in list(self._made - self._in_use):
            self._remove(name)
        try:
            os.rmdir(self.path)  # noqa: PTH106 - a name, and no file is in it
        except OSError:
            return
        with suppress(OSError):  # the next plugind finds nothing there
            self._note.unlink(missing_ok=True)
        self._leave_leaf()

    # --- limits

    def refusal(self, limits: Limits) -> str | None:
        """Why `limits` of memory, cpu or pids cannot be set here, or None."""
        controllers = needed(limits)
        if not controllers:
            return None
        if not self.path:
            return trouble_with(controllers, f"there are no cgroups: {self._why_not}")
        there = controllers_in(self._parent)
        missing = [name for name in controllers if name not in there]
        if missing:
            return trouble_with(missing, f"{self._parent} has not got it")
        try:
            self._enable(controllers)
        except OSError as error:
            return trouble_with(controllers, f"it cannot be enabled: {_told(error)}")
        return None

    def _enable(self, controllers: list[str]) -> None:
        wanted = set(controllers) - self.enabled
        if not wanted:
            return
        asked = " ".join(f"+{name}" for name in sorted(wanted)).encode()
        try:
            write(f"{self._parent}/cgroup.subtree_control", asked)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            self._enter_leaf()  # no process may be where controllers are handed on
            write(f"{self._parent}/cgroup.subtree_control", asked)
        write(f"{self.path}/cgroup.subtree_control", asked)
        self.enabled |= wanted

    def _enter_leaf(self) -> None:
        self.leaf = f"{self._parent}/{self._name}-daemon"
        with suppress(FileExistsError):
            os.mkdir(self.leaf, 0o755)  # noqa: PTH102 - no file of anybody's
        write(f"{self.leaf}/cgroup.procs", b"0")

    def _leave_leaf(self) -> None:
        asked = " ".join(f"-{name}" for name in sorted(self.enabled)).encode()
        with suppress(OSError):  # others may use it by now
            if asked:
                write(f"{self._parent}/cgroup.subtree_control", asked)
            if self.leaf:
                write(f"{self._parent}/cgroup.procs", b"0")
                os.rmdir(self.leaf)  # noqa: PTH106 - no file is in it
                self.leaf, self.enabled = "", set()

    # --- within

    def _check_survivors(self, key: MountKey) -> None:
        for name in self._survivors & set(_some_names_of(key)):
            pids = Cgroup(f"{self.path}/{name}").members()
            if pids:
                raise SpawnRefused(f"pid {', '.join(map(str, pids))} of a former instance cannot be killed")
            self._survivors.discard(name)

    def _remove(self, name: str) -> None:
        if Cgroup(f"{self.path}/{name}").remove():
            self._made.discard(name)

    def _names(self) -> Iterator[str]:
        with os.scandir(self.path) as entries:
            yield from (entry.name for entry in entries if entry.is_dir(follow_symlinks=False))

    def _noted(self) -> str:
        try:
            path = self._note.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return ""
        is_ours = path.endswith(f"/{self._name}") and read(f"{path}/cgroup.events")
        return path if is_ours else ""

    @staticmethod
    def _clear(path: str) -> None:
        Cgroup(path).remove()


def _limit(path: str, limits: Limits) -> None:
    if limits.memory is not None:
        write(f"{path}/memory.max", b"%d" % limits.memory)
    if limits.cpu is not None:
        write(f"{path}/cpu.max", b"%d %d" % (max(1000, round(limits.cpu * _PERIOD)), _PERIOD))
    if limits.pids is not None:
        write(f"{path}/pids.max", b"%d" % limits.pids)


def _names_of(key: MountKey) -> Iterator[str]:
    """One, and further ones: two instances live while the new one gets ready before the old one stops."""
    whole = f"{key.namespace}:{key.path}".replace("/", "+")
    if len(whole) > _LONGEST:
        whole = f"{whole[:_LONGEST]}~{hashlib.sha256(whole.encode()).hexdigest()[:12]}"
    yield whole
    number = 2
    while True:
        yield f"{whole}~{number}"
        number += 1


def _some_names_of(key: MountKey) -> tuple[str, ...]:
    names = _names_of(key)
    return tuple(next(names) for _ in range(8))


def _lines(path: str) -> list[str]:
    return read(path).decode(errors="replace").splitlines()


def _told(error: OSError) -> str:
    return f"{error.strerror} ({error.filename})" if error.filename else str(error.strerror)
