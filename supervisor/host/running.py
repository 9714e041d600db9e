"""One instance from its spawn until its tree is gone: its process and all that belongs to it."""

from collections.abc import Callable
from dataclasses import dataclass

from supervisor.domain.events import Exit, Instance
from supervisor.domain.names import MountKey, Seconds
from supervisor.host.identity import is_stopped
from supervisor.host.orphans import Mark
from supervisor.host.probes import ReadyProbe, Subject
from supervisor.host.processes import Main
from supervisor.host.records import InstanceRecord


@dataclass(slots=True)
class Running:
    """One instance from its spawn until its tree is gone. Fits `engine/ports.Process`."""

    key: MountKey
    instance: Instance
    main: Main
    mark: Mark
    folder: str
    probe: ReadyProbe
    liveness: ReadyProbe | None
    subject: Subject
    record: InstanceRecord

    @property
    def pid(self) -> int:
        return self.main.pid

    @property
    def started_at(self) -> float:
        return self.record.started_at

    @property
    def ready_at(self) -> float | None:
        return self.record.ready_at

    def on_exit(self, tell: Callable[[Exit], None]) -> None:
        self.main.on_exit(tell)

    async def ready(self) -> None:
        await self.probe.wait_ready(self.subject)

    async def alive(self) -> None:
        if self.liveness is not None:
            await self.liveness.check(self.subject)

    def why_not_ready(self) -> str:
        why = self.probe.why_not()
        return f"{why}; its main process is stopped, as by SIGSTOP" if is_stopped(self.pid) else why

    @property
    def extended_until(self) -> Seconds | None:
        return self.probe.extended_until

    @property
    def says(self) -> str:
        return self.probe.status or (self.liveness.status if self.liveness else "")
