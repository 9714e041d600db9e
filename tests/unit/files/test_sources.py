"""Which files are read, and that none of them is waited for."""

import os
import socket
from pathlib import Path

import pytest

from supervisor.domain.errors import CatalogInvalid
from supervisor.files.load import load_catalog
from supervisor.files.sources import read_sources

CATALOG = "plugins: {}\n"


def fault_of(path: Path) -> str:
    with pytest.raises(CatalogInvalid) as caught:
        load_catalog(path)
    return "\n".join(str(fault).removeprefix(f"{path}") for fault in caught.value.faults)


def test_a_directory_is_its_yaml_files_by_name_without_hidden_and_backup_files(tmp_path: Path) -> None:
    for name in [
        "b.yaml",
        "a.yaml",
        ".c.yaml",
        "d.yaml~",
        "#e.yaml#",
        "#f.yaml",
        "g.yaml.bak",
        "h.yml",
        "README",
    ]:
        (tmp_path / name).write_text(CATALOG)

    assert [Path(source.path).name for source in read_sources(tmp_path)] == ["a.yaml", "b.yaml"]


def test_a_config_map_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "..2024").mkdir()
    (tmp_path / "..2024" / "catalog.yaml").write_text(CATALOG)
    (tmp_path / "..data").symlink_to("..2024")
    (tmp_path / "catalog.yaml").symlink_to("..data/catalog.yaml")

    sources = read_sources(tmp_path)

    assert [source.path for source in sources] == [str(tmp_path / "catalog.yaml")]


def test_what_is_no_file_is_a_fault_and_never_a_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "dangling.yaml").symlink_to("nowhere")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "null.yaml").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.yaml"))

        found = fault_of(tmp_path)

    assert "/fifo.yaml: is a FIFO, not a regular file" in found
    assert "/folder.yaml: is a directory, not a regular file" in found
    assert "/dangling.yaml: is a symlink to nowhere, which does not exist" in found
    assert "/loop.yaml: cannot be opened: too many levels of symbolic links" in found
    assert "/null.yaml: is a device, not a regular file" in found
    assert "/s.yaml: cannot be opened: " in found


def test_an_empty_file_is_no_catalog(tmp_path: Path) -> None:
    # an editor that truncates before it writes must not end every process
    (tmp_path / "a.yaml").touch()

    assert fault_of(tmp_path / "a.yaml") == ': is empty: a catalog without plugins is "plugins: {}"'


def test_a_directory_without_files_is_no_catalog(tmp_path: Path) -> None:
    assert fault_of(tmp_path) == ": holds no *.yaml file"


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert fault_of(tmp_path / "a.yaml") == ": does not exist"


def test_a_file_that_vanished_since_it_was_listed_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b.yaml").write_text(CATALOG)
    monkeypatch.setattr(
        "supervisor.files.sources._listed", lambda folder: [folder / "a.yaml", folder / "b.yaml"]
    )

    assert fault_of(tmp_path) == "/a.yaml: does not exist"


def test_a_file_that_grew_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.yaml").open("wb") as file:
        file.truncate((16 << 20) + 1)

    assert fault_of(tmp_path / "a.yaml") == ": is larger than 8 MiB"


def test_half_a_save_is_not_taken_for_a_catalog(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    with path.open("w") as file:
        file.write(CATALOG)
        file.flush()
        assert "is being written by another process" in fault_of(path)

        file.write("namespaces: {}\n")

    assert load_catalog(path).plugins == {}


def test_a_file_without_read_permission_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(CATALOG)

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # root may read everything

    assert fault_of(path) == ": cannot be opened: permission denied"
