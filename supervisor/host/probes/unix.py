"""Kind `unix`: ready once someone accepts connections at the path of a stream socket."""

from supervisor.host.probes.kind import Polling, Setup, attempt_limit
from supervisor.host.probes.reach import absolute, connected_unix


class Unix(Polling):
    def __init__(self, setup: Setup) -> None:
        self._path = absolute(setup.address())
        super().__init__(
            f"unix {self._path}", self._connect, setup.probe.interval, attempt_limit(setup.probe)
        )

    async def _connect(self) -> None:
        async with connected_unix(self._path):
            pass
