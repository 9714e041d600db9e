"""One mount of a real daemon, with gates at which its plugin waits."""

import os
import signal
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from concurrency import Doing, Happening, Seen, said
from harness import Answer, Plugind, send

PLUGIN = f"""#!{sys.executable}
import os, signal, socket, time
def gate(name):
    try:
        with open(os.path.join(os.environ["GATES"], name), "rb") as fifo:
            fifo.read()
    except FileNotFoundError:
        pass
def ended(*_):
    gate("ends")
    os._exit(0)
signal.signal(signal.SIGTERM, ended)
gate("ready")
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
while True:
    time.sleep(0.1)  # a signal that comes right before pause() would not be heard
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
        self.plugind = plugind
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

        self.plugind.until(is_there)

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
        self.plugind.write(versions, {"root": mounts}, pin, settings)

    def reload(self) -> Answered:
        return self._ask("sys/plugins/reload/backend", {"mounts": [MOUNT]})

    def apply(self) -> Answered:
        return self._ask("supervisor/apply")

    def by_hand(self, verb: str) -> Answered:
        return self._ask(f"supervisor/{verb}/{MOUNT}")

    def _ask(self, path: str, body: Any = None) -> Answered:
        return Answered(self._pool.submit(self.plugind.call, "POST", path, body or {}))

    def crash(self) -> None:
        pid, seen = self._row["pid"], self.transitions()
        if pid is not None:
            send(pid, signal.SIGKILL)
            self.plugind.until(lambda: self.transitions() != seen)

    def then(self, second: Happening) -> Doing | None:
        seen = self.transitions()
        doing = second(self)
        if doing is None:
            self.plugind.call("GET", "supervisor/plan")  # an edit is in force now
        else:
            self.plugind.until(lambda: doing.done() or self.transitions() != seen)
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
        return self.plugind.rows().get(f"root:{MOUNT}", {"state": "gone", "version": None, "pid": None})

    def _until_state(self, *states: str) -> None:
        self.plugind.until(lambda: self._row["state"] in states)

    def transitions(self) -> int:
        """The number of the last one."""
        answer = self.plugind.call("GET", f"supervisor/why/{MOUNT}")
        return answer.data["transitions"][-1]["id"] if answer.status == 200 else 0

    def _generation(self) -> int:
        """Of the last instance that was started here."""
        rows = self.plugind.call("GET", f"supervisor/why/{MOUNT}").data["transitions"]
        return max(int(row["instance"].rpartition("-")[2]) for row in rows if row["instance"])

    def close(self) -> None:
        self.open_gates()
        self._pool.shutdown()
