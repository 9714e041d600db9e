"""audit.log: every line whole, in the file of that name, and nowhere else (FS6)."""

import errno
import os
import stat
from pathlib import Path

import msgspec
import pytest

from supervisor.domain.errors import Cannot
from supervisor.engine import ports
from supervisor.host.audit import AuditLog


def test_each_entry_is_one_line_after_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_bytes(b"{}\n")
    audit = AuditLog(path)
    fits: ports.Audit = audit

    fits.write({"who": "uid 0", "what": "reload\nauth/mock"})
    audit.write({"who": "uid 1", "path": tmp_path})
    audit.close()
    audit.close()

    lines = path.read_bytes().splitlines()
    assert [msgspec.json.decode(line).get("who") for line in lines] == [None, "uid 0", "uid 1"]


def test_a_new_file_is_readable_by_the_group_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        audit = AuditLog(tmp_path / "audit.log")
        audit.write({})
        audit.close()
    finally:
        os.umask(old)

    assert stat.S_IMODE((tmp_path / "audit.log").stat().st_mode) == 0o640


def test_a_rotated_or_removed_file_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    audit = AuditLog(path)
    audit.write({"n": 1})
    path.rename(tmp_path / "audit.log.1")
    audit.write({"n": 2})
    path.unlink()
    audit.write({"n": 3})
    audit.close()

    assert (tmp_path / "audit.log.1").read_bytes() == b'{"n":1}\n'
    assert path.read_bytes() == b'{"n":3}\n'


@pytest.mark.parametrize("kind", ["link", "hardlink", "fifo", "folder"])
def test_what_was_planted_there_is_not_written_to(tmp_path: Path, kind: str) -> None:
    victim, path = tmp_path / "victim", tmp_path / "audit.log"
    victim.write_bytes(b"precious")
    {
        "link": lambda: path.symlink_to(victim),
        "hardlink": lambda: path.hardlink_to(victim),
        "fifo": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[kind]()

    with pytest.raises(Cannot, match="cannot write"):
        AuditLog(path).write({})

    assert victim.read_bytes() == b"precious"


def test_a_line_that_fits_in_part_is_an_error_and_the_next_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = AuditLog(tmp_path / "audit.log")
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    with pytest.raises(Cannot, match="3 of 8 bytes fit"):
        audit.write({"n": 1})
    monkeypatch.undo()

    audit.write({"n": 2})
    audit.close()

    assert (tmp_path / "audit.log").read_bytes().splitlines() == [b'{"n', b'{"n":2}']


def test_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    audit = AuditLog(tmp_path / "audit.log")
    monkeypatch.setattr(os, "write", full)

    with pytest.raises(Cannot, match="No space left on device"):
        audit.write({"n": 1})

    audit.close()
