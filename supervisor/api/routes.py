"""The one table of routes, and the way to a row: namespace, path, access, verb, in that order.

Nothing is told about what exists before the caller is known to be allowed to know.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote_to_bytes

from supervisor.api import metrics, native, vault, vault_health, vault_reads
from supervisor.api.bodies import flag
from supervisor.api.calls import Call, Reply
from supervisor.domain.access import Caller, Verb, may
from supervisor.domain.catalog import AccessRule
from supervisor.domain.errors import BadRequest, NotAllowed, NotFound, WrongMethod
from supervisor.domain.names import NAME_RULE, ROOT, Namespace, is_name, shortened
from supervisor.domain.plan import multierror

Handler = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Access:
    """What a row asks of its caller: a verb in the namespace. None: the row is open."""

    verb: Verb | None
    is_root_only: bool = False
    is_anywhere: bool = False
    """Any rule will do, whatever its namespace."""

    @property
    def changes(self) -> bool:
        return self.verb in {"reload", "admin"}


OPEN: Final = Access(None)
KNOWN: Final = Access("read", is_anywhere=True)
READ: Final = Access("read")
ROOT_READ: Final = Access("read", is_root_only=True)
RELOAD: Final = Access("reload")
ROOT_RELOAD: Final = Access("reload", is_root_only=True)
ADMIN: Final = Access("admin")
ROOT_ADMIN: Final = Access("admin", is_root_only=True)


@dataclass(frozen=True, slots=True)
class Route:
    """`{name}` stands for one segment, a final `{mount*}` for the rest of the path, if only a slash."""

    method: str
    pattern: str
    access: Access
    handler: Handler
    segments: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "segments", tuple(self.pattern[1:].split("/")))


# The first pattern that fits a path wins, so what is written out stands above {type}. PUT is POST.
ROUTES: Final = (
    Route("POST", "/sys/plugins/reload/backend", RELOAD, vault.reload_backend),
    Route("GET", "/sys/plugins/reload/backend/status", READ, vault.reload_status),
    Route("POST", "/sys/plugins/reload/{type}/{name}", ROOT_RELOAD, vault.reload_plugin),
    Route("POST", "/sys/plugins/reload/{type}/", ROOT_RELOAD, vault.reload_nameless),
    Route("GET", "/sys/plugins/pins", ROOT_READ, vault.read_pins),
    Route("GET", "/sys/plugins/pins/{type}/{name}", ROOT_READ, vault.read_pin),
    Route("POST", "/sys/plugins/pins/{type}/{name}", ROOT_ADMIN, vault.write_pin),
    Route("DELETE", "/sys/plugins/pins/{type}/{name}", ROOT_ADMIN, vault.delete_pin),
    Route("GET", "/sys/plugins/catalog", READ, vault_reads.list_catalog),
    Route("LIST", "/sys/plugins/catalog/{type}", READ, vault_reads.list_type),
    Route("GET", "/sys/plugins/catalog/{type}/{name}", ROOT_READ, vault_reads.read_plugin),
    Route("POST", "/sys/plugins/catalog/{type}/{name}", ROOT_ADMIN, vault.register_plugin),
    Route("DELETE", "/sys/plugins/catalog/{type}/{name}", ROOT_ADMIN, vault.deregister_plugin),
    Route("GET", "/sys/mounts", READ, vault_reads.list_mounts),
    Route("GET", "/sys/mounts/{mount*}", READ, vault_reads.read_mount),
    Route("GET", "/sys/auth", READ, vault_reads.list_auth),
    Route("GET", "/sys/auth/{mount*}", READ, vault_reads.read_auth),
    Route("LIST", "/sys/namespaces", READ, vault_reads.list_namespaces),
    Route("SCAN", "/sys/namespaces", READ, vault_reads.scan_namespaces),
    Route("GET", "/sys/namespaces/{namespace*}", READ, vault_reads.read_namespace),
    Route("GET", "/sys/health", OPEN, vault_health.health),
    Route("HEAD", "/sys/health", OPEN, vault_health.health),
    Route("GET", "/sys/seal-status", OPEN, vault_health.seal_status),
    Route("GET", "/sys/leader", OPEN, vault_health.leader),
    Route("GET", "/sys/init", OPEN, vault_health.init),
    Route("GET", "/sys/ha-status", READ, vault_health.ha_status),
    Route("GET", "/sys/metrics", READ, metrics.read),
    Route("GET", "/auth/token/lookup-self", KNOWN, vault_health.lookup_self),
    Route("GET", "/supervisor/instances", READ, native.instances),
    Route("GET", "/supervisor/status", READ, native.status),
    Route("GET", "/supervisor/plan", READ, native.plan),
    Route("POST", "/supervisor/apply", RELOAD, native.apply),
    Route("POST", "/supervisor/start/{mount*}", RELOAD, native.start),
    Route("POST", "/supervisor/stop/{mount*}", RELOAD, native.stop),
    Route("POST", "/supervisor/restart/{mount*}", RELOAD, native.restart),
    Route("POST", "/supervisor/pins/{type}/{name}/undo", ROOT_ADMIN, vault.undo_pin),
    Route("GET", "/supervisor/hold", READ, native.holds),
    Route("POST", "/supervisor/hold", ADMIN, native.hold),
    Route("DELETE", "/supervisor/hold", ADMIN, native.release),
    Route("POST", "/supervisor/upgrade", ROOT_ADMIN, native.upgrade),
    Route("GET", "/supervisor/logs/{mount*}", READ, native.logs),
    Route("GET", "/supervisor/why/{mount*}", READ, native.why),
    Route("GET", "/supervisor/events", READ, native.events),
    Route("GET", "/supervisor/reloads", READ, native.history),
    Route("GET", "/supervisor/reloads/{id}", READ, native.read_reload),
)

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "LIST", "SCAN", "PATCH", "OPTIONS"})
_TOP: Final = frozenset({"sys", "supervisor"})
_TOKEN_PATH: Final = ("auth", "token", "lookup-self")
UNSUPPORTED_OPERATION: Final = multierror(["unsupported operation"])


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as far as its row depends on it."""

    method: str
    target: str
    namespace: str
    """The header X-Vault-Namespace."""
    caller: Caller


class Denied(NotAllowed):
    """What was denied is for audit.log only; the caller hears two words."""

    def __init__(self, access: Access, namespace: Namespace, deed: str) -> None:
        super().__init__()
        self.access, self.namespace, self.deed = access, namespace, deed


@dataclass(frozen=True, slots=True)
class Found:
    route: Route
    namespace: Namespace
    path: str
    params: Mapping[str, str]
    query: Mapping[str, str]


def find(
    asked: Asked,
    rules: Iterable[AccessRule],
    namespaces: frozenset[Namespace],
    routes: tuple[Route, ...] = ROUTES,
) -> Found:
    """The row for a request whose caller may use it.

    Raises:
        BadRequest: Path, query or namespace are malformed; says nothing about what exists.
        Denied: No rule fits, whether or not there is such a path or namespace.
        NotFound: No such namespace or path.
        WrongMethod: Not with this verb.
    """
    raw_path, _, raw_query = asked.target.partition("?")
    namespace, segments = _split(raw_path)
    namespace = Namespace.parse(asked.namespace.strip()).joined(namespace)
    query = _query(raw_query)
    method = _method(asked.method, query)
    rows, params = _rows(segments, routes)
    row = next((row for row in rows if row.method == method), None)
    access = row.access if row is not None else READ
    path = "/".join(segments)
    if not _is_allowed(asked.caller, access, namespace, tuple(rules)):
        raise Denied(access, namespace, f"{asked.method} {path}")
    if access.verb is not None and namespace not in namespaces:
        raise NotFound("namespace not found")
    if row is None or (access.is_root_only and not namespace.is_root):
        raise _mismatch(asked.method, method, rows if namespace.is_root else [], segments)
    return Found(row, namespace, path, params, query)


def _is_allowed(caller: Caller, access: Access, namespace: Namespace, rules: tuple[AccessRule, ...]) -> bool:
    if access.verb is None:
        return True
    places = {namespace}
    if access.is_anywhere:
        places |= {place for rule in rules for place in rule.namespaces or (ROOT,)}
    return any(may(caller, access.verb, place, rules) for place in places)


def _split(raw_path: str) -> tuple[Namespace, tuple[str, ...]]:
    """Namespace and segments of `/v1/team-a/dev/sys/…`; a final slash is a last, empty segment."""
    if "://" in raw_path[:10] and not raw_path.startswith("/"):
        raw_path = "/" + raw_path.partition("://")[2].partition("/")[2]  # absolute form, from proxies
    version, *raw = raw_path.removeprefix("/").split("/")
    if version != "v1":
        raise NotFound("")
    segments = tuple(map(_segment, raw[:-1])) + ((_segment(raw[-1]) if raw[-1] else "",) if raw else ())
    if segments[-3:] == _TOKEN_PATH and not _TOP & set(segments):
        start = len(segments) - 3
    else:
        start = next((at for at, segment in enumerate(segments) if segment in _TOP), 0)
    return Namespace.parse("/".join(segments[:start])), segments[start:]


def _segment(raw: str) -> str:
    try:
        text = unquote_to_bytes(raw.encode()).decode()
    except UnicodeError:
        text = ""
    if not is_name(text):
        raise BadRequest(f"cannot read the path: each part is {NAME_RULE}")
    return text


def _query(raw: str) -> dict[str, str]:
    if not raw:
        return {}
    try:
        pairs = parse_qsl(raw, keep_blank_values=True, errors="strict", max_num_fields=50)
        raw.encode()
    except ValueError as error:
        raise BadRequest("cannot read the query: it is not UTF-8, or too long") from error
    query = dict(pairs)
    if len(query) != len(pairs):
        raise BadRequest("cannot read the query: a parameter is given twice")
    return query


def _method(method: str, query: Mapping[str, str]) -> str:
    for name, verb in (("list", "LIST"), ("scan", "SCAN")):
        if method == "GET" and name in query and flag(query[name]):
            return verb
    return "POST" if method == "PUT" else method


def _rows(segments: tuple[str, ...], routes: tuple[Route, ...]) -> tuple[list[Route], dict[str, str]]:
    found: list[Route] = []
    params: dict[str, str] = {}
    for route in routes:
        if found and route.pattern != found[0].pattern:
            continue
        matched = _match(route.segments, segments)
        if matched is not None:
            found.append(route)
            params = matched
    return found, params


def _match(pattern: tuple[str, ...], segments: tuple[str, ...]) -> dict[str, str] | None:
    if pattern[-1].endswith("*}"):
        rest = "/".join(segments[len(pattern) - 1 :])
        if not rest.removesuffix("/"):
            return None
        segments = (*segments[: len(pattern) - 1], rest)
    if len(pattern) != len(segments):
        return None
    params = {}
    for expected, segment in zip(pattern, segments, strict=True):
        if expected.startswith("{") and segment:
            params[expected.strip("{*}")] = segment
        elif expected != segment:
            return None
    return params


def _mismatch(
    sent: str, method: str, rows: list[Route], segments: tuple[str, ...]
) -> BadRequest | NotFound | WrongMethod:
    verbs = {row.method for row in rows}
    if not verbs:
        if method == "POST" and segments and not segments[-1]:
            return BadRequest("cannot write to a path ending in '/'")
        if segments and segments[0] in _TOP:
            return NotFound("unsupported path")
        path = shortened("/".join(segments))
        return NotFound(f'no handler for route "{path}". route entry not found.')
    if sent not in _METHODS:
        return WrongMethod("")
    if method in {"LIST", "SCAN"} and not verbs & {"GET", "LIST"}:
        return NotFound("unsupported path")
    return WrongMethod(UNSUPPORTED_OPERATION)
