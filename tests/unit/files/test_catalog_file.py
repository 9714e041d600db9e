"""The catalog as the engine asks for it: what is on disk, what was in force."""

import stat
from pathlib import Path

import pytest
from bad_catalogs import GOOD

from supervisor.domain.errors import CatalogInvalid, Unavailable
from supervisor.domain.names import PluginRef
from supervisor.files.catalog_file import CatalogFile
from supervisor.files.layers import NO_DEFAULTS

MOCK = PluginRef("auth", "mock")


@pytest.fixture
def file(tmp_path: Path) -> CatalogFile:
    (tmp_path / "catalog.yaml").write_text(GOOD)
    return CatalogFile(tmp_path / "catalog.yaml", NO_DEFAULTS, tmp_path / "state" / "catalog.json")


async def test_unchanged_texts_are_the_same_catalog(file: CatalogFile) -> None:
    first = await file.load()
    Path(file.path).touch()

    assert await file.load() is first


async def test_a_change_is_another_catalog_and_a_fault_an_error(file: CatalogFile) -> None:
    first = await file.load()
    Path(file.path).write_text(GOOD.replace("pin: v2", "pin: v1"))
    second = await file.load()
    Path(file.path).write_text(GOOD + "extra: 1\n")

    with pytest.raises(CatalogInvalid):
        await file.load()
    assert (first.plugins[MOCK].pin, second.plugins[MOCK].pin) == ("v2", "v1")


@pytest.mark.parametrize("text", [GOOD, "\ufeff# ü\r\n" + GOOD])
async def test_what_was_kept_comes_back_with_its_places(tmp_path: Path, text: str) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_bytes(text.encode("utf-16") if text is not GOOD else text.encode())
    file = CatalogFile(path, NO_DEFAULTS, tmp_path / "saved.json")
    kept = await file.load()
    await file.keep()
    path.write_text("broken: [")

    good = await CatalogFile(path, NO_DEFAULTS, tmp_path / "saved.json").last_good()

    assert good == kept
    assert good is not None
    assert good.plugins[MOCK].mark == kept.plugins[MOCK].mark
    assert stat.S_IMODE((tmp_path / "saved.json").stat().st_mode) == 0o600


async def test_what_was_loaded_last_is_kept_even_if_a_broken_one_was_read_since(file: CatalogFile) -> None:
    await file.load()
    Path(file.path).write_text("broken: [")
    with pytest.raises(CatalogInvalid):
        await file.load()
    await file.keep()

    good = await file.last_good()

    assert good is not None
    assert good.plugins[MOCK].pin == "v2"


async def test_nothing_kept_is_none_without_a_reason(file: CatalogFile) -> None:
    await file.keep()

    assert await file.last_good() is None
    assert file.why_none is None


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 1, "files": [["/e/c.yaml", "!"]]}',
        b'{"version": 1, "files": [["/e/c.yaml", "cGx1Z2lucw=="]]}',
        b'{"version": 1, "files": [["/e/c.yaml", 3]]}',
        b'{"version": 1}',
        b"[" * 200_000,
        b"\xff\xfe\x00",
    ],
)
async def test_a_damaged_file_is_none_with_a_reason(file: CatalogFile, damage: bytes) -> None:
    saved = file._saved
    saved.parent.mkdir()
    saved.write_bytes(damage)

    assert await file.last_good() is None
    assert file.why_none is not None
    assert file.why_none.startswith(f"cannot use {saved}: ")


async def test_a_link_in_place_of_the_saved_file_is_replaced_not_followed(
    file: CatalogFile, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    file._saved.parent.mkdir()
    file._saved.symlink_to(victim)
    await file.load()
    await file.keep()

    assert victim.read_text() == "precious"
    assert not file._saved.is_symlink()


async def test_a_state_folder_that_cannot_be_written_is_told(file: CatalogFile) -> None:
    file._saved.parent.write_text("a file where the folder should be")
    await file.load()

    with pytest.raises(Unavailable, match="cannot save the catalog as"):
        await file.keep()


async def test_a_disk_that_does_not_tell_what_is_there_is_told(
    file: CatalogFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "is_dir", damaged)

    with pytest.raises(Unavailable, match=r"cannot look at the catalog .*: input/output error"):
        await file.load()


async def test_a_pin_is_set_in_the_file(file: CatalogFile) -> None:
    edit = await file.set_pin(MOCK, "v1")

    assert (edit.old, edit.new, edit.line) == ("v2", "v1", 4)
    assert (await file.load()).plugins[MOCK].pin == "v1"
