"""Text at the limits costs under a second and under 100 MB, whether it is refused or loaded."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_texts import EVENTS, HOSTILE, PLUGIN, SETTINGS, SIZE, VALID

AS_SETTINGS = (
    "unknown keys",
    "one scalar with an emoji",
    "sexagesimal digits",
    "brackets",
    "list items",
    "tags",
)
BIN = Path(sys.executable).parent
MOST_MEMORY = 100 << 20
MOST_SECONDS = 1.0
YARDSTICKS = 10
"""A machine so busy that the bare parser takes over a tenth of a second for so many events gets more time."""

# forks for each file that is named: nothing of one text is left when the next one is read
JUDGE = """
import io, json, os, resource, sys, time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from yaml._yaml import CParser
import supervisor.files.load, supervisor.files.settings
from supervisor.cli.commands.check import check_files

def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) << 10

def timed(action):
    start = time.process_time()
    action()
    return time.process_time() - start

def bare():
    parser = CParser(b"- a\\n" * %d)
    while parser.get_event() is not None:
        pass

def judged(path):
    before, out, found = peak(), io.StringIO(), {}
    def check():
        out.truncate(0)
        with redirect_stdout(out), redirect_stderr(out):
            found["status"] = check_files([path])
    found["seconds"] = timed(check)
    found["memory"] = peak() - before
    for _ in range(2):
        if found["seconds"] > 0.5:
            found["seconds"] = min(found["seconds"], timed(check))
    found["yardstick"] = min(timed(bare) for _ in range(2)) if found["seconds"] > 0.5 else 0
    found["out"] = out.getvalue().lstrip("\\0")
    return found

for line in sys.stdin:
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
        print(json.dumps(judged(Path(line.strip()))), flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print(json.dumps({"died": True}), flush=True)
"""


class Judge:
    def __init__(self, folder: Path, process: "subprocess.Popen[str]") -> None:
        self._folder = folder
        self._process = process

    def __call__(self, name: str, data: bytes) -> Any:
        path = self._folder / name
        path.write_bytes(data)
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        found = json.loads(self._process.stdout.readline())
        path.unlink()
        assert "died" not in found, "its process took 30 s or was killed"
        return found


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    command = [sys.executable, "-c", JUDGE % EVENTS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Judge(tmp_path_factory.mktemp("hostile"), process)
        process.stdin.close()


def is_cheap(found: Any) -> None:
    assert found["memory"] < MOST_MEMORY, f"{found['memory'] >> 20} MiB"
    assert found["seconds"] < max(MOST_SECONDS, YARDSTICKS * found["yardstick"]), found


def is_refused(found: Any, file: str) -> None:
    is_cheap(found)
    lines = found["out"].splitlines()
    assert found["status"] == 2
    assert 1 <= len(lines) <= 1001
    assert all(f"/{file}:" in line for line in lines), lines[0]
    assert len(found["out"]) < 1 << 20


@pytest.mark.parametrize("name", VALID)
def test_a_text_just_below_the_limits_is_loaded(judge: Judge, name: str) -> None:
    found = judge("c.yaml", VALID[name]().encode())

    is_cheap(found)
    assert (found["status"], found["out"].endswith(": good\n")) == (0, True), found["out"][:300]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_catalog_is_refused(judge: Judge, name: str) -> None:
    is_refused(judge("c.yaml", HOSTILE[name]().encode()), "c.yaml")


@pytest.mark.parametrize("name", ["unknown keys", "brackets", "one scalar with an emoji", "depth everywhere"])
def test_utf_16_costs_no_more(judge: Judge, name: str) -> None:
    data = HOSTILE[name]().encode("utf-16")[: SIZE - 2]

    is_refused(judge("c.yaml", data), "c.yaml")


@pytest.mark.parametrize("name", AS_SETTINGS)
def test_it_is_refused_as_settings_too(judge: Judge, name: str) -> None:
    is_refused(judge("plugind.yaml", HOSTILE[name]().encode()), "plugind.yaml")


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_at_the_limits_are_read_or_refused(judge: Judge, name: str) -> None:
    found = judge("plugind.yaml", SETTINGS[name]().encode())

    is_cheap(found)
    # good ones name a catalog that is not there
    assert found["status"] == 2
    assert ("plugind.yaml: good" in found["out"]) != (
        "plugind.yaml:" in found["out"].replace("yaml: good", "")
    )


def test_the_files_of_a_folder_share_the_limits(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(PLUGIN)
    for number in range(3):
        (tmp_path / f"b{number}.yaml").write_text(f"# {number}\n" + "- a\n" * (EVENTS // 2))
    for number in range(3):
        (tmp_path / f"c{number}.yaml").write_bytes(b"#" * (SIZE // 2))

    out = checked(tmp_path)

    assert out.count("larger than 8 MiB") == 1
    for number in range(3):
        (tmp_path / f"c{number}.yaml").unlink()
    assert checked(tmp_path).count("more than 120,000 YAML events") == 1


def checked(folder: Path) -> str:
    done = subprocess.run(
        [BIN / "plugind", "check", folder],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    "name", ["unknown keys", "brackets", "one scalar of emojis", "different tag directives"]
)
def test_plugind_check_says_it_without_a_traceback(tmp_path: Path, name: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(HOSTILE[name]())

    out = checked(file)

    assert 1 <= len(out.splitlines()) <= 1001
    assert out.startswith(f"{file}:")
