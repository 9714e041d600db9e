"""For every test: with CI=true a skip is a failure, unless it is listed with its reason."""

import os
import shutil
import signal
from pathlib import Path

import pytest

# whoever runs the tests in the background of a script has it ignored, and what they start with them
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.umask(0o022)  # what others of a group may write, plugind does not run

ALLOWED = {
    line.split()[0]
    for line in (Path(__file__).parent / "needs-other-kernel.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        name = item.nodeid.split("/")[-1].split("[")[0]
        if name not in ALLOWED:
            report.outcome = "failed"
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            report.longrepr = f"skipped in CI: {why}"
    return report


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(program): skipped where it is not installed")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        if shutil.which(mark.args[0]) is None:
            pytest.skip(f"{mark.args[0]} is not installed: apt-get install {mark.args[0]}")
