"""What people change in the catalog file through plugind. It moves no process: editing is staging.

How a text is edited so that nothing else in it changes is the business of `files/`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import structlog
from msgspec.structs import replace

from supervisor.domain.access import Caller
from supervisor.domain.catalog import Launch
from supervisor.domain.holds import followers
from supervisor.domain.names import MountKey, PluginRef
from supervisor.domain.registering import Registered, check_unused
from supervisor.engine.holding import Holding
from supervisor.engine.ports import CatalogFile, Edited
from supervisor.engine.staging import Staging
from supervisor.wire import PinData

log = structlog.get_logger(__name__)


class Editing:
    """`may_act` returns when commands may be carried out; `running` are the launches of what runs."""

    def __init__(
        self,
        file: CatalogFile,
        staging: Staging,
        holding: Holding,
        may_act: Callable[[], Awaitable[None]],
        running: Callable[[], Iterable[tuple[MountKey, Launch]]],
    ) -> None:
        self._running = running
        self._file = file
        self._staging = staging
        self._holding = holding
        self._may_act = may_act

    async def set_pin(self, ref: PluginRef, version: str, caller: Caller) -> PinData:
        """Pin a version that there is. Raises Refused."""
        async with self._change(f"pin {ref}", ref, of_pin=True):
            edit = await self._file.set_pin(ref, version)
        return _pinned(ref, edit, caller)

    async def remove_pin(self, ref: PluginRef, caller: Caller) -> PinData:
        """Leave a plugin without a pin, if all its mounts do without. Raises Refused."""
        async with self._change(f"remove the pin of {ref}", ref, of_pin=True):
            edit = await self._file.remove_pin(ref)
        return _pinned(ref, edit, caller)

    async def undo_pin(self, ref: PluginRef, caller: Caller) -> PinData:
        """Put back what the last write of a pin replaced, if that is still there. Raises Refused."""
        async with self._change(f"undo the pin of {ref}", ref, of_pin=True):
            edit = await self._file.undo_pin(ref)
        return _pinned(ref, edit, caller)

    async def add_version(self, ref: PluginRef, version: str, added: Registered, caller: Caller) -> None:
        """Add a version to those of a plugin; without a digest, with that of its file. Raises Refused."""
        if added.sha256 is None:  # before anybody has to wait for the edit: a file may be large
            added = replace(added, sha256=await self._file.digest(ref, added.command))
        async with self._change(f"add {version} to {ref}", ref):
            edit = await self._file.add_version(ref, version, added)
        if edit.old != edit.new:
            log.info("version_added", plugin=str(ref), version=version, by=caller.name)

    async def remove_version(self, ref: PluginRef, version: str, caller: Caller) -> None:
        """Take a version out that nothing needs: no pin, no mount, no instance. Raises Refused."""
        async with self._change(f"remove {version} from {ref}", ref):
            check_unused(ref, version, self._running())
            await self._file.remove_version(ref, version)
        log.info("version_removed", plugin=str(ref), version=version, by=caller.name)

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


def _pinned(ref: PluginRef, edit: Edited, caller: Caller) -> PinData:
    if edit.old != edit.new:
        log.info("pin_written", plugin=str(ref), version=edit.new, by=caller.name)
    return PinData(type=ref.type, name=ref.name, version=edit.new)
