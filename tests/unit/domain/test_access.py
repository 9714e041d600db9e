import pytest

from supervisor.domain.access import Caller, Verb, may
from supervisor.domain.catalog import AccessRule
from supervisor.domain.names import ROOT, Namespace

TEAM, DEV, OTHER = Namespace(("team-a",)), Namespace(("team-a", "dev")), Namespace(("team-b",))
SOMEBODY = Caller(uid=1000, gid=100)


def test_root_and_the_daemons_own_user_may_all() -> None:
    assert may(Caller(trusted=True), "admin", ROOT, ())


def test_without_a_rule_nobody_else_may_anything() -> None:
    assert not may(SOMEBODY, "read", ROOT, ())
    assert not may(Caller(), "read", ROOT, (AccessRule(uid=0), AccessRule(), AccessRule(token_sha256="aa")))  # noqa: S106


@pytest.mark.parametrize(
    ("rule", "caller"),
    [
        (AccessRule(uid=1000), SOMEBODY),
        (AccessRule(gid=100), SOMEBODY),
        (AccessRule(token_sha256="aa"), Caller(token_sha256="aa")),  # noqa: S106
        (AccessRule(common_name="ci"), Caller(common_name="ci")),
    ],
)
def test_a_rule_names_its_caller_and_no_other(rule: AccessRule, caller: Caller) -> None:
    stranger = Caller(uid=1, gid=1, token_sha256="bb", common_name="other")  # noqa: S106

    assert may(caller, "read", ROOT, (rule,))
    assert not may(stranger, "read", ROOT, (rule,))
    assert not may(Caller(), "read", ROOT, (rule,))


def test_a_rule_without_a_name_names_nobody() -> None:
    assert not may(SOMEBODY, "read", ROOT, (AccessRule(),))
    assert not may(Caller(common_name=None), "read", ROOT, (AccessRule(),))


@pytest.mark.parametrize("granted", ["read", "reload", "admin"])
@pytest.mark.parametrize("asked", ["read", "reload", "admin"])
def test_each_verb_holds_the_ones_before_it(granted: Verb, asked: Verb) -> None:
    order = ("read", "reload", "admin")
    rule = AccessRule(uid=1000, may=granted)

    assert may(SOMEBODY, asked, ROOT, (rule,)) is (order.index(asked) <= order.index(granted))


@pytest.mark.parametrize(
    ("namespaces", "reached"),
    [
        ((), {ROOT, TEAM, DEV, OTHER}),
        ((ROOT,), {ROOT, TEAM, DEV, OTHER}),
        ((TEAM,), {TEAM, DEV}),
        ((DEV, OTHER), {DEV, OTHER}),
    ],
)
def test_a_namespace_covers_its_children_and_nothing_beside_it(
    namespaces: tuple[Namespace, ...], reached: set[Namespace]
) -> None:
    rule = AccessRule(uid=1000, namespaces=namespaces)

    assert {each for each in (ROOT, TEAM, DEV, OTHER) if may(SOMEBODY, "read", each, (rule,))} == reached


def test_one_rule_that_fits_is_enough_and_they_do_not_add_up() -> None:
    rules = (AccessRule(uid=1000, may="admin", namespaces=(OTHER,)), AccessRule(gid=100, namespaces=(TEAM,)))

    assert may(SOMEBODY, "read", DEV, rules)
    assert not may(SOMEBODY, "reload", DEV, rules)
