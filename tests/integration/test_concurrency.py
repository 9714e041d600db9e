"""Two things at one mount: each pair of docs/concurrency.md at a real daemon, with real processes."""

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from concurrency import TABLE, Doing, Happening, Seen, page, pair, said
from harness import ROOT, Answer, Plugind, send

PLUGIN = f"""#!{sys.executable}
import os, signal, socket
def gate(name):
    path = os.path.join(os.environ["GATES"], name)
    if os.path.exists(path):
        with open(path, "rb") as fifo:
            fifo.read()
def ended(*_):
    gate("ends")
    os._exit(0)
signal.signal(signal.SIGTERM, ended)
gate("ready")
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
while True:
    signal.pause()
"""
SETTINGS = """ready: {kind: notify, timeout: 2m}
stop: {timeout: 2m}
restart: {backoff: 2m, max_backoff: 2m}
reload: {watch: 0s}"""
MOUNT = "auth/m"


class Answered:
    """A request to the daemon, in a thread."""

    def __init__(self, future: "Future[Answer]") -> None:
        self._future = future
        self.done = future.done

    def told(self) -> str:
        answer = self._future.result()
        if "data" not in (answer.body or {}):
            return f"{answer.status}: {answer.error}"
        data = answer.data
        (row,) = [row for row in data.get("mounts", [data]) if row["mount"].strip("/") == MOUNT]
        return said(row["result"], row["new_version"], row["error"])


class Real:
    """An arena of processes; a gate is a FIFO that the plugin reads to its end."""

    def __init__(self, plugind: Plugind) -> None:
        self._plugind = plugind
        self._gates = plugind.folder / "gates"
        self._gates.mkdir()
        self._path = plugind.plugin("gated", PLUGIN)
        self._pool = ThreadPoolExecutor(4)
        self._held: list[int] = []
        self._before = 0
        self.write("v1")

    def at_rest(self) -> None:
        self.open_gates()
        self.write("v1")
        for doing in (self.apply(), self.by_hand("start"), self.reload()):
            doing.told()
        self._until_state("ready")
        self._before = self._generation()

    def close_gate(self, name: str) -> None:
        os.mkfifo(self._gates / name)

    def until_at(self, name: str) -> None:
        def is_there() -> bool:
            try:
                self._held.append(os.open(self._gates / name, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:  # ENXIO: nobody has it open
                return False
            return True

        self._plugind.until(is_there)

    def open_gates(self) -> None:
        for path in self._gates.iterdir():
            path.unlink()
        while self._held:
            os.close(self._held.pop())

    def write(self, pin: str, *, listed: bool = True) -> None:
        versions = {name: (self._path, [name]) for name in ("v1", "v2", "v3")}
        mounts = {"auth/other": "{plugin: auth/mock, version: v1}"}
        if listed:
            mounts[MOUNT] = "{plugin: auth/mock}"
        settings = f"{SETTINGS}\nenv: {{GATES: {self._gates}}}"
        self._plugind.write(versions, {"root": mounts}, pin, settings)

    def reload(self) -> Answered:
        return self._ask("sys/plugins/reload/backend", {"mounts": [MOUNT]})

    def apply(self) -> Answered:
        return self._ask("supervisor/apply")

    def by_hand(self, verb: str) -> Answered:
        return self._ask(f"supervisor/{verb}/{MOUNT}")

    def _ask(self, path: str, body: Any = None) -> Answered:
        return Answered(self._pool.submit(self._plugind.call, "POST", path, body or {}))

    def crash(self) -> None:
        pid, seen = self._row["pid"], self._transitions()
        if pid is not None:
            send(pid, signal.SIGKILL)
            self._plugind.until(lambda: self._transitions() != seen)

    def then(self, second: Happening) -> Doing | None:
        seen = self._transitions()
        doing = second(self)
        if doing is None:
            self._plugind.call("GET", "supervisor/plan")  # an edit is in force now
        else:
            self._plugind.until(lambda: doing.done() or self._transitions() != seen)
        return doing

    def seen(self, first: Doing | None, second: Doing | None) -> Seen:
        self.open_gates()
        answers = [doing.told() if doing is not None else "" for doing in (first, second)]
        self._until_state("ready", "stopped", "failed", "backoff", "gone")
        row = self._row
        starts = self._generation() - self._before if row["state"] != "gone" else None
        return Seen(*answers, row["version"] if row["state"] == "ready" else row["state"], starts)

    @property
    def _row(self) -> dict[str, Any]:
        return self._plugind.rows().get(f"root:{MOUNT}", {"state": "gone", "version": None, "pid": None})

    def _until_state(self, *states: str) -> None:
        self._plugind.until(lambda: self._row["state"] in states)

    def _transitions(self) -> int:
        """The number of the last one."""
        answer = self._plugind.call("GET", f"supervisor/why/{MOUNT}")
        return answer.data["transitions"][-1]["id"] if answer.status == 200 else 0

    def _generation(self) -> int:
        """Of the last instance that was started here."""
        rows = self._plugind.call("GET", f"supervisor/why/{MOUNT}").data["transitions"]
        return max(int(row["instance"].rpartition("-")[2]) for row in rows if row["instance"])

    def close(self) -> None:
        self.open_gates()
        self._pool.shutdown()


@pytest.fixture(scope="module")
def arena(shared_plugind: Plugind) -> Iterator[Real]:
    arena = Real(shared_plugind)
    shared_plugind.start()
    try:
        yield arena
    finally:
        arena.close()


@pytest.mark.parametrize(("first", "second"), TABLE)
def test_what_comes_during_something_else_has_the_outcome_that_is_written_down(
    arena: Real, first: str, second: str
) -> None:
    assert pair(arena, first, second) == TABLE[first, second]


def test_the_table_in_the_docs_is_this_one() -> None:
    assert (ROOT / "docs/concurrency.md").read_text() == page()
