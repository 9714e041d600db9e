"""Each rule of a mount's life as one short story. Any order of events: tests/property/."""

from typing import get_args

import pytest
from msgspec.structs import replace

from supervisor import wire
from supervisor.domain import errors, lifecycle
from supervisor.domain.catalog import (
    Launch,
    MountSpec,
    Policies,
    Probe,
    ReloadPolicy,
    RestartPolicy,
    StopPolicy,
)
from supervisor.domain.events import (
    EVENTS,
    Action,
    Adopted,
    Answer,
    BecameReady,
    ClearTimer,
    Configure,
    Event,
    Exited,
    Instance,
    KillTree,
    Outcome,
    Paced,
    ProbeFailed,
    Reload,
    RunStopCommand,
    SetTimer,
    SignalMain,
    Spawn,
    Spawned,
    SpawnFailed,
    Start,
    Stop,
    StopCommandDone,
    TakeAsReady,
    TimerFired,
    TreeGone,
    TreeSurvived,
)
from supervisor.domain.lifecycle import INCOMING, OUTGOING, TABLE, transition
from supervisor.domain.memory import Remembered, StoppedBy
from supervisor.domain.mount import Mount, Phase, launch_to_start, remembering
from supervisor.domain.names import MountKey, Namespace, PluginRef, instance_id

KEY = MountKey(Namespace(("team-a",)), "auth/mock")
REF = PluginRef("auth", "mock-plugin")
V1, V2, V3 = (Launch(REF, f"v{number}", f"/bin/mock-{number}") for number in (1, 2, 3))
BY_HAND = StoppedBy("uid 0", 1.0)
DEFAULTS = Policies()
START_FIRST = Policies(reload=ReloadPolicy(order="start_first"))
BURST_OF_2 = Policies(restart=RestartPolicy(burst=2))

DONE, ROLLED_BACK, FAILED, SKIPPED = Outcome.DONE, Outcome.ROLLED_BACK, Outcome.FAILED, Outcome.SKIPPED


def drive(mount: Mount, *events: Event | tuple[float, Event]) -> tuple[Mount, list[Action]]:
    """All of `events` in turn; one may come with its instant, the others follow at once."""
    now, done = 100.0, []
    for each in events:
        now, event = each if isinstance(each, tuple) else (now, each)
        mount, actions = transition(mount, event, now)
        done += actions
    return mount, done


def at_rest(policies: Policies = DEFAULTS) -> Mount:
    return Mount(KEY, policies)


def ready(policies: Policies = DEFAULTS, running: Launch = V1) -> Mount:
    """A mount whose generation 1 is ready."""
    mount, _ = drive(at_rest(policies), Start(running), Spawned(1), BecameReady(1))
    return mount


def instance(generation: int, launch: Launch) -> Instance:
    return Instance(instance_id(KEY, generation), generation, launch)


def answers(actions: list[Action]) -> list[tuple[tuple[str, ...], Outcome, bool]]:
    return [(each.commands, each.outcome, each.amends) for each in actions if isinstance(each, Answer)]


def answer(actions: list[Action]) -> Answer:
    (only,) = [each for each in actions if isinstance(each, Answer)]
    return only


def spawned(actions: list[Action]) -> list[Launch]:
    return [each.instance.launch for each in actions if isinstance(each, Spawn)]


def backoff(mount: Mount, actions: list[Action], now: float) -> float:
    (when,) = [each.when for each in actions if isinstance(each, SetTimer) and each.name == "backoff"]
    assert mount.phase is Phase.BACKOFF
    return when - now


# --- start


def test_a_start_spawns_waits_for_readiness_and_is_answered_then() -> None:
    mount, actions = drive(at_rest(), Start(V1, "s"), Spawned(1), (103.0, BecameReady(1)))

    assert mount.phase is Phase.READY
    assert mount.good == V1
    assert Spawn(instance(1, V1)) in actions
    assert SetTimer("ready", 1, 110.0) in actions
    assert actions[-1] == Answer(("s",), DONE, new=instance(1, V1))


def test_a_start_of_what_runs_is_done_at_once() -> None:
    mount, actions = drive(ready(), Start(V2, "s"))

    assert mount.instance == instance(1, V1)
    assert answers(actions) == [(("s",), DONE, False)]


def test_a_start_while_one_is_under_way_is_answered_by_it() -> None:
    _, actions = drive(at_rest(), Start(V1, "s"), Start(V1, "t"), BecameReady(1))

    assert answers(actions) == [(("s", "t"), DONE, False)]


def test_a_start_joins_a_restart_after_a_crash() -> None:
    crashed, _ = drive(ready(), Exited(1, "exit 1"))
    joined, first = drive(crashed, Start(V1, "s"), TreeGone(1), BecameReady(2))
    in_time, _ = drive(crashed, TreeGone(1), (200.0, TimerFired("backoff", 1)))
    _, second = drive(in_time, Start(V1, "s"), BecameReady(2))

    assert joined.phase is Phase.READY
    assert answers(first) == answers(second) == [(("s",), DONE, False)]


@pytest.mark.parametrize(
    "failure", [Exited(1, "exit 1"), ProbeFailed(1, "bad line"), TimerFired("ready", 1), SpawnFailed(1, "x")]
)
def test_a_first_start_that_fails_is_answered_at_once_and_goes_on_in_backoff(failure: Event) -> None:
    mount, actions = drive(
        at_rest(), Start(V1, "s"), Spawned(1), failure, Exited(1, "signal 15"), TreeGone(1)
    )

    assert answers(actions) == [(("s",), FAILED, False)]
    assert mount.phase is Phase.BACKOFF
    assert mount.wanted == V1


def test_what_the_probe_saw_last_is_told() -> None:
    _, actions = drive(at_rest(), Start(V1, "s"), Spawned(1), TimerFired("ready", 1, "HTTP 503"))

    assert answer(actions).reason == "not ready in 10s: HTTP 503"


def test_another_timer_does_not_hurry_a_start() -> None:
    mount, _ = drive(at_rest(), Start(V1), Spawned(1))

    assert drive(mount, TimerFired("stop", 1)) == (mount, [])


# --- reload


def test_a_reload_ends_the_whole_tree_before_anything_starts() -> None:
    stopping, first = drive(ready(), Reload(V2, "r"), Exited(1, "signal 15"))
    replaced, then = drive(stopping, (102.0, TreeGone(1)), Spawned(2), (103.0, BecameReady(2)))

    assert not spawned(first)
    assert SignalMain(1, 15) in first
    assert spawned(then) == [V2]
    assert answer(then) == Answer(("r",), DONE, old=instance(1, V1), new=instance(2, V2), down=3.0)
    assert replaced.good == V1  # until reload.watch is over


def test_a_version_that_stays_up_for_reload_watch_is_the_good_one() -> None:
    mount, actions = drive(ready(), Reload(V2, "r"), Exited(1, "0"), TreeGone(1), BecameReady(2))
    proved, _ = drive(mount, (110.0, TimerFired("watch", 2)))

    assert SetTimer("watch", 2, 110.0) in actions
    assert proved.good == V2
    assert proved.watched is None
    assert drive(mount, TimerFired("ready", 2)) == (mount, [])


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ((Spawned(2), TimerFired("ready", 2), Exited(2, "x"), TreeGone(2)), "not ready in 10s"),
        ((Exited(2, "exit 1"), TreeGone(2)), "ended before it was ready: exit 1"),
        ((ProbeFailed(2, "bad line"), Exited(2, "x"), TreeGone(2)), "bad line"),
        ((SpawnFailed(2, "cannot run it"),), "cannot run it"),
    ],
)
def test_a_version_that_is_never_ready_is_rolled_back(failure: tuple[Event, ...], reason: str) -> None:
    mount, actions = drive(
        ready(), Reload(V2, "r"), Exited(1, "signal 15"), TreeGone(1), *failure, Spawned(3), BecameReady(3)
    )

    assert mount.instance == instance(3, V1)
    assert mount.good == V1
    assert mount.rolled_back_from == V2
    told = answer(actions)
    assert (told.commands, told.outcome, told.reason) == (("r",), ROLLED_BACK, reason)
    assert told.failed == instance(2, V2)
    assert told.new == instance(3, V1)


def test_a_version_that_dies_within_the_watch_is_rolled_back_and_the_answer_amended() -> None:
    mount, actions = drive(
        ready(), Reload(V2, "r"), Exited(1, "0"), TreeGone(1), BecameReady(2),
        (105.0, Exited(2, "exit 3")), TreeGone(2), BecameReady(3),
    )  # fmt: skip

    assert mount.instance == instance(3, V1)
    assert answers(actions) == [(("r",), DONE, False), (("r",), ROLLED_BACK, True)]
    assert mount.reason == "rolled back from v2: ended 5s after it was ready: exit 3"


def test_a_death_after_the_watch_is_a_plain_crash() -> None:
    mount, actions = drive(
        ready(), Reload(V2, "r"), Exited(1, "0"), TreeGone(1), BecameReady(2),
        (110.0, TimerFired("watch", 2)), (111.0, Exited(2, "exit 3")), TreeGone(2),
    )  # fmt: skip

    assert mount.phase is Phase.BACKOFF
    assert mount.wanted == V2
    assert len(answers(actions)) == 1


@pytest.mark.parametrize("policy", [ReloadPolicy(rollback=False), ReloadPolicy(watch=0.0)])
def test_without_rollback_or_watch_a_new_version_is_good_at_once(policy: ReloadPolicy) -> None:
    mount, _ = drive(ready(Policies(reload=policy)), Reload(V2), Exited(1, "0"), TreeGone(1), BecameReady(2))

    assert mount.good == V2
    assert mount.watched is None


def test_a_version_that_came_up_late_is_watched_too_where_rollback_was_switched_on_meanwhile() -> None:
    mount, _ = drive(
        ready(Policies(reload=ReloadPolicy(rollback=False))),
        Reload(V2), Exited(1, "0"), TreeGone(1), Exited(2, "exit 1"), TreeGone(2),
        (200.0, TimerFired("backoff", 2)), Configure(Policies()), Start(V2, "s"), BecameReady(3),
    )  # fmt: skip

    assert mount.running.launch == V2
    assert mount.watched is not None
    assert mount.watched.fallback == mount.good == V1


def test_without_rollback_a_bad_version_fails_and_is_tried_again() -> None:
    mount, actions = drive(
        ready(Policies(reload=ReloadPolicy(rollback=False))),
        Reload(V2, "r"), Exited(1, "0"), TreeGone(1), Exited(2, "exit 1"), TreeGone(2),
    )  # fmt: skip

    assert answers(actions) == [(("r",), FAILED, False)]
    assert mount.wanted == V2


def test_a_rollback_that_fails_too_is_told_with_both_reasons() -> None:
    mount, actions = drive(
        ready(Policies(restart=RestartPolicy(policy="never"))), Reload(V2, "r"), Exited(1, "0"), TreeGone(1),
        Exited(2, "exit 2"), TreeGone(2), Exited(3, "exit 3"), TreeGone(3),
    )  # fmt: skip

    assert mount.phase is Phase.FAILED
    told = answer(actions)
    assert told.outcome is FAILED
    assert told.reason == (
        "v2: ended before it was ready: exit 2; and back on v1: ended before it was ready: exit 3"
    )
    assert told.failed == instance(2, V2)


def test_a_crash_after_a_rollback_restarts_the_good_version() -> None:
    mount, _ = drive(ready(), Reload(V2), Exited(1, "0"), TreeGone(1), SpawnFailed(2, "no"), BecameReady(3))
    mount, actions = drive(mount, Exited(3, "signal 9"), TreeGone(3), (200.0, TimerFired("backoff", 3)))

    assert spawned(actions) == [V1]


def test_a_version_that_failed_before_it_proved_itself_gives_way_to_what_last_worked() -> None:
    """v2 is ready, v3 is asked for within the watch and fails: v2 comes back, still on probation."""
    on_v2, _ = drive(ready(), Reload(V2, "r"), Exited(1, "0"), TreeGone(1), BecameReady(2))
    back, first = drive(
        on_v2, Reload(V3, "q"), Exited(2, "0"), TreeGone(2), Exited(3, "exit 1"), TreeGone(3), BecameReady(4)
    )
    mount, then = drive(back, Exited(4, "exit 1"), TreeGone(4), BecameReady(5))

    assert back.instance == instance(4, V2)
    assert back.good == V1
    assert answers(first) == [(("q",), ROLLED_BACK, False)]
    assert mount.instance == instance(5, V1)
    assert mount.rolled_back_from == V3
    assert answers(then) == [(("q",), ROLLED_BACK, True)]


def test_an_unproved_version_that_does_not_come_back_gives_way_to_what_last_worked() -> None:
    on_v2, _ = drive(ready(), Reload(V2, "r"), Exited(1, "0"), TreeGone(1), BecameReady(2))
    mount, actions = drive(
        on_v2,
        Reload(V3, "q"),
        Exited(2, "0"),
        TreeGone(2),
        SpawnFailed(3, "no"),
        Exited(4, "exit 1"),
        TreeGone(4),
    )

    assert spawned(actions) == [V3, V2]
    assert answers(actions) == [(("q",), FAILED, False)]
    assert (mount.phase, mount.wanted) == (Phase.BACKOFF, V1)


def test_a_reload_of_what_runs_on_probation_falls_back_to_what_is_behind_it() -> None:
    on_v2, _ = drive(ready(), Reload(V2), Exited(1, "0"), TreeGone(1), BecameReady(2))
    mount, actions = drive(on_v2, Reload(V2, "q"), Exited(2, "0"), TreeGone(2), Exited(3, "1"), TreeGone(3))

    assert spawned(actions) == [V2, V1]
    assert mount.wanted == V1


def test_reloads_while_one_is_starting_cost_one_more_replacement_and_each_is_answered_once() -> None:
    mount, actions = drive(
        ready(), Reload(V2, "r1"), Exited(1, "0"), TreeGone(1), Spawned(2),
        Reload(V2, "r2"), Reload(V3, "r3"), Reload(V3, "r4"),
        BecameReady(2), Exited(2, "0"), TreeGone(2), BecameReady(3),
    )  # fmt: skip

    assert spawned(actions) == [V2, V3]
    assert answers(actions) == [(("r1",), DONE, False), (("r2", "r3", "r4"), DONE, False)]
    assert mount.running.launch == V3


def test_a_reload_before_the_spawn_joins_and_the_later_version_is_named() -> None:
    _, actions = drive(
        ready(), Reload(V2, "r1"), Reload(V3, "r2"), Exited(1, "0"), TreeGone(1), BecameReady(2)
    )

    assert spawned(actions) == [V3]
    assert answer(actions).new == instance(2, V3)
    assert answer(actions).commands == ("r1", "r2")


def test_a_bad_version_that_joined_a_reload_of_what_ran_is_rolled_back_too() -> None:
    mount, actions = drive(
        ready(),
        Reload(V1, "r1"),
        Reload(V2, "r2"),
        Exited(1, "0"),
        TreeGone(1),
        SpawnFailed(2, "no"),
        BecameReady(3),
    )

    assert mount.running.launch == V1
    assert answers(actions) == [(("r1", "r2"), ROLLED_BACK, False)]


def test_a_later_command_speaks_for_one_whose_version_failed() -> None:
    mount, actions = drive(
        ready(), Reload(V2, "r1"), Exited(1, "0"), TreeGone(1), Reload(V3, "r2"),
        Exited(2, "exit 1"), TreeGone(2), BecameReady(3),
    )  # fmt: skip

    assert spawned(actions) == [V2, V3]
    assert answers(actions) == [(("r1", "r2"), DONE, False)]
    assert mount.watched is not None
    assert mount.watched.fallback == V1


def test_a_reload_during_a_rollback_comes_after_it() -> None:
    falling, _ = drive(ready(), Reload(V2, "r1"), Exited(1, "0"), TreeGone(1), Exited(2, "1"))
    mount, actions = drive(
        falling, Reload(V3, "r2"), TreeGone(2), BecameReady(3), Exited(3, "0"), TreeGone(3), BecameReady(4)
    )

    assert spawned(actions) == [V1, V3]
    assert answers(actions) == [(("r1",), ROLLED_BACK, False), (("r2",), DONE, False)]
    assert mount.running.launch == V3


def test_a_reload_that_waits_for_a_rollback_that_fails_goes_on_and_may_fall_back_itself() -> None:
    falling, _ = drive(ready(), Reload(V2, "r1"), Exited(1, "0"), TreeGone(1), Exited(2, "1"), TreeGone(2))
    mount, actions = drive(
        falling, Reload(V3, "r2"), Exited(3, "1"), TreeGone(3), SpawnFailed(4, "x"), BecameReady(5)
    )

    assert spawned(actions) == [V3, V1]
    assert answers(actions) == [(("r1",), FAILED, False), (("r2",), ROLLED_BACK, False)]
    assert mount.running.launch == V1


def test_a_reload_of_a_start_that_nobody_waits_for_replaces_it_at_once() -> None:
    mount, actions = drive(at_rest(), Start(V1), Spawned(1), Reload(V2, "r"), Exited(1, "0"), TreeGone(1))

    assert spawned(actions) == [V1, V2]
    assert mount.phase is Phase.STARTING


def test_a_reload_in_backoff_does_not_wait() -> None:
    waiting, _ = drive(ready(), Exited(1, "exit 1"), TreeGone(1))
    mount, actions = drive(waiting, Reload(V2, "r"))

    assert ClearTimer("backoff", 1) in actions
    assert spawned(actions) == [V2]
    assert mount.current is not None
    assert mount.current.fallback == V1


def test_a_reload_while_a_crashed_tree_is_ending_takes_the_place_of_the_restart() -> None:
    mount, actions = drive(ready(), Exited(1, "exit 1"), Reload(V2, "r"), TreeGone(1), BecameReady(2))

    assert spawned(actions) == [V2]
    assert answers(actions) == [(("r",), DONE, False)]
    assert mount.watched is not None


def test_a_reload_brings_a_failed_mount_back_with_no_crash_on_its_account() -> None:
    policies = Policies(restart=RestartPolicy(burst=0))
    failed, _ = drive(ready(policies), Exited(1, "exit 1"), TreeGone(1))
    mount, actions = drive(failed, Reload(V2, "r"), BecameReady(2))
    during, _ = drive(ready(policies), Exited(1, "exit 1"), Reload(V2, "r"), TreeGone(1))

    assert failed.phase is Phase.FAILED
    assert answers(actions) == [(("r",), DONE, False)]
    assert mount.crashes == during.crashes == ()


# --- crashes


def test_the_backoff_doubles_up_to_its_end_with_a_jitter_of_its_own() -> None:
    policies = Policies(restart=RestartPolicy(backoff=1.0, max_backoff=4.0, burst=9, within=1000.0))
    mount, now, delays = ready(policies), 100.0, []
    for generation in range(1, 6):
        mount, actions = drive(mount, (now, Exited(generation, "exit 1")), (now, TreeGone(generation)))
        delays.append(backoff(mount, actions, now))
        now += delays[-1]
        mount, _ = drive(mount, (now, TimerFired("backoff", generation)), (now, BecameReady(generation + 1)))

    for delay, least in zip(delays, (1.0, 2.0, 4.0, 4.0, 4.0), strict=True):
        assert least <= delay <= least * 1.2
    assert len({delay / least for delay, least in zip(delays, (1, 2, 4, 4, 4), strict=True)}) == 5


def test_a_crash_loop_ends_in_failed() -> None:
    mount, _ = drive(
        ready(BURST_OF_2), Exited(1, "exit 1"), TreeGone(1), (101.0, TimerFired("backoff", 1)),
        (101.0, Exited(2, "x")),
        TreeGone(2), (102.0, TimerFired("backoff", 2)), Exited(3, "exit 7"), TreeGone(3),
    )  # fmt: skip

    assert mount.phase is Phase.FAILED
    assert mount.reason == "ended before it was ready: exit 7; given up after 3 crashes within 1m"


def test_a_mount_that_ran_well_for_long_starts_over_with_the_shortest_backoff() -> None:
    mount = ready(BURST_OF_2)
    for number in range(1, 5):
        now = 100.0 + 61 * number
        mount, actions = drive(mount, (now, Exited(number, "exit 1")), (now, TreeGone(number)))
        assert backoff(mount, actions, now) < 0.13
        mount, _ = drive(mount, (now + 1, TimerFired("backoff", number)), (now + 1, BecameReady(number + 1)))


@pytest.mark.parametrize(
    ("policy", "success", "phase"),
    [
        ("always", True, Phase.BACKOFF),
        ("always", False, Phase.BACKOFF),
        ("on-failure", True, Phase.STOPPED),
        ("on-failure", False, Phase.BACKOFF),
        ("never", True, Phase.STOPPED),
        ("never", False, Phase.FAILED),
    ],
)
def test_what_an_exit_means_is_the_policys(policy: str, success: bool, phase: Phase) -> None:  # noqa: FBT001
    policies = Policies(restart=RestartPolicy(policy=policy))  # type: ignore[arg-type]
    mount, _ = drive(ready(policies), Exited(1, "signal 9", success=success), TreeGone(1))

    assert mount.phase is phase
    assert mount.reason == "signal 9"


def test_a_probe_of_liveness_that_failed_too_often_is_a_crash_with_an_orderly_stop() -> None:
    mount, actions = drive(ready(), ProbeFailed(1, "not alive"), Exited(1, "signal 15"), TreeGone(1))

    assert SignalMain(1, 15) in actions
    assert mount.phase is Phase.BACKOFF
    assert len(mount.crashes) == 1


@pytest.mark.parametrize("policy", ["always", "on-failure", "never"])
def test_a_machine_without_room_for_a_process_is_no_reason_to_give_up(policy: str) -> None:
    policies = Policies(restart=RestartPolicy(policy=policy, burst=0))  # type: ignore[arg-type]
    mount, actions = drive(at_rest(policies), Start(V1, "s"))
    now, pauses, told = 100.0, [], actions
    for number in range(1, 30):
        mount, actions = drive(mount, (now, SpawnFailed(number, "EAGAIN", transient=True)))
        told += actions
        pauses.append(backoff(mount, actions, now))
        now += pauses[-1]
        mount, _ = drive(mount, (now, TimerFired("backoff", number)))

    assert mount.phase is Phase.STARTING
    assert mount.crashes == ()
    assert 0.1 <= pauses[0] <= 0.12
    assert all(30.0 <= pause <= 36.0 for pause in pauses[-10:])
    assert answers(told) == [(("s",), FAILED, False)]
    assert drive(mount, Spawned(30))[0].past.scarce == 0


def test_a_reload_that_the_machine_has_no_room_for_is_tried_again_and_ends_ready() -> None:
    mount, actions = drive(ready(), Reload(V2, "r"), Exited(1, "0"), TreeGone(1))
    now = 100.0
    for number in range(2, 8):
        mount, more = drive(mount, (now, SpawnFailed(number, "EAGAIN", transient=True)))
        actions += more
        now += backoff(mount, more, now)
        mount, more = drive(mount, (now, TimerFired("backoff", number)))
        actions += more
    mount, more = drive(mount, (now, BecameReady(8)))

    assert now > 106.0
    assert set(spawned(actions)) == {V2}
    assert answers(actions + more) == [(("r",), DONE, False)]
    assert mount.running.launch == V2


def test_a_reload_that_there_is_no_room_for_in_all_its_time_is_rolled_back() -> None:
    mount, actions = drive(ready(), Reload(V2, "r"), Exited(1, "0"), TreeGone(1))
    now, number = 100.0, 2
    while not mount.current or not mount.current.failure:
        mount, _ = drive(mount, (now, SpawnFailed(number, "EAGAIN", transient=True)))
        if mount.phase is Phase.BACKOFF:
            now = mount.not_before
            mount, _ = drive(mount, (now, TimerFired("backoff", number)))
        number += 1
    mount, actions = drive(mount, (now, BecameReady(number)))

    assert now < 130.0
    assert answers(actions) == [(("r",), ROLLED_BACK, False)]
    assert mount.running.launch == V1


@pytest.mark.parametrize(
    ("command", "launch", "answered"),
    [
        (Start(V3, "c"), V2, [(("r", "c"), DONE, False)]),
        (Reload(V3, "c"), V3, [(("r", "c"), DONE, False)]),
    ],
)
def test_a_command_does_not_wait_for_the_pause_of_one_that_there_is_no_room_for(
    command: Event, launch: Launch, answered: object
) -> None:
    waiting, _ = drive(
        ready(), Reload(V2, "r"), Exited(1, "0"), TreeGone(1), SpawnFailed(2, "EAGAIN", transient=True)
    )
    mount, actions = drive(waiting, command, BecameReady(3))

    assert waiting.phase is Phase.BACKOFF
    assert ClearTimer("backoff", 2) in actions
    assert mount.running.launch == launch
    assert answers(actions) == answered


def test_a_reload_during_a_rollback_that_there_is_no_room_for_comes_after_it() -> None:
    waiting, _ = drive(
        ready(), Reload(V2, "r"), Exited(1, "0"), TreeGone(1), Exited(2, "1"), TreeGone(2),
        SpawnFailed(3, "EAGAIN", transient=True),
    )  # fmt: skip
    mount, actions = drive(
        waiting, Reload(V3, "q"), BecameReady(4), Exited(4, "0"), TreeGone(4), BecameReady(5)
    )

    assert waiting.phase is Phase.BACKOFF
    assert answers(actions) == [(("r",), ROLLED_BACK, False), (("q",), DONE, False)]
    assert mount.running.launch == V3


def test_a_restart_that_nobody_asked_for_waits_for_its_turn_and_says_so() -> None:
    policies = Policies(restart=RestartPolicy(backoff=0.0))
    waiting, actions = drive(
        ready(policies), Exited(1, "exit 1"), TreeGone(1), Paced(1, "waits for its turn")
    )
    started, more = drive(waiting, TimerFired("backoff", 1))

    assert SetTimer("backoff", 1, 100.0) in actions
    assert spawned(actions) == []
    assert waiting.reason == "exit 1; waits for its turn"
    assert spawned(more) == [V1]
    assert started.phase is Phase.STARTING
    assert drive(waiting, Paced(0, "late")) == (waiting, [])


def test_a_reload_waits_for_no_turn() -> None:
    waiting, _ = drive(ready(), Exited(1, "exit 1"), TreeGone(1), Paced(1, "waits for its turn"))

    _, actions = drive(waiting, Reload(V2, "r"))

    assert spawned(actions) == [V2]


def test_the_backoff_of_another_generation_starts_nothing() -> None:
    waiting, _ = drive(ready(), Exited(1, "exit 1"), TreeGone(1))

    assert drive(waiting, TimerFired("backoff", 0)) == (waiting, [])
    assert drive(waiting, TimerFired("watch", 1)) == (waiting, [])


# --- more time, and what nobody heard


@pytest.mark.parametrize("order", [DEFAULTS, START_FIRST])
def test_an_instance_that_asks_for_more_time_gets_it(order: Policies) -> None:
    mount, _ = drive(ready(order), Reload(V2, "r"))
    if order is DEFAULTS:
        mount, _ = drive(mount, Exited(1, "0"), TreeGone(1))
    mount, _ = drive(mount, Spawned(2))
    waiting, actions = drive(mount, (110.0, TimerFired("ready", 2, extended=125.0)))
    _, too_late = drive(waiting, (125.0, TimerFired("ready", 2, "no READY=1", extended=125.0)))

    assert actions == [SetTimer("ready", 2, 125.0)]
    assert SignalMain(2, 15) in too_late


NOTIFY = Policies(ready=Probe("notify"))


def test_an_adopted_instance_that_cannot_say_ready_again_is_taken_as_ready_and_that_is_told() -> None:
    remembering_v1 = replace(at_rest(NOTIFY), good=V1)
    mount, actions = drive(
        remembering_v1, Adopted(instance(4, V1), ready=False), (110.0, TimerFired("ready", 4, "no READY=1"))
    )

    assert SetTimer("ready", 4, 110.0) in actions
    assert TakeAsReady(4) in actions
    assert mount.phase is Phase.READY
    assert mount.reason == "taken as ready: adopted, and silent for 10s since"


def test_an_adopted_instance_of_a_version_that_has_not_proved_itself_gives_way_to_the_one_that_has() -> None:
    remembering_v1 = replace(at_rest(NOTIFY), good=V1)
    mount, actions = drive(
        remembering_v1, Adopted(instance(4, V2), ready=False), TimerFired("ready", 4), Exited(4, "signal 15"),
        TreeGone(4), BecameReady(5),
    )  # fmt: skip

    assert TakeAsReady(4) not in actions
    assert mount.running.launch == V1
    assert mount.rolled_back_from == V2


@pytest.mark.parametrize("policies", [DEFAULTS, Policies(ready=Probe("http"))])
def test_an_adopted_instance_that_can_be_asked_again_must_answer(policies: Policies) -> None:
    mount, actions = drive(
        at_rest(policies), Adopted(instance(4, V1), ready=False), TimerFired("ready", 4, "refused")
    )

    assert mount.phase is Phase.STOPPING
    assert SignalMain(4, 15) in actions


# --- stop


def test_a_stop_by_hand_is_sticky_and_a_start_ends_it() -> None:
    stopped, actions = drive(ready(), Stop("x", BY_HAND), Exited(1, "signal 15"), TreeGone(1))
    skipped, then = drive(stopped, Reload(V2, "r"))
    started, _ = drive(skipped, Start(V2, "s"), BecameReady(2))

    assert stopped.phase is Phase.STOPPED
    assert stopped.remembered.held == BY_HAND
    assert answers(actions) == [(("x",), DONE, False)]
    assert answer(then) == Answer(("r",), SKIPPED, "stopped by hand by uid 0")
    assert skipped == stopped
    assert started.held is None
    assert started.phase is Phase.READY


def test_a_reload_nobody_waits_for_is_skipped_without_a_word() -> None:
    stopped, _ = drive(at_rest(), Stop("x", BY_HAND))

    assert drive(stopped, Reload(V2)) == (stopped, [])


def test_a_stop_of_what_does_not_run_is_done_at_once() -> None:
    _, never = drive(at_rest(), Stop("x", BY_HAND))
    waiting, _ = drive(ready(), Exited(1, "exit 1"), TreeGone(1))
    stopped, actions = drive(waiting, Stop("x", BY_HAND))

    assert answers(never) == answers(actions) == [(("x",), DONE, False)]
    assert ClearTimer("backoff", 1) in actions
    assert stopped.phase is Phase.STOPPED


def test_a_stop_by_the_daemon_is_not_remembered_but_nothing_starts_either() -> None:
    stopped, _ = drive(ready(), Stop(), Exited(1, "signal 15"), TreeGone(1))
    _, actions = drive(stopped, Reload(V2, "r"))

    assert stopped.remembered.held is None
    assert answer(actions) == Answer(("r",), SKIPPED, "plugind is stopping it")


def test_a_stop_interrupts_a_start_and_a_reload_that_waits() -> None:
    mount, actions = drive(
        ready(), Reload(V2, "r1"), Exited(1, "0"), TreeGone(1), Reload(V3, "r2"), Stop("x", BY_HAND),
        Exited(2, "signal 15"), TreeGone(2),
    )  # fmt: skip

    assert mount.phase is Phase.STOPPED
    assert answers(actions) == [(("r1",), SKIPPED, False), (("r2",), SKIPPED, False), (("x",), DONE, False)]


def test_a_stop_while_stopping_means_that_nothing_follows() -> None:
    mount, actions = drive(
        ready(), Reload(V2, "r"), Stop("x", BY_HAND), Stop("y"), Exited(1, "0"), TreeGone(1)
    )

    assert mount.phase is Phase.STOPPED
    assert answers(actions) == [(("r",), SKIPPED, False), (("x", "y"), DONE, False)]


def test_an_exit_during_a_stop_is_no_crash() -> None:
    mount, _ = drive(ready(), Stop("x"), Exited(1, "signal 9"), TreeGone(1))

    assert mount.crashes == ()


def test_a_start_before_the_stop_is_done_tells_the_stop_and_a_reload_may_join() -> None:
    stopping, _ = drive(ready(), Stop("x", BY_HAND))
    skipped, first = drive(stopping, Reload(V2, "r0"))
    mount, actions = drive(
        skipped, Start(V1, "s"), Reload(V2, "r"), Exited(1, "0"), TreeGone(1), BecameReady(2)
    )

    assert answers(first) == [(("r0",), SKIPPED, False)]
    assert answers(actions) == [(("x",), SKIPPED, False), (("s", "r"), DONE, False)]
    assert mount.held is None


def test_a_start_after_a_crash_loop_was_given_up_is_heard_while_the_tree_ends() -> None:
    policies = Policies(restart=RestartPolicy(policy="never"))
    mount, actions = drive(ready(policies), Exited(1, "exit 1"), Start(V1, "s"), TreeGone(1), BecameReady(2))

    assert mount.phase is Phase.READY
    assert answers(actions) == [(("s",), DONE, False)]


def test_a_start_that_joins_a_rollback_is_answered_for_the_first_time_while_others_are_amended() -> None:
    dying, _ = drive(
        ready(), Reload(V2, "r"), Exited(1, "0"), TreeGone(1), BecameReady(2), Exited(2, "exit 1")
    )
    _, actions = drive(dying, Start(V2, "s"), TreeGone(2), BecameReady(3))

    assert answers(actions) == [(("s",), ROLLED_BACK, False), (("r",), ROLLED_BACK, True)]


def test_each_version_is_treated_by_its_own_settings_also_the_one_that_comes_back() -> None:
    settings = {
        launch: Policies(ready=Probe(timeout=5.0 * number), stop=StopPolicy(signal=number))
        for number, launch in enumerate((V1, V2), 1)
    }
    configured, _ = drive(ready(settings[V1]), Configure(settings[V2], V2))
    trying, first = drive(
        configured, Reload(V2, "r"), Exited(1, "0"), TreeGone(1), Spawned(2), TimerFired("ready", 2)
    )
    back, then = drive(trying, Exited(2, "signal 2"), TreeGone(2), Spawned(3), BecameReady(3))

    assert SignalMain(1, 1) in first
    assert SetTimer("ready", 2, 110.0) in first
    assert SignalMain(2, 2) in first
    assert SetTimer("ready", 3, 105.0) in then
    assert answer(then).reason == "not ready in 10s"
    assert back.remembered.policies == settings[V1]
    assert remembering(KEY, settings[V2], back.remembered).policies_of(V1) == settings[V1]


def test_settings_of_a_former_version_are_forgotten_when_the_new_one_has_proved_itself() -> None:
    new = Policies(stop=StopPolicy(signal=2))
    on_v2, _ = drive(
        ready(), Configure(new, V2), Reload(V2, "r"), Exited(1, "0"), TreeGone(1), BecameReady(2)
    )
    proved, _ = drive(on_v2, TimerFired("watch", 2))

    assert on_v2.policies_of(V1) == DEFAULTS
    assert proved.policies_of(V1) == new
    assert proved.remembered.policies is None


def test_with_start_first_each_of_the_two_is_treated_by_its_own_settings() -> None:
    new = Policies(
        ready=Probe(timeout=3.0), stop=StopPolicy(signal=2), reload=ReloadPolicy(order="start_first")
    )
    both, first = drive(ready(), Configure(new, V2), Reload(V2, "r"), Spawned(2))
    _, then = drive(both, BecameReady(2))
    _, instead = drive(both, TimerFired("ready", 2))

    assert SetTimer("ready", 2, 103.0) in first
    assert SignalMain(1, 15) in then
    assert SignalMain(2, 2) in instead


def test_the_stop_command_runs_first_then_the_signal_then_the_kill() -> None:
    policies = Policies(stop=StopPolicy(signal=2, timeout=7.0, command=("/bin/leave",)))
    _, actions = drive(
        ready(policies), Stop("x"), StopCommandDone(1), (107.0, TimerFired("stop", 1)), StopCommandDone(1),
        Exited(1, "signal 9"), TreeGone(1),
    )  # fmt: skip

    wanted = (RunStopCommand, SignalMain, KillTree)
    assert [each for each in actions if isinstance(each, wanted)] == [
        RunStopCommand(1, ("/bin/leave",)),
        SignalMain(1, 2),
        KillTree(1),
    ]
    assert SetTimer("stop", 1, 107.0) in actions


def test_only_its_own_timer_ends_the_patience_of_a_stop() -> None:
    stopping, _ = drive(ready(), Stop("x"))

    assert drive(stopping, TimerFired("watch", 1)) == (stopping, [])


@pytest.mark.parametrize(("exit_at", "grace"), [(101.0, 4.0), (105.0, 0.0), (300.0, 0.0)])
def test_children_that_outlive_the_main_process_get_the_rest_of_the_timeout(
    exit_at: float, grace: float
) -> None:
    _, actions = drive(ready(), Stop("x"), (exit_at, Exited(1, "exit 0")))

    assert KillTree(1, grace) in actions


def test_children_of_a_crashed_process_are_killed_at_once() -> None:
    _, actions = drive(ready(), Exited(1, "exit 1"))

    assert KillTree(1, 0.0) in actions


# --- a spawn that comes up late


def test_an_instance_that_came_up_after_its_stop_is_signalled_then() -> None:
    """The engine finds no process to signal before the spawn is reported."""
    stopping, _ = drive(at_rest(), Start(V1), Stop("x", BY_HAND))
    _, actions = drive(stopping, Spawned(1))

    assert actions == [SignalMain(1, 15)]


def test_an_instance_that_came_up_after_its_kill_is_killed_then() -> None:
    killing, _ = drive(at_rest(), Start(V1), Stop("x", BY_HAND), (105.0, TimerFired("stop", 1)))
    _, actions = drive(killing, Spawned(1))

    assert actions == [KillTree(1)]


def test_a_spawn_that_fails_after_its_stop_completes_the_stop() -> None:
    mount, actions = drive(at_rest(), Start(V1, "s"), Stop("x", BY_HAND), SpawnFailed(1, "stopped before"))

    assert mount.phase is Phase.STOPPED
    assert answers(actions) == [(("s",), SKIPPED, False), (("x",), DONE, False)]


# --- members that cannot be killed


def survived(*before: Event) -> tuple[Mount, list[Action]]:
    return drive(ready(), *before, Exited(1, "signal 15"), TreeSurvived(1, "cannot kill pid 7"))


def test_a_member_that_cannot_be_killed_makes_the_mount_failed_and_nothing_starts() -> None:
    mount, actions = survived(Reload(V2, "r1"))

    assert mount.phase is Phase.FAILED
    assert mount.instance is not None
    assert mount.reason == "cannot kill pid 7"
    assert not spawned(actions)
    assert answer(actions) == replace(answer(actions), outcome=FAILED, reason="cannot kill pid 7")


def test_a_stop_that_a_member_survived_has_failed_and_stays_sticky() -> None:
    mount, actions = survived(Stop("x", BY_HAND))
    _, then = drive(mount, Reload(V2, "r"))
    gone, _ = drive(mount, TreeGone(1))

    assert answers(actions) == [(("x",), FAILED, False)]
    assert answers(then) == [(("r",), SKIPPED, False)]
    assert gone.phase is Phase.STOPPED


def test_both_reasons_are_told_where_the_new_version_cannot_be_killed() -> None:
    _, actions = drive(
        ready(),
        Reload(V2, "r"),
        Exited(1, "0"),
        TreeGone(1),
        Exited(2, "exit 1"),
        TreeSurvived(2, "cannot kill pid 7"),
    )

    assert answer(actions).reason == "v2: ended before it was ready: exit 1; cannot kill pid 7"


def test_the_next_command_tries_again_to_kill_what_survived() -> None:
    for command in (Reload(V2, "r"), Start(V2, "r")):
        mount, actions = drive(survived(Reload(V2))[0], command)
        started, then = drive(mount, TreeGone(1), BecameReady(2))

        assert KillTree(1) in actions
        assert not spawned(actions)
        assert started.running == instance(2, V2)
        assert answers(then) == [(("r",), DONE, False)]


def test_a_stop_tries_again_to_kill_what_survived() -> None:
    mount, actions = drive(survived(Reload(V2))[0], Stop("x", BY_HAND), TreeGone(1))

    assert KillTree(1) in actions
    assert mount.phase is Phase.STOPPED
    assert answers(actions) == [(("x",), DONE, False)]


def test_a_survivor_that_goes_by_itself_leaves_the_mount_failed_until_somebody_asks() -> None:
    mount, _ = drive(survived(Reload(V2))[0], TreeGone(1))
    _, actions = drive(mount, Reload(V2, "r"))

    assert mount.phase is Phase.FAILED
    assert mount.is_empty
    assert spawned(actions) == [V2]


# --- start_first


def test_start_first_keeps_the_first_until_the_second_is_ready() -> None:
    both, first = drive(ready(START_FIRST), Reload(V2, "r"), Spawned(2))
    switched, then = drive(both, BecameReady(2))
    alone, _ = drive(switched, Exited(1, "signal 15"), TreeGone(1))

    assert both.instance == instance(1, V1)
    assert both.incoming == instance(2, V2)
    assert not any(isinstance(each, SignalMain | KillTree) for each in first)
    assert switched.running == instance(2, V2)
    assert switched.outgoing == instance(1, V1)
    assert SignalMain(1, 15) in then
    assert answer(then) == Answer(("r",), DONE, old=instance(1, V1), new=instance(2, V2), down=0.0)
    assert alone.outgoing is None
    assert alone.phase is Phase.READY


def test_the_first_is_killed_when_it_does_not_go() -> None:
    switched, _ = drive(ready(START_FIRST), Reload(V2, "r"), Spawned(2), BecameReady(2))
    _, actions = drive(switched, TimerFired("watch", 1), (105.0, TimerFired("stop", 1)))

    assert actions == [ClearTimer("stop", 1), KillTree(1)]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (
            (Spawned(2), TimerFired("ready", 2, "HTTP 503"), Exited(2, "x"), TreeGone(2)),
            "not ready in 10s: HTTP 503",
        ),
        (
            (Spawned(2), ProbeFailed(2, "bad line"), ProbeFailed(2, "again"), Exited(2, "x"), TreeGone(2)),
            "bad line",
        ),
        ((Spawned(2), Exited(2, "exit 1"), TreeGone(2)), "ended before it was ready: exit 1"),
        ((SpawnFailed(2, "cannot run it"),), "cannot run it"),
    ],
)
def test_a_second_one_that_fails_leaves_the_first_untouched(failure: tuple[Event, ...], reason: str) -> None:
    mount, actions = drive(ready(START_FIRST), Reload(V2, "r"), *failure)

    assert mount.running == instance(1, V1)
    assert mount.is_empty is False
    assert mount.living == (instance(1, V1),)
    assert mount.rolled_back_from == V2
    told = answer(actions)
    assert (told.outcome, told.reason, told.new, told.down) == (ROLLED_BACK, reason, instance(1, V1), 0.0)


def test_a_second_one_of_the_same_version_that_fails_is_not_rolled_back_but_failed() -> None:
    mount, actions = drive(ready(START_FIRST), Reload(V1, "r"), SpawnFailed(2, "no room"))

    assert mount.phase is Phase.READY
    assert answer(actions).outcome is FAILED
    assert answer(actions).reason == "no room; what ran before goes on"


def test_a_second_one_that_does_not_go_is_killed() -> None:
    going, _ = drive(ready(START_FIRST), Reload(V2, "r"), Spawned(2), ProbeFailed(2, "bad"))
    _, actions = drive(going, BecameReady(2), (105.0, TimerFired("stop", 2)))

    assert KillTree(2) in actions


def test_the_second_is_promoted_when_the_first_dies_meanwhile() -> None:
    alone, _ = drive(ready(START_FIRST), Reload(V2, "r"), Spawned(2), Exited(1, "exit 1"))
    mount, actions = drive(alone, TreeGone(1), (103.0, BecameReady(2)))

    assert alone.phase is Phase.STARTING
    assert alone.running == instance(2, V2)
    assert answer(actions).down == 3.0
    assert mount.phase is Phase.READY
    assert mount.crashes == ()


def test_a_promoted_second_that_fails_gives_way_to_what_worked() -> None:
    mount, actions = drive(
        ready(START_FIRST),
        Reload(V2, "r"),
        Exited(1, "exit 1"),
        SpawnFailed(2, "no"),
        TreeGone(1),
        BecameReady(3),
    )

    assert mount.running.launch == V1
    assert answers(actions) == [(("r",), ROLLED_BACK, False)]


def test_a_promoted_second_does_not_fall_back_to_a_first_that_had_not_proved_itself() -> None:
    on_v2, _ = drive(ready(START_FIRST), Reload(V2), BecameReady(2), Exited(1, "0"), TreeGone(1))
    mount, actions = drive(on_v2, Reload(V3, "r"), Exited(2, "exit 1"), SpawnFailed(3, "no"), TreeGone(2))

    assert spawned(actions) == [V3, V1]
    assert mount.phase is Phase.STARTING


def test_a_first_that_dies_while_a_failing_second_goes_is_a_crash() -> None:
    mount, actions = drive(
        ready(START_FIRST), Reload(V2, "r"), Spawned(2), ProbeFailed(2, "bad"), Exited(1, "exit 1"),
        TreeGone(1), Exited(2, "signal 15"), TreeGone(2),
    )  # fmt: skip

    assert mount.phase is Phase.BACKOFF
    assert mount.wanted == V1
    assert answer(actions).reason == "v2: bad; and back on v1: exit 1"


def test_a_first_on_probation_that_dies_while_a_failing_second_goes_falls_back() -> None:
    on_v2, _ = drive(ready(START_FIRST), Reload(V2, "r"), BecameReady(2), Exited(1, "0"), TreeGone(1))
    mount, actions = drive(
        on_v2, Reload(V3, "q"), Spawned(3), ProbeFailed(3, "bad"), Exited(2, "exit 1"), TreeGone(2),
        Exited(3, "0"), TreeGone(3), BecameReady(4),
    )  # fmt: skip

    assert mount.running == instance(4, V1)
    assert answers(actions) == [(("q",), FAILED, False), (("r",), ROLLED_BACK, True)]


def test_a_first_on_probation_that_dies_after_a_second_failed_amends_both() -> None:
    on_v2, _ = drive(ready(START_FIRST), Reload(V2, "r"), BecameReady(2), Exited(1, "0"), TreeGone(1))
    mount, actions = drive(
        on_v2, Reload(V3, "q"), SpawnFailed(3, "no"), Exited(2, "1"), TreeGone(2), BecameReady(4)
    )

    assert answers(actions) == [(("q",), ROLLED_BACK, False), (("r", "q"), ROLLED_BACK, True)]
    assert mount.running.launch == V1
    assert mount.rolled_back_from == V3


def test_a_first_that_is_not_alive_while_a_second_is_coming_goes_if_the_second_does_not_take_over() -> None:
    coming, _ = drive(ready(START_FIRST), Reload(V2, "r"), Spawned(2), ProbeFailed(1, "not alive"))
    taken, _ = drive(coming, BecameReady(2))
    mount, _ = drive(coming, Exited(2, "exit 1"), TreeGone(2))

    assert coming.phase is Phase.READY
    assert taken.unwell is None
    assert mount.phase is Phase.STOPPING
    assert mount.wanted == V1


def test_reloads_during_a_handover_wait_for_its_end_and_come_together() -> None:
    mount, actions = drive(
        ready(START_FIRST), Reload(V2, "r1"), Reload(V3, "r2"), BecameReady(2), Reload(V3, "r3"),
        Exited(1, "0"), TreeGone(1), BecameReady(3),
    )  # fmt: skip

    assert spawned(actions) == [V2, V3]
    assert answers(actions) == [(("r1",), DONE, False), (("r2", "r3"), DONE, False)]
    assert mount.running.launch == V3


def test_a_reload_that_waits_goes_on_when_a_proved_instance_dies_and_may_fall_back_to_it() -> None:
    policies = Policies(reload=ReloadPolicy(order="start_first", watch=0.0))
    mount, actions = drive(
        ready(policies), Reload(V2), BecameReady(2), Reload(V3, "r"), Exited(2, "exit 1"), TreeGone(2),
        Exited(1, "0"), TreeGone(1), SpawnFailed(3, "no"), BecameReady(4),
    )  # fmt: skip

    assert spawned(actions) == [V2, V3, V2]
    assert answers(actions) == [(("r",), ROLLED_BACK, False)]
    assert mount.phase is Phase.READY


def test_a_reload_that_waits_takes_the_order_that_is_in_force_then() -> None:
    mount, actions = drive(
        ready(START_FIRST),
        Reload(V2),
        BecameReady(2),
        Reload(V3, "r"),
        Configure(Policies()),
        Exited(1, "0"),
        TreeGone(1),
    )

    assert mount.phase is Phase.STOPPING
    assert SignalMain(2, 15) in actions


def test_a_stop_kills_the_second_and_ends_the_first_in_order() -> None:
    mount, actions = drive(
        ready(START_FIRST), Reload(V2, "r"), Stop("x", BY_HAND), Spawned(2), BecameReady(2),
        TimerFired("ready", 2),
        Exited(2, "signal 9"), TreeGone(2), Exited(1, "signal 15"), TreeGone(1),
    )  # fmt: skip

    assert mount.phase is Phase.STOPPED
    assert [each for each in actions if isinstance(each, KillTree) and each.generation == 2] == [
        KillTree(2)
    ] * 2
    assert SignalMain(1, 15) in actions
    assert answers(actions) == [(("r",), SKIPPED, False), (("x",), DONE, False)]


def test_a_start_is_not_blamed_for_a_second_instance_that_was_stopped_before_it() -> None:
    mount, actions = drive(
        ready(START_FIRST), Reload(V2), Spawned(2), Stop("x", BY_HAND), Start(V1, "s"), Exited(2, "signal 9"),
        TreeGone(2), Exited(1, "0"), TreeGone(1), BecameReady(3),
    )  # fmt: skip

    assert answers(actions) == [(("x",), SKIPPED, False), (("s",), DONE, False)]
    assert mount.rolled_back_from is None


def test_a_second_that_cannot_be_killed_is_told_and_nothing_comes_beside_the_two() -> None:
    left, actions = drive(
        ready(START_FIRST),
        Reload(V2, "r1"),
        Reload(V3, "r2"),
        Exited(2, "1"),
        TreeSurvived(2, "cannot kill pid 8"),
    )
    asked, again = drive(left, BecameReady(2), Reload(V3, "r3"))
    failed, then = drive(asked, TreeSurvived(2, "cannot kill pid 8"))
    gone, at_last = drive(asked, TreeGone(2))

    assert answers(actions) == [(("r1",), FAILED, False), (("r2",), FAILED, False)]
    assert left.phase is Phase.READY
    assert KillTree(2) in again
    assert answers(then) == [(("r3",), FAILED, False)]
    assert failed.running == instance(1, V1)
    assert spawned(at_last) == [V3]
    assert gone.incoming == instance(3, V3)


def test_a_crash_beside_a_second_that_cannot_be_killed_ends_in_failed() -> None:
    left, _ = drive(ready(START_FIRST), Reload(V2), Exited(2, "1"), TreeSurvived(2, "cannot kill pid 8"))
    mount, actions = drive(left, Exited(1, "exit 1"), TreeGone(1), TreeSurvived(2, "cannot kill pid 8"))
    emptied, _ = drive(mount, TreeGone(2))

    assert KillTree(2) in actions
    assert mount.phase is Phase.FAILED
    assert mount.reason == "cannot kill pid 8"
    assert emptied.is_empty


def test_a_first_that_cannot_be_killed_is_told_to_whoever_waits() -> None:
    left, actions = drive(
        ready(START_FIRST),
        Reload(V2, "r1"),
        BecameReady(2),
        Reload(V3, "r2"),
        Exited(1, "0"),
        TreeSurvived(1, "pid 7"),
    )
    mount, then = drive(left, Stop("x", BY_HAND), Exited(2, "0"), TreeGone(2), TreeSurvived(1, "pid 7"))
    emptied, _ = drive(mount, TreeGone(1))

    assert answers(actions) == [(("r1",), DONE, False), (("r2",), FAILED, False)]
    assert left.running == instance(2, V2)
    assert answers(then) == [(("x",), FAILED, False)]
    assert mount.phase is Phase.FAILED
    assert emptied.phase is Phase.STOPPED


def test_a_first_that_survived_its_crash_is_tried_again_when_the_second_is_ready_and_somebody_waits() -> None:
    promoted, _ = drive(
        ready(START_FIRST), Reload(V2, "r1"), Exited(1, "exit 1"), TreeSurvived(1, "pid 7"), Reload(V3, "r2")
    )
    mount, actions = drive(promoted, BecameReady(2))

    assert KillTree(1) in actions
    assert mount.queued is not None


# --- what comes late, what changes nothing


@pytest.mark.parametrize("event", [kind for kind in EVENTS if "generation" in kind.__struct_fields__])
@pytest.mark.parametrize("phase", Phase)
def test_what_comes_of_an_earlier_generation_changes_nothing(phase: Phase, event: type[Event]) -> None:
    extra = {"reason": "late"} if "reason" in event.__struct_fields__ else {}
    extra |= {"name": "stop"} if event is TimerFired else {}
    living = None if phase in {Phase.STOPPED, Phase.BACKOFF} else instance(5, V1)
    mount = Mount(KEY, phase=phase, generation=5, instance=living, wanted=V1)

    assert transition(mount, event(generation=4, **extra), 1.0) == (mount, ())


def test_other_settings_touch_no_process() -> None:
    for mount in (at_rest(), ready(), drive(ready(), Exited(1, "x"), TreeGone(1))[0]):
        assert drive(mount, Configure(START_FIRST)) == (replace(mount, policies=START_FIRST), [])


# --- memory and adoption


def test_an_instance_that_was_ready_is_adopted_as_it_is() -> None:
    mount, actions = drive(at_rest(), Adopted(instance(7, V1), ready=True))
    started, then = drive(mount, Start(V1))

    assert mount.phase is Phase.READY
    assert (mount.generation, mount.good) == (7, V1)
    assert actions == then == []
    assert started.running == instance(7, V1)


def test_an_adopted_instance_that_had_not_proved_itself_is_watched_again() -> None:
    mount, actions = drive(replace(at_rest(), good=V1), Adopted(instance(7, V2), ready=True))
    back, then = drive(mount, Exited(7, "exit 1"), TreeGone(7), BecameReady(8))

    assert SetTimer("watch", 7, 110.0) in actions
    assert back.running.launch == V1
    assert answers(then) == []


def test_an_adopted_instance_that_was_not_ready_yet_has_its_time_again() -> None:
    mount, actions = drive(replace(at_rest(), good=V1), Adopted(instance(7, V2), ready=False))
    back, then = drive(mount, (110.0, TimerFired("ready", 7)), Exited(7, "0"), TreeGone(7))

    assert SetTimer("ready", 7, 110.0) in actions
    assert spawned(then) == [V1]
    assert back.phase is Phase.STARTING


def test_what_a_former_daemon_was_stopping_by_hand_is_stopped() -> None:
    mount, actions = drive(replace(at_rest(), held=BY_HAND), Adopted(instance(7, V1), ready=True))
    stopped, _ = drive(mount, Exited(7, "signal 15"), TreeGone(7))

    assert SignalMain(7, 15) in actions
    assert stopped.phase is Phase.STOPPED


def test_a_mount_that_was_rolled_back_starts_what_last_worked_also_after_a_second_boot() -> None:
    spec = MountSpec(KEY, V2, Policies())
    remembered = Remembered(good=V1, rolled_back_from=V2, generation=9)
    for _ in range(2):
        mount = remembering(KEY, Policies(), remembered)
        mount, actions = drive(mount, Start(launch_to_start(spec, mount)))
        mount, _ = drive(mount, BecameReady(mount.generation))
        remembered = mount.remembered

        assert spawned(actions) == [V1]


def test_a_catalog_that_asks_for_something_else_than_what_failed_is_followed() -> None:
    mount = remembering(KEY, Policies(), Remembered(good=V1, rolled_back_from=V2))

    assert launch_to_start(MountSpec(KEY, V3, Policies()), mount) == V3


def test_what_was_rolled_back_is_forgotten_when_another_version_is_ready() -> None:
    mount, _ = drive(
        replace(ready(), rolled_back_from=V2), Reload(V2), Exited(1, "0"), TreeGone(1), BecameReady(2)
    )

    assert mount.rolled_back_from is None


# --- completeness


def test_the_tables_name_every_pair() -> None:
    of_an_instance = {kind for kind in EVENTS if "generation" in kind.__struct_fields__}

    assert set(EVENTS) == set(get_args(Event))
    assert set(TABLE) == {(phase, event) for phase in Phase for event in EVENTS}
    assert set(INCOMING) == set(OUTGOING) == of_an_instance


def test_every_handler_of_a_phase_is_meant_for_it() -> None:
    handlers = {*TABLE.values(), *INCOMING.values(), *OUTGOING.values()}

    assert lifecycle.nothing in handlers
    assert all(callable(handler) and handler.__doc__ != "" for handler in handlers)


def test_each_kind_of_action_is_asked_for_somewhere_above() -> None:
    assert set(get_args(Action)) == {
        Spawn,
        SignalMain,
        RunStopCommand,
        KillTree,
        SetTimer,
        ClearTimer,
        TakeAsReady,
        Answer,
    }


def test_every_leaf_of_the_exceptions_has_a_status() -> None:
    def leaves(kind: type[errors.PlugindError]) -> list[type[errors.PlugindError]]:
        return [leaf for sub in kind.__subclasses__() for leaf in leaves(sub)] or [kind]

    for leaf in leaves(errors.PlugindError):
        error = leaf.__new__(leaf)
        status, exit_status = wire.statuses(error)
        assert any(kind in wire.STATUSES for kind in leaf.__mro__)
        assert status in {400, 403, 404, 405, 413, 503}
        assert exit_status == 2
