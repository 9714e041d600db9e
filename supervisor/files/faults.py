"""Where faults are gathered: every one that can be found, at its place, up to a number that people read.

What counts as a fault is decided by the readers; here is only how it is noted, and the near match
that helps to mend it.
"""

import difflib
from collections.abc import Iterable
from typing import Final, NoReturn, Protocol

from supervisor.domain.catalog import Mark
from supervisor.domain.errors import CatalogInvalid, Fault
from supervisor.domain.names import shortened

MOST_FAULTS: Final = 1000
_LONGEST_NEAR_MATCH: Final = 100
_MOST_COMPARED: Final = 60_000


class Placed(Protocol):
    """Anything with a place in a file: a node of the tree."""

    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...


class TooManyFaults(Exception):
    """Nobody reads more of them, or a limit was reached; reading goes on no further."""


class Faults:
    """Collects faults over all files of one load."""

    def __init__(self) -> None:
        self._found: list[Fault] = []
        self._compared = 0

    def __len__(self) -> int:
        return len(self._found)

    def add(self, fault: Fault) -> None:
        # a hostile file would otherwise be answered with half a million lines
        if len(self._found) >= MOST_FAULTS:
            self._found.append(
                Fault(fault.file, 0, 0, f"more than {MOST_FAULTS:,} faults: the rest is not shown")
            )
            raise TooManyFaults
        self._found.append(fault)

    def near(self, text: str, known: Iterable[str]) -> str:
        """`: did you mean "versions"?` or nothing."""
        if len(text) > _LONGEST_NEAR_MATCH:
            return ""
        candidates: list[str] = []
        # a comparison takes up to 3 us for each character, and ten thousand mounts may name no plugin
        for name in known:
            self._compared += len(text) + len(name)
            if self._compared > _MOST_COMPARED:
                break
            candidates.append(name)
        match = difflib.get_close_matches(text, candidates, n=1, cutoff=0.6)
        return f': did you mean "{match[0]}"?' if match else ""

    def raise_any(self) -> None:
        """Return if nothing was found.

        Raises:
            CatalogInvalid: With every fault.
        """
        if self._found:
            raise CatalogInvalid(self._found)


class Page:
    """One file under inspection: what a reader needs to name a place and to resolve a path."""

    def __init__(self, file: str, folder: str, faults: Faults) -> None:
        self.file = file
        self.folder = folder
        self.faults = faults

    def fault(self, node: Placed, message: str) -> None:
        self.faults.add(Fault(self.file, node.line, node.column, message))

    def stop(self, node: Placed, message: str) -> NoReturn:
        """Note that a limit of the whole load is reached.

        Raises:
            TooManyFaults: Always; what was found so far is told.
        """
        self.fault(node, f"{message}: the rest was not read")
        raise TooManyFaults

    def mark(self, node: Placed) -> Mark:
        return Mark(self.file, node.line, node.column)

    def unknown(self, node: Placed, what: str, text: str, known: Iterable[str], otherwise: str = "") -> None:
        """Note a name that there is not, with a near match or what to say without one."""
        near = self.faults.near(text, known) or otherwise
        self.fault(node, f'unknown {what} "{shortened(text)}"{near}')
