"""What the engine needs from the world, as Protocols. `host`, `files` and the tests' fakes fit them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from supervisor.domain.catalog import Admitted, Catalog, Launch, Listener, MountSpec, Policies
from supervisor.domain.errors import Fault
from supervisor.domain.events import Exit, Instance
from supervisor.domain.holds import Hold
from supervisor.domain.legacy import Errand
from supervisor.domain.memory import Remembered, Unrecorded
from supervisor.domain.names import InstanceId, MountKey, PluginRef, Seconds
from supervisor.domain.registering import Registered


class Clock(Protocol):
    """An asyncio loop is one, FakeClock too."""

    def time(self) -> Seconds: ...

    def call_at(
        self, when: Seconds, callback: Callable[..., object], *args: object
    ) -> asyncio.TimerHandle: ...


class Process(Protocol):
    """An instance that was started. Identity is pid and start time; signals go through a pidfd."""

    @property
    def pid(self) -> int: ...

    @property
    def started_at(self) -> float:
        """Wall clock, for people."""
        ...

    @property
    def ready_at(self) -> float | None: ...

    def on_exit(self, tell: Callable[[Exit], None]) -> None:
        """Call `tell` once the main process is dead and reaped."""
        ...

    async def ready(self) -> None:
        """Return once the instance is ready; wait for ever if it never is.

        Raises:
            Cannot: It can never be ready any more.
        """
        ...

    async def alive(self) -> None:
        """One liveness check.

        Raises:
            Cannot: It is not well, and why.
        """
        ...

    def why_not_ready(self) -> str: ...

    @property
    def extended_until(self) -> Seconds | None:
        """Until when it asked for patience, on the loop's clock."""
        ...

    @property
    def says(self) -> str:
        """What it said last about itself, or nothing."""
        ...


P = TypeVar("P", bound=Process)
T = TypeVar("T")
P_co = TypeVar("P_co", bound=Process, covariant=True)


class Processes(Protocol[P]):
    def unsupported(self, launch: Launch) -> str | None:
        """What of `launch` this node cannot give a process, or None."""
        ...

    def impediment(self) -> str | None:
        """What keeps any instance from being started, whatever it runs, or None."""
        ...

    def unclaimed(self) -> list[str]:
        """Processes that plugins let go of and that fit no instance: what people should know of each."""
        ...

    async def spawn(self, key: MountKey, instance: Instance, policies: Policies, file: Admitted | None) -> P:
        """Start an instance.

        Raises:
            SpawnRefused: No process came to be.
        """
        ...

    def signal_main(self, process: P, number: int) -> None:
        """Raises Cannot: it is not ours to signal."""
        ...

    async def run_stop_command(self, process: P, command: tuple[str, ...]) -> None: ...

    async def end_tree(self, process: P, grace: Seconds) -> None:
        """Return once no process of the instance is left and what it had is given back.

        Members get `grace` seconds to go by themselves before they are killed.

        Raises:
            TreeSurvived: A member could not be killed.
        """
        ...

    def configure(self, process: P, policies: Policies) -> None:
        """From now on `alive` checks what `policies` say, as far as the process can be asked that."""
        ...

    def became_ready(self, process: P) -> None:
        """Note it in the adoption record."""
        ...

    def leave(self, process: P) -> None:
        """Let go of a living instance: the next plugind adopts it."""
        ...

    def forget(self, key: MountKey) -> None:
        """Give back what is kept for a mount over its instances: there is none any more."""
        ...

    def usage(self, process: P) -> tuple[float, int] | None:
        """CPU seconds and bytes of memory of the main process."""
        ...


class Listeners(Protocol):
    """Sockets that are held open for mounts, over all their instances."""

    def check(self, specs: Iterable[MountSpec], leaving: Collection[MountKey]) -> list[Fault]:
        """What of `specs` could not be opened now, where it is not held yet. Nothing is left open.

        What is held for a mount that is `leaving` is no hindrance: the next one has it then.
        """
        ...

    def reserve(self, owner: str, specs: Iterable[MountSpec], leaving: Collection[MountKey]) -> list[Fault]:
        """Open what is not held yet, and hold it until `release`: all of it, or, with faults, none."""
        ...

    def release(self, owner: str, key: MountKey | None = None) -> None:
        """What `owner` reserved, for one mount or all, and no mount took is closed."""
        ...

    def keep(self, key: MountKey, listeners: Collection[Listener]) -> None:
        """Close what is held for this mount and is none of these, unless somebody else has it."""
        ...

    def keep_only(self, keys: Collection[MountKey]) -> None:
        """Close what is held for any other mount."""
        ...

    def troubles(self) -> list[str]:
        """What people should know of listeners that are not held as they should be."""
        ...


class Found(Protocol[P_co]):
    """An instance of a former daemon that lives."""

    @property
    def key(self) -> MountKey: ...

    @property
    def instance(self) -> Instance: ...

    @property
    def ready(self) -> bool: ...

    @property
    def process(self) -> P_co: ...


class Remains(Protocol[P_co]):
    """What a former daemon left behind."""

    async def living(
        self,
        policies: Callable[[MountKey, Launch], Policies],
        launch_of: Callable[[Unrecorded], Launch | None],
    ) -> tuple[Sequence[Found[P_co]], Mapping[MountKey, int], list[str]]:
        """Instances that live; the last generation known of each mount, be it dead; what people should know.

        They are known by their records; without one by their environments, where `launch_of` knows of that
        process and what it was started from. What carries this plugind's mark and is neither is killed here.
        """
        ...

    def clear(self) -> None:
        """Forget those that did not live: what has to be remembered of them is."""
        ...


class Logs(Protocol):
    def open(self, key: MountKey) -> str: ...

    def close(self, key: MountKey) -> None: ...

    def keep_only(self, keys: Collection[MountKey]) -> None: ...

    async def drain(self, key: MountKey) -> None: ...

    def mark(self, key: MountKey, instance: InstanceId, what: str, at: float) -> None: ...

    async def last_lines(self, key: MountKey, instance: InstanceId | None, lines: int = 5) -> list[str]: ...

    async def tail(self, key: MountKey, lines: int) -> list[bytes]: ...

    def follow(self, key: MountKey, lines: int = 10) -> AsyncIterator[bytes]: ...


class Binaries(Protocol):
    async def verify(self, specs: Iterable[MountSpec]) -> None:
        """Check every file that `specs` would run.

        Raises:
            TargetUnfit: With every fault of every target.
        """
        ...

    async def admit(self, launch: Launch) -> Admitted:
        """The file that is about to run: what stands at its path, or what ran before and is held.

        Raises:
            PlugindError: It is not what the catalog says.
        """
        ...

    def recall(self, launch: Launch, pid: int) -> None:
        """Hold the file of an instance that was adopted."""
        ...

    def keep_only(self, launches: Iterable[Launch]) -> None:
        """Let go of the files of all other launches."""
        ...


class Edited(Protocol):
    """What an edit of the catalog file replaced by what; the two are equal where nothing was written."""

    @property
    def old(self) -> str | None: ...

    @property
    def new(self) -> str | None: ...


class CatalogFile(Protocol):
    @property
    def path(self) -> str: ...

    async def load(self) -> Catalog:
        """What the file says now.

        Raises:
            CatalogInvalid: With all faults.
        """
        ...

    async def last_good(self) -> Catalog | None:
        """The catalog that was kept last; None, and `why_none`, if there is none that can be used."""
        ...

    @property
    def why_none(self) -> str | None: ...

    async def keep(self) -> None: ...

    async def set_pin(self, ref: PluginRef, version: str) -> Edited: ...

    async def remove_pin(self, ref: PluginRef) -> Edited: ...

    async def undo_pin(self, ref: PluginRef) -> Edited:
        """Raises Conflict: the pin is not what the last write of it made."""
        ...

    async def digest(self, ref: PluginRef, command: str) -> str:
        """The SHA-256 of a file that is to be a version. Raises Refused."""
        ...

    async def add_version(self, ref: PluginRef, version: str, added: Registered) -> Edited: ...

    async def remove_version(self, ref: PluginRef, version: str) -> Edited: ...


class HoldFile(Protocol):
    """The holds that must outlive a restart."""

    def load(self) -> Sequence[Hold]:
        """Those of the file.

        Raises:
            Cannot: It cannot be told which there are; it says where the file is kept.
        """
        ...

    async def write(self, holds: Sequence[Hold]) -> None:
        """Return when they are on disk. Raises Cannot: those of before are."""
        ...


class Memory(Protocol):
    """What must outlive a reboot, per mount."""

    def load(self) -> Mapping[MountKey, Remembered]: ...

    def remember(self, key: MountKey, remembered: Remembered) -> None: ...

    def forget(self, key: MountKey) -> None: ...

    async def flush(self) -> None: ...


class History(Protocol):
    async def append(self, reload_id: str, document: bytes) -> None: ...

    async def note(self, reload_id: str, document: bytes) -> None: ...

    async def amend(self, reload_id: str, document: bytes) -> None: ...

    def get(self, reload_id: str) -> bytes | None: ...

    def latest(self, most: int) -> list[bytes]: ...

    def unended(self) -> list[bytes]: ...


class Journal(Protocol):
    async def load(self, read: Callable[[bytes], T]) -> T:
        """What `read`, called in a worker thread, makes of all lines. Raises Cannot."""
        ...

    async def write(self, make: Callable[[], bytes], *, afresh: bool) -> int:
        """Add what `make` gives, called in a worker thread; the size then. Raises Cannot."""
        ...


class Successor(Protocol):
    """The plugind, newer maybe, that takes the place of this one in the same process."""

    async def check(self) -> None:
        """Return if it would start.

        Raises:
            Cannot: It would not, and what it says about that.
        """
        ...

    def take_over(self, errand: Errand) -> None:
        """Have it take over soon; whoever waits for an answer now gets it before."""
        ...


class Audit(Protocol):
    def write(self, entry: Mapping[str, Any]) -> None: ...
