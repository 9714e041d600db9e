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


def test_a_child_that_died_before_it_was_adopted_is_told_its_exit_status() -> None:
    assert runs_well(
        """
        import tempfile
        from pathlib import Path
        from supervisor.domain.catalog import Launch, LogPolicy, Policies
        from supervisor.domain.events import Exit
        from supervisor.domain.names import ROOT, MountKey, PluginRef, instance_id
        from supervisor.host import processes
        from supervisor.host.identity import current_boot_id, start_ticks
        from supervisor.host.instances import Instances
        from supervisor.host.logs import Logs
        from supervisor.host.records import InstanceRecord, InstanceRecords
        from supervisor.host.remains import Remains

        async def main(folder):
            processes.ORPHANS_SOON = 0  # what adopts may be slow
            logs = Logs(folder / "fifos", folder / "log", LogPolicy())
            logs.start()
            records = InstanceRecords(folder / "instances")
            records.load()
            instances = Instances(folder, records, logs)
            pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 3"], {}, setsid=True)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            launch = Launch(PluginRef("auth", "mock"), "v1", "/bin/sh", None)
            key = MountKey(ROOT, "auth/mock")
            records.intend(
                InstanceRecord(
                    id=instance_id(key, 1), namespace="root", mount="auth/mock", generation=1,
                    boot_id=current_boot_id(), launch=launch, started_at=0.0, pid=pid,
                    start_ticks=start_ticks(pid), ready=True,
                )
            )
            instances.open()
            for _ in range(10):
                await asyncio.sleep(0.01)

            remains = Remains(instances, records)
            found, _, troubles = await remains.living(lambda *_: Policies(), lambda *_: None)

            assert troubles == []
            [one] = found
            told = asyncio.get_running_loop().create_future()
            one.process.on_exit(told.set_result)
            assert await asyncio.wait_for(told, 10) == Exit(code=3)
            await instances.end_tree(one.process, 0.0)
            instances.close()
            logs.stop()
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(main(Path(folder)))
        """
    )
