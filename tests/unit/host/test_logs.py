"""What a plugin prints is in its files, byte for byte, whatever happens to them."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
from host_probing import entered, leave_all

from supervisor.domain.catalog import LogPolicy
from supervisor.domain.errors import Cannot
from supervisor.domain.names import ROOT, InstanceId, MountKey, Namespace
from supervisor.host.logfifo import LARGE, Fifo, Scratch
from supervisor.host.logfile import LONGEST_LINE, LogFile
from supervisor.host.logindex import Index
from supervisor.host.logpump import MOST_PER_ROUND
from supervisor.host.logread import LogLagged
from supervisor.host.logs import Logs

KEY = MountKey(Namespace(("team-a", "dev")), "auth/mock")
OLD, NEW = InstanceId("aa-1"), InstanceId("aa-2")
DEADLINE = 10.0


def open_fds() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    fds = open_fds()
    yield
    leave_all()
    assert open_fds() == fds
    assert "plugind-logs" not in {thread.name for thread in threading.enumerate()}


@asynccontextmanager
async def logs_in(folder: Path, max_size: int = 16 << 20, keep: int = 4) -> AsyncIterator[Logs]:
    logs = Logs(folder / "run", folder / "log", LogPolicy(max_size, keep))
    logs.start()
    try:
        async with asyncio.timeout(DEADLINE):
            yield logs
    finally:
        logs.stop()


def file_of(folder: Path, number: int = 0) -> Path:
    return folder / "log" / "team-a+dev" / ("auth+mock.log" + (f".{number}" if number else ""))


def files_of(folder: Path) -> list[Path]:
    """Oldest first."""
    rotated = [path for path in file_of(folder).parent.iterdir() if path.suffix[1:].isdigit()]
    return [*sorted(rotated, key=lambda path: -int(path.suffix[1:])), file_of(folder)]


def stream_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in files_of(folder))


def check_often(logs: Logs) -> None:
    logs._captures[KEY]._file.check_every = 0.0
    logs._captures[KEY]._file._next_check = 0.0


async def prints(fd: int, data: bytes) -> None:
    """A process writes `data` to its stdout."""
    process = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE, stdout=fd)
    await process.communicate(data)
    assert process.returncode == 0


async def test_what_a_process_prints_is_in_the_file_of_its_mount(tmp_path: Path) -> None:
    async with logs_in(tmp_path) as logs:
        fd = entered(logs.open(KEY))
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", "echo out; echo err >&2", stdout=fd, stderr=fd
        )
        await process.wait()
        await logs.drain(KEY)

        assert file_of(tmp_path).read_bytes() == b"out\nerr\n"
        assert file_of(tmp_path).stat().st_mode & 0o777 == 0o640
        fifo = tmp_path / "run" / "team-a+dev" / "auth+mock.fifo"
        assert fifo.is_fifo()
        assert fifo.stat().st_mode & 0o777 == 0o600


async def test_every_byte_is_kept_as_it_is(tmp_path: Path) -> None:
    data = os.urandom(3_000_000) + b"\0\xff\xfe\x1b[31m" + b"no newline"

    async with logs_in(tmp_path) as logs:
        await prints(entered(logs.open(KEY)), data)
        await logs.drain(KEY)

        assert file_of(tmp_path).read_bytes() == data


async def test_a_line_of_a_mebibyte_stays_in_one_file(tmp_path: Path) -> None:
    line = b"x" * (LONGEST_LINE - 1) + b"\n"

    async with logs_in(tmp_path, max_size=10_000) as logs:
        await prints(entered(logs.open(KEY)), b"before\n" + line + b"after\n")
        await logs.drain(KEY)

    assert [path.read_bytes() for path in files_of(tmp_path)] == [b"before\n", line, b"after\n"]


async def test_an_endless_line_fills_no_disk(tmp_path: Path) -> None:
    data = b"x" * (5 * LONGEST_LINE)

    async with logs_in(tmp_path, max_size=10_000, keep=9) as logs:
        await prints(entered(logs.open(KEY)), data)
        await logs.drain(KEY)

    assert stream_of(tmp_path) == data
    assert max(path.stat().st_size for path in files_of(tmp_path)) == LONGEST_LINE + 10_000


async def test_a_rotation_splits_no_line_and_keeps_so_many_files(tmp_path: Path) -> None:
    data = b"".join(b"%d %s\n" % (n, b"." * (n % 90)) for n in range(20_000))

    async with logs_in(tmp_path, max_size=100_000, keep=3) as logs:
        await prints(entered(logs.open(KEY)), data)
        await logs.drain(KEY)

    files = files_of(tmp_path)
    assert [path.name for path in files] == [f"auth+mock.log{end}" for end in (".3", ".2", ".1", "")]
    assert all(path.read_bytes().endswith(b"\n") and path.stat().st_size <= 100_000 for path in files)
    assert data.endswith(stream_of(tmp_path))


async def test_a_change_of_policy_holds_from_the_next_byte(tmp_path: Path) -> None:
    async with logs_in(tmp_path) as logs:
        await prints(entered(logs.open(KEY)), b"1\n2\n")
        logs.set_policy(LogPolicy(max_size=4, keep=1))
        await prints(entered(logs.open(KEY)), b"3\n4\n5\n")
        await logs.drain(KEY)

    assert [path.read_bytes() for path in files_of(tmp_path)] == [b"3\n4\n", b"5\n"]


async def test_two_writers_do_not_mix_within_a_line(tmp_path: Path) -> None:
    code = "import os, sys\nfor n in range(20000): os.write(1, (sys.argv[1] * (n % 80) + '\\n').encode())"

    async with logs_in(tmp_path, max_size=200_000, keep=100) as logs:
        fd = entered(logs.open(KEY))
        writers = [
            await asyncio.create_subprocess_exec(sys.executable, "-c", code, name, stdout=fd) for name in "ab"
        ]
        for writer in writers:
            assert await writer.wait() == 0
        await logs.drain(KEY)

    lines = stream_of(tmp_path).splitlines()
    assert len(lines) == 40_000
    assert all(len(set(line)) <= 1 for line in lines)


@pytest.mark.parametrize("what", ["removed", "renamed", "symlink", "hardlink", "fifo"])
async def test_a_log_file_that_is_gone_is_made_again(tmp_path: Path, what: str) -> None:
    stranger = tmp_path / "stranger"
    stranger.write_bytes(b"untouched")
    async with logs_in(tmp_path) as logs:
        fd = entered(logs.open(KEY))
        os.write(fd, b"before\n")
        await logs.drain(KEY)
        path = file_of(tmp_path)
        path.rename(tmp_path / "moved")
        match what:
            case "removed":
                (tmp_path / "moved").unlink()
            case "symlink":
                path.symlink_to(stranger)
            case "hardlink":
                path.hardlink_to(stranger)
            case "fifo":
                os.mkfifo(path)

        check_often(logs)  # not before: a look between the two steps finds one that was renamed
        os.write(fd, b"after\n")
        await logs.drain(KEY)

        assert path.read_bytes() == (b"before\nafter\n" if what == "removed" else b"after\n")
        assert not path.is_symlink()
        assert stranger.read_bytes() == b"untouched"


def test_what_nobody_can_have_read_in_a_file_that_is_gone_is_in_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "log" / "root" / "x.log"
    index = Index(path.with_name("x.log.index"), 5)
    file = LogFile(path, LogPolicy(), index, structlog.get_logger())
    fifo, scratch = Fifo.opened(tmp_path / "run" / "root" / "x.fifo"), Scratch()
    for line in (b"one\n", b"two\n", b"three\n"):
        os.write(entered(fifo.door), line)
        if line == b"three\n":
            path.unlink()
        file.take(fifo, scratch, 100, 0.0)
    assert path.read_bytes() == b"two\nthree\n"
    os.write(entered(fifo.door), b"four\n")
    path.unlink()
    file.take(fifo, scratch, 100, 60.0)  # there was time enough
    file.close()
    fifo.close()
    scratch.close()

    assert path.read_bytes() == b"four\n"


async def test_a_planted_link_is_not_followed_at_the_first_open_either(tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    stranger.write_bytes(b"untouched")
    fifo = tmp_path / "run" / "team-a+dev" / "auth+mock.fifo"
    for path in (file_of(tmp_path), fifo):
        path.parent.mkdir(parents=True)
        path.symlink_to(stranger)

    async with logs_in(tmp_path) as logs:
        os.write(entered(logs.open(KEY)), b"mine\n")
        await logs.drain(KEY)

    assert file_of(tmp_path).read_bytes() == b"mine\n"
    assert stranger.read_bytes() == b"untouched"
    assert fifo.is_fifo()


async def test_an_emptied_log_file_goes_on_from_its_begin(tmp_path: Path) -> None:
    async with logs_in(tmp_path) as logs:
        fd = entered(logs.open(KEY))
        os.write(fd, b"before\n" * 10)
        await logs.drain(KEY)
        os.truncate(file_of(tmp_path), 0)
        os.write(fd, b"after\n")
        await logs.drain(KEY)

        assert file_of(tmp_path).read_bytes() == b"after\n"
        assert await logs.tail(KEY, 5) == [b"after"]


async def test_a_file_system_without_splice_gets_the_bytes_too(tmp_path: Path) -> None:
    async with logs_in(tmp_path, max_size=70_000) as logs:
        fd = entered(logs.open(KEY))
        await logs.drain(KEY)
        appending = os.open(file_of(tmp_path), os.O_RDWR | os.O_APPEND)  # which splice refuses
        os.dup2(appending, logs._captures[KEY]._file._fd, inheritable=False)
        os.close(appending)
        data = b"".join(b"%d\n" % n for n in range(30_000))
        await prints(fd, data)
        await logs.drain(KEY)

    assert stream_of(tmp_path) == data


def test_a_flood_in_one_mount_takes_one_turn_of_each_round(tmp_path: Path) -> None:
    logs = Logs(
        tmp_path / "run", tmp_path / "log", LogPolicy()
    )  # its thread is not started: we do the rounds
    flood, quiet = KEY, MountKey(ROOT, "auth/quiet")
    fds = entered(logs.open(flood)), entered(logs.open(quiet))
    logs._pump.round(0)
    logs._captures[flood].fifo.resize(LARGE)
    with subprocess.Popen(["yes"], stdout=fds[0]) as writer:
        try:
            for number in range(1, 101):
                logs._pump.round()
                before = logs._captures[flood].fifo.taken
                os.write(fds[1], b"a line\n")
                logs._pump.round()

                assert logs._captures[quiet].fifo.taken == 7 * number
                assert logs._captures[flood].fifo.taken - before <= MOST_PER_ROUND
        finally:
            writer.kill()
            logs.stop()


async def test_without_output_the_pump_has_no_reason_to_wake_up(tmp_path: Path) -> None:
    async with logs_in(tmp_path) as logs:
        os.write(entered(logs.open(KEY)), b"a line\n")
        await logs.drain(KEY)

        assert logs._pump._patience() is None


async def test_no_instance_inherits_what_the_one_before_did_to_its_stdout(tmp_path: Path) -> None:
    async with logs_in(tmp_path) as logs:
        os.set_blocking(entered(logs.open(KEY)), False)

        assert os.get_blocking(entered(logs.open(KEY)))


async def test_opening_an_open_mount_again_takes_no_descriptor(tmp_path: Path) -> None:
    async with logs_in(tmp_path) as logs:
        logs.open(KEY)
        await logs.drain(KEY)
        count = open_fds()
        for _ in range(100):
            logs.open(KEY)

        assert open_fds() == count


async def test_closing_a_mount_writes_what_is_there_and_removes_its_fifo(tmp_path: Path) -> None:
    async with logs_in(tmp_path) as logs:
        count = open_fds()
        os.write(entered(logs.open(KEY)), b"last words\n")
        logs.close(KEY)
        os.write(entered(logs.open(KEY)), b"mounted again\n")
        await logs.drain(KEY)
        assert file_of(tmp_path).read_bytes() == b"last words\nmounted again\n"

        logs.close(KEY)
        assert not (tmp_path / "run" / "team-a+dev" / "auth+mock.fifo").exists()
        assert await logs.tail(KEY, 1) == [b"mounted again"]
    assert open_fds() <= count


async def test_the_next_daemon_goes_on_with_the_fifo_of_the_last(tmp_path: Path) -> None:
    async with logs_in(tmp_path) as logs:
        fd = os.dup(entered(logs.open(KEY)))  # a plugin holds it
        os.write(fd, b"one\n")
    os.write(fd, b"two\n")
    async with logs_in(tmp_path) as logs:
        logs.open(KEY)
        os.write(fd, b"three\n")
        await logs.drain(KEY)
    os.close(fd)

    assert file_of(tmp_path).read_bytes() == b"one\ntwo\nthree\n"


async def test_a_fifo_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "run" / "team-a+dev" / "auth+mock.fifo" / "something").mkdir(parents=True)

    async with logs_in(tmp_path) as logs:
        with pytest.raises(Cannot, match=r"cannot open the log of auth/mock/ in team-a/dev: .*not empty"):
            logs.open(KEY)


async def test_after_a_stop_nothing_is_opened(tmp_path: Path) -> None:
    async with logs_in(tmp_path) as logs:
        logs.stop()

        with pytest.raises(Cannot, match="shutting down"):
            logs.open(KEY)


async def test_the_tail_spans_rotated_files(tmp_path: Path) -> None:
    data = b"".join(b"line %d\n" % n for n in range(100))

    async with logs_in(tmp_path, max_size=100, keep=20) as logs:
        await prints(entered(logs.open(KEY)), data + b"unfinished")

        assert await logs.tail(KEY, 40) == [b"line %d" % n for n in range(61, 100)] + [b"unfinished"]
        assert await logs.tail(KEY, 1000) == (data + b"unfinished").split(b"\n")
        assert await logs.tail(KEY, 1000, most_bytes=20) == (data + b"unfinished")[-20:].split(b"\n")
        assert await logs.tail(KEY, 0) == []
        assert await logs.tail(MountKey(ROOT, "auth/unknown"), 5) == []


async def test_the_last_lines_are_those_of_one_instance(tmp_path: Path) -> None:
    async with logs_in(tmp_path, max_size=50) as logs:
        fd = entered(logs.open(KEY))
        logs.mark(KEY, OLD, "begin", 1.0)
        await prints(fd, b"".join(b"old %d\n" % n for n in range(20)) + b"old unfinished")
        logs.mark(KEY, OLD, "end", 2.0)
        logs.mark(KEY, NEW, "begin", 3.0)
        await prints(fd, b"new \x1b[31m\xff\n\n" + b"y" * 1000)

        assert await logs.last_lines(KEY, OLD, 3) == ["old 18", "old 19", "old unfinished"]
        shown = await logs.last_lines(KEY, NEW)
        assert shown[0] == "new \\x1b[31m\N{REPLACEMENT CHARACTER}"
        assert shown[1] == "y" * 499 + "…"
        assert len(shown) == 2
        assert await logs.last_lines(KEY, InstanceId("aa-9")) == []
        assert (await logs.last_lines(KEY, None, 1))[0].startswith("yyy")


async def test_a_mark_is_exact_though_the_thread_is_late(tmp_path: Path) -> None:
    logs = Logs(tmp_path / "run", tmp_path / "log", LogPolicy())
    fd = entered(logs.open(KEY))
    os.write(fd, b"old\n")
    logs.mark(KEY, OLD, "end", 1.0)
    logs.mark(KEY, NEW, "begin", 1.0)
    os.write(fd, b"new\n")
    logs.start()

    assert await logs.last_lines(KEY, NEW) == ["new"]
    logs.stop()


async def test_marks_outlive_the_daemon_and_the_index_stays_small(tmp_path: Path) -> None:
    async with logs_in(tmp_path) as logs:
        fd = entered(logs.open(KEY))
        for number in range(1000):
            logs.mark(KEY, InstanceId(f"x-{number}"), "begin", 1.0)
            os.write(fd, b"%d\n" % number)
    index = file_of(tmp_path).with_name("auth+mock.log.index")
    assert index.read_bytes().count(b"\n") <= 300
    with index.open("ab") as file:
        file.write(b'{"what":"beg')  # a kill in the middle of a line

    async with logs_in(tmp_path) as logs:
        os.write(entered(logs.open(KEY)), b"more\n")
        assert await logs.last_lines(KEY, InstanceId("x-998")) == ["998", "999", "more"]
        logs.mark(KEY, NEW, "begin", 2.0)
        await logs.drain(KEY)
        assert index.read_bytes().endswith(b"}\n")


async def test_a_reader_follows_over_rotation_and_instances(tmp_path: Path) -> None:
    async with logs_in(tmp_path, max_size=1000, keep=500) as logs:
        fd = entered(logs.open(KEY))
        await prints(fd, b"0\n1\n2\nunfini")
        follower = logs.follow(KEY, 2)
        assert await anext(follower) == b"2\nunfini"

        waiting = asyncio.ensure_future(anext(follower))
        await prints(fd, b"shed\n")
        assert await waiting == b"shed\n"
        data = [b"".join(b"%d %d\n" % (number, n) for n in range(2000)) for number in range(5)]
        for text in data:
            await prints(fd, text)
        os.write(fd, b"the end")
        logs.close(KEY)
        assert b"".join([piece async for piece in follower]) == b"".join(data) + b"the end"
        assert await logs.tail(KEY, 1) == [b"the end"]


async def test_a_reader_that_is_too_slow_is_told(tmp_path: Path) -> None:
    async with logs_in(tmp_path, max_size=1000, keep=2) as logs:
        fd = entered(logs.open(KEY))
        os.write(fd, b"first\n")
        follower = logs.follow(KEY)
        assert await anext(follower) == b"first\n"
        await prints(fd, b"".join(b"%d\n" % n for n in range(10_000)))
        await logs.drain(KEY)

        with pytest.raises(LogLagged, match="too slow"):
            _ = [line async for line in follower]


async def test_a_mount_where_nothing_runs_yet_can_be_followed(tmp_path: Path) -> None:
    async with logs_in(tmp_path) as logs:
        follower = logs.follow(KEY)
        waiting = asyncio.ensure_future(anext(follower))
        await prints(entered(logs.open(KEY)), b"the first words")
        assert await waiting == b"the first words"
        await follower.aclose()


async def test_an_endless_line_is_followed_byte_for_byte(tmp_path: Path) -> None:
    data = b"x" * (3 * LONGEST_LINE)
    async with logs_in(tmp_path, max_size=LONGEST_LINE) as logs:
        fd = entered(logs.open(KEY))
        follower = logs.follow(KEY)
        first = asyncio.ensure_future(anext(follower))
        await prints(fd, data)
        logs.close(KEY)

        pieces = [await first, *[piece async for piece in follower]]
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= LONGEST_LINE


async def test_a_cancelled_reader_leaves_nothing_behind(tmp_path: Path) -> None:
    async with logs_in(tmp_path) as logs:
        logs.open(KEY)
        await logs.drain(KEY)
        count = open_fds()
        follower = logs.follow(KEY)
        waiting = asyncio.ensure_future(anext(follower))
        await logs.drain(KEY)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await follower.aclose()

        assert logs._captures[KEY].watchers == ()
        assert open_fds() == count


async def test_a_fifo_that_a_killed_plugind_left_of_a_removed_mount_goes(tmp_path: Path) -> None:
    kept, other = MountKey(ROOT, "kv"), MountKey(ROOT, "gone")
    async with logs_in(tmp_path) as logs:
        for key in (KEY, kept, other):
            logs.open(key)

    async with logs_in(tmp_path) as logs:
        logs.open(KEY)
        logs.keep_only([kept])

    left = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").glob("*/*")}
    assert left == {"team-a+dev/auth+mock.fifo", "root/kv.fifo"}
