"""Files that are whole or not there at all: written beside their place, then renamed into it.

Decided here: how bytes get to a path and back without links being followed, partial content being
seen, or a strange file (a FIFO, a gigabyte) stopping the daemon. What the bytes mean is the
business of `records.py`, `memory.py` and `history.py`.
"""

import itertools
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from supervisor.domain.errors import Cannot

_COUNTER: Final = itertools.count(1)
_TEMPORARY: Final = re.compile(r"\..+\.(\d+)-\d+\.tmp", re.ASCII)
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def write_whole(path: Path | str, data: bytes, *, mode: int = 0o600, durable: bool) -> None:
    """Put `data` at `path`: afterwards, and after a crash at any instant, it is the old or the new content.

    A link, FIFO or socket at `path` is replaced, not followed. With `durable` the content and its name
    have reached the disk on return; without, they survive this process but maybe not a power cut.

    Raises:
        Cannot: The kernel refused; the old content is still there and no temporary file is left.
    """
    try:
        temporary = _written_beside(os.fspath(path), data, mode, durable=durable)
        try:
            os.rename(temporary, path)  # noqa: PTH104 - names, on the path of every start
        except BaseException:
            unlink_quietly(temporary)
            raise
        if durable:
            sync_folder(Path(path).parent)
    except OSError as error:
        raise refusal("write", path, error) from error


def read_whole(path: Path, most: int) -> bytes | None:
    """The content of a regular file, or None where there is nothing.

    Raises:
        Cannot: It is a link, no regular file, has more than `most` bytes, or the kernel refused.
    """
    try:
        descriptor = os.open(path, _READ)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise refusal("read", path, error) from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Cannot(f"cannot read {path}: it is no regular file")
        if found.st_size > most:
            raise Cannot(f"cannot read {path}: it has {found.st_size} bytes, at most {most} are expected")
        parts: list[bytes] = []
        left = most + 1  # one more than allowed, to notice a file that grows while it is read
        while left and (part := os.read(descriptor, min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
    except OSError as error:
        raise refusal("read", path, error) from error
    finally:
        os.close(descriptor)
    if not left:
        raise Cannot(f"cannot read {path}: it has more than {most} bytes")
    return b"".join(parts)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte; a full disk may take only some of them before it says so."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_folder(folder: Path) -> None:
    """Let the names in `folder` reach the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_strays(folder: Path) -> None:
    """Remove the temporary files that a killed predecessor left in `folder`; best effort."""
    own = str(os.getpid())
    with suppress(OSError):
        for path in folder.iterdir():
            match = _TEMPORARY.fullmatch(path.name)
            if match and match[1] != own:
                unlink_quietly(path)


def free_name(path: Path) -> Path:
    """`path`, or the first of `path.1`, `path.2` … that is not taken."""
    names = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
    return next(name for name in itertools.chain([path], names) if not is_there(name))


def moved_aside(path: Path) -> str:
    """Give what is at `path` another name, and say which, for people."""
    try:
        place = free_name(path.with_name(f"{path.name}.damaged"))
        path.rename(place)
    except OSError as error:
        return f"it could not be set aside: {error.strerror}"
    return f"it is kept as {place}"


def is_there(path: Path) -> bool:
    """Whether anything has this name. Not `lexists`, which says no to whatever it could not find out.

    Raises:
        OSError: It could not be found out.
    """
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def refusal(verb: str, path: Path | str, error: OSError) -> Cannot:
    """What the kernel said about `path`, as the error that leaves this package."""
    return Cannot(f"cannot {verb} {path}: {error.strerror or error}")


def _written_beside(path: str, data: bytes, mode: int, *, durable: bool) -> str:
    folder, slash, name = path.rpartition("/")
    while True:
        # a name of its own per call: two writers of one path must never share a half-written file
        temporary = f"{folder}{slash}.{name}.{os.getpid()}-{next(_COUNTER)}.tmp"
        try:
            descriptor = os.open(temporary, _CREATE, mode)
            break
        except FileExistsError:
            continue  # an earlier process of this pid was killed here
    try:
        try:
            if mode & 0o077:  # the umask took these away; it never takes the owner's
                os.fchmod(descriptor, mode)
            write_all(descriptor, data)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        unlink_quietly(temporary)
        raise
    return temporary


def unlink_quietly(path: Path | str) -> None:
    """Remove what can be removed; for names that nobody misses."""
    with suppress(OSError):
        os.unlink(path)  # noqa: PTH108 - names, as above
