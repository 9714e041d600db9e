"""Transitions as log events, and as rows for people. The names of events are an interface: CHANGELOG."""

import re

import structlog

from supervisor.domain.events import Answer, BecameReady, Exited, Outcome, SpawnFailed, TimerFired
from supervisor.domain.mount import Phase
from supervisor.engine.feed import Transition
from supervisor.wire import TransitionRow

log = structlog.get_logger("supervisor.mounts")


def narrate(step: Transition) -> None:
    """Log what changed: info is a new state, warning is for a look, error is a promise that broke."""
    before, event, after = step.before, step.event, step.after
    match event:
        case BecameReady():
            log.info("instance_ready", **_bound(step))
        case Exited(reason=reason) if before.phase in {Phase.READY, Phase.STARTING}:
            log.warning("instance_exited", **_bound(step), reason=reason)
        case TimerFired(name="ready") if after.phase is Phase.READY and before.phase is Phase.STARTING:
            log.warning("instance_taken_as_ready", **_bound(step), reason=after.reason)
        case SpawnFailed(reason=reason):
            log.warning("instance_not_started", **_bound(step), reason=reason)
        case _:
            pass
    if after.phase is not before.phase and after.phase is Phase.FAILED:
        log.error("mount_failed", **_bound(step), reason=after.reason)
    elif after.phase is not before.phase and after.phase is Phase.STOPPED:
        log.info("mount_stopped", **_bound(step), reason=after.reason)
    for action in step.actions:
        if isinstance(action, Answer) and action.outcome is Outcome.ROLLED_BACK:
            failed = action.failed.launch.version if action.failed else None
            log.warning("reload_rolled_back", **_bound(step), failed_version=failed, reason=action.reason)


def _bound(step: Transition) -> dict[str, str | int | None]:
    key = step.after.key
    instance = step.after.instance or step.before.instance
    return {
        "namespace": str(key.namespace),
        "mount": key.path,
        "version": instance.launch.version if instance else None,
        "instance": instance.id if instance else None,
        "pid": step.pid,
    }


def row_of(step: Transition) -> TransitionRow:
    after = step.after
    instance = after.instance or step.before.instance
    reason = getattr(step.event, "reason", None) or getattr(step.event, "detail", None) or after.reason
    answered = [
        command for action in step.actions if isinstance(action, Answer) for command in action.commands
    ]
    return TransitionRow(
        id=step.number,
        at=step.at.isoformat(timespec="milliseconds"),
        namespace=str(after.key.namespace),
        mount=after.key.path,
        event=_snake(type(step.event).__name__),
        before=step.before.phase.value,
        after=after.phase.value,
        version=instance.launch.version if instance else None,
        instance=instance.id if instance else None,
        pid=step.pid,
        reason=reason,
        reload_ids=[command for command in answered if ":" not in command],
        commands=[command.partition(":")[0] for command in answered if ":" in command],
    )


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
