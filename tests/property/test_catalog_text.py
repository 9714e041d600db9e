"""Whatever people write: a catalog or an error with places, and an edit that changes one scalar."""

import contextlib
import difflib
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from supervisor.domain.catalog import Catalog
from supervisor.domain.errors import CatalogInvalid, Fault, Refused
from supervisor.domain.names import PluginRef
from supervisor.domain.registering import Registered
from supervisor.files import pins
from supervisor.files.edit import Editor
from supervisor.files.load import Source, parse_catalog
from supervisor.files.settings import Places, parse_settings
from supervisor.files.versions import add_version, remove_version

A = "a" * 64
GOOD = f"""\
# what runs here
plugins:
  auth:
    mock:
      pin: 'v2'   # the one
      versions:
        v1: {{command: bin/mock-1, sha256: {A}, args: [--fast], env: {{A: b, K: {{file: key}}}}}}
        "1.10": {{command: bin/mock-2, sha256: {A}}}
        v2: {{command: bin/mock-2, sha256: {A}}}
      ready: {{kind: http, url: "http://127.0.0.1:1/", timeout: 10s}}
      listen: ["127.0.0.1:7000", {{datagram: /run/x.sock, name: in, mode: "0660"}}]
      limits: {{memory: 16MiB, cpu: 1.5}}
      stop: {{signal: TERM, command: [bin/leave]}}
namespaces:
  root:
    mounts:
      auth/mock: {{plugin: auth/mock, liveness: {{kind: tcp, address: "localhost:1"}}}}
  team-a/dev:
    mounts:
      auth/mock: {{plugin: auth/mock, version: v1, listen: []}}
"""
SETTINGS = (
    "catalog: c.yaml\ntcp: {address: '127.0.0.1:1'}\nlogs: {keep: 3}\ndefaults: {env: {A: b}}\naccess: []\n"
)
PIECES = [
    "",
    "\n",
    " ",
    ":",
    "- ",
    "{",
    "}",
    "[",
    "]",
    "'",
    '"',
    "#",
    "&a ",
    "*a",
    "!!str ",
    "<<: ",
    "|",
    "---\n",
]
PIECES += [
    "\t",
    "\0",
    "\u2028",
    "\ufeff",
    "1.10",
    "no",
    "~",
    "null",
    "pin",
    "versions",
    "\\",
    "%",
    "9" * 30,
    "é",
]
PIECES += ["\r", "? ", "-1s", "1:2:3", "\ud800", "😀", "@", "auth/mock", "  "]
edits = st.lists(
    st.tuples(
        st.floats(0, 1), st.integers(0, 12), st.sampled_from(PIECES) | st.text(max_size=4), st.integers(1, 3)
    ),
    min_size=1,
    max_size=6,
)


def mutated(text: str, changes: list[tuple[float, int, str, int]]) -> str:
    for where, cut, piece, times in changes:
        at = int(where * len(text))
        text = text[:at] + piece * times + text[at + cut :]
    return text


def faults_of(text: str | bytes) -> tuple[Fault, ...]:
    """The faults of a catalog; any other exception fails the test."""
    try:
        parse_catalog([Source("/e/c.yaml", text)])
    except CatalogInvalid as error:
        return error.faults
    return ()


@settings(max_examples=300, deadline=None)
@given(edits)
@example([(0.3, 0, "\ud800", 1)])
def test_a_mutated_catalog_is_a_catalog_or_faults_with_places(
    changes: list[tuple[float, int, str, int]],
) -> None:
    text = mutated(GOOD, changes)
    lines = len(text.splitlines()) + 1

    assert all(0 <= fault.line <= lines and fault.message for fault in faults_of(text))


@settings(max_examples=100, deadline=None)
@given(edits)
def test_mutated_settings_are_settings_or_faults(changes: list[tuple[float, int, str, int]]) -> None:
    with contextlib.suppress(CatalogInvalid):
        parse_settings(Path("/e/p.yaml"), mutated(SETTINGS, changes), Places.of(0, {}))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_are_a_catalog_or_faults(data: bytes) -> None:
    faults_of(data)


@settings(max_examples=60, deadline=None)
@given(
    changes=edits,
    version=st.sampled_from(["v1", "v2", "1.10"]),
    line_break=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
@example([(0.0, 0, "", 1)], "1.10", "\r\n", "utf-16")
def test_an_edit_changes_the_pin_alone(
    changes: list[tuple[float, int, str, int]], version: str, line_break: str, encoding: str
) -> None:
    ref = PluginRef("auth", "mock")
    text = mutated(GOOD, changes).replace("\n", line_break)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalog.yaml"
        path.write_bytes(text.encode(encoding, "replace"))
        data = path.read_bytes()
        try:
            before = parse_catalog([Source(str(path), data)])
        except CatalogInvalid:
            return
        if ref not in before.plugins or version not in before.plugins[ref].versions:
            return

        edit = pins.set_pin(Editor(path), ref, version)

        after = parse_catalog([Source(str(path), path.read_bytes())])
        old, new = data.decode(encoding).splitlines(), path.read_bytes().decode(encoding).splitlines()
        assert after.plugins[ref].pin == version
        assert after.plugins[ref].versions == before.plugins[ref].versions
        if edit.old is not None:
            assert sum(a != b for a, b in zip(old, new, strict=True)) == (edit.old != version)


@settings(max_examples=60, deadline=None)
@given(
    changes=edits,
    removed=st.sampled_from(["v1", "v2", "1.10"]),
    args=st.lists(st.text(max_size=8), max_size=3),
    line_break=st.sampled_from(["\n", "\r\n"]),
)
@example([], "1.10", ["a: b", "-"], "\r\n")
def test_versions_come_and_go_and_all_else_stays_or_nothing_is_written(
    changes: list[tuple[float, int, str, int]], removed: str, args: list[str], line_break: str
) -> None:
    ref, added = PluginRef("auth", "mock"), Registered("/opt/x", A, tuple(args), (("B", "x"),))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalog.yaml"
        path.write_bytes(mutated(GOOD, changes).replace("\n", line_break).encode("utf-8", "replace"))

        def read() -> Catalog:
            return parse_catalog([Source(str(path), path.read_bytes())])

        try:
            former = read().plugins[ref].versions
        except (CatalogInvalid, KeyError):
            return
        for edit in (
            lambda: add_version(Editor(path), ref, "v3", added),
            lambda: remove_version(Editor(path), ref, removed),
        ):
            text, before = path.read_bytes(), read()
            try:
                edit()
            except Refused:
                assert path.read_bytes() == text
                continue
            after = read()
            assert replace(after, plugins={}) == replace(before, plugins={})
            old, new = before.plugins[ref], after.plugins[ref]
            assert (new.pin, new.ref) == (old.pin, old.ref)
            for name, one in former.items():
                assert new.versions.get(name, one) == one
            assert len(new.versions.keys() ^ old.versions.keys()) == 1
            lines = difflib.SequenceMatcher(None, text.splitlines(), path.read_bytes().splitlines())
            kinds = {kind for kind, *_ in lines.get_opcodes()}
            assert kinds <= {"equal", "insert", "replace"} or kinds <= {"equal", "delete", "replace"}
