"""Commands that are run beside an instance, or for plugind itself: probes, stop commands, a check.

Each is a child of plugind and a member of its instance, and is ended where nobody waits for it any more.
"""

import asyncio
import signal
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from functools import partial

import msgspec

from supervisor.domain.errors import Cannot
from supervisor.domain.events import Instance
from supervisor.domain.names import MountKey
from supervisor.host.cgroup import Cgroup, limiting
from supervisor.host.commandline import command_line
from supervisor.host.logs import Logs
from supervisor.host.probes import Run
from supervisor.host.processes import Children, Main
from supervisor.host.spawn import Spawner, account_of, environment


class Helpers:
    """Starts them. `folders` is where the folders of instances are."""

    def __init__(self, spawner: Spawner, children: Children, logs: Logs, folders: str) -> None:
        self._spawner = spawner
        self._children = children
        self._logs = logs
        self._folders = folders
        self._coming: dict[int, set[asyncio.Task[Main]]] = {}
        """Those that are being started, by the mark of their instance."""

    async def run(self, argv: list[str], env: dict[str, str], output: str) -> int:
        """The status of a process that belongs to no instance; minus the signal that ended it.

        Raises:
            Cannot: There was none.
        """
        return await self._status(self._started(argv, env, output, 0, is_helper=False), 0)

    def runner(self, key: MountKey, instance: Instance, mark: int, cgroup: Cgroup | None) -> Run:
        """Runs commands on behalf of an instance: as its user, in its folder, with its mark and log."""

        async def run(command: Sequence[str]) -> int:
            account = account_of(instance.launch)
            env = environment(key, instance, account, f"{self._folders}/{instance.id}", {})
            launch = msgspec.structs.replace(
                instance.launch, command=command[0], args=tuple(command[1:]), listen=()
            )
            argv = command_line(launch, account.uid, account.gid, limiting(cgroup))
            starts = self._started(argv, env, self._logs.open(key), mark, is_helper=True)
            return await self._status(starts, mark)

        return run

    async def are_there(self, mark: int) -> None:
        """Return when those of an instance that are just being started are members that can be found."""
        if coming := self._coming.get(mark):
            await asyncio.wait(set(coming))

    async def _started(
        self, argv: list[str], env: dict[str, str], output: str, mark: int, *, is_helper: bool
    ) -> Main:
        return self._children.add(await self._spawner.spawn(argv, env, output, mark), is_helper=is_helper)

    async def _status(self, starts: Coroutine[None, None, Main], mark: int) -> int:
        coming = asyncio.get_running_loop().create_task(starts)  # it is started, whoever waits for it
        self._coming.setdefault(mark, set()).add(coming)
        try:
            main = await asyncio.shield(coming)
            status = await main.exited()
        except asyncio.CancelledError:
            coming.add_done_callback(_end)
            raise
        finally:
            coming.add_done_callback(partial(self._came, mark))
        main.close()
        return -status.signal if status.signal is not None else status.code or 0

    def _came(self, mark: int, coming: "asyncio.Task[Main]") -> None:
        self._coming[mark].discard(coming)
        if not self._coming[mark]:
            del self._coming[mark]


def _end(coming: "asyncio.Task[Main]") -> None:
    if not coming.cancelled() and coming.exception() is None:
        main = coming.result()
        with suppress(Cannot):  # another user's: it ends by itself
            main.handle.send(signal.SIGKILL)
        main.on_exit(lambda _: main.close())
