"""Whether the kernel of this machine would run a file: its first bytes, and the interpreter they name."""

import os
import stat
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from supervisor.files.trust import Runner, shown_user

_HEAD: Final = 256
"""BINPRM_BUF_SIZE: what the kernel reads to choose a format."""
_X86_64, _I386, _AARCH64, _ARM = 62, 3, 183, 40
_ALSO_RUNS: Final = {_X86_64: frozenset({_I386}), _AARCH64: frozenset({_ARM})}
_NAMES: Final = {
    _X86_64: "x86-64",
    _I386: "32-bit x86",
    _AARCH64: "aarch64",
    _ARM: "32-bit ARM",
    243: "RISC-V",
    21: "PowerPC64",
    22: "s390",
    8: "MIPS",
}
_PT_INTERP: Final = 3
_MOST_HEADERS: Final = 256
_LONGEST_PATH: Final = 4096


def unfit(path: Path, descriptor: int, runner: Runner) -> Iterator[str]:
    """Why execve(2) would refuse the open file, as far as it can be told without running it."""
    found = os.fstat(descriptor)
    if not runner.may_execute(found):
        yield f"{path} is not executable by {shown_user(runner.uid)}: chmod +x {path}"
    if os.fstatvfs(descriptor).f_flag & os.ST_NOEXEC:
        yield f"{path} lies on a file system that is mounted noexec: put it elsewhere"
    if os.geteuid() != 0:
        # plugind could start it, and then not signal it
        if found.st_mode & (stat.S_ISUID | stat.S_ISGID):
            yield f"{path} is setuid or setgid, and plugind does not run as root: chmod ug-s {path}"
        if _has_capabilities(descriptor):
            yield f"{path} has file capabilities, and plugind does not run as root: setcap -r {path}"
    yield from _format(path, descriptor, runner)


def _has_capabilities(descriptor: int) -> bool:
    try:
        return bool(os.getxattr(descriptor, "security.capability"))
    except OSError:
        return False


def _format(path: Path, descriptor: int, runner: Runner) -> Iterator[str]:
    head = os.pread(descriptor, _HEAD, 0)
    if head.startswith(b"\x7fELF"):
        try:
            yield from _elf(path, descriptor, head, runner)
        except (struct.error, IndexError, ValueError, OverflowError):
            yield f"{path} is a damaged ELF file: copy it again"
    elif head.startswith(b"#!"):
        yield from _script(path, head, runner)
    elif not head:
        yield f"{path} is empty: copy it again"
    else:
        yield f"{path} is no program: it is neither ELF nor begins with #!"


def _script(path: Path, head: bytes, runner: Runner) -> Iterator[str]:
    line = head[2:].split(b"\n", 1)[0]
    name = os.fsdecode((line.strip(b" \t").split(None, 1) or [b""])[0])
    if line.endswith(b"\r"):
        yield f"the #! line of {path} ends with a carriage return: save it with Unix line ends"
    elif not name.startswith("/"):
        yield f"the #! line of {path} names no absolute path: write #!/usr/bin/env NAME"
    else:
        yield from _interpreter(path, Path(name), runner)


def _interpreter(path: Path, name: Path, runner: Runner) -> Iterator[str]:
    try:
        found = name.stat()
    except OSError:
        yield f"{path} needs the interpreter {name}, which does not exist: install what brings it"
        return
    if not stat.S_ISREG(found.st_mode) or not runner.may_execute(found):
        yield f"{path} needs the interpreter {name}, which is not executable by {shown_user(runner.uid)}"


# ---- ELF


def _elf(path: Path, descriptor: int, head: bytes, runner: Runner) -> Iterator[str]:
    is_64, order = head[4] == 2, "<" if head[5] == 1 else ">"  # noqa: PLR2004 - ELFCLASS64, ELFDATA2LSB
    (machine,) = struct.unpack_from(order + "H", head, 18)
    own_machine, own_order = _own()
    runs = {own_machine} | _ALSO_RUNS.get(own_machine, frozenset())
    if machine not in runs or order != own_order:
        yield (
            f"{path} is built for {_NAMES.get(machine, f'machine {machine}')}, "
            f"this is {_NAMES.get(own_machine, f'machine {own_machine}')}"
        )
        return
    name = _elf_interpreter(descriptor, head, order, is_64=is_64)
    if name is not None:
        yield from _interpreter(path, name, runner)


def _elf_interpreter(descriptor: int, head: bytes, order: str, *, is_64: bool) -> Path | None:
    if is_64:
        (offset,) = struct.unpack_from(order + "Q", head, 32)
        size, count = struct.unpack_from(order + "HH", head, 54)
        layout = order + "I4xQ16xQ"
    else:
        (offset,) = struct.unpack_from(order + "I", head, 28)
        size, count = struct.unpack_from(order + "HH", head, 42)
        layout = order + "II8xI"
    table = os.pread(descriptor, size * min(count, _MOST_HEADERS), offset)
    for number in range(min(count, _MOST_HEADERS)):
        kind, at, length = struct.unpack_from(layout, table, number * size)
        if kind == _PT_INTERP:
            raw = os.pread(descriptor, min(length, _LONGEST_PATH), at)
            return Path(os.fsdecode(raw.rstrip(b"\0")))
    return None


@cache
def _own() -> tuple[int, str]:
    # the running Python is the one file of which it is certain that this machine runs it
    with Path("/proc/self/exe").open("rb") as file:
        head = file.read(20)
    order = "<" if head[5] == 1 else ">"
    return struct.unpack_from(order + "H", head, 18)[0], order
