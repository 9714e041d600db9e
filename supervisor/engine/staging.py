"""The catalog in force, and the one on disk. Editing is staging: neither touches a process.

A good edit comes into force at once and shows as drift; a bad one is reported, and the last good
catalog stays.
"""

import asyncio
from datetime import UTC, datetime
from typing import Literal

import structlog

from supervisor.domain.catalog import EMPTY, Catalog
from supervisor.domain.errors import CatalogInvalid, PlugindError, Unavailable
from supervisor.engine.ports import CatalogFile
from supervisor.wire import CatalogState

log = structlog.get_logger(__name__)


class Staging:
    def __init__(self, file: CatalogFile) -> None:
        self.catalog: Catalog = EMPTY
        self.number = 0
        """Of the catalog, among those that `current` has found."""
        self._file = file
        self._source: Literal["file", "last good", "none"] = "none"
        self._loaded_at: datetime | None = None
        self._faults: list[str] = []
        self._why_none: list[str] = []
        """Why there is no last good one either."""
        self._turn = asyncio.Lock()

    async def begin(self) -> None:
        """At a start: the file, or where it is broken the last good catalog, or none."""
        try:
            await self.current()
        except CatalogInvalid as error:
            last = await self._file.last_good()
            if last is not None and self._source == "none":  # else it was mended meanwhile
                self.catalog, self._source, self._loaded_at = last, "last good", datetime.now(UTC)
            self._why_none = [self._file.why_none] if last is None and self._file.why_none else []
            reason = "\n".join([str(error), *self._why_none])
            log.error("catalog_refused", in_force=self._source, reason=reason)

    async def current(self) -> Catalog:
        """What the file says now; it is in force from now on.

        Raises:
            CatalogInvalid: With all faults; what was in force stays.
            Unavailable: The disk does not tell; the same.
        """
        async with self._turn:
            try:
                catalog = await self._file.load()
            except CatalogInvalid as error:
                self._faults = [str(fault) for fault in error.faults]
                raise
            except Unavailable as error:
                self._faults = [str(error)]
                raise
            self._faults, self._why_none = [], []
            if catalog is not self.catalog:
                self.number += 1
                self.catalog, self._source, self._loaded_at = catalog, "file", datetime.now(UTC)
                log.info("catalog_loaded", plugins=len(catalog.plugins), mounts=len(catalog.mounts))
                await self._keep()
            return catalog

    async def look_again(self) -> None:
        """The file may have changed."""
        before = self._faults
        try:
            await self.current()
        except (CatalogInvalid, Unavailable) as error:
            if self._faults != before:
                log.error("catalog_refused", in_force=self._source, reason=str(error))

    def state(self) -> CatalogState:
        return CatalogState(
            file=str(self._file.path),
            loaded_at=self._loaded_at.isoformat(timespec="milliseconds") if self._loaded_at else None,
            source=self._source,
            faults=self._faults + self._why_none,
            mounts=len(self.catalog.mounts),
            plugins=len(self.catalog.plugins),
        )

    async def _keep(self) -> None:
        try:
            await self._file.keep()
        except PlugindError as error:
            log.warning("catalog_not_saved", reason=str(error))
