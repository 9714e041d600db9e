"""What to do after a crash: wait how long, or give up; and who may start now when many crash at once."""

from dataclasses import dataclass, replace
from hashlib import blake2s
from typing import Final

import msgspec

from supervisor.domain.catalog import RestartPolicy, RestartRate
from supervisor.domain.names import MountKey, Seconds, shown_duration

_JITTER: Final = 0.2
_ROUNDING: Final = 1e-6
_SHORTEST: Final[Seconds] = 0.1
PATIENCE: Final[Seconds] = 30.0
"""For so long a command's start is tried again where the machine has no means for it."""


@dataclass(frozen=True, slots=True)
class Wait:
    delay: Seconds


@dataclass(frozen=True, slots=True)
class GiveUp:
    reason: str


class Record(msgspec.Struct, frozen=True):
    """What of a mount's past counts: forgotten by a start, and by the next plugind."""

    crashes: tuple[Seconds, ...] = ()
    """Instants inside `within`, newest last."""
    in_a_row: int = 0
    """Crashes since it last ran well, which is ready for `within`: the backoff doubles with each."""
    unready: int = 0
    """Starts in a row that were never ready, however long each of them took."""
    scarce: int = 0
    """Starts in a row that the machine had no means for: no crashes, but the pauses grow."""


CLEAN: Final = Record()


def recent(crashes: tuple[Seconds, ...], now: Seconds, policy: RestartPolicy) -> tuple[Seconds, ...]:
    """The crashes that count for `burst`."""
    return tuple(crash for crash in crashes if now - crash < policy.within)


def noted(record: Record, now: Seconds, policy: RestartPolicy, ready_since: Seconds | None) -> Record:
    """The record with one more crash, of an instance that was ready from `ready_since`, or never."""
    ran_well = ready_since is not None and now - ready_since >= policy.within
    return Record(
        crashes=(*recent(record.crashes, now, policy), now),
        in_a_row=1 if ran_well else record.in_a_row + 1,
        unready=record.unready + 1 if ready_since is None else 0,
    )


def after_crash(record: Record, policy: RestartPolicy, key: MountKey) -> Wait | GiveUp:
    """Decide from the record, this crash included.

    The delay doubles from `backoff` to `max_backoff`, plus up to a fifth that a hash of the key
    decides, so that mounts that crash together do not come back together. Starts that were never
    ready count however far apart they are: one that takes `ready.timeout` and `stop.timeout` to
    fail would otherwise never fail often enough inside `within`. With `within` 0 nothing is given up.
    """
    count = len(record.crashes)
    if count > policy.burst:
        return GiveUp(f"{count} crashes within {shown_duration(policy.within)}")
    if policy.within and record.unready > policy.burst:
        return GiveUp(f"{record.unready} starts in a row that were never ready")
    return Wait(delay(record.in_a_row, policy, key))


def delay(count: int, policy: RestartPolicy, key: MountKey) -> Seconds:
    """How long to wait after failure number `count` in a row."""
    pause = min(policy.backoff * 2.0 ** min(count - 1, 64), policy.max_backoff)
    digest = blake2s(f"{key}:{count}".encode(), digest_size=2).digest()
    return pause * (1 + _JITTER * int.from_bytes(digest) / 0xFFFF)


def scarcity(count: int, policy: RestartPolicy, key: MountKey) -> Seconds:
    """The pause after start number `count` in a row for which the machine had no means: never none."""
    longest = max(policy.max_backoff, _SHORTEST)
    return delay(count, replace(policy, backoff=max(policy.backoff, _SHORTEST), max_backoff=longest), key)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Restarts that all mounts together may do at once: one token each, refilled as time passes."""

    tokens: float
    at: Seconds


def full(rate: RestartRate, now: Seconds) -> Bucket:
    return Bucket(float(rate.burst), now)


def take(bucket: Bucket, rate: RestartRate, now: Seconds) -> tuple[Bucket, Seconds]:
    """Take a token for one restart: the bucket that is left, and 0; or how long until there is one."""
    tokens = min(float(rate.burst), bucket.tokens + max(0.0, now - bucket.at) * rate.per_second)
    if tokens >= 1 - _ROUNDING:
        return Bucket(tokens - 1, now), 0.0
    return Bucket(tokens, now), (1 - tokens) / rate.per_second
