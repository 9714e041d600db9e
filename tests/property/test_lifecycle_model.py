"""What simulate.py promises of a mount's life, in the amounts that a check can afford."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from simulate import (
    BY_HAND,
    KEY,
    PLAYS,
    POLICIES,
    STALE,
    V1,
    V2,
    V3,
    World,
    all_sequences,
    main,
    one_sequence_with_bad_versions,
)

from supervisor.domain.catalog import Policies, RestartPolicy
from supervisor.domain.events import Configure, Event, Outcome, Reload, Start, Stop
from supervisor.domain.lifecycle import transition
from supervisor.domain.mount import Mount, Phase

LAUNCHES = st.sampled_from((V1, V2, V3))


@pytest.mark.parametrize("first", range(0, 3000, 500))
def test_whatever_happens_every_promise_holds(first: int) -> None:
    for seed in range(first, first + 500):
        PLAYS["any"](seed)


@pytest.mark.parametrize("first", range(0, 1000, 250))
def test_a_bad_version_never_takes_a_mount_down(first: int) -> None:
    for seed in range(first, first + 250):
        one_sequence_with_bad_versions(seed)


def test_everything_that_can_happen_in_four_steps_keeps_every_promise() -> None:
    assert all_sequences(4) > 5000


def test_the_driver_says_how_much_it_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["20", "1"]) == 0
    assert main(["--exhaustive", "2"]) == 0

    assert capsys.readouterr().out.count("ok") == 2


@pytest.mark.parametrize("policies", POLICIES[::6])
def test_no_order_of_events_raises_and_none_starts_what_is_held(policies: Policies) -> None:
    """Also the orders that no OS brings about: as a graph of states, so that depth costs little."""
    mounts = {Mount(KEY, policies)}
    for depth in range(5):
        following: set[Mount] = set()
        for mount in mounts:
            for event in _any_events(mount):
                after, actions = transition(mount, event, float(depth))
                assert len(after.living) <= 2
                assert not (after.held and after.wanted)
                assert len({instance.generation for instance in after.living}) == len(after.living)
                assert len(actions) < 20
                following.add(after)
        mounts = following


def _any_events(mount: Mount) -> list[Event]:
    events: list[Event] = [Start(V1), Stop("x", BY_HAND), Reload(V2, "r"), Configure(POLICIES[0])]
    for instance in mount.living:
        events += [make(instance.generation) for make in STALE]
    return events


@pytest.mark.parametrize("seed", range(20))
def test_a_crash_loop_ends_in_failed_and_never_spins(seed: int) -> None:
    policies = Policies(restart=RestartPolicy(burst=seed % 6))
    world = World(policies, bad=frozenset({"v1"}))
    world.do(("start", V1))

    world.come_to_rest()

    assert world.mount.phase is Phase.FAILED
    assert world.spawns == 1 + seed % 6


@pytest.mark.parametrize("order", ["stop_first", "start_first"])
@pytest.mark.parametrize("each", range(1, 9))
def test_many_reloads_at_once_cost_at_most_two_replacements(order: str, each: int) -> None:
    """They come one after every `each` steps, from the first kill to the second instance's readiness."""
    reload = replace(Policies().reload, order=order)  # type: ignore[arg-type]
    world = World(Policies(reload=reload))
    world.do(("start", V1))
    world.come_to_rest()
    spawns = world.spawns
    world.do(("reload", V2))
    while world.mount.phase is not Phase.STARTING and world.mount.incoming is None:
        world.do(world.peaceful()[0])
    for step in range(40):
        if step % each == 0:
            world.do(("reload", V3))
        elif len(world.peaceful()) and step < each * 2:
            world.do(("configure", world.mount.policies))

    world.come_to_rest()

    assert world.spawns - spawns == 2
    assert all(
        answer.outcome is Outcome.DONE for command in world.commands.values() for answer in command.told
    )
    assert world.mount.running.launch == V3


class MountLife(RuleBasedStateMachine):
    """Hypothesis looks for the shortest story that breaks a promise; World checks after each step."""

    @initialize(policies=st.sampled_from(POLICIES), adopted=st.sampled_from((None, True, False)))
    def begin(self, policies: Policies, adopted: bool | None) -> None:  # noqa: FBT001
        self.world = World(policies)
        if adopted is not None:
            self.world.adopt(V1, 3, ready=adopted)

    @rule(launch=LAUNCHES)
    def start(self, launch: object) -> None:
        self.world.do(("start", launch))

    @rule(by=st.sampled_from((None, BY_HAND)))
    def stop(self, by: object) -> None:
        self.world.do(("stop", by))

    @rule(launch=LAUNCHES)
    def reload(self, launch: object) -> None:
        self.world.do(("reload", launch))

    @rule(policies=st.sampled_from(POLICIES))
    def configure(self, policies: object) -> None:
        self.world.do(("configure", policies))

    @precondition(lambda self: self.world.facts())
    @rule(number=st.integers(0, 30), success=st.booleans(), transient=st.booleans())
    def fact(self, number: int, success: bool, transient: bool) -> None:  # noqa: FBT001
        facts = self.world.facts()
        self.world.do(facts[number % len(facts)], success=success, transient=transient)

    @invariant()
    def nobody_is_forgotten(self) -> None:
        if hasattr(self, "world"):
            self.world.copied().come_to_rest()


TestMountLife = MountLife.TestCase
TestMountLife.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
