"""Ways in which a new version can be bad: a file of tests/bad/ each, its settings, and what is said of it.

`why` is the whole message, with the file written FILE, the folder of the test DIR, the instance ID, who runs
the test ME, and what differs from run to run N. Where it begins with `refused: `, nothing may be killed.
For people it is written down: `python tests/integration/bad_versions.py > docs/bad-versions.md`.
"""

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness import ROOT, Plugind

FILES = ROOT / "tests" / "bad"
IS_ROOT = os.geteuid() == 0
STRANGER = 4711
READY = "ready: {settle: 30s, timeout: 60s}"
"""For what ends by itself before; no busy machine takes so long."""


def notify(timeout: str = "4s", more: str = "") -> str:
    return f"ready: {{kind: notify, timeout: {timeout}}}, stop: {{timeout: 300ms}}{more}"


def http(path: str = "/health", more: str = "") -> str:
    return f'ready: {{kind: http, url: "unix:$TMPDIR/http:{path}", timeout: 4s}}{more}'


@dataclass(frozen=True)
class Bad:
    """One way. `version` are its settings in the catalog; what a plugin can only do later is `late`."""

    name: str
    why: str
    version: str = READY
    log: tuple[str, ...] | None = None
    """The last lines of its log, where they belong to the answer."""
    spoil: Callable[[Plugind, Path], Path | None] | None = None
    """What is done to the file after its digest was taken; gives the path, where that is another."""
    args: tuple[str, ...] = ()
    late: bool = False
    root: bool = False
    beside: bool = False
    """The former version runs on meanwhile: `order: start_first`."""
    stays: bool = False
    """By hand it runs on and is never ready; the others end by themselves, or cannot be started."""

    @property
    def is_refused(self) -> bool:
        return self.why.startswith("refused: ")


def _mode(mode: int) -> Callable[[Plugind, Path], None]:
    return lambda _, path: path.chmod(mode)


def _append(_: Plugind, path: Path) -> None:
    with path.open("a") as file:
        file.write("# changed\n")


def _moved(name: str, mode: int = 0o755) -> Callable[[Plugind, Path], Path]:
    def move(daemon: Plugind, path: Path) -> Path:
        folder = daemon.folder / name
        folder.mkdir(exist_ok=True)
        there = path.rename(folder / path.name)
        folder.chmod(mode)
        return there

    return move


def _on_noexec(daemon: Plugind, path: Path) -> Path:
    """Unmounted by the fixture."""
    folder = daemon.folder / "noexec"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec,mode=755", "none", folder], check=True)
    there = folder / path.name
    there.write_bytes(path.read_bytes())
    there.chmod(0o755)
    return there


def _owned_by_a_stranger(_: Plugind, path: Path) -> None:
    os.chown(path, STRANGER, STRANGER)


def elf(machine: int) -> bytes:
    """A header without anything behind it."""
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    return ident + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 0, 0, 0, 64, 56, 0, 64, 0, 0)


SILENT = "notify DIR/run/tmp/ID/notify: no READY=1"
HTTP = "http unix:DIR/run/tmp/ID/http:/health"
UNIX = "unix DIR/run/tmp/ID/socket"
EARLY = "ended before it was ready"
JOB = f"{EARLY}: exit 0, as if it were done: a plugin stays in the foreground"

MADE = {"of-another-machine": elf(machine=22), "damaged-elf": Path("/bin/sh").read_bytes()[:20]}
"""Files of which a repository would rather have none."""

WAYS = (
    # what is found before anything is stopped
    Bad("missing", "refused: FILE leads to DIR/bad/nowhere, which does not exist"),
    Bad("a-loop", "refused: FILE: it leads through more than 40 symlinks"),
    Bad("a-folder", "refused: FILE is a folder: name the program in it"),
    Bad(
        "not-executable",
        "refused: FILE is not executable by ME: chmod +x FILE",
    ),
    Bad(
        "another-digest",
        "refused: FILE has SHA-256 N…, the catalog says N…: the file was changed, or the catalog was not",
        spoil=_append,
    ),
    Bad("of-another-machine", "refused: FILE is built for s390, this is N"),
    Bad("damaged-elf", "refused: FILE is a damaged ELF file: copy it again"),
    Bad(
        "no-interpreter",
        "refused: FILE needs the interpreter /no-such/python, which does not exist: install what brings it",
    ),
    Bad(
        "no-absolute-interpreter",
        "refused: the #! line of FILE names no absolute path: write #!/usr/bin/env NAME",
    ),
    Bad(
        "interpreter-no-program",
        "refused: FILE needs the interpreter /etc/passwd, which is not executable by ME",
    ),
    Bad(
        "carriage-return",
        "refused: the #! line of FILE ends with a carriage return: save it with Unix line ends",
    ),
    Bad("empty", "refused: FILE is empty: copy it again"),
    Bad("no-program", "refused: FILE is no program: it is neither ELF nor begins with #!"),
    Bad(
        "unsafe-mode",
        "refused: FILE is writable by everybody: chmod go-w FILE",
        spoil=_mode(0o777),
    ),
    Bad(
        "unsafe-folder",
        "refused: DIR/open is writable by everybody: chmod go-w DIR/open",
        spoil=_moved("open", 0o777),
    ),
    Bad(
        "unsafe-owner",
        "refused: FILE belongs to uid 4711, who could change what runs: chown root FILE",
        spoil=_owned_by_a_stranger,
        root=True,
    ),
    Bad(
        "noexec",
        "refused: FILE lies on a file system that is mounted noexec: put it elsewhere",
        spoil=_on_noexec,
        root=True,
    ),
    Bad(
        "where-plugind-writes",
        "refused: FILE lies in DIR/log, where plugind writes: put it elsewhere",
        spoil=_moved("log"),
    ),
    Bad("unknown-user", "refused: user no-such-user does not exist", "user: no-such-user"),
    Bad("unknown-group", "refused: group no-such-group does not exist", "group: no-such-group"),
    Bad(
        "unreachable-for-user",
        "refused: DIR/closed cannot be entered by user nobody: chmod +x DIR/closed",
        "user: nobody",
        spoil=_moved("closed", 0o700),
        root=True,
    ),
    Bad("no-cwd", "refused: cwd /no/such/folder does not exist", "cwd: /no/such/folder"),
    Bad("cwd-is-a-file", "refused: cwd /etc/passwd is not a directory", "cwd: /etc/passwd"),
    Bad(
        "no-env-file",
        "refused: env PASSWORD: /no/such/password does not exist",
        "env: {PASSWORD: {file: /no/such/password}}",
    ),
    Bad(
        "large-env-file",
        "refused: env PASSWORD: DIR/large is larger than 128 KiB",
        "env: {PASSWORD: {file: @DIR/large}}",
    ),
    Bad(
        "too-many-files-wanted",
        "refused: limits.nofile is 2000000000: the kernel allows N at most (fs.nr_open)",
        "limits: {nofile: 2000000000}",
    ),
    Bad(
        "no-probe-program",
        "refused: ready.command /no/such/probe does not exist",
        "ready: {kind: command, command: [/no/such/probe]}",
    ),
    # what ends before it is ready
    Bad("exits-at-once", f"{EARLY}: exit 3", log=("cannot open the database",)),
    Bad(
        "exits-with-zero",
        JOB,
        log=("nothing to do",),
    ),
    Bad("exits-after-200-ms", f"{EARLY}: exit 4"),
    Bad("terminated", f"{EARLY}: signal 15 (SIGTERM)"),
    Bad("aborts", f"{EARLY}: signal 6 (SIGABRT)"),
    Bad("segfaults", f"{EARLY}: signal 11 (SIGSEGV)"),
    Bad(
        "daemonizes",
        JOB,
    ),
    Bad(
        "double-forks",
        JOB,
    ),
    Bad("closes-stdout", f"{EARLY}: exit 5", log=("the last that is heard",)),
    Bad(
        "floods-its-log",
        f"{EARLY}: exit 6",
        log=(
            "cannot open the database",
            "cannot open the database",
            "cannot open the database",
            "cannot open the database",
            "that was too much",
        ),
    ),
    Bad(
        "missing-variable",
        f"{EARLY}: exit 2",
    ),
    Bad(
        "unknown-option",
        f"{EARLY}: exit 64",
        f"{READY}, args: [--fast]",
        log=("unknown option: --fast",),
    ),
    Bad("read-only-cwd", f"{EARLY}: exit 7"),
    Bad("disk-full", f"{EARLY}: exit 8"),
    Bad("too-few-files", f"{EARLY}: exit 1", f"{READY}, limits: {{nofile: 16}}"),
    Bad("eats-its-memory", f"{EARLY}: exit 1"),
    Bad("wrong-user", f"{EARLY}: exit 77", log=("I have to be run as uid 4711",)),
    Bad("port-taken", f"{EARLY}: exit 1", f"{READY}, args: ['@PORT']"),
    Bad("missing-module", f"{EARLY}: exit 1"),
    Bad("syntax-error", f"{EARLY}: exit 2"),
    Bad("no-such-python", f"{EARLY}: exit 127"),
    Bad("reads-stdin", f"{EARLY}: exit 9"),
    Bad(
        "exits-in-spite-of-status",
        f"{EARLY}: exit 1",
        notify("60s"),
        log=("the certificate has expired",),
    ),
    # what is never ready
    Bad("hangs", f"not ready in 500ms: {SILENT}", notify("500ms"), stays=True),
    Bad(
        "stops-itself",
        f"not ready in 2s: {SILENT}; its main process is stopped, as by SIGSTOP",
        notify("2s"),
        stays=True,
    ),
    Bad(
        "ignores-sigterm",
        f"not ready in 1s: {SILENT}",
        notify("1s"),
        stays=True,
    ),
    Bad(
        "says-nothing-but-status",
        f"not ready in 4s: {SILENT}; it says: no database; it says: Connection refused (ERRNO=111)",
        notify(),
        stays=True,
    ),
    Bad(
        "stopping-instead-of-ready",
        f"not ready in 4s: {SILENT}; it says that it is stopping",
        notify(),
        stays=True,
    ),
    Bad(
        "asks-for-time-in-vain",
        f"not ready in 4s: {SILENT}; it had asked for more time",
        notify(),
        stays=True,
    ),
    Bad("ready-too-late", f"not ready in 4s: {SILENT}", notify(), stays=True),
    Bad(
        "a-neighbour-says-ready",
        f"not ready in 4s: {SILENT}; 1 message was ignored, which the log of plugind tells more of",
        notify(more=", args: [@DIR/asks]"),
        stays=True,
    ),
    Bad(
        "http-500",
        f"not ready in 4s: {HTTP}: it answered 500",
        http(),
        stays=True,
    ),
    Bad(
        "http-wrong-path",
        f"not ready in 4s: {HTTP}: it answered 404",
        http(),
        stays=True,
    ),
    Bad(
        "http-not-http",
        f"not ready in 4s: {HTTP}: its answer is not HTTP/1.1",
        http(),
        stays=True,
    ),
    Bad(
        "http-no-answer",
        f"not ready in 4s: {HTTP}: no answer in 2s",
        http(),
        stays=True,
    ),
    Bad(
        "http-hangs-up",
        f"not ready in 4s: {HTTP}: it closed the connection without an answer",
        http(),
        stays=True,
    ),
    Bad(
        "tcp-never-listens",
        "not ready in 500ms: tcp 127.0.0.1:N: connection refused",
        "ready: {kind: tcp, address: '127.0.0.1:@PORT', timeout: 500ms}",
        stays=True,
    ),
    Bad(
        "tcp-listens-elsewhere",
        "not ready in 1s: tcp 127.0.0.1:N: connection refused",
        "ready: {kind: tcp, address: '127.0.0.1:@PORT', timeout: 1s}",
        stays=True,
    ),
    Bad(
        "tcp-bound-only",
        "not ready in 1s: tcp 127.0.0.1:N: connection refused",
        "ready: {kind: tcp, address: '127.0.0.1:@PORT', timeout: 1s}, args: ['@PORT']",
        stays=True,
    ),
    Bad(
        "unix-never-there",
        f"not ready in 500ms: {UNIX}: no such file or directory",
        "ready: {kind: unix, path: $TMPDIR/socket, timeout: 500ms}",
        stays=True,
    ),
    Bad(
        "unix-is-a-file",
        f"not ready in 2s: {UNIX}: connection refused",
        "ready: {kind: unix, path: $TMPDIR/socket, timeout: 2s}",
        stays=True,
    ),
    Bad(
        "unix-datagram",
        f"not ready in 4s: {UNIX}: protocol wrong type for socket",
        "ready: {kind: unix, path: $TMPDIR/socket, timeout: 4s}",
        stays=True,
    ),
    Bad(
        "command-fails",
        "not ready in 1s: command /bin/sh: exit status 3",
        "ready: {kind: command, command: [/bin/sh, -c, exit 3], timeout: 1s}",
        stays=True,
    ),
    Bad(
        "command-hangs",
        "not ready in 1s: command /bin/sleep: no answer yet",
        "ready: {kind: command, command: [/bin/sleep, '1000'], timeout: 1s}",
        stays=True,
    ),
    Bad(
        "command-is-killed",
        "not ready in 1s: command /bin/sh: ended by signal 9",
        "ready: {kind: command, command: [/bin/sh, -c, kill -9 $$], timeout: 1s}",
        stays=True,
    ),
    # what is never ready beside the former one
    Bad(
        "starts-second",
        f"not ready in 500ms: {SILENT}",
        notify("500ms", ", reload: {order: start_first}"),
        beside=True,
        stays=True,
    ),
    Bad(
        "dies-second",
        f"{EARLY}: exit 3",
        f"{READY}, reload: {{order: start_first}}",
        beside=True,
        log=("the first one has the lock",),
    ),
    # what was ready, and did not stay so
    Bad(
        "dies-when-ready",
        "ended N after it was ready: exit 1",
        notify("60s", ", args: [@DIR/now]"),
        late=True,
        log=("lost the connection to the database",),
    ),
    Bad("killed-when-ready", "ended N after it was ready: signal 9 (SIGKILL)", "args: [@DIR/now]", late=True),
    Bad(
        "watchdog-stops",
        "not alive: notify DIR/run/tmp/ID/notify: no WATCHDOG=1 for N",
        notify("60s", ", liveness: {kind: notify, interval: 300ms, failures: 1}"),
        late=True,
        stays=True,
    ),
    Bad(
        "http-unhealthy-when-ready",
        "not alive, 2 times in a row: http unix:DIR/run/tmp/ID/http:/: it answered 503",
        http(more=", liveness: {kind: http, url: 'unix:$TMPDIR/http:/', interval: 300ms, failures: 2}"),
        late=True,
        stays=True,
    ),
)

BOTH = {
    "takes-the-licence-with-it": (
        "v2: ended before it was ready: exit 3; and back on v1: ended before it was ready: exit 1"
    ),
    "overwrites-the-former-one": (
        "v2: ended before it was ready: exit 3; and back on v1: "
        "cannot run auth/overwrites-the-former-one v1: DIR/former has SHA-256 N…, "
        "the catalog says N…: the file was changed, or the catalog was not"
    ),
}
"""Ways in which both versions fail, and what is said of the two."""

PAGE = """# What is said of a bad version

Ways in which a new version can be bad, and what the answer to a reload says of each. Each line is tested with
a plugin of its own (tests/bad/), against a daemon with real processes; this page is made from the test's own
table.

FILE is the file of the new version, DIR a folder, ID an instance, ME the user that plugind runs as, N what
differs from case to case. In front of what is refused stand the line of the catalog, the plugin, the version
and the mount; beside what is rolled back, the last lines of its log.
"""
SECTIONS: tuple[tuple[str, str, Callable[[Bad], bool]], ...] = (
    (
        "Refused",
        "Nothing is stopped; the version before runs on, with the same pid.",
        lambda way: way.is_refused,
    ),
    (
        "Ended before it was ready",
        "The version before was stopped, and runs again.",
        lambda way: not (way.is_refused or way.stays or way.late or way.beside),
    ),
    (
        "Not ready in time",
        "The same.",
        lambda way: way.stays and not (way.late or way.beside),
    ),
    (
        "Ready, and not for long",
        "The answer had said `reloaded`; history and status are amended, and the version before runs again.",
        lambda way: way.late,
    ),
    (
        "With `order: start_first`",
        "The version before was not stopped at all.",
        lambda way: way.beside,
    ),
)


def page() -> str:
    """docs/bad-versions.md."""
    lines = [PAGE]
    for title, what, belongs in SECTIONS:
        rows = [(way.name, way.why.removeprefix("refused: ")) for way in WAYS if belongs(way)]
        lines += [f"## {title}", "", what, "", *_table(rows), ""]
    lines += [
        "## Both versions fail",
        "",
        "Nothing runs; both reasons are told.",
        "",
        *_table([*BOTH.items()]),
        "",
    ]
    return "\n".join(lines)


def _table(rows: list[tuple[str, str]]) -> list[str]:
    return ["| tests/bad/ | what is said |", "| --- | --- |", *(f"| {name} | {why} |" for name, why in rows)]


if __name__ == "__main__":
    sys.stdout.write(page())
