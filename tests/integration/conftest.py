"""Fixtures: a plugind of its own for each test or module, and nothing left behind by any."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from arena import Real
from harness import Plugind, processes_below


def cgroups_of(daemon: Plugind) -> set[str]:
    """Those that plugind told of at its starts and that are still there."""
    told = {entry["cgroups"].rpartition(" ")[2] for entry in daemon.log if entry["event"] == "daemon_started"}
    return {name for name in told if name.startswith("/") and Path(name).exists()}


@contextmanager
def lent(folder: Path) -> Iterator[Plugind]:
    """A plugind in `folder`, not started; afterwards it is stopped, and told no traceback meanwhile."""
    folder.chmod(0o755)
    daemon = Plugind(folder)
    yield daemon
    if daemon.process is not None:
        daemon.stop()
    left = processes_below(folder)
    for pid in left:
        with os.fdopen(os.pidfd_open(pid)) as handle:
            signal.pidfd_send_signal(handle.fileno(), signal.SIGKILL)
    assert not left, f"left behind: {left}"
    assert not cgroups_of(daemon), "a cgroup was left behind"
    broken = [entry for entry in daemon.log if "exception" in entry or "Traceback" in entry.get("text", "")]
    said = "\n".join(entry["text"].rstrip() for entry in daemon.log if entry["event"] == "stderr")
    assert not broken, f"plugind told of broken code: {broken}\n{said}"


@pytest.fixture
def plugind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plugind]:
    with lent(tmp_path_factory.mktemp("p")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def shared_plugind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plugind]:
    """One for a whole module, whose tests leave it as they found it; a start costs most of a second."""
    with lent(tmp_path_factory.mktemp("p")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def arena(shared_plugind: Plugind) -> Iterator[Real]:
    """One mount of a daemon for the whole module, whose plugin waits at gates."""
    arena = Real(shared_plugind)
    shared_plugind.start()
    try:
        yield arena
    finally:
        arena.close()


def mounts_below(folder: Path) -> list[str]:
    """Others on this machine mount and unmount meanwhile."""
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line]


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No process, mount or cgroup outlives the run."""
    folder = tmp_path_factory.getbasetemp()
    yield
    left = processes_below(folder)
    assert not left, f"processes left behind: {left}"
    assert not mounts_below(folder), "a mount was left behind"
