"""plugind.yaml: defaults, places, and its faults."""

from pathlib import Path

import pytest

from supervisor.domain.catalog import AccessRule, Cluster, RestartRate, Settings, Socket, Tcp, Tls
from supervisor.domain.errors import CatalogInvalid
from supervisor.domain.names import Namespace
from supervisor.files.layers import NO_DEFAULTS
from supervisor.files.settings import Places, load_settings, parse_settings

ROOTS = Places.of(0, {})


def parsed(text: str) -> Settings:
    return parse_settings(Path("/etc/plugind/plugind.yaml"), text, ROOTS)[0]


def faults_of(text: str) -> list[str]:
    with pytest.raises(CatalogInvalid) as caught:
        parsed(text)
    return [str(fault).removeprefix("/etc/plugind/plugind.yaml:") for fault in caught.value.faults]


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}"])
def test_every_key_is_optional(text: str) -> None:
    settings = parsed(text)

    assert settings.catalog == "/etc/plugind/catalog.yaml"
    assert settings.socket == Socket("/run/plugind/control.sock", 0o660, None)
    assert (settings.runtime_dir, settings.state_dir) == ("/run/plugind", "/var/lib/plugind")
    assert settings.log_dir == "/var/log/plugind"
    assert settings.node


def test_the_rate_of_restarts_is_read() -> None:
    assert parsed("restarts: {per_second: 0.5}").restarts == RestartRate(0.5, 100)


def test_the_sample_of_the_design_is_read() -> None:
    text = """
catalog: catalog.yaml
node: host-a
socket: {path: /run/plugind/control.sock, mode: "0660", group: plugind}
tcp: {address: "127.0.0.1:8200", tls: {cert: c.pem, key: k.pem, client_ca: ca.pem}}
runtime_dir: /run/plugind
state_dir: /var/lib/plugind
log_dir: /var/log/plugind
logs: {max_size: 16MiB, keep: 4}
defaults: {ready: {timeout: 10s}}
access: []
cluster: {name: prod, etcd: ["http://127.0.0.1:2379"], tls: {ca: , cert: , key: }}
"""

    settings = parsed(text)

    assert settings.tcp == Tcp(
        "127.0.0.1:8200", Tls("/etc/plugind/c.pem", "/etc/plugind/k.pem", "/etc/plugind/ca.pem")
    )
    assert settings.socket.group == "plugind"
    assert settings.cluster == Cluster("prod", ("http://127.0.0.1:2379",))


def test_rules_of_access_are_read() -> None:
    text = f"""
access:
  - {{uid: 1000, namespaces: [team-a], may: reload}}
  - {{gid: 10, namespaces: [root], may: admin}}
  - {{token_sha256: {"a" * 64}, namespaces: [team-a/dev], may: read}}
  - {{common_name: host.example, namespaces: [], may: read}}
"""
    assert parsed(text).access == (
        AccessRule(uid=1000, namespaces=(Namespace(("team-a",)),), may="reload"),
        AccessRule(gid=10, namespaces=(Namespace(),), may="admin"),
        AccessRule(token_sha256="a" * 64, namespaces=(Namespace(("team-a", "dev")),), may="read"),
        AccessRule(common_name="host.example", may="read"),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("catalogue: x", '1:1: unknown key "catalogue": did you mean "catalog"?'),
        ("node: a b", '1:7: node: "a b" is no name: write 1 to 64'),
        ("node: 12", '1:7: node: YAML reads 12 as a number: quote it: "12"'),
        ("socket: {mode: 0660}", '1:16: mode: YAML reads 0660 as a number: quote it: "0660"'),
        ('socket: {mode: "999"}', '1:16: mode: "999" is no mode'),
        (f"socket: {{path: /{'x' * 120}}}", "1:16: path: a socket's path has at most 107 bytes"),
        ("tcp: {address: localhost}", '1:16: address: "localhost" is no address'),
        ("tcp: {}", '1:6: missing key "address"'),
        ('tcp: {address: "10.0.0.1:8200"}', '1:16: 10.0.0.1:8200 is not loopback: "tls" is needed'),
        ('tcp: {address: "localhost:1", tls: {cert: x}}', '1:36: missing key "key"'),
        ("logs: {max_size: lots}", '1:18: max_size: "lots" is not a size'),
        ("restarts: {burst: 0}", '1:19: burst: "0" is not a whole number from 1 to 100000'),
        ("restarts: {per_second: 0}", '1:24: per_second: "0" is not a number above 0'),
        ("logs: {keep: -1}", '1:14: keep: "-1" is not a whole number'),
        ("defaults: {redy: {}}", '1:12: unknown key "redy": did you mean "ready"?'),
        ("defaults: {sha256: maybe}", '1:20: sha256: "maybe" is none of optional, required'),
        ("defaults: {command: x}", '1:12: unknown key "command"'),
        ("access: [{uid: 1, may: read}]", '1:10: missing key "namespaces"'),
        ("access: [{may: read, namespaces: []}]", "1:10: a rule needs one of uid, gid, token_sha256"),
        ("access: [{uid: 1, gid: 1, may: read, namespaces: []}]", "1:10: a rule needs one of"),
        ("access: [{uid: 1, may: all, namespaces: [sys]}]", '1:24: may: "all" is none of read, reload'),
        ("cluster: {name: a}", '1:10: missing key "etcd"'),
        ("cluster: {name: a, etcd: []}", "1:26: etcd: must list at least one URL"),
        ("cluster: {name: a, etcd: [x]}", '1:27: "x" is no URL of etcd'),
        ("[]", "1:1: plugind.yaml must be a mapping (key: value), not a list"),
        ("node: &x a", "1:7: anchors are not allowed: remove &x"),
        ("state_dir: /x\nstate_dir: /y", '2:1: duplicate key "state_dir": first in line 1'),
    ],
)
def test_a_fault_is_told_at_its_place_with_another_one_further_down(text: str, expected: str) -> None:
    assert faults_of(text)[0].startswith(expected)

    if text != "[]":
        line = text.count("\n") + 2
        both = faults_of(f"{text}\nextra: 1\n")
        assert any(found.startswith(expected) for found in both)
        assert f'{line}:1: unknown key "extra"' in both


def test_a_normal_user_has_the_places_of_xdg() -> None:
    environment = {"HOME": "/home/a", "XDG_RUNTIME_DIR": "/run/user/7", "XDG_STATE_HOME": "not/absolute"}

    assert Places.of(7, environment) == Places(
        Path("/home/a/.config/plugind"),
        Path("/run/user/7/plugind"),
        Path("/home/a/.local/state/plugind"),
        Path("/home/a/.local/state/plugind/log"),
    )
    assert Places.of(7, {"HOME": "/home/a"}).runtime == Path("/home/a/.local/state/plugind/run")


def test_a_missing_file_at_its_usual_place_is_all_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Places(tmp_path, tmp_path, tmp_path, tmp_path)
    monkeypatch.setattr(Places, "of", lambda *_: places)

    settings, defaults = load_settings(None)

    assert settings.catalog == str(tmp_path / "catalog.yaml")
    assert defaults == NO_DEFAULTS


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(CatalogInvalid, match="does not exist"):
        load_settings(tmp_path / "plugind.yaml")


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "plugind.yaml"
    file.write_text("catalog: c.d\nstate_dir: state\ndefaults: {cwd: work}\n")

    settings, defaults = load_settings(file)

    assert (settings.catalog, settings.state_dir) == (str(tmp_path / "c.d"), str(tmp_path / "state"))
    assert defaults.layer == {"cwd": str(tmp_path / "work")}


def test_equal_defaults_are_equal_and_can_be_keys() -> None:
    text = "defaults: {env: {A: b}, ready: {kind: exec}, sha256: optional}"
    first, second = (parse_settings(Path("/e/p.yaml"), text, ROOTS)[1] for _ in range(2))

    assert first == second
    assert len({first, second}) == 1
