"""What a node is and what it is built from: handed over by `daemon.py`, or by a test."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic

from supervisor.engine.ports import (
    Audit,
    Binaries,
    CatalogFile,
    Clock,
    History,
    Logs,
    Memory,
    P,
    Processes,
    Remains,
)


@dataclass(frozen=True, slots=True)
class Facilities(Generic[P]):
    """What a node is built from."""

    clock: Clock
    processes: Processes[P]
    remains: Remains[P]
    binaries: Binaries
    logs: Logs
    memory: Memory
    history: History
    audit: Audit
    file: CatalogFile


@dataclass(frozen=True, slots=True)
class About:
    """What this node is."""

    name: str
    version: str
    pid: int
    uses: Mapping[str, str]
    parallel: int
    """Replacements at a time where a request does not say."""
