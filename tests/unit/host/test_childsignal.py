"""SIGCHLD as a descriptor. Each in a process of its own: the signal may go to any thread that takes it."""

import subprocess
import sys
from textwrap import dedent

PRELUDE = """
import asyncio, os, signal
from supervisor.host import childsignal
from supervisor.host.childsignal import ChildSignal
from supervisor.host.processes import Children
childsignal.block()
"""


def runs_well(body: str) -> bool:
    script = PRELUDE + dedent(body)
    done = subprocess.run(
        [sys.executable, "-c", script], timeout=60, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return True


def test_the_death_of_a_child_is_told_in_the_loop() -> None:
    assert runs_well(
        """
        async def main():
            told = asyncio.Event()
            watch = ChildSignal(told.set)
            pid = os.posix_spawn("/bin/true", ["true"], {})
            await asyncio.wait_for(told.wait(), 10)
            watch.close()
        asyncio.run(main())
        """
    )


def test_a_thousand_deaths_cost_no_other_signal_and_no_word_on_stderr() -> None:
    assert runs_well(
        """
        async def main():
            terminated = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
            watch = ChildSignal(lambda: None)
            # the loop does not run meanwhile: a pipe of asyncio's would be full after 278
            for _ in range(1000):
                os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
            signal.raise_signal(signal.SIGTERM)
            await asyncio.wait_for(terminated.wait(), 10)
            watch.close()
        asyncio.run(main())
        """
    )


def test_an_orphan_that_ends_is_reaped_within_seconds() -> None:
    assert runs_well(
        """
        async def main():
            children = Children()
            children.watch()
            pid = os.posix_spawn("/bin/true", ["true"], {})  # as if it came from a plugin
            async with asyncio.timeout(10):
                while pid in children.all():
                    await asyncio.sleep(0.05)
            children.unwatch()
        asyncio.run(main())
        """
    )
