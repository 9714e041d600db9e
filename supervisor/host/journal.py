"""The file behind `why`: lines that are added in batches, and written afresh now and then.

What a line says is the engine's. On tmpfs beside the adoption records, so nothing is synced; a line
that a crash cut off is the reader's to pass over. Fits `engine/ports.Journal`.
"""

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from supervisor.domain.errors import Cannot
from supervisor.host.wholefile import read_whole, refusal, remove_strays, write_all, write_whole

T = TypeVar("T")
MOST_BYTES: Final = 256 << 20
_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class Journal:
    def __init__(self, path: Path) -> None:
        self._path = path

    async def load(self, read: Callable[[bytes], T]) -> T:
        """What `read` makes of all lines.

        Raises:
            Cannot: They cannot be read.
        """

        def work() -> T:
            remove_strays(self._path.parent)
            return read(read_whole(self._path, MOST_BYTES) or b"")

        return await asyncio.to_thread(work)

    async def write(self, make: Callable[[], bytes], *, afresh: bool) -> int:
        """Add what `make` gives, or put it in the place of everything; the size of the file then.

        Raises:
            Cannot: It is not in the file, or not whole.
        """
        return await asyncio.to_thread(self._write, make, afresh=afresh)

    def _write(self, make: Callable[[], bytes], *, afresh: bool) -> int:
        data = make()
        if afresh:
            write_whole(self._path, data, durable=False)
            return len(data)
        try:
            descriptor = os.open(self._path, _APPEND)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise Cannot(f"cannot write {self._path}: it is no regular file")
                write_all(descriptor, data)
                return os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)
        except OSError as error:
            raise refusal("write", self._path, error) from error
