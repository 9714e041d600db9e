"""Listeners that are held for mounts, over all their instances: opened once, handed to each, closed at last.

Never do two mounts have one at a time: who is next waits until nobody else needs it. Who needs what is
decided in `domain/listening.py`, how a socket is opened in `sockets.py`, and when it is closed in `held.py`.

What outlives this plugind: over an upgrade everything (`leave`, `take_over`; what systemd's descriptor store
gives back can come in by the same door); over its death what living instances have, and allow to be taken.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from supervisor.domain.addresses import exclude_each_other, parsed
from supervisor.domain.catalog import Listener, MountSpec
from supervisor.domain.errors import Cannot, Fault, SpawnRefused
from supervisor.domain.legacy import HandedListener
from supervisor.domain.names import InstanceId, MountKey
from supervisor.host import sockets
from supervisor.host.borrowed import borrowed, inode_of
from supervisor.host.held import Held, HeldSockets, Name, name_of
from supervisor.host.records import RecordedSocket
from supervisor.host.sockets import FileIdentity, InUse

log = structlog.get_logger(__name__)
T = TypeVar("T")
_ENDED: Final = "whoever had it ended while no plugind held it"
_VANISHED: Final = "its file was gone"
_SHUT_DOWN: Final = "an instance shut it down"


@dataclass(slots=True)
class _Foreign:
    """What only instances of a former plugind have: one, or with start_first two."""

    mount: MountKey
    instances: set[InstanceId]
    file: FileIdentity | None
    why: str


class Listeners:
    """Fits `engine/ports.Listeners`. Synchronous: to bind is some microseconds."""

    def __init__(self) -> None:
        self._held = HeldSockets()
        self._foreign: dict[Name, _Foreign] = {}
        self._foreign_of: defaultdict[InstanceId, list[Name]] = defaultdict(list)
        self._lost: dict[Name, str] = {}
        """What was held, and nobody has any more; why."""

    # --- before a start

    def check(self, specs: Iterable[MountSpec], leaving: Collection[MountKey]) -> list[Fault]:
        return self._faults(
            specs, lambda spec, listener: self._looked_at(spec, listener, leaving, opens=False)
        )

    def reserve(self, owner: str, specs: Iterable[MountSpec], leaving: Collection[MountKey]) -> list[Fault]:
        before = self._held.reserved_by(owner)

        def reserve(spec: MountSpec, listener: Listener) -> None:
            held = self._looked_at(spec, listener, leaving, opens=True)
            if held is not None:
                self._held.reserve(held, (owner, spec.key))

        faults = self._faults(specs, reserve)
        if faults:
            self._held.release(owner, self._held.reserved_by(owner) - before)
        return faults

    def release(self, owner: str, key: MountKey | None = None) -> None:
        reserved = self._held.reserved_by(owner)
        self._held.release(owner, [one for one in reserved if key is None or one[1] == key])

    @staticmethod
    def _faults(specs: Iterable[MountSpec], look: Callable[[MountSpec, Listener], object]) -> list[Fault]:
        faults: list[Fault] = []
        for spec in specs:
            for listener in spec.launch.listen:
                try:
                    look(spec, listener)
                except Cannot as error:
                    mark, launch = spec.mark, spec.launch
                    what = f"{launch.plugin} {launch.version} ({launch.command}) for {spec.key}"
                    faults.append(Fault(mark.file, mark.line, mark.column, f"cannot run {what}: {error}"))
        return faults

    def _looked_at(
        self, spec: MountSpec, listener: Listener, leaving: Collection[MountKey], *, opens: bool
    ) -> Held | None:
        """The listener, where it is held, or is opened; None where it is not opened now."""
        foreign = self._foreign.get(name_of(listener))
        if foreign is not None:
            if foreign.mount not in {spec.key, *leaving}:
                raise Cannot(_is_held(listener, foreign.mount))
            if foreign.mount == spec.key and spec.policies.reload.order == "start_first":
                raise Cannot(
                    f"cannot listen on {listener.shown} beside the instance that runs: only that one has the "
                    f"socket since plugind was killed, {foreign.why}; stop the mount and start it"
                )
            return None
        held = self._held.get(name_of(listener))
        if held is not None:
            for other in held.users - {spec.key} - set(leaving):
                raise Cannot(_is_held(listener, other))
            if _is_whole(held):
                return held
        if opens:
            return self._opened(listener)
        former = inode_of(held.descriptor) if held is not None else None
        self._explained(listener, lambda: sockets.check(listener, former))
        return None

    # --- instances

    def take(
        self, key: MountKey, instance: InstanceId, listen: Iterable[Listener], owner: tuple[int, int]
    ) -> tuple[int, ...]:
        """The descriptors that an instance gets, in their order; what is not open is opened.

        They are blocking, unless another instance has them too, which may have chosen otherwise.

        Raises:
            SpawnRefused: Another mount still needs one of them, or somebody else has it: a later try may do.
            Cannot: An address cannot be had.

        Source: sd_listen_fds(3); O_NONBLOCK belongs to what the descriptors share: open(2).
        """
        return tuple([self._handed(key, instance, listener, owner) for listener in listen])

    def _handed(self, key: MountKey, instance: InstanceId, listener: Listener, owner: tuple[int, int]) -> int:
        held = self._held.get(name_of(listener))
        users = set(held.users) if held is not None else set()
        if (foreign := self._foreign.get(name_of(listener))) is not None:
            users.add(foreign.mount)
        for other in users - {key}:
            raise SpawnRefused(_is_held(listener, other), transient=True)
        if held is not None and _is_whole(held) and _is_shut_down(held, listener):
            self._held.drop(held)
            self._lost[held.name], held = _SHUT_DOWN, None
        if held is None or not _is_whole(held):
            try:
                held = self._opened(listener)
            except InUse as error:
                raise SpawnRefused(str(error), transient=True) from error
        try:
            if held.file is not None:
                sockets.dress(listener.address, held.file, owner, listener.mode)
            if listener.kind == "stream":
                sockets.listen(held.descriptor, listener)
            if not held.instances:
                os.set_blocking(held.descriptor, True)
        except OSError as error:
            raise Cannot(f"cannot listen on {listener.shown}: {error.strerror}") from error
        held.listener = listener
        self._held.use(held, key)
        self._held.give(held, instance)
        return held.descriptor

    def given_back(self, instance: InstanceId) -> None:
        """No process of the instance is left."""
        self._held.given_back(instance)
        for name in self._foreign_of.pop(instance, ()):
            foreign = self._foreign[name]
            foreign.instances.discard(instance)
            if not foreign.instances:
                self._is_lost(name, self._foreign.pop(name).file)

    def recorded(self, listen: Iterable[Listener]) -> tuple[RecordedSocket, ...]:
        """What the next plugind should know them by."""
        found = [self._held[name_of(listener)] for listener in listen]
        return tuple(RecordedSocket(*held.name, inode_of(held.descriptor), held.file) for held in found)

    # --- instances of a former plugind

    def adopt(
        self,
        key: MountKey,
        instance: InstanceId,
        listen: Iterable[Listener],
        recorded: Iterable[RecordedSocket],
        pids: Iterable[int],
    ) -> None:
        """Hold again what a living instance has; `pids` are its processes."""
        known = {(one.kind, one.address): one for one in recorded}
        pids = list(pids)
        for place, listener in enumerate(listen):
            one = known.get(name_of(listener))
            file, inode = (one.file, one.inode) if one is not None else (None, None)
            held = self._held.get(name_of(listener))
            if held is None:
                try:
                    descriptor = borrowed(pids, listener, inode, place)
                except (Cannot, OSError) as error:
                    foreign = _Foreign(key, set(), file, str(error))
                    self._foreign.setdefault(name_of(listener), foreign).instances.add(instance)
                    self._foreign_of[instance].append(name_of(listener))
                    told = {"mount": str(key), "address": listener.shown}
                    log.warning("listener_not_taken_back", **told, reason=str(error))
                    continue
                held = self._held.add(name_of(listener), descriptor, file)
                self._is_ours(held)
                log.info("listener_taken_back", mount=str(key), address=listener.shown)
            self._held.use(held, key)
            self._held.give(held, instance)

    def _is_ours(self, held: Held) -> None:
        """What the other instance of the mount did not give, this one has."""
        foreign = self._foreign.pop(held.name, None)
        for instance in foreign.instances if foreign is not None else ():
            self._foreign_of[instance].remove(held.name)
            self._held.give(held, instance)

    def ended(self, recorded: Iterable[RecordedSocket]) -> None:
        """An instance is dead, and nobody has its listeners any more, where we do not."""
        for one in recorded:
            name = (one.kind, one.address)
            if name not in self._held and name not in self._foreign:
                self._is_lost(name, one.file)

    def _is_lost(self, name: Name, file: FileIdentity | None) -> None:
        self._lost[name] = _ENDED
        sockets.remove(name[1], file)

    # --- mounts

    def keep(self, key: MountKey, listeners: Collection[Listener]) -> None:
        wanted = {name_of(listener) for listener in listeners}
        for name in self._held.used_by(key) - wanted:
            self._held.unuse(name, key)
        for name in wanted:
            held = self._held.get(name)
            if held is not None and not held.users:
                self._held.use(held, key)

    def keep_only(self, keys: Collection[MountKey]) -> None:
        for key in self._held.users() - set(keys):
            self.keep(key, ())
        self._held.close_unused()

    def troubles(self) -> list[str]:
        """What people should know: what will be refused for a moment at the next replacement."""
        return [
            f"{name[1]} is held by the instance of {foreign.mount} only: {foreign.why}; connections are "
            "refused while that is replaced"
            for name, foreign in self._foreign.items()
        ]

    # --- another plugind

    def leave(self) -> tuple[HandedListener, ...]:
        """What another plugind in this process goes on with; this one has them no more."""
        return self._held.leave()

    def take_over(self, handed: Iterable[HandedListener]) -> None:
        self._held.take_over(handed)

    def close(self) -> None:
        self._held.close()

    # --- within

    def _opened(self, listener: Listener) -> Held:
        name = name_of(listener)
        former = self._held.get(name)
        inode = inode_of(former.descriptor) if former is not None else None
        descriptor, file = self._explained(listener, lambda: sockets.opened(listener, inode))
        if name in self._lost or former is not None:
            ended = self._lost.pop(name, _ENDED)
            reason = _VANISHED if former is not None else ended
            log.warning("listener_bound_again", address=listener.shown, reason=reason)
        if former is None:
            return self._held.add(name, descriptor, file)
        os.close(former.descriptor)
        former.descriptor, former.file = descriptor, file
        former.instances.clear()
        return former

    def _explained(self, listener: Listener, act: Callable[[], T]) -> T:
        """What `act` gives; where it cannot for what we have ourselves, that is said."""
        try:
            return act()
        except InUse as error:
            ours = self._in_the_way(listener)
            if ours is None:
                raise
            raise InUse(
                f"cannot listen on {listener.shown} while {ours} is held: stop the mount and start it"
            ) from error

    def _in_the_way(self, listener: Listener) -> str | None:
        wanted = parsed(listener.address)
        names: list[Name] = [*self._held, *self._foreign]
        for kind, address in names:
            is_other = kind == listener.kind and address != listener.address
            if is_other and exclude_each_other(parsed(address), wanted):
                return address
        return None


def _is_whole(held: Held) -> bool:
    """Whether clients still reach it by its address."""
    return held.file is None or sockets.is_at(held.name[1], held.file)


def _is_shut_down(held: Held, listener: Listener) -> bool:
    """Whether it serves nobody any more; a stream of IP listens again. Raises Cannot: and has to stay."""
    if listener.kind == "stream" and held.file is None and not listener.address.startswith("@"):
        with suppress(OSError):
            sockets.listen(held.descriptor, listener)
    if not sockets.is_shut_down(held.descriptor):
        return False
    if held.instances and held.file is None:
        raise Cannot(
            f"cannot listen on {listener.shown} beside the instance that runs: {_SHUT_DOWN}; "
            "stop the mount and start it"
        )
    return True


def _is_held(listener: Listener, other: MountKey) -> str:
    return (
        f"cannot listen on {listener.shown}: it is held for {other}, and two mounts never share a socket; "
        "stop that one first, or reload it where it has another address by now"
    )
