"""The thread that starts processes answers whoever asked, and outlives what goes wrong."""

import asyncio
import os
import resource
from collections.abc import AsyncIterator

import pytest

from supervisor.host.launcher import Launcher
from supervisor.host.posixspawn import Program

OWN = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
MARK = 4711


class Broken(Program):
    """A program whose start fails in a way that nobody thought of."""

    __slots__ = ()

    def __init__(self) -> None:
        """Nothing is prepared."""

    def start(self, *, lock: bool) -> int:  # noqa: ARG002 - the signature of the real one
        raise ValueError("nobody thought of it")


@pytest.fixture
async def launcher() -> AsyncIterator[Launcher]:
    launcher = Launcher(OWN)
    launcher.start()
    yield launcher
    launcher.stop()


def limit_printed(path: str) -> Program:
    return Program(["/bin/sh", "-c", "grep msgqueue /proc/self/limits"], {"PATH": os.defpath}, path)


async def test_what_nobody_thought_of_reaches_who_asked_and_the_next_start_works(launcher: Launcher) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(ValueError, match="nobody thought of it"):
            await launcher.launch(Broken(), MARK)
        pid = await launcher.launch(Program(["/bin/true"], {}, "/dev/null"), MARK)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


async def test_what_cannot_be_started_is_an_error_and_leaves_no_mark_of_plugind(launcher: Launcher) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(FileNotFoundError):
            await launcher.launch(Program(["/nowhere"], {}, "/dev/null"), MARK)

    assert resource.getrlimit(resource.RLIMIT_MSGQUEUE) == OWN


async def test_each_process_has_its_own_mark_however_many_are_asked_for(launcher: Launcher, tmp_path) -> None:
    marks = range(1000, 1020)
    paths = {mark: tmp_path / str(mark) for mark in marks}
    for path in paths.values():
        path.touch()

    async with asyncio.timeout(10):
        pids = await asyncio.gather(*(launcher.launch(limit_printed(str(paths[m])), m) for m in marks))
    for pid in pids:
        os.waitpid(pid, 0)

    assert {mark: int(path.read_text().split()[3]) for mark, path in paths.items()} == {m: m for m in marks}
    assert resource.getrlimit(resource.RLIMIT_MSGQUEUE) == OWN
