"""What plugind itself has that plugins inherit, and what it may therefore give them.

All of it is as it was when plugind started, and is read once, then.
"""

import os
import resource
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from supervisor.domain.errors import Cannot

CAP_SYS_NICE: Final = 23
CAP_SYS_RESOURCE: Final = 24
_LEAST_NICE: Final = 20
"""RLIMIT_NICE counts downwards from it."""


@dataclass(frozen=True, slots=True)
class Own:
    nice: int
    oom_score_adj: int
    capabilities: int

    @property
    def may_raise(self) -> bool:
        """Its hard limits."""
        return bool(self.capabilities >> CAP_SYS_RESOURCE & 1)

    def may_be_nice(self, value: int) -> bool:
        if value >= self.nice or self.capabilities >> CAP_SYS_NICE & 1:
            return True
        return value >= _LEAST_NICE - resource.getrlimit(resource.RLIMIT_NICE)[0]

    def may_have_score(self, value: int) -> bool:
        return value >= self.oom_score_adj or _may_lower_score(value, self.oom_score_adj)


@cache
def _may_lower_score(value: int, own_value: int) -> bool:
    """Tried on plugind itself: how low it may go without CAP_SYS_RESOURCE is written nowhere."""
    score = Path("/proc/self/oom_score_adj")
    try:
        score.write_text(f"{value:d}", encoding="ascii")
        score.write_text(f"{own_value:d}", encoding="ascii")
    except PermissionError:
        return False
    except OSError as error:  # what the machine lacks just now says nothing about rights
        raise Cannot(f"cannot try how low oom_score_adj may be: {error.strerror}") from error
    return True


@cache
def own() -> Own:
    """Source: proc(5) status CapEff, oom_score_adj; sched(7)."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return Own(
        nice=os.getpriority(os.PRIO_PROCESS, 0),
        oom_score_adj=int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii")),
        capabilities=int(status.partition("CapEff:")[2].split()[0], 16),
    )


def look() -> None:
    """Read it all now. Later there may be no descriptor for it."""
    own()
    most_files()


@cache
def most_files() -> int:
    """No RLIMIT_NOFILE can be above it. Source: proc(5) fs.nr_open."""
    return int(Path("/proc/sys/fs/nr_open").read_text(encoding="ascii"))
