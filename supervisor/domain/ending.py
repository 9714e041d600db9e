"""What becomes of a mount whose instance was ready, or is on its way out: dead, unwell, killed, gone."""

from msgspec.structs import replace

from supervisor.domain.events import (
    Exited,
    Instance,
    Outcome,
    Paced,
    ProbeFailed,
    SignalMain,
    StopCommandDone,
    TimerFired,
    TreeGone,
    TreeSurvived,
)
from supervisor.domain.mount import Mount, Phase, Replacement
from supervisor.domain.moves import (
    Moved,
    answer,
    crashed,
    end,
    end_now,
    fall_back,
    gone,
    kill,
    other_than,
    settle,
    survived,
)
from supervisor.domain.names import Seconds, shown_duration
from supervisor.domain.starting import both_reasons, next_is, proven


def exited_while_ready(mount: Mount, event: Exited, now: Seconds) -> Moved:
    if mount.incoming is not None and mount.current is not None and mount.second_is_coming:
        return promote(mount, mount.incoming, mount.current, now)
    reason = event.reason
    if mount.watched is not None and mount.ready_since is not None:
        lived = round(now - mount.ready_since, 1)
        reason = f"ended {shown_duration(lived)} after it was ready: {reason}"
    decided, told = _died(mount, reason, now, success=event.success)
    ended, actions = end_now(decided, now)
    return ended, told + actions


def promote(mount: Mount, second: Instance, current: Replacement, now: Seconds) -> Moved:
    """start_first: the first one died while the second was starting; the second is all there is."""
    if mount.watched is not None:  # the first had not proved itself yet: it is nothing to fall back to
        fallback = other_than(second.launch, mount.watched.fallback, mount.good)
        current = replace(current, fallback=fallback)
    alone = replace(
        mount,
        phase=Phase.STARTING,
        instance=second,
        incoming=None,
        outgoing=mount.instance,
        wanted=second.launch,
        current=current,
        down_since=now,
        watched=None,
        unwell=None,
    )
    return kill(alone, mount.running.generation)


def unhealthy(mount: Mount, event: ProbeFailed, now: Seconds) -> Moved:
    if mount.second_is_coming:
        return replace(mount, unwell=event.reason), ()
    return has_to_go(mount, event.reason, now)


def has_to_go(mount: Mount, reason: str, now: Seconds) -> Moved:
    """A ready instance is not alive any more in the sense of its liveness probe."""
    decided, told = _died(mount, reason, now)
    ended, actions = end(decided, now)
    return ended, told + actions


def _died(mount: Mount, reason: str, now: Seconds, *, success: bool = False) -> Moved:
    """A ready instance is dead or has to go: back to what ran before, restart, or rest."""
    watched = mount.watched
    told = answer(mount, mount.current, Outcome.FAILED, both_reasons(mount, mount.current, reason), now)
    mount = replace(mount, current=None, down_since=now)
    if watched is not None:
        return fall_back(mount, watched, both_reasons(mount, watched, reason)), told
    if mount.queued is not None:
        return next_is(mount, mount.queued), told
    if success and mount.policies_of(mount.running.launch).restart.policy != "always":
        return replace(mount, wanted=None, rest=Phase.STOPPED, reason=reason), told
    return crashed(mount, mount.running.launch, reason, now, mount.ready_since), told


def timer_while_ready(mount: Mount, event: TimerFired, _now: Seconds) -> Moved:
    if event.name != "watch":
        return mount, ()
    return proven(replace(mount, watched=None)), ()


def stop_command_done(mount: Mount, event: StopCommandDone, _now: Seconds) -> Moved:
    if event.generation in mount.killing:
        return mount, ()
    return mount, (SignalMain(event.generation, mount.policies_at(event.generation).stop.signal),)


def exited_while_stopping(mount: Mount, event: Exited, now: Seconds) -> Moved:
    """Others of its tree get what is left of `stop.timeout`."""
    return kill(mount, event.generation, max(0.0, mount.deadline - now))


def timer_while_stopping(mount: Mount, event: TimerFired, _now: Seconds) -> Moved:
    return kill(mount, event.generation) if event.name == "stop" else (mount, ())


def timer_while_in_backoff(mount: Mount, event: TimerFired, now: Seconds) -> Moved:
    if event.name != "backoff" or event.generation != mount.generation:
        return mount, ()
    return settle(replace(mount, not_before=0.0), now)


def waits_for_turn(mount: Mount, event: Paced, _now: Seconds) -> Moved:
    """Its backoff is over, and so is that of many others: a limit of the whole daemon orders them."""
    if event.generation != mount.generation:
        return mount, ()
    return replace(mount, reason=f"{mount.reason}; {event.reason}" if mount.reason else event.reason), ()


def tree_gone(mount: Mount, event: TreeGone, now: Seconds) -> Moved:
    return settle(gone(mount, event.generation), now)


def tree_gone_at_last(mount: Mount, event: TreeGone, _now: Seconds) -> Moved:
    """In FAILED: the member that could not be killed is gone; nothing starts before somebody asks."""
    alone = gone(mount, event.generation)
    rests = Phase.STOPPED if alone.is_empty and alone.told_to_stop else Phase.FAILED
    return replace(alone, phase=rests), ()


def tree_survived(mount: Mount, event: TreeSurvived, now: Seconds) -> Moved:
    return settle(survived(mount, event), now)
