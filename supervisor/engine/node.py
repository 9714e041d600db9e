"""What may be asked of this node; API and cluster have no other door."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from supervisor import wire
from supervisor.domain.access import Caller
from supervisor.domain.catalog import Catalog
from supervisor.domain.names import MountKey, Namespace, PluginRef, Seconds
from supervisor.domain.plan import Target


@dataclass(frozen=True, slots=True)
class Options:
    """How a reload or an apply is carried out (the keys of wire.ReloadBody, parsed)."""

    dry_run: bool = False
    parallel: int | None = None
    on_failure: str = "halt"
    max_failures: int = 0
    partial: bool = False
    canary: int = 0
    canary_for: Seconds = 0.0


class Ticket:
    """A reload under way. It goes on whether or not somebody waits."""

    reload_id: str

    async def wait(self, timeout: Seconds) -> bool:
        """True once it is done; False after `timeout` seconds."""
        raise NotImplementedError

    def report(self) -> wire.ReloadData:
        raise NotImplementedError


class Node:
    name: str
    version: str

    @property
    def catalog(self) -> Catalog:
        """The catalog in force."""
        raise NotImplementedError

    def status(self) -> wire.NodeStatus:
        raise NotImplementedError

    def instances(self, namespace: Namespace) -> list[wire.InstanceRow]:
        """Rows of `namespace` and its children (root: all), sorted by namespace and mount."""
        raise NotImplementedError

    async def plan(self, namespace: Namespace) -> wire.PlanData:
        """What apply would do now, from the file as it is on disk. Raises CatalogInvalid."""
        raise NotImplementedError

    async def reload(
        self, target: Target, namespace: Namespace, options: Options, caller: Caller, reload_id: str
    ) -> Ticket:
        """Read and verify everything, then begin. Raises Refused (nothing was touched)."""
        raise NotImplementedError

    async def apply(self, namespace: Namespace, options: Options, caller: Caller, reload_id: str) -> Ticket:
        """Everything that plan shows for `namespace` and its children. Raises Refused."""
        raise NotImplementedError

    async def start(self, key: MountKey, caller: Caller) -> wire.MountResult:
        """Raises NotFound where the mount does not exist."""
        raise NotImplementedError

    async def stop(self, key: MountKey, caller: Caller) -> wire.MountResult:
        raise NotImplementedError

    async def restart(self, key: MountKey, caller: Caller) -> wire.MountResult:
        raise NotImplementedError

    async def set_pin(self, ref: PluginRef, version: str, caller: Caller) -> wire.PinData:
        """Edit the pin in the catalog file; moves no process. Raises Refused."""
        raise NotImplementedError

    def report(self, reload_id: str) -> wire.ReloadData | None:
        """A reload under way or from history."""
        raise NotImplementedError

    def history(self, most: int) -> list[wire.ReloadData]:
        """Newest first."""
        raise NotImplementedError

    def why(self, key: MountKey) -> list[wire.TransitionRow]:
        """The mount's last transitions, oldest first. Raises NotFound."""
        raise NotImplementedError

    def events(self, namespace: Namespace, after: int | None) -> AsyncIterator[wire.TransitionRow]:
        """Transitions as they happen, those after id `after` first where still known."""
        raise NotImplementedError

    async def log_tail(self, key: MountKey, lines: int) -> list[bytes]:
        raise NotImplementedError

    def log_follow(self, key: MountKey, lines: int) -> AsyncIterator[bytes]:
        raise NotImplementedError

    def audit(self, caller: Caller, what: str, namespace: Namespace, result: str) -> None:
        """One line in audit.log: every command that changes something, done or refused."""
        raise NotImplementedError
