"""One scalar changes; comments, quotes, order, line ends, mode, owner and links stay."""

import os
from pathlib import Path

import pytest
from bad_catalogs import GOOD

from supervisor.domain.errors import BadRequest, CatalogInvalid, Conflict, NotFound
from supervisor.domain.names import PluginRef
from supervisor.files import edit as module
from supervisor.files import pins
from supervisor.files.edit import Edit, Editor
from supervisor.files.load import load_catalog
from supervisor.files.sources import Source, read_sources

MOCK, KV = PluginRef("auth", "mock"), PluginRef("secret", "kv")
COMMENTED = GOOD.replace(
    "      pin: v2\n", "      # the *one* & only\n      pin:   v2   # was v1\n"
).removesuffix("\n")


def set_pin(path: Path, ref: PluginRef, version: str, *, expect: tuple[Source, ...] | None = None) -> Edit:
    return pins.set_pin(Editor(path, expect=expect), ref, version)


def a_catalog(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "catalog.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("pin: v2", "pin: v1"),
        ("pin: 'v2'", "pin: 'v1'"),
        ('pin: "v2"', 'pin: "v1"'),
        ('pin: "v\\x32"', 'pin: "v1"'),
        ("pin:\n        v2", "pin:\n        v1"),
        ('"pin": v2 #c', '"pin": v1 #c'),
        ("? pin\n      : v2", "? pin\n      : v1"),
    ],
)
@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_the_pin_alone_changes_in_its_own_style(
    tmp_path: Path, before: str, after: str, line_break: str
) -> None:
    text = COMMENTED.replace("pin:   v2", before).replace("\n", line_break)
    path = a_catalog(tmp_path, text)

    edit = set_pin(path, MOCK, "v1")

    assert (
        path.read_bytes()
        == text.replace(before.replace("\n", line_break), after.replace("\n", line_break)).encode()
    )
    assert (edit.file, edit.old, edit.new) == (str(path), "v2", "v1")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_the_encoding_and_its_mark_stay(tmp_path: Path, encoding: str) -> None:
    text = "# ü😀\n" + COMMENTED
    start = "\ufeff" if encoding == "utf-16-be" else ""
    path = a_catalog(tmp_path, (start + text).encode(encoding))

    edit = set_pin(path, MOCK, "v1")

    assert path.read_bytes() == (start + text.replace("pin:   v2", "pin:   v1")).encode(encoding)
    assert edit.line == 6


def test_quotes_come_where_yaml_would_read_something_else(tmp_path: Path) -> None:
    path = a_catalog(tmp_path, COMMENTED.replace("v1: {command: bin/mock", '"1.10": {command: bin/mock'))

    set_pin(path, MOCK, "1.10")

    assert '      pin:   "1.10"   # was v1\n' in path.read_text()
    assert load_catalog(path).plugins[MOCK].pin == "1.10"


def test_a_pin_in_braces_changes(tmp_path: Path) -> None:
    digests = f"sha256: {'a' * 64}"
    versions = f"{{v1: {{command: a, {digests}}}, v2: {{command: b, {digests}}}}}"
    text = f"plugins: {{auth: {{mock: {{versions: {versions}, pin: v2}}}}}}"
    path = a_catalog(tmp_path, text)

    set_pin(path, MOCK, "v1")

    assert path.read_text() == text.replace("pin: v2", "pin: v1")


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_a_missing_pin_becomes_a_line(tmp_path: Path, line_break: str) -> None:
    text = GOOD.replace("\n", line_break)
    path = a_catalog(tmp_path, text)

    edit = set_pin(path, KV, "v1")

    lines = text.split(line_break)
    assert path.read_bytes().decode().split(line_break) == [*lines[:10], "      pin: v1", *lines[10:]]
    assert edit == Edit(str(path), 11, None, "v1")


def test_a_missing_pin_comes_first_in_braces(tmp_path: Path) -> None:
    text = f"plugins: {{secret: {{kv: {{versions: {{v1: {{command: a, sha256: {'a' * 64}}}}}}}}}}}\n"
    path = a_catalog(tmp_path, text)

    set_pin(path, KV, "v1")

    assert path.read_text() == text.replace("{versions", "{pin: v1, versions")


def test_the_pin_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    path = a_catalog(tmp_path, GOOD)
    before = path.stat()

    assert set_pin(path, MOCK, "v2") == Edit(str(path), 4, "v2", "v2")
    assert path.stat() == before


def test_symlinks_mode_and_owner_stay(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path = a_catalog(tmp_path / "real", GOOD)
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 12345, 23456)
    before = path.stat()
    (tmp_path / "data").symlink_to("real")
    (tmp_path / "catalog.yaml").symlink_to("data/catalog.yaml")

    set_pin(tmp_path / "catalog.yaml", MOCK, "v1")

    after = path.stat()
    assert (tmp_path / "catalog.yaml").is_symlink()
    assert (tmp_path / "data").is_symlink()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino
    assert load_catalog(tmp_path / "catalog.yaml").plugins[MOCK].pin == "v1"
    assert sorted(entry.name for entry in (tmp_path / "real").iterdir()) == ["catalog.yaml"]


def test_in_a_directory_the_file_that_has_the_plugin_is_edited(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("namespaces: {}\n")
    (tmp_path / "b.yaml").write_text(GOOD)

    edit = set_pin(tmp_path, MOCK, "v1")

    assert edit.file == str(tmp_path / "b.yaml")
    assert (tmp_path / "a.yaml").read_text() == "namespaces: {}\n"


@pytest.mark.parametrize(
    ("ref", "version", "error", "message"),
    [
        (
            PluginRef("auth", "nobody"),
            "v1",
            NotFound,
            "cannot pin auth/nobody: the catalog has no such plugin",
        ),
        (
            MOCK,
            "v22",
            BadRequest,
            'cannot pin auth/mock to "v22": it has no such version: did you mean "v2"?',
        ),
        (MOCK, "v1\n", BadRequest, "it has no such version"),
    ],
)
def test_what_does_not_exist_is_not_pinned(
    tmp_path: Path, ref: PluginRef, version: str, error: type[Exception], message: str
) -> None:
    path = a_catalog(tmp_path, GOOD)

    with pytest.raises(error) as caught:
        set_pin(path, ref, version)

    assert message in str(caught.value)
    assert path.read_text() == GOOD


def test_a_block_scalar_is_refused(tmp_path: Path) -> None:
    path = a_catalog(tmp_path, GOOD.replace("pin: v2", "pin: >-\n        v2"))

    with pytest.raises(BadRequest, match="a block scalar is not edited"):
        set_pin(path, MOCK, "v1")


def test_a_bad_catalog_is_not_edited(tmp_path: Path) -> None:
    path = a_catalog(tmp_path, GOOD + "extra: 1\n")

    with pytest.raises(CatalogInvalid):
        set_pin(path, MOCK, "v1")


def test_a_file_that_changed_since_it_was_known_is_refused(tmp_path: Path) -> None:
    path = a_catalog(tmp_path, GOOD)
    known = read_sources(path)
    path.write_text(COMMENTED)

    with pytest.raises(Conflict, match="changed meanwhile"):
        set_pin(path, MOCK, "v1", expect=known)


def test_a_save_between_reading_and_writing_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = a_catalog(tmp_path, GOOD)
    monkeypatch.setattr(module, "_compare", lambda *_: path.write_text(COMMENTED))

    with pytest.raises(Conflict, match="changed meanwhile"):
        set_pin(path, MOCK, "v1")

    assert path.read_text() == COMMENTED
    assert [entry.name for entry in tmp_path.iterdir()] == ["catalog.yaml"]


def test_hard_links_are_not_parted(tmp_path: Path) -> None:
    path = a_catalog(tmp_path, GOOD)
    os.link(path, tmp_path / "other")

    with pytest.raises(Conflict, match="hard links"):
        set_pin(path, MOCK, "v1")


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = a_catalog(tmp_path, GOOD)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(Conflict, match="no space left on device"):
        set_pin(path, MOCK, "v1")
    assert path.read_text() == GOOD
    assert [entry.name for entry in tmp_path.iterdir()] == ["catalog.yaml"]


def test_an_edit_that_would_touch_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = a_catalog(tmp_path, GOOD)
    real = module._encoded
    monkeypatch.setattr(
        module, "_encoded", lambda text, data: real(text.replace("timeout: 10s", "timeout: 9s"), data)
    )

    with pytest.raises(BadRequest, match="edit the file by hand"):
        set_pin(path, MOCK, "v1")
    assert path.read_text() == GOOD
