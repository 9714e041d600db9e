"""What a node is and what it is built from: handed over by `daemon.py`, or by a test."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic

from supervisor.domain.catalog import RestartRate
from supervisor.domain.legacy import Errand, HandedNode
from supervisor.engine.ports import (
    Audit,
    Binaries,
    CatalogFile,
    Clock,
    History,
    HoldFile,
    Journal,
    Listeners,
    Logs,
    Memory,
    P,
    Processes,
    Remains,
    Successor,
)


@dataclass(frozen=True, slots=True)
class Facilities(Generic[P]):
    """What a node is built from."""

    clock: Clock
    processes: Processes[P]
    listeners: Listeners
    remains: Remains[P]
    binaries: Binaries
    logs: Logs
    memory: Memory
    holds: HoldFile
    history: History
    journal: Journal
    audit: Audit
    file: CatalogFile
    successor: Successor


@dataclass(frozen=True, slots=True)
class About:
    """What this node is."""

    name: str
    version: str
    pid: int
    uses: Mapping[str, str]
    parallel: int
    """Replacements at a time where a request does not say."""
    restarts: RestartRate = field(default_factory=RestartRate)
    handed: HandedNode | None = None
    """What the plugind before this one left, in the same process."""
    errand: Errand | None = None
    """The upgrade that this is the end of."""
