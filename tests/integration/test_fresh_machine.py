"""A fresh clone and the README's commands, as whoever gets the project runs them."""

import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from readme_examples import ROOT, SHOWN_FOLDER, Document, as_in_a_terminal

NOBODY = 65534
SYSTEM_PYTHON = "/usr/bin/python3"
BUILD = 150.0
DEADLINE = 30.0
NEEDED = ("PATH", "LANG", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def environment(home: Path) -> dict[str, str]:
    """As a user has it: not the caller's virtual environment, but its way to the package index."""
    environ = {name: value for name, value in os.environ.items() if name in NEEDED or name.startswith("PIP_")}
    own = str(Path(sys.executable).parent)
    folders = [folder for folder in environ["PATH"].split(":") if folder != own]
    return {**environ, "PATH": ":".join(folders), "HOME": str(home)}


def base_python() -> str:
    """The interpreter below the virtual environment that runs this."""
    return getattr(sys, "_base_executable", None) or sys.executable


@dataclass
class Clone:
    """A clone, made with some umask and owned by somebody, and what make does there."""

    folder: Path
    python: str
    uid: int | None = None
    environ: dict[str, str] = field(default_factory=dict)

    def clone(self, umask: str) -> "Clone":
        source = self.folder.parent / "source.git"
        subprocess.run(["git", "clone", "-q", "--bare", ROOT, source], check=True)
        if self.uid is not None:  # git reads only repositories of its user
            subprocess.run(["chown", "-R", f"{self.uid}:{self.uid}", self.folder.parent], check=True)
        self.sh(f"umask {umask} && git clone -q {source} {self.folder}", self.folder.parent)
        return self

    def as_user(self, *words: str) -> list[str]:
        if self.uid is None:
            return list(words)
        user = [f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups"]
        return ["setpriv", *user, "sh", "-c", 'exec "$0" "$@"', *words]

    def sh(self, command: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            self.as_user("sh", "-c", command),
            check=False,
            cwd=cwd or self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BUILD,
        )
        assert done.returncode == 0, (command, done.stdout)
        return done.stdout

    def run(self) -> "Running":
        process = subprocess.Popen(
            as_in_a_terminal(*self.as_user("make", "run", f"PYTHON={self.python}")),
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return Running(self, process, time.monotonic())

    def ctl(self, *words: str) -> str:
        return self.sh(" ".join([".venv/bin/pluginctl --socket run/control.sock", *words]))


@dataclass
class Running:
    """A `make run` in a session of its own, as in a terminal."""

    clone: Clone
    process: "subprocess.Popen[str]"
    began: float
    lines: list[str] = field(default_factory=list)

    def announced(self) -> float:
        """The seconds until it said how it is stopped, the last line of its announcement."""
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("Ctrl-C"):
                return time.monotonic() - self.began
        raise AssertionError((self.process.wait(DEADLINE), self.lines))

    def announcement(self) -> list[str]:
        """What it says to people, without its log and what pip says."""
        first = next(n for n, line in enumerate(self.lines) if line.startswith("plugind answers"))
        return [line for line in self.lines[first:] if not line.startswith("{")]

    def interrupt(self) -> str:
        """Ctrl-C: the terminal signals the whole foreground group. What it says from then on."""
        os.killpg(self.process.pid, signal.SIGINT)  # noqa: TID251 - our own child's group, not yet waited for
        out, _ = self.process.communicate(timeout=DEADLINE)
        return out

    def close(self) -> None:
        if self.process.poll() is None:
            self.interrupt()


def processes_of(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if f"{folder}/".encode() in told and state != "Z" and int(entry.name) != os.getpid():
            found.append(f"{entry.name}: {told[:300]!r}")
    return found


@pytest.fixture
def place() -> Iterator[Path]:
    # pytest's own tmp_path may be too long for a Unix socket, and is closed to other users
    with tempfile.TemporaryDirectory(prefix="plugind-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        assert processes_of(Path(folder)) == []


@pytest.fixture
def running() -> Iterator[list[Running]]:
    started: list[Running] = []
    yield started
    for one in started:
        one.close()


def a_home(place: Path) -> Path:
    home = place / "home"
    home.mkdir()
    return home


def works(clone: Clone, running: list[Running]) -> None:
    """The story of the README's first page, and Ctrl-C."""
    running.append(first := clone.run())
    first_took = first.announced()
    said = "\n".join(first.announcement()).replace(str(clone.folder), SHOWN_FOLDER)
    assert said == Document.read(ROOT / "README.md").blocks("console make run")[0].rstrip("\n")

    tries = re.findall(r"^  (.*)$", "\n".join(first.announcement()), re.MULTILINE)
    deadline = time.monotonic() + DEADLINE
    while not (status := clone.sh(tries[0])).endswith("demo: 5 mounts: 5 ready\n"):
        assert time.monotonic() < deadline, status
    _, reloaded = [clone.sh(command) for command in tries[1:]]
    assert reloaded.count("v1.0.0 → v1.1.0") == 3, reloaded
    clone.sh("git diff --quiet && exit 1 || git checkout -q config")  # it ran the checkout's own catalog
    old = clone.ctl("--json")

    assert '"event": "daemon_stopped"' in first.interrupt()
    assert first.process.returncode in {0, 130, -signal.SIGINT, 2}
    assert processes_of(clone.folder) == []
    assert not (clone.folder / "run" / "control.sock").exists()

    running.append(second := clone.run())
    second_took = second.announced()
    assert second_took < max(2.0, first_took / 3), (first_took, second_took)
    assert clone.ctl("--json") != old
    second.interrupt()
    assert processes_of(clone.folder) == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("umask", "uid"),
    [
        pytest.param("002", None, id="umask-002"),
        # whoever is no root already has been a normal user in the first
        *([pytest.param("022", NOBODY, id="normal-user")] if os.getuid() == 0 else []),
    ],
)
def test_a_fresh_clone_runs_after_one_command(
    umask: str, uid: int | None, place: Path, running: list[Running]
) -> None:
    (place / "u").mkdir()
    python = base_python() if uid is None else a_python_for_everybody()
    clone = Clone(place / "u" / "x", python, uid, environment(a_home(place / "u"))).clone(umask)
    assert bool(clone.folder.stat().st_mode & stat.S_IWGRP) == (umask == "002")

    works(clone, running)


def test_a_folder_too_deep_for_sockets_is_said_with_a_way_out(place: Path, running: list[Running]) -> None:
    deep = place / ("d" * 70)
    deep.mkdir()
    clone = a_built_clone(deep)

    running.append(refused := clone.run())
    out, _ = refused.process.communicate(timeout=DEADLINE)

    assert refused.process.returncode == 2
    assert "Name a shorter folder: make run RUN=/tmp/plugind\n" in out


def a_python_for_everybody() -> str:
    """One that a user without rights can make environments with; Debian's, where ours lies in /root."""
    code = "import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))"
    as_nobody = Clone(Path("/"), "", NOBODY).as_user
    for python in (base_python(), SYSTEM_PYTHON):
        if subprocess.run(as_nobody(python, "-c", code), check=False, capture_output=True).returncode == 0:
            return python
    subprocess.run(["sh", ROOT / "config" / "need-venv.sh", SYSTEM_PYTHON], check=True)
    return SYSTEM_PYTHON


def test_a_second_make_run_says_who_runs_already(place: Path, running: list[Running]) -> None:
    clone = a_built_clone(place)
    running.append(first := clone.run())
    first.announced()

    running.append(second := clone.run())
    out, _ = second.process.communicate(timeout=DEADLINE)

    assert second.process.returncode == 2
    assert re.search(r"plugind is already running there \(pid \d+\)", out), out
    assert "plugind answers" not in out
    assert "Error 3" in out


def a_built_clone(place: Path) -> Clone:
    """A clone with the environment of this checkout: nothing has to be installed."""
    clone = Clone(place / "x", base_python(), environ=environment(a_home(place))).clone("022")
    (clone.folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    ready = clone.folder / ".venv" / "ready"
    for file in ("pyproject.toml", "constraints.txt"):  # older than what was built from them
        os.utime(clone.folder / file, (0, 0))
    if not ready.exists():
        pytest.fail("make test builds .venv/ready before it runs tests: run it once")
    return clone


@pytest.mark.timeout(300)
def test_what_make_install_installs_works(place: Path) -> None:
    clone = Clone(place / "x", base_python(), environ=environment(a_home(place))).clone("022")
    target = place / "d"

    clone.sh(f"make install DESTDIR={target} PREFIX=/usr PYTHON={clone.python}")

    python = target / "usr/lib/plugind/bin/python"
    for name in ("plugind", "pluginctl"):
        program = target / "usr/bin" / name
        assert program.read_text().splitlines()[0] == "#!/usr/lib/plugind/bin/python"
        out = subprocess.run([python, program, "--version"], check=True, capture_output=True, text=True)
        assert re.fullmatch(rf"{name},? (version )?\d+\.\d+\.\d+\n", out.stdout)
    settings = target / "etc/plugind/plugind.yaml"
    assert settings.read_text() == (clone.folder / "config/plugind.yaml").read_text()
    settings.write_text("node: mine\n")
    clone.sh(f"make -n install DESTDIR={target} PREFIX=/usr | tail -n 1 | sh -e")  # its last step, again
    assert settings.read_text() == "node: mine\n"


@pytest.mark.parametrize(("is_root", "has_sudo"), [(True, False), (False, True), (False, False)])
def test_a_python_without_venv_is_mended_or_the_command_for_it_is_said(
    *, is_root: bool, has_sudo: bool, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    programs = {"id": f"echo {0 if is_root else 1000}", "apt-get": f'echo "$@" >> {calls}'}
    if has_sudo:
        programs["sudo"] = "exit 1"
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    done = subprocess.run(
        ["/bin/sh", ROOT / "config" / "need-venv.sh", sys.executable],
        check=False,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )

    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if is_root:
        assert done.returncode == 0
        update, install = calls.read_text().splitlines()
        assert update.endswith("update")
        assert " install --yes " in install
        assert install.endswith(package)
    else:
        assert done.returncode == 1
        assert not calls.exists()
        command = f"apt-get install {package}"
        command = f"sudo {command}" if has_sudo else f"su -c '{command}'"
        assert done.stderr.endswith(f"  {command}\n")


def test_make_help_names_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()

    named = subprocess.run(["make", "-C", ROOT, "help"], check=True, capture_output=True, text=True).stdout

    (phony,) = re.findall(r"^\.PHONY: (run .*)$", makefile, re.MULTILINE)
    for target in phony.split():
        assert re.search(rf"^  make {target}  +\S", named, re.MULTILINE), target
