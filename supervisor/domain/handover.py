"""start_first: what becomes of a mount by its second instance, and by its first one once it has to go.

While the second is starting it is `incoming` and the phase is that of the first. When it is ready
it becomes the instance, and the first is `outgoing` until its tree is gone.
"""

from dataclasses import replace

from supervisor.domain.events import (
    Action,
    BecameReady,
    ClearTimer,
    Event,
    Exited,
    Outcome,
    ProbeFailed,
    SignalMain,
    SpawnFailed,
    StopCommandDone,
    TimerFired,
    TreeGone,
    TreeSurvived,
)
from supervisor.domain.facts import on_probation
from supervisor.domain.mount import Mount, Phase
from supervisor.domain.moves import Moved, answer, kill, settle, stop_actions, then_queued
from supervisor.domain.names import Seconds, shown_duration


def takes_over(mount: Mount, event: BecameReady, now: Seconds) -> Moved:
    current, first, second = mount.current, mount.instance, mount.incoming
    if mount.phase is not Phase.READY or current is None or current.failure or first is None:
        return mount, ()
    switched = replace(
        mount,
        instance=second,
        incoming=None,
        outgoing=first,
        current=None,
        watched=None,
        rolled_back_from=None,
        reason=None,
        deadline=now + mount.policies.stop.timeout,
    )
    told = answer(replace(switched, down_since=now), current, Outcome.DONE, None, now)
    switched, watch = on_probation(switched, current, now)
    clear: tuple[Action, ...] = (
        ClearTimer("ready", event.generation),
        ClearTimer("watch", first.generation),
    )
    return switched, clear + told + watch + stop_actions(switched, first, now)


def second_exited(mount: Mount, event: Exited, _now: Seconds) -> Moved:
    failing = _failing(mount, f"ended before it was ready: {event.reason}")
    return kill(failing, mount.incoming) if mount.incoming else (failing, ())


def second_not_spawned(mount: Mount, event: SpawnFailed, now: Seconds) -> Moved:
    return _second_is_gone(_failing(mount, event.reason), event.generation, now)


def second_not_ready(mount: Mount, event: ProbeFailed, now: Seconds) -> Moved:
    return _send_away(mount, event.reason, now)


def second_timer(mount: Mount, event: TimerFired, now: Seconds) -> Moved:
    if event.name == "ready":
        reason = f"not ready in {shown_duration(mount.policies.ready.timeout)}"
        return _send_away(mount, f"{reason}: {event.detail}" if event.detail else reason, now)
    if event.name == "stop" and mount.incoming is not None:
        return kill(mount, mount.incoming)
    return mount, ()


def _send_away(mount: Mount, reason: str, now: Seconds) -> Moved:
    if mount.incoming is None or (mount.current and mount.current.failure):
        return mount, ()
    return _failing(mount, reason), stop_actions(mount, mount.incoming, now)


def _failing(mount: Mount, reason: str) -> Mount:
    if mount.current is None or mount.current.failure is not None:
        return mount
    return replace(mount, current=replace(mount.current, failure=reason, failed=mount.incoming))


def second_gone(mount: Mount, event: TreeGone, now: Seconds) -> Moved:
    return _second_is_gone(mount, event.generation, now)


def _second_is_gone(mount: Mount, generation: int, now: Seconds) -> Moved:
    current = mount.current
    alone = replace(mount, incoming=None, killing=mount.killing - {generation})
    clear: tuple[Action, ...] = (ClearTimer("ready", generation), ClearTimer("stop", generation))
    if mount.phase is not Phase.READY:
        settled, actions = settle(alone, now) if mount.phase is Phase.STOPPING else (alone, ())
        return settled, clear + actions
    if current is None:
        return then_queued(alone, clear, now)
    running = mount.instance.launch if mount.instance else None
    alone = replace(alone, current=None)
    if running == current.launch:
        told = answer(alone, current, Outcome.FAILED, f"{current.failure}; what ran before goes on", now)
    else:
        why = f"rolled back from {current.launch.version}: {current.failure}"
        alone = replace(alone, rolled_back_from=current.launch, good=running, reason=why)
        told = answer(replace(alone, down_since=now), current, Outcome.ROLLED_BACK, current.failure, now)
    return then_queued(alone, clear + told, now)


def second_survived(mount: Mount, event: TreeSurvived, now: Seconds) -> Moved:
    """It cannot be killed: the first goes on, and nothing else starts beside the two."""
    told = answer(mount, mount.current, Outcome.FAILED, event.reason, now)
    told += answer(mount, mount.queued, Outcome.FAILED, event.reason, now)
    left = replace(mount, current=None, queued=None, reason=event.reason)
    return replace(left, killing=left.killing - {event.generation}), told


def first_exited(mount: Mount, _event: Exited, now: Seconds) -> Moved:
    if mount.outgoing is None:
        return mount, ()
    return kill(mount, mount.outgoing, max(0.0, mount.deadline - now))


def first_timer(mount: Mount, event: TimerFired, _now: Seconds) -> Moved:
    if event.name != "stop" or mount.outgoing is None:
        return mount, ()
    return kill(mount, mount.outgoing)


def first_gone(mount: Mount, event: TreeGone, now: Seconds) -> Moved:
    alone = replace(mount, outgoing=None, killing=mount.killing - {event.generation})
    match mount.phase:
        case Phase.READY:
            return then_queued(alone, (), now)
        case Phase.STOPPING:
            return settle(alone, now)
        case Phase.STOPPED | Phase.STARTING | Phase.BACKOFF | Phase.FAILED:
            return alone, ()


def first_survived(mount: Mount, event: TreeSurvived, now: Seconds) -> Moved:
    told = answer(mount, mount.queued, Outcome.FAILED, event.reason, now)
    left = replace(mount, queued=None, reason=event.reason, killing=mount.killing - {event.generation})
    return left, told


def stop_command_done(mount: Mount, event: StopCommandDone, _now: Seconds) -> Moved:
    return mount, (SignalMain(event.generation, mount.policies.stop.signal),)


def nothing(mount: Mount, _event: Event, _now: Seconds) -> Moved:
    return mount, ()
