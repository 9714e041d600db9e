"""Which listeners stay open in which state of a mount."""

import pytest
from msgspec.structs import replace

from supervisor.domain.catalog import Launch, Listener
from supervisor.domain.events import Instance
from supervisor.domain.listening import kept_open
from supervisor.domain.mount import Mount, Phase, Replacement
from supervisor.domain.names import ROOT, InstanceId, MountKey, PluginRef


def listening(version: str) -> Launch:
    listener = Listener("stream", f"/run/{version}", "listen0")
    return Launch(PluginRef("auth", "mock"), version, "/bin/mock", "00", listen=(listener,))


A, B, C = map(listening, "abc")
PLAIN = replace(A, listen=())
MOUNT = Mount(MountKey(ROOT, "auth/a"))


def an_instance(launch: Launch) -> Instance:
    return Instance(InstanceId(launch.version), 1, launch)


def held(**state: object) -> str:
    """Versions whose listeners stay."""
    return "".join(sorted(listener.address[-1] for listener in kept_open(replace(MOUNT, **state))))


@pytest.mark.parametrize("phase", [Phase.STOPPED, Phase.FAILED])
def test_a_mount_at_rest_has_none_whatever_it_remembers(phase: Phase) -> None:
    assert held(phase=phase, good=A, instance=an_instance(B)) == ""


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"instance": an_instance(PLAIN)}, ""),
        ({"instance": an_instance(A)}, "a"),
        ({"instance": an_instance(A), "good": A}, "a"),
        ({"instance": an_instance(B), "good": A}, "b"),
        ({"instance": an_instance(B), "good": A, "watched": Replacement((), B, 0, fallback=A)}, "ab"),
        ({"instance": an_instance(A), "watched": Replacement((), B, 0, fallback=None)}, "a"),
        ({"instance": an_instance(A), "incoming": an_instance(B), "current": Replacement((), B, 0)}, "ab"),
        ({"instance": an_instance(B), "outgoing": an_instance(A)}, "ab"),
        ({"instance": an_instance(A), "rolled_back_from": B}, "a"),
    ],
)
def test_one_that_is_ready_has_what_runs_and_what_may_come_back(
    state: dict[str, object], expected: str
) -> None:
    assert held(phase=Phase.READY, **state) == expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"phase": Phase.BACKOFF, "wanted": A}, "a"),
        ({"phase": Phase.BACKOFF, "wanted": B, "good": A}, "ab"),
        ({"phase": Phase.STOPPING, "instance": an_instance(A)}, "a"),
        ({"phase": Phase.STOPPING, "instance": an_instance(A), "wanted": B}, "ab"),
        (
            {
                "phase": Phase.STOPPING,
                "instance": an_instance(A),
                "wanted": B,
                "current": Replacement((), B, 0, fallback=A),
                "queued": Replacement((), C, 0),
            },
            "abc",
        ),
        (
            {
                "phase": Phase.STARTING,
                "instance": an_instance(A),
                "current": Replacement((), B, 0, fallback=A, failure="exit 1"),
            },
            "a",
        ),
    ],
)
def test_one_on_its_way_has_what_it_may_start(state: dict[str, object], expected: str) -> None:
    assert held(**state) == expected
