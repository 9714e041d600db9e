"""From what a former daemon left to actors: which instance of a mount lives on, which one has to go."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import structlog

from supervisor.domain.errors import PlugindError
from supervisor.domain.names import MountKey
from supervisor.engine.ports import Found, P, Processes

log = structlog.get_logger(__name__)


def chosen(found: Sequence[Found[P]]) -> Found[P]:
    """Of one mount's living instances the one to keep: the newest that is ready, else the newest."""
    return max(found, key=lambda one: (one.ready, one.instance.generation))


async def one_each(found: Iterable[Found[P]], processes: Processes[P]) -> dict[MountKey, Found[P]]:
    """End all but one instance of each mount: the daemon was killed between a start and a stop."""
    by_mount: defaultdict[MountKey, list[Found[P]]] = defaultdict(list)
    for one in found:
        by_mount[one.key].append(one)
    kept: dict[MountKey, Found[P]] = {}
    for key, several in by_mount.items():
        kept[key] = chosen(several)
        for other in several:
            if other is not kept[key]:
                try:
                    await processes.end_tree(other.process, 0.0)
                except PlugindError as error:
                    log.error("surplus_instance_survived", pid=other.process.pid, reason=str(error))
    return kept
