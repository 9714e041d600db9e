"""The steps that the handlers of a mount's life are made of: spawn, end, kill, settle, give up, answer.

Each takes a mount and returns the next one with the actions that go with it. When which step is
due is decided in `lifecycle.py`, `commands.py`, `starting.py`, `ending.py` and `handover.py`.
"""

from collections.abc import Callable

from msgspec.structs import replace

from supervisor.domain import restarts
from supervisor.domain.catalog import Launch, StopPolicy
from supervisor.domain.events import (
    Action,
    Answer,
    ClearTimer,
    Instance,
    KillTree,
    Outcome,
    RunStopCommand,
    SetTimer,
    SignalMain,
    Spawn,
    TreeSurvived,
)
from supervisor.domain.mount import Mount, Phase, Replacement
from supervisor.domain.names import Seconds, instance_id

Moved = tuple[Mount, tuple[Action, ...]]


def next_instance(mount: Mount, launch: Launch) -> Instance:
    return Instance(instance_id(mount.key, mount.generation + 1), mount.generation + 1, launch)


def spawn(mount: Mount, launch: Launch) -> Moved:
    """Start `launch`; only where no process of the mount can exist."""
    instance = next_instance(mount, launch)
    started = replace(
        mount,
        phase=Phase.STARTING,
        generation=instance.generation,
        instance=instance,
        wanted=launch,
    )
    return started, (Spawn(instance),)


def bring_in(mount: Mount, replacement: Replacement) -> Moved:
    """start_first: start a second instance beside the first."""
    incoming = next_instance(mount, replacement.launch)
    current = replace(replacement, fallback=fallback_for(mount, replacement.launch), old=mount.instance)
    both = replace(
        mount,
        generation=incoming.generation,
        incoming=incoming,
        current=current,
        down_since=None,
        reason=None,
    )
    return both, (Spawn(incoming),)


def _stop_by_signal(instance: Instance, policy: StopPolicy) -> Action:
    return SignalMain(instance.generation, policy.signal)


def _stop_by_command(instance: Instance, policy: StopPolicy) -> Action:
    return RunStopCommand(instance.generation, policy.command)


STOPS: dict[str, Callable[[Instance, StopPolicy], Action]] = {
    "signal": _stop_by_signal,
    "command": _stop_by_command,
}


def stop_actions(mount: Mount, instance: Instance, now: Seconds) -> tuple[Action, ...]:
    policy = mount.policies_of(instance.launch).stop
    first = STOPS["command" if policy.command else "signal"](instance, policy)
    return (first, SetTimer("stop", instance.generation, now + policy.timeout))


def kill(mount: Mount, generation: int, grace: Seconds = 0.0) -> Moved:
    """Kill what is left of that instance after `grace`; one attempt at a time is enough."""
    if generation in mount.killing:
        return mount, ()
    marked = replace(
        mount, killing=mount.killing | {generation}, survivors=_others(mount.survivors, generation)
    )
    return marked, (ClearTimer("stop", generation), KillTree(generation, grace))


def kill_survivors(mount: Mount) -> Moved:
    """Try again with what could not be killed before."""
    actions: tuple[Action, ...] = ()
    for survivor in mount.survivors:
        mount, more = kill(mount, survivor.generation)
        actions += more
    return mount, actions


def survived(mount: Mount, event: TreeSurvived) -> Mount:
    """An attempt to kill has failed; the instance stays known."""
    survivors = (*_others(mount.survivors, event.generation), event)
    return replace(
        mount, killing=mount.killing - {event.generation}, survivors=survivors, reason=event.reason
    )


def gone(mount: Mount, generation: int) -> Mount:
    """No process of that instance is left."""

    def left(instance: Instance | None) -> Instance | None:
        return None if instance is not None and instance.generation == generation else instance

    return replace(
        mount,
        instance=left(mount.instance),
        incoming=left(mount.incoming),
        outgoing=left(mount.outgoing),
        killing=mount.killing - {generation},
        survivors=_others(mount.survivors, generation),
    )


def _others(survivors: tuple[TreeSurvived, ...], generation: int) -> tuple[TreeSurvived, ...]:
    return tuple(survivor for survivor in survivors if survivor.generation != generation)


def end(mount: Mount, now: Seconds) -> Moved:
    """Stop the instance in an orderly way; what comes then stands in `wanted` and `rest`."""
    instance = mount.instance
    ending = replace(
        mount,
        phase=Phase.STOPPING,
        watched=None,
        unwell=None,
        deadline=now + (mount.policies_of(instance.launch) if instance else mount.policies).stop.timeout,
        down_since=now if mount.phase is Phase.READY else mount.down_since,
    )
    if instance is None:
        return settle(ending, now)
    ending, again = kill_survivors(ending)
    return ending, again + _without_timers(instance) + stop_actions(ending, instance, now)


def end_now(mount: Mount, now: Seconds) -> Moved:
    """Kill what is left of the instance at once: its main process is dead, or nothing else helped."""
    instance = mount.instance
    ending, again = kill_survivors(replace(mount, phase=Phase.STOPPING, watched=None, unwell=None))
    if instance is None:
        settled, actions = settle(ending, now)
        return settled, again + actions
    killed, actions = kill(ending, instance.generation)
    return killed, again + _without_timers(instance) + actions


def _without_timers(instance: Instance) -> tuple[Action, ...]:
    return (ClearTimer("ready", instance.generation), ClearTimer("watch", instance.generation))


def settle(mount: Mount, now: Seconds) -> Moved:
    """Go on to what is wanted, once no process of the mount is left."""
    if not mount.is_empty:
        return stuck(mount, now) if len(mount.survivors) == len(mount.living) else (mount, ())
    if mount.wanted is None:
        told = (Answer(mount.stops, Outcome.DONE),) if mount.stops else ()
        return replace(mount, phase=mount.rest, stops=(), down_since=None), told
    if not mount.not_before:
        return spawn(mount, mount.wanted)
    # also where its time has come by now: a restart that nobody asked for waits for its turn
    timer = SetTimer("backoff", mount.generation, max(now, mount.not_before))
    return replace(mount, phase=Phase.BACKOFF), (timer,)


def stuck(mount: Mount, now: Seconds) -> Moved:
    """All that is left of the mount could not be killed: nothing starts, whoever waits is told."""
    reason = "; ".join(survivor.reason for survivor in mount.survivors)
    current = mount.current
    if current is not None and current.failure is not None:
        reason = f"{current.launch.version}: {current.failure}; {reason}"
    told = answer(mount, current, Outcome.FAILED, reason, now)
    told += answer(mount, mount.queued, Outcome.FAILED, reason, now)
    if mount.stops:
        told += (Answer(mount.stops, Outcome.FAILED, reason),)
    failed = replace(
        mount, phase=Phase.FAILED, wanted=None, current=None, queued=None, stops=(), reason=reason
    )
    return failed, told


def begin(mount: Mount, replacement: Replacement, now: Seconds) -> Moved:
    """Replace whatever there is by an instance of `replacement`."""
    asked = replace(replacement, fallback=fallback_for(mount, replacement.launch), old=mount.instance)
    began = replace(
        mount,
        current=asked,
        wanted=asked.launch,
        not_before=0.0,
        rest=Phase.STOPPED,
        told_to_stop=False,
        reason=None,
    )
    if mount.phase is Phase.FAILED:  # members that survived a kill: try again, and start nothing before
        return end_now(began, now)
    return end(began, now)


def then_queued(mount: Mount, actions: tuple[Action, ...], now: Seconds) -> Moved:
    """A mount that came to rest with a command waiting goes on with it."""
    if mount.queued is None:
        return mount, actions
    if mount.incoming is not None or mount.outgoing is not None:
        again, more = kill_survivors(mount)
        return again, actions + more
    following = replace(mount, queued=None)
    if mount.policies.reload.order == "start_first":
        moved, more = bring_in(following, mount.queued)
    else:
        moved, more = begin(following, mount.queued, now)
    return moved, actions + more


def fallback_for(mount: Mount, launch: Launch) -> Launch | None:
    """What ran before and worked, where it is another one than `launch`."""
    running = mount.running.launch if mount.phase is Phase.READY else None
    unproved = mount.watched.fallback if mount.watched else None
    return other_than(launch, running, unproved, mount.good)


def other_than(launch: Launch, *others: Launch | None) -> Launch | None:
    """The first of `others` that there is and that is not the one that may not work."""
    return next((other for other in others if other is not None and other != launch), None)


def joined(mount: Mount, first: Replacement | None, second: Replacement) -> Replacement:
    """The later command's launch answers for both."""
    if first is None:
        return second
    # the first may have had nothing to fall back to only because it was the version that ran
    return replace(
        second,
        commands=first.commands + second.commands,
        since=first.since,
        fallback=other_than(second.launch, first.fallback, mount.good),
        old=first.old,
    )


def answer(
    mount: Mount, replacement: Replacement | None, outcome: Outcome, reason: str | None, now: Seconds
) -> tuple[Action, ...]:
    """Tell whoever waits for `replacement` how it ended, and again whoever was told otherwise."""
    if replacement is None:
        return ()
    runs = outcome in {Outcome.DONE, Outcome.ROLLED_BACK}
    said = Answer(
        replacement.commands,
        outcome,
        reason,
        old=replacement.old,
        new=mount.instance if runs else None,
        down=None if mount.down_since is None else now - mount.down_since,
        failed=replacement.failed,
    )
    amended = replace(said, commands=replacement.told, amends=True)
    return tuple(answer for answer in (said, amended) if answer.commands)


def fall_back(mount: Mount, replacement: Replacement, reason: str) -> Mount:
    """Its launch did not work: what ran before comes when the tree is gone."""
    falling = replace(replacement, failure=reason, failed=mount.instance)
    return replace(
        mount, current=falling, wanted=replacement.fallback, not_before=0.0, watched=None, reason=reason
    )


def crashed(
    mount: Mount, launch: Launch, reason: str, now: Seconds, ready_since: Seconds | None = None
) -> Mount:
    """Restart as `launch` by the policy, or give up: decided now, done when the tree is gone."""
    policy = mount.policies_of(launch).restart
    mount = replace(mount, down_since=mount.down_since if mount.down_since is not None else now)
    if policy.policy == "never":
        return replace(mount, wanted=None, rest=Phase.FAILED, reason=reason)
    past = restarts.noted(mount.past, now, policy, ready_since)
    decision = restarts.after_crash(past, policy, mount.key)
    if isinstance(decision, restarts.GiveUp):
        given_up = f"{reason}; given up after {decision.reason}"
        return replace(mount, past=past, wanted=None, rest=Phase.FAILED, reason=given_up)
    return replace(mount, past=past, wanted=launch, not_before=now + decision.delay, reason=reason)


def try_again(mount: Mount, launch: Launch, reason: str, now: Seconds) -> Mount:
    """The machine, not the version, kept it from starting: no crash, so no giving up by any policy."""
    past = _once_more_scarce(mount)
    delay = restarts.scarcity(past.scarce, mount.policies_of(launch).restart, mount.key)
    since = mount.down_since if mount.down_since is not None else now
    return replace(mount, past=past, wanted=launch, not_before=now + delay, reason=reason, down_since=since)


def may_try_again(mount: Mount, current: Replacement, now: Seconds) -> bool:
    """Whether who waits for `current` still has the patience for a next try."""
    policy = mount.policies_of(mount.running.launch).restart
    delay = restarts.scarcity(_once_more_scarce(mount).scarce, policy, mount.key)
    nobody_waits = not (current.commands or current.told)
    return nobody_waits or now + delay <= current.since + restarts.PATIENCE


def _once_more_scarce(mount: Mount) -> restarts.Record:
    return replace(mount.past, scarce=mount.past.scarce + 1)
