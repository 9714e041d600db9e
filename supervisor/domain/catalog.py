"""The catalog in force as frozen values: everything is resolved, defaults are merged.

`files/load.py` makes these from text; nothing here reads a file. A `Launch` is exactly what a
process is made of: two equal launches need no replacement. Everything else is `Policies`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from supervisor.domain.names import MountKey, Namespace, PluginRef, Seconds

ReadyKind = Literal["exec", "notify", "handshake", "http", "tcp", "unix", "command"]


class Mark(msgspec.Struct, frozen=True, order=True, gc=False):
    """A place in a file, for messages. Lines and columns count from 1."""

    file: str = ""
    line: int = 0
    column: int = 0


class FromFile(msgspec.Struct, frozen=True):
    """An environment value that is read from a file at each start and never shown."""

    path: str


EnvValue = str | FromFile


class Identity(msgspec.Struct, frozen=True, cache_hash=True):
    """Which file it is and that nobody wrote to it since: stat(2) fields, times in nanoseconds."""

    device: int
    inode: int
    size: int
    mtime: int
    ctime: int


class Admitted(msgspec.Struct, frozen=True):
    """The file that an instance is about to run."""

    identity: Identity
    descriptor: int | None = None
    """It, open, where its path does not lead to it any more."""
    why: str = ""
    """What is wrong with what stands at the path."""


class Limits(msgspec.Struct, frozen=True):
    """What an instance may use at most; None is not limited by plugind. Sizes in bytes."""

    nofile: int | None = None
    nproc: int | None = None
    core: int | None = None
    memory: int | None = None
    cpu: float | None = None
    """Cores: 1.5 is one and a half."""
    pids: int | None = None
    nice: int | None = None
    """None is 0, whatever plugind's own is; the same with `oom_score_adj`."""
    oom_score_adj: int | None = None


class Listener(msgspec.Struct, frozen=True):
    """A listening socket that plugind holds open over reloads."""

    kind: Literal["stream", "datagram"]
    address: str
    """As `addresses.parsed` reads it."""
    name: str
    """In LISTEN_FDNAMES."""
    mode: int | None = None
    """Of a Unix socket's file; None is 0666, as for systemd."""
    backlog: int | None = None
    """None is as many as the kernel allows."""

    @property
    def shown(self) -> str:
        return self.address if self.kind == "stream" else f"{self.kind} {self.address}"


class Launch(msgspec.Struct, frozen=True, cache_hash=True):
    """What a process is made of. `command` is absolute; `sha256` is lower-case hex, None where optional."""

    plugin: PluginRef
    version: str
    command: str
    sha256: str | None = None
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, EnvValue], ...] = ()
    """Sorted by name."""
    cwd: str = "/"
    user: str | None = None
    group: str | None = None
    groups: tuple[str, ...] | None = None
    """The supplementary ones; None are those of `user`, or plugind's own."""
    umask: int = 0o022
    limits: Limits = Limits()
    listen: tuple[Listener, ...] = ()


@dataclass(frozen=True, slots=True)
class Probe:
    """How an instance is found to be ready. Which fields a kind uses: `files/load.py`, `host/probes/`."""

    kind: ReadyKind = "exec"
    timeout: Seconds = 10.0
    settle: Seconds = 0.0
    address: str | None = None
    """`http`: a URL; `tcp`: host:port; `unix`: a path. May name $TMPDIR."""
    command: tuple[str, ...] = ()
    interval: Seconds = 0.1


@dataclass(frozen=True, slots=True)
class Liveness:
    """A probe that is repeated while the instance is ready."""

    probe: Probe
    interval: Seconds = 10.0
    failures: int = 3


@dataclass(frozen=True, slots=True)
class StopPolicy:
    signal: int = 15
    timeout: Seconds = 5.0
    command: tuple[str, ...] = ()
    """Runs first, e.g. to leave a load balancer; its time counts as part of `timeout`."""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    policy: Literal["always", "on-failure", "never"] = "always"
    backoff: Seconds = 0.1
    max_backoff: Seconds = 30.0
    burst: int = 5
    within: Seconds = 60.0


@dataclass(frozen=True, slots=True)
class RestartRate:
    """Restarts after crashes of all mounts together: so many at once, then so many a second."""

    per_second: float = 50.0
    burst: int = 100


@dataclass(frozen=True, slots=True)
class ReloadPolicy:
    rollback: bool = True
    order: Literal["stop_first", "start_first"] = "stop_first"
    watch: Seconds = 10.0


@dataclass(frozen=True, slots=True)
class Policies:
    """How an instance is treated. A change takes effect at once and replaces no process."""

    ready: Probe = Probe()
    liveness: Liveness | None = None
    stop: StopPolicy = StopPolicy()
    restart: RestartPolicy = RestartPolicy()
    reload: ReloadPolicy = ReloadPolicy()


@dataclass(frozen=True, slots=True)
class Version:
    """A runnable build of a plugin, as the catalog lists it (without what a mount adds)."""

    launch: Launch
    policies: Policies
    mark: Mark = field(default=Mark(), compare=False)


@dataclass(frozen=True, slots=True)
class Plugin:
    ref: PluginRef
    pin: str | None
    versions: Mapping[str, Version]
    mark: Mark = field(default=Mark(), compare=False)


@dataclass(frozen=True, slots=True)
class MountSpec:
    """What a mount should run. `launch` is the pinned one unless the mount has its own version."""

    key: MountKey
    launch: Launch
    policies: Policies
    has_own_version: bool = False
    mark: Mark = field(default=Mark(), compare=False)

    @property
    def plugin(self) -> PluginRef:
        return self.launch.plugin


@dataclass(frozen=True, slots=True)
class Catalog:
    """One whole catalog. `namespaces` holds the declared ones and their parents, root included."""

    plugins: Mapping[PluginRef, Plugin]
    mounts: Mapping[MountKey, MountSpec]
    namespaces: frozenset[Namespace]

    def policies_of(self, key: MountKey, launch: Launch) -> Policies:
        """How an instance of `launch` is treated: by what its version says, also where another one is pinned.

        What the mount itself says is known for the version only that it asks for.
        """
        spec, plugin = self.mounts.get(key), self.plugins.get(launch.plugin)
        is_asked_for = spec is not None and spec.launch.version == launch.version
        version = plugin.versions.get(launch.version) if plugin is not None and not is_asked_for else None
        if version is not None:
            return version.policies
        return spec.policies if spec is not None else Policies()

    def mounts_of(self, plugin: PluginRef) -> Iterator[MountSpec]:
        return (spec for spec in self.mounts.values() if spec.plugin == plugin)


EMPTY = Catalog({}, {}, frozenset({Namespace()}))


@dataclass(frozen=True, slots=True)
class AccessRule:
    """One entry of `access`: who, where, what. Exactly one of the four names of a caller is set."""

    uid: int | None = None
    gid: int | None = None
    token_sha256: str | None = None
    common_name: str | None = None
    namespaces: tuple[Namespace, ...] = ()
    may: Literal["read", "reload", "admin"] = "read"


@dataclass(frozen=True, slots=True)
class Socket:
    path: str
    mode: int = 0o660
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Tls:
    cert: str
    key: str
    client_ca: str | None = None


@dataclass(frozen=True, slots=True)
class Tcp:
    address: str
    tls: Tls | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    name: str
    etcd: tuple[str, ...]
    ca: str | None = None
    cert: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class LogPolicy:
    max_size: int = 16 << 20
    keep: int = 4


@dataclass(frozen=True, slots=True)
class Settings:
    """plugind.yaml, resolved. Its `defaults` go to the loader of the catalog, below plugins."""

    catalog: str
    node: str
    socket: Socket
    runtime_dir: str
    state_dir: str
    log_dir: str
    tcp: Tcp | None = None
    logs: LogPolicy = LogPolicy()
    restarts: RestartRate = RestartRate()
    cgroups: Literal["auto", "off"] = "auto"
    access: tuple[AccessRule, ...] = ()
    cluster: Cluster | None = None
