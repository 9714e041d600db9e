"""What the engine needs from the world, as Protocols. `host`, `files` and the tests' fakes fit them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from supervisor.domain.catalog import Catalog, Identity, Launch, MountSpec, Probe
from supervisor.domain.lifecycle import Instance
from supervisor.domain.memory import Remembered
from supervisor.domain.names import InstanceId, MountKey, PluginRef, Seconds


class Clock(Protocol):
    """An asyncio loop is one, FakeClock too."""

    def time(self) -> Seconds: ...

    def call_at(
        self, when: Seconds, callback: Callable[..., object], *args: object
    ) -> asyncio.TimerHandle: ...


@dataclass(frozen=True, slots=True)
class Exit:
    """How a main process ended. Both None: it was not our child, so the status is unknown."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        if self.signal is not None:
            return f"signal {self.signal}"
        return f"exit {self.code}" if self.code is not None else "exit status unknown"


class Process(Protocol):
    """A living or dead instance. Identity is pid and start time; signals go through a pidfd."""

    @property
    def pid(self) -> int: ...

    @property
    def started_at(self) -> float:
        """Wall clock, for people."""
        ...

    async def exited(self) -> Exit:
        """Return once the main process is dead and reaped."""
        ...

    async def ready(self) -> None:
        """Return once the instance is ready; wait for ever if it never is.

        Raises:
            Cannot: It can never be ready any more.
        """
        ...

    def why_not_ready(self) -> str: ...


class Processes(Protocol):
    async def spawn(
        self, key: MountKey, instance: Instance, ready: Probe, identity: Identity | None
    ) -> Process:
        """Start an instance.

        Raises:
            SpawnRefused: No process came to be.
        """
        ...

    async def adopt(self, key: MountKey, instance: Instance, ready: Probe) -> Process | None: ...

    def signal_main(self, process: Process, signal: int) -> None: ...

    async def run_stop_command(self, process: Process, command: tuple[str, ...]) -> None: ...

    async def end_tree(self, process: Process, grace: Seconds) -> None:
        """Return once no process of the instance is left and what it had is given back.

        Members get `grace` seconds to go by themselves before they are killed.

        Raises:
            TreeSurvived: A member could not be killed.
        """
        ...

    def became_ready(self, process: Process) -> None:
        """Note it in the adoption record."""
        ...

    def usage(self, process: Process) -> tuple[float, int] | None:
        """CPU seconds and bytes of memory of the main process."""
        ...


class Logs(Protocol):
    def open(self, key: MountKey) -> int: ...

    def close(self, key: MountKey) -> None: ...

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

    async def admit(self, launch: Launch) -> Identity:
        """The identity of the file that is about to run.

        Raises:
            PlugindError: It is not what the catalog says.
        """
        ...


class CatalogFile(Protocol):
    @property
    def path(self) -> str: ...

    async def load(self) -> Catalog:
        """What the file says now.

        Raises:
            CatalogInvalid: With all faults.
        """
        ...

    async def last_good(self) -> Catalog | None: ...

    async def keep(self) -> None: ...

    async def set_pin(self, ref: PluginRef, version: str) -> Any: ...


class Memory(Protocol):
    """What must outlive a reboot, per mount."""

    def load(self) -> Mapping[MountKey, Remembered]: ...

    def remember(self, key: MountKey, remembered: Remembered) -> None: ...

    def forget(self, key: MountKey) -> None: ...

    async def flush(self) -> None: ...


class History(Protocol):
    async def append(self, reload_id: str, document: bytes) -> None: ...

    async def amend(self, reload_id: str, document: bytes) -> None: ...

    def get(self, reload_id: str) -> bytes | None: ...

    def latest(self, most: int) -> list[bytes]: ...


class Audit(Protocol):
    def write(self, entry: Mapping[str, Any]) -> None: ...
