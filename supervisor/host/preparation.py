"""What plugind makes of its own process at a start, before it opens anything."""

import ctypes
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from supervisor.domain.catalog import Settings
from supervisor.domain.errors import Cannot
from supervisor.host import childsignal

log = structlog.get_logger("supervisor.daemon")
TOLD_BY: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP})
"""Signals that tell plugind something."""
PR_SET_CHILD_SUBREAPER: Final = 36
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
LARGE: Final = 128 << 10
"""Bytes. glibc begins with it too, and raises it each time that something larger is given back."""


def folders_of(settings: Settings) -> tuple[tuple[str, int], ...]:
    """What `prepare_process` makes, each with its mode."""
    return (settings.runtime_dir, 0o755), (settings.state_dir, 0o700), (settings.log_dir, 0o750)


def check_folders(settings: Settings) -> None:
    """Return if they are there, or could be made.

    Raises:
        Cannot: One is not, and cannot be.
    """
    for folder, _ in folders_of(settings):
        path = Path(folder)
        there = next(above for above in (path, *path.parents) if os.path.lexists(above))
        if not there.is_dir() or (there != path and not os.access(there, os.W_OK | os.X_OK)):
            raise Cannot(f"cannot make {folder}: {there} does not allow it; it is set in plugind.yaml")


def prepare_process(settings: Settings) -> None:
    """What every plugin inherits, and folders that are missing.

    Raises:
        Cannot: A folder cannot be made.
    """
    os.umask(0o022)
    spare_memory()
    for folder, mode in folders_of(settings):
        try:
            Path(folder).mkdir(mode=mode, parents=True, exist_ok=True)
        except OSError as error:
            raise Cannot(f"cannot make {folder}: {error.strerror}; it is set in plugind.yaml") from error
    os.chdir("/")
    # they wait until there is somebody to hear them; also those that came to the plugind before this one in
    # the same process. No thread that is started meanwhile will take one. Nothing else is blocked: whoever
    # started plugind may have done so
    signal.pthread_sigmask(signal.SIG_SETMASK, TOLD_BY)
    childsignal.block()
    become_subreaper()


def spare_memory() -> None:
    """Have what is large given back to the kernel as soon as it is free, and one arena for all threads.

    Else a report or a journal that was in memory once leaves holes: 10 MB after 1,600 reloads, and more and
    more. Not inherited by plugins. Source: mallopt(3); other C libraries have none.
    """
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, LARGE), (M_TRIM_THRESHOLD, LARGE)):
            mallopt(parameter, value)


def listen_to_signals() -> None:
    """Handlers are there now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD_BY)


def hold_signals() -> None:
    """What comes from now on waits for the next plugind in this process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, TOLD_BY)


def become_subreaper() -> None:
    """Orphans of plugins become children of plugind. Source: prctl(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        log.warning("subreaper_refused", reason=os.strerror(ctypes.get_errno()))
