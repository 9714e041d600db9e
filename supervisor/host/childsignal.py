"""SIGCHLD as a descriptor: a thousand deaths are one event, and no byte of another signal is lost by them.

A handler of asyncio's would write a byte for each into a pipe of 278: when a thousand plugins end at
once it runs full, says so on stderr, and the byte of a SIGTERM may be the one that does not fit.
"""

import asyncio
import ctypes
import os
import signal
from collections.abc import Callable
from typing import Final

from supervisor.domain.errors import Cannot

_NONBLOCK_CLOEXEC: Final = os.O_NONBLOCK | os.O_CLOEXEC
_SIGSET_BYTES: Final = 128
_RECORD_BYTES: Final = 128


def block() -> None:
    """Keep SIGCHLD for the descriptor; before the first thread. Plugins start with an empty mask."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})


class ChildSignal:
    """Calls `tell` in the loop after children died.

    Source: signalfd(2).

    Raises:
        Cannot: No descriptor is left.
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        block()
        libc = ctypes.CDLL(None, use_errno=True)
        mask = ctypes.create_string_buffer(_SIGSET_BYTES)
        libc.sigemptyset(mask)
        libc.sigaddset(mask, int(signal.SIGCHLD))
        self._descriptor: int = libc.signalfd(-1, mask, _NONBLOCK_CLOEXEC)
        if self._descriptor < 0:
            raise Cannot(f"cannot watch for orphans: {os.strerror(ctypes.get_errno())}")
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._read)

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _read(self) -> None:
        try:
            os.read(self._descriptor, _RECORD_BYTES)
        except BlockingIOError:
            return
        self._tell()
