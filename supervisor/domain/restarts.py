"""What to do after a crash: wait how long, or give up."""

from dataclasses import dataclass
from hashlib import blake2s

from supervisor.domain.catalog import RestartPolicy
from supervisor.domain.names import MountKey, Seconds, shown_duration

_JITTER = 0.2


@dataclass(frozen=True, slots=True)
class Wait:
    delay: Seconds


@dataclass(frozen=True, slots=True)
class GiveUp:
    reason: str


def recent(crashes: tuple[Seconds, ...], now: Seconds, policy: RestartPolicy) -> tuple[Seconds, ...]:
    """The crashes that still count: a mount that ran well for `within` starts over."""
    return tuple(crash for crash in crashes if now - crash < policy.within)


def after_crash(
    crashes: tuple[Seconds, ...], now: Seconds, policy: RestartPolicy, key: MountKey
) -> Wait | GiveUp:
    """Decide from the instants of the crashes, this one included.

    The delay doubles from `backoff` to `max_backoff`, plus up to a fifth that a hash of the key
    decides, so that mounts that crash together do not come back together.
    """
    count = len(recent(crashes, now, policy))
    if count > policy.burst:
        return GiveUp(f"{count} crashes within {shown_duration(policy.within)}")
    return Wait(_delay(count, policy, key))


def shortest(policy: RestartPolicy, key: MountKey) -> Seconds:
    """The delay after a first crash."""
    return _delay(1, policy, key)


def _delay(count: int, policy: RestartPolicy, key: MountKey) -> Seconds:
    delay = min(policy.backoff * 2.0 ** min(count - 1, 64), policy.max_backoff)
    digest = blake2s(f"{key}:{count}".encode(), digest_size=2).digest()
    return delay * (1 + _JITTER * int.from_bytes(digest) / 0xFFFF)
