"""What a good catalog means: layers, paths, defaults, directories."""

import time
from pathlib import Path
from typing import Any

import pytest
from bad_catalogs import GOOD

from supervisor.domain.catalog import FromFile, Liveness, MountSpec, Probe, StopPolicy
from supervisor.domain.errors import CatalogInvalid
from supervisor.domain.names import ROOT, MountKey, Namespace, PluginRef
from supervisor.files.layers import Defaults
from supervisor.files.load import Source, load_catalog, parse_catalog
from supervisor.files.settings import Places, parse_settings

KV = MountKey(ROOT, "kv")


def a_mount(plugin: str = "", version: str = "", mount: str = "", defaults: str = "") -> MountSpec:
    """The mount kv with settings written at each level, as `key: value` of flow style."""
    before = plugin and f"{plugin},"
    text = (
        f"plugins: {{secret: {{kv: {{pin: v1, {before} "
        f"versions: {{v1: {{command: bin/kv, {version}}}}}}}}}}}\n"
        f"namespaces: {{root: {{mounts: {{kv: {{plugin: secret/kv, {mount}}}}}}}}}\n"
    )
    return parse_catalog([Source("/etc/plugind/catalog.yaml", text)], the_defaults(defaults)).mounts[KV]


def the_defaults(text: str = "") -> Defaults:
    places = Places(*(Path("/x") for _ in range(4)))
    whole = f"defaults: {{sha256: optional, {text}}}\n"
    return parse_settings(Path("/etc/other/plugind.yaml"), whole, places)[1]


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ({"defaults": "cwd: /d", "plugin": "cwd: /p", "version": "cwd: /v", "mount": "cwd: /m"}, "/m"),
        ({"defaults": "cwd: /d", "plugin": "cwd: /p", "version": "cwd: /v"}, "/v"),
        ({"defaults": "cwd: /d", "plugin": "cwd: /p"}, "/p"),
        ({"defaults": "cwd: /d"}, "/d"),
        ({}, "/"),
    ],
)
def test_the_inner_level_wins(levels: dict[str, str], expected: str) -> None:
    assert a_mount(**levels).launch.cwd == expected


def test_env_merges_by_name_over_all_levels() -> None:
    spec = a_mount(
        "env: {A: p, B: p}", "env: {B: v, C: v}", "env: {C: m, D: {file: key}}", "env: {A: d, E: d}"
    )

    assert spec.launch.env == (
        ("A", "p"),
        ("B", "v"),
        ("C", "m"),
        ("D", FromFile("/etc/plugind/key")),
        ("E", "d"),
    )


def test_args_are_replaced() -> None:
    assert a_mount("args: [a, b]", "args: [c]").launch.args == ("c",)
    assert a_mount("args: [a, b]", "", "args: []").launch.args == ()


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        ("ready: {kind: exec, settle: 3s}", "ready: {timeout: 1s}", Probe("exec", 1.0, settle=3.0)),
        ("ready: {settle: 3s, timeout: 2s}", "ready: {kind: notify}", None),
        (
            "ready: {kind: exec, settle: 3s, timeout: 2s, interval: 5s}",
            'ready: {kind: tcp, address: "localhost:1"}',
            Probe("tcp", 2.0, address="localhost:1", interval=5.0),
        ),
        (
            "ready: {kind: unix, path: x.sock}",
            "ready: {kind: unix, timeout: 1s}",
            Probe("unix", 1.0, address="/etc/plugind/x.sock"),
        ),
        (
            "ready: {kind: unix, path: $TMPDIR/x.sock}",
            "ready: {kind: http, url: 'http://127.0.0.1:8080/health'}",
            Probe("http", address="http://127.0.0.1:8080/health"),
        ),
        (
            "ready: {kind: unix, path: $TMPDIR/x.sock}",
            "ready: {timeout: 1s}",
            Probe("unix", 1.0, address="$TMPDIR/x.sock"),
        ),
        (
            "ready: {kind: command, command: bin/ok}",
            "ready: {kind: command, command: [bin/ok, -v]}",
            Probe("command", command=("/etc/plugind/bin/ok", "-v")),
        ),
    ],
)
def test_another_kind_drops_what_the_outer_kind_had(outer: str, inner: str, expected: Probe | None) -> None:
    if expected is None:
        with pytest.raises(CatalogInvalid, match='ready of kind notify has no key "settle"'):
            a_mount(outer, "", inner)
    else:
        assert a_mount(outer, "", inner).policies.ready == expected


def test_liveness_is_a_probe_with_its_own_pace_and_can_be_turned_off() -> None:
    on = 'liveness: {kind: tcp, address: "localhost:1", interval: 5s, failures: 2, timeout: 1s}'

    assert a_mount(on).policies.liveness == Liveness(Probe("tcp", 1.0, address="localhost:1"), 5.0, 2)
    assert a_mount(on, "", "liveness: null").policies.liveness is None
    assert a_mount(on, "", "liveness: {failures: 9}").policies.liveness == Liveness(
        Probe("tcp", 1.0, address="localhost:1"), 5.0, 9
    )


@pytest.mark.parametrize(("signal", "number"), [("SIGINT", 2), ("int", 2), ("9", 9), ("SIGHUP", 1)])
def test_a_signal_is_a_name_or_a_number(signal: str, number: int) -> None:
    spec = a_mount(f"stop: {{signal: {signal}, command: [bin/leave, now]}}", "", "stop: {timeout: 0s}")

    assert spec.policies.stop == StopPolicy(number, 0.0, ("/etc/plugind/bin/leave", "now"))


@pytest.mark.parametrize(
    ("written", "attribute", "expected"),
    [
        ("user: 1000", "user", "1000"),
        ("user: null", "user", None),
        ("group: www-data", "group", "www-data"),
        ("limits: {memory: 64MiB}", "limits.memory", 64 << 20),
        ("limits: {cpu: 1.5}", "limits.cpu", 1.5),
        ("limits: {nofile: null}", "limits.nofile", None),
        ("limits: {nice: -5}", "limits.nice", -5),
        ("limits: {oom_score_adj: 1000}", "limits.oom_score_adj", 1000),
        ("limits: {nice: null}", "limits.nice", None),
        ('umask: "027"', "umask", 0o027),
        ("groups: [audio, 1000]", "groups", ("audio", "1000")),
        ("groups: []", "groups", ()),
        ('listen: ["127.0.0.1:7000"]', "listen.0.name", "listen0"),
        ('listen: ["127.0.0.1:7000"]', "listen.0.kind", "stream"),
        ("listen: [{datagram: run/x.sock, name: in, mode: '0660'}]", "listen.0.mode", 0o660),
        ("listen: [{datagram: run/x.sock}]", "listen.0.address", "/etc/plugind/run/x.sock"),
        ('listen: ["@a/b", "7000"]', "listen.0.address", "@a/b"),
        ('listen: ["@a/b", "7000"]', "listen.1.address", "[::]:7000"),
        ("listen: [{stream: '[0::1]:7', backlog: 9}]", "listen.0.address", "[::1]:7"),
        ("listen: [{stream: '[0::1]:7', backlog: 9}]", "listen.0.backlog", 9),
        ("args: ['${HOME}', $x]", "args", ("${HOME}", "$x")),
        ("cwd: .", "cwd", "/etc/plugind"),
    ],
)
def test_a_setting_is_read_as(written: str, attribute: str, expected: object) -> None:
    value: Any = a_mount(written).launch
    for part in attribute.split("."):
        value = value[int(part)] if part.isdecimal() else getattr(value, part)

    assert value == expected


def test_relative_paths_are_relative_to_the_file_they_stand_in() -> None:
    spec = a_mount(defaults="cwd: work, env: {K: {file: key}}")

    assert spec.launch.command == "/etc/plugind/bin/kv"
    assert spec.launch.cwd == "/etc/other/work"
    assert spec.launch.env == (("K", FromFile("/etc/other/key")),)


def test_mounts_without_settings_of_their_own_share_one_launch() -> None:
    catalog = parse_catalog([Source("/e/c.yaml", GOOD)])
    mounts = [spec for spec in catalog.mounts.values() if spec.plugin == PluginRef("auth", "mock")]

    assert mounts[0].launch is mounts[1].launch
    assert mounts[0].launch is catalog.plugins[PluginRef("auth", "mock")].versions["v2"].launch


def test_the_mark_of_a_mount_is_its_line_and_its_version_is_told_from_the_pin() -> None:
    catalog = parse_catalog([Source("/e/c.yaml", GOOD)])

    assert (catalog.mounts[KV].mark.line, catalog.mounts[KV].has_own_version) == (17, True)
    assert not catalog.mounts[MountKey(ROOT, "auth/mock")].has_own_version
    assert catalog.namespaces == {ROOT, Namespace(("team-a",)), Namespace(("team-a", "dev"))}


def test_a_digest_is_needed_unless_the_defaults_say_otherwise() -> None:
    text = "plugins: {secret: {kv: {versions: {v1: {command: bin/kv}}}}}\n"

    assert parse_catalog([Source("/e/c.yaml", text)], Defaults(sha256_optional=True)).plugins
    with pytest.raises(CatalogInvalid, match='missing key "sha256"'):
        parse_catalog([Source("/e/c.yaml", text)])


def test_a_plugin_in_two_files_is_a_fault_and_namespaces_merge(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text("namespaces: {root: {mounts: {auth/b: {plugin: auth/mock}}}}\n")

    assert MountKey(ROOT, "auth/b") in load_catalog(tmp_path).mounts

    (tmp_path / "c.yaml").write_text(GOOD)
    with pytest.raises(CatalogInvalid) as caught:
        load_catalog(tmp_path)
    assert f"{tmp_path}/c.yaml:3:5: auth/mock is already defined in {tmp_path}/a.yaml:3" in str(caught.value)
    assert f"{tmp_path}/c.yaml:17:7: kv/ in root is already mounted in {tmp_path}/a.yaml:17" in str(
        caught.value
    )


def test_a_file_that_cannot_be_read_does_not_make_its_plugins_unknown(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("plugins: [\n")
    (tmp_path / "b.yaml").write_text("namespaces: {root: {mounts: {auth/b: {plugin: auth/mock}}}}\n")

    with pytest.raises(CatalogInvalid) as caught:
        load_catalog(tmp_path)

    assert len(caught.value.faults) == 1


def test_more_faults_than_anybody_reads_are_cut_off() -> None:
    text = "plugins: {}\nnamespaces:\n  root:\n    mounts:\n"
    text += "".join(f"      m{n}: {{plugin: secret/none}}\n" for n in range(5000))

    with pytest.raises(CatalogInvalid) as caught:
        parse_catalog([Source("/e/c.yaml", text)])

    assert len(caught.value.faults) == 1001
    assert "more than 1,000 faults" in str(caught.value)


def test_ten_thousand_mounts_are_read_in_under_two_seconds() -> None:
    text = "plugins:\n  secret:\n"
    text += "".join(
        f"    p{n}: {{pin: v1, versions: {{v1: {{command: bin/p{n}, sha256: {'a' * 64}}}}}}}\n"
        for n in range(1000)
    )
    text += "namespaces:\n  root:\n    mounts:\n"
    text += "".join(f"      kv/m{n}: {{plugin: secret/p{n % 1000}}}\n" for n in range(10_000))
    start = time.process_time()

    catalog = parse_catalog([Source("/e/c.yaml", text)])

    assert len(catalog.mounts) == 10_000
    assert time.process_time() - start < 2
