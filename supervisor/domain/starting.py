"""What becomes of a mount whose instance is under start: spawned, adopted, ready, on probation, unready."""

from msgspec.structs import replace

from supervisor.domain.catalog import Launch
from supervisor.domain.events import (
    Action,
    Adopted,
    BecameReady,
    ClearTimer,
    Exited,
    KillTree,
    Outcome,
    ProbeFailed,
    SetTimer,
    SignalMain,
    Spawned,
    SpawnFailed,
    TakeAsReady,
    TimerFired,
)
from supervisor.domain.mount import Mount, Phase, Replacement
from supervisor.domain.moves import (
    Moved,
    answer,
    crashed,
    end,
    end_now,
    fall_back,
    fallback_for,
    gone,
    joined,
    may_try_again,
    other_than,
    settle,
    then_queued,
    try_again,
)
from supervisor.domain.names import Seconds, shown_duration


def spawned(mount: Mount, event: Spawned, now: Seconds) -> Moved:
    if mount.past.scarce:
        mount = replace(mount, past=replace(mount.past, scarce=0))
    timeout = mount.policies_at(event.generation).ready.timeout
    return mount, (SetTimer("ready", event.generation, now + timeout),)


def spawned_too_late(mount: Mount, event: Spawned, _now: Seconds) -> Moved:
    """It is not wanted any more; what was to end it found no process then."""
    if event.generation in mount.killing:
        return mount, (KillTree(event.generation),)
    return mount, (SignalMain(event.generation, mount.policies_at(event.generation).stop.signal),)


def became_ready(mount: Mount, event: BecameReady, now: Seconds) -> Moved:
    current = mount.current
    launch = mount.running.launch
    ready = replace(mount, phase=Phase.READY, wanted=None, current=None, reason=None, ready_since=now)
    actions: tuple[Action, ...] = (ClearTimer("ready", event.generation),)
    if current is None:
        ready, watch = on_probation(ready, _unasked(mount, launch, now), now)
    elif current.failure is not None:
        why = f"rolled back from {current.launch.version}: {current.failure}"
        ready = replace(ready, rolled_back_from=current.launch, reason=why)
        actions += answer(mount, current, Outcome.ROLLED_BACK, current.failure, now)
        # what ran before may itself have been new: then what last worked still stands behind it
        ready, watch = on_probation(ready, replace(current, fallback=mount.good), now)
    else:
        actions += answer(mount, current, Outcome.DONE, None, now)
        ready, watch = on_probation(proved(ready), current, now)
    return then_queued(replace(ready, down_since=None), actions + watch, now)


def proved(mount: Mount) -> Mount:
    """Another launch than the one that others gave way to has come up: nothing is rolled back any more."""
    if mount.running.launch == mount.good:
        return mount
    return replace(mount, rolled_back_from=None)


def on_probation(mount: Mount, current: Replacement, now: Seconds) -> Moved:
    """A new version has proved itself when `reload.watch` is over; until then the former one is good."""
    instance, policy = mount.running, mount.policies.reload
    fallback = other_than(instance.launch, current.fallback, mount.good)
    has_nothing_to_prove = fallback is None or instance.launch == mount.good
    if has_nothing_to_prove or not policy.rollback or not policy.watch:
        return proven(mount), ()
    watched = replace(current, fallback=fallback, commands=(), told=current.told + current.commands)
    return replace(mount, watched=watched), (SetTimer("watch", instance.generation, now + policy.watch),)


def proven(mount: Mount) -> Mount:
    """What runs has worked for long enough: nothing else comes back any more."""
    launch = mount.running.launch
    former = tuple(pair for pair in mount.former if pair[0] == launch)
    return replace(mount, good=launch, former=former)


def _unasked(mount: Mount, launch: Launch, now: Seconds) -> Replacement:
    """For an instance that nobody waits for: adopted, or started again after a crash."""
    return Replacement((), launch, now, fallback=other_than(launch, mount.good))


def adopted(mount: Mount, event: Adopted, now: Seconds) -> Moved:
    instance = event.instance
    there = replace(
        mount,
        instance=instance,
        generation=max(mount.generation, instance.generation),
        phase=Phase.READY if event.ready else Phase.STARTING,
        wanted=None if event.ready else instance.launch,
        ready_since=now if event.ready else None,
        unheard=None if event.ready else instance.generation,
        told_before=(),
    )
    if mount.held is not None or mount.told_to_stop:  # the former daemon died while it was stopping it
        return end(replace(there, wanted=None, told_to_stop=True), now)
    unasked = replace(_unasked(mount, instance.launch, now), told=mount.told_before)
    if event.ready:
        return on_probation(there, unasked, now)
    there = replace(there, current=unasked)
    timeout = mount.policies_of(instance.launch).ready.timeout
    return there, (SetTimer("ready", instance.generation, now + timeout),)


def not_started(mount: Mount, reason: str, now: Seconds, *, transient: bool = False) -> Moved:
    """The instance under start will not be ready: decide what comes when its tree is gone."""
    current, queued = mount.current, mount.queued
    failed = mount.running
    if queued is not None and (current is None or current.failure is None):
        # the later command speaks for both: two replacements, not three
        both = joined(mount, current, queued)
        return replace(mount, current=both, queued=None, wanted=both.launch, not_before=0.0), ()
    if transient and current is not None and queued is None and may_try_again(mount, current, now):
        return try_again(mount, failed.launch, reason, now), ()
    has_fallback = current is not None and current.failure is None and current.fallback is not None
    if current is not None and has_fallback and mount.policies.reload.rollback:
        return fall_back(mount, current, reason), ()
    launch = failed.launch
    if current is not None:
        if current.failure is not None and mount.good is not None:
            launch = mount.good  # what ran before was not good either
        current = replace(current, failed=current.failed or failed)
    why = both_reasons(mount, current, reason)
    told = answer(mount, current, Outcome.FAILED, why, now)
    if queued is not None:
        return next_is(mount, queued), told
    alone = replace(mount, current=None)
    return (try_again if transient else crashed)(alone, launch, why, now), told


def next_is(mount: Mount, queued: Replacement) -> Mount:
    """The command that waited goes on in the place of what has failed."""
    following = replace(queued, old=mount.instance, fallback=fallback_for(mount, queued.launch))
    return replace(mount, current=following, queued=None, wanted=queued.launch, not_before=0.0)


def both_reasons(mount: Mount, current: Replacement | None, reason: str) -> str:
    """Why a version did not work and then why what came back instead of it did not either."""
    if current is None or current.failure is None:
        return reason
    back = mount.running.launch.version
    return f"{current.launch.version}: {current.failure}; and back on {back}: {reason}"


def exited_while_starting(mount: Mount, event: Exited, now: Seconds) -> Moved:
    decided, told = not_started(mount, why_it_ended(event), now)
    ended, actions = end_now(decided, now)
    return ended, told + actions


def why_it_ended(event: Exited) -> str:
    """Of one that was not ready yet."""
    hint = ", as if it were done: a plugin stays in the foreground" if event.success else ""
    return f"ended before it was ready: {event.reason}{hint}"


def spawn_failed(mount: Mount, event: SpawnFailed, now: Seconds) -> Moved:
    decided, told = not_started(mount, event.reason, now, transient=event.transient)
    nobody = replace(gone(decided, event.generation), phase=Phase.STOPPING)
    settled, actions = settle(nobody, now)
    return settled, (*told, ClearTimer("ready", event.generation), *actions)


def spawn_failed_while_stopping(mount: Mount, event: SpawnFailed, now: Seconds) -> Moved:
    settled, actions = settle(gone(mount, event.generation), now)
    return settled, (ClearTimer("stop", event.generation), *actions)


def never_ready(mount: Mount, event: ProbeFailed, now: Seconds) -> Moved:
    return _stopped_as_unready(mount, event.reason, now)


def timer_while_starting(mount: Mount, event: TimerFired, now: Seconds) -> Moved:
    if event.name != "ready":
        return mount, ()
    if event.extended is not None and event.extended > now:
        return mount, (SetTimer("ready", event.generation, event.extended),)
    if _cannot_say_it_again(mount, event.generation):
        return _taken_as_ready(mount, event.generation, now)
    return _stopped_as_unready(mount, why_unready(mount, event), now)


def _cannot_say_it_again(mount: Mount, generation: int) -> bool:
    """READY=1 may have come while no plugind listened; a version that has not proved itself must say it."""
    proven = mount.current is None or mount.current.fallback is None
    kind = mount.policies_at(generation).ready.kind
    return proven and mount.unheard == generation and kind == "notify"


def why_unready(mount: Mount, event: TimerFired) -> str:
    reason = f"not ready in {shown_duration(mount.policies_at(event.generation).ready.timeout)}"
    return f"{reason}: {event.detail}" if event.detail else reason


def _taken_as_ready(mount: Mount, generation: int, now: Seconds) -> Moved:
    """It lives, and a plugin says READY=1 once: to kill it for what nobody heard would be for nothing."""
    ready, actions = became_ready(mount, BecameReady(generation), now)
    timeout = mount.policies_at(generation).ready.timeout
    why = f"taken as ready: adopted, and silent for {shown_duration(timeout)} since"
    return replace(ready, reason=f"{ready.reason}; {why}" if ready.reason else why), (
        TakeAsReady(generation),
        *actions,
    )


def _stopped_as_unready(mount: Mount, reason: str, now: Seconds) -> Moved:
    decided, told = not_started(mount, reason, now)
    ended, actions = end(decided, now)
    return ended, told + actions
