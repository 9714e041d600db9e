"""Kind `notify`: the plugin says READY=1 to a datagram socket of this instance's own.

Decided here: how messages are taken from the socket without costing anyone else anything. What they
say and whose word counts is decided in `notices.py`; what STOPPING or a new deadline means for the
mount, by whoever reads the attributes.

Source: sd_notify(3), sd_notify_barrier(3), unix(7).
"""

import array
import asyncio
import os
import socket
import stat
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from supervisor.domain.errors import Cannot
from supervisor.domain.names import Seconds, shown_duration
from supervisor.host.identity import is_alive
from supervisor.host.probes.kind import Setup, Subject, socket_path
from supervisor.host.probes.notices import LONGEST, Notice, Sender, objection, read_notice
from supervisor.host.wholefile import refusal

log = structlog.get_logger(__name__)

NAME: Final = "notify"
BURST: Final = 20
WINDOW: Final[Seconds] = 0.1
"""At most BURST messages per WINDOW are read: the sender of more waits, not the other mounts."""
NOT_YET: Final[Seconds] = 0.05
_CREDENTIALS: Final = struct.Struct("=iII")
_MOST_DESCRIPTORS: Final = 253
_ANCILLARY: Final = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(_MOST_DESCRIPTORS * 4)


class Notify:
    """One socket, read while someone has asked about the instance.

    Attributes:
        status: The last STATUS=.
        stopping: STOPPING=1 was said.
        watchdog_at: When WATCHDOG=1 was said last, on the loop's clock.
        extended_until: Until when EXTEND_TIMEOUT_USEC asked for patience, on the loop's clock.
        main_pid: MAINPID, if that is a process of the instance.
        errno: The last ERRNO=.
        ignored: How many messages did not count.
    """

    def __init__(self, setup: Setup) -> None:
        self.path = socket_path(f"{setup.folder}/{NAME}")
        self.env = {"NOTIFY_SOCKET": self.path}
        if setup.watchdog:
            self.env["WATCHDOG_USEC"] = str(round(setup.watchdog * 1_000_000))
        self.status = ""
        self.stopping = False
        self.watchdog_at: Seconds | None = None
        self.extended_until: Seconds | None = None
        self.main_pid: int | None = None
        self.errno: int | None = None
        self.ignored = 0
        self._watchdog = self._told = setup.watchdog
        self._own_uid = os.geteuid()
        self._ready = asyncio.Event()
        self._objections: set[str] = set()
        self._subject: Subject | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._window: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._left = BURST
        self._socket: socket.socket | None = _bound(self.path, setup.folder)

    def attend(self, subject: Subject) -> None:
        """Begin to read.

        Raises:
            Cannot: It was closed.
        """
        first, self._subject = self._subject is None, subject
        if self._socket is None:
            raise Cannot(f"cannot listen at {self.path}: it was closed")
        if first:
            self._loop = asyncio.get_running_loop()
            self.watchdog_at = self._loop.time()  # the first silence counts from here
            self._listen()

    def _listen(self) -> None:
        if self._socket is None or self._loop is None:
            return
        try:
            self._loop.add_reader(self._socket, self._take)
        except OSError:  # no memory or no watch for it just now: what is said waits in the socket
            self._retry = self._loop.call_later(NOT_YET, self._listen)

    async def wait_ready(self, subject: Subject) -> None:
        self.attend(subject)
        await self._ready.wait()

    async def check(self, subject: Subject) -> None:
        """Return if WATCHDOG=1 was said in time.

        Raises:
            Cannot: It was not, for longer than the interval of liveness.
        """
        self.attend(subject)
        if self._watchdog and self.watchdog_at is not None and self._loop is not None:
            silent = self._loop.time() - self.watchdog_at
            if silent > self._watchdog:
                raise Cannot(f"notify {self.path}: no WATCHDOG=1 for {shown_duration(round(silent, 1))}")

    def allow_silence(self, interval: Seconds) -> None:
        """Another interval of liveness. The instance keeps the rhythm that it was told at its start."""
        self._watchdog = max(self._told, interval) if self._told and interval else 0.0

    @property
    def was_told(self) -> bool:
        """Whether the instance knows that WATCHDOG=1 is expected of it."""
        return bool(self._told)

    def why_not(self) -> str:
        said = [f"it says: {self.status}"] if self.status else []
        said += [f"it says: {os.strerror(self.errno)} (ERRNO={self.errno})"] if self.errno else []
        said += ["it says that it is stopping"] if self.stopping else []
        said += ["it had asked for more time"] if self.extended_until is not None else []
        if self.ignored:
            count = "1 message was" if self.ignored == 1 else f"{self.ignored} messages were"
            said.append(f"{count} ignored, which the log of plugind tells more of")
        return f"notify {self.path}: " + "; ".join(["no READY=1", *said])

    def close(self) -> None:
        for timer in (self._window, self._retry):
            if timer is not None:
                timer.cancel()
        taken, self._socket = self._socket, None
        if taken is None:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(taken)
        taken.close()
        with suppress(OSError):
            Path(self.path).unlink()

    def _take(self) -> None:
        while self._socket is not None and self._loop is not None:
            if not self._left:
                self._loop.remove_reader(self._socket)  # _refill puts it back
                return
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(
                    LONGEST + 1, _ANCILLARY, socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # a socket that is of no use any more must not spin the loop
                self._loop.remove_reader(self._socket)
                log.warning("notify_socket_failed", path=self.path, reason=str(error))
                return
            self._left -= 1
            if self._window is None:
                self._window = self._loop.call_later(WINDOW, self._refill)
            try:
                sender = _sender(ancillary)
                self._hear(None if flags & socket.MSG_TRUNC else data, sender)
            finally:
                _close_passed(ancillary)  # only now: a barrier ends when its message was handled

    def _refill(self) -> None:
        self._window, exhausted = None, not self._left
        self._left = BURST
        if exhausted:
            self._listen()

    def _hear(self, data: bytes | None, sender: Sender | None) -> None:
        if self._subject is None:
            return
        why = objection(sender, self._subject, self._own_uid, _is_alive)
        notice = None if data is None or why else read_notice(data)
        if notice is None:
            self._ignore(why or "it is no notice", sender)
        else:
            self._heed(notice, self._subject)

    def _heed(self, notice: Notice, subject: Subject) -> None:
        now = asyncio.get_running_loop().time()
        self.stopping = self.stopping or notice.stopping
        if notice.status is not None:
            self.status = notice.status
        if notice.errno is not None:
            self.errno = notice.errno
        if notice.watchdog:
            self.watchdog_at = now
        if notice.extend is not None:
            self.extended_until = now + notice.extend
        if notice.main_pid is not None:
            if subject.belongs(notice.main_pid):
                self.main_pid = notice.main_pid
            else:
                self._tell_once(f"MAINPID={notice.main_pid} names no process of this instance", None)
        if notice.ready:
            self.watchdog_at = now
            self._ready.set()

    def _ignore(self, why: str, sender: Sender | None) -> None:
        self.ignored += 1
        self._tell_once(why, sender)

    def _tell_once(self, why: str, sender: Sender | None) -> None:
        if why not in self._objections and len(self._objections) < BURST:  # a forger fills no log
            self._objections.add(why)
            log.warning(
                "notify_message_ignored", path=self.path, reason=why, sender=sender.pid if sender else None
            )


def _bound(path: str, folder: str) -> socket.socket:
    """A datagram socket at `path` that the owner of `folder`, and nobody else, may send to."""
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        os.fchmod(receiver.fileno(), 0o600)  # what bind makes gets the mode of the socket: no moment of 0755
        Path(path).unlink(missing_ok=True)  # of an earlier plugind: the instance still knows this path
        receiver.bind(path)
        _hand_over(path, folder)
    except OSError as error:
        receiver.close()
        raise refusal("listen at", Path(path), error) from error
    except BaseException:
        receiver.close()
        raise
    return receiver


def _hand_over(path: str, folder: str) -> None:
    owner = Path(folder).stat()
    if owner.st_uid == os.geteuid():
        return
    # by descriptor: the folder's owner could have put a link to another file there since the bind
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISSOCK(found.st_mode) or found.st_nlink != 1 or found.st_uid != os.geteuid():
            raise Cannot(f"cannot listen at {path}: something else was put there")
        os.chown(f"/proc/self/fd/{descriptor}", owner.st_uid, owner.st_gid)
    finally:
        os.close(descriptor)


def _sender(ancillary: list[tuple[int, int, bytes]]) -> Sender | None:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and len(data) >= _CREDENTIALS.size:
            pid, uid, _gid = _CREDENTIALS.unpack_from(data)
            return Sender(pid, uid)
    return None


def _close_passed(ancillary: list[tuple[int, int, bytes]]) -> None:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            passed = array.array("i")
            passed.frombytes(data[: len(data) - len(data) % passed.itemsize])
            strange = [descriptor for descriptor in passed if not _closed_at_once(descriptor)]
            if strange:
                threading.Thread(target=_close_all, args=(strange,), daemon=True).start()


def _closed_at_once(descriptor: int) -> bool:
    # closing a pipe (what a barrier passes) never waits; a lingering TCP socket or a file of a
    # hostile FUSE mount may, and must not do so on the event loop
    with suppress(OSError):
        if str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith("pipe:"):
            os.close(descriptor)
            return True
    return False


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)


def _is_alive(pid: int) -> bool:
    try:
        return is_alive(pid)
    except Cannot:
        return True  # what cannot be read is not known to be gone
