"""Identity where pids come round within seconds, and plugind as the init of its pid namespace."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, Plugind, is_alive

from supervisor.host.identity import start_ticks
from supervisor.host.processes import Handle

UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
MOUNT = {"root": {"auth/mock": "{plugin: auth/mock}"}}
SLEEPER = "#!/bin/sh\nexec sleep 1000\n"
SOON = "stop: {timeout: 300ms}\nrestart: {backoff: 0s}"
WORKS = subprocess.run([*UNSHARE, "true"], capture_output=True, check=False)
# in a user namespace of a normal user it works too, but there the folders above belong to nobody, and plugind
# runs nothing that lies below such
pytestmark = pytest.mark.skipif(
    WORKS.returncode != 0, reason=f"needs root for a pid namespace: {WORKS.stderr.decode().strip()}"
)


def inside(what: str, folder: Path) -> Any:
    """Run a function of this module as the init of a pid namespace; what it returns."""
    code = f"import json, {__name__} as here; print(json.dumps(here.{what}(here.Path({str(folder)!r}))))"
    path = {"PYTHONPATH": f"{Path(__file__).parent}:{ROOT}"}
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | path,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def burn_to(pid: int) -> None:
    """The next process gets this pid."""
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))


def decoy_at(pid: int) -> subprocess.Popen[bytes]:
    burn_to(pid)
    decoy = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    assert decoy.pid == pid, (decoy.pid, pid)
    return decoy


def end(pid: int) -> None:
    with os.fdopen(os.pidfd_open(pid)) as handle:
        signal.pidfd_send_signal(handle.fileno(), signal.SIGKILL)


def reap(pid: int) -> None:
    """In here, we are the init that orphans come to."""
    os.waitpid(pid, 0)


# --- a plugin died with its daemon, and its pid is somebody else's


def daemon_in(folder: Path, text: str) -> Plugind:
    daemon = Plugind(folder)
    daemon.write({"v1": (daemon.plugin("plugin", text), [])}, MOUNT, "v1", SOON)
    return daemon.start()


def after_a_crash(folder: Path) -> dict[str, Any]:
    daemon = daemon_in(folder, SLEEPER)
    old = daemon.pids()["root:auth/mock"]
    daemon.kill()
    end(old)
    reap(old)
    decoy = decoy_at(old)
    daemon.start()
    started = daemon.pids()["root:auth/mock"]
    answer = daemon.reload().status
    reloaded = daemon.pids()["root:auth/mock"]
    daemon.stop()
    return {"old": old, "started": started, "reloaded": reloaded, "answer": answer, "decoy": decoy.poll()}


def test_a_pid_that_became_a_strangers_while_no_plugind_ran_is_left_alone(plugind: Plugind) -> None:
    told = inside("after_a_crash", plugind.folder)

    assert told["decoy"] is None, "a stranger was killed"
    assert told["started"] not in {told["old"], None}
    assert told["reloaded"] not in {told["old"], told["started"], None}
    assert told["answer"] == 200


# --- an adopted plugin dies: another init reaps it at once, and its pid is somebody else's


def adopted_and_gone(folder: Path) -> dict[str, Any]:
    daemon = daemon_in(folder, SLEEPER)
    old = daemon.pids()["root:auth/mock"]
    daemon.kill()
    daemon.start()
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    end(old)
    reap(old)
    burn_to(old)
    decoy = subprocess.Popen(["sh", "-c", "sleep 1000 & exec sleep 1000"], start_new_session=True)
    assert decoy.pid == old
    while not (children := Path(f"/proc/{old}/task/{old}/children").read_text().split()):
        pass
    daemon.process.send_signal(signal.SIGCONT)
    answer = daemon.call("POST", "supervisor/stop/auth/mock").data["result"]
    child = is_alive(int(children[0]))
    daemon.stop()
    return {"answer": answer, "decoy": decoy.poll(), "child": child}


def test_the_children_of_a_stranger_that_has_the_pid_of_an_adopted_instance_are_left_alone(
    plugind: Plugind,
) -> None:
    told = inside("adopted_and_gone", plugind.folder)

    assert told == {"answer": "stopped", "decoy": None, "child": True}


# --- between a look and a signal


def between_check_and_kill(_: Path) -> dict[str, Any]:
    victim = subprocess.Popen(["sleep", "1000"])
    handle = Handle.open(victim.pid, start_ticks(victim.pid))
    assert handle is not None
    victim.kill()
    victim.wait()
    decoy = decoy_at(victim.pid)
    sent = handle.send(signal.SIGKILL)
    handle.close()
    return {"sent": sent, "decoy": decoy.poll(), "again": Handle.open(victim.pid, handle.ticks) is not None}


def test_a_signal_goes_to_the_process_that_was_looked_at_and_to_no_later_one(plugind: Plugind) -> None:
    told = inside("between_check_and_kill", plugind.folder)

    assert told["sent"] is False
    assert told["decoy"] is None


# --- init


def test_plugind_as_init_reaps_every_orphan_and_kills_none_of_others(plugind: Plugind) -> None:
    """As in a container: what was there before it, and what enters, are nobody's instance."""
    script = 'sleep 0.2 & setsid sleep 1000 & exec "$@"'
    text = "#!/bin/sh\n(setsid sleep 0.1 &)\n(trap '' TERM; setsid sleep 1001 &)\nexec sleep 1001\n"
    plugind.write({"v1": (plugind.plugin("plugin", text), [])}, MOUNT, "v1", SOON)
    plugind.start(within=[*UNSHARE, "sh", "-c", script, "sh"])
    assert plugind.process is not None
    (init,) = children(plugind.process.pid)
    try:
        enters = ["nsenter", "--target", str(init), "--pid"]
        subprocess.run([*enters, "sh", "-c", "setsid sleep 1000 & setsid sleep 0.1 &"], check=True)
        plugind.until(lambda: len(sleepers(init, "1000")) == 2 and len(sleepers(init, "1001")) == 2)
        strangers, old = sleepers(init, "1000"), sleepers(init, "1001")

        answer = plugind.reload()
        plugind.until(lambda: all(is_alive(pid) for pid in children(init)), 5)

        assert answer.status == 200
        assert not any(is_alive(pid) for pid in old)
        assert sleepers(init, "1000") == strangers
        assert plugind.call("POST", "supervisor/stop/auth/mock").data["result"] == "stopped"
        assert set(children(init)) == strangers
        plugind.call("POST", "supervisor/start/auth/mock")
        with os.fdopen(os.pidfd_open(init)) as handle:
            signal.pidfd_send_signal(handle.fileno(), signal.SIGTERM)
        assert plugind.process.wait(10) == 0
        plugind.saw("daemon_stopped")
    finally:
        plugind.kill()  # and by that everything in there


def sleepers(init: int, seconds: str) -> set[int]:
    return {pid for pid in children(init) if words(pid) == ["sleep", seconds]}


def children(pid: int) -> list[int]:
    """Whichever of its threads they hang below."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for path in lists for word in path.read_text().split()]


def words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []
