"""Holds on disk: what was written is there afterwards, and what cannot be used is set aside and told."""

import os
from pathlib import Path

import pytest

from supervisor.domain.errors import Cannot
from supervisor.domain.holds import Hold
from supervisor.domain.names import ROOT, Namespace
from supervisor.engine import ports
from supervisor.host.holds import HoldFile

TEAM = Hold(Namespace(("team-a", "dev")), "release 1.4 → café", "uid 7", "2026-01-31T12:00:00Z")
ALL = Hold(ROOT, "night", "token 9f86d081", "2026-01-31T12:00:01Z")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "holds.json"


async def test_what_was_written_is_there_after_a_restart(path: Path) -> None:
    file: ports.HoldFile = HoldFile(path)
    assert list(file.load()) == []

    await file.write([TEAM, ALL])

    assert HoldFile(path).load() == [TEAM, ALL]
    assert path.stat().st_mode & 0o777 == 0o600
    await file.write([])
    assert HoldFile(path).load() == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        b"\xff",
        b'{"format":99,"holds":[]}',
        b'{"format":1,"holds":[{"namespace":"a//b","why":"x","who":"y","since":"z"}]}',
        b'{"format":1,"holds":[{"namespace":"team-a"}]}',
        b"[" * 100_000,
    ],
    ids=["empty", "text", "bytes", "version", "name", "fields", "nested"],
)
async def test_what_cannot_be_used_is_kept_and_told_until_it_is_written_anew(
    path: Path, content: bytes
) -> None:
    path.write_bytes(content)

    with pytest.raises(Cannot, match=f"cannot use {path}: .*; it is kept as {path}.damaged"):
        HoldFile(path).load()

    assert path.with_name("holds.json.damaged").read_bytes() == content
    with pytest.raises(Cannot):  # the one before could not write, and everything is still held
        HoldFile(path).load()
    await HoldFile(path).write([])
    assert HoldFile(path).load() == []
    assert path.with_name("holds.json.damaged").read_bytes() == content


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "fifo"])
def test_what_is_no_file_does_not_stop_the_start(path: Path, make: object) -> None:
    make(path)  # type: ignore[operator]

    with pytest.raises(Cannot, match="it is kept as"):
        HoldFile(path).load()


async def test_a_write_that_is_refused_leaves_what_was_there(path: Path) -> None:
    file = HoldFile(path)
    await file.write([TEAM])
    broken = HoldFile(path.parent / "nowhere" / "holds.json")

    with pytest.raises(Cannot, match="cannot write"):
        await broken.write([ALL])
    assert file.load() == [TEAM]
