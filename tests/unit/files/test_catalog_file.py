"""The catalog as the engine asks for it: what is on disk, what was in force."""

import stat
from pathlib import Path

import pytest
from bad_catalogs import GOOD

from supervisor.domain.errors import CatalogInvalid, Conflict, Unavailable
from supervisor.domain.names import PluginRef
from supervisor.domain.registering import Registered
from supervisor.files.catalog_file import CatalogFile
from supervisor.files.layers import NO_DEFAULTS

MOCK, KV = PluginRef("auth", "mock"), PluginRef("secret", "kv")


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


async def test_a_pin_is_undone_by_the_next_plugind_too_and_once(file: CatalogFile) -> None:
    before = Path(file.path).read_bytes()
    await file.set_pin(MOCK, "v1")
    following = CatalogFile(file.path, NO_DEFAULTS, file._saved)

    edit = await following.undo_pin(MOCK)

    assert (edit.old, edit.new) == ("v1", "v2")
    assert Path(file.path).read_bytes() == before
    with pytest.raises(Conflict, match="it is v2 now, and v1 is what plugind wrote last"):
        await file.undo_pin(MOCK)


async def test_the_last_pin_is_what_is_undone_and_each_plugin_has_its_own(file: CatalogFile) -> None:
    await file.set_pin(MOCK, "v1")
    await file.set_pin(KV, "v1")
    await file.set_pin(MOCK, "v2")
    await file.set_pin(MOCK, "v2")  # it is there already: nothing to undo

    assert (await file.undo_pin(KV)).new is None
    assert (await file.undo_pin(MOCK)).new == "v1"


async def test_a_pin_that_people_edited_since_is_not_undone(file: CatalogFile) -> None:
    await file.set_pin(MOCK, "v1")
    path = Path(file.path)
    path.write_text(path.read_text().replace("pin: v1", "pin: v2"))
    before = path.read_bytes()

    with pytest.raises(Conflict, match="pin the version that you want"):
        await file.undo_pin(MOCK)
    assert path.read_bytes() == before


async def test_a_pin_that_plugind_never_wrote_is_not_undone(file: CatalogFile) -> None:
    with pytest.raises(Conflict, match="no write of it by plugind is known"):
        await file.undo_pin(MOCK)


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"\xff", b"[" * 100_000, b'{"version":99,"writes":{}}']
)
async def test_a_damaged_record_knows_of_no_write_and_stops_no_pin(file: CatalogFile, content: bytes) -> None:
    await file.set_pin(MOCK, "v1")
    file._saved.with_name("pins.json").write_bytes(content)

    with pytest.raises(Conflict, match="no write of it by plugind is known"):
        await file.undo_pin(MOCK)
    await file.set_pin(MOCK, "v2")
    assert (await file.undo_pin(MOCK)).new == "v1"


async def test_a_pin_that_could_not_be_undone_is_not_written(file: CatalogFile) -> None:
    before = Path(file.path).read_bytes()
    file._saved.parent.write_text("a file where the folder should be")

    with pytest.raises(Unavailable, match=r"it could not be undone, as .*pins.json cannot be written"):
        await file.set_pin(MOCK, "v1")
    assert Path(file.path).read_bytes() == before


async def test_versions_are_added_and_removed_in_the_file(file: CatalogFile) -> None:
    before = Path(file.path).read_bytes()

    await file.add_version(MOCK, "v3", Registered("/opt/mock", "ab" * 32))
    assert (await file.load()).plugins[MOCK].versions["v3"].launch.command == "/opt/mock"
    await file.remove_version(MOCK, "v3")

    assert Path(file.path).read_bytes() == before
