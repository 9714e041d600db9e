"""What a daemon is made of, built and joined; and whether another one would start. Nothing to decide."""

import asyncio
import importlib.metadata
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from supervisor.api.listeners import try_tcp, try_unix
from supervisor.api.server import Server
from supervisor.domain.catalog import Settings
from supervisor.domain.errors import CatalogInvalid, Refused, Unavailable
from supervisor.domain.legacy import (
    Errand,
    Expected,
    HandedFifo,
    HandedListener,
    HandedNode,
    Legacy,
    Places,
    Sockets,
)
from supervisor.engine.node import About, Facilities, Node
from supervisor.files.binaries import Binaries
from supervisor.files.catalog_file import CatalogFile
from supervisor.files.held import Held
from supervisor.files.load import Defaults
from supervisor.host.audit import AuditLog
from supervisor.host.cgroups import Cgroups
from supervisor.host.claims import Claim, taken
from supervisor.host.history import History
from supervisor.host.holds import HoldFile
from supervisor.host.identity import is_scarcity
from supervisor.host.instances import Instances
from supervisor.host.journal import Journal
from supervisor.host.logs import Logs
from supervisor.host.memory import Memory
from supervisor.host.preparation import check_folders
from supervisor.host.records import InstanceRecords
from supervisor.host.remains import Remains
from supervisor.host.upgrade import Program, Successor, expected

log = structlog.get_logger("supervisor.daemon")
TRIES: Final = 12


@dataclass(frozen=True, slots=True)
class Given:
    """What a daemon starts from."""

    settings: Settings
    defaults: Defaults
    program: Program
    legacy: Legacy | None = None
    """What the plugind before this one in the same process left."""
    fifos: tuple[HandedFifo, ...] = ()
    """The same of logs, which go on also where the rest is of no use."""
    listeners: tuple[HandedListener, ...] = ()
    """The same of plugins' listeners: whoever waits in their backlogs waits on."""
    tries: int = 0
    """How often to begin anew without the legacy, where the machine refuses something."""

    def after(self, legacy: Legacy) -> "Given":
        return replace(self, legacy=legacy, fifos=legacy.fifos, listeners=legacy.listeners, tries=TRIES)


class Parts:
    """What a daemon is made of, joined."""

    def __init__(
        self,
        given: Given,
        tasks: asyncio.TaskGroup,
        loop: asyncio.AbstractEventLoop,
        take_over: Callable[[Errand], None],
    ) -> None:
        settings, legacy = given.settings, given.legacy
        runtime, state, logs_dir = map(Path, (settings.runtime_dir, settings.state_dir, settings.log_dir))
        self.settings = settings
        self._claims: list[Claim] = []
        self._fifos, self._listeners = given.fifos, given.listeners
        self.logs = Logs(runtime / "logs", logs_dir, settings.logs)
        records = InstanceRecords(runtime / "instances")
        self.cgroups = Cgroups(runtime, is_wanted=settings.cgroups == "auto")
        self.instances = Instances(
            runtime,
            records,
            self.logs,
            cgroups=self.cgroups,
            plugin_files=legacy.files if legacy is not None else None,
        )
        self.held = Held(legacy.held if legacy is not None else ())
        self.uses = found_here()
        troubles = Troubles(loop)
        self.memory = Memory(state / "mounts.json", troubles.tell)
        self.history = History(state / "reloads.json", troubles.tell)
        self.audit = AuditLog(logs_dir / "audit.log")
        self.node = Node(
            About(
                settings.node,
                version(),
                os.getpid(),
                self.uses,
                4 * (os.cpu_count() or 1),
                settings.restarts,
                legacy.node if legacy is not None else None,
                legacy.errand if legacy is not None else None,
            ),
            Facilities(
                loop,
                self.instances,
                self.instances.listeners,
                Remains(self.instances, records),
                Binaries((str(runtime), str(state), str(logs_dir)), self.held),
                self.logs,
                self.memory,
                HoldFile(state / "holds.json"),
                self.history,
                Journal(runtime / "transitions.jsonl"),
                self.audit,
                CatalogFile(settings.catalog, given.defaults, state / "catalog.json"),
                Successor(given.program, self.instances.helpers.run, self._expects, take_over),
            ),
            tasks,
        )
        troubles.lead_to(self.node.warn)
        self.server = Server(self.node, settings)

    async def claim(self, legacy: Legacy | None) -> None:
        """Have what only one plugind may have: at a start the socket too, which then answers.

        Raises:
            AlreadyRunning: Another plugind has the socket or a folder; nothing is held then.
        """
        folders = (Path(self.settings.runtime_dir), Path(self.settings.state_dir))
        if legacy is None:
            self._claims = await taken(partial(alone, self.server, folders))
        else:
            self._claims = [Claim(*one) for one in zip(folders, legacy.claims, strict=True)]

    def open(self, legacy: Legacy | None) -> None:
        """Be ready to start processes.

        Raises:
            OSError: The machine refuses it now.
        """
        if legacy is not None:
            self.cgroups.go_on(legacy.leaf, legacy.controllers)
        self.instances.open()
        self.uses["cgroups"] = str(self.cgroups)
        self.logs.start()
        fifos, self._fifos = self._fifos, ()
        self.logs.take(fifos)
        listeners, self._listeners = self._listeners, ()
        self.instances.listeners.take_over(listeners)
        self.history.load()

    def left_over(self) -> tuple[tuple[HandedFifo, ...], tuple[HandedListener, ...]]:
        """What is not written of logs by now, and plugins' listeners, where nothing else goes over."""
        return self._fifos or self.logs.leave(), self._listeners or self.instances.listeners.leave()

    def left(self, errand: Errand, sockets: Sockets, node: HandedNode) -> Legacy:
        """What the next plugind in this process gets; this one has the folders no more."""
        claims, self._claims = self._claims, []
        return Legacy(
            errand=errand,
            sockets=sockets,
            node=node,
            fifos=self.logs.leave(),
            listeners=self.instances.listeners.leave(),
            claims=tuple(claim.release() for claim in claims),
            files=self.instances.plugin_files,
            held=self.held.leave(),
            leaf=self.cgroups.leaf,
            controllers=tuple(self.cgroups.enabled),
        )

    def close(self) -> None:
        self.instances.close()
        self.logs.stop()
        self.history.close()
        self.audit.close()
        for claim in self._claims:
            claim.close()

    def _expects(self) -> Expected:
        tcp = self.settings.tcp.address if self.settings.tcp is not None else ""
        return Expected(places_of(self.settings), tcp, self.node.status().catalog.source != "none")


def places_of(settings: Settings) -> Places:
    return Places(settings.socket.path, settings.runtime_dir, settings.state_dir)


async def check_start(settings: Settings, defaults: Defaults) -> None:
    """Find out whether a plugind would start, without any effect; and take over, where one runs.

    Raises:
        PlugindError: It would not.
    """
    expects = expected()
    try_unix(settings.socket)
    check_folders(settings)
    if settings.tcp is not None:
        is_free = expects is not None and expects.tcp != settings.tcp.address
        try_tcp(settings.tcp, binds=is_free)
    if expects is None:
        return
    if (refusal := expects.refusal(places_of(settings))) is not None:
        raise Refused(refusal)
    file = CatalogFile(settings.catalog, defaults, Path(settings.state_dir) / "catalog.json")
    try:
        await file.load()
    except CatalogInvalid:
        if expects.has_catalog and await file.last_good() is None:
            raise


async def alone(server: Server, folders: Iterable[Path]) -> list[Claim]:
    """Serve, and have these folders for this plugind only.

    Raises:
        AlreadyRunning: Another plugind has the socket or a folder; nothing is held then.
    """
    claims: list[Claim] = []
    try:
        await server.start()  # first: its lock says that there is no other plugind
        claims += map(Claim, folders)
    except BaseException:
        for claim in claims:
            claim.close()
        await server.stop(0)
        raise
    return claims


def started_threads(count: int) -> ThreadPoolExecutor:
    """Worker threads that are there already: a machine out of processes refuses new ones."""
    executor = ThreadPoolExecutor(count, thread_name_prefix="worker")
    together = threading.Barrier(count + 1)
    try:
        for _ in range(count):
            executor.submit(together.wait)
    except RuntimeError:
        together.abort()  # those that are there would wait for ever, and plugind for them
        raise
    together.wait()
    return executor


@contextmanager
def starting() -> Iterator[None]:
    """What the machine refuses now ends this start with its reason, and another one may do.

    Raises:
        Unavailable: A file, a thread or a descriptor could not be had.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise Unavailable(f"cannot start: {error}") from error
    except ExceptionGroup as group:
        refused, broken = group.split((OSError, RuntimeError))
        if refused is None or broken is not None:
            raise
        raise Unavailable(f"cannot start: {refused.exceptions[0]}") from group


def tell_of_callback(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What broke in a callback of the loop. Want of descriptors at a connection is no fault of the code."""
    error = context.get("exception")
    if is_scarcity(error):
        log.warning("loop_callback_refused", what=context["message"], reason=str(error))
    else:
        log.error("loop_callback_broke", what=context["message"], exc_info=error)


class Troubles:
    """What goes wrong in worker threads, told on the loop, to whoever listens by then."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tell: Callable[[str], None] = lambda trouble: log.warning("trouble_noticed", reason=trouble)

    def lead_to(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def tell(self, trouble: str) -> None:
        self._loop.call_soon_threadsafe(self._tell, trouble)


def version() -> str:
    return importlib.metadata.version("plugind")


def found_here() -> dict[str, str]:
    """What plugind would use where it is there, and whether it is."""
    return {
        "cgroups": "not looked for yet",
        "systemd": "not used by this version",
        "etcd": "not used by this version",
    }
