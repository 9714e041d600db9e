"""`make demo` tells its story, leaves nothing behind, and fails where a step is not as it says."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from readme_examples import as_in_a_terminal

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DEADLINE = 60.0


def start(folder: Path, binaries: Path = BIN) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        as_in_a_terminal("sh", ROOT / "docs" / "demo.sh", binaries),
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def demo(folder: Path, binaries: Path = BIN) -> tuple[int, str]:
    process = start(folder, binaries)
    out, _ = process.communicate(timeout=DEADLINE)
    return process.returncode, out


def left_in(folder: Path) -> list[str]:
    """Files in `folder`, and processes that were told about it."""
    left = [str(path) for path in folder.iterdir()]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if f"{folder}/".encode() in told and state != "Z":
            left.append(f"{entry.name}: {told[:200]!r}")
    return left


def a_pluginctl_that(lies: str, folder: Path) -> Path:
    """Binaries of which pluginctl does `lies`, with the real one as $REAL."""
    folder.mkdir()
    (folder / "plugind").symlink_to(BIN / "plugind")
    wrapper = folder / "pluginctl"
    wrapper.write_text(f"#!/bin/bash\nset -o pipefail\nREAL={BIN}/pluginctl\n{lies}\n")
    wrapper.chmod(0o755)
    return folder


@pytest.fixture
def place() -> Iterator[Path]:
    # pytest's own tmp_path may be too long for a Unix socket
    with tempfile.TemporaryDirectory(prefix="plugind-") as folder:
        yield Path(folder)


def test_it_tells_the_whole_story_and_leaves_nothing_behind(place: Path) -> None:
    status, out = demo(place)

    assert status == 0, out
    story = [
        "pluginctl plan",
        "3 reloaded in",
        "unknown key",
        "has SHA-256",
        "3 rolled back in",
        "kill",
        "All of it",
    ]
    places = [out.find(words) for words in story]
    assert -1 not in places, out
    assert places == sorted(places), out
    assert left_in(place) == []


@pytest.mark.parametrize(
    ("lies", "complaint"),
    [
        (
            '"$REAL" "$@" | sed "s/v1.0.0/v1.0.1/"',
            "0 lines match 'auth/mock-plugin  v1.0.0 .* ready', and not 3",
        ),
        ('"$REAL" "$@" | sed "s/rolled back/reloaded/"', "rolled back', and not 3"),
        ('"$REAL" "$@"; exit 0', "the exit status of `pluginctl reload auth/mock-plugin` is 0, and not 2"),
        ('[ "$3" != reload ] || set -- "$1" "$2" plan; "$REAL" "$@"', "reloaded', and not 3"),
        ('[ "$3" != reload ] || "$REAL" "$1" "$2" restart kv >/dev/null; "$REAL" "$@"', "kv was touched"),
    ],
    ids=["another version", "not rolled back", "always 0", "no reload", "too much reloaded"],
)
def test_it_fails_where_a_step_is_not_as_it_says(
    lies: str, complaint: str, place: Path, tmp_path: Path
) -> None:
    status, out = demo(place, a_pluginctl_that(lies, tmp_path / "bin"))

    assert status == 1, out
    assert complaint in out.rpartition("Not as it should be: ")[2], out
    assert "All of it as it should be" not in out
    assert left_in(place) == []


def test_it_fails_where_plugind_does_not_start(place: Path, tmp_path: Path) -> None:
    binaries = a_pluginctl_that('"$REAL" "$@"', tmp_path / "bin")
    (binaries / "plugind").unlink()
    (binaries / "plugind").write_text("#!/bin/sh\necho no >&2\nexit 2\n")
    (binaries / "plugind").chmod(0o755)

    status, out = demo(place, binaries)

    assert status == 1
    assert "Not as it should be: plugind ended" in out
    assert left_in(place) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_cleans_up_when_it_is_interrupted(number: signal.Signals, status: int, place: Path) -> None:
    process = start(place)
    for line in process.stdout:
        if line.startswith("demo: 5 mounts"):
            break

    os.killpg(process.pid, number)  # noqa: TID251 - our own child's group, not yet waited for
    out, _ = process.communicate(timeout=DEADLINE)

    assert process.returncode == status, out
    assert left_in(place) == []
