"""Editing is staging: however it is saved, a good edit is in force soon, a bad one told; no process moves."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Plugind

SLEEPS = "#!/bin/sh\nexec sleep 1000\n"
MOUNTS = {"root": {"auth/mock": "{plugin: auth/mock}"}, "team-a": {"auth/mock": "{plugin: auth/mock}"}}
SOON = 4.0
"""Below the 5 s of the look that needs no event: what is known by then was told by inotify."""


@pytest.fixture(scope="module")
def daemon(shared_plugind: Plugind) -> Plugind:
    daemon = shared_plugind
    (daemon.folder / "etc").mkdir()
    daemon.catalog = daemon.folder / "etc" / "catalog.yaml"
    daemon.settings()
    one = daemon.plugin("one", SLEEPS)
    daemon.write({"v1": (one, []), "v2": (one, ["2"]), "v3": (one, ["3"])}, MOUNTS, "v1")
    shutil.copy(daemon.catalog, daemon.folder / "good.yaml")
    return daemon.start()


@pytest.fixture
def running(daemon: Plugind) -> Iterator[Plugind]:
    """Pin v1 is in force, from a plain file; whatever the test does, no process is touched."""
    before = daemon.pids()
    yield daemon
    shutil.rmtree(daemon.folder / "etc", ignore_errors=True)
    (daemon.folder / "etc").mkdir(exist_ok=True)
    daemon.catalog.write_bytes(pinned(daemon, "v1"))
    in_force(daemon, "v1")
    assert daemon.pids() == before
    assert {row["restarts"] for row in daemon.rows().values()} == {0}


def pinned(daemon: Plugind, version: str) -> bytes:
    return (daemon.folder / "good.yaml").read_bytes().replace(b"pin: v1", f"pin: {version}".encode())


def catalog_of(daemon: Plugind) -> dict[str, Any]:
    found = daemon.call("GET", "supervisor/status").data["catalog"]
    assert isinstance(found, dict)
    return found


def in_force(daemon: Plugind, version: str) -> None:
    daemon.until(
        lambda: (
            {row["pinned_version"] for row in daemon.rows().values()} == {version}
            and not catalog_of(daemon)["faults"]
        ),
        SOON,
    )


def refused(daemon: Plugind, since: int, version: str, why: str) -> None:
    """The log and the status tell of a fault, and `version` is still what is pinned."""
    daemon.until(lambda: any(why in fault for fault in catalog_of(daemon)["faults"]), SOON)
    assert why in daemon.saw("catalog_refused", since=since)["reason"]
    assert {row["pinned_version"] for row in daemon.rows().values()} == {version}


def truncate(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def piece_by_piece(path: Path, content: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(content), 40):
            file.write(content[start : start + 40])


def rename_over(path: Path, content: bytes) -> None:
    beside = path.with_name(".catalog.yaml.swp123")
    beside.write_bytes(content)
    beside.rename(path)


def vim(path: Path, content: bytes) -> None:
    """backupcopy=no: the old file becomes the backup, the new one is another inode."""
    probe, backup = path.with_name("4913"), path.with_name("catalog.yaml~")
    probe.touch()
    probe.unlink()
    path.rename(backup)
    path.write_bytes(content)
    backup.unlink()


def emacs(path: Path, content: bytes) -> None:
    lock, backup = path.with_name(".#catalog.yaml"), path.with_name("catalog.yaml~")
    lock.symlink_to("user@host.123:456")
    shutil.copy(path, backup)
    path.write_bytes(content)
    lock.unlink()


def kubernetes(path: Path, content: bytes) -> None:
    """A ConfigMap: catalog.yaml -> ..data/catalog.yaml, and ..data is swapped by a rename."""
    folder = path.parent
    real = folder / f"..{len(content)}_{content[content.index(b'pin:') + 5 :][:2].decode()}"
    real.mkdir()
    (real / path.name).write_bytes(content)
    (folder / "..data_tmp").symlink_to(real.name)
    before = (folder / "..data").resolve() if (folder / "..data").is_symlink() else None
    (folder / "..data_tmp").rename(folder / "..data")
    if not path.is_symlink():
        path.unlink()
        path.symlink_to(f"..data/{path.name}")
    if before is not None:
        shutil.rmtree(before)


def parent_replaced(path: Path, content: bytes) -> None:
    new, old = path.parent.with_name("etc.new"), path.parent.with_name("etc.old")
    new.mkdir()
    (new / path.name).write_bytes(content)
    path.parent.rename(old)
    new.rename(path.parent)
    shutil.rmtree(old)


def deleted_and_back(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize(
    "save",
    [truncate, piece_by_piece, rename_over, vim, emacs, kubernetes, parent_replaced, deleted_and_back],
    ids=lambda save: save.__name__,
)
def test_however_it_is_saved_a_good_edit_is_in_force_and_a_bad_one_is_told(
    running: Plugind, save: Callable[[Path, bytes], None]
) -> None:
    loaded_at = catalog_of(running)["loaded_at"]

    save(running.catalog, pinned(running, "v2"))
    in_force(running, "v2")
    assert catalog_of(running)["loaded_at"] > loaded_at

    since = len(running.log)
    save(running.catalog, pinned(running, "v9"))
    refused(running, since, "v2", f'{running.catalog}:4:12: auth/mock is pinned to "v9"')

    save(running.catalog, pinned(running, "v3"))  # once more: what was replaced is watched again
    in_force(running, "v3")


def test_a_deleted_catalog_is_told_and_in_force_again_when_it_is_back(running: Plugind) -> None:
    since = len(running.log)
    running.catalog.unlink()
    refused(running, since, "v1", f"{running.catalog}: does not exist")

    running.catalog.write_bytes(pinned(running, "v2"))

    in_force(running, "v2")


def test_a_deleted_folder_is_told_and_its_catalog_in_force_again_when_it_is_back(running: Plugind) -> None:
    since = len(running.log)
    shutil.rmtree(running.catalog.parent)
    refused(running, since, "v1", f"{running.catalog}: does not exist")

    running.catalog.parent.mkdir()
    running.catalog.write_bytes(pinned(running, "v2"))

    in_force(running, "v2")


def test_a_folder_that_was_removed_and_made_again_is_watched_again(running: Plugind) -> None:
    for version in ("v2", "v3", "v2", "v3"):  # its inode number may be the same
        shutil.rmtree(running.catalog.parent)
        running.catalog.parent.mkdir()
        running.catalog.write_bytes(pinned(running, "v1"))
        in_force(running, "v1")

        truncate(running.catalog, pinned(running, version))
        in_force(running, version)


def test_files_of_a_folder_are_merged_and_each_of_them_is_watched(running: Plugind) -> None:
    text = pinned(running, "v1")
    at = text.index(b"namespaces:")
    new = running.catalog.with_name("new")
    new.mkdir()
    (new / "10-plugins.yaml").write_bytes(text[:at])
    (new / "20-mounts.yaml").write_bytes(text[at:])
    since = len(running.log)
    running.catalog.unlink()
    new.rename(running.catalog)  # the path may be a folder
    running.saw("catalog_loaded", since=since)
    in_force(running, "v1")

    rename_over(running.catalog / "10-plugins.yaml", text[:at].replace(b"pin: v1", b"pin: v2"))
    in_force(running, "v2")
    (running.catalog / "30-team-b.yaml").write_text(
        "namespaces:\n  team-b:\n    mounts:\n      auth/mock: {plugin: auth/mock}\n"
    )
    running.until(lambda: "team-b:auth/mock" in running.rows(), SOON)
    assert running.rows()["team-b:auth/mock"]["pid"] is None  # staged: apply starts it
    since = len(running.log)
    (running.catalog / "40-again.yaml").write_bytes(text[at:])
    refused(running, since, "v2", f"{running.catalog}/40-again.yaml:")
    (running.catalog / "40-again.yaml").unlink()
    (running.catalog / "30-team-b.yaml").rename(running.catalog / "30-team-b.yaml~")
    running.until(lambda: "team-b:auth/mock" not in running.rows(), SOON)


def test_many_saves_cost_few_loads_and_the_last_one_is_in_force(running: Plugind) -> None:
    since = len(running.log)
    for number in range(300):
        rename_over(running.catalog, pinned(running, "v3" if number % 2 else "v2"))
    rename_over(running.catalog, pinned(running, "v2"))

    in_force(running, "v2")

    loads = [entry for entry in running.log[since:] if entry["event"] == "catalog_loaded"]
    assert len(loads) < 30


def test_reads_and_neighbours_and_the_same_text_again_load_nothing(running: Plugind) -> None:
    since = len(running.log)
    loaded_at = catalog_of(running)["loaded_at"]
    for _ in range(20):
        running.catalog.read_bytes()
    running.catalog.with_name("notes.txt").write_text("nothing of yours")
    os.utime(running.catalog)
    rename_over(running.catalog, pinned(running, "v1"))
    rename_over(running.catalog.with_name("other.yaml"), b"plugins: [")

    (running.folder / "etc" / "catalog.yaml").write_bytes(pinned(running, "v2"))  # seen after all of these
    in_force(running, "v2")

    loads = [entry["event"] for entry in running.log[since:] if entry["event"].startswith("catalog_")]
    assert loads == ["catalog_loaded"]
    assert catalog_of(running)["loaded_at"] > loaded_at


def test_a_fault_that_stays_is_told_once(running: Plugind) -> None:
    since = len(running.log)
    truncate(running.catalog, pinned(running, "v9"))
    refused(running, since, "v1", 'pinned to "v9"')
    truncate(running.catalog, pinned(running, "v9") + b"# a comment\n")
    rename_over(running.catalog, pinned(running, "v9"))
    truncate(running.catalog, pinned(running, "v2"))

    in_force(running, "v2")

    told = [entry["event"] for entry in running.log[since:] if entry["event"].startswith("catalog_")]
    assert told == ["catalog_refused", "catalog_loaded"]
