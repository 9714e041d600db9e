"""The programs that people have: bao, hvac and curl as with Vault, and pluginctl, against the real daemon."""

import hashlib
import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import hvac
import pytest
import requests
from harness import BIN, Plugind
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

SLEEPS = "#!/bin/sh\nexec sleep 1000\n"
FAILS = "#!/bin/sh\necho cannot open the database >&2\nexit 3\n"


def catalog(daemon: Plugind, pin: str = "v1.0.0") -> str:
    def version(file: str) -> str:
        path = daemon.folder / file
        return f"{{command: {path}, sha256: {hashlib.sha256(path.read_bytes()).hexdigest()}}}"

    plugin = f"""\
      versions:
        v1.0.0: {version("one")}
        v1.1.0: {version("two")}
        v6.6.6: {version("fails")}
      ready: {{settle: 200ms, timeout: 5s}}
      restart: {{backoff: 10ms}}
"""
    return f"""\
plugins:
  auth:
    mock:
      pin: {pin}
{plugin}\
  secret:
    kv:
      pin: v1.0.0
{plugin}\
namespaces:
  root:
    mounts:
      auth/mock: {{plugin: auth/mock}}
      kv: {{plugin: secret/kv}}
  team-a:
    mounts:
      auth/mock: {{plugin: auth/mock}}
  team-a/dev:
    mounts:
      auth/mock: {{plugin: auth/mock}}
"""


@pytest.fixture(scope="module")
def daemon(shared_plugind: Plugind) -> Plugind:
    for name, text in {"one": SLEEPS, "two": SLEEPS + "# two\n", "fails": FAILS}.items():
        shared_plugind.plugin(name, text)
    shared_plugind.catalog.write_text(catalog(shared_plugind))
    return shared_plugind.start()


@pytest.fixture
def running(daemon: Plugind) -> Iterator[Plugind]:
    """All mounts run v1.0.0, which is pinned; and so again afterwards."""
    yield daemon
    daemon.catalog.write_text(catalog(daemon))
    assert daemon.call("GET", "supervisor/plan").status == 200  # reads the file: in force for the next test
    if {row["version"] for row in daemon.rows().values()} != {"v1.0.0"}:
        assert daemon.call("POST", "supervisor/apply", {}).status == 200


def run(*command: object, env: dict[str, str]) -> tuple[int, str, str]:
    done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def changed(daemon: Plugind, before: dict[str, int]) -> set[str]:
    return {name for name, pid in daemon.pids().items() if pid != before[name]}


MOCKS = {"root:auth/mock", "team-a:auth/mock", "team-a/dev:auth/mock"}


# --- curl


@pytest.mark.needs("curl")
def test_curl_as_on_the_api_page_replaces_every_mount_of_the_plugin_and_no_other(running: Plugind) -> None:
    before = running.pids()
    running.catalog.write_text(catalog(running, "v1.1.0"))
    command = ["curl", "-sS", "--unix-socket", running.socket, "-w", "\n%{http_code} %{content_type}"]
    command += ["-H", "X-Vault-Token: s.anything", "-X", "POST", "-d", '{"scope": ""}']

    code, out, _ = run(*command, "http://localhost/v1/sys/plugins/reload/auth/mock", env=dict(os.environ))

    body, _, status = out.rpartition("\n")
    assert (code, status) == (0, "200 application/json")
    assert UUID(json.loads(body)["data"]["reload_id"])
    assert changed(running, before) == MOCKS
    assert {name for name, row in running.rows().items() if row["version"] == "v1.1.0"} == MOCKS


# --- bao


def bao(daemon: Plugind, *words: str) -> tuple[int, str]:
    env = {"BAO_ADDR": f"unix://{daemon.socket}", "HOME": str(daemon.folder), "PATH": os.environ["PATH"]}
    code, out, err = run(BIN / "bao", *words, env=env)
    return code, out + err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("status", [r"Initialized +true", r"Sealed +false"]),
        ("plugin list", [r"mock +auth +v1\.0\.0", r"kv +secret +v1\.1\.0"]),
        ("plugin list auth", [r"mock +v6\.6\.6"]),
        ("plugin info auth mock", [r"/one\b", r"version +v1\.0\.0"]),
        ("secrets list -detailed", [r"kv/ +kv "]),
        ("auth list -detailed", [r"mock/ +mock "]),
        ("namespace list", [r"^team-a/$"]),
        ("namespace list -namespace=team-a", [r"^dev/$"]),
        ("auth list -namespace=team-a/dev", [r"mock/ +mock "]),
        ("token lookup", [r"uid"]),
        ("read sys/plugins/pins/auth/mock", [r"v1\.0\.0"]),
    ],
)
def test_bao_reads_what_there_is(running: Plugind, words: str, parts: list[str]) -> None:
    code, out = bao(running, *words.split())

    assert code == 0, out
    assert not [part for part in parts if not re.search(part, out, re.MULTILINE)], out


def test_bao_reloads_by_plugin_in_one_namespace(running: Plugind) -> None:
    before = running.pids()

    told = bao(running, "plugin", "reload", "-namespace=team-a", "-plugin=mock")

    assert told == (0, "Success! Reloaded plugin: mock\n")
    assert changed(running, before) == {"team-a:auth/mock"}


def test_bao_reloads_by_mounts(running: Plugind) -> None:
    before = running.pids()

    code, out = bao(running, "plugin", "reload", "-mounts=kv/,auth/mock")

    assert code == 0, out
    assert changed(running, before) == {"root:auth/mock", "root:kv"}


def test_bao_follows_a_global_reload_by_its_id(running: Plugind) -> None:
    code, out = bao(running, "plugin", "reload", "-plugin=mock", "-scope=global")
    found = re.search(r"[0-9a-f]{8}-[0-9a-f-]{27}", out)
    assert (code, found is not None) == (0, True), out

    code, out = bao(running, "plugin", "reload-status", found[0])

    assert code == 0, out
    assert re.search(r"\btest +true\b", out), out


def test_bao_exits_2_and_prints_why_when_a_version_is_bad(running: Plugind) -> None:
    before = running.pids()
    running.catalog.write_text(catalog(running, "v6.6.6"))

    code, out = bao(running, "plugin", "reload", "-plugin=mock")

    assert code == 2
    assert "Success" not in out
    assert "auth/mock/ in root: rolled back: ended before it was ready: exit 3" in out
    assert running.rows()["root:auth/mock"]["version"] == "v1.0.0"
    assert changed(running, before) == {"root:auth/mock"}
    reports = running.call("GET", "supervisor/reloads").data["reloads"]
    assert len([report for report in reports if report["mounts"][0]["result"] == "rolled_back"]) >= 1


def test_bao_is_refused_before_anything_is_touched_when_the_catalog_is_bad(running: Plugind) -> None:
    before = running.pids()
    running.catalog.write_text("plugins: {auth: {mock: {pin: v9}}}\n")

    code, out = bao(running, "plugin", "reload", "-plugin=mock")

    assert code == 2
    assert f"{running.catalog}:1:" in out
    assert changed(running, before) == set()


def test_bao_shows_drift_in_its_detailed_lists(running: Plugind) -> None:
    text = catalog(running, "v1.1.0").replace("    kv:\n      pin: v1.0.0", "    kv:\n      pin: v1.1.0")
    running.catalog.write_text(text)
    digest = hashlib.sha256((running.folder / "one").read_bytes()).hexdigest()
    running.until(lambda: running.rows()["root:kv"]["pinned_version"] == "v1.1.0")

    for words, path in [(("secrets", "list", "-detailed"), "kv/"), (("auth", "list", "-detailed"), "mock/")]:
        code, out = bao(running, *words)

        assert code == 0, out
        [line] = [line for line in out.splitlines() if line.startswith(path)]
        assert line.index("v1.1.0") < line.index("v1.0.0") < line.index(digest), "pinned, running, digest"


# --- hvac


class UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


class UnixPool(HTTPConnectionPool):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def _new_conn(self) -> UnixConnection:
        return UnixConnection(self._path)


class UnixAdapter(HTTPAdapter):
    def __init__(self, path: object) -> None:
        super().__init__()
        self._pool = UnixPool(str(path))

    def get_connection_with_tls_context(self, *_args: Any, **_kwargs: Any) -> UnixPool:
        return self._pool

    def close(self) -> None:
        self._pool.close()
        super().close()


@pytest.fixture
def vault(running: Plugind) -> Iterator[hvac.Client]:
    with requests.Session() as session:
        session.mount("http://", UnixAdapter(running.socket))
        yield hvac.Client(url="http://localhost", token="s.anything", session=session)  # noqa: S106 - made up


def test_hvac_reads_what_there_is(vault: hvac.Client) -> None:
    assert vault.is_authenticated()
    assert vault.sys.is_initialized()
    assert not vault.sys.is_sealed()
    assert vault.sys.read_health_status().status_code == 200
    assert vault.sys.read_health_status(method="GET")["initialized"] is True
    assert vault.sys.list_namespaces()["data"]["keys"] == ["team-a/"]
    assert list(vault.sys.list_auth_methods()["data"]) == ["mock/"]
    assert vault.sys.list_mounted_secrets_engines()["data"]["kv/"]["plugin_version"] == "v1.0.0"
    assert vault.list("sys/plugins/catalog/auth")["data"]["keys"] == ["mock"]
    assert vault.read("sys/plugins/catalog/auth/none") is None


def test_hvac_reloads_in_all_namespaces_or_in_its_own(running: Plugind, vault: hvac.Client) -> None:
    before = running.pids()
    answer = vault.write("sys/plugins/reload/auth/mock", scope="")
    assert UUID(answer["data"]["reload_id"])
    assert changed(running, before) == MOCKS

    before = running.pids()
    vault.adapter.namespace = "team-a"
    vault.write("sys/plugins/reload/backend", plugin="mock")
    assert changed(running, before) == {"team-a:auth/mock"}


def test_hvac_raises_the_error_with_its_text(running: Plugind, vault: hvac.Client) -> None:
    with pytest.raises(hvac.exceptions.InvalidRequest) as unknown:
        vault.write("sys/plugins/reload/auth/mokc", scope="")
    with pytest.raises(hvac.exceptions.InvalidPath) as nowhere:
        vault.write("team-a/sys/plugins/reload/auth/mock", scope="")
    running.catalog.write_text(catalog(running, "v6.6.6"))
    with pytest.raises(hvac.exceptions.InvalidRequest) as bad:
        vault.write("sys/plugins/reload/auth/mock", scope="", on_failure="continue")

    assert unknown.value.errors == ['plugin not found in the catalog: "mokc" (did you mean auth/mock?)']
    assert nowhere.value.errors == ["unsupported path"]
    assert bad.value.errors[0].startswith("3 of 3 mounts failed (3 rolled back):")


# --- pluginctl


def ctl(daemon: Plugind, *words: str) -> tuple[int, str, str]:
    return run(BIN / "pluginctl", "--socket", daemon.socket, *words, env=dict(os.environ))


@pytest.mark.parametrize(
    "words",
    [
        "status",
        "status -n team-a",
        "plan",
        "catalog",
        "history",
        "why auth/mock",
        "why team-a:auth/mock",
        "logs auth/mock",
        "reload auth/mock",
        "reload auth/mock --dry-run",
        "reload --plugin mock -n team-a",
        "reload --mounts auth/mock,kv",
        "apply",
        "restart kv",
        "pin auth/mock",
        "pin auth/mock v1.0.0",
    ],
)
def test_pluginctl_exits_0_when_it_is_done_and_its_json_can_be_read(running: Plugind, words: str) -> None:
    code, out, err = ctl(running, *words.split())
    as_json = ctl(running, *words.split(), "--json")

    assert (code, "Traceback" in out + err) == (0, False), err
    assert as_json[0] == 0
    for line in as_json[1].splitlines():
        json.loads(line)


def test_pluginctl_status_shows_every_mount_and_what_is_pinned(running: Plugind) -> None:
    running.catalog.write_text(catalog(running, "v1.1.0"))
    running.until(lambda: running.rows()["root:auth/mock"]["pinned_version"] == "v1.1.0")
    pid = running.pids()["team-a/dev:auth/mock"]

    _, out, _ = ctl(running)

    [line] = [line for line in out.splitlines() if line.startswith("team-a/dev ")]
    assert re.search(rf"auth/mock/? +auth/mock +v1\.0\.0 +ready +{pid}\b.*pinned v1\.1\.0", line), out
    assert "4 mounts: 4 ready" in out


def test_pluginctl_pin_and_reload_bring_a_version_and_history_knows_it(running: Plugind) -> None:
    before = running.pids()
    assert ctl(running, "pin", "auth/mock", "v1.1.0")[0] == 0
    assert changed(running, before) == set()
    assert "pin: v1.1.0" in running.catalog.read_text()

    code, out, _ = ctl(running, "reload", "auth/mock", "--json")

    answer = json.loads(out)
    assert code == 0
    assert {row["new_version"] for row in answer["mounts"]} == {"v1.1.0"}
    assert answer["reload_id"] in ctl(running, "history")[1]
    code, out, _ = ctl(running, "reload-status", answer["reload_id"], "--json")
    assert (code, len(json.loads(out)["mounts"])) == (0, 3)


def test_pluginctl_exits_1_when_a_mount_failed(running: Plugind) -> None:
    running.catalog.write_text(catalog(running, "v6.6.6"))

    code, out, err = ctl(running, "reload", "auth/mock", "--on-failure", "continue")
    as_json = ctl(running, "reload", "auth/mock", "--json")

    assert code == 1
    assert "rolled back" in out + err
    assert "cannot open the database" in out + err
    assert as_json[0] == 1
    assert json.loads(as_json[1])["reload_id"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("reload auth/mokc", "did you mean auth/mock?"),
        ("reload auth/mock -n team-a", "means all namespaces"),
        ("reload", "Say which mounts"),
        ("reload --mounts auth/none", "cannot fetch mount entry"),
        ("status -n team-z", "namespace not found"),
        ("pin auth/mock v9", "v9"),
        ("start auth/none", "no mount at auth/none/"),
        ("logs auth/none", "no mount at auth/none/"),
        ("why auth/none", "no mount at auth/none/"),
        ("reload-status 00000000-0000-0000-0000-000000000000", "no reload has the id"),
        ("relaod auth/mock", "Did you mean reload?"),
    ],
)
def test_pluginctl_exits_2_when_it_is_refused_and_touches_nothing(
    running: Plugind, words: str, why: str
) -> None:
    before = running.pids()

    code, out, err = ctl(running, *words.split())

    assert code == 2, out + err
    assert why in err
    assert "Traceback" not in err
    assert changed(running, before) == set()


def test_pluginctl_exits_2_when_the_catalog_is_bad_and_names_the_place(running: Plugind) -> None:
    running.catalog.write_text(catalog(running).replace("auth/mock: {plugin: auth/mock}", "kv/mock: {}", 1))

    for words in (["reload", "auth/mock"], ["apply"], ["plan"], ["check", str(running.catalog)]):
        code, _, err = ctl(running, *words)
        assert code == 2, words
        assert f"{running.catalog}:" in err
    code, out, err = ctl(running, "status")
    assert (code, f"{running.catalog}:" in err) == (0, True)
    assert "4 mounts: 4 ready" in out


def test_pluginctl_exits_3_when_there_is_no_daemon(running: Plugind) -> None:
    for words in (["status"], ["reload", "auth/mock"], ["logs", "-f", "kv"], ["--json", "plan"]):
        code, out, err = run(
            BIN / "pluginctl", "--socket", running.folder / "nothing.sock", *words, env=dict(os.environ)
        )
        assert (code, out) == (3, ""), words
        assert "nothing.sock" in err


def test_pluginctl_stop_is_sticky_and_start_ends_it(running: Plugind) -> None:
    before = running.pids()
    assert ctl(running, "stop", "kv")[0] == 0

    code, out, err = ctl(running, "reload", "secret/kv")

    assert code == 0
    assert "stopped by" in out + err
    assert running.rows()["root:kv"]["state"] == "stopped"
    assert ctl(running, "start", "kv")[0] == 0
    assert changed(running, before) == {"root:kv"}
    assert running.rows()["root:kv"]["state"] == "ready"


# --- plugins that come and go


def test_bao_registers_pins_and_deregisters_a_version_and_leaves_the_file_as_it_was(running: Plugind) -> None:
    before, pids = running.catalog.read_bytes(), running.pids()
    three = running.plugin("three", SLEEPS + "# three\n")
    digest = hashlib.sha256(three.read_bytes()).hexdigest()
    register = ["-version=v3.0.0", f"-command={three}", f"-sha256={digest}", "-args=--fast"]

    added = bao(running, "plugin", "register", *register, "auth", "mock")
    shown = bao(running, "plugin", "info", "-version=v3.0.0", "auth", "mock")
    pinned = bao(running, "write", "sys/plugins/pins/auth/mock", "version=v3.0.0")
    refused = bao(running, "plugin", "deregister", "-version=v3.0.0", "auth", "mock")

    assert added == (0, "Success! Registered plugin: mock\n")
    assert digest in shown[1]
    assert "--fast" in shown[1]
    assert (pinned[0], refused[0]) == (0, 2)
    assert "it is pinned: pin another one first" in refused[1]
    assert running.pids() == pids
    assert bao(running, "write", "-f", "supervisor/pins/auth/mock/undo")[0] == 0
    gone = bao(running, "plugin", "deregister", "-version=v3.0.0", "auth", "mock")
    again = bao(running, "plugin", "deregister", "-version=v3.0.0", "auth", "mock")
    assert (gone[0], again[0]) == (0, 0)
    assert running.catalog.read_bytes() == before


def test_bao_registers_a_plugin_that_is_new_and_takes_it_away_again(running: Plugind) -> None:
    before = running.catalog.read_bytes()
    digest = hashlib.sha256((running.folder / "one").read_bytes()).hexdigest()
    register = ["-version=v1.0.0", f"-command={running.folder / 'one'}", f"-sha256={digest}"]

    assert bao(running, "plugin", "register", *register, "database", "fresh")[0] == 0
    assert re.search(r"fresh +v1\.0\.0", bao(running, "plugin", "list", "database")[1])
    assert bao(running, "plugin", "deregister", "-version=v1.0.0", "database", "fresh")[0] == 0

    assert running.catalog.read_bytes() == before


def test_bao_cannot_take_away_a_pin_that_mounts_follow(running: Plugind) -> None:
    before = running.catalog.read_bytes()

    code, out = bao(running, "delete", "sys/plugins/pins/auth/mock")

    assert (code, running.catalog.read_bytes()) == (2, before)
    assert "has no pin" in out


def test_a_version_that_pluginctl_adds_runs_once_it_is_pinned_and_goes_when_nothing_needs_it(
    running: Plugind,
) -> None:
    def pluginctl(*words: object) -> tuple[int, str, str]:
        command = [BIN / "pluginctl", "--socket", running.socket, *words]
        return run(*command, env={"PATH": os.environ["PATH"]})

    before = running.catalog.read_bytes()
    three = running.plugin("three", SLEEPS + "# three\n")

    assert pluginctl("catalog", "add", "auth/mock", "v3.0.0", "--command", three, "--", "-x")[0] == 0
    assert pluginctl("pin", "auth/mock", "v3.0.0", "--reload")[0] == 0
    assert {row["version"] for name, row in running.rows().items() if "mock" in name} == {"v3.0.0"}
    running.kill()
    running.start()
    assert pluginctl("pin", "auth/mock", "--undo")[0] == 0
    status, _, error = pluginctl("catalog", "remove", "auth/mock", "v3.0.0")
    assert (status, "it is what runs as auth/mock/ in root" in error) == (2, True)
    assert pluginctl("reload", "auth/mock")[0] == 0
    assert pluginctl("catalog", "remove", "auth/mock", "v3.0.0")[0] == 0
    assert running.catalog.read_bytes() == before
    status, _, error = pluginctl("pin", "auth/mock", "--undo")
    assert (status, "v1.0.0 now, and v3.0.0 is what plugind wrote last" in error) == (2, True)
