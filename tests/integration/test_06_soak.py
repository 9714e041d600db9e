"""Guarantees 2, 3, 4, 6 and 8 together, for a minute; `make soak` goes on for ten, with another seed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SEED = "20261"


@pytest.mark.timeout(900)
def test_after_a_minute_of_crashes_edits_and_deaths_what_should_run_runs_and_nothing_was_leaked() -> None:
    driver = [sys.executable, str(Path(__file__).with_name("soak.py"))]

    done = subprocess.run(
        [*driver, "--seconds", "60", "--seed", SEED], capture_output=True, text=True, check=False
    )

    told = f"again by: make soak SOAK='--seconds 60 --seed {SEED}'\n{done.stdout}{done.stderr}"
    print(told)
    operations = re.search(r"(\d+) operations in", done.stdout)
    assert done.returncode == 0, told
    assert operations is not None
    assert int(operations[1]) >= 20, "a soak that does nothing"
