"""Which listeners of a mount stay open: those of whatever runs, may still start, or may come back.

A mount at rest (stopped, or failed) has none: a client is refused at once instead of waiting in a
backlog for something that nobody is going to start. While a crash is being restarted they stay open.
"""

from collections.abc import Iterator

from supervisor.domain.catalog import Launch, Listener
from supervisor.domain.mount import Mount, Phase

_AT_REST = frozenset({Phase.STOPPED, Phase.FAILED})
NONE: frozenset[Listener] = frozenset()


def kept_open(mount: Mount) -> frozenset[Listener]:
    """What must stay open now. A listener that is none of these is closed."""
    if mount.phase in _AT_REST:
        return NONE
    return frozenset(listener for launch in _launches(mount) if launch.listen for listener in launch.listen)


def _launches(mount: Mount) -> Iterator[Launch]:
    for instance in mount.living:
        yield instance.launch
    if mount.wanted is not None:
        yield mount.wanted
    for replacement in (mount.current, mount.queued):
        if replacement is not None and replacement.failure is None:
            yield replacement.launch
    for replacement in (mount.current, mount.queued, mount.watched):
        if replacement is not None and replacement.fallback is not None:
            yield replacement.fallback
    # what runs has proved itself: nothing else comes back unless somebody asks, who then has it opened
    if mount.good is not None and not _is_settled(mount):
        yield mount.good


def _is_settled(mount: Mount) -> bool:
    return mount.phase is Phase.READY and mount.current is None and mount.watched is None
