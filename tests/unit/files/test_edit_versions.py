"""A version is added or removed: that one entry, in the style of the file, and nothing beside it."""

import difflib
import hashlib
import os
from pathlib import Path

import pytest

from supervisor.domain.errors import BadRequest, CatalogInvalid, Conflict, NotFound
from supervisor.domain.names import PluginRef
from supervisor.domain.registering import Registered, registered
from supervisor.files import edit as module
from supervisor.files import pins, versions
from supervisor.files.catalog_file import CatalogFile
from supervisor.files.edit import Edit, Editor
from supervisor.files.layers import NO_DEFAULTS
from supervisor.files.load import load_catalog
from supervisor.files.splices import CannotSplice, quoted

MOCK = PluginRef("auth", "mock")
DIGEST = "ab" * 32
NEW = Registered("/opt/mock-3", DIGEST, ("--fast", "8080", "a b"), (("LEVEL", "debug"), ("ON", "yes")))
WRITTEN = (
    f'v3: {{command: /opt/mock-3, sha256: {DIGEST}, args: [--fast, "8080", "a b"], '
    'env: {LEVEL: debug, "ON": "yes"}}'
)
END = """\
      ready: {timeout: 10s}  # for all
namespaces:
  root:
    mounts:
      auth/own: {plugin: auth/mock, version: v1}
"""


def a_text(versions: str, rest: str = END, pin: str = "v2") -> str:
    body = versions.replace("D", DIGEST)
    return f"# plugins\nplugins:\n  auth:\n    mock:\n      pin: {pin}\n{body}{rest}"


STYLES = {
    "a line each": """\
      versions:
        v1: {command: a, sha256: D}  # old
        # comes next
        v2: {command: b, sha256: D}
        v0: {command: c, sha256: D}   # the oldest
""",
    "blocks": """\
      versions:
        v1:
          command: a
          sha256: D
        v2:
          sha256: D
          command: b  # this one
          args:
          - x
          - y

        v0:
          # what it was
          command: c
          sha256: D
          # nothing more
""",
    "several lines in braces": """\
      versions:
        v1: {command: a,
             sha256: D}
        v2: {
      command: b, sha256: D
   }
        v0: {
            command: c,   # c
            sha256: D
        }
""",
    "quotes": """\
      versions:
        "v1": {command: 'a', sha256: "D"}
        'v2': {command: "b", sha256: D}
        "v0":
            command: "c
              d"
            sha256: 'D'
""",
    "a block scalar": """\
      versions:
        v1:
          sha256: D
          command: >-
            a
        v2:
          command: b
          sha256: |-
            D

        v0:
          command: c
          sha256: |-
            D
          args:
          - |

            x
            # no comment

            y
""",
    "versions first": """\
      versions:

        v1: {command: a, sha256: D}

        v2: {command: b, sha256: D}

        v0: {command: c, sha256: D}

""",
}


def as_file(tmp_path: Path, text: str, line_break: str = "\n") -> Path:
    path = tmp_path / "catalog.yaml"
    path.write_bytes(text.replace("\n", line_break).encode())
    return path


def changes(before: bytes, after: bytes) -> tuple[list[str], list[str]]:
    """Lines that are gone, and lines that are new."""
    diff = list(
        difflib.ndiff(before.decode().splitlines(keepends=True), after.decode().splitlines(keepends=True))
    )
    return [line[2:] for line in diff if line[0] == "-"], [line[2:] for line in diff if line[0] == "+"]


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES.keys())
def test_a_version_is_one_line_more(tmp_path: Path, style: str, line_break: str) -> None:
    path = as_file(tmp_path, a_text(style), line_break)
    before = path.read_bytes()

    edit = versions.add_version(Editor(path), MOCK, "v3", NEW)

    assert changes(before, path.read_bytes()) == ([], [f"        {WRITTEN}{line_break}"])
    assert path.read_bytes().splitlines()[edit.line - 1].decode() == f"        {WRITTEN}"
    assert (edit.file, edit.old, edit.new) == (str(path), None, "v3")
    plugin = load_catalog(path).plugins[MOCK]
    assert list(plugin.versions) == ["v1", "v2", "v0", "v3"]
    launch = plugin.versions["v3"].launch
    assert (launch.command, launch.sha256, launch.args, launch.env) == (
        NEW.command,
        DIGEST,
        NEW.args,
        NEW.env,
    )


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES.keys())
def test_a_version_that_goes_takes_its_own_lines_along(tmp_path: Path, style: str, line_break: str) -> None:
    path = as_file(tmp_path, a_text(style, pin="v1"), line_break)
    for version in ("v2", "v0"):
        before, catalog = path.read_bytes(), load_catalog(path)

        edit = versions.remove_version(Editor(path), MOCK, version)

        gone, new = changes(before, path.read_bytes())
        assert new == []
        assert edit == Edit(
            str(path), before[: before.index(version.encode())].count(b"\n") + 1, version, None
        )
        left = load_catalog(path).plugins[MOCK].versions
        assert left == {name: one for name, one in catalog.plugins[MOCK].versions.items() if name != version}
        assert not [line for line in gone if "comes next" in line or "# old" in line]
    assert b"# plugins" in path.read_bytes()
    assert b"# for all" in path.read_bytes()


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES.keys())
def test_what_was_added_can_be_removed_and_all_is_as_before(tmp_path: Path, style: str) -> None:
    path = as_file(tmp_path, a_text(style))
    before = path.read_bytes()

    versions.add_version(Editor(path), MOCK, "v3", NEW)
    versions.remove_version(Editor(path), MOCK, "v3")

    assert path.read_bytes() == before


def test_at_the_end_of_a_file_without_a_last_line_break(tmp_path: Path) -> None:
    text = a_text(STYLES["a line each"], rest="").removesuffix("   # the oldest\n")
    path = as_file(tmp_path, text)

    versions.add_version(Editor(path), MOCK, "v3", NEW)
    assert path.read_text() == f"{text}\n        {WRITTEN}"

    versions.remove_version(Editor(path), MOCK, "v3")
    assert path.read_text() == text + "\n"


BRACES = {
    "{v1: {command: a, sha256: D}, v2: {command: b, sha256: D}}": (
        "{v1: {command: a, sha256: D}, v2: {command: b, sha256: D}, NEW}",
        "{v2: {command: b, sha256: D}}",
        "{v1: {command: a, sha256: D}}",
    ),
    "{v1: {command: a, sha256: D} , v2: {command: b, sha256: D} , }": (
        "{v1: {command: a, sha256: D} , v2: {command: b, sha256: D}, NEW , }",
        "{v2: {command: b, sha256: D} , }",
        "{v1: {command: a, sha256: D} , }",
    ),
    "{\n  v1: {command: a, sha256: D},\n  v2: {command: b, sha256: D}  # two\n}": (
        "{\n  v1: {command: a, sha256: D},\n  v2: {command: b, sha256: D}, NEW  # two\n}",
        "{\n  v2: {command: b, sha256: D}  # two\n}",
        "{\n  v1: {command: a, sha256: D}  # two\n}",
    ),
}


@pytest.mark.parametrize(("before", "after"), BRACES.items(), ids=["one line", "loose", "many lines"])
def test_versions_in_braces(tmp_path: Path, before: str, after: tuple[str, str, str]) -> None:
    def text(versions: str, pin: str = "v2") -> str:
        written = (
            versions.replace("NEW", WRITTEN).replace("D", DIGEST)
            if "NEW" not in versions
            else (versions.replace("D}", f"{DIGEST}}}").replace("NEW", WRITTEN))
        )
        return f"plugins: {{auth: {{mock: {{versions: {written}, pin: {pin}}}}}}}\n"

    added, without_v1, without_v2 = after
    path = as_file(tmp_path, text(before))
    versions.add_version(Editor(path), MOCK, "v3", NEW)
    assert path.read_text() == text(added)

    path = as_file(tmp_path, text(before))
    versions.remove_version(Editor(path), MOCK, "v1")
    assert path.read_text() == text(without_v1)

    path = as_file(tmp_path, text(before, pin="v1"))
    versions.remove_version(Editor(path), MOCK, "v2")
    assert path.read_text() == text(without_v2, pin="v1")


async def test_the_digest_is_that_of_the_file_as_the_catalog_would_find_it(tmp_path: Path) -> None:
    path = as_file(tmp_path, a_text(STYLES["blocks"]))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mock").write_bytes(b"#!/bin/sh\n")
    file = CatalogFile(path, NO_DEFAULTS, tmp_path / "state" / "catalog.json")

    for command in ("bin/mock", str(tmp_path / "bin" / "mock")):
        assert await file.digest(MOCK, command) == hashlib.sha256(b"#!/bin/sh\n").hexdigest()
    with pytest.raises(NotFound, match="has no such plugin: write the whole path of its command"):
        await file.digest(PluginRef("auth", "nobody"), "bin/mock")
    assert await file.digest(PluginRef("auth", "nobody"), str(tmp_path / "bin" / "mock"))


@pytest.mark.parametrize("make", [None, Path.mkdir, os.mkfifo], ids=["nothing", "folder", "fifo"])
async def test_what_is_no_file_has_no_digest(tmp_path: Path, make: object) -> None:
    path = as_file(tmp_path, a_text(STYLES["blocks"]))
    file = CatalogFile(path, NO_DEFAULTS, tmp_path / "state" / "catalog.json")
    if make is not None:
        make(tmp_path / "thing")  # type: ignore[operator]

    with pytest.raises(BadRequest, match=f"cannot compute the SHA-256 of {tmp_path}/thing: "):
        await file.digest(MOCK, "thing")


def test_the_same_version_again_is_no_edit_and_another_of_that_name_is_refused(tmp_path: Path) -> None:
    path = as_file(tmp_path, a_text(STYLES["blocks"]))
    versions.add_version(Editor(path), MOCK, "v3", NEW)
    before = path.stat()

    edit = versions.add_version(Editor(path), MOCK, "v3", NEW)

    assert not edit.is_written
    with pytest.raises(Conflict, match="there is one of that name that is another one: remove it first"):
        versions.add_version(Editor(path), MOCK, "v3", Registered("/opt/other", DIGEST))
    assert path.stat() == before


@pytest.mark.parametrize("version", ["1.10", "no", "2024-01-01", "1_000", "0x1f", "null"])
def test_a_version_that_yaml_would_read_as_something_else_is_quoted(tmp_path: Path, version: str) -> None:
    path = as_file(tmp_path, a_text(STYLES["a line each"]))

    versions.add_version(Editor(path), MOCK, version, NEW)

    assert f'        "{version}": {{' in path.read_text()
    assert version in load_catalog(path).plugins[MOCK].versions


@pytest.mark.parametrize(
    "value",
    [
        "a",
        "",
        "-",
        "--",
        "a: b",
        "a #b",
        "{x}",
        "[",
        "*a",
        "&a",
        "!t",
        "%x",
        "@x",
        "`x",
        "'",
        '"',
        "\\",
        "é😀",
        "~",
        "a,b",
        "<<",
        "=",
    ],
)
def test_any_argument_that_can_be_printed_is_written_so_that_it_is_read_as_it_was(
    tmp_path: Path, value: str
) -> None:
    path = as_file(tmp_path, a_text(STYLES["a line each"]))

    added = Registered("/opt/mock", DIGEST, (value, value), (("X", value),))
    versions.add_version(Editor(path), MOCK, "v3", added)

    launch = load_catalog(path).plugins[MOCK].versions["v3"].launch
    assert (launch.args, launch.env) == ((value, value), (("X", value),))


@pytest.mark.parametrize("value", ["a\nb", "\x1b", "\u2028", "\ud800", "\0"])
def test_what_cannot_be_printed_is_not_written(tmp_path: Path, value: str) -> None:
    path = as_file(tmp_path, a_text(STYLES["a line each"]))
    before = path.read_bytes()

    with pytest.raises(CannotSplice):
        quoted(value)
    with pytest.raises(BadRequest, match="is not printable"):
        versions.add_version(Editor(path), MOCK, "v3", Registered("/opt/mock", DIGEST, (value,)))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("version", "pin", "error", "message"),
    [
        ("v9", "v2", NotFound, "cannot remove v9 from auth/mock: it has no such version"),
        ("v2", "v2", BadRequest, "cannot remove v2 from auth/mock: it is pinned: pin another one first"),
        (
            "v1",
            "v2",
            BadRequest,
            "cannot remove v1 from auth/mock: it is the own version of auth/own/ in root",
        ),
    ],
)
def test_a_version_that_is_needed_or_not_there_is_not_removed(
    tmp_path: Path, version: str, pin: str, error: type[Exception], message: str
) -> None:
    path = as_file(tmp_path, a_text(STYLES["blocks"], pin=pin))
    before = path.read_bytes()

    with pytest.raises(error) as refused:
        versions.remove_version(Editor(path), MOCK, version)

    assert str(refused.value) == message
    assert path.read_bytes() == before


ONLY = f"""\
# what there is
plugins:
  auth:
    mock:
      pin: v1
      versions:
        v1: {{command: a, sha256: {DIGEST}}}
"""
KV = PluginRef("secret", "kv")
FAST = Registered("/opt/kv", DIGEST, ("--fast",))
KV_WRITTEN = f"{{versions: {{v1: {{command: /opt/kv, sha256: {DIGEST}, args: [--fast]}}}}}}"


@pytest.mark.parametrize(
    ("before", "ref", "line"),
    [
        (ONLY, KV, f"  secret: {{kv: {KV_WRITTEN}}}\n"),
        (ONLY, PluginRef("auth", "kv"), f"    kv: {KV_WRITTEN}\n"),
        (ONLY + "  secret: {}\n", KV, None),
        ("plugins: {}\nnamespaces: {}\n", KV, None),
        (f"plugins: {{auth: {{mock: {{versions: {{v1: {{command: a, sha256: {DIGEST}}}}}}}}}}}\n", KV, None),
    ],
    ids=["new type", "old type", "empty type", "no plugins", "braces"],
)
def test_a_plugin_that_is_new_comes_to_be_with_its_first_version_and_goes_with_its_last(
    tmp_path: Path, before: str, ref: PluginRef, line: str | None
) -> None:
    path = as_file(tmp_path, before)

    edit = versions.add_version(Editor(path), ref, "v1", FAST)
    added = path.read_bytes()
    versions.add_version(Editor(path), ref, "v2", FAST)

    assert (edit.file, edit.new) == (str(path), "v1")
    if line is not None:
        assert changes(before.encode(), added) == ([], [line])
    found = load_catalog(path).plugins[ref]
    assert list(found.versions) == ["v1", "v2"]
    assert (found.versions["v1"].launch.command, found.versions["v1"].launch.args) == ("/opt/kv", ("--fast",))
    versions.remove_version(Editor(path), ref, "v2")
    assert path.read_bytes() == added
    if "{}" not in before:
        versions.remove_version(Editor(path), ref, "v1")
        assert path.read_text() == before


def test_the_last_version_stays_where_something_else_is_written_about_the_plugin(tmp_path: Path) -> None:
    text = ONLY.replace("      pin: v1\n", "      ready: {timeout: 1s}\n") + "namespaces: {}\n"
    path = as_file(tmp_path, text)

    with pytest.raises(BadRequest, match=r"it would not be valid any more: .*missing key \"versions\""):
        versions.remove_version(Editor(path), MOCK, "v1")
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("rest", "left"), [("namespaces: {}\n", "# what there is\nnamespaces: {}\n"), ("", None)]
)
def test_with_the_last_plugin_goes_what_would_be_empty_and_never_the_whole_file(
    tmp_path: Path, rest: str, left: str | None
) -> None:
    text = ONLY.replace("      pin: v1\n", "") + rest
    path = as_file(tmp_path, text)

    if left is None:
        with pytest.raises(BadRequest, match="it is all that there is in the file"):
            versions.remove_version(Editor(path), MOCK, "v1")
    else:
        versions.remove_version(Editor(path), MOCK, "v1")
    assert path.read_text() == (left or text)


def test_in_a_folder_a_new_plugin_goes_to_the_others_of_its_type(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("namespaces: {}\n")
    (tmp_path / "b.yaml").write_text(ONLY)
    (tmp_path / "c.yaml").write_text(ONLY.replace("auth:", "secret:"))

    edit = versions.add_version(Editor(tmp_path), KV, "v1", FAST)

    assert edit.file == str(tmp_path / "c.yaml")
    assert (tmp_path / "b.yaml").read_text() == ONLY
    assert KV in load_catalog(tmp_path).plugins


def test_where_no_file_has_plugins_none_comes_to_be(tmp_path: Path) -> None:
    path = as_file(tmp_path, "namespaces: {}\n")

    with pytest.raises(BadRequest, match="cannot add v1 to secret/kv: no file has plugins yet"):
        versions.add_version(Editor(path), KV, "v1", FAST)


@pytest.mark.parametrize("version", ["", "-v1", "a/b", "x" * 65, "v1\n", "é"])
def test_a_name_that_is_none_is_not_added(tmp_path: Path, version: str) -> None:
    path = as_file(tmp_path, a_text(STYLES["blocks"]))

    with pytest.raises(BadRequest, match="that cannot name a version"):
        versions.add_version(Editor(path), MOCK, version, NEW)


def test_a_version_whose_lines_begin_otherwise_is_refused(tmp_path: Path) -> None:
    text = a_text(
        "      versions:\n        ? v1\n        : {command: a, sha256: D}\n"
        "        v2: {command: b, sha256: D}\n",
        pin="v2",
        rest="",
    )
    path = as_file(tmp_path, text)

    with pytest.raises(BadRequest, match=r"begins with something else than the key: .*edit the file by hand"):
        versions.remove_version(Editor(path), MOCK, "v1")
    assert path.read_text() == text


def test_an_edit_that_would_touch_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_file(tmp_path, a_text(STYLES["blocks"]))
    before = path.read_bytes()
    real = module._encoded
    monkeypatch.setattr(
        module, "_encoded", lambda text, data: real(text.replace("timeout: 10s", "timeout: 9s"), data)
    )

    for edit in (
        lambda: versions.add_version(Editor(path), MOCK, "v3", NEW),
        lambda: versions.remove_version(Editor(path), MOCK, "v0"),
    ):
        with pytest.raises(BadRequest, match="more than that would change"):
            edit()
    assert path.read_bytes() == before


def test_a_save_between_reading_and_writing_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_file(tmp_path, a_text(STYLES["blocks"]))
    saved = a_text(STYLES["quotes"])
    monkeypatch.setattr(module, "_compare", lambda *_: path.write_text(saved))

    with pytest.raises(Conflict, match="changed meanwhile"):
        versions.add_version(Editor(path), MOCK, "v3", NEW)
    assert path.read_text() == saved


def test_symlinks_mode_and_owner_stay_and_in_a_folder_the_right_file_is_edited(tmp_path: Path) -> None:
    folder = tmp_path / "catalog.d"
    folder.mkdir()
    (tmp_path / "real.yaml").write_text(a_text(STYLES["blocks"], rest=""))
    (tmp_path / "real.yaml").chmod(0o640)
    if os.geteuid() == 0:
        os.chown(tmp_path / "real.yaml", 12345, 23456)
    before = (tmp_path / "real.yaml").stat()
    (folder / "a.yaml").write_text("namespaces: {}\n")
    (folder / "b.yaml").symlink_to("../real.yaml")

    versions.add_version(Editor(folder), MOCK, "v3", NEW)
    versions.remove_version(Editor(folder), MOCK, "v0")

    after = (tmp_path / "real.yaml").stat()
    assert (folder / "b.yaml").is_symlink()
    assert (folder / "a.yaml").read_text() == "namespaces: {}\n"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert list(load_catalog(folder).plugins[MOCK].versions) == ["v1", "v2", "v3"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_the_encoding_stays(tmp_path: Path, encoding: str) -> None:
    text = "# ü😀\n" + a_text(STYLES["blocks"])
    path = tmp_path / "catalog.yaml"
    path.write_bytes(text.encode(encoding))

    versions.add_version(Editor(path), MOCK, "v3", NEW)
    versions.remove_version(Editor(path), MOCK, "v3")

    assert path.read_bytes() == text.encode(encoding)


# ---- a pin is taken out, or put back


def test_a_pin_that_nobody_follows_is_taken_out(tmp_path: Path) -> None:
    text = a_text(STYLES["blocks"])
    path = as_file(tmp_path, text)

    edit = pins.remove_pin(Editor(path), MOCK)

    assert path.read_text() == text.replace("      pin: v2\n", "")
    assert (edit.old, edit.new) == ("v2", None)
    assert not pins.remove_pin(Editor(path), MOCK).is_written


def test_a_pin_that_a_mount_follows_is_not_taken_out(tmp_path: Path) -> None:
    text = a_text(STYLES["blocks"]).replace(", version: v1}", "}")
    path = as_file(tmp_path, text)

    with pytest.raises(BadRequest, match=r"cannot remove the pin of auth/mock .*has no pin"):
        pins.remove_pin(Editor(path), MOCK)
    assert path.read_text() == text


@pytest.mark.parametrize("pin", ["pin: v2, ", ""])
def test_a_pin_in_braces_is_taken_out_and_put_back(tmp_path: Path, pin: str) -> None:
    path = as_file(
        tmp_path,
        f"plugins: {{auth: {{mock: {{{pin}versions: {{v2: {{command: a, sha256: {DIGEST}}}}}}}}}}}\n",
    )
    before = path.read_bytes()

    pins.set_pin(Editor(path), MOCK, "v2")
    pins.remove_pin(Editor(path), MOCK)
    assert b"pin" not in path.read_bytes()
    pins.undo_pin(Editor(path), MOCK, "v2", None)

    assert path.read_bytes() == (before if pin else before.replace(b"{versions", b"{pin: v2, versions"))


def test_an_undo_is_refused_where_the_pin_is_another_one_by_now(tmp_path: Path) -> None:
    path = as_file(tmp_path, a_text(STYLES["blocks"]))

    with pytest.raises(Conflict, match="it is v2 now, and v1 is what plugind wrote last"):
        pins.undo_pin(Editor(path), MOCK, "v0", "v1")
    assert pins.undo_pin(Editor(path), MOCK, "v1", "v2").new == "v1"


def test_an_undo_to_a_version_that_is_no_more_is_refused(tmp_path: Path) -> None:
    path = as_file(tmp_path, a_text(STYLES["blocks"]))

    with pytest.raises(BadRequest, match="it has no such version"):
        pins.undo_pin(Editor(path), MOCK, "v9", "v2")


def test_who_may_refuse_a_write_is_asked_right_before_it(tmp_path: Path) -> None:
    text = a_text(STYLES["blocks"])
    path = as_file(tmp_path, text)
    asked: list[Edit] = []

    def refuse(edit: Edit) -> None:
        asked.append(edit)
        raise Conflict("not now")

    with pytest.raises(Conflict, match="not now"):
        pins.set_pin(Editor(path), MOCK, "v1", refuse)
    assert path.read_text() == text
    assert [(edit.old, edit.new) for edit in asked] == [("v2", "v1")]
    pins.set_pin(Editor(path), MOCK, "v2", refuse)
    with pytest.raises(BadRequest):
        pins.set_pin(Editor(path), MOCK, "v9", refuse)
    assert len(asked) == 1


def test_a_bad_catalog_is_not_edited(tmp_path: Path) -> None:
    path = as_file(tmp_path, a_text(STYLES["blocks"]) + "extra: 1\n")

    for edit in (
        lambda: versions.add_version(Editor(path), MOCK, "v3", NEW),
        lambda: versions.remove_version(Editor(path), MOCK, "v0"),
        lambda: pins.remove_pin(Editor(path), MOCK),
    ):
        with pytest.raises(CatalogInvalid):
            edit()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("", "", [], []), "missing command value"),
        (("/bin/x", "abc", [], []), '"abc" is no SHA-256'),
        (("/bin/x", "", [], ["A"]), "write NAME=VALUE"),
        (("/bin/x", "", [], ["A B=1"]), "write NAME=VALUE"),
    ],
)
def test_what_a_version_is_made_of_is_checked(
    parts: tuple[str, str, list[str], list[str]], message: str
) -> None:
    with pytest.raises(BadRequest, match=message):
        registered(*parts)


def test_what_people_say_of_a_version_is_read() -> None:
    assert registered("/bin/x", "AB" * 32, ["a"], ["A=1", "B=x=y"]) == Registered(
        "/bin/x", "ab" * 32, ("a",), (("A", "1"), ("B", "x=y"))
    )
