"""How far a reload is, on a terminal: a line for each mount, or a bar where there are many."""

import os
import sys
from collections import Counter
from itertools import count
from typing import Final

from supervisor.cli.render import Look, Row, counted, duration, plural, rows_of, shown_mount, visible, word

BAD: Final = frozenset({"failed", "rolled_back", "interrupted"})
MOST_LINES: Final = 8
"""Mounts that have a line each; more share a bar."""
_BAR: Final = 30
_SPINNER: Final = "|/-\\"


def progress(state: Row, seconds: float, look: Look, turn: int = 0) -> list[str]:
    """What a reload's state looks like after `seconds`: the lines, each cut at the edge.

    Args:
        state: The answer to `reload/backend/status`.
        seconds: Since it was asked for.
        look: Whose width is that of the terminal.
        turn: How often it was drawn before.
    """
    rows = rows_of(state, "mounts")
    counts = Counter(word(row.get("result")) for row in rows)
    waiting = counts.pop("pending", 0)
    done = f"{len(rows) - waiting} of {plural(len(rows), 'mount')} done" if rows else "under way"
    bad = counted({name: counts[name] for name in sorted(BAD)})
    text = f"{done}{', ' if bad else ''}{bad}  {seconds:.1f}s"
    if not rows or len(rows) > MOST_LINES:
        filled = _BAR * (len(rows) - waiting) // len(rows) if rows else 0
        lines = [f"[{'#' * filled}{'.' * (_BAR - filled)}] {text}"]
    else:
        spinner = _SPINNER[turn % len(_SPINNER)]
        lines = [*_of_mounts(rows, look, spinner), text]
    return [line if look.width is None else line[: look.width - 1] for line in lines]


def _of_mounts(rows: list[Row], look: Look, spinner: str) -> list[str]:
    names = [(visible(word(row.get("namespace"))), visible(shown_mount(row))) for row in rows]
    widths = [max(map(len, column)) for column in zip(*names, strict=True)]
    lines: list[str] = []
    for (namespace, mount), row in zip(names, rows, strict=True):
        result = visible(word(row.get("result"))).replace("_", " ")
        is_under_way = result == "pending"
        mark = spinner if is_under_way else "x" if row.get("result") in BAD else "+"
        versions = look.change(word(row.get("old_version")), word(row.get("new_version")))
        told = "" if is_under_way else f"{result}  {visible(versions)}  {duration(row.get('down_seconds'))}"
        lines.append(f"{mark} {namespace:{widths[0]}}  {mount:{widths[1]}}  {told}".rstrip())
    return lines


class Screen:
    """The lines on a terminal that are drawn again and again, and gone at the end."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._height = 0
        self._turns = count()

    @classmethod
    def of_terminal(cls) -> "Screen | None":
        """The terminal behind stderr, if it is one."""
        return cls(Look(encoding=sys.stderr.encoding)) if sys.stderr.isatty() else None

    def show(self, state: Row, seconds: float) -> None:
        self._look.width = os.get_terminal_size(sys.stderr.fileno()).columns or None
        self._draw(progress(state, seconds, self._look, next(self._turns)))

    def clear(self) -> None:
        self._draw([])

    def _draw(self, lines: list[str]) -> None:
        """Source: ECMA-48, CUU (cursor up) and ED (erase to the end of the page)."""
        up = f"\x1b[{self._height - 1}A" if self._height > 1 else ""
        sys.stderr.write(f"{up}\r\x1b[J" + "\n".join(lines))
        sys.stderr.flush()
        self._height = len(lines)
