"""With CI=true a skip is a failure, unless listed with its reason; second tries are few and told."""

import os
import shutil
import signal
from pathlib import Path

import pytest

# whoever runs the tests in the background of a script has it ignored, and what they start with them
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SECOND_TRIES = 5
"""So many may fail at first in a run with `--reruns`; more are no accident."""

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


def _second_tries(config: pytest.Config) -> list[pytest.TestReport]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return reporter.getreports("rerun") if reporter is not None else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for report in _second_tries(config):
        terminalreporter.section(f"tried twice: {report.nodeid}", "-")
        terminalreporter.write_line(report.longreprtext)
    if len(_second_tries(config)) > SECOND_TRIES:
        terminalreporter.write_line(f"failed: more than {SECOND_TRIES} tests were tried twice", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if len(_second_tries(session.config)) > SECOND_TRIES:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
