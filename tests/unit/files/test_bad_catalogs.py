"""Every fault of the table: exactly these lines, columns and words, whatever else is wrong."""

import pytest
from bad_catalogs import BAD, ENDING, GOOD, WHOLE, Bad

from supervisor.domain.errors import CatalogInvalid
from supervisor.files.load import Source, parse_catalog

FILE = "/e/c.yaml"


def faults_of(text: str) -> list[str]:
    with pytest.raises(CatalogInvalid) as caught:
        parse_catalog([Source(FILE, text)])
    return [str(fault).removeprefix(FILE).removeprefix(":").strip() for fault in caught.value.faults]


def named(bad: Bad) -> str:
    return bad.name


def test_the_catalog_that_the_bad_ones_are_made_of_is_good() -> None:
    catalog = parse_catalog([Source(FILE, GOOD)])

    assert len(catalog.mounts) == 3
    assert len(BAD + ENDING + WHOLE) >= 60


@pytest.mark.parametrize("bad", BAD + ENDING + WHOLE, ids=named)
def test_the_faults_of_a_bad_catalog_are_these(bad: Bad) -> None:
    assert faults_of(bad.text) == list(bad.faults)


@pytest.mark.parametrize("bad", BAD, ids=named)
def test_an_unrelated_fault_below_is_found_in_the_same_run(bad: Bad) -> None:
    line = bad.text.count("\n") + 1

    found = faults_of(bad.text + "extra: 1\n")

    assert set(found) == {*bad.faults, f'{line}:1: unknown key "extra"'}


@pytest.mark.parametrize("bad", ENDING, ids=named)
def test_a_fault_above_the_end_of_reading_is_found_in_the_same_run(bad: Bad) -> None:
    found = faults_of(bad.text.replace("plugins:", "plugins: &x", 1))

    assert set(found) == {*bad.faults, "1:10: anchors are not allowed: remove &x"}


def test_faults_of_two_files_are_found_in_one_run() -> None:
    for bad in BAD + ENDING + WHOLE:
        with pytest.raises(CatalogInvalid) as caught:
            parse_catalog([Source("/e/a.yaml", bad.text), Source("/e/b.yaml", "extra: 1\n")])

        assert {fault.file for fault in caught.value.faults} == {"/e/a.yaml", "/e/b.yaml"}, bad.name


@pytest.mark.parametrize("line_break", ["\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lines_and_columns_depend_on_neither_line_breaks_nor_encoding(encoding: str, line_break: str) -> None:
    for bad in BAD:
        with pytest.raises(CatalogInvalid) as caught:
            parse_catalog([Source(FILE, bad.text.replace("\n", line_break).encode(encoding))])

        found = [str(fault).removeprefix(FILE + ":") for fault in caught.value.faults]
        assert found == list(bad.faults), bad.name
