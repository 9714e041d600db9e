"""The examples of README.md and docs/ are run, and print what the documents say."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from readme_examples import DOCUMENTS, ROOT, Document, Normaliser, differences, run, sandbox

from supervisor.cli import commands
from supervisor.domain.errors import CatalogInvalid
from supervisor.files import layers, mounts, plugins, settings
from supervisor.files.load import load_catalog
from supervisor.files.settings import load_settings

REFUSED_YET = {"memory", "cpu", "pids"}
A_RELOAD = """\
```console
$ pluginctl reload
root  auth/mock/  v1.0.0 → v1.1.0  16573 → 17269  49ms  reloaded
reload fadac610-539c-4009-b00a-454d614c73eb: 1 reloaded in 64ms
$ pluginctl status
root  auth/mock/  auth/mock-plugin  v1.1.0   ready  17269  22s         0
root  kv/         secret/kv         v2.0.0   ready  16580  22s         0
```
"""
THE_SAME_ELSEWHERE = [
    [
        "root  auth/mock/  v1.0.0 → v1.1.0  7 → 123456  1.04s  reloaded",
        "reload 11111111-539c-4009-b00a-454d614c73eb: 1 reloaded in 3m02s",
    ],
    [
        "root  auth/mock/  auth/mock-plugin  v1.1.0   ready  123456  3m02s         0",
        "root  kv/         secret/kv         v2.0.0   ready       8     0s         0",
    ],
]


def needing_what_they_run(paths: Iterable[Path]) -> Iterator[Any]:
    for path in paths:
        runs_curl = "$ curl " in path.read_text()
        yield pytest.param(path, id=path.name, marks=[pytest.mark.needs("curl")] if runs_curl else [])


@pytest.mark.parametrize("path", [*needing_what_they_run(DOCUMENTS)])
def test_every_example_prints_what_the_document_says(path: Path) -> None:
    document = Document.read(path)

    found = differences(document, run(document))

    assert not found, (
        f"{found}\nif it is as it should be: .venv/bin/python tests/integration/readme_examples.py --write"
    )


def test_two_runs_that_differ_only_in_pids_ids_and_times_are_the_same() -> None:
    assert differences(Document.parse(Path("page"), A_RELOAD), THE_SAME_ELSEWHERE) == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("reloaded\n", "rolled back\n"),
        ("1 reloaded in", "2 reloaded in"),
        ("v1.0.0 → v1.1.0", "v1.0.0 → v1.0.0"),
        ("ready  17269", "ready  16573"),  # the old process still runs
        ("ready  16580", "ready  17269"),  # two mounts, one process
        ("ready  16580", "backoff  -"),
        ("22s         0\n", "22s         1\n"),
        ("root  kv/         secret/kv         v2.0.0   ready  16580  22s         0\n", ""),
        ("$ pluginctl status\n", "warning: something\n$ pluginctl status\n"),
    ],
)
def test_an_example_that_says_something_else_is_found(old: str, new: str) -> None:
    assert old in A_RELOAD

    assert differences(Document.parse(Path("page"), A_RELOAD.replace(old, new)), THE_SAME_ELSEWHERE)


def test_an_example_broken_by_hand_is_found_by_a_real_run(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```console\n$ .venv/bin/pluginctl --socket run/control.sock pin secret/kv\nv2.0.1\n```\n"
    )
    document = Document.read(page)

    outputs = run(document)

    assert outputs == [["v2.0.0"]]
    assert f"{page}:2: $ .venv/bin/pluginctl" in differences(document, outputs)
    assert differences(Document.parse(page, document.with_outputs(outputs)), outputs) == ""


def test_the_settings_of_make_run_are_those_of_the_examples() -> None:
    with sandbox() as place:
        made = (place.folder / "run" / "plugind.yaml").read_text().splitlines()

        assert f"catalog: {place.folder}/config/catalog.yaml" in made
        assert f"socket: {{path: {place.folder}/run/control.sock}}" in made


def test_numbers_that_mean_something_are_kept() -> None:
    same = Normaliser()

    for line in ("200", "catalog.yaml:13:7: unknown key", "Code: 400. Errors:", "exit 1", "000002 listening"):
        assert same(line) == line


def test_every_command_of_pluginctl_has_an_example() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    shown = "\n".join(example.command for example in Document.read(ROOT / "docs" / "commands.md").examples())

    for module in Path(commands.__path__[0]).glob("[a-z]*.py"):
        name = module.stem.replace("_", "-")
        assert re.search(rf"pluginctl (--\S+ )*{name}\b", shown), name
        assert re.search(rf"^## .*\b{name}\b", text, re.MULTILINE), name


@pytest.mark.parametrize("fence", ["yaml catalog", "yaml settings", "yaml plugind.yaml"])
def test_the_yaml_of_the_documents_is_good(fence: str, tmp_path: Path) -> None:
    blocks = [block for path in DOCUMENTS for block in Document.read(path).blocks(fence)]
    assert blocks

    for block in blocks:
        file = tmp_path / "page.yaml"
        file.write_text(block)
        try:
            load_catalog(file) if fence == "yaml catalog" else load_settings(file)
        except CatalogInvalid as error:
            pytest.fail(f"{block}\n{error}")


def keys(table: object) -> Iterator[str]:
    """The names in a reader's table; those of the tables inside it are in the readers' closures."""
    for name, reader in dict(table).items():
        yield name
        for cell in getattr(reader, "__closure__", None) or ():
            inner = cell.cell_contents
            if isinstance(inner, dict):
                yield from keys(inner)
            elif getattr(inner, "__closure__", None):
                yield from keys({name: inner})


def test_every_key_of_the_catalog_and_the_settings_is_on_their_page() -> None:
    page = Document.read(ROOT / "docs" / "catalog.md")
    text = "\n".join(page.lines)
    known = {
        *(key for table in (plugins._PLUGIN, plugins._VERSION, mounts._MOUNT) for key in keys(table)),
        *keys(layers._PROBE),
        *(key for table in (settings._TOP, settings._RULE) for key in keys(table)),
    }

    assert {"within", "max_backoff", "nofile", "pids", "max_size", "common_name", "settle"} <= known
    for key in known:
        assert re.search(rf"[\s`{{(,]{key}[:`, ]", text), key
    for key in REFUSED_YET:
        assert re.search(rf"Refused by this version.*`{key}`", text.replace("\n", " ")), key


def test_the_log_events_that_people_alert_on_exist_and_are_all_in_the_changelog() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "supervisor").rglob("*.py"))
    logged = set(re.findall(r'\.(?:info|warning|error|exception)\(\s*"([a-z]+_[a-z_]+)"', source))
    table = (ROOT / "README.md").read_text().partition("## What to watch")[2]
    told = (ROOT / "CHANGELOG.md").read_text()

    assert {"mount_failed", "reload_rolled_back", "daemon_started"} <= logged
    named = re.findall(r"`([a-z]+(?:_[a-z]+)+)`", table)
    assert len(named) > 8
    assert set(named) <= logged
    assert {event for event in logged if f"`{event}`" not in told} == set()
