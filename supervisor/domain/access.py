"""Who may do what where: one pure function over the caller and the rules of plugind.yaml."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from supervisor.domain.catalog import AccessRule
from supervisor.domain.names import ROOT, Namespace

Verb = Literal["read", "reload", "admin"]
_REACH: dict[str, int] = {"read": 0, "reload": 1, "admin": 2}


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request, as the kernel or TLS says: credentials are those at connect time.

    `trusted` is root or the daemon's own uid on the Unix socket: these may do everything.
    """

    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    token_sha256: str | None = None
    common_name: str | None = None
    trusted: bool = False
    name: str = ""
    """For people: `uid 1000 (pluginctl)`, `token 9f86d081`."""


def may(caller: Caller, verb: Verb, namespace: Namespace, rules: Iterable[AccessRule]) -> bool:
    """Whether a rule lets `caller` do `verb` in `namespace`; a rule's namespaces cover their children."""
    if caller.trusted:
        return True
    return any(
        _names(rule, caller)
        and _REACH[rule.may] >= _REACH[verb]
        and any(own.covers(namespace) for own in rule.namespaces or (ROOT,))
        for rule in rules
    )


def _names(rule: AccessRule, caller: Caller) -> bool:
    if rule.uid is not None:
        return caller.uid == rule.uid
    if rule.gid is not None:
        return caller.gid == rule.gid
    if rule.token_sha256 is not None:
        return caller.token_sha256 == rule.token_sha256
    return rule.common_name is not None and caller.common_name == rule.common_name
