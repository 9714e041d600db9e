"""How plugind finds out how it was started, tries another one, and what it says of what that one said."""

import asyncio
import errno
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supervisor.domain.catalog import LogPolicy, Settings, Socket
from supervisor.domain.errors import Cannot
from supervisor.domain.legacy import Errand, Expected, Legacy, Places, Sockets
from supervisor.host import upgrade
from supervisor.host.instances import Instances
from supervisor.host.logs import Logs
from supervisor.host.preparation import check_folders
from supervisor.host.records import InstanceRecords
from supervisor.host.upgrade import Program, Successor

EXPECTED = Expected(Places("s", "r", "t"), "", has_catalog=True)


def started_as(monkeypatch: pytest.MonkeyPatch, original: list[str], seen: list[str]) -> Program:
    monkeypatch.setattr(sys, "orig_argv", original)
    monkeypatch.setattr(sys, "argv", seen)
    return Program.of_this_process()


@pytest.mark.parametrize(
    ("original", "seen", "argv"),
    [
        (["python3", "bin/plugind", "--config", "x"], ["bin/plugind", "--config", "x"],
         [sys.executable, "bin/plugind", "--config", "x"]),
        (["python3", "-I", "-X", "dev", "/bin/plugind"], ["/bin/plugind"],
         [sys.executable, "-I", "-X", "dev", "/bin/plugind"]),
        (["python3", "-c", "main()", "--config", "x"], ["-c", "--config", "x"],
         [sys.executable, "-c", "main()", "--config", "x"]),
        (["python3", "-m", "plugind"], ["/lib/plugind.py"], [sys.executable, "-m", "plugind"]),
    ],
)  # fmt: skip
def test_the_same_program_is_started_again(
    monkeypatch: pytest.MonkeyPatch, original: list[str], seen: list[str], argv: list[str]
) -> None:
    assert list(started_as(monkeypatch, original, seen).argv) == argv


def test_a_script_that_the_kernel_found_an_interpreter_for_is_run_by_its_own_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = Path("/proc/self/comm").read_text().strip()

    program = started_as(
        monkeypatch, ["python3", f"bin/{name}", "--config", "x"], [f"bin/{name}", "--config", "x"]
    )

    assert program == Program((f"bin/{name}", "--config", "x"), str(Path.cwd()))


def test_how_it_was_started_is_known_where_no_file_can_be_opened() -> None:
    known = Program.of_this_process()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        again = Program.of_this_process()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert again == known


@pytest.fixture
async def instances(tmp_path: Path) -> Any:
    logs = Logs(tmp_path / "fifos", tmp_path / "logs", LogPolicy())
    made = Instances(tmp_path, InstanceRecords(tmp_path / "instances"), logs)
    made.open()
    yield made
    made.close()
    logs.stop()


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names only
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


async def tried(instances: Instances, script: str, folder: str = "/") -> None:
    program = Program(("/bin/sh", "-c", script, "plugind"), folder)
    await Successor(program, instances.helpers.run, lambda: EXPECTED, lambda _: None).check()


async def test_a_check_that_ends_well_is_all_that_is_asked(instances: Instances, tmp_path: Path) -> None:
    await tried(
        instances, f'[ "$1" = --check ] && pwd >{tmp_path}/where && env >{tmp_path}/env', str(tmp_path)
    )

    assert (tmp_path / "where").read_text() == f"{tmp_path}\n"
    assert f"{upgrade.EXPECTED}=" in (tmp_path / "env").read_text()


async def test_what_was_expected_is_read_in_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    assert upgrade.expected() is None
    monkeypatch.setenv(upgrade.EXPECTED, '{"places":{"socket":"s","runtime_dir":"r","state_dir":"t"},'
                       '"tcp":"","has_catalog":true,"version":1}')  # fmt: skip
    assert upgrade.expected() == EXPECTED


async def test_one_that_fails_is_told_by_its_last_lines(instances: Instances) -> None:
    with pytest.raises(Cannot) as caught:
        await tried(instances, "for n in 1 2 3 4 5 6 7 8; do echo line $n >&2; done; exit 2")

    assert str(caught.value) == (
        "cannot upgrade: the new plugind does not start (exit 2): "
        "line 3; line 4; line 5; line 6; line 7; line 8"
    )


async def test_one_that_is_killed_or_says_nothing_is_told_too(instances: Instances) -> None:
    with pytest.raises(Cannot, match=r"does not start \(signal 9\)$"):
        await tried(instances, "kill -9 $$")


async def test_one_that_cannot_be_found_is_told(instances: Instances) -> None:
    with pytest.raises(Cannot, match=r"does not start .exit 127.*no-such-program"):
        await Successor(
            Program(("/no-such-program",), "/gone"), instances.helpers.run, lambda: EXPECTED, lambda _: None
        ).check()


async def test_one_that_there_is_no_memory_for_is_told(
    instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(os, "memfd_create", refused)

    with pytest.raises(Cannot, match="cannot be tried: Cannot allocate memory"):
        await tried(instances, "exit 0")


def test_what_was_left_and_nobody_took_is_let_go_of() -> None:
    reads, writes = os.pipe()
    taken = os.dup(reads)
    os.close(taken)
    errand = Errand(upgrade_id="u", old_version="1", began_at="now")

    upgrade.drop(Legacy(errand=errand, sockets=Sockets(reads, writes, (0, 0)), claims=(taken,), files=(1, 1)))


@pytest.mark.parametrize("there", ["file", "locked"])
def test_a_folder_that_cannot_be_made_is_found_out_without_making_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "locked").mkdir()
    new = str(tmp_path / "new" / "log")
    settings = Settings(
        "catalog.yaml", "node", Socket("s"), str(tmp_path), str(tmp_path / "new" / "state"), new
    )
    check_folders(settings)
    monkeypatch.setattr(os, "access", lambda path, _: "locked" not in str(path))  # root may write everywhere

    with pytest.raises(Cannot, match=f"cannot make .*/{there}/log: .*/{there} does not allow it"):
        check_folders(replace(settings, log_dir=str(tmp_path / there / "log")))

    assert not (tmp_path / "new").exists()


async def test_one_that_does_not_end_is_ended(instances: Instances, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "PATIENCE", 0.2)

    with pytest.raises(Cannot, match=r"did not get through its check in 0\.2 s"):
        await tried(instances, "exec sleep 1000")

    while instances.children.all():  # it is killed, and reaped
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.01)


async def test_taking_over_is_for_the_daemon_to_do(instances: Instances) -> None:
    errands: list[Errand] = []
    successor = Successor(
        Program(("/bin/true",), "/"), instances.helpers.run, lambda: EXPECTED, errands.append
    )

    successor.take_over(Errand(upgrade_id="u", old_version="1", began_at="now"))

    assert [errand.upgrade_id for errand in errands] == ["u"]
