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
    rolled_back_from: Launch | None = None
    """What failed and gave way to `good`: not started again before somebody asks for it."""
    generation: int = 0
