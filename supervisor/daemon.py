"""Start, stop, signals, and the place taken by another plugind. Nothing to decide.

`plugind [--config FILE]` is the daemon in the foreground; `plugind check [FILE…]` checks without one.
"""

import asyncio
import dataclasses
import gc
import os
import selectors
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final
from uuid import uuid4

import click
import structlog
from msgspec.structs import replace

from supervisor.api.connections import a_turn
from supervisor.domain.access import Caller
from supervisor.domain.catalog import Settings
from supervisor.domain.errors import AlreadyRunning, Cannot, PlugindError
from supervisor.domain.legacy import Errand, Legacy
from supervisor.domain.names import ROOT
from supervisor.engine.node import Node, Options
from supervisor.engine.world import begin_in
from supervisor.files.load import Defaults
from supervisor.files.settings import load_settings
from supervisor.files.watch import CatalogWatcher
from supervisor.host.cgroupmount import machine_lacks
from supervisor.host.ownlog import set_up_logs
from supervisor.host.preparation import hold_signals, listen_to_signals, prepare_process
from supervisor.host.upgrade import Program, drop, inherited
from supervisor.parts import (
    TRIES,
    Given,
    Parts,
    check_start,
    started_threads,
    starting,
    tell_of_callback,
    version,
)

log = structlog.get_logger("supervisor.daemon")
EXIT_FAULTY: Final = 2
EXIT_RUNNING: Final = 3
WORKERS: Final = 6
"""Threads for hashing, parsing, and what waits for a disk."""
GRACE: Final = 10.0
"""Seconds that what is under way gets before another plugind takes over."""
FAREWELL: Final = 2.0
"""Then, for who reads a stream or is slow."""
LONGEST_SILENCE: Final = 10.0
"""For so long a plugind that takes over makes all wait until it knows everything."""
PAUSE: Final = 0.1
"""Between two starts of one that is refused something."""
ITSELF: Final = Caller(trusted=True, name="plugind")


class _Over(Exception):
    """Ends what still runs when the work is done."""


class Daemon:
    """One plugind, from its settings to its end."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self._told = asyncio.Event()
        self._ends = self._leaves = False
        self.is_begun = False
        self.left_over = given.fifos, given.listeners
        """Of a daemon that could not begin: what it was given of logs and listeners, or has by now."""
        self._errand: Errand | None = None

    async def run(self) -> Legacy | None:
        """Serve until a signal says stop (SIGTERM, SIGINT) or leave (SIGUSR1), or another one takes over.

        Returns what is left to that one.

        Raises:
            AlreadyRunning: Another plugind has the control socket.
            PlugindError: A folder or the socket cannot be had.
        """
        left: list[Legacy] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                left += await self._serve(tasks)
                raise _Over  # noqa: TRY301 - the way to cancel what is left in a TaskGroup
        except* _Over:
            pass
        if not left:
            log.info("daemon_stopped")
        return left[0] if left else None

    async def _serve(self, tasks: asyncio.TaskGroup) -> list[Legacy]:
        settings, legacy = self._given.settings, self._given.legacy
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(tell_of_callback)
        with starting():
            loop.set_default_executor(started_threads(WORKERS))
            parts = Parts(self._given, tasks, loop, self._upgrade)
        node, server = parts.node, parts.server
        node.expect_begin()
        watcher = CatalogWatcher(settings.catalog, partial(begin, tasks, node.catalog_changed), loop)
        with starting():
            await parts.claim(legacy)
        try:
            with starting():
                parts.open(legacy)
                tasks.create_task(parts.memory.run())
                watcher.start()
                self._handle_signals(loop, node, tasks)
                begun = tasks.create_task(begin_node(node))
                if legacy is not None:  # who asks now gets the whole answer, and waits a little
                    await asyncio.wait([begun], timeout=LONGEST_SILENCE)
                    await server.start(legacy.sockets)
                await begun
            self.is_begun = True
            gc.freeze()  # what was made so far lives as long as the daemon
            log.info(
                "daemon_started",
                version=version(),
                socket=settings.socket.path,
                pid=os.getpid(),
                cgroups=parts.uses["cgroups"],
            )
            await self._decided(parts)
            watcher.stop()
            return await self._end(parts)
        finally:
            watcher.stop()
            await server.stop(2.0)
            if self._given.tries and not self.is_begun:
                self.left_over = parts.left_over()
            parts.close()

    async def _decided(self, parts: Parts) -> None:
        """Return when this plugind is to end: not for an upgrade that there are no descriptors for."""
        while True:
            await self._told.wait()
            if self._ends:
                return
            try:
                await parts.server.reserve()
            except OSError as error:
                self._told.clear()
                parts.node.upgrade_failed(f"cannot keep the sockets open: {error.strerror}")
            else:
                return

    async def _end(self, parts: Parts) -> list[Legacy]:
        """Stop everything, or leave it to whoever comes next; what that one gets, where it comes at once."""
        node, server = parts.node, parts.server
        if self._errand is not None and not self._ends:
            log.info("daemon_leaving", upgrade=self._errand.upgrade_id)
            left_at = asyncio.get_running_loop().time()
            await asyncio.gather(server.quiesce(GRACE), node.settled(GRACE))
            hold_signals()
            for _ in range(3):  # a signal that came before is heard by then
                await a_turn(asyncio.get_running_loop())
            if not self._ends:
                handed = await node.leave()
                sockets = await server.leave(FAREWELL)
                return [parts.left(replace(self._errand, left_at=left_at), sockets, handed)]
        log.info("daemon_stopping", leaves_plugins=self._leaves)
        await (node.leave() if self._leaves else node.shut_down())
        return []

    def _handle_signals(self, loop: asyncio.AbstractEventLoop, node: Node, tasks: asyncio.TaskGroup) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end_by)
        loop.add_signal_handler(signal.SIGUSR1, partial(self._end_by, leaves=True))
        loop.add_signal_handler(signal.SIGHUP, begin, tasks, partial(apply, node))
        listen_to_signals()

    def _end_by(self, *, leaves: bool = False) -> None:
        if not self._ends:
            self._ends, self._leaves = True, leaves
        self._told.set()

    def _upgrade(self, errand: Errand) -> None:
        """Let another plugind take over."""
        self._errand = errand
        self._told.set()


def begin(tasks: asyncio.TaskGroup, work: Callable[[], Coroutine[None, None, None]]) -> None:
    begin_in(tasks, work())


async def begin_node(node: Node) -> None:
    with starting():
        await node.begin()


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


@click.group(invoke_without_command=True)
@click.option(
    "--config", type=click.Path(path_type=Path), help="Settings [default: /etc/plugind/plugind.yaml]"
)
@click.option("--check", "is_check", is_flag=True, help="Only find out whether it would start.")
@click.version_option(package_name="plugind")
@click.pass_context
def main(context: click.Context, config: Path | None, *, is_check: bool) -> None:
    """Keep the plugin processes of a catalog running, in the foreground."""
    if context.invoked_subcommand is not None:
        return
    set_up_logs()
    status = 0
    try:
        if is_check:
            asyncio.run(check_start(*load_settings(config)))
        else:
            run(config)
    except* AlreadyRunning as group:
        status = _told(group, EXIT_RUNNING)
    except* PlugindError as group:
        status = _told(group, EXIT_FAULTY)
    sys.exit(status)  # not within except*: Debian's Python 3.11.2 wraps a SystemExit from there in a group


def run(config: Path | None) -> None:
    """Be the daemon, also in the place of one before; a next one begins by an exec within."""
    legacy = inherited()
    program = Program.of_this_process()
    given = Given(*prepared(config, TRIES if legacy is not None else 0), program)
    if legacy is not None:
        given = given.after(legacy)
    while (legacy := served(given)) is not None:
        try:
            program.run(legacy)
        except Cannot as error:
            given = given.after(replace(legacy, errand=replace(legacy.errand, error=str(error))))


def prepared(config: Path | None, tries: int) -> tuple[Settings, Defaults]:
    """The settings, and a process that is fit for them.

    Tried again `tries` times: after an upgrade the plugind before this one is gone, and it had them checked.

    Raises:
        PlugindError: They cannot be used.
    """
    while True:
        try:
            settings, defaults = load_settings(config)
            prepare_process(settings)
        except PlugindError as error:
            if not tries:
                raise
            log.warning("settings_refused", reason=str(error))
        else:
            return settings, defaults
        tries -= 1
        threading.Event().wait(PAUSE)


def served(given: Given) -> Legacy | None:
    """Be the daemon; what is left to another one.

    Where the machine refuses what a legacy takes, it begins as after a crash: better late than not at all.
    """
    while True:
        daemon = Daemon(given)
        try:
            return _run(daemon)
        except* (PlugindError, OSError, RuntimeError) as group:
            if not given.tries or daemon.is_begun:
                raise
            log.error("legacy_refused", reason="; ".join(map(str, group.exceptions)))
            if given.legacy is not None:
                drop(replace(given.legacy, fifos=(), listeners=()))
            fifos, listeners = daemon.left_over
            given = dataclasses.replace(
                given, legacy=None, fifos=fifos, listeners=listeners, tries=given.tries - 1
            )
            threading.Event().wait(PAUSE)


def _run(daemon: Daemon) -> Legacy | None:
    with starting():
        selector = selectors.DefaultSelector()  # first: asyncio cannot get rid of a loop without one
        runner = asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector))
        runner.get_loop()
    try:
        return runner.run(daemon.run())
    finally:
        with suppress(RuntimeError):  # no thread can be had that waits for the workers; they have no work
            runner.close()


def _told(group: ExceptionGroup[PlugindError], status: int) -> int:
    for error in group.exceptions:
        with suppress(OSError):  # a full disk; the status says it too
            click.echo(f"plugind: {error}", err=True)
    return status


@main.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
def check(files: tuple[Path, ...]) -> None:
    """Check catalogs, or the one in plugind.yaml, without a daemon."""
    from supervisor.cli.commands.check import check_files  # noqa: PLC0415 - not needed by the daemon

    sys.exit(check_files(files, lacks=machine_lacks))
