from hypothesis import given
from hypothesis import strategies as st

from supervisor.domain.catalog import RestartPolicy
from supervisor.domain.names import ROOT, MountKey
from supervisor.domain.restarts import GiveUp, Wait, after_crash, recent, shortest

KEY = MountKey(ROOT, "kv")
POLICY = RestartPolicy(backoff=0.1, max_backoff=30.0, burst=5, within=60.0)


def test_a_first_crash_waits_the_shortest_backoff_and_a_jitter() -> None:
    decision = after_crash((100.0,), 100.0, POLICY, KEY)

    assert isinstance(decision, Wait)
    assert 0.1 <= decision.delay <= 0.12
    assert decision.delay == shortest(POLICY, KEY)


def test_one_crash_more_than_burst_within_the_window_gives_up() -> None:
    crashes = tuple(100.0 + number for number in range(6))

    assert isinstance(after_crash(crashes[:5], 104.0, POLICY, KEY), Wait)
    assert after_crash(crashes, 105.0, POLICY, KEY) == GiveUp("6 crashes within 1m")


def test_crashes_outside_the_window_do_not_count() -> None:
    assert recent((1.0, 40.0, 41.0), 100.0, POLICY) == (41.0,)
    assert isinstance(after_crash((1.0, 2.0, 3.0, 4.0, 5.0, 100.0), 100.0, POLICY, KEY), Wait)


def test_mounts_that_crash_together_do_not_come_back_together() -> None:
    delays = {shortest(POLICY, MountKey(ROOT, f"kv-{number}")) for number in range(200)}

    assert len(delays) > 190
    assert max(delays) - min(delays) > 0.015


@given(st.integers(1, 10**4), st.floats(0, 10), st.floats(0, 100))
def test_a_backoff_is_never_longer_than_its_limit_and_a_fifth(
    count: int, backoff: float, limit: float
) -> None:
    policy = RestartPolicy(backoff=backoff, max_backoff=limit, burst=10**5)
    decision = after_crash((0.0,) * count, 0.0, policy, KEY)

    assert isinstance(decision, Wait)
    assert 0 <= decision.delay <= limit * 1.2 + 1e-9
