"""Guarantee 4, row by row: in whatever way a new version is bad, no mount is down for it, and why is told."""

import hashlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from bad_versions import BOTH, EARLY, FILES, IS_ROOT, MADE, READY, WAYS, Bad, page
from harness import DEADLINE, ROOT, Answer, Plugind, is_alive, processes_below, send

from supervisor.host.cgroupmount import controllers_in, own_folder

GOOD = "#!/bin/sh\nexec sleep 1000\n"
FORGER = """#!/usr/bin/env -S python3 -IS
# Says READY=1 to the socket that is named in a file.
import os, socket, sys, time
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
peer.sendto(b"READY=1", open(sys.argv[1]).read().strip())
time.sleep(1000)
"""
LICENSED = """#!/usr/bin/env -S python3 -IS
# A good one, as long as the file is there.
import os, socket, sys, time
os.path.exists(sys.argv[1]) or sys.exit("there is no licence")
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
time.sleep(1000)
"""
EATS = """#!/usr/bin/env -S python3 -IS
pieces = []
while True:
    pieces.append(bytearray(1 << 20))
"""
MOUNTS = ("namespaces:", "  root:", "    mounts:", "      auth/mock: {plugin: auth/mock}")
PLACE = own_folder()[0]
AT_ONCE = 8
TODAY = [way for way in WAYS if IS_ROOT or not way.root]
VARYING = (
    (r"catalog\.yaml:\d+:\d+", "catalog.yaml:N:N"),
    (r"/tmp/[0-9a-f]{12}-\d+/", "/tmp/ID/"),  # noqa: S108 - below runtime_dir
    (r"127\.0\.0\.1:\d+", "127.0.0.1:N"),
    (r"has SHA-256 [0-9a-f]{12}…, the catalog says [0-9a-f]{12}…", "has SHA-256 N…, the catalog says N…"),
    (r"not executable by (root|user \w+|uid \d+)", "not executable by ME"),
    (r"this is .+", "this is N"),
    (r"allows \d+ at most", "allows N at most"),
    (r"ended \S+ after it was ready", "ended N after it was ready"),
    (r"WATCHDOG=1 for \S+", "WATCHDOG=1 for N"),
)


@dataclass
class Seen:
    """What became of one mount."""

    before: int
    answer: Answer
    row: dict[str, Any]
    """Of the answer, or of the report where it was amended; empty where it was refused."""
    after: dict[str, Any]


class Stage:
    """One daemon with a mount for each way, on v1; afterwards every v2 was tried once."""

    def __init__(self, daemon: Plugind, held: ExitStack) -> None:
        self.daemon = daemon
        self.commands: dict[str, Path] = {}
        self.seen: dict[str, Seen] = {}
        self.pinned = ""
        self._bad = daemon.folder / "bad"
        self._bad.mkdir()
        self._held = held
        self._good = daemon.plugin("good", GOOD)
        self._former = daemon.plugin("former", GOOD + "# the former one\n")
        (daemon.folder / "large").write_bytes(b"x" * (128 << 10))

    def run(self) -> None:
        self._write_catalog()
        self.daemon.start()
        before = self.daemon.pids()
        self.pinned = self.daemon.catalog.read_text().replace("pin: v1", "pin: v2")
        self.daemon.catalog.write_text(self.pinned)
        names = [*BOTH, *(way.name for way in reversed(TODAY))]  # what takes longest before the rest
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = dict(zip(names, pool.map(self.daemon.reload, names), strict=True))
        (self.daemon.folder / "now").touch()
        for way in TODAY:
            if way.late:
                self.daemon.saw("reload_rolled_back", mount=f"auth/{way.name}")
        self.daemon.until(
            lambda: all(row["state"] == "ready" or name in BOTH for name, row in self._rows().items())
        )
        rows = self._rows()
        for name in names:
            was = before[f"root:auth/{name}"]
            self.seen[name] = Seen(was, answers[name], self._row(answers[name]), rows[name])

    def shown(self, name: str, text: str) -> str:
        """Without what differs from run to run."""
        text = text.replace(str(self.commands[name]), "FILE").replace(str(self.daemon.folder), "DIR")
        for pattern, instead in VARYING:
            text = re.sub(pattern, instead, text)
        return text

    def _rows(self) -> dict[str, dict[str, Any]]:
        return {name.rpartition("/")[2]: row for name, row in self.daemon.rows().items()}

    def _row(self, answer: Answer) -> dict[str, Any]:
        if "data" not in (answer.body or {}):
            return {}
        [row] = self.daemon.call("GET", f"supervisor/reloads/{answer.data['reload_id']}").data["mounts"]
        return dict(row)

    # --- the catalog

    def _write_catalog(self) -> None:
        folder, licence = self.daemon.folder, self.daemon.folder / "licence"
        licence.touch()
        licensed = self.daemon.plugin("licensed", LICENSED)
        forger = self.daemon.plugin("forger", FORGER)
        plugins = [
            *_plugin("forger", "'v1'", _version("v1", forger, f"args: [{folder}/asks]")),
            *self._plugin(
                Bad("takes-the-licence-with-it", "", f"{READY}, args: [{licence}]"),
                _version(
                    "v1",
                    licensed,
                    f"args: [{licence}], ready: {{kind: notify, timeout: 60s}}, restart: {{policy: never}}",
                ),
            ),
            *self._plugin(
                Bad("overwrites-the-former-one", "", f"{READY}, args: [{self._former}]"),
                _version("v1", self._former, "restart: {policy: never}"),
            ),
        ]
        for way in TODAY:
            plugins += self._plugin(way, _version("v1", self._good))
        mounts = [f"      auth/{name}: {{plugin: auth/{name}}}" for name in ["forger", *self.commands]]
        text = ["plugins:", "  auth:", *plugins, "namespaces:", "  root:", "    mounts:", *mounts]
        self.daemon.catalog.write_text("\n".join([*text, ""]))

    def _plugin(self, way: Bad, good: str) -> list[str]:
        command, digest = self._placed(way)
        self.commands[way.name] = command
        return _plugin(way.name, "v1", good, _version("v2", command, self._settings(way), digest))

    def _placed(self, way: Bad) -> tuple[Path, str]:
        path = self._bad / way.name
        if way.name in MADE:
            path.write_bytes(MADE[way.name])
            path.chmod(0o755)
        elif (FILES / way.name).is_dir():
            shutil.copytree(FILES / way.name, path)
        else:
            shutil.copy2(FILES / way.name, path, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o022)  # a checkout is as safe as somebody's umask
        digest = _digest(path) if path.is_file() else "0" * 64
        moved = way.spoil(self.daemon, path) if way.spoil is not None else None
        return moved or path, digest

    def _settings(self, way: Bad) -> str:
        text = way.version.replace("@DIR", str(self.daemon.folder))
        if "@PORT" in text:
            # bound by the test: nobody else takes it meanwhile, and who connects is refused
            port = self._held.enter_context(socket.socket())
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, way.name == "tcp-bound-only")
            port.bind(("127.0.0.1", 0))
            text = text.replace("@PORT", str(port.getsockname()[1]))
        return text


def _plugin(name: str, pin: str, *versions: str) -> list[str]:
    return [f"    {name}:", f"      pin: {pin}", "      reload: {watch: 60s}", "      versions:", *versions]


def _version(name: str, command: Path, settings: str = "", digest: str = "") -> str:
    more = f", {settings}" if settings else ""
    return f"        {name}: {{command: {command}, sha256: '{digest or _digest(command)}'{more}}}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def stage(shared_plugind: Plugind) -> Iterator[Stage]:
    with ExitStack() as held:
        stage = Stage(shared_plugind, held)
        try:
            stage.run()
            yield stage
        finally:
            noexec = shared_plugind.folder / "noexec"
            if noexec.is_mount():
                subprocess.run(["umount", noexec], check=True)


@pytest.mark.parametrize("way", [way for way in TODAY if way.is_refused], ids=lambda way: way.name)
def test_what_can_be_known_before_is_refused_and_nothing_is_stopped(stage: Stage, way: Bad) -> None:
    seen = stage.seen[way.name]

    command = "" if "FILE" in way.why else " (FILE)"
    begin = f"DIR/catalog.yaml:N:N: cannot run auth/{way.name} v2{command} for auth/{way.name}/ in root: "
    # folders above that of the test may be closed to others too
    told = [
        line
        for line in stage.shown(way.name, seen.answer.error).splitlines()
        if not re.search(r"in root: /\S+ cannot be entered", line)
    ]
    assert told == [begin + way.why.removeprefix("refused: ")]
    assert seen.answer.status == HTTPStatus.BAD_REQUEST
    assert not seen.row
    assert (seen.after["version"], seen.after["pid"]) == ("v1", seen.before)
    assert is_alive(seen.before)


@pytest.mark.parametrize("way", [way for way in TODAY if not way.is_refused], ids=lambda way: way.name)
def test_a_version_that_does_not_work_gives_way_to_the_former_one(stage: Stage, way: Bad) -> None:
    seen = stage.seen[way.name]

    assert stage.shown(way.name, seen.row["error"]) == way.why
    assert seen.answer.status == (HTTPStatus.OK if way.late else HTTPStatus.BAD_REQUEST)
    assert seen.row["result"] == "rolled_back"
    assert (seen.row["old_version"], seen.row["new_version"]) == ("v1", "v1")
    assert seen.row["new_pid"] == seen.after["pid"]
    assert (seen.after["version"], seen.after["pinned_version"]) == ("v1", "v2")
    assert seen.after["rolled_back_from"] == "v2"
    assert stage.shown(way.name, seen.after["reason"]) == f"rolled back from v2: {way.why}"
    assert is_alive(seen.after["pid"])
    assert is_alive(seen.before) == way.beside
    assert (seen.after["pid"] == seen.before) == way.beside
    if way.log is not None:
        assert tuple(seen.row["log"]) == way.log


@pytest.mark.parametrize("name", BOTH)
def test_where_the_former_one_does_not_work_either_both_reasons_are_told(stage: Stage, name: str) -> None:
    seen = stage.seen[name]

    assert stage.shown(name, seen.row["error"]) == BOTH[name]
    assert seen.answer.status == HTTPStatus.BAD_REQUEST
    assert (seen.row["result"], seen.row["old_version"], seen.row["new_version"]) == ("failed", "v1", None)
    assert (seen.after["state"], seen.after["pid"]) == ("failed", None)
    assert stage.shown(name, seen.after["reason"]) == BOTH[name]


def test_the_pins_are_what_they_were_and_a_plan_shows_the_drift(stage: Stage) -> None:
    plan = stage.daemon.call("GET", "supervisor/plan").data["mounts"]

    assert stage.daemon.catalog.read_text() == stage.pinned
    assert {
        (row["action"], row["running_version"], row["wanted_version"])
        for row in plan
        if row["plugin"] != "auth/forger" and row["plugin"].removeprefix("auth/") not in BOTH
    } == {("replace", "v1", "v2")}


def test_the_page_for_people_says_what_is_tested_here() -> None:
    assert (ROOT / "docs/bad-versions.md").read_text() == page()


def test_nothing_of_a_bad_version_is_left(stage: Stage) -> None:
    left = [text for text in processes_below(stage.daemon.folder).values() if "PLUGIND_VERSION=v2" in text]

    assert not left


class ByHand:
    """All of tests/bad/, each started at once as a person would, without plugind."""

    def __init__(self, folder: Path, held: ExitStack) -> None:
        self._folder = folder
        self._held = held
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._sockets: dict[str, socket.socket] = {}
        self.refused: dict[str, OSError] = {}
        for path in sorted(FILES.iterdir()):
            self._start(path)

    def _start(self, path: Path) -> None:
        own = self._folder / path.name
        own.mkdir()
        self._sockets[path.name] = notify = self._held.enter_context(
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        )
        notify.bind(str(own / "n"))
        notify.setblocking(False)  # noqa: FBT003 - its only argument
        env = {"PATH": os.environ["PATH"], "TMPDIR": str(own), "NOTIFY_SOCKET": str(own / "n")}
        try:
            process = subprocess.Popen(
                [path], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self.refused[path.name] = error
        else:
            self._processes[path.name] = process
            self._held.callback(process.wait, DEADLINE)
            self._held.callback(process.kill)

    def status(self, name: str) -> int:
        """How it ended."""
        return self._processes[name].wait(DEADLINE)

    def is_silent(self, name: str) -> bool:
        """It runs, and has not said READY=1 until now."""
        said = b""
        while True:
            try:
                said += self._sockets[name].recv(4096)
            except BlockingIOError:
                break
        return self._processes[name].poll() is None and b"READY=1" not in said


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ByHand]:
    folder = tmp_path_factory.mktemp("h")
    with ExitStack() as held:
        hand = ByHand(folder, held)
        yield hand
        for pid in processes_below(folder):
            send(pid)


STAYING = {way.name for way in WAYS if way.stays}
UNABLE = {path.name for path in FILES.iterdir()} - STAYING


@pytest.mark.parametrize("name", sorted(UNABLE))
def test_by_hand_it_does_not_run_or_does_not_stay(by_hand: ByHand, name: str) -> None:
    if name not in by_hand.refused:
        by_hand.status(name)


@pytest.mark.parametrize("name", sorted(STAYING - {way.name for way in WAYS if way.late}))
def test_by_hand_it_stays_and_is_never_ready(by_hand: ByHand, name: str) -> None:
    assert by_hand.is_silent(name)


@pytest.mark.skipif("memory" not in controllers_in(PLACE), reason="no controller memory in cgroup v2")
def test_one_that_eats_more_memory_than_its_limit_gives_way(plugind: Plugind) -> None:
    good, bad = plugind.plugin("good", GOOD), plugind.plugin("bad", EATS)
    eats = _version("v2", bad, f"{READY}, limits: {{memory: 64MiB}}")
    text = ["plugins:", "  auth:", *_plugin("mock", "v1", _version("v1", good), eats), *MOUNTS]
    plugind.catalog.write_text("\n".join([*text, ""]))
    plugind.start()
    plugind.edit("pin: v1", "pin: v2")

    [row] = plugind.reload().data["mounts"]

    assert (row["result"], row["error"]) == ("rolled_back", f"{EARLY}: signal 9 (SIGKILL)")
    assert plugind.rows()["root:auth/mock"]["version"] == "v1"
