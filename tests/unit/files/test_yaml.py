"""Hostile and odd YAML: a clean error at its place, soon, and little memory."""

import sys
import time
import tracemalloc

import pytest

from supervisor.domain.errors import CatalogInvalid
from supervisor.files.faults import Faults, Page
from supervisor.files.yaml import MOST_EVENTS, Mapping, Scalar, read_tree, yaml_type

HOSTILE = {
    "100 KB of brackets": ("[" * 100_000, "nested more than 32"),
    "8 MiB of brackets": ("[" * (8 << 20), "nested more than 32"),
    "braces": ("{a: " * 100_000, "nested more than 32"),
    "dashes": ("- " * 100_000, "nested more than 32"),
    "questions": ("? " * 100_000, "nested more than 32"),
    "billion laughs": ("a: &a [x]\n" + "".join(f"b{n}: &b [*a, *a]\n" for n in range(9)), "aliases"),
    "an alias to itself": ("&a [*a]", "aliases"),
    "a merge bomb": ("a: &a {x: 1}\nb: &b {<<: [*a, *a]}\nc: {<<: [*b, *b]}\n", "merge keys"),
    "too many events": ("- a\n" * (MOST_EVENTS + 1), "more than 120,000"),
    "too many empty events": ("-\n" * (MOST_EVENTS + 1), "more than 120,000"),
    "a million anchors": ("- &a b\n" * 200_000, "anchors"),
    "a million duplicates": ("a: 1\n" * 200_000, "duplicate key"),
    "more than 8 MiB": ("#" * ((8 << 20) + 1), "larger than 8 MiB"),
    "8 MiB of quotes": ("'" * (8 << 20), ""),
}


def messages(data: str | bytes) -> list[str]:
    faults = Faults()
    read_tree(Page("c.yaml", "/", faults), data)
    try:
        faults.raise_any()
    except CatalogInvalid as error:
        return [str(fault) for fault in error.faults]
    return []


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_soon_and_cheaply(name: str) -> None:
    text, expected = HOSTILE[name]
    start = time.process_time()

    found = messages(text)

    # the limit is a second; the rest is for a busy machine
    assert time.process_time() - start < 3
    if expected:
        assert any(expected in message for message in found)


def test_the_memory_of_the_largest_tree_is_bounded() -> None:
    text = "[" + "ab," * (MOST_EVENTS // 40) + "]"
    tracemalloc.start()

    found = messages(text)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == []
    assert peak < (100 << 20) // 40


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a: \xff\n", "c.yaml:1:4: not UTF-8: save the file as UTF-8"),
        ("é: 1\nb: x".encode() + b"\xe9\n", "c.yaml:2:5: not UTF-8: save the file as UTF-8"),
        (b"\xff\xfea\x00b", "c.yaml: not UTF-16, although its byte order mark says so: save it as UTF-8"),
        (b"\xff\xfe\x00\x00a\x00\x00\x00", "c.yaml:1:1: character U+0000 is not allowed here: remove it"),
        ("a: 1".encode("utf-16-le"), "c.yaml:1:2: character U+0000 is not allowed here: remove it"),
        ("a: \ud800", "c.yaml:1:4: character U+D800 is not allowed here: remove it"),
        ("a: 1\nb: \u2028x", "c.yaml:2:4: character U+2028 is not allowed here: remove it"),
        ("a: 1\n b: 2\n", "c.yaml:2:3: not YAML: mapping values are not allowed in this context"),
        ("%YAML 9.9\n--- a\n", "c.yaml:1:1: not YAML: found incompatible YAML document"),
    ],
)
def test_odd_text_is_refused_at_its_place(data: str | bytes, expected: str) -> None:
    assert messages(data) == [expected]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_encodings_and_line_breaks_are_all_the_same(encoding: str, line_break: str) -> None:
    text = f"é: 'ü'{line_break}b: [😀, x]{line_break}"

    tree = read_tree(Page("c.yaml", "/", Faults()), text.encode(encoding))

    assert isinstance(tree, Mapping)
    key, value = tree.entries[0]
    assert isinstance(value, Scalar)
    assert (key.text, value.text, value.plain) == ("é", "ü", False)
    assert (value.line, value.column, value.start, value.end) == (1, 4, 3, 6)
    assert [(key.line, key.column) for key, _ in tree.entries] == [(1, 1), (2, 1)]


@pytest.mark.parametrize(
    "text",
    ["1.10", "no", "0660", "12:30:45", "2024-01-01", "1_000", ".inf", "~", "", "ON", "0x1f", "1e3", "1.5e+3"],
)
def test_what_yaml_would_turn_into_something_else_is_told(text: str) -> None:
    import yaml  # noqa: PLC0415 - the judge of this test

    is_string = isinstance(yaml.safe_load(f"- {text}\n")[0], str)

    assert (yaml_type(Scalar(text, plain=True, line=1, column=1)) is None) is is_string
    assert yaml_type(Scalar(text, plain=False, line=1, column=1)) is None


@pytest.mark.parametrize("text", ["1" * 1_000_000, ":".join(["59"] * 60_000)], ids=["digits", "sexagesimal"])
def test_a_bomb_of_digits_is_never_calculated(text: str) -> None:
    start = time.process_time()

    assert yaml_type(Scalar(text, plain=True, line=1, column=1)) == "a number"
    assert time.process_time() - start < 1


def test_nobody_calls_the_composer() -> None:
    # it segfaults on deep nesting, so its loaders must not come back
    import supervisor.files.yaml as module  # noqa: PLC0415 - its names are what is looked at

    assert not {"load", "CLoader", "CSafeLoader", "compose"} & set(vars(module))
    assert "yaml.composer" not in {getattr(value, "__module__", "") for value in vars(module).values()}
    assert sys.modules["supervisor.files.yaml"] is module
