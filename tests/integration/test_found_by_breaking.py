"""What a second pair of eyes broke once: each test is a sequence of events that cost a guarantee."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import BIN, Plugind, is_alive, processes_below

SLEEPER = "#!/bin/sh\nexec sleep 1000\n"
SLOW_TO_STOP = "#!/bin/sh\ntrap 'sleep 0.3; exit 0' TERM\nwhile :; do sleep 0.05; done\n"
SOON = "stop: {timeout: 300ms}"
HIDES = "#!/bin/sh\nsetsid env -i /bin/sleep {number} </dev/null >/dev/null 2>&1 &\nexec sleep 1000\n"
COMETS = """#!/usr/bin/python3
import os, time
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        end = time.monotonic() + 30  # where plugind fails, the machine is not left to them
        while time.monotonic() < end:
            if os.fork():
                os._exit(0)
        os._exit(0)
time.sleep(1000)
"""


def mounts(count: int) -> dict[str, dict[str, str]]:
    return {"root": {f"auth/m{number}": "{plugin: auth/mock}" for number in range(count)}}


def runs(plugind: Plugind, text: str, count: int = 1, settings: str = "") -> None:
    path = plugind.plugin("plugin", text)
    plugind.write({"v1": (path, [])}, mounts(count), "v1", settings)
    plugind.start()


def hidden(number: int) -> list[int]:
    """Processes `sleep number`, which carry nothing in their environment."""
    found: list[int] = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - names only
        if name.isdigit():
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if line[:2] == [b"/bin/sleep", str(number).encode()]:
                found.append(int(name))
    return found


def instances_alive(plugind: Plugind) -> set[str]:
    environs = processes_below(plugind.folder).values()
    return {word for environ in environs for word in environ.split() if word.startswith("PLUGIND_INSTANCE=")}


@pytest.fixture
def number() -> Iterator[int]:
    """Of seconds that no other test sleeps."""
    number = 700_000 + os.getpid() % 100_000
    yield number
    for pid in hidden(number):
        with os.fdopen(os.pidfd_open(pid)) as handle:
            signal.pidfd_send_signal(handle.fileno(), signal.SIGKILL)


def test_two_applies_at_once_remove_a_mount_and_both_say_so(plugind: Plugind) -> None:
    runs(plugind, SLOW_TO_STOP, 4)
    plugind.write({"v1": (plugind.folder / "plugin", [])}, mounts(1), "v1")

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: plugind.call("POST", "supervisor/apply", {}), range(4)))

    assert {row["result"] for answer in answers for row in answer.data["mounts"]} == {"stopped", "unchanged"}
    assert len(instances_alive(plugind)) == 1


def test_a_stop_command_that_hangs_ends_with_its_instance(plugind: Plugind) -> None:
    runs(plugind, SLEEPER, settings="stop: {timeout: 300ms, command: [/bin/sleep, '777']}")

    answer = plugind.call("POST", "supervisor/stop/auth/m0")

    assert answer.data["result"] == "stopped"
    assert plugind.living() == set()


@pytest.mark.parametrize("where", ["a full disk", "a pipe without reader"])
def test_a_log_of_plugind_that_cannot_be_written_stops_no_mount(plugind: Plugind, where: str) -> None:
    path = plugind.plugin("plugin", SLEEPER)
    plugind.write({"v1": (path, [])}, mounts(1), "v1")
    if where == "a full disk":
        stderr = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, stderr = os.pipe()
        os.close(reader)
    command = [BIN / "plugind", "--config", plugind.config]
    plugind.process = subprocess.Popen(command, stderr=stderr, stdin=subprocess.DEVNULL)
    os.close(stderr)

    def is_ready() -> bool:
        try:
            return [row["state"] for row in plugind.rows().values()] == ["ready"]
        except OSError:
            return False

    plugind.until(is_ready)

    assert plugind.reload().status == 200


def test_plugins_start_where_plugind_has_more_descriptors_than_their_soft_limit(plugind: Plugind) -> None:
    path = plugind.plugin("plugin", SLEEPER)
    plugind.write({"v1": (path, [])}, mounts(30), "v1")
    command = ["prlimit", "--nofile=64:4096", BIN / "plugind", "--config", plugind.config]
    plugind.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)

    def are_ready() -> bool:
        try:
            return [row["state"] for row in plugind.rows().values()] == ["ready"] * 30
        except OSError:
            return False

    plugind.until(are_ready)

    assert len(os.listdir(f"/proc/{plugind.process.pid}/fd")) > 64  # noqa: PTH208 - names only


def test_nothing_is_started_while_plugind_ends(plugind: Plugind) -> None:
    runs(plugind, SLOW_TO_STOP, 2)
    path = plugind.folder / "plugin"
    plugind.write({"v1": (path, []), "v2": (path, ["x"])}, mounts(30), "v2")
    plugind.call("POST", "supervisor/apply", {"wait": False, "parallel": 2})

    status = plugind.stop()

    assert status == 0
    assert plugind.living() == set()


def test_commands_wait_until_what_lives_is_adopted(plugind: Plugind) -> None:
    runs(plugind, "#!/bin/sh\n(trap '' TERM; setsid sleep 1000) &\nexec sleep 1000\n", 3, SOON)
    plugind.kill()
    next((plugind.folder / "run/instances").glob("*.json")).unlink()  # a stray to kill: that takes a moment
    over = threading.Event()

    def hammer() -> None:
        while not over.is_set():
            try:
                plugind.reload(on_failure="continue")
            except OSError:
                over.wait(0.001)

    threads = [threading.Thread(target=hammer) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        plugind.start()
    finally:
        over.set()
        for thread in threads:
            thread.join()

    assert len(instances_alive(plugind)) == 3


def test_what_lies_in_the_place_of_a_tmpdir_is_replaced(plugind: Plugind) -> None:
    runs(plugind, SLEEPER)
    base, generation = plugind.rows()["root:auth/m0"]["instance"].rsplit("-", 1)
    planted = plugind.folder / "run/tmp" / f"{base}-{int(generation) + 1}"
    planted.symlink_to(plugind.folder / "catalog.yaml")

    answer = plugind.reload()

    assert answer.status == 200
    assert planted.is_dir()
    assert not planted.is_symlink()


def test_an_adopted_instance_ends_with_what_cleared_its_environment(plugind: Plugind, number: int) -> None:
    runs(plugind, HIDES.format(number=number), settings=SOON)
    plugind.until(lambda: len(hidden(number)) == 1)
    plugind.kill()
    plugind.start()
    before = hidden(number)

    answer = plugind.reload()

    assert answer.status == 200
    assert not any(is_alive(pid) for pid in before)
    plugind.stop()
    assert hidden(number) == []


def test_what_cleared_its_environment_dies_where_its_main_process_is_dead(
    plugind: Plugind, number: int
) -> None:
    runs(plugind, HIDES.format(number=number), settings=SOON)
    plugind.until(lambda: len(hidden(number)) == 1)
    before, (main,) = hidden(number), plugind.living()
    plugind.kill()
    with os.fdopen(os.pidfd_open(main)) as handle:
        signal.pidfd_send_signal(handle.fileno(), signal.SIGKILL)

    plugind.start()

    assert not any(is_alive(pid) for pid in before)
    plugind.stop()


def test_the_instances_of_another_plugind_with_the_same_catalog_are_strangers(
    plugind: Plugind, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("other")
    folder.chmod(0o755)
    other = Plugind(folder)
    runs(plugind, SLEEPER)
    other.write({"v1": (plugind.folder / "plugin", [])}, mounts(1), "v1")
    other.start()
    try:
        theirs = other.pids()
        plugind.kill()
        plugind.start()

        plugind.reload()

        assert other.pids() == theirs
        assert all(is_alive(pid) for pid in theirs.values())
    finally:
        other.stop()


def test_a_process_that_forks_and_exits_all_the_time_does_not_get_away(plugind: Plugind) -> None:
    runs(plugind, COMETS, settings="stop: {timeout: 200ms}")

    answers = [plugind.reload() for _ in range(3)]
    stopped = plugind.call("POST", "supervisor/stop/auth/m0")

    assert [answer.status for answer in answers] == [200, 200, 200]
    assert stopped.data["result"] == "stopped"
    assert not any(plugind.living() for _ in range(20))


def test_a_want_of_descriptors_leaves_the_control_socket_and_the_running_mounts_alone(
    plugind: Plugind,
) -> None:
    path = plugind.plugin("plugin", "#!/bin/sh\nsleep 1000 &\nexec sleep 1000\n")
    plugind.write({"v1": (path, [])}, mounts(14), "v1", SOON)
    command = ["prlimit", "--nofile=64:64", BIN / "plugind", "--config", plugind.config]
    plugind.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)

    def is_full() -> bool:
        try:
            rows = plugind.rows().values()
        except OSError:
            return False
        return len(rows) == 14 and all(
            row["state"] == "ready" or "descriptors" in (row["reason"] or "") for row in rows
        )

    plugind.until(is_full)
    before = instances_alive(plugind)

    asked = plugind.reload(on_failure="continue", wait=False).data["reload_id"]
    # a start is tried again for 30 s
    plugind.until(lambda: plugind.call("GET", f"supervisor/reloads/{asked}").data["done"], 60)

    assert instances_alive(plugind) <= {
        f"PLUGIND_INSTANCE={row['instance']}" for row in plugind.rows().values() if row["pid"]
    }
    assert not instances_alive(plugind) & before
