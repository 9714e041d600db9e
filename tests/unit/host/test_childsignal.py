"""SIGCHLD as a descriptor."""

import asyncio
import os
import signal
import subprocess

from supervisor.host.childsignal import ChildSignal
from supervisor.host.processes import Children


async def test_the_death_of_a_child_is_told_in_the_loop() -> None:
    told = asyncio.Event()
    watch = ChildSignal(told.set)
    try:
        with subprocess.Popen(["true"]):
            await asyncio.wait_for(told.wait(), 10)
    finally:
        watch.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


async def test_a_thousand_deaths_cost_no_other_signal() -> None:
    loop = asyncio.get_running_loop()
    terminated = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR2, terminated.set)
    watch = ChildSignal(lambda: None)
    try:
        # the loop does not run meanwhile: a pipe of asyncio's would be full after 278
        for _ in range(1000):
            pid = os.posix_spawn("/bin/true", ["true"], {})
            os.waitpid(pid, 0)
        signal.raise_signal(signal.SIGUSR2)

        await asyncio.wait_for(terminated.wait(), 10)
    finally:
        watch.close()
        loop.remove_signal_handler(signal.SIGUSR2)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


async def test_an_orphan_that_ends_is_reaped_within_seconds() -> None:
    children = Children()
    children.watch()
    try:
        pid = os.posix_spawn("/bin/true", ["true"], {})  # nobody registers it: as if it came from a plugin
        async with asyncio.timeout(10):
            while pid in children.all():
                reaped = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().call_later(0.05, reaped.set_result, None)
                await reaped
    finally:
        children.unwatch()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
