"""start_first: what becomes of a mount by its second instance, and by its first one once it has to go.

While the second is starting it is `incoming` and the phase is that of the first. When it is ready
it becomes the instance, and the first is `outgoing` until its tree is gone.
"""

from msgspec.structs import replace

from supervisor.domain.ending import has_to_go, tree_gone_at_last
from supervisor.domain.events import (
    Action,
    BecameReady,
    ClearTimer,
    Event,
    Exited,
    Outcome,
    ProbeFailed,
    SetTimer,
    Spawned,
    SpawnFailed,
    TimerFired,
    TreeGone,
    TreeSurvived,
)
from supervisor.domain.mount import Mount, Phase, Replacement
from supervisor.domain.moves import (
    Moved,
    answer,
    gone,
    kill,
    settle,
    stop_actions,
    survived,
    then_queued,
)
from supervisor.domain.names import Seconds
from supervisor.domain.starting import (
    on_probation,
    proved,
    spawned,
    spawned_too_late,
    why_it_ended,
    why_unready,
)


def second_spawned(mount: Mount, event: Spawned, now: Seconds) -> Moved:
    return (spawned if mount.second_is_coming else spawned_too_late)(mount, event, now)


def takes_over(mount: Mount, event: BecameReady, now: Seconds) -> Moved:
    current, first, second = mount.current, mount.running, mount.incoming
    if current is None or not mount.second_is_coming:
        return mount, ()
    switched = replace(
        mount,
        instance=second,
        incoming=None,
        outgoing=first,
        current=None,
        watched=None,
        unwell=None,
        reason=None,
        ready_since=now,
        deadline=now + mount.policies_of(first.launch).stop.timeout,
    )
    told = answer(replace(switched, down_since=now), current, Outcome.DONE, None, now)
    switched, watch = on_probation(proved(switched), current, now)
    clear: tuple[Action, ...] = (
        ClearTimer("ready", event.generation),
        ClearTimer("watch", first.generation),
    )
    return switched, clear + told + watch + stop_actions(switched, first, now)


def second_exited(mount: Mount, event: Exited, _now: Seconds) -> Moved:
    return kill(_failing(mount, why_it_ended(event)), event.generation)


def second_not_spawned(mount: Mount, event: SpawnFailed, now: Seconds) -> Moved:
    return _second_is_gone(_failing(mount, event.reason), event.generation, now)


def second_not_ready(mount: Mount, event: ProbeFailed, now: Seconds) -> Moved:
    return _send_away(mount, event.reason, now)


def second_timer(mount: Mount, event: TimerFired, now: Seconds) -> Moved:
    if event.name == "stop":
        return kill(mount, event.generation)
    if event.extended is not None and event.extended > now:
        return mount, (SetTimer("ready", event.generation, event.extended),)
    return _send_away(mount, why_unready(mount, event), now)


def _send_away(mount: Mount, reason: str, now: Seconds) -> Moved:
    if mount.incoming is None or not mount.second_is_coming:
        return mount, ()
    return _failing(mount, reason), stop_actions(mount, mount.incoming, now)


def _failing(mount: Mount, reason: str) -> Mount:
    if mount.current is None or not mount.second_is_coming:
        return mount
    return replace(mount, current=replace(mount.current, failure=reason, failed=mount.incoming))


def second_gone(mount: Mount, event: TreeGone, now: Seconds) -> Moved:
    return _second_is_gone(mount, event.generation, now)


def _second_is_gone(mount: Mount, generation: int, now: Seconds) -> Moved:
    clear: tuple[Action, ...] = (ClearTimer("ready", generation), ClearTimer("stop", generation))
    alone = gone(mount, generation)
    if mount.phase is Phase.STOPPING:
        settled, actions = settle(alone, now)
        return settled, clear + actions
    if mount.phase is Phase.FAILED:
        return tree_gone_at_last(mount, TreeGone(generation), now)
    told: tuple[Action, ...] = ()
    if mount.current is not None:
        alone, told = _first_goes_on(alone, mount.current, now)
    return _as_well_as_it_is(alone, clear + told, now)


def _first_goes_on(mount: Mount, current: Replacement, now: Seconds) -> Moved:
    running = mount.running.launch
    alone = replace(mount, current=None)
    if running == current.launch:
        why = f"{current.failure}; what ran before goes on"
        return alone, answer(alone, current, Outcome.FAILED, why, now)
    why = f"rolled back from {current.launch.version}: {current.failure}"
    alone = replace(alone, rolled_back_from=current.launch, reason=why)
    told = answer(replace(alone, down_since=now), current, Outcome.ROLLED_BACK, current.failure, now)
    if alone.watched is not None:  # if the first does not prove itself, neither answer was true
        commands = alone.watched.told + current.told + current.commands
        watched = replace(current, commands=(), told=commands, fallback=alone.watched.fallback)
        alone = replace(alone, watched=watched)
    return alone, told


def _as_well_as_it_is(mount: Mount, actions: tuple[Action, ...], now: Seconds) -> Moved:
    """The first is all there is; what was waiting goes on, or what its liveness said comes to bear."""
    moved, more = then_queued(mount, (), now) if mount.unwell is None else has_to_go(mount, mount.unwell, now)
    return moved, actions + more


def second_survived(mount: Mount, event: TreeSurvived, now: Seconds) -> Moved:
    """It cannot be killed: the first goes on, and nothing else starts beside the two."""
    left = survived(mount, event)
    if mount.phase is Phase.STOPPING:
        return settle(left, now)
    told = answer(left, mount.current, Outcome.FAILED, event.reason, now)
    told += answer(left, mount.queued, Outcome.FAILED, event.reason, now)
    left = replace(left, current=None, queued=None)
    return _as_well_as_it_is(left, told, now)


def first_gone(mount: Mount, event: TreeGone, now: Seconds) -> Moved:
    alone = gone(mount, event.generation)
    if mount.phase is Phase.READY:
        return then_queued(alone, (), now)
    if mount.phase is Phase.STOPPING:
        return settle(alone, now)
    if mount.phase is Phase.FAILED:
        return tree_gone_at_last(mount, event, now)
    return alone, ()  # what is starting goes on


def first_survived(mount: Mount, event: TreeSurvived, now: Seconds) -> Moved:
    left = survived(mount, event)
    if mount.phase is Phase.STOPPING:
        return settle(left, now)
    if mount.phase is Phase.STARTING:
        return left, ()  # what is queued waits for the second anyway
    return replace(left, queued=None), answer(left, mount.queued, Outcome.FAILED, event.reason, now)


def nothing(mount: Mount, _event: Event, _now: Seconds) -> Moved:
    return mount, ()
