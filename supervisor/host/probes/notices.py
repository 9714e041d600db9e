"""What a sd_notify message says, and whose word counts: pure functions over what arrived.

The socket it arrives at is `notify.py`. The two are apart because forgery is decided here, and can
be tried here with any uid and pid.

Source: sd_notify(3), unix(7) SCM_CREDENTIALS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from supervisor.domain.names import Seconds, shortened
from supervisor.host.probes.kind import Subject

LONGEST: Final = 4096
"""PIPE_BUF, as in systemd; a longer message arrives truncated and does not count."""
LONGEST_STATUS: Final = 500
_LONGEST_NUMBER: Final = 18


@dataclass(frozen=True, slots=True)
class Sender:
    """What the kernel says about who sent a message. A pid of 0 is outside our pid namespace."""

    pid: int
    uid: int


@dataclass(frozen=True, slots=True)
class Notice:
    """A message, read. None: it says nothing about this."""

    ready: bool = False
    stopping: bool = False
    watchdog: bool = False
    status: str | None = None
    main_pid: int | None = None
    errno: int | None = None
    extend: Seconds | None = None


def read_notice(data: bytes) -> Notice | None:
    """The notice in `data`, or None if it is none; unknown assignments are passed over."""
    if len(data) > LONGEST or b"\0" in data:
        return None
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError:
        return None
    pairs = dict(line.split("=", 1) for line in lines if "=" in line)
    if not pairs:
        return None
    status = pairs.get("STATUS")
    extend = _number(pairs.get("EXTEND_TIMEOUT_USEC"))
    return Notice(
        ready=pairs.get("READY") == "1",
        stopping=pairs.get("STOPPING") == "1",
        watchdog=pairs.get("WATCHDOG") == "1",
        status=None if status is None else shortened(status, LONGEST_STATUS),
        main_pid=_number(pairs.get("MAINPID")),
        errno=_number(pairs.get("ERRNO")),
        extend=None if extend is None else extend / 1_000_000,
    )


def objection(
    sender: Sender | None, subject: Subject, own_uid: int, is_alive: Callable[[int], bool]
) -> str | None:
    """Why the word of `sender` does not count, or None if it does.

    A sender that is gone already (`systemd-notify` in a shell script) can only be known by its uid and
    by having reached a socket in a folder that is closed to other users. One that is alive must be part
    of the instance: other mounts may run under the same uid.
    """
    if sender is None:
        return "the kernel named no sender"
    if sender.uid not in {subject.uid, own_uid}:
        return f"it came from uid {sender.uid}"
    if sender.pid <= 0:
        return "it came from outside the pid namespace"
    # belongs before alive: one that ends in between is gone, not a stranger
    if sender.pid == subject.pid or subject.belongs(sender.pid) or not is_alive(sender.pid):
        return None
    return "it came from a process of another instance"


def _number(text: str | None) -> int | None:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > _LONGEST_NUMBER:
        return None
    return int(text)
