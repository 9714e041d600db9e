"""Guarantee 6 at single system calls; `crash_points.py` tries as many as one likes."""

import shutil

import pytest
from crash_points import SCENARIOS, tried

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
SEED = 20_261
POINTS = 2


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_wherever_the_daemon_is_killed_the_next_one_runs_each_mount_once(scenario: str) -> None:
    tally = tried(scenario, POINTS, SEED)

    assert tally.points == POINTS
    assert tally.violations == []
