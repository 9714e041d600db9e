"""The sockets that are held, each with whom it is held for, and closed when that is nobody any more.

A listener is known by kind and address. Its users are mounts, its owners reloads that reserved it for a
mount; instances that were handed it do not keep it open, as they have it themselves.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from supervisor.domain.catalog import Listener
from supervisor.domain.legacy import HandedListener
from supervisor.domain.names import InstanceId, MountKey, Namespace
from supervisor.host import sockets
from supervisor.host.sockets import FileIdentity

Name = tuple[str, str]
"""Kind and address."""
Owner = tuple[str, MountKey]


@dataclass(slots=True, eq=False)
class Held:
    name: Name
    descriptor: int
    file: FileIdentity | None
    listener: Listener | None = None
    """As it was asked for last; None until an instance of this plugind gets it."""
    users: set[MountKey] = field(default_factory=set)
    """Mounts that may still need it."""
    owners: set[Owner] = field(default_factory=set)
    """Reloads that reserved it, each with the mount that it is for."""
    instances: set[InstanceId] = field(default_factory=set)
    """Those that have it."""


def name_of(listener: Listener) -> Name:
    return listener.kind, listener.address


class HeldSockets:
    """The one owner of their descriptors."""

    def __init__(self) -> None:
        self._held: dict[Name, Held] = {}
        self._of_mount: dict[MountKey, set[Name]] = {}
        self._reserved: dict[str, set[tuple[Name, MountKey]]] = {}
        self._of_instance: dict[InstanceId, set[Name]] = {}

    def get(self, name: Name) -> Held | None:
        return self._held.get(name)

    def __getitem__(self, name: Name) -> Held:
        return self._held[name]

    def __contains__(self, name: Name) -> bool:
        return name in self._held

    def __iter__(self) -> Iterator[Name]:
        return iter(self._held)

    def add(self, name: Name, descriptor: int, file: FileIdentity | None) -> Held:
        """Hold it, for nobody yet."""
        held = self._held[name] = Held(name, descriptor, file)
        return held

    # --- mounts

    def use(self, held: Held, key: MountKey) -> None:
        held.users.add(key)
        self._of_mount.setdefault(key, set()).add(held.name)

    def used_by(self, key: MountKey) -> frozenset[Name]:
        return frozenset(self._of_mount.get(key, ()))

    def unuse(self, name: Name, key: MountKey) -> None:
        held = self._held[name]
        held.users.discard(key)
        names = self._of_mount[key]
        names.discard(name)
        if not names:
            del self._of_mount[key]
        self._close_unused(held)

    def users(self) -> frozenset[MountKey]:
        return frozenset(self._of_mount)

    # --- reloads

    def reserve(self, held: Held, owner: Owner) -> None:
        held.owners.add(owner)
        self._reserved.setdefault(owner[0], set()).add((held.name, owner[1]))

    def reserved_by(self, owner: str) -> frozenset[tuple[Name, MountKey]]:
        return frozenset(self._reserved.get(owner, ()))

    def release(self, owner: str, reserved: Iterable[tuple[Name, MountKey]]) -> None:
        for name, key in reserved:
            self._reserved[owner].discard((name, key))
            if (held := self._held.get(name)) is not None:
                held.owners.discard((owner, key))
                self._close_unused(held)
        if owner in self._reserved and not self._reserved[owner]:
            del self._reserved[owner]

    # --- instances

    def give(self, held: Held, instance: InstanceId) -> None:
        held.instances.add(instance)
        self._of_instance.setdefault(instance, set()).add(held.name)

    def given_back(self, instance: InstanceId) -> None:
        for name in self._of_instance.pop(instance, ()):
            if (held := self._held.get(name)) is not None:
                held.instances.discard(instance)
                if held.listener is not None and held.listener.kind == "stream":
                    with suppress(OSError):  # whoever waits does so here, until the next one has it
                        sockets.listen(held.descriptor, held.listener)

    # --- all of them

    def close_unused(self) -> None:
        for held in list(self._held.values()):
            self._close_unused(held)

    def _close_unused(self, held: Held) -> None:
        if held.users or held.owners:
            return
        del self._held[held.name]
        sockets.remove(held.name[1], held.file)
        with suppress(OSError):
            os.close(held.descriptor)

    def drop(self, held: Held) -> None:
        """Close it, whoever may need it: it serves nobody any more."""
        for owner in list(held.owners):
            self.release(owner[0], [(held.name, owner[1])])
        for key in list(held.users):
            self.unuse(held.name, key)
        if self._held.get(held.name) is held:
            self._close_unused(held)

    def leave(self) -> tuple[HandedListener, ...]:
        """What another plugind in this process goes on with; this one has them no more."""
        left = tuple(
            HandedListener(
                *held.name,
                held.descriptor,
                held.file,
                tuple((str(user.namespace), user.path) for user in held.users),
            )
            for held in self._held.values()
        )
        self._forget()
        return left

    def take_over(self, handed: Iterable[HandedListener]) -> None:
        for one in handed:
            held = self.add((one.kind, one.address), one.fd, one.file)
            for namespace, mount in one.mounts:
                self.use(held, MountKey(Namespace.parse(namespace), mount))

    def close(self) -> None:
        """Close all. Files of Unix sockets stay: what lives goes on with them."""
        for held in self._held.values():
            os.close(held.descriptor)
        self._forget()

    def _forget(self) -> None:
        for index in (self._held, self._of_mount, self._reserved, self._of_instance):
            index.clear()
