"""What one plugind leaves to the next in the same process, and what that one makes of it."""

import pytest

from supervisor.domain.catalog import Launch
from supervisor.domain.legacy import (
    VERSION,
    Errand,
    Expected,
    HandedConnection,
    HandedFifo,
    HandedMount,
    HandedNode,
    Legacy,
    Places,
    Sockets,
    decoded,
    encoded,
    left_behind,
    resumed,
)
from supervisor.domain.mount import Mount, Phase
from supervisor.domain.names import ROOT, MountKey, PluginRef
from supervisor.domain.restarts import Record

KEY = MountKey(ROOT, "auth/a")
LAUNCH = Launch(PluginRef("auth", "mock"), "v1", "/bin/mock", "00")
PAST = Record(crashes=(7.0, 9.5), in_a_row=2, unready=1)
PLACES = Places("/run/s", "/run", "/var")


def a_legacy() -> Legacy:
    return Legacy(
        errand=Errand(upgrade_id="u1", old_version="1", began_at="now", left_at=4.5),
        sockets=Sockets(3, 4, (5, 6), "127.0.0.1:1", (7,), (HandedConnection(8, b"GET \xff"),)),
        node=HandedNode(
            (left_behind(Mount(KEY, wanted=LAUNCH, past=PAST), restarts=2, last_exit="exit 1"),), 9
        ),
        fifos=(HandedFifo("root", "auth/a", 10),),
        files=(1024, 4096),
        leaf="/sys/fs/cgroup/x",
        controllers=("memory",),
    )


def test_it_gets_over_as_it_is() -> None:
    legacy = a_legacy()

    assert decoded(encoded(legacy)) == legacy
    assert legacy.node.mounts[0].key == KEY
    assert sorted(legacy.descriptors) == [3, 4, 7, 8, 10]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"{}",
        b"[1]",
        encoded(a_legacy())[:-9],
        encoded(a_legacy()).replace(b'"version":%d,' % VERSION, b'"version":%d,' % (VERSION + 1), 1),
        b'{"version":%d}' % VERSION,
    ],
)
def test_what_is_not_understood_is_none(data: bytes) -> None:
    assert decoded(data) is None


@pytest.mark.parametrize(
    ("phase", "wanted", "is_due"),
    [
        (Phase.READY, None, True),
        (Phase.STARTING, LAUNCH, True),
        (Phase.STOPPING, LAUNCH, True),
        (Phase.STOPPING, None, False),
        (Phase.STOPPED, None, False),
        (Phase.FAILED, None, False),
        (Phase.BACKOFF, LAUNCH, False),
    ],
)
def test_only_what_ran_or_was_to_run_starts_at_once(
    phase: Phase, wanted: Launch | None, *, is_due: bool
) -> None:
    handed = left_behind(Mount(KEY, phase=phase, wanted=wanted))

    assert handed.is_due is is_due


def test_a_backoff_goes_on_to_its_end() -> None:
    before = Mount(KEY, phase=Phase.BACKOFF, wanted=LAUNCH, not_before=77.0, past=PAST, reason="exit 1")

    after = resumed(Mount(KEY, generation=3), left_behind(before), lives=False)

    assert (after.phase, after.wanted, after.not_before) == (Phase.BACKOFF, LAUNCH, 77.0)
    assert (after.past, after.reason, after.generation) == (PAST, "exit 1", 3)


@pytest.mark.parametrize(
    ("phase", "rest", "after"),
    [
        (Phase.FAILED, Phase.STOPPED, Phase.FAILED),
        (Phase.STOPPED, Phase.FAILED, Phase.STOPPED),
        (Phase.STOPPING, Phase.FAILED, Phase.FAILED),
        (Phase.STOPPING, Phase.STOPPED, Phase.STOPPED),
    ],
)
def test_what_is_at_rest_stays_there(phase: Phase, rest: Phase, after: Phase) -> None:
    before = Mount(KEY, phase=phase, rest=rest, reason="because")

    mount = resumed(Mount(KEY), left_behind(before), lives=False)

    assert (mount.phase, mount.reason) == (after, "because")


def test_crashes_count_on_for_what_lives_and_everything_else_is_found_again() -> None:
    before = Mount(KEY, phase=Phase.READY, past=PAST, reason="because")

    assert resumed(Mount(KEY), left_behind(before), lives=True) == Mount(KEY, past=PAST)


def test_the_rest_of_a_stop_is_one() -> None:
    assert HandedMount(namespace="root", mount="auth/a", phase=Phase.STOPPING).is_being_stopped
    assert not HandedMount(namespace="root", mount="auth/a", phase=Phase.STOPPED).is_being_stopped


@pytest.mark.parametrize(
    ("places", "name"),
    [
        (Places("/other", "/run", "/var"), "socket.path"),
        (Places("/run/s", "/other", "/var"), "runtime_dir"),
        (Places("/run/s", "/run", "/other"), "state_dir"),
    ],
)
def test_places_cannot_change_without_a_restart(places: Places, name: str) -> None:
    expected = Expected(PLACES, "", has_catalog=True)

    assert expected.refusal(PLACES) is None
    refusal = expected.refusal(places)
    assert refusal is not None
    assert refusal.startswith(f"{name} was ")
    assert refusal.endswith("that takes a restart")
