"""What is remembered of a mount over crash, upgrade and reboot."""

from dataclasses import dataclass

from supervisor.domain.catalog import Launch


@dataclass(frozen=True, slots=True)
class StoppedBy:
    """A stop by hand: it holds until `start`."""

    who: str
    at: float
    """Wall clock, for people."""


@dataclass(frozen=True, slots=True)
class Remembered:
    held: StoppedBy | None = None
    good: Launch | None = None
    """What last worked."""
    rolled_back_from: str | None = None
    """The version that failed last, while it is still the one that the catalog asks for."""
    generation: int = 0
