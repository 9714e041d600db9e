"""What is remembered of a mount over crash, upgrade and reboot."""

import msgspec

from supervisor.domain.catalog import Launch, Policies
from supervisor.domain.names import InstanceId, MountKey


class StoppedBy(msgspec.Struct, frozen=True):
    """A stop by hand: it holds until `start`."""

    who: str
    at: float
    """Wall clock, for people."""


class Remembered(msgspec.Struct, frozen=True):
    held: StoppedBy | None = None
    good: Launch | None = None
    """What last worked."""
    rolled_back_from: Launch | None = None
    """What failed and gave way to `good`: not started again before somebody asks for it."""
    generation: int = 0
    policies: Policies | None = None
    """How `good` is treated, where that is not what the catalog says of the version that it asks for."""
    told: tuple[str, ...] = ()
    """Commands that were answered, while what they started has to prove itself."""

    def at_least(self, generation: int) -> "Remembered":
        """The same, where an instance of that generation is known of: its id is not given again."""
        return self if generation <= self.generation else msgspec.structs.replace(self, generation=generation)


class Unrecorded(msgspec.Struct, frozen=True):
    """An instance that lives and whose record is lost, as the environment of its oldest process shows it."""

    key: MountKey
    instance: InstanceId
    pid: int
    plugin: str
    version: str
