"""A plugind that is forked instead of started, and plugins whose own word is asked: for thousands of deaths.

Everything of supervisor/ is imported once, by the driver; a daemon is then a fork of it that runs the same
`main` in a tenth of the time. Each plugin holds a flock of its mount with its whole tree, and one of
them, the talker, writes numbered lines; so who runs and what was logged is known without asking plugind.
"""

import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import harness
from harness import Answer, Plugind, processes_below
from tracer import allow_tracing

import supervisor.daemon

PLUGIN: Final = """#!/bin/sh
exec 9>>"$STAGE/lock/$PLUGIND_NAMESPACE+$NAME"
flock -n 9 || [ "$TWO" ] || echo "$PLUGIND_INSTANCE" >>"$STAGE/violations"
[ "$NAME" = talk ] && exec {python} -I -S "$STAGE/talker"
(trap '' TERM; exec setsid sleep 1000) &
env -i setsid sleep 1000 &
exec sleep 1000
"""
ENDS: Final = "#!/bin/sh\nexit 3\n"
TALKER: Final = """
import os, signal, time, zlib
me = os.environ["PLUGIND_INSTANCE"]
counter = os.open(os.environ["STAGE"] + "/told/" + me, os.O_CREAT | os.O_WRONLY)
burst = []
signal.signal(signal.SIGUSR1, lambda *_: burst.append(1))
said = 0
def say():
    global said
    text = "%s %d" % (me, said + 1)
    os.write(1, ("%s %d\\n" % (text, zlib.crc32(text.encode()))).encode())
    said += 1
    os.pwrite(counter, b"%12d" % said, 0)
while True:
    say()
    while burst:
        for _ in range(600):
            say()
        burst.pop()
    time.sleep(0.02)
"""
SETTINGS: Final = """stop: {timeout: 20ms}
restart: {backoff: 10ms, max_backoff: 50ms, burst: 50, within: 2s}
ready: {kind: exec, settle: 10ms}"""
TREE: Final = {"talk": 1}
"""Processes that hold the lock of a mount; of the others three each."""
KEEP: Final = 60
LOGS: Final = f"logs: {{max_size: 4096, keep: {KEEP}}}\n"
PATIENCE: Final = 60.0
"""Seconds: a daemon that is traced reads all of /proc a hundred times as slowly."""


harness.DEADLINE = PATIENCE


class Broken(Exception):
    """Something is not as promised."""


@dataclass
class Forked(Plugind):
    """Fits Plugind, without threads and without an exec."""

    pid: int = 0
    status: int | None = None

    @property
    def told(self) -> Path:
        return self.folder / "stderr"

    def begin(self, gate: int | None = None) -> None:
        """Fork a daemon; it says to the socket `gate` that it is there, and waits for an answer."""
        self.status = None
        self.pid = os.fork()
        if self.pid:
            return
        status = 70
        try:
            allow_tracing()
            self._become(gate)
            supervisor.daemon.main(["--config", str(self.config)], prog_name="plugind")
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException as error:  # noqa: BLE001 - nothing may get back into the driver
            os.write(2, "".join(traceback.format_exception(error)).encode())
        finally:
            os._exit(status or 0)

    def _become(self, gate: int | None) -> None:
        null = os.open(os.devnull, os.O_RDONLY)
        told = os.open(self.told, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(null, 0)
        os.dup2(told, 1)
        os.dup2(told, 2)
        os.dup2(gate if gate is not None else null, 3)
        os.closerange(4, 1024)
        sys.stdin = open(0)  # noqa: SIM115 - what it was belongs to the driver
        sys.stdout = open(1, "w")  # noqa: SIM115
        sys.stderr = open(2, "w")  # noqa: SIM115
        sys.argv = [str(harness.BIN / "plugind"), "--config", str(self.config)]
        sys.orig_argv = [sys.executable, *sys.argv]  # an upgrade is an exec of that
        if gate is not None:
            os.write(3, b".")
        _wait_for(3)  # last: what comes after it is plugind's own
        os.close(3)

    def is_dead(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
        return self.status is not None

    def signalled(self, number: int) -> None:
        if not self.is_dead():
            with os.fdopen(os.pidfd_open(self.pid)) as handle:
                signal.pidfd_send_signal(handle.fileno(), number)

    def kill(self) -> None:
        self.signalled(signal.SIGKILL)
        self.until(self.is_dead)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.signalled(number)
        self.until(self.is_dead)
        return self.status or 0

    def until(self, holds: Any, seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise Broken(f"never true: {holds}")
            threading.Event().wait(0.004)


@dataclass
class Stage:
    """A folder with a plugind, its plugins, a decoy, and what is known of them by themselves."""

    settings: str = SETTINGS
    mounts: tuple[str, ...] = ("m0", "m1", "talk")
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="crash-")))
    pin: str = "v1"
    daemon: type[Forked] = Forked

    def __post_init__(self) -> None:
        self.folder.chmod(0o755)
        self.plugind = self.daemon(self.folder)
        self.plugind.settings(LOGS)
        for name in ("lock", "told"):
            (self.folder / name).mkdir()
        (self.folder / "talker").write_text(TALKER)
        good = self.plugind.plugin("plugin", PLUGIN.replace("{python}", sys.executable))
        bad = self.plugind.plugin("bad", ENDS)
        self.versions = {"v1": (good, []), "v2": (good, ["2"]), "bad": (bad, [])}
        self.write()
        self.answer: Answer | None = None
        self.lost = ""
        """Why the last command had no answer."""
        self.living: dict[str, str] = {}
        self.opened: Counter[str] = Counter()
        self.pids: dict[str, int] = {}
        """Before the scenario: asked during it, plugind may be refused what an answer takes."""
        self.decoy = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}, setsid=True)

    def write(self, pin: str | None = None, mounts: tuple[str, ...] | None = None) -> None:
        """The catalog."""
        self.pin, self.mounts = pin or self.pin, mounts or self.mounts
        two = "yes" if "start_first" in self.settings else ""
        env = f"STAGE: {self.folder}, TWO: '{two}'"
        specs = {
            f"auth/{name}": f"{{plugin: auth/mock, {self._listens(name)}, env: {{NAME: {name}, {env}}}}}"
            for name in self.mounts
        }
        self.plugind.write(self.versions, {"root": specs}, self.pin, self.settings)

    def _listens(self, name: str) -> str:
        """Where no plugind may take a socket back, refusals are what is due, and another test's matter."""
        return f"listen: [{self.door(name) if harness.may_take_descriptors() else ''}]"

    def door(self, name: str) -> Path:
        """The socket that plugind holds for a mount."""
        return self.folder / f"{name}.sock"

    # --- the life of the daemon

    def up(self) -> None:
        self.plugind.begin()
        self.settle()

    def settle(self) -> None:
        """Return once every mount is ready, or stopped as it should be."""
        rows: dict[str, dict[str, Any]] = {}

        def settled() -> bool:
            nonlocal rows
            if self.plugind.is_dead():
                raise Broken(f"plugind ended with status {self.plugind.status}")
            try:
                rows = self.plugind.rows()
            except OSError:  # not there yet
                return False
            mounts = {name.removeprefix("root:auth/") for name in rows}
            return mounts >= set(self.mounts) and all(
                row["state"] == ("stopped" if row["stopped_by"] else "ready") for row in rows.values()
            )

        try:
            self.plugind.until(settled)
        except Broken as error:
            states = {name: (row["state"], row["reason"]) for name, row in rows.items()}
            raise Broken(f"{error}: mounts {states}") from error

    def left_behind(self) -> list[str]:
        """Stop plugind; what it left."""
        self.plugind.stop()
        left = [f"left after the stop: {pid} {what}" for pid, what in processes_below(self.folder).items()]
        return left + [f"left of {name}: {pids}" for name, pids in self.holders().items() if pids]

    def down(self) -> None:
        """End everything, whatever state it is in."""
        self.plugind.kill()
        for pid in {*processes_below(self.folder), *self.everyone(), self.decoy}:
            with suppress(ProcessLookupError), os.fdopen(os.pidfd_open(pid)) as handle:
                signal.pidfd_send_signal(handle.fileno(), signal.SIGKILL)
        os.waitpid(self.decoy, 0)
        remove_cgroups(self.folder)
        shutil.rmtree(self.folder)

    def asked(self, call: Callable[[], Answer]) -> None:
        """Give a command and keep its answer."""
        self.answer = None
        self.answer = call()

    # --- what is so, by the processes themselves

    def note_living(self) -> None:
        """Remember which mounts have exactly one instance, and that whole: the next plugind keeps these."""
        holders, instances = self.holders(), self.instances()
        self.living = {
            name: next(iter(found))
            for name, found in instances.items()
            if len(found) == 1 and len(holders.get(name, ())) == TREE.get(name, 3)
        }

    def not_adopted(self) -> list[str]:
        """Those of them that were not kept."""
        rows = {name.removeprefix("root:auth/"): row for name, row in self.plugind.rows().items()}
        return [
            f"{name}: {instance} was not adopted: {rows[name]}"
            for name, instance in self.living.items()
            if name in rows and not rows[name]["stopped_by"] and rows[name]["instance"] != instance
        ]

    def descriptors(self) -> Counter[str]:
        """What plugind has open, by kind."""
        found: Counter[str] = Counter()
        for path in Path(f"/proc/{self.plugind.pid}/fd").iterdir():
            try:
                target = os.readlink(path)  # noqa: PTH115
            except OSError:
                continue
            found[target.partition(":")[0] if ":" in target else target] += 1
        return found

    def holders(self) -> dict[str, set[int]]:
        """Living processes by the mount whose lock file they have open."""
        found: dict[str, set[int]] = {
            path.name.partition("+")[2]: set() for path in (self.folder / "lock").iterdir()
        }
        begin = f"{self.folder}/lock/"
        for name in os.listdir("/proc"):  # noqa: PTH208 - names only
            if name.isdigit():
                try:
                    place = os.readlink(f"/proc/{name}/fd/9")  # noqa: PTH115
                except OSError:
                    continue
                if place.startswith(begin):
                    found.setdefault(place.rpartition("+")[2], set()).add(int(name))
        return found

    def everyone(self) -> set[int]:
        return {pid for pids in self.holders().values() for pid in pids}

    def instances(self) -> dict[str, set[str]]:
        """Instances of which something is alive, by mount."""
        found: dict[str, set[str]] = {}
        for environ in processes_below(self.folder).values():
            words = dict(word.split("=", 1) for word in environ.split() if "=" in word)
            found.setdefault(words.get("NAME", ""), set()).add(words.get("PLUGIND_INSTANCE", ""))
        return found

    def faults(self) -> list[str]:
        """What is not as promised while plugind is up and settled."""
        rows = {name.removeprefix("root:auth/"): row for name, row in self.plugind.rows().items()}
        wanted = {row["instance"] for row in rows.values() if not row["stopped_by"]}
        if None in wanted:
            return [f"not settled any more: {rows}"]
        found = []
        alive = Counter(
            word.partition("=")[2]
            for environ in processes_below(self.folder).values()
            for word in environ.split()
            if word.startswith("PLUGIND_INSTANCE=")
        )
        if set(alive) != wanted:
            found.append(f"alive {dict(alive)}, wanted {sorted(wanted)}")
        for name, pids in self.holders().items():
            row = rows.get(name)
            expected = 0 if row is None or row["stopped_by"] else TREE.get(name, 3)
            if len(pids) != expected:
                found.append(f"{name} has the processes {sorted(pids)}, not {expected}")
            if row is not None and row["pid"] is not None and row["pid"] not in pids:
                found.append(f"{name}: {row['pid']} does not hold its lock")
        for name in {*rows, "m0", "m1", "m2", "talk"}:
            is_wanted = harness.may_take_descriptors() and name in rows and not rows[name]["stopped_by"]
            with socket.socket(socket.AF_UNIX) as client:
                refused = client.connect_ex(str(self.door(name)))
            if (
                bool(refused) is is_wanted
            ):  # a file that a dead plugind left is nobody's: the next one replaces it
                found.append(f"{name}: its socket is{' not' * is_wanted} open ({os.strerror(refused)})")
        found += self._files(wanted, rows)
        if os.waitpid(self.decoy, os.WNOHANG)[0]:
            found.append("the decoy was killed")
        if (self.folder / "violations").exists():
            found.append(f"two at once: {(self.folder / 'violations').read_text().split()}")
        found += [f"{name} runs {row['version']}" for name, row in rows.items() if row["version"] == "bad"]
        return found

    def _files(self, wanted: set[str], mounts: Iterable[str]) -> list[str]:
        run = self.folder / "run"
        found = []
        for folder, expected in (
            (run / "tmp", wanted),
            (run / "instances", {f"{instance}.json" for instance in wanted}),
            (run / "logs/root", {f"auth+{name}.fifo" for name in mounts}),
        ):
            names = {path.name for path in folder.iterdir()} - {"set-aside"}
            if names != expected:
                found.append(f"{folder.name}: {sorted(names)}, not {sorted(expected)}")
        strays = [str(path) for path in self.folder.rglob("*") if path.suffix in {".tmp", ".new"}]
        return found + [f"temporary files {strays}" for _ in strays[:1]]

    def lines(self) -> list[str]:
        """What is wrong with the numbered lines of the talker: all that it wrote is there, once, in order."""
        if "talk" not in self.mounts:
            return []
        text = self._logged()
        found: list[str] = []
        last: dict[str, int] = {}
        first = len(list((self.folder / "log/root").glob("auth+talk.log.[0-9]*"))) >= KEEP
        for line in text.split(b"\n")[:-1]:
            words = line.decode(errors="replace").split(" ")
            if len(words) != 3 or zlib.crc32(" ".join(words[:2]).encode()) != int(words[2]):
                found.append(f"torn line {line!r}")
                continue
            instance, number = words[0], int(words[1])
            # where files were rotated away, two that wrote at one time may begin in the middle
            if number != last.get(instance, number - 1 if first else 0) + 1:
                found.append(f"{instance}: {number} after {last.get(instance, 0)}")
            last[instance] = number
        return found[:5]

    def _logged(self) -> bytes:
        """All that is in the files of the talker, also while they are rotated."""
        base = self.folder / "log/root/auth+talk.log"
        for _ in range(100):
            numbers = sorted(int(path.suffix[1:]) for path in base.parent.glob("auth+talk.log.[0-9]*"))
            files = [*(base.with_name(f"{base.name}.{number}") for number in reversed(numbers)), base]
            try:
                before = [path.stat().st_ino for path in files]
                text = b"".join(path.read_bytes() for path in files)
                if before == [path.stat().st_ino for path in files]:
                    return text
            except FileNotFoundError:
                continue
        raise Broken("its log is rotated without end")

    def wait_for_log(self) -> None:
        """Return once the last line that the talker is known to have written is in the log."""
        row = self.plugind.rows().get("root:auth/talk")
        if row is None or row["instance"] is None:
            return
        counter = self.folder / "told" / row["instance"]
        self.plugind.until(lambda: counter.exists() and bool(counter.read_bytes()), 5)
        base = self.folder / "log/root"
        asked = f"{row['instance']} {int(counter.read_text())} ".encode()
        files = [base / f"auth+talk.log{end}" for end in ("", ".1", ".2", ".3", ".4")]
        self.plugind.until(lambda: any(asked in content_of(path) for path in files), 5)

    def broken_code(self, *, told_damage: bool = False) -> list[str]:
        """Tracebacks in plugind's own log, and what it called damaged, unless there was some."""
        text = self.plugind.told.read_text(errors="replace")
        self.plugind.told.write_text("")
        found = [f"told: {_essence(text)}"] if "Traceback" in text else []
        if not told_damage:
            found += [f"told: {line[:700]}" for line in text.splitlines() if "damaged" in line]
        return found

    def reports(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.plugind.call("GET", "supervisor/reloads?limit=3").data["reloads"]
        return found


def remove_cgroups(folder: Path) -> None:
    """Those of a plugind that was killed, once those in them are dead."""
    note = folder / "run/cgroup"
    tree = Path(note.read_text()) if note.exists() else note
    for _ in range(200):
        with suppress(OSError):
            for path in sorted(tree.rglob("*/"), reverse=True):
                path.rmdir()
            tree.rmdir()
        if not tree.is_dir():
            return
        threading.Event().wait(0.01)


def _wait_for(gate: int) -> None:
    while True:
        try:
            os.read(gate, 1)
        except BlockingIOError:  # by the tracer, which has begun already
            continue
        return


def _essence(text: str) -> str:
    """The first traceback of a log, by the frames that are ours, and what it ended with."""
    lines = text[text.index("Traceback") :].replace("\\n", "\n").splitlines()
    end = next((at for at, line in enumerate(lines) if at and line[:1] not in {" ", "", "T"}), len(lines) - 1)
    frames = [line.strip().partition("/supervisor/")[2] for line in lines[:end] if "/supervisor/" in line]
    return f"{' > '.join(frames[-6:])} > {lines[end][:300]}"


def content_of(path: Path) -> bytes:
    """Nothing where it is not there, or is just being rotated."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
