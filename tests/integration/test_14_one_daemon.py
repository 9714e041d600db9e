"""One plugind for a socket, and one instance for a mount, whoever starts whatever at the same time."""

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from harness import BIN, Plugind, is_alive
from test_05_a_crash import SLEEPER

MOUNT = {"root": {"auth/mock": "{plugin: auth/mock}"}}


def write(plugind: Plugind) -> None:
    plugind.write({"v1": (plugind.plugin("plugin", SLEEPER), [])}, MOUNT, "v1")


def test_of_many_that_start_at_once_one_runs_and_the_others_name_it(plugind: Plugind) -> None:
    write(plugind)
    command = [BIN / "plugind", "--config", plugind.config]
    several = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        plugind.until(lambda: sum(one.poll() is not None for one in several) == 2, 60)
        (winner,) = [one for one in several if one.poll() is None]
        plugind.until(lambda: is_up(plugind), 60)

        assert len(plugind.living()) == 1
        for loser in several:
            if loser is not winner:
                assert loser.returncode == 3
                assert loser.stderr is not None
                assert str(winner.pid) in loser.stderr.read()
        assert winner.poll() is None
    finally:
        for one in several:
            if one.poll() is None:
                one.terminate()
            one.communicate(timeout=60)


def is_up(plugind: Plugind) -> bool:
    try:
        return [row["state"] for row in plugind.rows().values()] == ["ready"]
    except OSError:
        return False


def test_what_a_killed_daemon_or_a_stranger_left_at_the_socket_is_no_hindrance(plugind: Plugind) -> None:
    """A socket that nobody listens on, a lock that nobody holds with a stranger's pid in it."""
    write(plugind)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(plugind.socket))
    Path(f"{plugind.socket}.lock").write_text(f"{os.getpid()}\n")

    plugind.start()

    assert [row["state"] for row in plugind.rows().values()] == ["ready"]


def test_a_socket_that_answers_is_nobodys_to_remove(plugind: Plugind) -> None:
    write(plugind)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(plugind.socket))
        other.listen()

        done = run(plugind.config)

        assert done.returncode == 3
        assert str(os.getpid()) in done.stderr
        assert plugind.socket.exists()
    plugind.socket.unlink()


def test_a_path_that_is_too_long_for_a_socket_is_told_with_its_length(plugind: Plugind) -> None:
    write(plugind)
    long = plugind.folder / ("x" * (108 - len(str(plugind.folder)) - 1))
    plugind.config.write_text(plugind.config.read_text().replace(str(plugind.socket), str(long)))

    done = run(plugind.config)

    assert done.returncode == 2
    assert "at most 107 bytes, this one 108" in done.stderr
    assert plugind.living() == set()


@pytest.mark.parametrize("shared", ["runtime_dir", "state_dir"])
def test_a_second_one_at_another_socket_does_not_get_the_folders_of_the_first(
    plugind: Plugind, shared: str
) -> None:
    """It would adopt the instances of the first, and stop them at its end."""
    write(plugind)
    plugind.start()
    pids = plugind.pids()
    other = plugind.folder / "other.yaml"
    text = plugind.config.read_text().replace("control.sock", "other.sock")
    own = {"runtime_dir": ("/run\n", "/run2\n"), "state_dir": ("/state\n", "/state2\n")}
    for name, (old, new) in own.items():
        text = text if name == shared else text.replace(old, new)
    other.write_text(text)

    second = run(other)

    assert plugind.process is not None
    assert second.returncode == 3
    assert str(plugind.process.pid) in second.stderr
    assert plugind.pids() == pids
    assert all(is_alive(pid) for pid in pids.values())


def run(config: Path) -> "subprocess.CompletedProcess[str]":
    command = [BIN / "plugind", "--config", config]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_records_of_an_earlier_boot_are_set_aside_and_their_pids_left_alone(plugind: Plugind) -> None:
    write(plugind)
    plugind.start()
    plugind.kill()
    (record,) = (plugind.folder / "run/instances").glob("*.json")
    (pid,) = plugind.living()
    text = json.loads(record.read_text())
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as decoy:
        try:
            ticks = int(Path(f"/proc/{decoy.pid}/stat").read_text().rpartition(")")[2].split()[19])
            earlier = text | {"boot_id": "0" * 36, "pid": decoy.pid, "start_ticks": ticks}
            record.write_text(json.dumps(earlier))
            with os.fdopen(os.pidfd_open(pid)) as handle:
                signal.pidfd_send_signal(handle.fileno(), signal.SIGKILL)

            plugind.start()
            plugind.reload()
            plugind.stop()

            assert decoy.poll() is None
            assert any("earlier boot" in entry.get("reason", "") for entry in plugind.log)
            assert list((plugind.folder / "run/instances/set-aside").iterdir())
        finally:
            decoy.kill()
