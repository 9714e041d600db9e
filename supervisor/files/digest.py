"""The SHA-256 of a file that is to be in the catalog. Whether it may run is found out when it is to."""

import hashlib
import os
import stat
from pathlib import Path

from supervisor.domain.errors import BadRequest


def digest_of(path: Path) -> str:
    """In hex.

    Raises:
        BadRequest: It is no regular file, or cannot be read.
    """
    try:
        # O_NONBLOCK: a FIFO would otherwise be waited for
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BadRequest(f"cannot compute the SHA-256 of {path}: it is no regular file")
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise BadRequest(f"cannot compute the SHA-256 of {path}: {why}") from error
