"""plugind.yaml to `Settings` and the `Defaults` of the catalog; where things lie when it says nothing."""

import os
import re
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from supervisor.domain.catalog import AccessRule, Cluster, LogPolicy, RestartRate, Settings, Socket, Tcp, Tls
from supervisor.domain.errors import BadRequest, CatalogInvalid, Fault
from supervisor.domain.names import NAME_RULE, Namespace, is_name, shortened
from supervisor.files import fields as f
from supervisor.files import values as v
from supervisor.files.faults import Faults, Page, TooManyFaults
from supervisor.files.layers import NO_DEFAULTS, SETTINGS, Defaults
from supervisor.files.listeners import LONGEST_SOCKET_PATH, socket_path
from supervisor.files.sources import Unreadable, read_whole
from supervisor.files.yaml import Node, Sequence, is_empty, read_tree

_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_LOOPBACK: Final = re.compile(r"(?:127(?:\.\d{1,3}){3}|localhost|\[::1\]):\d+", re.ASCII)
_CALLERS: Final = ("uid", "gid", "token_sha256", "common_name")
_HIGHEST_ID: Final = (1 << 32) - 2


@dataclass(frozen=True, slots=True)
class Places:
    """Where plugind's files lie unless plugind.yaml says otherwise."""

    config: Path
    runtime: Path
    state: Path
    logs: Path

    @classmethod
    def of(cls, uid: int, environment: MappingType[str, str]) -> "Places":
        """The places of root, or those of the XDG base directories."""
        if uid == 0:
            return cls(
                Path("/etc/plugind"), Path("/run/plugind"), Path("/var/lib/plugind"), Path("/var/log/plugind")
            )
        home = Path(environment.get("HOME") or "/")
        config = _xdg(environment, "XDG_CONFIG_HOME") or home / ".config"
        state = (_xdg(environment, "XDG_STATE_HOME") or home / ".local/state") / "plugind"
        runtime = _xdg(environment, "XDG_RUNTIME_DIR")
        # never below /tmp: anybody could have made the folder first
        return cls(
            config / "plugind", runtime / "plugind" if runtime else state / "run", state, state / "log"
        )


def _xdg(environment: MappingType[str, str], name: str) -> Path | None:
    value = Path(environment.get(name, ""))
    return value if value.is_absolute() else None


def load_settings(path: Path | None = None) -> tuple[Settings, Defaults]:
    """What plugind.yaml says, `path` or the one at its usual place; that one may be missing.

    Raises:
        CatalogInvalid: With every fault of the file.
    """
    places = Places.of(os.geteuid(), os.environ)
    file = path.absolute() if path is not None else places.config / "plugind.yaml"
    try:
        data = read_whole(file)
    except Unreadable as error:
        if path is None and not os.path.lexists(file):
            return parse_settings(file, "", places)
        raise CatalogInvalid([Fault(str(file), 0, 0, str(error))]) from error
    return parse_settings(file, data, places)


def parse_settings(file: Path, data: str | bytes, places: Places) -> tuple[Settings, Defaults]:
    """What `data`, the content of `file`, says.

    Raises:
        CatalogInvalid: With every fault.
    """
    faults = Faults()
    try:
        settings = _parsed(Page(str(file), str(file.parent), faults), data, places)
    except TooManyFaults:
        faults.raise_any()
        raise
    faults.raise_any()
    return settings


def _parsed(page: Page, data: str | bytes, places: Places) -> tuple[Settings, Defaults]:
    root = read_tree(page, data)
    values: dict[str, Any] = {}
    if root is not None and not is_empty(root):
        values = f.read(page, root, f.section("plugind.yaml", _TOP)) or {}
    settings = _settings(values, Path(page.folder), places)
    if len(settings.socket.path.encode()) > LONGEST_SOCKET_PATH and "path" not in values.get("socket", {}):
        why = f"{settings.socket.path} is longer than {LONGEST_SOCKET_PATH} bytes: set socket: {{path: ...}}"
        page.faults.add(Fault(page.file, 0, 0, why))
    return settings, values.get("defaults", NO_DEFAULTS)


def _settings(values: dict[str, Any], folder: Path, places: Places) -> Settings:
    runtime = values.get("runtime_dir", str(places.runtime))
    return Settings(
        catalog=values.get("catalog", str(folder / "catalog.yaml")),
        node=values.get("node", _host_name()),
        socket=Socket(**{"path": str(Path(runtime, "control.sock")), **values.get("socket", {})}),
        runtime_dir=runtime,
        state_dir=values.get("state_dir", str(places.state)),
        log_dir=values.get("log_dir", str(places.logs)),
        tcp=values.get("tcp"),
        logs=LogPolicy(**values.get("logs", {})),
        restarts=RestartRate(**values.get("restarts", {})),
        cgroups=values.get("cgroups", "auto"),
        access=values.get("access", ()),
        cluster=values.get("cluster"),
    )


def _host_name() -> str:
    name = re.sub(r"[^a-zA-Z0-9._-]", "-", os.uname().nodename)[:64].lstrip(".-")
    return name or "node"


# ---- readers


def _name(page: Page, node: Node) -> str:
    value = f.text(page, node)
    if not is_name(value):
        raise f.Wrong(f'"{shortened(value)}" is no name: write {NAME_RULE}')
    return value


def _needed(page: Page, node: Node, values: dict[str, Any], keys: tuple[str, ...]) -> None:
    f.missing(page, f.mapping(node, "this"), keys)
    if any(key not in values for key in keys):
        raise f.Reported


def _tls(page: Page, node: Node) -> Tls:
    values = f.fields(page, node, "tls", {"cert": v.path, "key": v.path, "client_ca": f.optional(v.path)})
    _needed(page, node, values, ("cert", "key"))
    return Tls(**values)


def _tcp(page: Page, node: Node) -> Tcp:
    values = f.fields(page, node, "tcp", {"address": v.address, "tls": f.optional(_tls)})
    _needed(page, node, values, ("address",))
    if f.child(node, "tls") is None and not _LOOPBACK.fullmatch(values["address"]):
        raise f.Wrong(f'{values["address"]} is not loopback: "tls" is needed', f.child(node, "address"))
    return Tcp(**values)


def _sha256(page: Page, node: Node) -> str:
    value = f.text(page, node)
    if not _SHA256.fullmatch(value):
        raise f.Wrong("must be the 64 hex digits of a SHA-256")
    return value.lower()


def _namespace(page: Page, node: Node) -> Namespace:
    value = f.text(page, node)
    try:
        return Namespace.parse(value)
    except BadRequest as error:
        raise f.Wrong(f'"{shortened(value)}" cannot be a namespace: each part is {NAME_RULE}') from error


_RULE: Final[f.Table] = {
    "uid": v.integer(0, _HIGHEST_ID),
    "gid": v.integer(0, _HIGHEST_ID),
    "token_sha256": _sha256,
    "common_name": v.argument,
    "namespaces": f.many(_namespace),
    "may": v.choice("read", "reload", "admin"),
}


def _rule(page: Page, node: Node) -> AccessRule:
    values = f.fields(page, node, "a rule", _RULE)
    body = f.mapping(node, "a rule")
    who = [key.text for key, _ in body.entries if key.text in _CALLERS]
    if len(who) != 1:
        raise f.Wrong(f"a rule needs one of {', '.join(_CALLERS)}")
    _needed(page, node, values, (who[0], "namespaces", "may"))
    return AccessRule(**values)


def _etcd(page: Page, node: Node) -> str:
    value = f.text(page, node)
    if not re.fullmatch(r"https?://[^\s/@?#]+/?", value):
        raise f.Wrong(f'"{shortened(value)}" is no URL of etcd: write http://127.0.0.1:2379')
    return value


def _cluster(page: Page, node: Node) -> Cluster:
    tls = f.section("tls", dict.fromkeys(("ca", "cert", "key"), f.optional(v.path)))
    values = f.fields(page, node, "cluster", {"name": _name, "etcd": f.many(_etcd), "tls": f.optional(tls)})
    _needed(page, node, values, ("name", "etcd"))
    urls = f.child(node, "etcd")
    if isinstance(urls, Sequence) and not urls.items:
        raise f.Wrong("etcd: must list at least one URL", urls)
    return Cluster(values["name"], values["etcd"], **(values.get("tls") or {}))


def _defaults(page: Page, node: Node) -> Defaults:
    table: f.Table = {**SETTINGS, "sha256": v.choice("optional", "required")}
    values = f.fields(page, node, "defaults", table)
    return Defaults(
        {key: value for key, value in values.items() if key != "sha256"}, values.get("sha256") == "optional"
    )


_TOP: Final[f.Table] = {
    "catalog": v.path,
    "node": _name,
    "socket": f.section("socket", {"path": socket_path, "mode": v.mode, "group": f.optional(v.account)}),
    "tcp": f.optional(_tcp),
    "runtime_dir": v.path,
    "state_dir": v.path,
    "log_dir": v.path,
    "logs": f.section("logs", {"max_size": v.size, "keep": v.integer(0, 10_000)}),
    "restarts": f.section("restarts", {"per_second": v.number, "burst": v.integer(1, 100_000)}),
    "cgroups": v.choice("auto", "off"),
    "defaults": _defaults,
    "access": f.many(_rule),
    "cluster": f.optional(_cluster),
}
