"""What becomes of two things at one mount: how each pair is brought about, and what comes of it.

The plugin waits at gates where it is told to: before it is ready, and before it ends. So each pair happens
at its moment, however slow the machine is. TABLE is tested in the pure state machine and against the real
daemon, and written down for people: `python tests/integration/concurrency.py > docs/concurrency.md`.
"""

import re
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

WHO: Final = re.compile(r"by hand by .*")


class Seen(NamedTuple):
    """How a pair went."""

    first: str
    """What the first command was answered; nothing where it was none."""
    second: str
    runs: str
    """The version in the end, or the mount's state where none runs."""
    starts: int | None
    """Instances that were started meanwhile; None where the mount is forgotten."""


class Doing(Protocol):
    """A command at the mount."""

    def done(self) -> bool: ...

    def told(self) -> str:
        """What it was answered, as `said` writes it; waits for it."""
        ...


class Arena(Protocol):
    """One mount and what can be done there."""

    def at_rest(self) -> None:
        """v1 is pinned, runs and is ready; all gates are open."""

    def close_gate(self, name: str) -> None:
        """From now on the plugin waits before it is `ready`, or before it `ends`."""

    def until_at(self, name: str) -> None:
        """Return when it does."""

    def write(self, pin: str, *, listed: bool = True) -> None:
        """Edit the catalog."""

    def reload(self) -> Doing: ...

    def apply(self) -> Doing: ...

    def by_hand(self, verb: str) -> Doing: ...

    def crash(self) -> None:
        """Kill the main process, if there is one, and return when that is known."""

    def then(self, second: "Happening") -> Doing | None:
        """Have it happen; a command has reached the mount then, or is answered."""

    def seen(self, first: Doing | None, second: Doing | None) -> Seen:
        """With all gates open, once both are answered and the mount is at rest."""


Happening = Callable[[Arena], Doing | None]


def said(result: str, version: str | None, error: str | None) -> str:
    """An answer without names and times."""
    shown = result.replace("_", " ")
    text = f"{shown} {version}" if result in {"reloaded", "started", "rolled_back"} else shown
    return f"{text}: {WHO.sub('by hand', error)}" if error else text


def pair(arena: Arena, first: str, second: str) -> Seen:
    arena.at_rest()
    one = FIRST[first](arena)
    other = arena.then(SECOND[second])
    return arena.seen(one, other)


# --- what is under way


def _to_v2(command: Callable[[Arena], Doing], gate: str) -> Happening:
    def begin(arena: Arena) -> Doing:
        arena.close_gate(gate)
        arena.write("v2")
        doing = command(arena)
        arena.until_at(gate)
        return doing

    return begin


def _start(arena: Arena) -> Doing:
    arena.by_hand("stop").told()
    arena.close_gate("ready")
    doing = arena.by_hand("start")
    arena.until_at("ready")
    return doing


def _stop(arena: Arena) -> Doing:
    arena.close_gate("ends")
    doing = arena.by_hand("stop")
    arena.until_at("ends")
    return doing


FIRST: Final[dict[str, Happening]] = {
    "reload to v2: v1 is being stopped": _to_v2(lambda arena: arena.reload(), "ends"),
    "reload to v2: v2 is starting": _to_v2(lambda arena: arena.reload(), "ready"),
    "apply of v2: v1 is being stopped": _to_v2(lambda arena: arena.apply(), "ends"),
    "apply of v2: v2 is starting": _to_v2(lambda arena: arena.apply(), "ready"),
    "start": _start,
    "stop": _stop,
    "crash: its backoff runs": lambda arena: arena.crash(),
}

# --- what comes meanwhile


def _with_pin(pin: str, command: Callable[[Arena], Doing | None], *, listed: bool = True) -> Happening:
    def happen(arena: Arena) -> Doing | None:
        arena.write(pin, listed=listed)
        return command(arena)

    return happen


SECOND: Final[dict[str, Happening]] = {
    "reload to v3": _with_pin("v3", lambda arena: arena.reload()),
    "apply of v3": _with_pin("v3", lambda arena: arena.apply()),
    "apply of v1 again": _with_pin("v1", lambda arena: arena.apply()),
    "start": lambda arena: arena.by_hand("start"),
    "stop": lambda arena: arena.by_hand("stop"),
    "restart": lambda arena: arena.by_hand("restart"),
    "crash of its main process": lambda arena: arena.crash(),
    "edit to v3": _with_pin("v3", lambda _: None),
    "removal by apply": _with_pin("v2", lambda arena: arena.apply(), listed=False),
}

# --- what comes of it

_V1_STOPS: Final = {
    "reload to v3": Seen("reloaded v3", "reloaded v3", "v3", 1),
    "apply of v3": Seen("reloaded v3", "reloaded v3", "v3", 1),
    "apply of v1 again": Seen("reloaded v1", "reloaded v1", "v1", 1),
    "start": Seen("reloaded v2", "started v2", "v2", 1),
    "stop": Seen("skipped: stopped by hand", "stopped", "stopped", 0),
    "restart": Seen("reloaded v2", "reloaded v2", "v2", 1),
    "crash of its main process": Seen("reloaded v2", "", "v2", 1),
    "edit to v3": Seen("reloaded v2", "", "v2", 1),
    "removal by apply": Seen("skipped: its mount is no longer in the catalog", "stopped", "gone", None),
}
_V2_STARTS: Final = {
    "reload to v3": Seen("reloaded v2", "reloaded v3", "v3", 2),
    "apply of v3": Seen("reloaded v2", "reloaded v3", "v3", 2),
    "apply of v1 again": Seen("reloaded v2", "reloaded v1", "v1", 2),
    "start": Seen("reloaded v2", "started v2", "v2", 1),
    "stop": Seen("skipped: stopped by hand", "stopped", "stopped", 1),
    "restart": Seen("reloaded v2", "reloaded v2", "v2", 2),
    "crash of its main process": Seen(
        "rolled back v1: ended before it was ready: signal 9 (SIGKILL)", "", "v1", 2
    ),
    "edit to v3": Seen("reloaded v2", "", "v2", 1),
    "removal by apply": Seen("skipped: its mount is no longer in the catalog", "stopped", "gone", None),
}
_START: Final = {
    "reload to v3": Seen("started v1", "reloaded v3", "v3", 2),
    "apply of v3": Seen("started v1", "reloaded v3", "v3", 2),
    "apply of v1 again": Seen("started v1", "unchanged", "v1", 1),
    "start": Seen("started v1", "started v1", "v1", 1),
    "stop": Seen("skipped: stopped by hand", "stopped", "stopped", 1),
    "restart": Seen("started v1", "reloaded v1", "v1", 2),
    "crash of its main process": Seen(
        "failed: ended before it was ready: signal 9 (SIGKILL)", "", "backoff", 1
    ),
    "edit to v3": Seen("started v1", "", "v1", 1),
    "removal by apply": Seen("skipped: its mount is no longer in the catalog", "stopped", "gone", None),
}
_STOP: Final = {
    "reload to v3": Seen("stopped", "skipped: stopped by hand", "stopped", 0),
    "apply of v3": Seen("stopped", "skipped: stopped by hand", "stopped", 0),
    "apply of v1 again": Seen("stopped", "skipped: stopped by hand", "stopped", 0),
    "start": Seen("skipped: a start came before the stop was done", "started v1", "v1", 1),
    "stop": Seen("stopped", "stopped", "stopped", 0),
    "restart": Seen("skipped: a start came before the stop was done", "started v1", "v1", 1),
    "crash of its main process": Seen("stopped", "", "stopped", 0),
    "edit to v3": Seen("stopped", "", "stopped", 0),
    "removal by apply": Seen("stopped", "stopped", "gone", None),
}
_CRASH: Final = {
    "reload to v3": Seen("", "reloaded v3", "v3", 1),
    "apply of v3": Seen("", "reloaded v3", "v3", 1),
    "apply of v1 again": Seen("", "unchanged", "backoff", 0),
    "start": Seen("", "started v1", "v1", 1),
    "stop": Seen("", "stopped", "stopped", 0),
    "restart": Seen("", "started v1", "v1", 1),
    "crash of its main process": Seen("", "", "backoff", 0),
    "edit to v3": Seen("", "", "backoff", 0),
    "removal by apply": Seen("", "stopped", "gone", None),
}

_BY_FIRST: Final[dict[str, dict[str, Seen]]] = {
    "reload to v2: v1 is being stopped": _V1_STOPS,
    "reload to v2: v2 is starting": _V2_STARTS,
    "apply of v2: v1 is being stopped": _V1_STOPS,
    "apply of v2: v2 is starting": _V2_STARTS,
    "start": _START,
    "stop": _STOP,
    "crash: its backoff runs": _CRASH,
}
TABLE: Final = {(first, second): seen for first, row in _BY_FIRST.items() for second, seen in row.items()}

_HEAD: Final = """# Two things at one mount

What becomes of a command, a crash or an edit that comes while something else is under way at the same mount.
At first v1 ran and was pinned. Each line is tested against the state machine and against a daemon with real
processes; this page is made from the tests' own table.

Three rules are behind it:

- A reload or an apply that comes while the old version is being stopped is joined with the one under way:
  one new instance answers both, and the answer names its version.
- One that comes once the new version has started waits for it, and replaces it then. So any number of reloads
  of one mount costs at most two replacements.
- One that comes to a mount only after a later command was there, as others had their turn first, starts what
  that one asked for, and nothing where that one removed the mount: an older catalog undoes no newer one.
- A stop by hand, or the removal of the mount, ends what is under way, and whoever waits for that is told.
"""


def _shown(value: str | int | None) -> str:
    return "-" if value in {"", None} else str(value)


def page() -> str:
    """docs/concurrency.md."""
    text = _HEAD
    for first, row in _BY_FIRST.items():
        text += f"\n## During: {first}\n\n"
        text += (
            "| meanwhile | the first is answered | the second is answered | then runs | instances started |\n"
        )
        text += "| --- | --- | --- | --- | --- |\n"
        for second, seen in row.items():
            cells = (second, seen.first, seen.second, seen.runs, seen.starts)
            text += f"| {' | '.join(map(_shown, cells))} |\n"
    return text


if __name__ == "__main__":
    print(page(), end="")
