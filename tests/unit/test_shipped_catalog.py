"""The shipped configuration is right, as seen by PyYAML and hashlib: not by plugind's own loader."""

import ast
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
CATALOG = REPOSITORY / "config" / "catalog.yaml"
SAMPLES = REPOSITORY / "plugins"
SETTINGS = REPOSITORY / "config" / "plugind.yaml"
TEXT = CATALOG.read_text()
PINNED = "pin: v1.0.0"


def parsed(text: str = TEXT) -> dict[str, Any]:
    content = yaml.safe_load(text)
    assert isinstance(content, dict)
    return content


def plugins(catalog: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for kind, named in catalog["plugins"].items():
        for name, plugin in named.items():
            yield f"{kind}/{name}", plugin


def mounts(catalog: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for namespace, content in catalog["namespaces"].items():
        for path, mount in content["mounts"].items():
            yield f"{namespace} {path}", mount


VERSIONS = [
    pytest.param(version, id=f"{plugin}-{name}")
    for plugin, content in plugins(parsed())
    for name, version in content["versions"].items()
]


def yaml_files() -> Iterator[Path]:
    for folder, folders, files in os.walk(REPOSITORY):
        folders[:] = [name for name in folders if name != ".venv" and not name.startswith(".git")]
        yield from (Path(folder, name) for name in files if name.endswith((".yaml", ".yml")))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_command_is_a_file_that_can_be_run(version: dict[str, str]) -> None:
    command = CATALOG.parent / version["command"]

    assert command.is_file()
    assert command.stat().st_mode & 0o113 == 0o111  # group write follows the umask of whoever cloned


@pytest.mark.parametrize("version", VERSIONS)
def test_every_digest_is_that_of_its_file(version: dict[str, str]) -> None:
    actual = hashlib.sha256((CATALOG.parent / version["command"]).read_bytes()).hexdigest()

    assert version["sha256"] == actual, "stale: run plugins/digests.py"


@pytest.mark.parametrize("name", ["log", "notify", "hold_lock", "listen", "accept"])
def test_what_the_samples_have_in_common_is_the_same_text_in_each(name: str) -> None:
    # each is complete in one file, to be copied: a mistake mended in one has to be mended in all
    samples = [*SAMPLES.glob("kv-*"), *SAMPLES.glob("mock-plugin-[1-9]*"), SAMPLES / "mock-plugin-slow"]

    texts = {
        ast.get_source_segment(text, node)
        for text in (path.read_text() for path in samples)
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    }

    assert len(texts) == 1


def test_every_sample_is_in_the_catalog() -> None:
    samples = {path.name for path in SAMPLES.iterdir() if not path.suffix[1:].isalpha()}
    named = {
        Path(version["command"]).name
        for _, plugin in plugins(parsed())
        for version in plugin["versions"].values()
    }

    assert samples - {"__pycache__"} == named


def test_yaml_keeps_every_version_a_string() -> None:
    for name, plugin in plugins(parsed()):
        for version, content in plugin["versions"].items():
            assert isinstance(version, str), name
            assert isinstance(content["sha256"], str), name
        assert isinstance(plugin["pin"], str), name
    for name, mount in mounts(parsed()):
        assert isinstance(mount.get("version", ""), str), name


def test_every_pin_and_every_mount_names_what_exists() -> None:
    known = dict(plugins(parsed()))

    for plugin in known.values():
        assert plugin["pin"] in plugin["versions"]
    for where, mount in mounts(parsed()):
        versions = known[mount["plugin"]]["versions"]
        assert mount.get("version") is None or mount["version"] in versions, where


def test_the_first_plugin_is_the_mock_plugin() -> None:
    assert next(plugins(parsed()))[0] == "auth/mock-plugin"


def test_a_plain_substitution_of_the_pin_moves_the_mock_plugin_and_nothing_else() -> None:
    edited = parsed(TEXT.replace(PINNED, "pin: v1.1.0"))

    assert [line.strip() for line in TEXT.splitlines()].count(PINNED) == TEXT.count(PINNED) == 1
    edited_pin = edited["plugins"]["auth"]["mock-plugin"].pop("pin")
    expected = parsed()
    assert expected["plugins"]["auth"]["mock-plugin"].pop("pin") == "v1.0.0"
    assert edited_pin == "v1.1.0"
    assert edited == expected


def test_the_catalog_is_in_block_style() -> None:
    without_comments = re.sub(r"#.*", "", TEXT)

    assert not re.search(r"[{}\[\]]", without_comments)


def test_no_other_yaml_file_pins_the_mock_plugin() -> None:
    others = [path for path in yaml_files() if path != CATALOG]

    pinning = [path for path in others if "mock-plugin" in (text := path.read_text()) and "pin:" in text]

    assert SETTINGS in others
    assert pinning == []


def test_the_settings_name_every_key_there_is_and_are_yaml_with_and_without_the_optional_ones() -> None:
    text = SETTINGS.read_text()
    uncommented = re.sub(r"^#(?=[a-z]|  )", "", text, flags=re.MULTILINE)  # prose has one space after its #
    with_all = parsed(uncommented.replace("access: []\n", ""))

    assert parsed(text).keys() == {"catalog", "logs", "defaults", "access"}
    assert with_all.keys() == {
        *("catalog", "node", "socket", "tcp", "runtime_dir", "state_dir", "log_dir"),
        *("logs", "cgroups", "restarts", "defaults", "access", "cluster"),
    }
    assert with_all["access"] == [{"uid": 1000, "namespaces": ["team-a"], "may": "reload"}]
    assert with_all["socket"]["mode"] == "0660"
