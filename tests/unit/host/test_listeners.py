"""Held listeners: who has one, when it is opened and closed, and whose path is never taken."""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import may_take_descriptors

from supervisor.domain.catalog import Launch, Listener, Mark, MountSpec, Policies, ReloadPolicy
from supervisor.domain.errors import Cannot, SpawnRefused
from supervisor.domain.names import ROOT, InstanceId, MountKey, PluginRef
from supervisor.host.listeners import Listeners
from supervisor.host.records import RecordedSocket
from supervisor.host.sockets import floor

TAKES_DESCRIPTORS = pytest.mark.skipif(
    not may_take_descriptors(), reason="needs pidfd_getfd(2), which is not allowed here"
)
A, B = MountKey(ROOT, "auth/a"), MountKey(ROOT, "auth/b")
OWNER = os.geteuid(), os.getegid()
FIRST, SECOND = InstanceId("i-1"), InstanceId("i-2")


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    made = Listeners()
    yield made
    made.close()


@pytest.fixture
def one(tmp_path: Path) -> Listener:
    return Listener("stream", f"{tmp_path}/s", "listen0")


def spec(key: MountKey, *listen: Listener, order: str = "stop_first") -> MountSpec:
    launch = Launch(PluginRef("auth", "mock"), "v1", "/bin/mock", "00", listen=listen)
    policies = Policies(reload=ReloadPolicy(order=order))  # type: ignore[arg-type]
    return MountSpec(key, launch, policies, mark=Mark("c.yaml", 3, 5))


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def is_open(listener: Listener) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(listener.address) == 0


def test_what_is_reserved_is_open_until_it_is_released(listeners: Listeners, one: Listener) -> None:
    assert listeners.reserve("r1", [spec(A, one)], ()) == []
    assert listeners.reserve("r2", [spec(A, one)], ()) == []
    assert is_open(one)

    listeners.release("r1")
    assert is_open(one)
    listeners.release("r2", B)
    assert is_open(one)
    listeners.release("r2", A)

    assert not Path(one.address).exists()


def test_with_one_fault_nothing_stays_open_and_all_faults_are_told(
    listeners: Listeners, one: Listener, tmp_path: Path
) -> None:
    bad = [Listener("stream", f"{tmp_path}/{name}/x", "x") for name in ("no", "nope")]

    faults = listeners.reserve("r1", [spec(A, one, bad[0]), spec(B, bad[1])], ())

    assert [str(fault) for fault in faults] == [
        f"c.yaml:3:5: cannot run auth/mock v1 (/bin/mock) for auth/{mount}/ in root: "
        f"cannot listen on {tmp_path}/{folder}/x: there is no folder {tmp_path}/{folder}"
        for mount, folder in (("a", "no"), ("b", "nope"))
    ]
    assert names(tmp_path) == []


def test_a_fault_costs_nothing_that_was_reserved_before(listeners: Listeners, one: Listener) -> None:
    bad = Listener("stream", "/no/folder/x", "x")
    assert listeners.reserve("r1", [spec(A, one)], ()) == []

    assert listeners.reserve("r1", [spec(A, one, bad)], ()) != []

    assert is_open(one)


def test_a_check_leaves_nothing(listeners: Listeners, one: Listener, tmp_path: Path) -> None:
    assert listeners.check([spec(A, one)], ()) == []
    assert names(tmp_path) == []


def test_an_instance_gets_descriptors_that_are_none_of_a_plugins_numbers(
    listeners: Listeners, one: Listener
) -> None:
    (descriptor,) = listeners.take(A, FIRST, [one], OWNER)

    assert descriptor >= floor() == 67
    assert not os.get_inheritable(descriptor)
    assert listeners.take(A, SECOND, [one], OWNER) == (descriptor,)
    assert listeners.recorded([one])[0].inode == os.fstat(descriptor).st_ino


def test_it_is_blocking_unless_another_instance_may_have_chosen_otherwise(
    listeners: Listeners, one: Listener
) -> None:
    (descriptor,) = listeners.take(A, FIRST, [one], OWNER)
    os.set_blocking(descriptor, False)

    listeners.take(A, SECOND, [one], OWNER)
    assert not os.get_blocking(descriptor)
    listeners.given_back(FIRST)
    listeners.given_back(SECOND)
    listeners.take(A, InstanceId("i-3"), [one], OWNER)

    assert os.get_blocking(descriptor)


def test_mode_and_backlog_are_those_of_the_last_start(listeners: Listeners, tmp_path: Path) -> None:
    path = tmp_path / "s"
    for mode, expected in ((None, 0o666), (0o600, 0o600), (0o622, 0o622)):
        listeners.take(A, FIRST, [Listener("stream", str(path), "x", mode, backlog=3)], OWNER)
        assert path.stat().st_mode & 0o777 == expected


def test_two_mounts_never_have_it_together(listeners: Listeners, one: Listener) -> None:
    listeners.take(A, FIRST, [one], OWNER)

    (fault,) = listeners.reserve("r1", [spec(B, one)], ())
    assert "it is held for auth/a/ in root, and two mounts never share a socket" in fault.message
    with pytest.raises(SpawnRefused) as caught:
        listeners.take(B, SECOND, [one], OWNER)
    assert caught.value.transient


def test_one_that_leaves_hands_it_on_without_a_moment_in_which_it_is_closed(
    listeners: Listeners, one: Listener
) -> None:
    before = listeners.take(A, FIRST, [one], OWNER)
    assert listeners.reserve("r1", [spec(B, one)], {A}) == []
    with pytest.raises(SpawnRefused):
        listeners.take(B, SECOND, [one], OWNER)
    listeners.keep(B, [one])  # B wants it, and does not have it

    listeners.keep(A, ())

    assert listeners.take(B, SECOND, [one], OWNER) == before
    listeners.release("r1")
    assert is_open(one)
    listeners.keep(B, ())
    assert not Path(one.address).exists()


def test_what_a_mount_needs_no_more_is_closed(listeners: Listeners, one: Listener, tmp_path: Path) -> None:
    two = Listener("stream", f"{tmp_path}/two", "x")
    listeners.take(A, FIRST, [one, two], OWNER)

    listeners.keep(A, [two])

    assert (is_open(one), is_open(two)) == (False, True)
    assert names(tmp_path) == ["two"]
    listeners.keep_only([B])
    assert names(tmp_path) == []


def test_a_path_that_somebody_else_put_there_meanwhile_is_not_removed(
    listeners: Listeners, one: Listener
) -> None:
    listeners.take(A, FIRST, [one], OWNER)
    Path(one.address).unlink()
    Path(one.address).write_text("his")

    with pytest.raises(Cannot, match="what is there is no socket; move it away"):
        listeners.take(A, SECOND, [one], OWNER)
    listeners.keep(A, ())

    assert Path(one.address).read_text() == "his"


def test_a_path_that_vanished_is_bound_again(listeners: Listeners, one: Listener) -> None:
    listeners.take(A, FIRST, [one], OWNER)
    Path(one.address).unlink()

    listeners.take(A, SECOND, [one], OWNER)

    assert is_open(one)


def test_a_link_is_not_followed(listeners: Listeners, one: Listener, tmp_path: Path) -> None:
    (tmp_path / "precious").touch(mode=0o600)
    Path(one.address).symlink_to(tmp_path / "precious")

    with pytest.raises(Cannot, match="what is there is no socket"):
        listeners.take(A, FIRST, [one], OWNER)

    assert (tmp_path / "precious").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
@pytest.mark.parametrize("lives", [True, False])
def test_a_socket_is_replaced_only_if_nobody_has_it(
    listeners: Listeners, one: Listener, kind: int, *, lives: bool
) -> None:
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.bind(one.address)
        before = Path(one.address).stat().st_ino
        if not lives:
            sock.close()
        faults = listeners.reserve("r1", [spec(A, one)], ())

        assert bool(faults) is lives
        assert (Path(one.address).stat().st_ino == before) is lives or not lives


def test_over_an_upgrade_everything_goes_on_for_the_mounts_that_need_it(
    listeners: Listeners, one: Listener, tmp_path: Path
) -> None:
    two = Listener("stream", f"{tmp_path}/two", "x")
    listeners.take(A, FIRST, [one, two], OWNER)
    reserved = Listener("stream", f"{tmp_path}/three", "x")
    listeners.reserve("r1", [spec(A, reserved)], ())
    after = Listeners()
    after.take_over(listeners.leave())

    after.adopt(A, FIRST, [one, two], (), [])
    after.keep(A, [one])
    after.keep_only([A])

    assert (is_open(one), is_open(two), is_open(reserved)) == (True, False, False)
    assert names(tmp_path) == [Path(one.address).name]
    after.close()
    assert Path(one.address).is_socket()  # this plugind ended; what lives goes on with it


@TAKES_DESCRIPTORS
def test_one_that_is_found_in_a_living_process_is_held_again(listeners: Listeners, one: Listener) -> None:
    """Here it is this process itself that has it."""
    former = Listeners()
    former.take(A, FIRST, [one], OWNER)
    recorded = former.recorded([one])

    listeners.adopt(A, FIRST, [one], recorded, [os.getpid()])

    assert listeners.recorded([one]) == recorded
    former.close()
    assert is_open(one)
    listeners.keep(A, ())
    assert not Path(one.address).exists()


def test_one_that_cannot_be_taken_back_stays_its_instances_until_that_is_gone(
    listeners: Listeners, one: Listener
) -> None:
    former = Listeners()
    former.take(A, FIRST, [one], OWNER)
    recorded = former.recorded([one])
    listeners.adopt(A, FIRST, [one], recorded, [])

    (trouble,) = listeners.troubles()
    assert trouble.startswith(f"{one.address} is held by the instance of auth/a/ in root only: no process of")
    assert trouble.endswith("connections are refused while that is replaced")
    assert listeners.reserve("r1", [spec(A, one)], ()) == []
    (fault,) = listeners.check([spec(A, one, order="start_first")], ())
    assert "only that one has the socket since plugind was killed" in fault.message
    (fault,) = listeners.check([spec(B, one)], ())
    assert "it is held for auth/a/ in root" in fault.message
    former.close()
    listeners.given_back(FIRST)

    assert not Path(one.address).exists()
    assert listeners.troubles() == []
    listeners.take(A, SECOND, [one], OWNER)
    assert is_open(one)


def test_of_two_instances_that_have_it_the_last_one_counts(listeners: Listeners, one: Listener) -> None:
    for instance in (FIRST, SECOND):
        listeners.adopt(A, instance, [one], (), [])

    listeners.given_back(FIRST)
    assert len(listeners.troubles()) == 1
    listeners.given_back(SECOND)

    assert listeners.troubles() == []


def test_a_socket_that_cannot_be_looked_at_for_a_moment_is_a_refusal_with_its_reason(
    listeners: Listeners, one: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: int) -> os.stat_result:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    listeners.take(A, FIRST, [one], OWNER)
    Path(one.address).unlink()
    monkeypatch.setattr(os, "fstat", refused)

    (fault,) = listeners.check([spec(A, one)], ())
    with pytest.raises(SpawnRefused, match="Cannot allocate memory") as error:
        listeners.recorded([one])

    monkeypatch.undo()
    assert "Cannot allocate memory" in fault.message
    assert error.value.transient


@TAKES_DESCRIPTORS
def test_one_is_had_by_one_and_not_by_the_other(listeners: Listeners, one: Listener) -> None:
    """Of two instances that overlapped, the second one's process still has the socket."""
    former = Listeners()
    former.take(A, FIRST, [one], OWNER)
    listeners.adopt(A, FIRST, [one], former.recorded([one]), [])

    listeners.adopt(A, SECOND, [one], former.recorded([one]), [os.getpid()])

    former.close()
    assert listeners.troubles() == []
    listeners.given_back(FIRST)
    assert is_open(one)


def test_what_nobody_has_after_a_death_leaves_no_file(listeners: Listeners, one: Listener) -> None:
    former = Listeners()
    former.take(A, FIRST, [one], OWNER)
    recorded = former.recorded([one])
    former.close()

    listeners.ended([RecordedSocket("stream", one.address, 1, (1, 2))])
    assert Path(one.address).exists()  # that is another file
    listeners.ended(recorded)

    assert not Path(one.address).exists()
