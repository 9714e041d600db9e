"""Files that are whole or not there at all (ST2, FS6)."""

import errno
import os
import resource
import stat
import threading
from pathlib import Path

import pytest

from supervisor.domain.errors import Cannot
from supervisor.host.wholefile import free_name, read_whole, remove_strays, write_whole


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refuse(number: int) -> object:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refused


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"old", durable=True)
    write_whole(tmp_path / "a", b"new", durable=False)

    assert read_whole(tmp_path / "a", 3) == b"new"
    assert names_in(tmp_path) == ["a"]


def test_the_mode_is_as_asked_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        write_whole(tmp_path / "a", b"", mode=0o644, durable=False)
        write_whole(tmp_path / "b", b"", durable=False)
    finally:
        os.umask(old)

    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "fifo", "dangling"])
def test_what_was_planted_at_the_path_is_replaced_and_its_target_unchanged(tmp_path: Path, kind: str) -> None:
    victim, path = tmp_path / "victim", tmp_path / "state"
    victim.write_bytes(b"precious")
    {
        "symlink": lambda: path.symlink_to(victim),
        "hardlink": lambda: path.hardlink_to(victim),
        "fifo": lambda: os.mkfifo(path),
        "dangling": lambda: path.symlink_to(tmp_path / "nowhere"),
    }[kind]()

    write_whole(path, b"ours", durable=True)

    assert victim.read_bytes() == b"precious"
    assert not path.is_symlink()
    assert path.read_bytes() == b"ours"


@pytest.mark.parametrize("call", ["write", "fsync", "fchmod", "open"])
def test_a_refusal_leaves_the_old_content_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "a"
    write_whole(path, b"old", durable=False)
    monkeypatch.setattr(os, call, refuse(errno.ENOSPC))

    with pytest.raises(Cannot, match=rf"^cannot write {path}: No space left on device$"):
        write_whole(path, b"new", mode=0o644, durable=True)

    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["a"]


def test_a_rename_onto_a_folder_is_an_error_without_leftovers(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()

    with pytest.raises(Cannot, match="cannot write"):
        write_whole(tmp_path / "a", b"new", durable=False)

    assert names_in(tmp_path) == ["a"]


def test_writes_that_take_a_byte_at_a_time_still_write_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:1]))

    write_whole(tmp_path / "a", b"every byte", durable=False)

    assert (tmp_path / "a").read_bytes() == b"every byte"


def test_a_durable_write_syncs_content_then_renames_then_syncs_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    sync, rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content")
        sync(descriptor)

    def renamed(source: str, target: Path) -> None:
        steps.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", renamed)

    write_whole(tmp_path / "a", b"x", durable=True)

    assert steps == ["content", "rename", "folder"]


def test_writers_of_one_path_never_mix_their_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    contents = [bytes([number]) * 50_000 for number in range(4)]

    def write(data: bytes) -> None:
        for _ in range(50):
            write_whole(path, data, durable=False)
            assert read_whole(path, 50_000) in contents

    threads = [threading.Thread(target=write, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert names_in(tmp_path) == ["a"]


def test_nothing_is_none_and_what_is_no_regular_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "fifo")

    assert read_whole(tmp_path / "nothing", 10) is None
    for name in ("folder", "link", "fifo"):
        with pytest.raises(Cannot, match=name):
            read_whole(tmp_path / name, 1 << 20)


def test_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(Cannot, match="at most 1000 are expected"):
        read_whole(tmp_path / "huge", 1000)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_file_that_says_it_is_empty_but_never_ends_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_whole(tmp_path / "a", 5) == b"12345"

    with pytest.raises(Cannot, match="more than"):
        read_whole(Path("/proc/self/maps"), 10)


def test_strays_of_a_killed_writer_are_removed_and_nothing_else(tmp_path: Path) -> None:
    keep = [".a.json.tmp", "a.json", f".a.json.{os.getpid()}-1.tmp"]
    for name in [*keep, ".a.json.999999999-7.tmp"]:
        (tmp_path / name).touch()

    remove_strays(tmp_path)
    remove_strays(tmp_path / "nowhere")

    assert names_in(tmp_path) == sorted(keep)


def test_a_free_name_is_the_first_that_nothing_has(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "a.1").symlink_to("nowhere")

    assert free_name(tmp_path / "b") == tmp_path / "b"
    assert free_name(tmp_path / "a") == tmp_path / "a.2"
