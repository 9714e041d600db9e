from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.domain.catalog import RestartPolicy, RestartRate
from supervisor.domain.names import ROOT, MountKey
from supervisor.domain.restarts import (
    CLEAN,
    GiveUp,
    Record,
    Wait,
    after_crash,
    delay,
    full,
    noted,
    recent,
    scarcity,
    take,
)

KEY = MountKey(ROOT, "kv")
POLICY = RestartPolicy(backoff=0.1, max_backoff=30.0, burst=5, within=60.0)
PATIENT = replace(POLICY, burst=10_000)


def crashing(policy: RestartPolicy, *lives: tuple[float, float | None]) -> Record:
    """The record after crashes at these instants, each with the instant from which it was ready."""
    record = CLEAN
    for now, ready_since in lives:
        record = noted(record, now, policy, ready_since)
    return record


def test_a_first_crash_waits_the_shortest_backoff_and_a_jitter() -> None:
    decision = after_crash(crashing(POLICY, (100.0, 99.0)), POLICY, KEY)

    assert isinstance(decision, Wait)
    assert 0.1 <= decision.delay <= 0.12


def test_one_crash_more_than_burst_within_the_window_gives_up() -> None:
    record = crashing(POLICY, *((100.0 + number, 100.0 + number) for number in range(5)))

    assert isinstance(after_crash(record, POLICY, KEY), Wait)
    assert after_crash(noted(record, 105.0, POLICY, 105.0), POLICY, KEY) == GiveUp("6 crashes within 1m")


def test_crashes_outside_the_window_do_not_count_for_the_burst() -> None:
    assert recent((1.0, 40.0, 41.0), 100.0, POLICY) == (41.0,)
    record = crashing(POLICY, *((float(number), None) for number in range(5)), (100.0, 99.0))
    assert record.crashes == (100.0,)
    assert isinstance(after_crash(record, POLICY, KEY), Wait)


def test_what_lives_a_second_longer_than_the_window_is_restarted_for_ever_at_the_shortest_backoff() -> None:
    """RS2: 61 s each time, with a window of 60 s."""
    record, now = CLEAN, 0.0
    for _ in range(100):
        record, now = noted(record, now + 61.0, POLICY, now), now + 61.0
        decision = after_crash(record, POLICY, KEY)
        assert isinstance(decision, Wait)
        assert decision.delay <= POLICY.backoff * 1.2


def test_starts_that_were_never_ready_count_however_long_each_takes() -> None:
    record = crashing(POLICY, *((100.0 * number, None) for number in range(6)))

    assert len(record.crashes) == 1
    assert after_crash(record, POLICY, KEY) == GiveUp("6 starts in a row that were never ready")
    assert noted(record, 700.0, POLICY, 690.0).unready == 0


def test_a_window_of_nothing_never_gives_up() -> None:
    policy = replace(POLICY, within=0.0)
    record = crashing(policy, *((100.0, None) for _ in range(50)))

    assert isinstance(after_crash(record, policy, KEY), Wait)


def test_the_backoff_stays_at_its_longest_until_the_mount_ran_well() -> None:
    """Also where it is half of the window, so that few crashes lie within it."""
    record, now = CLEAN, 0.0
    for _ in range(50):
        record = noted(record, now, PATIENT, now - 1)
        decision = after_crash(record, PATIENT, KEY)
        assert isinstance(decision, Wait)
        now += decision.delay + 1
    assert decision.delay >= 30.0

    well = noted(record, now + 60, PATIENT, now)
    assert well.in_a_row == 1
    assert noted(record, now + 59, PATIENT, now).in_a_row == 51


def test_mounts_that_crash_together_do_not_come_back_together() -> None:
    delays = {delay(1, POLICY, MountKey(ROOT, f"kv-{number}")) for number in range(200)}

    assert len(delays) > 190
    assert max(delays) - min(delays) > 0.015


@given(st.integers(1, 10**4), st.floats(0, 10), st.floats(0, 100))
def test_a_backoff_is_never_longer_than_its_limit_and_a_fifth(
    count: int, backoff: float, limit: float
) -> None:
    policy = RestartPolicy(backoff=backoff, max_backoff=limit, burst=10**5)

    assert 0 <= delay(count, policy, KEY) <= limit * 1.2 + 1e-9


@pytest.mark.parametrize("policy", [POLICY, RestartPolicy(backoff=0.0, max_backoff=0.0)])
def test_a_scarcity_is_waited_for_longer_each_time_and_never_without_a_pause(policy: RestartPolicy) -> None:
    pauses = [scarcity(count, policy, KEY) for count in (1, 2, 3, 30)]

    assert pauses[0] >= 0.1
    assert policy is not POLICY or pauses == sorted(pauses)
    assert pauses[-1] <= max(policy.max_backoff, 0.1) * 1.2


# --- all mounts together

RATE = RestartRate(per_second=10.0, burst=3)


def test_a_bucket_gives_its_burst_at_once_and_then_one_for_each_tenth_of_a_second() -> None:
    bucket, waits = full(RATE, 100.0), []
    for _ in range(4):
        bucket, wait = take(bucket, RATE, 100.0)
        waits.append(wait)
    assert waits == [0.0, 0.0, 0.0, pytest.approx(0.1)]
    bucket, wait = take(bucket, RATE, 100.1)
    assert wait == 0.0
    assert take(bucket, RATE, 100.1)[1] > 0


def test_a_bucket_is_never_fuller_than_its_burst_however_long_the_daemon_slept() -> None:
    bucket, taken = full(RATE, 100.0), 0
    bucket, _ = take(bucket, RATE, 100.0)
    while not (step := take(bucket, RATE, 400.0))[1]:
        bucket, taken = step[0], taken + 1
    assert taken == 3


@given(st.lists(st.floats(0, 0.5), max_size=200), st.floats(0.5, 100), st.integers(1, 20))
def test_no_more_restarts_than_burst_and_rate_allow_in_any_time(
    pauses: list[float], per_second: float, burst: int
) -> None:
    rate, now, taken = RestartRate(per_second, burst), 0.0, 0
    bucket = full(rate, now)
    for pause in pauses:
        now += pause
        bucket, wait = take(bucket, rate, now)
        taken += not wait
        if wait:
            now += wait
            bucket, wait = take(bucket, rate, now)
            taken += 1
            assert wait == 0.0, "it was wrong about when the next one may come"
        assert taken <= burst + per_second * now + 1e-3
