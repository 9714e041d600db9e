"""The texts and shapes of COMPAT, sections 8 and 9, as tables."""

from typing import Any

import pytest
from api_fakes import AT

from supervisor.domain.names import MountKey, Namespace, PluginRef
from supervisor.domain.plan import ByMounts, ByPlugin
from supervisor.domain.registering import Registered

BACKEND = "/v1/sys/plugins/reload/backend"
FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize(
    ("body", "content_type", "target"),
    [
        ({"plugin": "mock-plugin", "mounts": None, "scope": ""}, None, ByPlugin("mock-plugin")),
        (b'{"plugin":"mock-plugin"}', FORM, ByPlugin("mock-plugin")),
        (b'{"plugin":"mock-plugin"}', "text/plain", ByPlugin("mock-plugin")),
        (b"plugin=mock-plugin", FORM, ByPlugin("mock-plugin")),
        (b"plugin=mock-plugin", None, ByPlugin("mock-plugin")),
        (b"mounts=kv,auth/mock", FORM, ByMounts(("kv", "auth/mock"))),
        (b"mounts=kv&mounts=auth%2Fmock", FORM, ByMounts(("kv", "auth/mock"))),
        ({"plugin": "", "mounts": ["kv,auth/mock", "kv"]}, None, ByMounts(("kv", "auth/mock"))),
        ({"mounts": " kv , /auth/mock/ "}, None, ByMounts(("kv", "/auth/mock/"))),
        ({"mounts": ["sys/auth/mock/"]}, None, ByMounts(("sys/auth/mock/",))),
    ],
)
async def test_what_clients_send_is_understood(
    served: Any, node: Any, method: str, body: object, content_type: str | None, target: object
) -> None:
    got = await served.ask(method, BACKEND, body, {"Content-Type": content_type} if content_type else {})

    assert got.status == 200, got.body
    assert node.calls[0][1] == target
    assert got.data["reload_id"] == got.json["request_id"]
    assert set(got.json) == {
        "request_id",
        "lease_id",
        "renewable",
        "lease_duration",
        "data",
        "wrap_info",
        "warnings",
        "auth",
    }
    assert got.headers["content-type"] == "application/json"
    assert got.headers["cache-control"] == "no-store"


NEITHER = "plugin or mounts must be provided"
BOTH = "plugin and mounts cannot be set at the same time"
TWO_MISSING = (
    '2 errors occurred:\n\t* cannot fetch mount entry on "nope/"'
    '\n\t* cannot fetch mount entry on "auth/nope/"\n\n'
)
SCOPE = 'scope must be unset or "global"'


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (None, NEITHER),
        (b"null", NEITHER),
        ({}, NEITHER),
        ({"plugin": "", "mounts": ""}, NEITHER),
        ({"mounts": []}, NEITHER),
        ({"plugin": "kv", "mounts": ["kv"]}, BOTH),
        ({"plugin": "kv", "scope": "bogus"}, SCOPE),
        ({"plugin": "kv", "scope": "GLOBAL"}, SCOPE),
        ({"plugin": "kv", "scope": True}, SCOPE),
        ({"plugin": "nope"}, 'plugin not found in the catalog: "nope"'),
        ({"plugin": 5}, 'plugin not found in the catalog: "5"'),
        ({"plugin": "KV"}, 'plugin not found in the catalog: "KV"'),
        ({"mounts": ["nope"]}, '1 error occurred:\n\t* cannot fetch mount entry on "nope/"\n\n'),
        (
            {"mounts": ["nope", "kv", "auth/nope"]},
            TWO_MISSING,
        ),
        ({"mounts": ["kv/deep"]}, '1 error occurred:\n\t* cannot fetch mount entry on "kv/deep/"\n\n'),
        ({"mounts": "kv,"}, '1 error occurred:\n\t* cannot fetch mount entry on "/"\n\n'),
        ({"plugin": "kv", "batch": 2}, "cannot reload: batch is not supported by this version"),
        ({"plugin": "kv", "force": True}, "cannot reload: force is not supported by this version"),
        ({"plugin": "kv", "dryrun": True}, 'unknown parameter "dryrun": did you mean "dry_run"?'),
        ({"plugin": "kv", "Dry-Run": True}, 'unknown parameter "Dry-Run": did you mean "dry_run"?'),
    ],
)
async def test_a_refused_reload_says_exactly_this_and_touches_nothing(
    served: Any, node: Any, body: object, error: str
) -> None:
    got = await served.ask("POST", BACKEND, body)

    assert (got.status, got.errors) == (400, [error])
    assert not node.tickets


@pytest.mark.parametrize(
    ("body", "fragment"),
    [
        ({"plugin": ["kv"]}, 'Field validation failed: error converting input for field "plugin"'),
        ({"plugin": {"a": 1}}, 'Field validation failed: error converting input for field "plugin"'),
        ({"mounts": {"a": 1}}, 'Field validation failed: error converting input for field "mounts"'),
        ({"mounts": [["kv"]]}, 'Field validation failed: error converting input for field "mounts"'),
        ({"plugin": "kv", "wait": "maybe"}, 'error converting input for field "wait"'),
        ({"plugin": "kv", "parallel": -1}, 'error converting input for field "parallel"'),
        ({"plugin": "kv", "parallel": 0}, "parallel must be at least 1"),
        ({"plugin": "kv", "timeout": "soon"}, 'error converting input for field "timeout"'),
        ({"plugin": "kv", "on_failure": "stop"}, 'on_failure must be "halt" or "continue"'),
        (b"[1]", "expected an object, got a list"),
        (b'"x"', "expected an object, got a string"),
        (b"{", "failed to decode JSON input: unexpected EOF"),
        (b'{"plugin":"kv"', "failed to decode JSON input: unexpected EOF"),
        (b'{"plugin":"kv"} {"plugin":"kv"}', "failed to decode JSON input: Extra data"),
        (b'{"plugin":"kv","plugin":"kv"}', 'the key "plugin" is given twice'),
        (b'{"x":{"a":1,"a":1},"plugin":"kv"}', 'the key "a" is given twice'),
        (b'{"plugin":"k\xff"}', "invalid UTF-8"),
        (b'{"plugin":"\\ud800"}', "lone surrogate"),
        (b'{"plugin":1e999}', "is not a number"),
        (b'{"plugin":NaN}', "is not a number"),
        (b'{"plugin":' + b"9" * 9000 + b"}", "failed to decode JSON input"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"plugin=kv&plugin=kv", "given twice"),
        (b"plugin=%ff", "failed to decode form input"),
        (b"plugin=" + b"x" * 500_000, "x…"),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_a_hostile_body_costs_an_error(served: Any, node: Any, body: object, fragment: str) -> None:
    got = await served.ask("POST", BACKEND, body)

    assert got.status == 400
    assert fragment in got.errors[0]
    assert len(got.errors[0]) < 300
    assert not node.tickets


async def test_unknown_keys_are_named_in_a_warning(served: Any) -> None:
    got = await served.ask("POST", BACKEND, {"plugin": "kv", "wibble": 1, "abc": None})

    assert got.status == 200
    assert got.warnings == ["Endpoint ignored these unrecognized parameters: [abc wibble]"]


async def test_a_known_plugin_that_is_mounted_nowhere_is_a_warning(served: Any) -> None:
    got = await served.ask("POST", BACKEND, {"plugin": "idle"})

    assert (got.status, got.warnings, got.data["mounts"]) == (200, ["no plugins were reloaded"], [])


async def test_global_without_a_cluster_is_done_here_and_says_so(served: Any) -> None:
    got = await served.ask("PUT", BACKEND, {"plugin": "kv", "scope": "global"})

    assert got.status == 200
    assert got.warnings == ["no cluster is configured: reloaded on this node only"]


async def test_options_reach_the_node(served: Any, node: Any) -> None:
    body = {"plugin": "kv", "dry_run": "true", "parallel": "3", "on_failure": "continue", "partial": True}
    await served.ask("POST", BACKEND, {**body, "canary": 1, "canary_for": "1m30s", "max_failures": 2})

    options = node.calls[0][3]
    assert (options.dry_run, options.parallel, options.on_failure) == (True, 3, "continue")
    assert (options.partial, options.canary, options.canary_for) == (True, 1, 90.0)
    assert options.max_failures == 2


async def test_a_namespace_reloads_its_own_mounts_only(served: Any) -> None:
    got = await served.ask("POST", "/v1/team-a/sys/plugins/reload/backend", {"plugin": "kv"})

    assert [(row["namespace"], row["mount"]) for row in got.data["mounts"]] == [("team-a", "kv")]


@pytest.mark.parametrize(("kind", "count"), [("auth", 1), ("secret", 1), ("unknown", 2)])
async def test_reload_by_type_and_name_means_all_namespaces(served: Any, kind: str, count: int) -> None:
    got = await served.ask("PUT", f"/v1/sys/plugins/reload/{kind}/both", {})

    assert got.status == 200
    assert len(got.data["mounts"]) == count


async def test_reload_by_type_and_name_is_for_the_root_namespace(served: Any, node: Any) -> None:
    got = await served.ask("POST", "/v1/team-a/sys/plugins/reload/secret/kv")

    assert (got.status, got.errors) == (404, ["unsupported path"])
    assert not node.calls


@pytest.mark.parametrize("name", ["nope", "mock-plugin"])
async def test_no_plugin_of_that_type_is_an_error(served: Any, name: str) -> None:
    got = await served.ask("POST", f"/v1/sys/plugins/reload/secret/{name}")

    assert got.status == 400
    assert got.errors[0].startswith(f'plugin not found in the catalog: "{name}"')


async def test_the_path_of_the_vault_cli_bug_is_explained(served: Any, node: Any) -> None:
    got = await served.ask("PUT", "/v1/sys/plugins/reload/unknown/", {})

    assert got.status == 400
    assert "bug of the vault CLI" in got.errors[0]
    assert "bao plugin reload -mounts=" in got.errors[0]
    assert not node.calls


@pytest.mark.parametrize("result", ["failed", "rolled_back"])
async def test_a_mount_that_did_not_come_up_makes_it_400_with_data(
    served: Any, node: Any, result: str
) -> None:
    bad = MountKey(Namespace(), "kv")
    node.row = lambda key: {"result": result, "error": "not ready in 10 s"} if key == bad else {}

    got = await served.ask("POST", BACKEND, {"mounts": ["kv", "auth/mock"]})

    assert got.status == 400
    shown = result.replace("_", " ")
    counts = ", ".join(sorted([f"1 {shown}", "1 reloaded"], key=lambda count: count[2:]))
    error = f"1 of 2 mounts failed ({counts}):\n\t* kv/ in root: {shown}: not ready in 10 s\n\n"
    assert got.errors == [error]
    assert got.data["reload_id"] == got.json["request_id"]
    assert [row["result"] for row in got.data["mounts"]] == ["reloaded", result]


async def test_a_mount_that_is_stopped_by_hand_is_a_warning(served: Any, node: Any) -> None:
    held = {"result": "skipped", "error": "stopped by hand by uid 0 (pluginctl)"}
    node.row = lambda key: held if key.path == "kv" else {}

    got = await served.ask("POST", BACKEND, {"mounts": ["kv", "auth/mock"]})

    assert got.status == 200
    assert got.warnings == ["stopped by hand, so not reloaded: kv/ in root"]


async def test_mounts_that_a_halt_left_alone_are_errors_too(served: Any, node: Any) -> None:
    node.row = lambda key: (
        {"result": "failed", "error": "exit 1"}
        if key.path == "auth/mock"
        else {"result": "skipped", "error": "halted"}
    )

    got = await served.ask("POST", BACKEND, {"mounts": ["kv", "auth/mock"]})

    assert got.status == 400
    assert got.errors[0].startswith("1 of 2 mounts failed (1 failed, 1 skipped):")
    assert "kv/ in root: skipped: halted" in got.errors[0]


@pytest.mark.parametrize("extra", [{"wait": False}, {"timeout": "10ms"}])
async def test_what_is_not_awaited_is_202_with_the_id_to_ask_for(
    served: Any, node: Any, extra: dict[str, Any]
) -> None:
    node.finishes_at_once = False

    got = await served.ask("POST", BACKEND, {"plugin": "kv", **extra})
    status = await served.ask("GET", f"{BACKEND}/status?reload_id={got.data['reload_id']}")

    assert got.status == 202
    assert [row["result"] for row in got.data["mounts"]] == ["pending"]
    assert (status.data["results"], status.data["pending"]) == ({}, ["host-a"])


async def test_reload_status_has_the_shape_that_bao_reads(served: Any, node: Any) -> None:
    node.row = lambda _: {"result": "failed", "error": "exit 1"}
    bad = await served.ask("POST", BACKEND, {"plugin": "kv"})
    node.row = lambda _: {}
    good = await served.ask("POST", BACKEND, {"plugin": "kv"})

    results = [
        (await served.ask("GET", f"{BACKEND}/status?reload_id={got.data['reload_id']}")).data["results"]
        for got in (good, bad)
    ]

    assert results[0] == {"host-a": {"timestamp": AT, "error": ""}}
    assert results[1]["host-a"]["error"].startswith("1 of 1 mount failed")


@pytest.mark.parametrize(
    ("method", "path", "status", "errors"),
    [
        ("GET", BACKEND, 405, ["1 error occurred:\n\t* unsupported operation\n\n"]),
        ("DELETE", BACKEND, 405, ["1 error occurred:\n\t* unsupported operation\n\n"]),
        ("LIST", BACKEND, 404, ["unsupported path"]),
        ("GET", BACKEND + "?list=true", 404, ["unsupported path"]),
        ("WIBBLE", BACKEND, 405, []),
        ("POST", BACKEND + "/", 400, ["cannot write to a path ending in '/'"]),
        ("GET", BACKEND + "/status", 400, ["reload_id must be provided"]),
        ("GET", BACKEND + "/status?reload_id=x", 404, ['no reload has the id "x"']),
        ("GET", "/v1/sys/wibble", 404, ["unsupported path"]),
        ("GET", "/v1/wibble/x", 404, ['no handler for route "wibble/x". route entry not found.']),
        ("GET", "/", 404, []),
        ("GET", "/v2/sys/health", 404, []),
        ("GET", "/v1/sys/plugins/catalog/auth", 405, ["1 error occurred:\n\t* unsupported operation\n\n"]),
        ("LIST", "/v1/sys/plugins/catalog", 405, ["1 error occurred:\n\t* unsupported operation\n\n"]),
        (
            "PATCH",
            "/v1/sys/plugins/catalog/auth/x",
            405,
            ["1 error occurred:\n\t* unsupported operation\n\n"],
        ),
        ("GET", "/v1/sys/plugins/catalog/auth/nope", 404, []),
        ("GET", "/v1/team-a/sys/plugins/catalog/auth/mock-plugin", 404, ["unsupported path"]),
        ("GET", "/v1/sys/namespaces", 405, ["1 error occurred:\n\t* unsupported operation\n\n"]),
        ("GET", "/v1/sys/namespaces?list=yes", 400, None),
        ("LIST", "/v1/team-a/dev/sys/namespaces", 404, []),
        ("GET", "/v1/nope/sys/mounts", 404, ["namespace not found"]),
        ("GET", "/v1/sys/mounts/nope", 400, ["No secret engine mount at nope/"]),
        ("GET", "/v1/sys/auth/nope", 400, ["No auth engine at nope/"]),
        ("GET", "/v1/sys/plugins/pins/secret/idle", 404, []),
        ("POST", "/v1/sys/plugins/pins/secret/kv", 400, ["missing plugin version"]),
        ("GET", "/v1/team-a/sys/health", 400, ["operation unavailable in namespaces"]),
        ("GET", "/v1/sys/health?activecode=x", 400, None),
        ("POST", "/v1/sys/health", 405, ["1 error occurred:\n\t* unsupported operation\n\n"]),
    ],
)
async def test_what_is_not_there_says_exactly_this(
    served: Any, method: str, path: str, status: int, errors: list[str] | None
) -> None:
    got = await served.ask(method, path)

    assert got.status == status, got.body
    assert errors is None or got.errors == errors


@pytest.mark.parametrize(
    ("header", "path", "namespace"),
    [
        ("team-a", "/v1/sys/mounts", "team-a"),
        ("team-a/", "/v1/sys/mounts", "team-a"),
        ("/team-a", "/v1/sys/mounts", "team-a"),
        ("root", "/v1/team-a/dev/sys/mounts", "team-a/dev"),
        ("team-a", "/v1/dev/sys/mounts", "team-a/dev"),
        ("team-a/dev/", "/v1/supervisor/instances", "team-a/dev"),
        ("", "/v1/team-a/dev/supervisor/instances", "team-a/dev"),
    ],
)
async def test_header_and_path_say_the_namespace_together(
    served: Any, node: Any, header: str, path: str, namespace: str
) -> None:
    seen = []
    node.instances = lambda asked: seen.append(str(asked)) or []

    got = await served.ask("GET", path, headers={"X-Vault-Namespace": header})

    assert (got.status, seen) == (200, [namespace])


async def test_the_same_namespace_in_header_and_path_is_another_one(served: Any) -> None:
    got = await served.ask("GET", "/v1/team-a/sys/mounts", headers={"X-Vault-Namespace": "team-a"})

    assert (got.status, got.errors) == (404, ["namespace not found"])


async def test_the_catalog_has_all_three_types_and_one_entry_per_version(served: Any) -> None:
    got = await served.ask("GET", "/v1/sys/plugins/catalog")

    assert got.data["database"] == []
    assert got.data["auth"] == ["both", "mock-plugin"]
    versions = [row["version"] for row in got.data["detailed"] if row["name"] == "mock-plugin"]
    assert versions == ["v1.0.0", "v1.1.0"]
    assert b"hunter2" not in got.body


@pytest.mark.parametrize("path", ["/v1/sys/plugins/catalog/secret", "/v1/team-a/sys/plugins/catalog/secret"])
@pytest.mark.parametrize(
    "how", [("LIST", ""), ("GET", "?list=true"), ("GET", "?list=True"), ("GET", "?list=1")]
)
async def test_listing_takes_the_verb_and_the_parameter(served: Any, path: str, how: tuple[str, str]) -> None:
    got = await served.ask(how[0], path + how[1])

    assert got.data == {"keys": ["both", "idle", "kv", "loose"]}


@pytest.mark.parametrize(
    ("name", "query", "version", "pinned"),
    [
        ("auth/mock-plugin", "", "v1.1.0", True),
        ("auth/mock-plugin", "?version=", "v1.1.0", True),
        ("auth/mock-plugin", "?version=1.0.0", "v1.0.0", False),
        ("secret/idle", "", "v1.0.0", False),
    ],
)
async def test_a_plugin_without_a_version_is_the_pinned_one(
    served: Any, name: str, query: str, version: str, *, pinned: bool
) -> None:
    got = await served.ask("GET", f"/v1/sys/plugins/catalog/{name}{query}")

    assert (got.data["version"], got.data["pinned"]) == (version, pinned)
    assert got.data["env"] == ["LEVEL"]
    assert b"hunter2" not in got.body


async def test_a_plugin_without_pin_and_with_several_versions_lists_them(served: Any) -> None:
    got = await served.ask("GET", "/v1/sys/plugins/catalog/secret/loose")

    assert got.status == 400
    assert got.errors[0].endswith("secret/loose has the versions v1.0.0, v2.0.0")


async def test_a_version_that_is_none_is_told_apart_from_one_that_is_missing(served: Any) -> None:
    banana = await served.ask("GET", "/v1/sys/plugins/catalog/auth/both?version=banana")
    missing = await served.ask("GET", "/v1/sys/plugins/catalog/auth/both?version=v9.9.9")

    assert banana.errors == ['version "banana" is not a valid semantic version: malformed version']
    assert (missing.status, missing.errors) == (404, [])


async def test_mounts_show_what_is_pinned_and_what_runs(served: Any) -> None:
    auth = (await served.ask("GET", "/v1/sys/auth")).data
    mounts = (await served.ask("GET", "/v1/sys/mounts")).data
    one = (await served.ask("GET", "/v1/sys/auth/mock")).data

    assert sorted(auth) == ["both/", "mock/"]
    assert sorted(mounts) == ["both/", "kv/"]
    assert (auth["mock/"]["plugin_version"], auth["mock/"]["running_plugin_version"]) == ("v1.1.0", "v1.0.0")
    assert auth["mock/"]["running_sha256"] == "ab" * 32
    assert one == auth["mock/"]


async def test_namespaces_are_listed_relative_to_the_asking_one(served: Any) -> None:
    top = (await served.ask("LIST", "/v1/sys/namespaces")).data
    below = (await served.ask("GET", "/v1/team-a/sys/namespaces?list=True")).data
    deep = (await served.ask("GET", "/v1/sys/namespaces?scan=true")).data
    one = (await served.ask("GET", "/v1/sys/namespaces/team-a/dev")).data

    assert top["keys"] == ["team-a/"]
    assert below["keys"] == ["dev/"]
    assert deep["keys"] == ["team-a/", "team-a/dev/"]
    assert one["path"] == below["key_info"]["dev/"]["path"] == "team-a/dev/"


async def test_a_pin_is_removed_as_vault_does_it(served: Any, node: Any) -> None:
    got = await served.ask("DELETE", "/v1/sys/plugins/pins/auth/mock-plugin")

    assert (got.status, got.body) == (204, b"")
    assert node.calls == [("remove_pin", PluginRef("auth", "mock-plugin"))]
    assert [line[1:] for line in node.audited] == [("remove the pin of auth/mock-plugin", "root", "done")]


async def test_a_pin_is_undone(served: Any, node: Any) -> None:
    got = await served.ask("POST", "/v1/supervisor/pins/auth/mock-plugin/undo")
    refused = await served.ask("POST", "/v1/supervisor/pins/auth/mock-plugin/undo", {"version": "v9"})

    assert (got.status, got.data["version"], refused.status) == (200, "v1.0.0", 400)
    assert node.calls == [("undo_pin", PluginRef("auth", "mock-plugin"))]
    assert node.audited[0][1:] == ("undo the pin of auth/mock-plugin", "root", "done")


NO_STRING = (
    'Field validation failed: error converting input for field "args": expected a string, got an object'
)
REGISTERED = {"version": "v3", "command": "/opt/x", "sha256": "AB" * 32}
PLACE = "/v1/sys/plugins/catalog/auth/mock-plugin"


@pytest.mark.parametrize(
    ("sent", "args", "env"),
    [
        # what `bao plugin register` sends: type is a number
        ({"type": 1, "args": ["--fast", "8"], "env": None}, ("--fast", "8"), ()),
        ({"name": "mock-plugin", "args": None, "env": ["A=1", "B=x=y"]}, (), (("A", "1"), ("B", "x=y"))),
        ({"args": "--one", "oci_image": "", "runtime": ""}, ("--one",), ()),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_a_version_is_registered_as_vault_does_it(
    served: Any, node: Any, method: str, sent: dict[str, Any], args: tuple[str, ...], env: tuple[Any, ...]
) -> None:
    got = await served.ask(method, PLACE, {**REGISTERED, **sent})

    assert (got.status, got.body) == (204, b"")
    added = Registered("/opt/x", "ab" * 32, args, env)
    assert node.calls == [("add_version", PluginRef("auth", "mock-plugin"), "v3", added)]
    assert [line[1:] for line in node.audited] == [("add v3 to auth/mock-plugin", "root", "done")]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"version": ""}, "missing plugin version: every version has a name here"),
        ({"command": None}, "missing command value"),
        ({"sha256": "abc"}, '"abc" is no SHA-256: write the 64 hex digits that sha256sum prints'),
        ({"oci_image": "x"}, "cannot register a plugin with oci_image: plugins are files here"),
        ({"env": ["A"]}, "cannot read a variable of env: write NAME=VALUE"),
        ({"arg": ["x"]}, 'unknown parameter "arg": did you mean "args"?'),
        ({"args": [{}]}, NO_STRING),
    ],
)
async def test_a_version_that_cannot_be_registered_says_why(
    served: Any, node: Any, change: dict[str, Any], error: str
) -> None:
    got = await served.ask("PUT", PLACE, {**REGISTERED, **change})

    assert (got.status, got.errors) == (400, [error])
    assert node.calls == []


@pytest.mark.parametrize("version", ["v1.0.0", "v9"])
async def test_a_version_is_deregistered_also_where_it_is_not_there(
    served: Any, node: Any, version: str
) -> None:
    got = await served.ask("DELETE", f"{PLACE}?version={version}")

    assert (got.status, got.body) == (204, b"")
    assert node.calls == [("remove_version", PluginRef("auth", "mock-plugin"), version)]
    assert node.audited[0][1] == f"remove {version} from auth/mock-plugin"


@pytest.mark.parametrize("query", ["", "?version="])
async def test_a_plugin_is_not_deregistered_as_a_whole(served: Any, node: Any, query: str) -> None:
    got = await served.ask("DELETE", PLACE + query)

    assert (got.status, node.calls) == (400, [])
    assert got.errors[0].startswith("missing plugin version")


async def test_pins_are_read_and_written(served: Any, node: Any) -> None:
    all_pins = (await served.ask("GET", "/v1/sys/plugins/pins")).data["pinned_versions"]
    written = await served.ask("PUT", "/v1/sys/plugins/pins/auth/mock-plugin", {"version": "v1.0.0"})
    refused = await served.ask("POST", "/v1/sys/plugins/pins/auth/mock-plugin", {"version": "v9"})

    assert {"type": "secret", "name": "kv", "version": "v2.0.0"} in all_pins
    assert written.data == {"type": "auth", "name": "mock-plugin", "version": "v1.0.0"}
    assert refused.errors == ['auth plugin "mock-plugin" version v9 does not exist']
    assert [line[1:] for line in node.audited] == [
        ("pin auth/mock-plugin v1.0.0", "root", "done"),
        ("pin auth/mock-plugin v9", "root", f"refused: {refused.errors[0]}"),
    ]


async def test_health_answers_get_and_head(served: Any) -> None:
    got = await served.ask("GET", "/v1/sys/health?standbyok=true")
    head = await served.ask("HEAD", "/v1/sys/health?activecode=299")

    assert (got.status, got.json["initialized"], got.json["sealed"]) == (200, True, False)
    assert (head.status, head.body) == (299, b"")


async def test_an_unexpected_error_shows_no_traceback(served: Any, node: Any) -> None:
    node.breaks = ZeroDivisionError("secret detail")

    got = await served.ask("GET", "/v1/sys/mounts")

    assert got.status == 500
    assert got.errors[0].startswith("internal error (request ID ")
    assert b"secret detail" not in got.body


async def test_an_error_after_a_reload_may_have_begun_is_never_sent_again(served: Any, node: Any) -> None:
    async def breaks(*_: object) -> None:
        raise ZeroDivisionError

    node.reload = breaks

    got = await served.ask("POST", BACKEND, {"plugin": "kv"})

    assert got.status == 400
    assert got.errors[0].startswith("internal error")
    assert node.audited[-1][3] == "failed: internal error"


async def test_rows_of_other_namespaces_are_not_in_a_report(served: Any) -> None:
    got = await served.ask("POST", "/v1/sys/plugins/reload/secret/kv")
    path = f"supervisor/reloads/{got.data['reload_id']}"

    seen = [await served.ask("GET", f"/v1/{place}{path}") for place in ("", "team-a/", "team-a/dev/")]

    assert [one.status for one in seen] == [200, 200, 404]
    assert [len(one.data["mounts"]) for one in seen[:2]] == [2, 1]
