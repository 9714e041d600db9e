A_HOLD = {
    "namespace": "team-a",
    "why": "release \x1b[2J1.4",
    "who": "uid 7 (pluginctl)",
    "since": "2026-01-31T12:00:00Z",
}
HELD = r"held: team-a since 2026-01-31 12:00:00 by uid 7 (pluginctl): release \x1b[2J1.4"


def test_a_hold_is_set_in_the_namespace_and_says_how_it_ends(daemon, pluginctl) -> None:
    daemon.answer("PUT supervisor/hold", A_HOLD)

    outcome = pluginctl("hold", "-n", "team-a", "--why", "release 1.4")

    assert outcome.out == "held: team-a and what is below it, until pluginctl hold --release -n team-a\n"
    assert daemon.asked[0].headers["X-Vault-Namespace"] == "team-a"
    assert daemon.asked[0].body == {"why": "release 1.4"}


def test_from_root_everything_is_held(daemon, pluginctl) -> None:
    daemon.answer("PUT supervisor/hold", {**A_HOLD, "namespace": "root"})

    assert pluginctl("hold", "--why", "x").out == "held: everything, until pluginctl hold --release\n"


def test_what_is_held_is_shown(daemon, pluginctl) -> None:
    daemon.answer("GET supervisor/hold", {"holds": [A_HOLD]})
    daemon.answer("GET supervisor/hold", {"holds": []})

    assert pluginctl("hold").out == (
        "NAMESPACE  SINCE                BY                 WHY\n"
        "team-a     2026-01-31 12:00:00  uid 7 (pluginctl)  release \\x1b[2J1.4\n"
    )
    assert pluginctl("hold").out == "nothing is held\n"


def test_a_release_says_what_it_ended(daemon, pluginctl) -> None:
    daemon.answer("DELETE supervisor/hold", A_HOLD)

    assert pluginctl("hold", "--release", "-n", "team-a").out == HELD.replace("held", "released", 1) + "\n"


def test_the_hold_of_a_namespace_that_is_no_more_is_released_from_root(daemon, pluginctl) -> None:
    daemon.answer("DELETE supervisor/hold", status=404, errors=["namespace not found"])
    daemon.answer("DELETE supervisor/hold?namespace=team-a%2Fdev", {**A_HOLD, "namespace": "team-a/dev"})

    outcome = pluginctl("hold", "--release", "-n", "team-a/dev")

    assert (outcome.status, outcome.out.startswith("released: team-a/dev since")) == (0, True)
    assert "X-Vault-Namespace" not in daemon.asked[1].headers


def test_a_release_of_what_is_not_held_is_refused(daemon, pluginctl) -> None:
    daemon.answer("DELETE supervisor/hold", status=404, errors=["cannot release team-a: it is not held"])

    outcome = pluginctl("hold", "--release", "-n", "team-a")

    assert (outcome.status, outcome.err) == (2, "pluginctl: cannot release team-a: it is not held\n")
    assert len(daemon.asked) == 1


def test_to_hold_and_to_release_at_once_is_wrong(daemon, pluginctl) -> None:
    assert pluginctl("hold", "--release", "--why", "x").status == 2
    assert daemon.asked == []


def test_status_and_plan_say_what_is_held(daemon, pluginctl) -> None:
    step = {"namespace": "team-a", "mount": "kv", "plugin": "secret/kv", "action": "replace"}
    daemon.answer("GET supervisor/plan", {"mounts": [step], "catalog": {}, "holds": [A_HOLD]})
    daemon.answer("GET supervisor/instances", {"instances": []})
    daemon.answer("GET supervisor/status", {"node": "host-a", "holds": [A_HOLD]})

    assert pluginctl("plan").out.splitlines()[-2:] == ["1 replace: and something is held", HELD]
    assert pluginctl("status").out == f"host-a: 0 mounts\n{HELD}\n"
