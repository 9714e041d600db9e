"""Runs the examples of README.md and docs/ against a real plugind, to compare what they print or to write it.

An example is a line `$ command` in a block fenced as `console`, with what it prints below it; lines that
begin with `> ` go on with the command. Those of one document run in order in one shell, in a copy of
config/ and plugins/ where a daemon runs as `make run` starts it; its settings have the blocks fenced as
`yaml plugind.yaml` added. `<!-- examples: start plugind -->` starts it again. Other fences are left alone.

`python tests/integration/readme_examples.py --write` puts what is really printed into the documents.
What varies from run to run (pids, ids, times, how long something took, how wide a column is therefore) is
made alike before texts are compared; but one pid stays one pid: a process that was replaced looks different
from one that was not.
"""

import argparse
import difflib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness import processes_below

ROOT = Path(__file__).resolve().parents[2]
VENV = Path(sys.executable).parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "commands.md", ROOT / "docs" / "catalog.md")
SHOWN_FOLDER = "/home/you/plugind"
SHOWN_PORT = "8200"
START = "<!-- examples: start plugind -->"
DEADLINE = 30.0
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


# ---- documents


@dataclass
class Example:
    """A command, and what the document says that it prints. Lines count from 0; the output may be empty."""

    line: int
    command: str
    begin: int
    end: int
    output: list[str]


@dataclass
class Document:
    path: Path
    lines: list[str]
    steps: list[Example | str] = field(default_factory=list)
    """Examples, and START where the daemon is started again."""

    @classmethod
    def read(cls, path: Path) -> "Document":
        return cls.parse(path, path.read_text())

    @classmethod
    def parse(cls, path: Path, text: str) -> "Document":
        document = cls(path, text.splitlines())
        fence: str | None = None
        for number, line in enumerate(document.lines):
            if line.startswith("```"):
                fence = line[3:] if fence is None else None
            elif fence is None and line == START:
                document.steps.append(START)
            elif fence == "console":
                document._take(number, line)
        return document

    def _take(self, number: int, line: str) -> None:
        last = self.steps[-1] if self.steps else None
        if line.startswith("$ "):
            self.steps.append(Example(number, line[2:], number + 1, number + 1, []))
        elif isinstance(last, Example) and last.end == number:
            if line.startswith("> ") and not last.output:
                last.command += "\n" + line[2:]
                last.begin = last.end = number + 1
            else:
                last.output.append(line)
                last.end = number + 1
        else:
            raise ValueError(f"{self.path}:{number + 1}: output of no command")

    def examples(self) -> list[Example]:
        return [step for step in self.steps if isinstance(step, Example)]

    def blocks(self, fence: str) -> list[str]:
        """The contents of the blocks fenced as `fence`."""
        text = "\n".join(self.lines) + "\n"
        return re.findall(rf"^```{re.escape(fence)}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

    def with_outputs(self, outputs: list[list[str]]) -> str:
        """The document's text with these outputs in the place of those it has."""
        lines = list(self.lines)
        for example, output in reversed([*zip(self.examples(), outputs, strict=True)]):
            lines[example.begin : example.end] = output
        return "\n".join(lines) + "\n"


# ---- what varies


class Normaliser:
    """Makes two runs of one document alike. It has a memory: the same pid or id gets the same name again."""

    _PIDS = (
        r'(?P<before>(?:\b|_)pid"?[ =:]{1,2})(?P<a>\d+)',  # pid 7, pid=7, "old_pid": 7
        r"(?P<before>)(?<![\w.:])(?P<a>\d+) → (?P<b>\d+)(?![\w.])",  # PID of a reload
        r"(?P<before>\b(?:starting|ready|stopping)  +)(?P<a>\d+)(?=  )",  # PID after STATE
        r"(?P<before>\bv\d[\w.-]*  +)(?P<a>\d+)(?=  |$)",  # PID after VERSION
    )
    _SAME = (
        (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)?"), "<time>"),
        (re.compile(r"\b(?:\d+d\d+h|\d+h\d+m|\d+m\d\ds|\d+(?:\.\d+)?m?s)\b"), "<duration>"),
        (re.compile(r"^cgroups  (?:v2, |not used: ).*"), "cgroups  <as this machine has them>"),
        (re.compile(r'(?<=_seconds":)( ?)[\d.]+'), r"\1<seconds>"),
        (re.compile(r'(?<=_bytes":)( ?)\d+'), r"\1<bytes>"),
        (re.compile(r'\buid("?[ :]{1,2})\d+'), r"uid\1<uid>"),
        (re.compile(r"  +"), "  "),  # last: columns are as wide as what stood in them
    )
    _UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def __call__(self, line: str) -> str:
        line = self._UUID.sub(lambda found: self._name("id", found[0]), line.rstrip())
        for pattern in self._PIDS:
            line = re.sub(pattern, self._pids, line)
        for varying, shown in self._SAME:
            line = varying.sub(shown, line)
        return line

    def _pids(self, found: re.Match[str]) -> str:
        groups = found.groupdict()
        second = groups.get("b")
        tail = f" → {self._name('pid', second)}" if second else ""
        return f"{groups['before']}{self._name('pid', groups['a'])}{tail}"

    def _name(self, kind: str, text: str) -> str:
        known = sum(name.startswith(f"<{kind} ") for name in self._names.values())
        return self._names.setdefault(f"{kind} {text}", f"<{kind} {known + 1}>")


def differences(document: Document, outputs: list[list[str]]) -> str:
    """Where what was printed is not what the document says; empty where it is."""
    said, seen = Normaliser(), Normaliser()
    text = ""
    for example, output in zip(document.examples(), outputs, strict=True):
        diff = difflib.unified_diff([*map(said, example.output)], [*map(seen, output)], lineterm="", n=1)
        if body := [line for line in diff if not line.startswith(("---", "+++"))]:
            place = f"{document.path}:{example.line + 1}: $ {example.command}"
            text += "\n".join([place, *body, "really printed:", *output]) + "\n\n"
    return text


# ---- running


class Sandbox:
    """A copy of config/ and plugins/ with a daemon, and a shell for the examples."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        self.folder = folder
        self.port = str(free_port())
        for name in ("config", "plugins"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        catalog = folder / "config" / "catalog.yaml"  # whoever tried `make run` may have moved the pin on
        catalog.write_text(re.sub(r"pin: \S+", "pin: v1.0.0", catalog.read_text(), count=1))
        for path in (folder, *(folder / "plugins").glob("*")):
            path.chmod(path.stat().st_mode & ~0o022)
        (folder / ".venv").symlink_to(VENV)
        run = folder / "run"
        run.mkdir()
        made = re.search(r"printf '%s\\n' (.*) > \$@", (ROOT / "Makefile").read_text().replace("\\\n", ""))
        assert made is not None, "the Makefile makes run/plugind.yaml in another way now"
        lines = re.findall(
            r"'([^']*)'", made[1].replace("$(CURDIR)", str(folder)).replace("$(RUN)", str(run))
        )
        (run / "plugind.yaml").write_text("\n".join([*lines, self.real(settings)]) + "\n")
        self.environ = {"PATH": SYSTEM_PATH, "HOME": str(folder), "LANG": "C.UTF-8", "TZ": "UTC"}
        self._daemon: subprocess.Popen[bytes] | None = None
        self._shell: subprocess.Popen[str] | None = None
        self._was_ready = False

    def real(self, text: str) -> str:
        return text.replace(SHOWN_PORT, self.port).replace(SHOWN_FOLDER, str(self.folder))

    def shown(self, text: str) -> str:
        return text.replace(str(self.folder), SHOWN_FOLDER).replace(self.port, SHOWN_PORT)

    def start(self) -> None:
        """Start the daemon and wait until every mount that is to run is ready."""
        if self._daemon is not None:
            self._daemon.wait(DEADLINE)
        with (self.folder / "run" / "plugind.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [self.folder / ".venv/bin/plugind", "--config", self.folder / "run/plugind.yaml"],
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + DEADLINE
        while not self._is_ready():
            if time.monotonic() > deadline or self._daemon.poll() is not None:
                raise AssertionError((self.folder / "run" / "plugind.log").read_text())
        self._was_ready = True

    def _is_ready(self) -> bool:
        done = subprocess.run(
            [self.folder / ".venv/bin/pluginctl", "--socket", self.folder / "run/control.sock", "--json"],
            check=False,
            capture_output=True,
        )
        if done.returncode != 0:
            return False
        document = json.loads(done.stdout)
        return document["status"]["pid"] == self._pid and all(
            row["state"] in {"ready", "stopped"} for row in document["instances"]
        )

    @property
    def _pid(self) -> int | None:
        return self._daemon.pid if self._daemon is not None else None

    def run(self, command: str) -> list[str]:
        """What `command` prints, to both outputs, in the one shell of this sandbox."""
        if self._shell is None:
            self._shell = subprocess.Popen(
                ["sh"],
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            self._shell.stdin.write("last=0\n")
        script, output = self.folder / "run" / "example.sh", self.folder / "run" / "example.out"
        script.write_text(self.real(command) + "\n")
        self._shell.stdin.write(f"(exit $last); . {script} >{output} 2>&1 </dev/null; last=$?; echo done\n")
        self._shell.stdin.flush()
        if self._shell.stdout.readline() != "done\n":
            raise AssertionError(f"the shell did not survive: {command}")
        if "kill -9" in command and self._daemon is not None:
            self._daemon.wait(DEADLINE)  # a dying one may still take the next call
        return self.shown(output.read_text()).splitlines()

    def close(self) -> None:
        """End the shell and what it left running, then the daemon with its plugins."""
        if self._shell is not None:
            os.killpg(self._shell.pid, signal.SIGKILL)  # noqa: TID251 - our own child's group, not yet waited for
            self._shell.communicate()
        if self._daemon is not None:
            if self._daemon.poll() is not None and self._was_ready:
                self.start()  # it died in an example: its plugins live, and go with the next one
            self._daemon.terminate()
            self._daemon.wait(DEADLINE)


def as_in_a_terminal(*words: str | Path) -> list[str | Path]:
    """`words` with SIGINT as it is there: whoever runs the tests in the background has it ignored."""
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", code, *words]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def sandbox(settings: str = "") -> Iterator[Sandbox]:
    # short, as the path of a Unix socket is
    with tempfile.TemporaryDirectory(prefix="plugind-examples-") as folder:
        made = Sandbox(Path(folder).resolve(), settings)
        try:
            yield made
        finally:
            made.close()
            left = processes_below(Path(folder).resolve())
            if left:
                raise AssertionError(f"left behind by the examples: {left}")


def run(document: Document) -> list[list[str]]:
    """What each example of the document really prints."""
    outputs: list[list[str]] = []
    with sandbox("".join(document.blocks("yaml plugind.yaml"))) as place:
        place.start()
        for step in document.steps:
            if isinstance(step, Example):
                outputs.append(place.run(step.command))
            else:
                place.start()
    return outputs


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the examples of the documents, or write them.")
    parser.add_argument("--write", action="store_true", help="put what is really printed into the documents")
    parser.add_argument("documents", nargs="*", type=Path, default=DOCUMENTS)
    options = parser.parse_args()
    status = 0
    for path in options.documents:
        document = Document.read(path)
        outputs = run(document)
        found = differences(document, outputs)
        if found and options.write:  # else every pid in it would change for nothing
            path.write_text(document.with_outputs(outputs))
        elif found:
            sys.stdout.write(found)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
