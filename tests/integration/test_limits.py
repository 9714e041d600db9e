"""What a plugin may use and who it is: in force before its first instruction, refused where it cannot be."""

import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import BIN, Plugind

IS_ROOT = os.geteuid() == 0
NICER = min(os.nice(0) + 10, 19)
SLEEPER = "#!/bin/sh\nexec sleep 1000\n"
MOUNT = {"root": {"auth/mock": "{plugin: auth/mock}"}}


def runs(plugind: Plugind, settings: str, text: str = SLEEPER) -> int:
    path = plugind.plugin("plugin", text)
    plugind.write({"v1": (path, [])}, MOUNT, "v1", settings)
    if plugind.process is None:
        plugind.start()
    else:
        assert plugind.reload().status == 200
    return plugind.pids()["root:auth/mock"]


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def limits(pid: int) -> dict[str, tuple[str, str]]:
    """Soft and hard, by the name that the kernel writes."""
    return parsed(Path(f"/proc/{pid}/limits").read_text())


def parsed(text: str) -> dict[str, tuple[str, str]]:
    lines = text.splitlines()[1:]
    return {line[:26].strip(): (line[26:47].strip(), line[47:68].strip()) for line in lines}


def nice(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16])


def oom_score_adj(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def may_lower_its_score() -> bool:
    capabilities = int(status(os.getpid())["CapEff"], 16)
    return bool(capabilities >> 24 & 1)  # CAP_SYS_RESOURCE: root in a container may lack it


@contextmanager
def started_by(plugind: Plugind, *command: str) -> Iterator[None]:
    """A plugind that some program starts; its log goes nowhere."""
    plugind.process = subprocess.Popen(
        [*command, BIN / "plugind", "--config", plugind.config],
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )

    def is_ready() -> bool:
        try:
            return {row["state"] for row in plugind.rows().values()} == {"ready"}
        except OSError:
            return False

    plugind.until(is_ready)
    yield
    plugind.stop()


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plugind]:
    folder = tmp_path_factory.mktemp("p")
    folder.chmod(0o755)
    daemon = Plugind(folder)
    yield daemon
    daemon.stop()


def test_limits_are_those_of_the_process_and_hold_for_the_first_instruction(limited: Plugind) -> None:
    told = limited.folder / "told"
    script = f"#!/bin/sh\ncat /proc/self/limits > {told}.new\nmv {told}.new {told}\nexec sleep 1000\n"
    pid = runs(limited, "limits: {nofile: 77, nproc: 4000, core: 1MiB}", script)
    limited.until(told.exists)

    for found in (limits(pid), parsed(told.read_text())):
        assert found["Max open files"] == ("77", "77")
        assert found["Max processes"] == ("4000", "4000")
        assert found["Max core file size"] == ("1048576", "1048576")


def test_a_limit_that_is_not_asked_for_is_plugindens_own_from_before_it_raised_it(limited: Plugind) -> None:
    pid = runs(limited, "limits: {}")

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert limits(pid)["Max open files"] == (str(soft), str(hard))


def test_nice_oom_score_and_umask_are_those_of_the_process(limited: Plugind) -> None:
    pid = runs(limited, 'umask: "027"\nlimits: {nice: 7, oom_score_adj: 321}\ncwd: /usr')
    limited.until(lambda: status(pid)["Name"] == "sleep")

    assert (nice(pid), oom_score_adj(pid), status(pid)["Umask"]) == (7, 321, "0027")
    assert os.readlink(f"/proc/{pid}/cwd") == "/usr"  # noqa: PTH115 - as text


def test_the_helper_leaves_the_pid_and_the_name_of_the_plugin(limited: Plugind) -> None:
    pid = runs(limited, "limits: {nofile: 99, nice: 3}\ncwd: /usr")

    limited.until(lambda: status(pid)["Name"] == "sleep")
    assert os.getsid(pid) == pid


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ("limits: {nofile: 9000000000}", "limits.nofile is 9000000000: the kernel allows"),
        ("groups: [no-such-group]", "group no-such-group does not exist"),
        ("group: no-such-group", "group no-such-group does not exist"),
    ],
)
def test_what_cannot_be_applied_is_refused_before_anything_is_stopped(
    limited: Plugind, settings: str, why: str
) -> None:
    before = runs(limited, "limits: {}")
    limited.write({"v1": (limited.folder / "plugin", [])}, MOUNT, "v1", settings)

    answers = [
        limited.reload(),
        limited.call("POST", "supervisor/apply", {}),
    ]

    for answer in answers:
        assert answer.status == 400
        assert why in answer.error
        assert str(limited.catalog) in answer.error
    assert limited.pids()["root:auth/mock"] == before


@pytest.mark.skipif(not IS_ROOT, reason="needs root to run as somebody else")
def test_supplementary_groups_are_those_that_are_written(limited: Plugind) -> None:
    with tempfile.TemporaryDirectory(prefix="plugind-", dir="/tmp") as name:
        folder = Path(name)  # where somebody else can reach
        folder.chmod(0o755)
        path = folder / "plugin"
        path.write_text(SLEEPER)
        path.chmod(0o755)
        groups = {}
        for number, settings in enumerate(
            ["groups: [audio, 4]", "groups: []", "user: nobody\ngroup: nogroup\ngroups: [audio]"]
        ):
            limited.write({f"v{number}": (path, [])}, MOUNT, f"v{number}", settings)
            if limited.process is None:
                limited.start()
            assert limited.call("POST", "supervisor/apply", {}).status == 200
            pid = limited.pids()["root:auth/mock"]
            limited.until(
                lambda pid=pid: status(pid)["Name"] in {"plugin", "sleep"}
            )  # all helpers are through
            found = status(pid)
            groups[settings] = (found["Uid"].split()[0], set(found["Groups"].split()))
        runs(limited, "limits: {}")

    assert list(groups.values()) == [("0", {"29", "4"}), ("0", set()), ("65534", {"29"})]


@pytest.mark.skipif(not IS_ROOT, reason="needs root to be lowered and to raise")
def test_plugins_start_afresh_whatever_plugind_was_started_with(plugind: Plugind) -> None:
    path = plugind.plugin("plugin", SLEEPER)
    plugind.write({"v1": (path, [])}, MOUNT, "v1")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    score = -900 if may_lower_its_score() else 300
    script = f"umask 0777; trap '' PIPE INT; ulimit -c 0; echo {score} >/proc/self/oom_score_adj; exec \"$@\""
    try:
        command = ["/bin/sh", "-c", script, "sh", "nice", "-n", "10"]
        with started_by(plugind, *command):
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            pid = plugind.pids()["root:auth/mock"]
            assert plugind.process is not None
            assert (nice(plugind.process.pid), oom_score_adj(plugind.process.pid)) == (NICER, score)

            plugind.until(lambda: status(pid)["Name"] == "sleep")
            found = status(pid)

            assert (nice(pid), oom_score_adj(pid)) == (0, 0)
            assert (found["SigBlk"], found["Umask"]) == ("0" * 16, "0022")
            assert not int(found["SigIgn"], 16) & ~(0b11 << 31)  # 32 and 33 belong to the C library
            assert limits(pid)["Max core file size"] == ("0", "0")  # documented: plugind's own
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert plugind.process.returncode == 0  # SIGTERM was blocked, and ended it all the same


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ("limits: {nofile: 5000}", "limits.nofile is 5000: plugind may not raise its own hard limit, 4096"),
        ("limits: {nice: -1}", "limits.nice is -1: plugind may not lower its own, "),
        ("limits: {oom_score_adj: -1}", "limits.oom_score_adj is -1: plugind may not lower its own, 0"),
    ],
)
def test_what_a_plugind_without_the_right_cannot_give_is_refused(
    plugind: Plugind, settings: str, why: str
) -> None:
    path = plugind.plugin("plugin", SLEEPER)
    plugind.write({"v1": (path, [])}, MOUNT, "v1")
    drop = (
        ["setpriv"]
        if not IS_ROOT
        else ["setpriv", "--bounding-set=-sys_resource,-sys_nice", "--inh-caps=-sys_resource,-sys_nice"]
    )
    with started_by(plugind, "prlimit", "--nofile=1024:4096", "--", *drop, "--"):
        before = plugind.pids()
        plugind.write({"v1": (path, [])}, MOUNT, "v1", settings)

        answer = plugind.reload()

        assert answer.status == 400
        assert why in answer.error
        assert plugind.pids() == before
