"""Kind `command`: ready once a command ends with exit status 0.

The command is run by whoever spawns processes (`run`): a child has one owner who reaps it.
"""

from supervisor.domain.errors import Cannot
from supervisor.host.probes.kind import Polling, Setup


class Command(Polling):
    def __init__(self, setup: Setup) -> None:
        if setup.run is None or not setup.probe.command:
            raise Cannot("cannot probe by command: no command is given")
        self._run = setup.run
        self._argv = tuple(map(setup.expanded, setup.probe.command))
        # a command may take as long as readiness may: it is no worse than a server that is slow to start
        super().__init__(
            f"command {self._argv[0]}", self._ended_well, setup.probe.interval, setup.probe.timeout or None
        )

    async def _ended_well(self) -> None:
        status = await self._run(self._argv)
        if status:
            raise Cannot(f"exit status {status}" if status > 0 else f"ended by signal {-status}")
