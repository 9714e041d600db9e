"""Builds and joins everything; signals, start, stop. Nothing to decide.

`plugind [--config FILE]` is the daemon in the foreground; `plugind check [FILE…]` checks without one.
"""

import asyncio
import ctypes
import gc
import importlib.metadata
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final
from uuid import uuid4

import click
import structlog

from supervisor.api.server import Server
from supervisor.domain.access import Caller
from supervisor.domain.catalog import Settings
from supervisor.domain.errors import AlreadyRunning, PlugindError
from supervisor.domain.names import ROOT
from supervisor.engine.node import About, Facilities, Node, Options
from supervisor.files.binaries import Binaries
from supervisor.files.catalog_file import CatalogFile
from supervisor.files.load import Defaults
from supervisor.files.settings import load_settings
from supervisor.files.watch import CatalogWatcher
from supervisor.host import childsignal
from supervisor.host.audit import AuditLog
from supervisor.host.history import History
from supervisor.host.instances import Instances
from supervisor.host.logs import Logs
from supervisor.host.memory import Memory
from supervisor.host.records import InstanceRecords
from supervisor.host.remains import Remains

log = structlog.get_logger("supervisor.daemon")
EXIT_FAULTY: Final = 2
EXIT_RUNNING: Final = 3
PR_SET_CHILD_SUBREAPER: Final = 36
WORKERS: Final = 6
"""Threads for hashing, parsing, and what waits for a disk."""
ITSELF: Final = Caller(trusted=True, name="plugind")


class _Over(Exception):
    """Ends what still runs when the work is done."""


class Daemon:
    """One plugind, from its settings to its end."""

    def __init__(self, settings: Settings, defaults: Defaults) -> None:
        self._settings = settings
        self._defaults = defaults
        self._stop = asyncio.Event()
        self._leaves = False

    async def run(self) -> None:
        """Serve until a signal says stop (SIGTERM, SIGINT) or leave (SIGUSR1).

        Raises:
            AlreadyRunning: Another plugind has the control socket.
            PlugindError: A folder or the socket cannot be had.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._serve(tasks)
                raise _Over  # noqa: TRY301 - the way to cancel what is left in a TaskGroup
        except* _Over:
            pass

    async def _serve(self, tasks: asyncio.TaskGroup) -> None:
        settings = self._settings
        loop = asyncio.get_running_loop()
        loop.set_default_executor(started_threads(WORKERS))
        runtime, state, logs_dir = map(Path, (settings.runtime_dir, settings.state_dir, settings.log_dir))
        logs = Logs(runtime / "logs", logs_dir, settings.logs)
        records = InstanceRecords(runtime / "instances")
        instances = Instances(runtime, records, logs)
        troubles = Troubles(loop)
        memory = Memory(state / "mounts.json", troubles.tell)
        history = History(state / "reloads.json", troubles.tell)
        audit = AuditLog(logs_dir / "audit.log")
        node = Node(
            About(settings.node, version(), os.getpid(), found_here(), 4 * (os.cpu_count() or 1)),
            Facilities(
                loop,
                instances,
                Remains(instances, records),
                Binaries(private=(str(runtime), str(state), str(logs_dir))),
                logs,
                memory,
                history,
                audit,
                CatalogFile(settings.catalog, self._defaults, state / "catalog.json"),
            ),
            tasks,
        )
        troubles.lead_to(node.warn)
        node.expect_begin()
        server = Server(node, settings)
        await server.start()  # first: its lock says that there is no other plugind
        try:
            instances.open()
            logs.start()
            history.load()
            tasks.create_task(memory.run())
            self._handle_signals(loop, node, tasks)
            watcher = CatalogWatcher(settings.catalog, partial(begin, tasks, node.catalog_changed), loop)
            watcher.start()
            await node.begin()
            gc.freeze()  # what was made so far lives as long as the daemon
            log.info("daemon_started", version=version(), socket=settings.socket.path, pid=os.getpid())
            await self._stop.wait()
            log.info("daemon_stopping", leaves_plugins=self._leaves)
            watcher.stop()
            await (node.leave() if self._leaves else node.shut_down())
        finally:
            await server.stop(2.0)
            instances.close()
            logs.stop()
            history.close()
            audit.close()
        log.info("daemon_stopped")

    def _handle_signals(self, loop: asyncio.AbstractEventLoop, node: Node, tasks: asyncio.TaskGroup) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGUSR1, self._leave)
        loop.add_signal_handler(signal.SIGHUP, begin, tasks, partial(apply, node))

    def _leave(self) -> None:
        self._leaves = True
        self._stop.set()


def started_threads(count: int) -> ThreadPoolExecutor:
    """Worker threads that are there already: a machine out of processes refuses new ones."""
    executor = ThreadPoolExecutor(count, thread_name_prefix="worker")
    together = threading.Barrier(count + 1)
    for _ in range(count):
        executor.submit(together.wait)
    together.wait()
    return executor


class Troubles:
    """What goes wrong in worker threads, told on the loop, to whoever listens by then."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tell: Callable[[str], None] = lambda trouble: log.warning("trouble_noticed", reason=trouble)

    def lead_to(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def tell(self, trouble: str) -> None:
        self._loop.call_soon_threadsafe(self._tell, trouble)


def begin(tasks: asyncio.TaskGroup, work: Callable[[], Coroutine[None, None, None]]) -> None:
    tasks.create_task(work())


async def apply(node: Node) -> None:
    """SIGHUP: everything that `plan` shows; the outcome goes to the log."""
    try:
        ticket = await node.apply(ROOT, Options(), ITSELF, str(uuid4()))
        await ticket.wait(float("inf"))
    except PlugindError as error:
        log.error("apply_refused", reason=str(error))
        return
    results: dict[str, int] = {}
    for row in ticket.report().mounts:
        results[row.result] = results.get(row.result, 0) + 1
    log.info("apply_done", **results)


def version() -> str:
    return importlib.metadata.version("plugind")


def found_here() -> dict[str, str]:
    """What plugind would use where it is there, and whether it is."""
    return {
        "cgroups": "not used by this version",
        "systemd": "not used by this version",
        "etcd": "not used by this version",
    }


def prepare_process(settings: Settings) -> None:
    """What every plugin inherits, and folders that are missing.

    Raises:
        PlugindError: A folder cannot be made.
    """
    os.umask(0o022)
    for folder, mode in (
        (settings.runtime_dir, 0o755),
        (settings.state_dir, 0o700),
        (settings.log_dir, 0o750),
    ):
        try:
            Path(folder).mkdir(mode=mode, parents=True, exist_ok=True)
        except OSError as error:
            raise PlugindError(
                f"cannot make {folder}: {error.strerror}; it is set in plugind.yaml"
            ) from error
    os.chdir("/")
    for number in (signal.SIGHUP, signal.SIGUSR1):  # until they mean something, they end nothing
        signal.signal(number, signal.SIG_IGN)
    childsignal.block()
    become_subreaper()


def become_subreaper() -> None:
    """Orphans of plugins become children of plugind. Source: prctl(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        log.warning("subreaper_refused", reason=os.strerror(ctypes.get_errno()))


class Stderr:
    """Descriptor 2, where plugind's own log goes. A reader that is gone or a full disk costs lines only."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            os.write(2, text.encode(errors="backslashreplace"))

    def flush(self) -> None:
        """Nothing waits here."""


def set_up_logs() -> None:
    """Console for a terminal, JSON otherwise; to stderr."""
    on_terminal = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if on_terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(Stderr()),  # type: ignore[arg-type]  # all that it uses
        cache_logger_on_first_use=True,
    )


@click.group(invoke_without_command=True)
@click.option(
    "--config", type=click.Path(path_type=Path), help="Settings [default: /etc/plugind/plugind.yaml]"
)
@click.version_option(package_name="plugind")
@click.pass_context
def main(context: click.Context, config: Path | None) -> None:
    """Keep the plugin processes of a catalog running, in the foreground."""
    if context.invoked_subcommand is not None:
        return
    set_up_logs()
    status = 0
    try:
        settings, defaults = load_settings(config)
        prepare_process(settings)
        asyncio.run(Daemon(settings, defaults).run())
    except* AlreadyRunning as group:
        status = _told(group, EXIT_RUNNING)
    except* PlugindError as group:
        status = _told(group, EXIT_FAULTY)
    sys.exit(status)  # not within except*: Debian's Python 3.11.2 wraps a SystemExit from there in a group


def _told(group: ExceptionGroup[PlugindError], status: int) -> int:
    for error in group.exceptions:
        click.echo(f"plugind: {error}", err=True)
    return status


@main.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
def check(files: tuple[Path, ...]) -> None:
    """Check catalogs, or the one in plugind.yaml, without a daemon."""
    from supervisor.cli.commands.check import check_files  # noqa: PLC0415 - not needed by the daemon

    sys.exit(check_files(files))
