"""What should run, mount by mount, by what was commanded and done; and what does run, by the processes.

Nothing here asks plugind. Where a moment decides (a reload that a SIGKILL of the daemon cut off, a crash
while a new version is watched), several versions are allowed until the processes say which it is.
"""

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from harness import processes_below
from stage import TREE, Stage

GOOD: Final = ("v1", "v2")
WATCH: Final = "1s"
PROVED: Final = 4.0
"""Seconds after which a version has proved itself for sure, on a slow machine too."""


@dataclass
class Known:
    """What may run at one mount: one of these versions, None is nothing."""

    may: set[str | None]
    held: bool = False
    is_doubtful: bool = False
    """Whether a stop or a start took hold is not known: the next plugind shows it."""
    fallback: set[str | None] = field(default_factory=set)
    """What a crash may bring back, until then."""
    unproved_until: float = 0.0
    is_torn: bool = False
    """It may have been rolled back, so that a start runs what ran before and not the pin."""


@dataclass
class Seen:
    """What runs at one mount."""

    instances: set[str] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)
    holders: set[int] = field(default_factory=set)
    marked: set[int] = field(default_factory=set)
    """Those that still have the environment they were started with."""


class Model:
    """What should run. `listed` are the mounts of the catalog, `pins` those that may be in force."""

    def __init__(self, names: Iterable[str], pin: str) -> None:
        self.mounts = {name: Known({pin}) for name in names}
        self.listed = set(self.mounts)
        self.pin = pin
        self.pins = {pin}

    def edited(self, listed: Iterable[str], pin: str) -> None:
        """The file is another: staged, and in force as soon as plugind looks."""
        self.listed, self.pin = set(listed), pin
        self.pins.add(pin)
        for name in self.listed:
            self.mounts.setdefault(name, Known({None}))

    def loaded(self) -> None:
        """A command read the file."""
        self.pins = {self.pin}

    def replaced(self, names: Iterable[str], *, surely: bool) -> None:
        """A reload or an apply put the pin there; where that is not sure, it may have."""
        for name in names:
            known = self.mounts[name]
            if known.held:
                continue
            if known.may != {self.pin} or not self.has_proved(name):
                self._unproved(known)
            if surely:
                known.is_torn = False
                known.may = {self.pin}
            else:
                known.may.add(self.pin)

    def restarted(self, names: Iterable[str]) -> None:
        """The same again, which may still have to prove itself."""
        for name in names:
            if not self.has_proved(name):
                self._unproved(self.mounts[name])

    def fell_back(self, names: Iterable[str]) -> None:
        """A bad version was tried: what comes back is what ran, or what last proved itself."""
        for name in names:
            if not self.has_proved(name):
                self.mounts[name].may |= self.mounts[name].fallback - {None}
                self._unproved(self.mounts[name])

    def crashed(self, names: Iterable[str]) -> None:
        for name in names:
            known = self.mounts[name]
            if not self.has_proved(name):
                known.may |= known.fallback - {None}
                known.is_torn = True
                self._unproved(known)

    def has_proved(self, name: str) -> bool:
        return time.monotonic() > self.mounts[name].unproved_until

    def began(self, dead: Iterable[str]) -> None:
        """A new plugind: what was `dead` is started if it is listed, what lives is adopted."""
        self.loaded()
        for name in dead:
            known = self.mounts[name]
            if name not in self.listed:
                known.may = {None}
            elif not known.held:
                self._unproved(known)
                known.may = {self.pin, *(GOOD if known.is_torn else ())}
        for known in self.mounts.values():
            if time.monotonic() < known.unproved_until:
                self._unproved(known)

    def removed(self) -> list[str]:
        return [name for name in self.mounts if name not in self.listed]

    def forget(self) -> None:
        """An apply ended what is not listed any more."""
        for name in self.removed():
            del self.mounts[name]

    @staticmethod
    def _unproved(known: Known) -> None:
        known.fallback = known.fallback | known.may | ({"v1", "v2"} if known.is_torn else set())
        known.unproved_until = time.monotonic() + PROVED

    def settle(self, seen: dict[str, Seen]) -> list[str]:
        """Where what runs is allowed, it is from now on what should run; else what is wrong."""
        wrong = []
        for name in self.mounts.keys() | seen.keys():
            known, there = self.mounts.get(name, Known({None})), seen.get(name, Seen())
            version: str | None = next(iter(there.versions), None)
            expected = TREE.get(name, 3) if there.instances else 0
            is_whole = len(there.instances) < 2 and len(there.holders) == expected
            if not is_whole or version not in known.may:
                wrong.append(f"{name}: {sorted(map(str, known.may))} should run, there is {there}")
        if not wrong:
            for name, known in self.mounts.items():
                known.may = {next(iter(seen[name].versions), None) if name in seen else None}
                if known.is_doubtful:
                    known.held, known.is_doubtful = known.may == {None}, False
                if self.has_proved(name):
                    known.fallback = set()
        return wrong


def look(stage: Stage) -> dict[str, Seen]:
    """What runs, by the locks that processes hold and by their environments."""
    found: dict[str, Seen] = defaultdict(Seen)
    for pid, environ in processes_below(stage.folder).items():
        words = dict(word.split("=", 1) for word in environ.split() if "=" in word)
        seen = found[words.get("NAME", f"pid {pid} without a name")]
        seen.marked.add(pid)
        seen.instances.add(words.get("PLUGIND_INSTANCE", ""))
        seen.versions.add(words.get("PLUGIND_VERSION", ""))
    for name, pids in stage.holders().items():
        if pids:
            found[name].holders |= pids
    return dict(found)


def cgroup_of(pid: int) -> str:
    """The path of its cgroup v2, or nothing."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return next((line[3:] for line in lines if line.startswith("0::")), "")


def cgroup_root() -> Path | None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        words = line.split()
        if words[2] == "cgroup2":
            return Path(words[1])
    return None
