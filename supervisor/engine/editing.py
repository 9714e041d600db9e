"""What people change in the catalog file through plugind. It moves no process: editing is staging.

How a text is edited so that nothing else in it changes is the business of `files/`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from supervisor.domain.access import Caller
from supervisor.domain.holds import followers
from supervisor.domain.names import PluginRef
from supervisor.engine.holding import Holding
from supervisor.engine.ports import CatalogFile
from supervisor.engine.staging import Staging
from supervisor.wire import PinData

log = structlog.get_logger(__name__)


class Editing:
    """`may_act` returns when commands may be carried out."""

    def __init__(
        self, file: CatalogFile, staging: Staging, holding: Holding, may_act: Callable[[], Awaitable[None]]
    ) -> None:
        self._file = file
        self._staging = staging
        self._holding = holding
        self._may_act = may_act

    async def set_pin(self, ref: PluginRef, version: str, caller: Caller) -> PinData:
        """Pin a version that there is. Raises Refused."""
        async with self._change(f"pin {ref}", ref, of_pin=True):
            await self._file.set_pin(ref, version)
        log.info("pin_written", plugin=str(ref), version=version, by=caller.name)
        return PinData(type=ref.type, name=ref.name, version=version)

    @asynccontextmanager
    async def _change(self, deed: str, ref: PluginRef, *, of_pin: bool = False) -> AsyncIterator[None]:
        """Run the body where nothing is held that it concerns, then look at the file.

        Raises:
            Held: Something is.
            CatalogInvalid: The file is not valid as it is.
        """
        await self._may_act()
        async with self._holding.steady():
            self._holding.refuse(deed, followers(await self._staging.current(), ref, of_pin=of_pin))
            yield
        await self._staging.look_again()
