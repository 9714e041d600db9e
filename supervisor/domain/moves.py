"""The steps that the handlers of a mount's life are made of: spawn, end, kill, settle, give up, answer.

Each takes a mount and returns the next one with the actions that go with it. When which step is
due is decided in `lifecycle.py`, `commands.py`, `facts.py` and `handover.py`.
"""

from collections.abc import Callable
from dataclasses import replace

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
        current=mount.current and replace(mount.current, spawned=True),
    )
    return started, (Spawn(instance),)


def bring_in(mount: Mount, replacement: Replacement) -> Moved:
    """start_first: start a second instance beside the first."""
    incoming = next_instance(mount, replacement.launch)
    current = replace(
        replacement, fallback=fallback_for(mount, replacement.launch), old=mount.instance, spawned=True
    )
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
    policy = mount.policies.stop
    first = STOPS["command" if policy.command else "signal"](instance, policy)
    return (first, SetTimer("stop", instance.generation, now + policy.timeout))


def kill(mount: Mount, instance: Instance, grace: Seconds = 0.0) -> Moved:
    """Kill what is left of `instance` after `grace`; once is enough."""
    if instance.generation in mount.killing:
        return mount, ()
    marked = replace(mount, killing=mount.killing | {instance.generation})
    return marked, (ClearTimer("stop", instance.generation), KillTree(instance.generation, grace))


def end(mount: Mount, now: Seconds) -> Moved:
    """Stop the instance in an orderly way; what comes then stands in `wanted` and `rest`."""
    instance = mount.instance
    ending = replace(
        mount,
        phase=Phase.STOPPING,
        watched=None,
        deadline=now + mount.policies.stop.timeout,
        down_since=now if mount.phase is Phase.READY else mount.down_since,
    )
    if instance is None:
        return settle(ending, now)
    return ending, _without_timers(instance) + stop_actions(ending, instance, now)


def end_now(mount: Mount, now: Seconds) -> Moved:
    """Kill what is left of the instance at once: its main process is dead, or nothing else helped."""
    instance = mount.instance
    ending = replace(mount, phase=Phase.STOPPING, watched=None)
    if instance is None:
        return settle(ending, now)
    killed, actions = kill(ending, instance)
    return killed, _without_timers(instance) + actions


def _without_timers(instance: Instance) -> tuple[Action, ...]:
    return (ClearTimer("ready", instance.generation), ClearTimer("watch", instance.generation))


def settle(mount: Mount, now: Seconds) -> Moved:
    """Go on to what is wanted, once no process of the mount is left."""
    if not mount.is_empty:
        return mount, ()
    if mount.wanted is None:
        told = (Answer(mount.stops, Outcome.DONE),) if mount.stops else ()
        return replace(mount, phase=mount.rest, stops=(), down_since=None), told
    if now >= mount.not_before:
        return spawn(mount, mount.wanted)
    timer = SetTimer("backoff", mount.generation, mount.not_before)
    return replace(mount, phase=Phase.BACKOFF), (timer,)


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
    if mount.queued is None or not (mount.incoming is None and mount.outgoing is None):
        return mount, actions
    following = replace(mount, queued=None)
    if mount.policies.reload.order == "start_first":
        moved, more = bring_in(following, mount.queued)
    else:
        moved, more = begin(following, mount.queued, now)
    return moved, actions + more


def fallback_for(mount: Mount, launch: Launch) -> Launch | None:
    """What ran before and worked, where it is another one than `launch`."""
    running = mount.instance.launch if mount.phase is Phase.READY and mount.instance else mount.good
    if running == launch and mount.watched is not None:
        return mount.watched.fallback
    return running if running != launch else None


def joined(first: Replacement | None, second: Replacement) -> Replacement:
    """The later command's launch answers for both."""
    if first is None:
        return second
    fallback = first.fallback if first.fallback != second.launch else None
    return replace(
        second,
        commands=first.commands + second.commands,
        since=first.since,
        fallback=fallback,
        old=first.old,
    )


def answer(
    mount: Mount, replacement: Replacement | None, outcome: Outcome, reason: str | None, now: Seconds
) -> tuple[Action, ...]:
    """Tell whoever waits for `replacement` how it ended."""
    if replacement is None or not replacement.commands:
        return ()
    runs = outcome in {Outcome.DONE, Outcome.ROLLED_BACK}
    return (
        Answer(
            replacement.commands,
            outcome,
            reason,
            old=replacement.old,
            new=mount.instance if runs else None,
            down=None if mount.down_since is None else now - mount.down_since,
            amends=replacement.answered,
            failed=replacement.failed,
        ),
    )


def fall_back(mount: Mount, replacement: Replacement, reason: str) -> Mount:
    """Its launch did not work: what ran before comes when the tree is gone."""
    falling = replace(replacement, failure=reason, failed=mount.instance, spawned=False)
    return replace(
        mount, current=falling, wanted=replacement.fallback, not_before=0.0, watched=None, reason=reason
    )


def crashed(mount: Mount, reason: str, now: Seconds, *, counts: bool = True) -> Mount:
    """Restart by the policy, or give up: decided now, done when the tree is gone.

    `counts` False is for failures that are not the plugin's: the shortest backoff, never given up.
    """
    policy = mount.policies.restart
    mount = replace(mount, down_since=mount.down_since if mount.down_since is not None else now)
    if policy.policy == "never":
        return replace(mount, wanted=None, rest=Phase.FAILED, reason=reason)
    crashes = restarts.recent(mount.crashes, now, policy)
    if counts:
        crashes = (*crashes, now)
    decision = restarts.after_crash(crashes if counts else (now,), now, policy, mount.key)
    match decision:
        case restarts.Wait(delay):
            wanted = mount.instance.launch if mount.instance else mount.wanted
            return replace(mount, crashes=crashes, wanted=wanted, not_before=now + delay, reason=reason)
        case restarts.GiveUp(why):
            given_up = f"{reason}; given up after {why}"
            return replace(mount, crashes=crashes, wanted=None, rest=Phase.FAILED, reason=given_up)
