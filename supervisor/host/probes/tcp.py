"""Kind `tcp`: ready once someone accepts connections at HOST:PORT.

Who that is cannot be told: a port that another process holds looks ready. Prefer `notify`, or a
`unix` address below $TMPDIR, which is the instance's own.
"""

from supervisor.host.probes.kind import Polling, Setup, attempt_limit
from supervisor.host.probes.reach import connected_tcp, host_and_port


class Tcp(Polling):
    def __init__(self, setup: Setup) -> None:
        address = setup.address()
        self._host, self._port = host_and_port(address)
        super().__init__(f"tcp {address}", self._connect, setup.probe.interval, attempt_limit(setup.probe))

    async def _connect(self) -> None:
        async with connected_tcp(self._host, self._port):
            pass
