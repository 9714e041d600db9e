"""stuck.py FOLDER COMMAND…: run a command that sees at FOLDER a file system which never answers.

Whoever opens anything in it sleeps uninterruptibly (state D), also after SIGKILL, until the server is gone,
whose pid is in FOLDER.server; FOLDER.asked.NAME is there once somebody opened NAME. It wants a mount
namespace of its own: unshare --mount.
"""

import ctypes
import os
import struct
import sys
from pathlib import Path
from typing import Final

LOOKUP: Final = 1
INIT: Final = 26
PARALLEL: Final = 1 << 18
"""FUSE_PARALLEL_DIROPS: one who waits does not keep others from asking."""
_HEADER: Final = struct.Struct("=IIQQIIII")
_ANSWER: Final = struct.Struct("=IiQ")
_INIT_ANSWER: Final = struct.Struct("=IIIIHHIIHHI28x")


def serve(device: int, asked: str) -> None:
    """Source: fuse(4); include/uapi/linux/fuse.h."""
    while True:
        request = os.read(device, 1 << 18)
        _, operation, unique, *_ = _HEADER.unpack_from(request)
        if operation == INIT:
            body = _INIT_ANSWER.pack(7, 31, 1 << 16, PARALLEL, 8, 8, 1 << 16, 1, 16, 0, 0)
            os.write(device, _ANSWER.pack(_ANSWER.size + len(body), 0, unique) + body)
        elif operation == LOOKUP:
            name = request[_HEADER.size :].split(b"\0")[0].decode()
            os.close(os.open(f"{asked}.{name}", os.O_CREAT | os.O_WRONLY, 0o600))


def main(folder: str, command: list[str]) -> None:
    Path(folder).mkdir()
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other"
    if libc.mount(b"stuck", folder.encode(), b"fuse", 6, options.encode()) != 0:  # nosuid, nodev
        raise SystemExit(f"cannot mount: {os.strerror(ctypes.get_errno())}")
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            Path(f"{folder}.server").write_text(str(os.getpid()))
            for number in (0, 1, 2):
                os.close(number)
            serve(device, f"{folder}.asked")
        os._exit(0)
    os.wait()
    os.execvp(command[0], command)  # noqa: S606 - what it is told to run


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
