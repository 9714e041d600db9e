"""Kind `exec`: ready once the process is started and has lived for `settle`."""

from supervisor.domain.names import shown_duration
from supervisor.host.probes.kind import NO_ENV, Setup, Subject, pause


class Exec:
    """Nothing is asked: an exit in between is seen by the pidfd, and ends the wait from outside."""

    env = NO_ENV
    status = ""
    extended_until = None

    def __init__(self, setup: Setup) -> None:
        self._settle = setup.probe.settle

    def attend(self, subject: Subject) -> None:
        """It says nothing by itself."""

    async def wait_ready(self, subject: Subject) -> None:  # noqa: ARG002 - the process is not asked
        if self._settle:
            await pause(self._settle)

    async def check(self, subject: Subject) -> None:
        """A process that is gone is seen by its pidfd, at once; there is nothing else to check."""

    def why_not(self) -> str:
        return f"exec: not yet alive for {shown_duration(self._settle)}"

    def close(self) -> None:
        """Nothing is held."""
