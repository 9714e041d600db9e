"""What people ask of a mount: start, stop, reload, other settings; one handler a phase where it matters."""

from msgspec.structs import replace

from supervisor.domain.events import Action, Answer, ClearTimer, Configure, Outcome, Reload, Start, Stop
from supervisor.domain.mount import Mount, Phase, Replacement
from supervisor.domain.moves import (
    Moved,
    answer,
    begin,
    bring_in,
    end,
    end_now,
    fallback_for,
    joined,
    kill,
    kill_survivors,
    settle,
)
from supervisor.domain.names import Seconds
from supervisor.domain.restarts import CLEAN


def start(mount: Mount, event: Start, now: Seconds) -> Moved:
    """From a phase in which nothing runs: ends a stop by hand and a crash loop."""
    fresh = replace(mount, held=None, past=CLEAN)
    began, actions = begin(fresh, Replacement(_ids(event.command), event.launch, now), now)
    return began, (ClearTimer("backoff", mount.generation), *actions)


def start_in_backoff(mount: Mount, event: Start, now: Seconds) -> Moved:
    """It waits for no backoff; what is tried again for want of means answers this command too."""
    if mount.current is None:
        return start(mount, event, now)
    both = replace(mount, held=None, past=CLEAN, current=_waited_for(mount, event, now))
    return _tried_now(both, now)


def start_while_starting(mount: Mount, event: Start, now: Seconds) -> Moved:
    return replace(mount, held=None, current=_waited_for(mount, event, now)), ()


def start_while_ready(mount: Mount, event: Start, now: Seconds) -> Moved:
    asked = Replacement(_ids(event.command), event.launch, now, old=mount.instance)
    return replace(mount, held=None), answer(mount, asked, Outcome.DONE, None, now)


def start_while_stopping(mount: Mount, event: Start, now: Seconds) -> Moved:
    if mount.wanted is not None:
        current = _waited_for(mount, event, now)
        return replace(mount, held=None, current=current, not_before=0.0), ()
    asked = Replacement(
        _ids(event.command), event.launch, now, fallback=fallback_for(mount, event.launch), old=mount.instance
    )
    told: tuple[Action, ...] = ()
    if mount.stops:
        told = (Answer(mount.stops, Outcome.SKIPPED, "a start came before the stop was done"),)
    began = replace(
        mount,
        held=None,
        told_to_stop=False,
        past=CLEAN,
        stops=(),
        wanted=event.launch,
        not_before=0.0,
        rest=Phase.STOPPED,
        current=asked,
    )
    return began, told


def _waited_for(mount: Mount, event: Start, now: Seconds) -> Replacement:
    """What is under way answers this command too."""
    if mount.current is not None:
        return replace(mount.current, commands=mount.current.commands + _ids(event.command))
    launch = mount.wanted or event.launch
    return Replacement(_ids(event.command), launch, now)


def stop(mount: Mount, event: Stop, now: Seconds) -> Moved:
    """Stop what runs or is about to; commands that wait for a start are told so."""
    why = f"stopped by hand by {event.by.who}" if event.by else event.why
    told = answer(mount, mount.current, Outcome.SKIPPED, why, now)
    told += answer(mount, mount.queued, Outcome.SKIPPED, why, now)
    stopping = replace(
        mount,
        held=event.by or mount.held,
        told_to_stop=True,
        wanted=None,
        rest=Phase.STOPPED,
        current=None,
        queued=None,
        watched=None,
        past=CLEAN,
        stops=mount.stops + _ids(event.command),
        reason=why,
    )
    told += (ClearTimer("backoff", mount.generation),)
    if mount.incoming is not None:
        stopping, actions = kill(stopping, mount.incoming.generation)
        told += actions
    if mount.is_empty:
        stopping, actions = settle(stopping, now)
    elif mount.phase in {Phase.STARTING, Phase.READY}:
        stopping, actions = end(stopping, now)
    elif mount.phase is Phase.FAILED:
        stopping, actions = end_now(stopping, now)
    else:
        stopping, actions = kill_survivors(stopping)  # it is being stopped already; now nothing follows
    return stopping, told + actions


def reload(mount: Mount, event: Reload, now: Seconds) -> Moved:
    """Replace what there is: nothing runs, or nobody waits for what is starting."""
    began, actions = begin(mount, Replacement(_ids(event.command), event.launch, now), now)
    return began, (ClearTimer("backoff", mount.generation), *actions)


def reload_while_stopped(mount: Mount, event: Reload, now: Seconds) -> Moved:
    """Also in FAILED: a stop that could not be carried out is still a stop."""
    if mount.held is None and not mount.told_to_stop:
        return reload(replace(mount, past=CLEAN), event, now)
    return mount, _skipped(mount, event)


def reload_while_starting(mount: Mount, event: Reload, now: Seconds) -> Moved:
    current = mount.current
    if current is None or not (current.commands or current.failure):
        return reload(mount, event, now)
    return _enqueued(mount, event, now), ()


def reload_while_ready(mount: Mount, event: Reload, now: Seconds) -> Moved:
    if mount.incoming is not None or mount.outgoing is not None:
        return kill_survivors(_enqueued(mount, event, now))
    if mount.policies.reload.order == "start_first":
        return bring_in(mount, Replacement(_ids(event.command), event.launch, now))
    return reload(mount, event, now)


def reload_while_stopping(mount: Mount, event: Reload, now: Seconds) -> Moved:
    if mount.told_to_stop:
        return mount, _skipped(mount, event)
    asked = Replacement(_ids(event.command), event.launch, now)
    current = mount.current
    if current is None:
        asked = replace(asked, fallback=fallback_for(mount, event.launch), old=mount.instance)
    elif current.failure is None:
        asked = joined(mount, current, asked)
    else:
        return _enqueued(mount, event, now), ()
    past = mount.past if mount.wanted else CLEAN  # it was given up, as in FAILED
    return replace(mount, current=asked, wanted=event.launch, not_before=0.0, past=past), ()


def reload_in_backoff(mount: Mount, event: Reload, now: Seconds) -> Moved:
    """It waits for no backoff. Where a command is tried again for want of means, both are tried now."""
    current = mount.current
    if current is None:
        return reload(mount, event, now)
    if current.failure is not None:
        return _tried_now(_enqueued(mount, event, now), now)
    both = joined(mount, current, Replacement(_ids(event.command), event.launch, now))
    return _tried_now(replace(mount, current=both, wanted=both.launch), now)


def _tried_now(mount: Mount, now: Seconds) -> Moved:
    tried, actions = settle(replace(mount, not_before=0.0), now)
    return tried, (ClearTimer("backoff", mount.generation), *actions)


def configure(mount: Mount, event: Configure, _now: Seconds) -> Moved:
    if event.launch is None:
        return replace(mount, policies=event.policies, former=()), ()
    running = [one.launch for one in mount.living]
    coming_back = [each.fallback for each in (mount.current, mount.watched) if each is not None]
    others = [launch for launch in (*running, *coming_back, mount.good) if launch is not None]
    former = {launch: mount.policies_of(launch) for launch in others if launch != event.launch}
    return replace(mount, policies=event.policies, former=tuple(former.items())), ()


def _ids(command: str) -> tuple[str, ...]:
    return (command,) if command else ()


def _skipped(mount: Mount, event: Reload) -> tuple[Action, ...]:
    why = f"stopped by hand by {mount.held.who}" if mount.held else mount.reason
    return (Answer(_ids(event.command), Outcome.SKIPPED, why),) if event.command else ()


def _enqueued(mount: Mount, event: Reload, now: Seconds) -> Mount:
    asked = Replacement(_ids(event.command), event.launch, now)
    return replace(mount, queued=joined(mount, mount.queued, asked))
