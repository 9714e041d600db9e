"""What becomes of a mount by what happened to its instance: ready, not ready, dead, gone, alive after all."""

from dataclasses import replace

from supervisor.domain.events import (
    Action,
    Adopted,
    Answer,
    BecameReady,
    ClearTimer,
    Exited,
    Outcome,
    ProbeFailed,
    SetTimer,
    SignalMain,
    Spawned,
    SpawnFailed,
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
    joined,
    kill,
    settle,
    spawn,
    then_queued,
)
from supervisor.domain.names import Seconds, shown_duration


def spawned(mount: Mount, event: Spawned, now: Seconds) -> Moved:
    return mount, (SetTimer("ready", event.generation, now + mount.policies.ready.timeout),)


def became_ready(mount: Mount, event: BecameReady, now: Seconds) -> Moved:
    current = mount.current
    launch = mount.instance.launch if mount.instance else None
    ready = replace(mount, phase=Phase.READY, wanted=None, current=None, reason=None)
    actions: tuple[Action, ...] = (ClearTimer("ready", event.generation),)
    if current is None:
        ready = replace(ready, good=mount.good or launch)
    elif current.failure is not None:
        why = f"rolled back from {current.launch.version}: {current.failure}"
        ready = replace(ready, good=launch, rolled_back_from=current.launch, reason=why)
        actions += answer(mount, current, Outcome.ROLLED_BACK, current.failure, now)
    else:
        actions += answer(mount, current, Outcome.DONE, None, now)
        ready, watch = on_probation(replace(ready, rolled_back_from=None), current, now)
        actions += watch
    return then_queued(replace(ready, down_since=None), actions, now)


def on_probation(mount: Mount, current: Replacement, now: Seconds) -> Moved:
    """A new version has proved itself when `reload.watch` is over; until then the former one is good."""
    instance, policy = mount.instance, mount.policies.reload
    if instance is None or current.fallback is None or not policy.rollback or not policy.watch:
        return replace(mount, good=instance.launch if instance else mount.good), ()
    watched = replace(current, answered=True)
    return replace(mount, watched=watched), (SetTimer("watch", instance.generation, now + policy.watch),)


def adopted(mount: Mount, event: Adopted, now: Seconds) -> Moved:
    instance = event.instance
    there = replace(
        mount,
        instance=instance,
        generation=max(mount.generation, instance.generation),
        phase=Phase.READY if event.ready else Phase.STARTING,
        good=mount.good or (instance.launch if event.ready else None),
        wanted=None if event.ready else instance.launch,
    )
    if event.ready:
        return there, ()
    return there, (SetTimer("ready", instance.generation, now + mount.policies.ready.timeout),)


def not_started(mount: Mount, reason: str, now: Seconds, *, counts: bool = True) -> Moved:
    """The instance under start will not be ready: decide what comes when its tree is gone."""
    current, queued = mount.current, mount.queued
    if queued is not None and (current is None or current.failure is None):
        # the later command speaks for both: two replacements, not three
        both = joined(current, queued)
        return replace(mount, current=both, queued=None, wanted=both.launch, not_before=0.0), ()
    if current is not None and current.failure is None and current.fallback is not None:
        if mount.policies.reload.rollback:
            return fall_back(mount, current, reason), ()
        current = replace(current, failed=mount.instance)
    told = answer(mount, _with_culprit(mount, current), Outcome.FAILED, both_reasons(current, reason), now)
    if queued is not None:
        return replace(mount, current=queued, queued=None, wanted=queued.launch, not_before=0.0), told
    return crashed(replace(mount, current=None), both_reasons(current, reason), now, counts=counts), told


def _with_culprit(mount: Mount, current: Replacement | None) -> Replacement | None:
    return current and replace(current, failed=current.failed or mount.instance)


def both_reasons(current: Replacement | None, reason: str) -> str:
    if current is None or current.failure is None:
        return reason
    back = current.fallback.version if current.fallback else "what ran before"
    return f"{current.launch.version}: {current.failure}; and back on {back}: {reason}"


def exited_while_starting(mount: Mount, event: Exited, now: Seconds) -> Moved:
    decided, told = not_started(mount, f"ended before it was ready: {event.reason}", now)
    ended, actions = end_now(decided, now)
    return ended, told + actions


def spawn_failed(mount: Mount, event: SpawnFailed, now: Seconds) -> Moved:
    decided, told = not_started(mount, event.reason, now, counts=not event.transient)
    nobody = replace(decided, instance=None, phase=Phase.STOPPING)
    settled, actions = settle(nobody, now)
    return settled, (*told, ClearTimer("ready", event.generation), *actions)


def spawn_failed_while_stopping(mount: Mount, event: SpawnFailed, now: Seconds) -> Moved:
    settled, actions = settle(replace(mount, instance=None), now)
    return settled, (ClearTimer("stop", event.generation), *actions)


def never_ready(mount: Mount, event: ProbeFailed, now: Seconds) -> Moved:
    return _stopped_as_unready(mount, event.reason, now)


def timer_while_starting(mount: Mount, event: TimerFired, now: Seconds) -> Moved:
    if event.name != "ready":
        return mount, ()
    reason = f"not ready in {shown_duration(mount.policies.ready.timeout)}"
    return _stopped_as_unready(mount, f"{reason}: {event.detail}" if event.detail else reason, now)


def _stopped_as_unready(mount: Mount, reason: str, now: Seconds) -> Moved:
    decided, told = not_started(mount, reason, now)
    ended, actions = end(decided, now)
    return ended, told + actions


def exited_while_ready(mount: Mount, event: Exited, now: Seconds) -> Moved:
    if mount.incoming is not None and not (mount.current and mount.current.failure):
        return promote(mount, now)
    decided, told = _died(mount, event.reason, now, success=event.success)
    ended, actions = end_now(decided, now)
    return ended, told + actions


def promote(mount: Mount, now: Seconds) -> Moved:
    """start_first: the first one died while the second was starting; the second is all there is."""
    first, second = mount.instance, mount.incoming
    alone = replace(
        mount,
        phase=Phase.STARTING,
        instance=second,
        incoming=None,
        outgoing=first,
        wanted=second.launch if second else None,
        down_since=now,
        watched=None,
    )
    return kill(alone, first) if first else (alone, ())


def unhealthy(mount: Mount, event: ProbeFailed, now: Seconds) -> Moved:
    if mount.incoming is not None:
        return mount, ()
    decided, told = _died(mount, event.reason, now)
    ended, actions = end(decided, now)
    return ended, told + actions


def _died(mount: Mount, reason: str, now: Seconds, *, success: bool = False) -> Moved:
    """A ready instance is dead or has to go: back to what ran before, restart, or rest."""
    watched = mount.watched
    if watched is not None and watched.fallback is not None:
        return replace(fall_back(mount, watched, reason), down_since=now), ()
    told = answer(mount, mount.current, Outcome.FAILED, both_reasons(mount.current, reason), now)
    mount = replace(mount, current=None, down_since=now)
    if mount.queued is not None:
        queued = replace(mount.queued, old=mount.instance)
        return replace(mount, current=queued, queued=None, wanted=queued.launch, not_before=0.0), told
    if success and mount.policies.restart.policy != "always":
        return replace(mount, wanted=None, rest=Phase.STOPPED, reason=reason), told
    return crashed(mount, reason, now), told


def timer_while_ready(mount: Mount, event: TimerFired, _now: Seconds) -> Moved:
    if event.name != "watch" or mount.instance is None:
        return mount, ()
    return replace(mount, watched=None, good=mount.instance.launch), ()


def stop_command_done(mount: Mount, event: StopCommandDone, _now: Seconds) -> Moved:
    return mount, (SignalMain(event.generation, mount.policies.stop.signal),)


def exited_while_stopping(mount: Mount, _event: Exited, now: Seconds) -> Moved:
    if mount.instance is None:
        return mount, ()
    return kill(mount, mount.instance, max(0.0, mount.deadline - now))


def timer_while_stopping(mount: Mount, event: TimerFired, _now: Seconds) -> Moved:
    if event.name != "stop" or mount.instance is None:
        return mount, ()
    return kill(mount, mount.instance)


def timer_while_in_backoff(mount: Mount, event: TimerFired, _now: Seconds) -> Moved:
    if event.name != "backoff" or event.generation != mount.generation or mount.wanted is None:
        return mount, ()
    return spawn(mount, mount.wanted)


def tree_gone(mount: Mount, event: TreeGone, now: Seconds) -> Moved:
    return settle(replace(mount, instance=None, killing=mount.killing - {event.generation}), now)


def tree_gone_at_last(mount: Mount, event: TreeGone, _now: Seconds) -> Moved:
    """In FAILED: the member that could not be killed is gone; nothing starts before somebody asks."""
    return replace(mount, instance=None, killing=mount.killing - {event.generation}), ()


def tree_survived(mount: Mount, event: TreeSurvived, now: Seconds) -> Moved:
    told = answer(mount, mount.current, Outcome.FAILED, event.reason, now)
    told += answer(mount, mount.queued, Outcome.FAILED, event.reason, now)
    if mount.stops:
        told += (Answer(mount.stops, Outcome.FAILED, event.reason),)
    failed = replace(
        mount,
        phase=Phase.FAILED,
        killing=mount.killing - {event.generation},
        wanted=None,
        current=None,
        queued=None,
        stops=(),
        reason=event.reason,
    )
    return failed, told
