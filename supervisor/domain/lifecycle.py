"""A mount's life: one pure function (mount, event, now) -> (mount, actions), the only place that decides.

TABLE holds a handler for every pair of phase and event, `nothing` written out; INCOMING and OUTGOING
hold those of the second instance that `reload.order: start_first` allows. The engine carries the
actions out and reports what came of each as a further event.
"""

from collections.abc import Callable
from typing import Any, Final

from supervisor.domain import commands, ending, handover, starting
from supervisor.domain.events import (
    Adopted,
    BecameReady,
    Configure,
    Event,
    Exited,
    Paced,
    ProbeFailed,
    Reload,
    Spawned,
    SpawnFailed,
    Start,
    Stop,
    StopCommandDone,
    TimerFired,
    TreeGone,
    TreeSurvived,
)
from supervisor.domain.mount import Mount, Phase
from supervisor.domain.moves import Moved
from supervisor.domain.names import Seconds

Handler = Callable[[Mount, Any, Seconds], Moved]
nothing = handover.nothing


def transition(mount: Mount, event: Event, now: Seconds) -> Moved:
    """What becomes of `mount` by `event` at the monotonic instant `now`, and what to do about it."""
    generation: int | None = getattr(event, "generation", None)
    if generation is None or (mount.is_empty and isinstance(event, TimerFired | Paced)):
        return TABLE[mount.phase, type(event)](mount, event, now)
    if mount.instance is not None and generation == mount.instance.generation:
        return TABLE[mount.phase, type(event)](mount, event, now)
    if mount.incoming is not None and generation == mount.incoming.generation:
        return INCOMING[type(event)](mount, event, now)
    if mount.outgoing is not None and generation == mount.outgoing.generation:
        return OUTGOING[type(event)](mount, event, now)
    return mount, ()


STOPPED, STARTING, READY = Phase.STOPPED, Phase.STARTING, Phase.READY
STOPPING, BACKOFF, FAILED = Phase.STOPPING, Phase.BACKOFF, Phase.FAILED

TABLE: Final[dict[tuple[Phase, type[Event]], Handler]] = {
    (STOPPED, Start): commands.start,
    (STOPPED, Stop): commands.stop,
    (STOPPED, Reload): commands.reload_while_stopped,
    (STOPPED, Configure): commands.configure,
    (STOPPED, Adopted): starting.adopted,
    (STOPPED, Spawned): nothing,
    (STOPPED, SpawnFailed): nothing,
    (STOPPED, BecameReady): nothing,
    (STOPPED, ProbeFailed): nothing,
    (STOPPED, Exited): nothing,
    (STOPPED, TreeGone): nothing,
    (STOPPED, TreeSurvived): nothing,
    (STOPPED, StopCommandDone): nothing,
    (STOPPED, TimerFired): nothing,
    (STOPPED, Paced): nothing,
    (STARTING, Start): commands.start_while_starting,
    (STARTING, Stop): commands.stop,
    (STARTING, Reload): commands.reload_while_starting,
    (STARTING, Configure): commands.configure,
    (STARTING, Adopted): nothing,
    (STARTING, Spawned): starting.spawned,
    (STARTING, SpawnFailed): starting.spawn_failed,
    (STARTING, BecameReady): starting.became_ready,
    (STARTING, ProbeFailed): starting.never_ready,
    (STARTING, Exited): starting.exited_while_starting,
    (STARTING, TreeGone): nothing,
    (STARTING, TreeSurvived): nothing,
    (STARTING, StopCommandDone): nothing,
    (STARTING, TimerFired): starting.timer_while_starting,
    (STARTING, Paced): nothing,
    (READY, Start): commands.start_while_ready,
    (READY, Stop): commands.stop,
    (READY, Reload): commands.reload_while_ready,
    (READY, Configure): commands.configure,
    (READY, Adopted): nothing,
    (READY, Spawned): nothing,
    (READY, SpawnFailed): nothing,
    (READY, BecameReady): nothing,
    (READY, ProbeFailed): ending.unhealthy,
    (READY, Exited): ending.exited_while_ready,
    (READY, TreeGone): nothing,
    (READY, TreeSurvived): nothing,
    (READY, StopCommandDone): nothing,
    (READY, TimerFired): ending.timer_while_ready,
    (READY, Paced): nothing,
    (STOPPING, Start): commands.start_while_stopping,
    (STOPPING, Stop): commands.stop,
    (STOPPING, Reload): commands.reload_while_stopping,
    (STOPPING, Configure): commands.configure,
    (STOPPING, Adopted): nothing,
    (STOPPING, Spawned): starting.spawned_too_late,
    (STOPPING, SpawnFailed): starting.spawn_failed_while_stopping,
    (STOPPING, BecameReady): nothing,
    (STOPPING, ProbeFailed): nothing,
    (STOPPING, Exited): ending.exited_while_stopping,
    (STOPPING, TreeGone): ending.tree_gone,
    (STOPPING, TreeSurvived): ending.tree_survived,
    (STOPPING, StopCommandDone): ending.stop_command_done,
    (STOPPING, TimerFired): ending.timer_while_stopping,
    (STOPPING, Paced): nothing,
    (BACKOFF, Start): commands.start_in_backoff,
    (BACKOFF, Stop): commands.stop,
    (BACKOFF, Reload): commands.reload_in_backoff,
    (BACKOFF, Configure): commands.configure,
    (BACKOFF, Adopted): nothing,
    (BACKOFF, Spawned): nothing,
    (BACKOFF, SpawnFailed): nothing,
    (BACKOFF, BecameReady): nothing,
    (BACKOFF, ProbeFailed): nothing,
    (BACKOFF, Exited): nothing,
    (BACKOFF, TreeGone): nothing,
    (BACKOFF, TreeSurvived): nothing,
    (BACKOFF, StopCommandDone): nothing,
    (BACKOFF, TimerFired): ending.timer_while_in_backoff,
    (BACKOFF, Paced): ending.waits_for_turn,
    (FAILED, Start): commands.start,
    (FAILED, Stop): commands.stop,
    (FAILED, Reload): commands.reload_while_stopped,
    (FAILED, Configure): commands.configure,
    (FAILED, Adopted): nothing,
    (FAILED, Spawned): nothing,
    (FAILED, SpawnFailed): nothing,
    (FAILED, BecameReady): nothing,
    (FAILED, ProbeFailed): nothing,
    (FAILED, Exited): nothing,
    (FAILED, TreeGone): ending.tree_gone_at_last,
    (FAILED, TreeSurvived): nothing,
    (FAILED, StopCommandDone): nothing,
    (FAILED, TimerFired): nothing,
    (FAILED, Paced): nothing,
}

INCOMING: Final[dict[type[Event], Handler]] = {
    Spawned: handover.second_spawned,
    SpawnFailed: handover.second_not_spawned,
    BecameReady: handover.takes_over,
    ProbeFailed: handover.second_not_ready,
    Exited: handover.second_exited,
    TreeGone: handover.second_gone,
    TreeSurvived: handover.second_survived,
    StopCommandDone: ending.stop_command_done,
    TimerFired: handover.second_timer,
    Paced: nothing,
}

OUTGOING: Final[dict[type[Event], Handler]] = {
    Spawned: nothing,
    SpawnFailed: nothing,
    BecameReady: nothing,
    ProbeFailed: nothing,
    Exited: ending.exited_while_stopping,
    TreeGone: handover.first_gone,
    TreeSurvived: handover.first_survived,
    StopCommandDone: ending.stop_command_done,
    TimerFired: ending.timer_while_stopping,
    Paced: nothing,
}
