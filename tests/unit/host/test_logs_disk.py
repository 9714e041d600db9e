"""A disk that takes nothing costs log lines, counted, and never blocks the plugin."""

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from host_probing import entered

from supervisor.domain.catalog import LogPolicy
from supervisor.domain.names import ROOT, MountKey
from supervisor.host.logcapture import MOST_KEPT
from supervisor.host.logs import Logs

KEY = MountKey(ROOT, "auth/mock")
DEADLINE = 60.0
NUMBERS = "import os\nfor n in range({}, {}): os.write(1, b'%09d\\n' % n)"


@asynccontextmanager
async def logs_in(runtime: Path, log_dir: Path, max_size: int = 16 << 20) -> AsyncIterator[Logs]:
    logs = Logs(runtime, log_dir, LogPolicy(max_size))
    logs.start()
    try:
        async with asyncio.timeout(DEADLINE):
            yield logs
    finally:
        logs.stop()


@contextmanager
def no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"needs to mount a tmpfs: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


async def prints_numbers(fd: int, first: int, end: int) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", NUMBERS.format(first, end), stdout=fd, stdin=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0


async def until_written(logs: Logs, fd: int, word: bytes) -> None:
    """Return when a line printed now is in the file: the disk takes bytes again."""
    follower = logs.follow(KEY, 1)
    first = asyncio.ensure_future(anext(follower))
    os.write(fd, word + b"\n")
    text = await first
    while not text.endswith(b"\n" + word + b"\n"):
        text = text[-100:] + await anext(follower)
    await follower.aclose()


def lines_of(path: Path) -> list[int]:
    return [int(line) for line in path.read_bytes().split()]


async def test_a_full_disk_blocks_no_plugin_and_what_is_lost_is_counted(
    tmp_path: Path, small_disk: Path
) -> None:
    (small_disk / "ballast").write_bytes(bytes(600_000))
    async with logs_in(tmp_path / "run", small_disk / "log") as logs:
        fd = entered(logs.open(KEY))
        await prints_numbers(fd, 0, 200_000)  # twice what the disk holds
        await logs.drain(KEY)
        on_disk = (small_disk / "log" / "root" / "auth+mock.log").stat().st_size
        # a try that came in between let go of the rest of a line
        assert 0 <= logs.lost(KEY) - (2_000_000 - on_disk - MOST_KEPT) < len("000000000\n")
        assert await logs.tail(KEY, 1) == [b"000199999"]

        (small_disk / "ballast").unlink()
        await until_written(logs, fd, b"999999999")

        text = (small_disk / "log" / "root" / "auth+mock.log").read_bytes()
        lines = text.split(b"\n")
        numbers = [int(line) for line in lines[:-1] if len(line) == 9]
        assert numbers == sorted(numbers)  # no line was glued to another
        assert numbers[-2:] == [199_999, 999_999_999]
        halves = sum(len(line) + 1 for line in lines[:-1] if len(line) != 9)  # and one newline of ours
        assert len(numbers) * 10 + halves + logs.lost(KEY) == 2_000_010 + bool(halves)


async def test_a_disk_that_was_full_for_a_moment_loses_nothing(tmp_path: Path, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(900_000))
    async with logs_in(tmp_path / "run", small_disk / "log") as logs:
        fd = entered(logs.open(KEY))
        await prints_numbers(fd, 0, 20_000)
        await logs.drain(KEY)
        (small_disk / "ballast").unlink()
        await until_written(logs, fd, b"20000")

        assert lines_of(small_disk / "log" / "root" / "auth+mock.log") == list(range(20_001))
        assert logs.lost(KEY) == 0


async def test_a_file_over_the_limit_of_the_process_is_like_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "log" / "root" / "auth+mock.log"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with logs_in(tmp_path / "run", tmp_path / "log") as logs:
        fd = entered(logs.open(KEY))
        await logs.drain(KEY)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            os.write(fd, b"".join(b"%d\n" % n for n in range(10_000)))
            await logs.drain(KEY)
            assert path.stat().st_size == 20_000
            assert await logs.tail(KEY, 1) == [b"9999"]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await until_written(logs, fd, b"10000")

        assert lines_of(path) == list(range(10_001))


async def test_a_directory_in_place_of_the_file_is_waited_out(tmp_path: Path) -> None:
    path = tmp_path / "log" / "root" / "auth+mock.log"
    path.mkdir(parents=True)
    async with logs_in(tmp_path / "run", tmp_path / "log") as logs:
        fd = entered(logs.open(KEY))
        await prints_numbers(fd, 0, 100_000)
        await logs.drain(KEY)
        assert logs.lost(KEY) == 1_000_000 - MOST_KEPT
        assert await logs.tail(KEY, 1) == [b"000099999"]

        path.rmdir()
        await until_written(logs, fd, b"100000")

        numbers = lines_of(path)
        assert numbers == list(range(numbers[0], 100_001))
        assert logs.lost(KEY) == numbers[0] * 10


async def test_names_that_cannot_be_changed_only_make_the_file_longer(tmp_path: Path) -> None:
    path = tmp_path / "log" / "root" / "auth+mock.log"
    for number in range(1, 5):
        (path.parent / f"auth+mock.log.{number}").mkdir(parents=True)
        (path.parent / f"auth+mock.log.{number}" / "something").touch()
    async with logs_in(tmp_path / "run", tmp_path / "log", max_size=1000) as logs:
        # a folder over which a file cannot be renamed
        await prints_numbers(entered(logs.open(KEY)), 0, 10_000)
        await logs.drain(KEY)

        assert lines_of(path) == list(range(10_000))
        assert logs.lost(KEY) == 0


async def test_what_no_disk_took_until_the_end_is_lost_and_counted(tmp_path: Path) -> None:
    (tmp_path / "log" / "root" / "auth+mock.log").mkdir(parents=True)
    async with logs_in(tmp_path / "run", tmp_path / "log") as logs:
        os.write(entered(logs.open(KEY)), b"a line\n")
        capture = logs._captures[KEY]

    assert capture.lost == 7


async def test_what_no_disk_took_goes_to_the_next_plugind(tmp_path: Path) -> None:
    path = tmp_path / "log" / "root" / "auth+mock.log"
    path.mkdir(parents=True)
    async with logs_in(tmp_path / "run", tmp_path / "log") as logs:
        fd = entered(logs.open(KEY))
        await prints_numbers(fd, 0, 20_000)
        await logs.drain(KEY)
        left = logs.leave()
        os.write(fd, b"20000\n")
    assert [(one.key, len(one.kept), one.lost) for one in left] == [(KEY, 200_000, 0)]

    async with logs_in(tmp_path / "run", tmp_path / "log") as logs:
        logs.take(left)
        await logs.drain(KEY)
        assert await logs.tail(KEY, 1) == [b"20000"]
        path.rmdir()
        await until_written(logs, fd, b"20001")

        assert lines_of(path) == list(range(20_002))


async def test_it_goes_over_also_where_no_descriptor_is_to_be_had(tmp_path: Path) -> None:
    path = tmp_path / "log" / "root" / "auth+mock.log"
    path.mkdir(parents=True)
    async with (
        logs_in(tmp_path / "run", tmp_path / "log") as logs,
        logs_in(tmp_path / "run", tmp_path / "log") as of_the_next,
    ):
        fd = entered(logs.open(KEY))
        await prints_numbers(fd, 0, 20_000)
        await logs.drain(KEY)
        with no_descriptors():
            left = logs.leave()
            os.write(fd, b"20000\n")
            of_the_next.take(left)
        await of_the_next.drain(KEY)
        path.rmdir()
        await until_written(of_the_next, fd, b"20001")

        assert lines_of(path) == list(range(20_002))


async def test_what_was_lost_is_counted_on_by_the_next_plugind(tmp_path: Path) -> None:
    path = tmp_path / "log" / "root" / "auth+mock.log"
    path.mkdir(parents=True)
    async with logs_in(tmp_path / "run", tmp_path / "log") as logs:
        fd = entered(logs.open(KEY))
        await prints_numbers(fd, 0, 100_000)
        await logs.drain(KEY)
        left = logs.leave()

    async with logs_in(tmp_path / "run", tmp_path / "log") as logs:
        logs.take(left)
        await logs.drain(KEY)
        assert logs.lost(KEY) == 1_000_000 - MOST_KEPT
        path.rmdir()
        await until_written(logs, fd, b"100000")

        numbers = lines_of(path)
        assert numbers == list(range(numbers[0], 100_001))
        assert logs.lost(KEY) == numbers[0] * 10
