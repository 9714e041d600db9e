"""The table of docs/catalog.md: how often a plugin is started, and where it ends, under each policy."""

from collections.abc import Callable

import pytest

from supervisor.domain.catalog import Launch, Policies, RestartPolicy
from supervisor.domain.events import (
    Adopted,
    BecameReady,
    Exited,
    Instance,
    KillTree,
    SetTimer,
    SignalMain,
    Spawn,
    Spawned,
    Start,
    TimerFired,
    TreeGone,
)
from supervisor.domain.lifecycle import transition
from supervisor.domain.mount import Mount, Phase
from supervisor.domain.names import ROOT, MountKey, PluginRef

V1 = Launch(PluginRef("secret", "kv"), "v1", "/bin/kv")
HOUR = 3600.0
Happening = tuple[float, object]


class Life:
    """One mount for an hour; each of its instances behaves as `lives` says."""

    def __init__(self, policies: Policies, lives: Callable[[int, float], list[Happening]]) -> None:
        self.mount = Mount(MountKey(ROOT, "kv"), policies)
        self.lives = lives
        self.ignores_signals = False
        self.starts: list[float] = []
        self.due: list[Happening] = [(0.0, Start(V1))]
        self.pauses: list[float] = []

    def run(self) -> "Life":
        while self.due and (first := min(self.due, key=lambda each: each[0]))[0] < HOUR:
            self.due.remove(first)
            now, event = first
            self.mount, actions = transition(self.mount, event, now)  # type: ignore[arg-type]
            for action in actions:
                self._act(action, now)
        return self

    def _act(self, action: object, now: float) -> None:
        match action:
            case Spawn(Instance(_, generation)):
                self.starts.append(now)
                self.due.append((now, Spawned(generation)))
                self.due += [(now + later, event) for later, event in self.lives(generation, now)]
            case SignalMain(generation) if not self.ignores_signals:
                self.due.append((now, Exited(generation, "signal 15")))
            case KillTree(generation, _):
                self.due.append((now, TreeGone(generation)))
            case SetTimer(name, generation, when):
                self.due.append((when, TimerFired(name, generation)))
                if name == "backoff":
                    self.pauses.append(when - now)
            case _:
                pass


def lives(seconds: float, *, success: bool = False) -> Callable[[int, float], list[Happening]]:
    reason = "exit 0" if success else "signal 9"
    return lambda generation, _: [
        (0.0, BecameReady(generation)),
        (seconds, Exited(generation, reason, success)),
    ]


def never_ready(_generation: int, _now: float) -> list[Happening]:
    return []


def an_hour(policy: str, how: Callable[[int, float], list[Happening]], **restart: float) -> Life:
    return Life(Policies(restart=RestartPolicy(policy=policy, **restart)), how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "policy", "starts", "phase"),
    [
        (lives(0.0, success=True), "always", 6, Phase.FAILED),
        (lives(0.0, success=True), "on-failure", 1, Phase.STOPPED),
        (lives(0.0, success=True), "never", 1, Phase.STOPPED),
        (lives(0.0), "always", 6, Phase.FAILED),
        (lives(0.0), "on-failure", 6, Phase.FAILED),
        (lives(0.0), "never", 1, Phase.FAILED),
        (lives(61.0), "always", 59, Phase.READY),
        (lives(61.0), "on-failure", 59, Phase.READY),
        (lives(61.0), "never", 1, Phase.FAILED),
        (lives(61.0, success=True), "always", 59, Phase.READY),
        (lives(61.0, success=True), "on-failure", 1, Phase.STOPPED),
        (lives(61.0, success=True), "never", 1, Phase.STOPPED),
        (never_ready, "always", 6, Phase.FAILED),
        (never_ready, "on-failure", 6, Phase.FAILED),
        (never_ready, "never", 1, Phase.FAILED),
    ],
)
def test_how_often_it_is_started_in_an_hour_and_where_it_ends(
    how: Callable[[int, float], list[Happening]], policy: str, starts: int, phase: Phase
) -> None:
    life = an_hour(policy, how).run()

    assert (len(life.starts), life.mount.phase) == (starts, phase)


def test_each_restart_of_one_that_ran_well_comes_after_the_shortest_pause() -> None:
    assert all(0.1 <= pause <= 0.12 for pause in an_hour("always", lives(61.0)).run().pauses)


def test_one_that_never_runs_well_comes_back_ever_more_seldom_and_stays_so() -> None:
    life = an_hour("always", lives(1.0), burst=100_000).run()

    assert life.mount.phase is not Phase.FAILED
    assert all(30.0 <= pause <= 36.0 for pause in life.pauses[10:])
    assert 95 < len(life.starts) < 130


def test_one_that_is_never_ready_and_ignores_its_signal_is_given_up_however_long_each_try_takes() -> None:
    life = an_hour("always", never_ready)
    life.ignores_signals = True
    life.run()

    assert (len(life.starts), life.mount.phase) == (6, Phase.FAILED)
    assert life.starts[-1] - life.starts[0] > 60.0
    assert life.mount.reason == "not ready in 10s; given up after 6 starts in a row that were never ready"


def test_a_start_clears_failed_and_all_that_counted() -> None:
    life = an_hour("always", lives(0.0)).run()
    life.due.append((HOUR - 100, Start(V1)))

    life.run()

    assert (len(life.starts), life.mount.phase) == (12, Phase.FAILED)


def test_an_adopted_one_has_a_past_of_its_own() -> None:
    life = an_hour("always", lives(0.0))
    life.due = [
        (0.0, Adopted(Instance("kv-7", 7, V1), ready=True)),  # type: ignore[arg-type]
        (1.0, Exited(7, "exit status unknown")),
    ]

    life.run()

    assert (len(life.starts), life.mount.phase) == (5, Phase.FAILED)
