"""What a hold freezes: a namespace and those below it, and what is told to whoever is refused."""

import pytest

from supervisor.domain.catalog import Catalog, Launch, MountSpec, Policies
from supervisor.domain.errors import BadRequest, Conflict, Held, NotFound
from supervisor.domain.holds import Hold, added, followers, over, refuse, released, seen_from, why_not
from supervisor.domain.names import ROOT, MountKey, Namespace, PluginRef

TEAM = Namespace(("team-a",))
DEV = Namespace(("team-a", "dev"))
OTHER = Namespace(("team-b",))
SINCE = "2026-01-31T12:00:00Z"
MOCK = PluginRef("auth", "mock")


def a_hold(namespace: Namespace, why: str = "release 1.4") -> Hold:
    return Hold(namespace, why, "uid 7", SINCE)


def holds(*namespaces: Namespace) -> dict[Namespace, Hold]:
    return {namespace: a_hold(namespace) for namespace in namespaces}


@pytest.mark.parametrize(
    ("held", "namespace", "by"),
    [
        ((), TEAM, None),
        ((TEAM,), TEAM, TEAM),
        ((TEAM,), DEV, TEAM),
        ((TEAM,), OTHER, None),
        ((TEAM,), ROOT, None),
        ((TEAM,), Namespace(("team-a2",)), None),
        ((ROOT,), ROOT, ROOT),
        ((ROOT,), DEV, ROOT),
        ((ROOT, TEAM), DEV, TEAM),
        ((TEAM, DEV), DEV, DEV),
        ((DEV,), TEAM, None),
    ],
)
def test_a_namespace_is_frozen_by_its_own_hold_or_the_nearest_above(
    held: tuple[Namespace, ...], namespace: Namespace, by: Namespace | None
) -> None:
    found = over(holds(*held), namespace)

    assert (found.namespace if found else None) == by
    assert (why_not(holds(*held), MountKey(namespace, "kv")) is None) == (by is None)


def test_a_refusal_says_which_why_since_when_by_whom_and_how_it_ends() -> None:
    with pytest.raises(Held) as refused:
        refuse(holds(TEAM), "reload", [ROOT, DEV, TEAM], " (or less)")

    assert str(refused.value) == (
        "cannot reload: team-a is held since 2026-01-31T12:00:00Z by uid 7: release 1.4; "
        "to end it: pluginctl hold --release -n team-a (or less)"
    )


def test_a_refusal_names_every_hold_that_is_in_the_way_once() -> None:
    with pytest.raises(Held) as refused:
        refuse(holds(TEAM, OTHER, DEV), "apply", [OTHER, DEV, DEV, Namespace(("team-a", "qa"))])

    text = str(refused.value)
    assert [text.count(f"{place} is held") for place in (TEAM, DEV, OTHER)] == [1, 1, 1]


def test_a_refusal_of_very_many_is_of_bounded_size() -> None:
    many = [Namespace((f"team-{number}",)) for number in range(5000)]

    with pytest.raises(Held) as refused:
        refuse(holds(*many), "apply", many)

    assert str(refused.value).count("is held since") == 20
    assert "and 4980 more" in str(refused.value)


def test_nothing_is_refused_where_nothing_is_held() -> None:
    refuse(holds(OTHER), "reload", [ROOT, TEAM])
    refuse({}, "reload", [ROOT])


def test_a_namespace_is_shown_what_freezes_it_and_what_is_held_below_it() -> None:
    all_of_them = holds(DEV, OTHER, TEAM, ROOT)

    def seen(namespace: Namespace) -> list[Namespace]:
        return [hold.namespace for hold in seen_from(all_of_them, namespace)]

    assert seen(ROOT) == [ROOT, TEAM, DEV, OTHER]
    assert seen(TEAM) == [ROOT, TEAM, DEV]
    assert seen(OTHER) == [ROOT, OTHER]


@pytest.mark.parametrize("why", ["", "  ", "two\nlines", "esc \x1b[2J", "x" * 501])
def test_a_hold_says_why_in_one_line(why: str) -> None:
    with pytest.raises(BadRequest, match="say why"):
        added({}, a_hold(TEAM, why))


def test_a_second_hold_of_a_namespace_is_refused_and_one_below_is_not() -> None:
    first = added({}, a_hold(TEAM))

    with pytest.raises(Conflict, match=r"team-a is held since .* by uid 7: release 1.4"):
        added(first, a_hold(TEAM, "mine too"))
    assert set(added(first, a_hold(DEV))) == {TEAM, DEV}


def test_a_release_ends_that_one_hold() -> None:
    left, ended = released(holds(TEAM, ROOT), TEAM)

    assert (set(left), ended.namespace) == ({ROOT}, TEAM)


def test_a_release_of_what_has_no_hold_names_the_one_above() -> None:
    with pytest.raises(NotFound, match=r"team-a is held since .*--release -n team-a"):
        released(holds(TEAM), DEV)
    with pytest.raises(NotFound, match="it is not held"):
        released(holds(TEAM), OTHER)


def test_a_change_of_a_pin_concerns_who_follows_it_and_of_a_plugin_who_mounts_it() -> None:
    def spec(namespace: Namespace, ref: PluginRef, *, own: bool = False) -> MountSpec:
        launch = Launch(ref, "v1", "/bin/true")
        return MountSpec(MountKey(namespace, "auth/x"), launch, Policies(), has_own_version=own)

    specs = [spec(TEAM, MOCK), spec(DEV, MOCK, own=True), spec(OTHER, PluginRef("auth", "else"))]
    catalog = Catalog({}, {one.key: one for one in specs}, frozenset())

    assert followers(catalog, MOCK, of_pin=True) == {ROOT, TEAM}
    assert followers(catalog, MOCK, of_pin=False) == {ROOT, TEAM, DEV}
