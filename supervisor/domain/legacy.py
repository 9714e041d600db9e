"""What a plugind leaves to the one that takes its place in the same process, and what that one makes of it.

`pluginctl upgrade` runs the new plugind by an exec: pid, children and the descriptors named here stay.
Instants are of the monotonic clock, which an exec does not touch.
"""

from typing import Any, Final

import msgspec
from msgspec.structs import replace

from supervisor.domain.catalog import Launch
from supervisor.domain.mount import Mount, Phase
from supervisor.domain.names import MountKey, Namespace, Seconds
from supervisor.domain.restarts import CLEAN, Record

VERSION: Final = 1
"""Of the shape of `Legacy`: one that is not known is not read, and everything is as after a crash."""
_AT_REST: Final = frozenset({Phase.STOPPED, Phase.FAILED, Phase.BACKOFF})


class Places(msgspec.Struct, frozen=True):
    """What cannot change by an upgrade: what runs would not be found again."""

    socket: str
    runtime_dir: str
    state_dir: str


class Expected(msgspec.Struct, frozen=True):
    """What the running plugind counts on, for the check of another one."""

    places: Places
    tcp: str
    """Its address, which only it can have."""
    has_catalog: bool
    version: int = VERSION

    def refusal(self, places: Places) -> str | None:
        """Why a plugind with these places cannot take over, or None."""
        for name in Places.__struct_fields__:
            before, now = getattr(self.places, name), getattr(places, name)
            if before != now:
                return (
                    f"{name.replace('socket', 'socket.path')} was {before} and is {now}: that takes a restart"
                )
        return None


class HandedConnection(msgspec.Struct, frozen=True):
    fd: int
    unread: bytes = b""
    """The begin of a request, which was read and not understood yet."""


class Sockets(msgspec.Struct, frozen=True):
    """Of the control server."""

    lock: int
    unix: int
    identity: tuple[int, int]
    """Device and inode of the socket's file."""
    address: str = ""
    """Of `tcp` in plugind.yaml."""
    tcp: tuple[int, ...] = ()
    connections: tuple[HandedConnection, ...] = ()

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self.lock, self.unix, *self.tcp, *(one.fd for one in self.connections))


class HandedMount(msgspec.Struct, frozen=True, kw_only=True):
    """What a living instance does not tell, and what is to become of a mount that has none."""

    namespace: str
    mount: str
    phase: Phase
    rest: Phase = Phase.STOPPED
    past: Record = CLEAN
    wanted: Launch | None = None
    not_before: Seconds = 0.0
    reason: str | None = None
    restarts: int = 0
    last_exit: str | None = None

    @property
    def key(self) -> MountKey:
        return MountKey(Namespace.parse(self.namespace), self.mount)

    @property
    def is_due(self) -> bool:
        """Whether it starts now, where nothing of it lives: it was running, or on its way to that."""
        return self.phase not in _AT_REST and not self.is_being_stopped

    @property
    def is_being_stopped(self) -> bool:
        """For good, not to be replaced."""
        return self.phase is Phase.STOPPING and self.wanted is None


class HandedNode(msgspec.Struct, frozen=True):
    """Of the engine."""

    mounts: tuple[HandedMount, ...] = ()
    number: int = 0
    """Of the last transition: who follows the events goes on behind it."""
    events: bytes = b"[]"
    """The last transitions, for who has not got them yet. JSON as in the event stream."""


class HandedFifo(msgspec.Struct, frozen=True):
    """A FIFO that is held open, so that nothing in it is lost if its plugin dies now."""

    namespace: str
    mount: str
    fd: int
    kept: bytes = b""
    """What was taken out of it, and no disk took yet."""
    lost: int = 0
    has_gap: bool = False
    """Whether something is lost right before what is kept."""

    @property
    def key(self) -> MountKey:
        return MountKey(Namespace.parse(self.namespace), self.mount)


class HandedFile(msgspec.Struct, frozen=True):
    """What a version is run from, where its path leads elsewhere by now: the first that has the SHA-256."""

    command: str
    sha256: str
    descriptors: tuple[int, ...]


class HandedListener(msgspec.Struct, frozen=True):
    """A listener that is held for mounts."""

    kind: str
    address: str
    fd: int
    file: tuple[int, int] | None = None
    """Device and inode of a Unix socket's file."""
    mounts: tuple[tuple[str, str], ...] = ()
    """Namespace and path of each that needs it."""


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """The upgrade itself, as it was asked for."""

    upgrade_id: str
    old_version: str
    began_at: str
    left_at: Seconds = 0.0
    """When the old plugind let go."""
    error: str | None = None
    """Why there is no new one: the old one goes on."""


class Legacy(msgspec.Struct, frozen=True, kw_only=True):
    version: int = VERSION
    errand: Errand
    sockets: Sockets
    node: HandedNode = HandedNode()
    fifos: tuple[HandedFifo, ...] = ()
    listeners: tuple[HandedListener, ...] = ()
    claims: tuple[int, ...] = ()
    """Of runtime_dir and state_dir."""
    files: tuple[int, int]
    """RLIMIT_NOFILE as it was before plugind raised its own: plugins get this one."""
    held: tuple[HandedFile, ...] = ()
    leaf: str = ""
    """The cgroup that plugind itself went into."""
    controllers: tuple[str, ...] = ()
    """What it enabled for that."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        of_mounts = (*(fifo.fd for fifo in self.fifos), *(listener.fd for listener in self.listeners))
        held = (descriptor for file in self.held for descriptor in file.descriptors)
        return (*self.sockets.descriptors, *self.claims, *of_mounts, *held)


class _Head(msgspec.Struct):
    version: int


def encoded(legacy: Legacy) -> bytes:
    return msgspec.json.encode(legacy)


def decoded(data: bytes) -> Legacy | None:
    """What `encoded` made of it; None if that was another version of this module."""
    try:
        if msgspec.json.decode(data, type=_Head).version != VERSION:
            return None
        return msgspec.json.decode(data, type=Legacy)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def left_behind(mount: Mount, **seen: Any) -> HandedMount:
    """What the next plugind has to know of a mount; `seen` is what its actor knows."""
    return HandedMount(
        namespace=str(mount.key.namespace),
        mount=mount.key.path,
        phase=mount.phase,
        rest=mount.rest,
        past=mount.past,
        wanted=mount.wanted,
        not_before=mount.not_before,
        reason=mount.reason,
        **seen,
    )


def resumed(mount: Mount, handed: HandedMount, *, lives: bool) -> Mount:
    """`mount`, as it is remembered over a restart, with what counts over an upgrade beside it."""
    mount = replace(mount, past=handed.past)
    if lives or handed.is_due:
        return mount
    if handed.phase is Phase.BACKOFF and handed.wanted is not None:
        return replace(
            mount,
            phase=Phase.BACKOFF,
            wanted=handed.wanted,
            not_before=handed.not_before,
            reason=handed.reason,
        )
    rest = handed.rest if handed.phase is Phase.STOPPING else handed.phase
    return replace(mount, phase=rest, reason=handed.reason)
