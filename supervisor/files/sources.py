"""The files of a catalog as they are on disk now. What stands in them is read elsewhere.

A file is either read whole or is a fault: nothing here waits for a FIFO, follows a device, or takes
a file that somebody has open for writing at this moment.
"""

import fcntl
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor.domain.errors import CatalogInvalid, Fault
from supervisor.files.text import MOST_BYTES

_MOST_FILES: Final = 10_000
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """One file: its absolute path, symlinks not resolved, and its content."""

    path: str
    text: str | bytes


def read_sources(path: str | os.PathLike[str]) -> tuple[Source, ...]:
    """The files that `path` stands for: itself, or the `*.yaml` of a directory by name.

    Hidden files and what editors leave behind are passed over.

    Raises:
        CatalogInvalid: With a fault for every file that cannot be read.
        OSError: It cannot be told what is there.
    """
    whole = Path(path).absolute()
    names = _listed(whole) if whole.is_dir() else [whole]
    sources: list[Source] = []
    faults: list[Fault] = []
    left = MOST_BYTES
    for name in names:
        try:
            text = read_whole(name)
        except Unreadable as error:
            faults.append(Fault(str(name), 0, 0, str(error)))
            continue
        left -= len(text)
        if left < 0:
            most = MOST_BYTES >> 20
            faults.append(Fault(str(name), 0, 0, f"is larger than {most} MiB with the files before it"))
            break
        sources.append(Source(str(name), text))
    if faults:
        raise CatalogInvalid(faults)
    return tuple(sources)


def _listed(folder: Path) -> list[Path]:
    try:
        names = sorted(entry for entry in folder.iterdir() if _is_meant(entry.name))
    except OSError as error:
        raise CatalogInvalid([Fault(str(folder), 0, 0, f"cannot be listed: {_why(error)}")]) from error
    if not names:
        raise CatalogInvalid([Fault(str(folder), 0, 0, "holds no *.yaml file")])
    if len(names) > _MOST_FILES:
        raise CatalogInvalid([Fault(str(folder), 0, 0, f"holds more than {_MOST_FILES:,} *.yaml files")])
    return names


def _is_meant(name: str) -> bool:
    return name.endswith(".yaml") and not name.startswith((".", "#"))


class Unreadable(Exception):
    """A file could not be read whole; the message says why, without its name."""


def read_whole(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file of at most `most` bytes, as it was at one moment.

    Raises:
        Unreadable: It cannot be read, is something else, too large, or is being written.
    """
    try:
        # O_NONBLOCK: a FIFO named x.yaml would otherwise be waited for
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise Unreadable(_unopened(path, error)) from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable(f"is {_kind(found.st_mode)}, not a regular file")
        if found.st_size > most:
            raise Unreadable(f"is larger than {most >> 20} MiB")
        with _nobody_writing(descriptor):
            return _read(descriptor, most)
    except OSError as error:
        raise Unreadable(f"cannot be read: {_why(error)}") from error
    finally:
        os.close(descriptor)


def _read(descriptor: int, most: int) -> bytes:
    chunks: list[bytes] = []
    left = most + 1
    while left > 0 and (chunk := os.read(descriptor, min(left, _CHUNK))):
        chunks.append(chunk)
        left -= len(chunk)
    if left <= 0:
        raise Unreadable(f"is larger than {most >> 20} MiB")
    return b"".join(chunks)


@contextmanager
def _nobody_writing(descriptor: int) -> Iterator[None]:
    """Hold a read lease where the file system has them: half a save can be valid YAML.

    Whoever opens the file for writing meanwhile waits for the end of it, which is at once.

    Raises:
        Unreadable: Somebody has it open for writing.

    Source: fcntl(2) F_SETLEASE. The default signal of a broken lease would end plugind; SIGURG is ignored.
    """
    held = False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        held = True
    except BlockingIOError as error:
        raise Unreadable("is being written by another process: ask again when it is saved") from error
    except OSError:
        pass  # no leases here, or the file is someone else's: then it is read as it is
    try:
        yield
    finally:
        if held:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def _unopened(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        if path.is_symlink():
            return f"is a symlink to {path.readlink()}, which does not exist"
        return "does not exist"
    return f"cannot be opened: {_why(error)}"


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
