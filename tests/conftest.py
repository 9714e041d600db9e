"""For every test: with CI=true a skip is a failure, unless it is listed with its reason."""

import os
from pathlib import Path

import pytest

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
