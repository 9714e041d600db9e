"""Which holds freeze what. A hold keeps a namespace and those below it as they are, until it is released.

What a hold refuses is refused by who carries it out; what starts under one, by `mount.launch_to_start`.
"""

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

import msgspec

from supervisor.domain.catalog import Catalog
from supervisor.domain.errors import BadRequest, Conflict, Held, NotFound
from supervisor.domain.names import MountKey, Namespace, PluginRef

LONGEST_WHY: Final = 500
_MOST_SHOWN: Final = 20


class Hold(msgspec.Struct, frozen=True):
    namespace: Namespace
    """With all below it: a hold of the root namespace is one of everything."""
    why: str
    who: str
    since: str
    """RFC 3339, for people."""

    def __str__(self) -> str:
        return f"{self.namespace} is held since {self.since} by {self.who}: {self.why}"

    @property
    def remedy(self) -> str:
        place = "" if self.namespace.is_root else f" -n {self.namespace}"
        return f"pluginctl hold --release{place}"


Holds: TypeAlias = Mapping[Namespace, Hold]


def over(holds: Holds, namespace: Namespace) -> Hold | None:
    """The hold that freezes a namespace: its own, else that of the nearest above it."""
    for length in range(len(namespace.parts), -1, -1):
        hold = holds.get(Namespace(namespace.parts[:length]))
        if hold is not None:
            return hold
    return None


def seen_from(holds: Holds, namespace: Namespace) -> tuple[Hold, ...]:
    """Those that freeze a namespace, and those of the namespaces below it, in a stable order."""
    return tuple(
        hold for place, hold in sorted(holds.items()) if namespace.covers(place) or place.covers(namespace)
    )


def refuse(holds: Holds, verb: str, places: Iterable[Namespace], way_out: str = "") -> None:
    """Return if nothing of `places` is held.

    Args:
        holds: Those in force.
        verb: What was asked for: `reload`, `pin auth/mock-plugin`.
        places: The namespaces that it would change something in.
        way_out: What else can be asked for instead of a release.

    Raises:
        Held: With every hold that is in the way.
    """
    found = {hold.namespace: hold for place in places if (hold := over(holds, place)) is not None}
    if not found:
        return
    told = [f"{hold}; to end it: {hold.remedy}" for _, hold in sorted(found.items())]
    if len(told) > _MOST_SHOWN:
        told[_MOST_SHOWN:] = [f"and {len(found) - _MOST_SHOWN} more: see pluginctl hold"]
    lines = told[0] if len(told) == 1 else "".join(f"\n\t* {line}" for line in told)
    raise Held(f"cannot {verb}: {lines}{way_out}")


def followers(catalog: Catalog, ref: PluginRef, *, of_pin: bool) -> set[Namespace]:
    """The namespaces that a change of a plugin concerns; a change of its pin, those that follow the pin.

    Who holds everything holds the root namespace, which a change of any plugin concerns.
    """
    mounts = (spec for spec in catalog.mounts_of(ref) if not (of_pin and spec.has_own_version))
    return {Namespace(), *(spec.key.namespace for spec in mounts)}


def added(holds: Holds, hold: Hold) -> dict[Namespace, Hold]:
    """All with one more.

    Raises:
        BadRequest: It does not say why, in one line.
        Conflict: The namespace has one: whoever set it would not know that another one relies on it.
    """
    if not hold.why.strip() or not hold.why.isprintable() or len(hold.why) > LONGEST_WHY:
        raise BadRequest(
            f"cannot hold {hold.namespace}: say why, in one line of at most {LONGEST_WHY} characters"
        )
    there = holds.get(hold.namespace)
    if there is not None:
        raise Conflict(f"cannot hold {hold.namespace}: {there}; to end that one: {there.remedy}")
    return {**holds, hold.namespace: hold}


def released(holds: Holds, namespace: Namespace) -> tuple[dict[Namespace, Hold], Hold]:
    """All but that of `namespace`, and that.

    Raises:
        NotFound: It has none; one of a namespace above it is ended there.
    """
    left = dict(holds)
    ended = left.pop(namespace, None)
    if ended is not None:
        return left, ended
    above = over(holds, namespace)
    if above is None:
        raise NotFound(f"cannot release {namespace}: it is not held")
    raise NotFound(f"cannot release {namespace} by itself: {above}; to end that: {above.remedy}")


def why_not(holds: Holds, key: MountKey) -> str | None:
    """Why nothing is done with a mount now, for its row of a report."""
    hold = over(holds, key.namespace)
    return None if hold is None else str(hold)
