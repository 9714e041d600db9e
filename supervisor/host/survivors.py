"""Processes of a former daemon's instances that could not be killed: nothing is started beside them."""

from collections.abc import Iterable

from supervisor.domain.errors import SpawnRefused
from supervisor.domain.names import MountKey
from supervisor.host.identity import is_alive, start_ticks


class Survivors:
    def __init__(self) -> None:
        self._known: dict[MountKey, set[tuple[int, int]]] = {}

    def add(self, key: MountKey, pids: Iterable[int]) -> None:
        known = self._known.setdefault(key, set())
        known.update((pid, ticks) for pid in pids if (ticks := start_ticks(pid)) is not None)

    def check(self, key: MountKey) -> None:
        """Return if none of the mount is left.

        Raises:
            SpawnRefused: One is, and two instances of a mount must never be.
        """
        known = self._known.get(key)
        if known is None:
            return
        left = sorted(pid for pid, ticks in known if start_ticks(pid) == ticks and is_alive(pid))
        if left:
            pids = ", ".join(f"pid {pid}" for pid in left)
            raise SpawnRefused(f"{pids} of a former instance cannot be killed")
        del self._known[key]
