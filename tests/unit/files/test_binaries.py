"""What is refused before anything is stopped for it, and which words say so."""

import dataclasses
import errno
import hashlib
import os
import re
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from supervisor.domain.catalog import (
    Admitted,
    FromFile,
    Launch,
    Liveness,
    Mark,
    MountSpec,
    Policies,
    Probe,
    StopPolicy,
)
from supervisor.domain.errors import Cannot, TargetUnfit
from supervisor.domain.names import ROOT, MountKey, PluginRef
from supervisor.files import binaries, executables, trust
from supervisor.files.binaries import Binaries, identity_of

SCRIPT = b"#!/bin/sh\nexit 0\n"
STRANGER = 54321


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    # pytest's folder may have been made with any umask
    tmp_path.chmod(0o755)
    path = tmp_path / "bin" / "mock"
    path.parent.mkdir(mode=0o755)
    return a_file(path, SCRIPT)


def a_file(path: Path, content: bytes, mode: int = 0o755) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    settle(path)
    return path


def settle(path: Path) -> None:
    """Wait until the clock of the file system is past the file, so that its digest may be kept."""
    probe = path.with_name(".tick")
    while True:
        probe.write_bytes(b"")
        if probe.stat().st_mtime_ns > path.stat().st_ctime_ns + 2 * binaries._SETTLED:
            return


def a_launch(path: Path, **changes: Any) -> Launch:
    launch = Launch(PluginRef("auth", "mock"), "v1", str(path), digest_of(path) if path.is_file() else None)
    return replace(launch, **changes)


def a_spec(launch: Launch, mount: str = "auth/mock", line: int = 7) -> MountSpec:
    return MountSpec(MountKey(ROOT, mount), launch, Policies(), mark=Mark("c.yaml", line, 3))


async def problems_of(launch: Launch, **options: Any) -> list[str]:
    try:
        await Binaries(**options).verify([a_spec(launch)])
    except TargetUnfit as error:
        return [fault.message.split(": ", 1)[1] for fault in error.faults]
    return []


async def test_a_sound_program_is_fit(program: Path) -> None:
    assert await problems_of(a_launch(program)) == []


async def test_the_fault_names_plugin_version_mount_and_place(program: Path) -> None:
    program.chmod(0o775)

    with pytest.raises(TargetUnfit) as caught:
        await Binaries().verify([a_spec(a_launch(program))])

    assert str(caught.value) == (
        f"c.yaml:7:3: cannot run auth/mock v1 for auth/mock/ in root: "
        f"{program} is writable by its group: chmod g-w {program}"
    )


async def test_whichever_look_at_the_open_file_is_refused_the_fault_says_so_or_it_is_fit(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch, look = a_launch(program), os.fstat
    left = 0

    def refused_once(descriptor: int) -> os.stat_result:
        nonlocal left
        left -= 1
        if not left:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return look(descriptor)

    monkeypatch.setattr(os, "fstat", refused_once)
    told: list[list[str]] = []
    while left <= 0:  # until there are fewer looks than that
        left = len(told) + 1
        told.append(await problems_of(launch))

    monkeypatch.undo()
    refused = [f"{program}: cannot allocate memory"]
    assert told[0] == refused
    assert [] in told[:-1], "what is only to be remembered is not needed"
    assert all(problems in ([], refused) for problems in told)


async def test_every_fault_of_every_target_is_told_at_once(program: Path, tmp_path: Path) -> None:
    wrong = a_launch(program, sha256="0" * 64, cwd="/nowhere")
    missing = a_launch(tmp_path / "missing")

    with pytest.raises(TargetUnfit) as caught:
        await Binaries().verify([a_spec(wrong), a_spec(wrong, "auth/b", 8), a_spec(missing, "auth/c", 9)])

    assert [fault.line for fault in caught.value.faults] == [7, 7, 8, 8, 9]
    text = str(caught.value)
    assert f"has SHA-256 {digest_of(program)[:12]}…, the catalog says 000000000000…" in text
    assert "the file was changed, or the catalog was not" in text
    assert "cwd /nowhere does not exist" in text
    assert f"{tmp_path}/missing does not exist" in text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"echo hello\n", "is no program: it is neither ELF nor begins with #!"),
        (b"#!/no/such/interpreter\n", "needs the interpreter /no/such/interpreter, which does not exist"),
        (b"#! /no/such/interpreter -x\n", "needs the interpreter /no/such/interpreter, which does not exist"),
        (b"#!/etc/passwd\n", "needs the interpreter /etc/passwd, which is not executable by"),
        (b"#!/bin/sh\r\n", "ends with a carriage return: save it with Unix line ends"),
        (b"#!sh\n", "names no absolute path"),
        (b"\x7fELF\x02\x01", "is a damaged ELF file"),
        (b"\x7fELF\x02\x01" + bytes(12) + struct.pack("<H", 243) + bytes(44), "is built for RISC-V, this is"),
        (b"\x7fELF\x02\x02" + bytes(12) + struct.pack(">H", 22) + bytes(44), "is built for s390, this is"),
    ],
)
async def test_what_the_kernel_would_not_run_is_refused(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    tmp_path.chmod(0o755)

    found = await problems_of(a_launch(a_file(tmp_path / "p", content)))

    assert any(expected in problem for problem in found), found


async def test_an_elf_whose_loader_is_missing_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    content = Path("/bin/sh").resolve().read_bytes()
    at = content.index(b"/ld-")
    sound = a_file(tmp_path / "sound", content)
    broken = a_file(tmp_path / "broken", content[:at] + b"/no-" + content[at + 4 :])

    assert await problems_of(a_launch(sound)) == []
    assert "which does not exist" in (await problems_of(a_launch(broken)))[0]


async def test_a_file_without_an_execute_bit_is_refused(program: Path) -> None:
    program.chmod(0o644)

    (found,) = await problems_of(a_launch(program))

    assert f"{program} is not executable by " in found


async def test_what_is_no_regular_file_is_refused_without_a_hang(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    os.mkfifo(tmp_path / "fifo")

    assert await problems_of(a_launch(tmp_path / "fifo")) == [f"{tmp_path}/fifo is not a regular file"]
    assert await problems_of(a_launch(tmp_path)) == [f"{tmp_path} is a folder: name the program in it"]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (0o775, "is writable by its group: chmod g-w"),
        (0o777, "is writable by everybody: chmod go-w"),
        (0o1777, None),
        (0o755, None),
    ],
)
async def test_a_folder_that_others_may_write_is_refused_by_name(
    program: Path, mode: int, expected: str | None
) -> None:
    program.parent.chmod(mode)

    found = await problems_of(a_launch(program))

    assert found == ([f"{program.parent} {expected} {program.parent}"] if expected else [])


async def test_the_folders_of_a_symlink_are_looked_at_too(program: Path, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    (links / "mock").symlink_to("../bin/mock")
    settle(program)
    launch = a_launch(links / "mock")
    assert await problems_of(launch) == []

    links.chmod(0o777)

    assert await problems_of(launch) == [f"{links} is writable by everybody: chmod go-w {links}"]


def test_what_belongs_to_a_stranger_is_not_trusted(program: Path) -> None:
    own = os.geteuid()
    runner = trust.Runner(own, os.getegid(), frozenset())
    trusted = frozenset({STRANGER})  # so that one's own files are a stranger's, whoever runs this
    program.parent.chmod(0o1777)

    walked = trust.walk(program, trusted, runner)

    assert any(problem.startswith(f"{program} belongs to ") for problem in walked.problems)
    assert any(problem.startswith(f"{program.parent} belongs to ") for problem in walked.problems)
    assert any("belongs to" in problem for problem in trust.unsafe(program, program.stat(), trusted))


def test_a_link_of_a_stranger_in_a_sticky_folder_is_not_followed_blindly(
    program: Path, tmp_path: Path
) -> None:
    sticky = tmp_path / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    (sticky / "link").symlink_to(program)
    runner = trust.Runner(os.geteuid(), os.getegid(), frozenset())

    walked = trust.walk(sticky / "link", frozenset({STRANGER}), runner)

    assert any(problem.startswith(f"{sticky}/link belongs to ") for problem in walked.problems)
    assert walked.target == program


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    runner = trust.Runner(os.geteuid(), os.getegid(), frozenset())

    with pytest.raises(OSError, match="it leads through more than 40 symlinks"):
        trust.walk(tmp_path / "a", frozenset({0}), runner)


async def test_setuid_is_refused_where_plugind_could_not_signal_it(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.chmod(0o4755)
    monkeypatch.setattr(executables.os, "geteuid", lambda: STRANGER)
    runner = trust.Runner(os.geteuid(), os.getegid(), frozenset())
    descriptor = os.open(program, os.O_RDONLY)
    try:
        found = list(executables.unfit(program, descriptor, runner))
    finally:
        os.close(descriptor)

    assert any("is setuid or setgid, and plugind does not run as root" in problem for problem in found)


def test_file_capabilities_are_refused_where_plugind_could_not_signal_it(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executables.os, "geteuid", lambda: STRANGER)
    monkeypatch.setattr(executables.os, "getxattr", lambda *_: b"\x01", raising=False)
    descriptor = os.open(program, os.O_RDONLY)
    try:
        found = list(executables.unfit(program, descriptor, trust.Runner(0, 0, frozenset())))
    finally:
        os.close(descriptor)

    assert any("has file capabilities" in problem for problem in found)


def test_a_file_system_without_execution_is_refused(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mounted:
        f_flag = os.ST_NOEXEC

    monkeypatch.setattr(executables.os, "fstatvfs", lambda _: Mounted)
    descriptor = os.open(program, os.O_RDONLY)
    try:
        found = list(executables.unfit(program, descriptor, trust.Runner(0, 0, frozenset())))
    finally:
        os.close(descriptor)

    assert any("mounted noexec" in problem for problem in found)


async def test_nothing_is_run_where_plugind_writes(program: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(program)

    for path in (program, tmp_path / "link"):
        found = await problems_of(a_launch(path), private=[str(program.parent)])

        assert found == [f"{program} lies in {program.parent}, where plugind writes: put it elsewhere"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"user": "no-such-user-here"}, "user no-such-user-here does not exist"),
        ({"group": "no-such-group-here"}, "group no-such-group-here does not exist"),
        ({"user": "4294967294"}, "user 4294967294 does not exist"),
        ({"cwd": "/etc/passwd"}, "cwd /etc/passwd is not a directory"),
        ({"env": (("K", FromFile("/no/key")),)}, "env K: /no/key does not exist"),
        ({"env": (("K", FromFile("/etc")),)}, "env K: /etc is not a regular file"),
    ],
)
async def test_account_folder_and_environment_are_looked_at(
    program: Path, changes: dict[str, Any], expected: str
) -> None:
    assert expected in await problems_of(a_launch(program, **changes))


@pytest.mark.parametrize("key", ["ready", "liveness", "stop"])
async def test_a_program_that_is_run_beside_the_plugin_is_looked_at(
    program: Path, tmp_path: Path, key: str
) -> None:
    def specs(path: str) -> list[MountSpec]:
        words = (path, "--now")
        probe = Probe(kind="command", command=words)
        policies = {
            "ready": Policies(ready=probe),
            "liveness": Policies(liveness=Liveness(probe)),
            "stop": Policies(stop=StopPolicy(command=words)),
        }[key]
        return [dataclasses.replace(a_spec(a_launch(program)), policies=policies)]

    (tmp_path / "plain").touch(0o644)
    told = f"cannot run auth/mock v1 ({program}) for auth/mock/ in root: {key}.command"
    for path, why in {
        "/no/such/program": "does not exist",
        "/etc": "is not a regular file",
        f"{tmp_path}/plain": "is not executable by ",
    }.items():
        with pytest.raises(TargetUnfit) as caught:
            await Binaries().verify(specs(path))
        assert f"{told} {path} {why}" in str(caught.value)
    await Binaries().verify([*specs("/bin/true"), *specs("$TMPDIR/made-by-itself")])


async def test_another_user_needs_root(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.files.accounts.os.geteuid", lambda: STRANGER)

    found = await problems_of(a_launch(program, user="root"))

    assert "plugind does not run as root and cannot become user root" in found


async def test_a_file_is_hashed_once_however_many_mounts_run_it(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[int] = []
    real = binaries._sha256
    monkeypatch.setattr(binaries, "_sha256", lambda fd: (hashed.append(fd), real(fd))[1])
    files = Binaries()
    launches = [a_launch(program, args=(str(number),)) for number in range(50)]

    await files.verify(a_spec(launch, f"auth/m{n}", n) for n, launch in enumerate(launches))
    await files.verify([a_spec(launches[0])])

    assert len(hashed) == 1


async def test_admission_of_a_known_file_needs_no_thread(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Binaries()
    launch = a_launch(program)
    first = await files.admit(launch)
    threads: list[str] = []
    monkeypatch.setattr(files, "_examine", lambda _: threads.append(threading.current_thread().name))

    assert await files.admit(launch) == first == Admitted(identity_of(program.stat()))
    assert threads == []


async def test_a_file_that_was_overwritten_in_place_is_not_admitted(program: Path) -> None:
    files = Binaries()
    launch = a_launch(program)
    await files.admit(launch)
    program.write_bytes(SCRIPT.replace(b"0", b"1"))

    with pytest.raises(Cannot, match=r"cannot run auth/mock v1: .*has SHA-256 "):
        await files.admit(launch)


async def test_a_file_written_within_a_tick_of_the_clock_is_hashed_again(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries, "_SETTLED", 3600 * 10**9)  # however slow the machine is
    files = Binaries()
    program.write_bytes(SCRIPT)  # two writes now may leave the same times

    await files.admit(a_launch(program))

    assert not files._digests


async def test_a_file_that_changes_while_it_is_hashed_is_refused(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = a_launch(program)
    real = binaries._sha256

    def write_too(descriptor: int) -> str:
        digest = real(descriptor)
        program.write_bytes(SCRIPT + b"#")
        return digest

    monkeypatch.setattr(binaries, "_sha256", write_too)

    assert await problems_of(launch) == [f"{program} was changed while it was read: ask again"]


async def test_without_a_digest_in_the_catalog_the_identity_is_enough(program: Path) -> None:
    files = Binaries()

    assert await files.admit(a_launch(program, sha256=None)) == Admitted(identity_of(program.stat()))


async def test_the_cache_is_bounded(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_MOST_CACHED", 2)
    files = Binaries()
    for number in range(4):
        other = a_file(program.with_name(f"p{number}"), SCRIPT + b"#" * number)
        await files.admit(a_launch(other))

    assert len(files._digests) == 2


# --- what ran before


def deleted(program: Path) -> str:
    program.unlink()
    return f"{program} does not exist"


def replaced(program: Path) -> str:
    other = a_file(program.with_name("other"), b"#!/bin/sh\n# another one\n")
    other.rename(program)
    return f"{program} has SHA-256 {digest_of(program)[:12]}…"


def not_executable_any_more(program: Path) -> str:
    content = program.read_bytes()
    program.unlink()
    a_file(program, content).chmod(0o644)
    return f"{program} is not executable by "


@pytest.mark.parametrize("gone", [deleted, replaced, not_executable_any_more])
async def test_a_file_that_was_admitted_can_be_run_when_its_path_leads_elsewhere(
    program: Path, gone: Callable[[Path], str]
) -> None:
    files, launch, content = Binaries(), a_launch(program), program.read_bytes()
    await files.admit(launch)
    why = gone(program)

    found = await files.admit(launch)

    assert found.descriptor is not None
    assert os.pread(found.descriptor, 4096, 0) == content
    assert found.identity == identity_of(os.fstat(found.descriptor))
    assert why in found.why
    with pytest.raises(TargetUnfit, match=re.escape(why)):  # nobody may ask for it anew
        await files.verify([a_spec(launch)])


@pytest.mark.parametrize(
    "change", [lambda path: path.write_bytes(b"#!/bin/sh\n"), lambda path: path.chmod(0o777)]
)
async def test_a_file_that_was_written_to_or_may_be_is_not_run_because_it_was_held(
    program: Path, change: Callable[[Path], object]
) -> None:
    files, launch = Binaries(), a_launch(program)
    await files.admit(launch)
    change(program)
    os.link(program, program.with_name("other"))
    program.unlink()

    with pytest.raises(Cannot, match=rf"cannot run auth/mock v1: {program} does not exist"):
        await files.admit(launch)


async def test_what_is_wrong_beside_the_file_is_wrong_with_the_held_one_too(
    program: Path, tmp_path: Path
) -> None:
    (tmp_path / "cwd").mkdir()
    files, launch = Binaries(), a_launch(program, cwd=str(tmp_path / "cwd"))
    await files.admit(launch)
    program.unlink()
    (tmp_path / "cwd").rmdir()

    with pytest.raises(Cannot, match=f"cwd {tmp_path}/cwd does not exist; {program} does not exist"):
        await files.admit(launch)


async def test_one_descriptor_is_held_for_a_file_however_many_run_it_until_it_is_let_go_of(
    program: Path,
) -> None:
    files = Binaries()
    launches = [a_launch(program, args=(str(number),)) for number in range(5)]
    for launch in launches:
        await files.admit(launch)
    held = descriptors_of(program)
    files.keep_only(launches[3:4])
    still = descriptors_of(program)
    files.keep_only([])

    assert (held, still, descriptors_of(program)) == (1, 1, 0)
    await files.admit(launches[0])
    assert descriptors_of(program) == 1
    files.keep_only([])


def descriptors_of(path: Path) -> int:
    return sum(os.path.realpath(link) == str(path) for link in Path("/proc/self/fd").iterdir())


async def test_nothing_is_held_where_descriptors_are_scarce(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.files.held.resource.getrlimit", lambda _: (6, 6))
    files = Binaries()

    await files.admit(a_launch(program))

    assert descriptors_of(program) == 0
    monkeypatch.setattr(files, "_admit", None)  # what is known needs no thread, held or not
    await files.admit(a_launch(program))


async def test_the_file_of_what_another_plugind_started_is_found_by_what_runs(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    program = a_file(tmp_path / "sleeps", Path("/bin/sleep").resolve().read_bytes())
    launch, content = a_launch(program), program.read_bytes()
    with subprocess.Popen([program, "1000"]) as process:
        try:
            replaced(program)
            files = Binaries()
            files.recall(launch, process.pid)
            found = await files.admit(launch)
        finally:
            process.kill()

    assert found.descriptor is not None
    assert os.pread(found.descriptor, len(content) + 1, 0) == content
    files.keep_only([])
