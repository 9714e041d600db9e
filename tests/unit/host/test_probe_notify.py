"""Kind `notify`: what is said, whose word counts, and that nobody else pays for it (AU6)."""

import array
import asyncio
import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from host_probing import a_subject, descriptors, is_ready_within
from structlog.testing import capture_logs

from supervisor.domain.catalog import Liveness, Probe
from supervisor.domain.errors import Cannot
from supervisor.host.probes import Subject, prepare_both, reconsidered
from supervisor.host.probes import notify as module
from supervisor.host.probes.kind import Setup
from supervisor.host.probes.notices import LONGEST, Notice, Sender, objection, read_notice
from supervisor.host.probes.notify import Notify

SAY = """
import os, socket, sys
os.setresgid(*[int(sys.argv[2])] * 3) if sys.argv[2] != "-" else None
os.setresuid(*[int(sys.argv[2])] * 3) if sys.argv[2] != "-" else None
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.sendto(sys.argv[3].encode(), sys.argv[1])
print("said", flush=True)
sys.stdin.read()
"""

FLOOD = """
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
while True: s.sendto(b"STATUS=x", sys.argv[1])
"""


@pytest.fixture
def probe(tmp_path: Path) -> Iterator[Notify]:
    made = Notify(Setup(Probe("notify"), str(tmp_path)))
    yield made
    made.close()


def said_by(path: str, text: str, *, uid: str = "-") -> "subprocess.Popen[bytes]":
    """A process that has said `text` and lives until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-SEc", SAY, path, uid, text], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"said\n"
    return process


def end(process: "subprocess.Popen[bytes]") -> None:
    process.communicate()


def say(probe: Notify, data: bytes, passing: tuple[int, ...] = ()) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", passing))] if passing else []
        sender.sendmsg([data], rights, 0, probe.path)


async def all_handled(probe: Notify) -> None:
    """Return once everything said before is handled: a barrier, as sd_notify_barrier(3) makes it."""
    ours, theirs = os.pipe()
    say(probe, b"BARRIER=1", (theirs,))
    os.close(theirs)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(ours, ended.set)
    try:
        async with asyncio.timeout(10):
            await ended.wait()
    finally:
        loop.remove_reader(ours)
        os.close(ours)


# -- what a message says


def test_a_message_is_read_as_sd_notify_writes_it() -> None:
    assert read_notice(
        b"READY=1\nSTATUS=up = running\nMAINPID=4711\nERRNO=2\nEXTEND_TIMEOUT_USEC=1500000\nX_MINE=1\n"
    ) == Notice(ready=True, status="up = running", main_pid=4711, errno=2, extend=1.5)
    assert read_notice(b"STOPPING=1\nWATCHDOG=1") == Notice(stopping=True, watchdog=True)


@pytest.mark.parametrize(
    "data", [b"", b"READY", b"\n\n", b"READY=1\0", b"\xffREADY=1", b"READY=1\n" * LONGEST]
)
def test_what_is_no_notice_is_none(data: bytes) -> None:
    assert read_notice(data) is None


@pytest.mark.parametrize(
    "data", [b"READY=0", b"READY=11", b" READY=1", b"ready=1", b"READY=1\r", b"STATUS=x READY=1"]
)
def test_almost_ready_is_not_ready(data: bytes) -> None:
    notice = read_notice(data)

    assert notice is None or not notice.ready


@pytest.mark.parametrize("number", [b"-1", b"1e3", b"", b"\xd9\xa1", b"9" * 5000, b"0x10", b"1 "])
def test_numbers_that_are_none_are_passed_over(number: bytes) -> None:
    assert read_notice(b"READY=1\nMAINPID=%b\nERRNO=%b\nEXTEND_TIMEOUT_USEC=%b" % ((number,) * 3)) in {
        Notice(ready=True),
        None,  # the long one is over the limit
    }


def test_a_status_for_a_terminal_has_no_control_characters_and_no_end_of_its_own() -> None:
    notice = read_notice(b"STATUS=\x1b[2J" + b"x" * 3000)

    assert notice is not None
    assert notice.status is not None
    assert notice.status.isprintable()
    assert len(notice.status) <= 500


# -- whose word counts

INSTANCE = Subject(100, "/run/x", 1000, {100, 101}.__contains__)


@pytest.mark.parametrize(
    ("sender", "is_alive", "counts"),
    [
        (Sender(100, 1000), True, True),
        (Sender(101, 1000), True, True),
        (Sender(101, 0), True, True),  # plugind's own uid, in the instance: a plugin's helper
        (Sender(102, 1000), True, False),  # another mount under the same user
        (Sender(102, 0), True, False),
        (Sender(102, 1000), False, True),  # a short-lived child that is gone already
        (Sender(102, 1001), False, False),  # gone, and of another user
        (Sender(101, 1001), True, False),
        (Sender(0, 1000), False, False),  # outside our pid namespace
        (None, True, False),
    ],
)
def test_only_the_instance_itself_is_heard(sender: Sender | None, is_alive: bool, counts: bool) -> None:  # noqa: FBT001 - a table
    assert (objection(sender, INSTANCE, 0, lambda _: is_alive) is None) is counts


def test_a_child_that_ends_while_it_is_looked_up_is_no_stranger() -> None:
    alive = {102}

    def ends_meanwhile(pid: int) -> bool:
        alive.discard(pid)
        return False

    subject = replace(INSTANCE, belongs=ends_meanwhile)

    assert objection(Sender(102, 1000), subject, 0, alive.__contains__) is None


# -- the socket


async def test_ready_is_waited_for(probe: Notify, tmp_path: Path) -> None:
    assert not await is_ready_within(probe, a_subject(tmp_path), 0.02)
    assert probe.why_not() == f"notify {tmp_path}/notify: no READY=1"

    say(probe, b"READY=1\nSTATUS=serving")

    assert await is_ready_within(probe, a_subject(tmp_path))
    assert probe.status == "serving"


async def test_what_was_said_before_anyone_waits_is_heard(probe: Notify, tmp_path: Path) -> None:
    end(said_by(probe.path, "READY=1"))

    assert await is_ready_within(probe, a_subject(tmp_path))


async def test_one_that_the_loop_has_no_means_to_hear_is_heard_a_little_later(
    probe: Notify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop: Any = asyncio.get_running_loop()
    register, refused = loop._selector.register, []

    def no_memory(*asked: Any) -> Any:
        if len(refused) < 2:
            refused.append(asked)
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return register(*asked)

    monkeypatch.setattr(loop._selector, "register", no_memory)
    say(probe, b"READY=1")

    assert await is_ready_within(probe, a_subject(tmp_path), 10)
    assert len(refused) == 2


async def test_everything_else_that_is_said_is_kept(probe: Notify, tmp_path: Path) -> None:
    probe.attend(a_subject(tmp_path, belongs={os.getpid(), 4711}.__contains__))
    before = asyncio.get_running_loop().time()
    with capture_logs() as told:
        for text in (
            b"MAINPID=4711",
            b"MAINPID=4712",
            b"MAINPID=4712",
            b"ERRNO=13",
            b"EXTEND_TIMEOUT_USEC=5000000",
            b"STOPPING=1",
        ):
            say(probe, text)
        say(probe, b"WATCHDOG=1\nSTATUS=loading")
        await all_handled(probe)

    assert probe.main_pid == 4711
    assert [line["reason"] for line in told] == ["MAINPID=4712 names no process of this instance"]
    assert probe.extended_until is not None
    assert probe.extended_until >= before + 5
    assert probe.watchdog_at is not None
    assert probe.watchdog_at >= before
    assert probe.stopping
    assert probe.why_not() == (
        f"notify {tmp_path}/notify: no READY=1; it says: loading; "
        "it says: Permission denied (ERRNO=13); it says that it is stopping; "
        "it had asked for more time"
    )


async def test_a_living_process_of_another_instance_is_ignored_and_told(
    probe: Notify, tmp_path: Path
) -> None:
    subject = a_subject(tmp_path, belongs=os.getpid().__eq__)
    stranger = said_by(probe.path, "READY=1\nSTATUS=forged")
    try:
        assert not await is_ready_within(probe, subject, 0.02)
        await all_handled(probe)
    finally:
        end(stranger)

    assert probe.status == ""
    assert probe.ignored == 1
    assert "1 message was ignored, which the log of plugind tells more of" in probe.why_not()


async def test_a_child_that_is_a_zombie_already_is_heard(probe: Notify, tmp_path: Path) -> None:
    child = said_by(probe.path, "READY=1")
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    assert await is_ready_within(probe, a_subject(tmp_path, belongs=os.getpid().__eq__))

    child.wait()
    assert child.stdout is not None
    child.stdout.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_another_user_is_ignored_even_when_it_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    folder.mkdir(mode=0o700)
    probe = Notify(Setup(Probe("notify"), str(folder)))
    for path in (*list(folder.parents)[:3], folder):
        path.chmod(0o755)
    Path(probe.path).chmod(0o777)  # what the mode guards against is tried as if it did not

    end(said_by(probe.path, "READY=1", uid="65534"))

    assert not await is_ready_within(probe, a_subject(folder), 0.02)
    await all_handled(probe)
    assert probe.ignored == 1
    probe.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_the_plugins_user_may_send_and_nobody_else(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    for path in list(folder.parents)[:3]:
        path.chmod(0o755)
    probe = Notify(Setup(Probe("notify"), str(folder)))
    found = Path(probe.path).lstat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (65534, 65534, 0o600)

    end(said_by(probe.path, "READY=1", uid="65534"))

    subject = replace(a_subject(folder, belongs=lambda _: False), uid=65534)
    assert await is_ready_within(probe, subject)
    probe.close()


async def test_hostile_messages_are_counted_and_stop_nothing(probe: Notify, tmp_path: Path) -> None:
    probe.attend(a_subject(tmp_path))
    hostile = [b"", b"\xff\xfe", b"x" * LONGEST, b"READY=1\n" + b"x" * LONGEST, b"READY=1\0", b"=\n=" * 500]
    for data in hostile:
        say(probe, data)
    await all_handled(probe)

    assert probe.ignored == 5  # the last one is a notice that says nothing
    say(probe, b"READY=1")
    assert await is_ready_within(probe, a_subject(tmp_path))


async def test_passed_descriptors_never_stay(probe: Notify, tmp_path: Path) -> None:
    probe.attend(a_subject(tmp_path, belongs=os.getpid().__eq__))
    before = descriptors()
    ours, theirs = os.pipe()
    near, far = socket.socketpair()
    with (tmp_path / "file").open("wb") as file:
        say(probe, b"FDSTORE=1", (theirs, far.fileno(), file.fileno()))
        say(probe, b"\xff", (theirs,) * 250)
        say(probe, b"x" * 2 * LONGEST, (theirs,))
        os.close(theirs)
        far.close()
        await all_handled(probe)
        assert os.read(ours, 1) == b""
        assert near.recv(1) == b""
    near.close()
    os.close(ours)

    assert descriptors() == before


async def test_a_flood_of_messages_leaves_the_loop_free(probe: Notify, tmp_path: Path) -> None:
    flood = subprocess.Popen([sys.executable, "-SEc", FLOOD, probe.path], stderr=subprocess.DEVNULL)
    taken = 0
    real = probe._heed

    def heed(notice: Notice, subject: Subject) -> None:
        nonlocal taken
        taken += 1
        real(notice, subject)

    probe._heed = heed  # type: ignore[method-assign]
    loop = asyncio.get_running_loop()
    begin = loop.time()
    try:
        assert not await is_ready_within(probe, a_subject(tmp_path), 0.3)
    finally:
        flood.kill()
        flood.wait()

    assert 0 < taken <= module.BURST * ((loop.time() - begin) / module.WINDOW + 1)


async def test_a_watchdog_that_is_silent_for_too_long_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, liveness = prepare_both(Probe(), Liveness(Probe("notify"), interval=10), str(tmp_path))
    assert isinstance(liveness, Notify)
    loop = asyncio.get_running_loop()
    await liveness.check(a_subject(tmp_path))
    start = loop.time()

    with monkeypatch.context() as later:
        later.setattr(loop, "time", lambda: start + 11)
        with pytest.raises(Cannot, match=r"notify .*: no WATCHDOG=1 for 11s"):
            await liveness.check(a_subject(tmp_path))

    with monkeypatch.context() as later:
        later.setattr(loop, "time", lambda: start + 12)
        liveness._heed(Notice(watchdog=True), a_subject(tmp_path))
        await liveness.check(a_subject(tmp_path))
    liveness.close()


async def test_closing_leaves_no_descriptor_no_file_and_no_reader(tmp_path: Path) -> None:
    before = descriptors()
    for _ in range(3):
        probe = Notify(Setup(Probe("notify"), str(tmp_path)))
        probe.attend(a_subject(tmp_path))
        say(probe, b"STATUS=x")
        await all_handled(probe)
        probe.close()
        probe.close()
        with pytest.raises(Cannot, match="it was closed"):
            await probe.check(a_subject(tmp_path))

    assert descriptors() == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "plant",
    [lambda path: path.symlink_to("/etc/passwd"), lambda path: path.touch(), os.mkfifo],
    ids=["link", "file", "fifo"],
)
def test_what_lies_at_the_socket_is_replaced(tmp_path: Path, plant: Callable[[Path], None]) -> None:
    plant(tmp_path / "notify")

    probe = Notify(Setup(Probe("notify"), str(tmp_path)))

    assert stat.S_ISSOCK((tmp_path / "notify").lstat().st_mode)
    probe.close()


def test_a_socket_of_an_earlier_daemon_is_taken_over_for_the_instance_that_knows_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(f"{tmp_path}/notify")

    Notify(Setup(Probe("notify"), str(tmp_path))).close()


@pytest.mark.parametrize("folder", ["nowhere", "x" * 200])
def test_a_folder_that_cannot_hold_it_is_told_and_nothing_is_held(tmp_path: Path, folder: str) -> None:
    before = descriptors()

    with pytest.raises(Cannot, match=r"at most 107 fit|No such file or directory"):
        Notify(Setup(Probe("notify"), str(tmp_path / folder)))

    assert descriptors() == before


# --- other settings for what runs

WATCHED = Liveness(Probe("notify"), interval=2.0)
ASKED = Liveness(Probe("unix", address="/nowhere.sock"), interval=2.0)


async def test_an_instance_that_knows_its_watchdog_keeps_the_rhythm_that_it_was_told(tmp_path: Path) -> None:
    ready, former = prepare_both(Probe("notify"), WATCHED, str(tmp_path))
    ready.attend(a_subject(tmp_path))
    assert isinstance(ready, Notify)

    shorter = reconsidered(ready, former, replace(WATCHED, interval=0.5), str(tmp_path))
    short = ready._watchdog
    longer = reconsidered(ready, shorter, replace(WATCHED, interval=60.0), str(tmp_path))
    long = ready._watchdog
    other = reconsidered(ready, longer, ASKED, str(tmp_path))
    off = ready._watchdog
    none = reconsidered(ready, other, None, str(tmp_path))
    again = reconsidered(ready, none, WATCHED, str(tmp_path))

    assert shorter is longer is again is ready
    assert (short, long, off, ready._watchdog) == (2.0, 60.0, 0.0, 2.0)
    assert none is None
    assert other is not None
    ready.close()


@pytest.mark.parametrize("kind", ["notify", "exec"])
async def test_watchdog_messages_are_not_asked_of_an_instance_that_was_not_told(
    tmp_path: Path, kind: Literal["notify", "exec"]
) -> None:
    ready, former = prepare_both(Probe(kind), None, str(tmp_path))

    with pytest.raises(Cannot, match="its next start tells it"):
        reconsidered(ready, former, WATCHED, str(tmp_path))

    ready.close()
