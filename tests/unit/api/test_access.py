"""Who may use which row, over the whole table: a new row without a fitting access entry fails here."""

import asyncio
import re
from hashlib import sha256
from typing import Any

import pytest
from api_fakes import TEAM

from supervisor.api import routes
from supervisor.api.routes import ROUTES, Asked, Denied, Route, find
from supervisor.domain.access import Caller
from supervisor.domain.catalog import Tcp
from supervisor.domain.errors import NotFound
from supervisor.domain.names import ROOT

SAMPLES = {
    "type": "secret",
    "name": "kv",
    "mount*": "kv",
    "namespace*": "team-a",
    "id": "11111111-1111-1111-1111-111111111111",
}
CHANGING = {"POST", "PUT", "DELETE"}
# These read through nothing but the node itself, and nothing about mounts: a load balancer has no rule.
OPEN_TO_ALL = {"/sys/health", "/sys/seal-status", "/sys/leader", "/sys/init"}


def path_of(route: Route) -> str:
    return "/v1" + re.sub(r"\{([^}]+)\}", lambda match: SAMPLES[match[1]], route.pattern)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.pattern}")
def test_every_row_that_changes_something_asks_for_more_than_read(route: Route) -> None:
    assert route.access.changes == (route.method in CHANGING)
    assert (route.access.verb is None) == (route.pattern in OPEN_TO_ALL)
    if "pins" in route.pattern and route.access.changes:
        assert route.access.verb == "admin"
        assert route.access.is_root_only


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.pattern}")
@pytest.mark.parametrize("override", [{}, {"X-HTTP-Method-Override": "GET"}])
async def test_a_reader_gets_403_wherever_something_changes(
    serve: Any, as_uid: Any, rule: Any, node: Any, route: Route, override: dict[str, str]
) -> None:
    as_uid(1000)
    served = await serve(access=[rule(uid=1000, may="read")])

    for method in {"POST": ("POST", "PUT")}.get(route.method, (route.method,)):
        if "events" in route.pattern:
            continue  # it would stream for ever
        got = await served.ask(method, path_of(route), {}, override)
        if route.access.changes:
            assert (got.status, got.json) == (403, {"errors": ["permission denied"]})
            assert node.audited[-1][3] == "refused: permission denied"
        else:
            assert got.status not in {401, 403, 405, 500}, got.body
    assert all(call[0] == "plan" for call in node.calls)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.pattern}")
async def test_a_caller_without_a_rule_gets_403_and_not_a_closed_door(
    serve: Any, as_uid: Any, route: Route
) -> None:
    as_uid(1000)
    served = await serve()

    for namespace in ("", "team-a", "no-such-one"):
        got = await served.ask(route.method, path_of(route), headers={"X-Vault-Namespace": namespace})
        if route.access.verb is None:
            assert got.status == (400 if namespace and route.pattern == "/sys/health" else 200)
        else:
            assert (got.status, got.json) == (403, {"errors": ["permission denied"]})


@pytest.mark.parametrize("path", ["/v1/sys/wibble", "/v1/wibble/x", "/v1/nope/sys/mounts", "/v1/sys/mounts"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "LIST", "WIBBLE"])
async def test_who_may_not_read_cannot_tell_what_exists(
    serve: Any, as_uid: Any, path: str, method: str
) -> None:
    as_uid(1000)
    served = await serve()

    got = await served.ask(method, path)

    assert (got.status, got.json) == (403, {"errors": ["permission denied"]})


@pytest.mark.parametrize(
    "path",
    [
        "/v1/sys/mounts/..",
        "/v1/sys/mounts/%2e%2e",
        "/v1/sys/mounts/a%2fb",
        "/v1/sys/mounts//kv",
        "/v1/sys/mounts/./kv",
        "/v1/sys/mounts/a/./b",
        "/v1/sys/mounts/kv%00",
        "/v1/sys/mounts/%ff",
        "/v1/sys/mounts/%zz",
        "/v1/sys/mounts/%EF%BC%8F",
        "/v1/sys/mounts/caf%C3%A9",
        "/v1/sys/mounts/cafe%CC%81",
        "/v1/sys/mounts/%E2%80%AEvk",
        "/v1/sys/mounts/" + "x" * 300,
        "/v1/sys/mounts/kv%252e",
        "/v1//sys/mounts",
        "/v1/..%2f/sys/mounts",
        "/v1/sys/plugins/reload/secret/..",
        "/v1/supervisor/logs/..%2f..%2fetc%2fpasswd",
        "/v1/supervisor/stop/kv/../auth/mock",
        "/v1/supervisor/reloads/..",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_name_that_is_none_says_the_same_everywhere(
    served: Any, node: Any, path: str, method: str
) -> None:
    got = await served.ask(method, path)

    assert got.status == 400
    assert got.errors == [
        "cannot read the path: each part is 1 to 64 of a-z A-Z 0-9 . _ -, not beginning with . or -"
    ]
    assert not node.calls


@pytest.mark.parametrize(
    "namespace", ["sys", "team-a/sys", "..", "a//b", "a/root", "x" * 300, "caf\u00e9", "a,b"]
)
async def test_a_namespace_that_is_no_name_is_refused(served: Any, namespace: str) -> None:
    got = await served.ask("GET", "/v1/sys/mounts", headers={"X-Vault-Namespace": namespace})

    assert got.status == 400
    assert "as a namespace: each part is" in got.errors[0]


async def test_a_child_namespace_admin_cannot_reload_from_the_root(
    serve: Any, as_uid: Any, rule: Any
) -> None:
    as_uid(1000)
    served = await serve(access=[rule(uid=1000, namespaces=(TEAM,), may="admin")])

    root = await served.ask("POST", "/v1/sys/plugins/reload/secret/kv")
    own = await served.ask("POST", "/v1/team-a/sys/plugins/reload/secret/kv")
    below = await served.ask("POST", "/v1/team-a/dev/sys/plugins/reload/backend", {"plugin": "mock-plugin"})
    known = await served.ask("GET", "/v1/auth/token/lookup-self")

    assert (root.status, own.status, below.status) == (403, 404, 200)
    assert known.data["policies"] == ["read", "reload", "admin"]


async def test_tokens_are_told_from_each_other_on_tcp(serve: Any, rule: Any) -> None:
    digest = sha256(b"s.good").hexdigest()
    served = await serve(access=[rule(token_sha256=digest, may="read")], tcp=Tcp("127.0.0.1:0"))
    (host, port), *_ = served.server.addresses

    statuses = {}
    for name, header in {
        "none": {},
        "wrong": {"X-Vault-Token": "s.goof"},
        "token": {"X-Vault-Token": "s.good"},
        "bearer": {"Authorization": "Bearer s.good"},
        "basic": {"Authorization": "Basic s.good"},
    }.items():
        got = await ask_tcp(host, port, header)
        statuses[name] = got
    assert statuses == {"none": 403, "wrong": 403, "token": 200, "bearer": 200, "basic": 403}


async def ask_tcp(host: str, port: int, headers: dict[str, str]) -> int:
    reader, writer = await asyncio.open_connection(host, port)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"GET /v1/sys/mounts HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n".encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1])


def test_access_is_decided_before_anything_else_is_looked_up() -> None:
    class NoNamespaces(frozenset[Any]):
        def __contains__(self, _: object) -> bool:
            raise AssertionError("looked up before access was decided")

    with pytest.raises(Denied):
        find(Asked("GET", "/v1/nope/sys/mounts", "", Caller(uid=1)), (), NoNamespaces())


def test_the_first_pattern_that_fits_wins() -> None:
    trusted = Caller(trusted=True)
    found = find(Asked("GET", "/v1/sys/plugins/reload/backend/status", "", trusted), (), frozenset({ROOT}))

    assert found.route.pattern == "/sys/plugins/reload/backend/status"
    with pytest.raises(NotFound):
        find(Asked("POST", "/v1/sys/plugins/reload", "", trusted), (), frozenset({ROOT}))


def test_no_row_is_there_twice() -> None:
    rows = [(route.method, route.pattern) for route in routes.ROUTES]

    assert len(rows) == len(set(rows))
