"""A file's content is replaced whole or not at all: written beside it, synced, renamed over it."""

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def in_place_of(target: Path, content: bytes, check: Callable[[], None]) -> None:
    """Give `target`, an existing file, new content; owner, mode and attributes stay.

    `check` is called right before the rename and may raise; then nothing happened.

    Raises:
        OSError: It could not be done as a whole.
    """
    found = target.stat()
    if found.st_nlink > 1:
        raise OSError("it has hard links, which a replacement would part")

    def like_target(descriptor: int) -> None:
        if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(descriptor, found.st_uid, found.st_gid)
        os.fchmod(descriptor, found.st_mode & 0o7777)
        for name in os.listxattr(target):
            # ACLs and labels; some may be set by the kernel alone
            with suppress(OSError):
                os.setxattr(descriptor, name, os.getxattr(target, name))

    write_whole(target, content, like_target, check)


def write_whole(
    target: Path,
    content: bytes,
    prepare: Callable[[int], None] = lambda _: None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Make `target` hold `content`, mode 0600, whether it existed or not, and whatever a crash does.

    `prepare` gets the temporary file before it is synced, `check` is called right before the rename.

    Raises:
        OSError: It could not be written; then nothing happened.
    """
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(content)
        prepare(descriptor)
        os.fsync(descriptor)
        check()
        temporary.rename(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
