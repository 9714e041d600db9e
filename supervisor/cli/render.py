"""Answers as text for people: aligned columns, nothing that a terminal would obey, colour where wanted.

What comes from the daemon may hold a plugin's own words, and they may be anything: every piece of text
goes through `visible`. No I/O here; `now` is given.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, Literal, TypeAlias

Row: TypeAlias = Mapping[str, object]
Style = Literal["good", "bad", "warn", "dim", "bold"]
Cell: TypeAlias = str | tuple[str, Style]
NOTHING: Final = "-"

_CODES: Final[dict[Style, str]] = {"good": "32", "bad": "31", "warn": "33", "dim": "2", "bold": "1"}
_GAP: Final = "  "
_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86400


class Look:
    """What the output can show: how wide it is, colours or none, which characters."""

    def __init__(self, *, width: int | None = None, coloured: bool = False, encoding: str = "utf-8") -> None:
        self.width = width
        self.coloured = coloured
        self.has_cut = False
        """Whether something was left out for want of width."""
        try:
            "→…".encode(encoding)
            self.arrow, self.more = "→", "…"
        except UnicodeEncodeError:
            self.arrow, self.more = "->", "~"

    def styled(self, text: str, style: Style) -> str:
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self.coloured and text else text

    def change(self, old: str, new: str) -> str:
        """`old → new`; one of them where the other is nothing."""
        if NOTHING in {old, new}:
            return old if new == NOTHING else new
        return f"{old} {self.arrow} {new}"

    def table(self, header: Sequence[str], rows: Iterable[Sequence[Cell]], *, right: str = "") -> str:
        """Columns as wide as they need; the last one is cut at the edge of a terminal.

        Args:
            header: One name for each column.
            rows: Cells; their text is made visible here.
            right: Names of the columns that are aligned to the right.
        """
        lines: list[list[tuple[str, Style | None]]] = [[(name, "dim") for name in header]]
        lines += [
            [(visible(cell), None) if isinstance(cell, str) else (visible(cell[0]), cell[1]) for cell in row]
            for row in rows
        ]
        widths = [
            max(map(len, column))
            for column in zip(*([cell[0] for cell in line] for line in lines), strict=True)
        ]
        to_the_right = [name in right.split() for name in header]
        return "".join(self._line(line, widths, to_the_right) for line in lines)

    def _line(
        self, cells: list[tuple[str, Style | None]], widths: list[int], to_the_right: list[bool]
    ) -> str:
        last = len(cells) - 1
        while last and not cells[last][0]:
            last -= 1
        used = 0
        parts: list[str] = []
        for place, (whole, style) in enumerate(cells[: last + 1]):
            text = whole
            if self.width is not None and place == len(cells) - 1 and used + len(text) > self.width:
                text = text[: max(self.width - used - 1, 0)] + self.more
                self.has_cut = True
            padding = " " * (widths[place] - len(text))
            shown = self.styled(text, style) if style else text
            if to_the_right[place]:
                shown = padding + shown
            elif place < last:
                shown += padding
            parts.append(shown)
            used += widths[place] + len(_GAP)
        return _GAP.join(parts) + "\n"


def visible(text: str) -> str:
    """`text` with every character that is not plainly printed written as an escape."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )


def visible_lines(text: str) -> str:
    """`visible`, but line ends stay, and tabs become spaces."""
    return "\n".join(visible(line.replace("\t", "    ")) for line in text.rstrip("\n").split("\n"))


def word(value: object) -> str:
    """A value of an answer as text; `-` for nothing."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, list):
        return ", ".join(map(str, value)) or NOTHING
    return str(value)


def shown_mount(row: Row) -> str:
    """The path with its final slash."""
    return word(row.get("mount")).rstrip("/") + "/"


def shown_hold(row: Row) -> str:
    """`team-a since 2026-01-31 13:05:00 by uid 0 (pluginctl): why`."""
    since = local_time(row.get("since"))
    return f"{word(row.get('namespace'))} since {since} by {word(row.get('who'))}: {word(row.get('why'))}"


def held_lines(data: Row) -> str:
    """A line for each hold of an answer: why a reload would be refused."""
    return "".join(f"held: {visible(shown_hold(row))}\n" for row in rows_of(data, "holds"))


def rows_of(data: Row, key: str) -> list[Row]:
    """The list of objects under `key`; what is none is left out."""
    value = data.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def texts_of(data: Row, key: str) -> list[str]:
    value = data.get(key)
    return [str(item) for item in value] if isinstance(value, list) else []


def duration(value: object) -> str:
    """Seconds as `85ms`, `1.24s`, `3m12s`, `4h05m`, `12d3h`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _DAY * 100_000:
        return NOTHING
    if value < 1:
        return f"{value * 1000:.0f}ms"
    if value < _MINUTE:
        return f"{value:.2f}".rstrip("0").rstrip(".") + "s"
    seconds = int(value)
    if seconds < _HOUR:
        return f"{seconds // _MINUTE}m{seconds % _MINUTE:02}s"
    if seconds < _DAY:
        return f"{seconds // _HOUR}h{seconds % _HOUR // _MINUTE:02}m"
    return f"{seconds // _DAY}d{seconds % _DAY // _HOUR}h"


def instant(value: object) -> datetime | None:
    """An RFC 3339 time with its zone, or None where it is no such thing."""
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def since(value: object, now: datetime) -> str:
    """How long ago `value` was, in whole seconds."""
    begin = instant(value)
    if begin is None:
        return NOTHING
    seconds = max(int((now - begin).total_seconds()), 0)
    return duration(seconds) if seconds else "0s"


def between(begin: object, end: object) -> str:
    first, last = instant(begin), instant(end)
    return NOTHING if first is None or last is None else duration(max((last - first).total_seconds(), 0.0))


def local_time(value: object) -> str:
    """`2026-01-31 13:05:00` in the zone of whoever reads it."""
    found = instant(value)
    if found is None:
        return word(value)
    try:
        return found.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return word(value)


def counted(counts: Mapping[str, int], order: Sequence[str] = ()) -> str:
    """`97 ready, 2 backoff`: what there is none of is left out."""
    names = [*order, *(name for name in counts if name not in order)]
    return ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in names if counts.get(name))


def plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
