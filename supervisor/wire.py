"""Shapes of requests and answers, and what each error means outside. No behaviour.

The envelope and everything under `/v1/sys` is Vault's: https://developer.hashicorp.com/vault/api-docs/system/plugins-reload
"""

from typing import Any, Final, Literal

import msgspec

from supervisor.domain import errors

# (HTTP status, exit status of pluginctl); a class stands for its subclasses. 412, 429 and 5xx are sent
# again by Vault's Go clients, so nothing that touched a process may have one of them.
STATUSES: Final[dict[type[errors.PlugindError], tuple[int, int]]] = {
    errors.NotAllowed: (403, 2),
    errors.NotFound: (404, 2),
    errors.WrongMethod: (405, 2),
    errors.TooLarge: (413, 2),
    errors.Refused: (400, 2),
    errors.Unavailable: (503, 2),
    errors.Cannot: (400, 2),
}


def statuses(error: errors.PlugindError) -> tuple[int, int]:
    """The (HTTP, exit) statuses of the nearest class that has a line in STATUSES."""
    for kind in type(error).__mro__:
        if kind in STATUSES:
            return STATUSES[kind]
    return (400, 2)


EXIT_DONE: Final = 0
EXIT_SOME_FAILED: Final = 1
EXIT_REFUSED: Final = 2
EXIT_UNREACHABLE: Final = 3


class Envelope(msgspec.Struct, kw_only=True):
    request_id: str
    lease_id: str = ""
    renewable: bool = False
    lease_duration: int = 0
    data: Any = None
    wrap_info: None = None
    warnings: list[str] | None = None
    auth: None = None


class ReloadBody(msgspec.Struct, kw_only=True):
    """Body of both reload endpoints and of apply; this list of keys is whole."""

    plugin: str | None = None
    mounts: list[str] | str | None = None
    scope: str | None = None
    dry_run: bool = False
    wait: bool = True
    parallel: int | None = None
    on_failure: Literal["halt", "continue"] = "halt"
    partial: bool = False
    max_failures: int = 0
    canary: int = 0
    canary_for: str | float | None = None
    batch: int | None = None
    pause: str | float | None = None
    timeout: str | float | None = None
    require: str | None = None
    force: bool = False


Result = Literal[
    "reloaded",
    "rolled_back",
    "failed",
    "skipped",
    "unchanged",
    "started",
    "stopped",
    "pending",
    "interrupted",
]
"""`interrupted`: plugind died before it was done, which the next one says in history."""


class MountResult(msgspec.Struct, kw_only=True):
    """One row of a report. Times in seconds; `log` holds the last lines of an instance that failed."""

    namespace: str
    mount: str
    plugin: str
    result: Result
    old_version: str | None = None
    new_version: str | None = None
    old_pid: int | None = None
    new_pid: int | None = None
    down_seconds: float | None = None
    error: str | None = None
    log: list[str] = []


class RehearsedResult(MountResult, kw_only=True):
    """The row of a dry run: nothing was done, and `result` is what it is without doing anything."""

    would_be: Result
    """What it would be, if all goes well."""
    old_sha256: str | None = None
    new_sha256: str | None = None
    changed: list[str] = []
    """Keys of the catalog in which the two differ; of `env` only the names of variables."""


class ReloadData(msgspec.Struct, kw_only=True):
    """`data` of a reload or an apply, also what history keeps."""

    reload_id: str
    verb: Literal["reload", "apply"] = "reload"
    mounts: list[MountResult] = []
    done: bool = False
    dry_run: bool = False
    scope: str = ""
    target: str = ""
    """For people: `auth/mock-plugin in all namespaces`."""
    by: str = ""
    started_at: str = ""
    finished_at: str | None = None
    node: str = ""


class Reattach(msgspec.Struct, kw_only=True):
    Protocol: str
    ProtocolVersion: int
    Pid: int
    Test: bool
    Addr: dict[str, str]


class InstanceRow(msgspec.Struct, kw_only=True):
    """One mount, also where nothing runs (`pid` null). Times are RFC 3339, memory is bytes."""

    namespace: str
    mount: str
    type: str
    plugin: str
    version: str | None
    pinned_version: str | None
    state: str
    pid: int | None = None
    instance: str | None = None
    started_at: str | None = None
    ready_at: str | None = None
    restarts: int = 0
    last_exit: str | None = None
    reason: str | None = None
    says: str | None = None
    """The last STATUS= of kind notify."""
    has_own_version: bool = False
    stopped_by: str | None = None
    rolled_back_from: str | None = None
    handshake: dict[str, Any] | None = None
    reattach: Reattach | None = None
    listen: list[str] = []
    cpu_seconds: float | None = None
    memory_bytes: int | None = None


class CatalogState(msgspec.Struct, kw_only=True):
    """Which catalog is in force and what is wrong with the file now, if anything."""

    file: str
    loaded_at: str | None = None
    source: Literal["file", "last good", "none"] = "none"
    faults: list[str] = []
    mounts: int = 0
    plugins: int = 0


class UpgradeData(msgspec.Struct, kw_only=True):
    """An upgrade of plugind in place: `under way` until another plugind runs, or the old one goes on."""

    upgrade_id: str
    result: Literal["under way", "done", "failed"]
    old_version: str
    new_version: str | None = None
    began_at: str
    seconds: float | None = None
    """For how long requests had to wait."""
    error: str | None = None


class HoldData(msgspec.Struct, kw_only=True):
    """A hold: no reload, apply or pin write in this namespace and below it until it is released."""

    namespace: str
    why: str
    who: str
    since: str


class NodeStatus(msgspec.Struct, kw_only=True):
    node: str
    version: str
    pid: int
    started_at: str
    catalog: CatalogState
    counts: dict[str, int]
    """Mounts by state."""
    uses: dict[str, str]
    """What was found and is used: cgroups, systemd, etcd, inotify."""
    warnings: list[str] = []
    holds: list[HoldData] = []
    upgrade: UpgradeData | None = None
    """The last one, of this process."""


class PlanRow(msgspec.Struct, kw_only=True):
    namespace: str
    mount: str
    plugin: str
    action: Literal["start", "stop", "replace", "settings", "keep"]
    running_version: str | None = None
    wanted_version: str | None = None
    has_own_version: bool = False
    changed: list[str] = []


class PlanData(msgspec.Struct, kw_only=True):
    mounts: list[PlanRow]
    catalog: CatalogState
    holds: list[HoldData] = []
    """Those that would refuse an apply, or a part of it."""


class PinData(msgspec.Struct, kw_only=True):
    type: str
    name: str
    version: str | None


class VersionRow(msgspec.Struct, kw_only=True):
    """A version of a plugin in the catalog. The values of `env` are shown nowhere."""

    type: str
    name: str
    version: str
    pinned: bool
    command: str
    args: list[str]
    env: list[str]
    sha256: str
    mounts: int


class TransitionRow(msgspec.Struct, kw_only=True):
    """One step in a mount's life: `event` took it from `before` to `after`."""

    id: int
    at: str
    namespace: str
    mount: str
    event: str
    before: str
    after: str
    version: str | None = None
    instance: str | None = None
    pid: int | None = None
    reason: str | None = None
    reload_ids: list[str] = []
    """Reloads and applies that it answered: their ids are known to `history`."""
    commands: list[str] = []
    """What else it answered: start, stop, restart, shutdown."""
