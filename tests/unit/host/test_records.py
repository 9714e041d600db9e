"""Adoption records: what can be believed is used, the rest set aside, the start goes on (ST1, FS6, CR2)."""

import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor.domain.catalog import FromFile, Identity, Launch, Limits, Listener
from supervisor.domain.errors import Cannot
from supervisor.domain.names import InstanceId, MountKey, Namespace, PluginRef, instance_id
from supervisor.host import records as module
from supervisor.host.identity import current_boot_id
from supervisor.host.records import InstanceRecord, InstanceRecords

LAUNCH = Launch(
    plugin=PluginRef("auth", "mock"),
    version="v1.1.0",
    command="/opt/bin/mock-plugin-1.1.0",
    sha256="a" * 64,
    args=("--fast", "ü\n\0"),
    env=(("LEVEL", "debug"), ("TOKEN", FromFile("/etc/token"))),
    user="nobody",
    limits=Limits(nofile=1024, cpu=1.5),
    listen=(Listener("stream", "127.0.0.1:7000", "api", 0o660, 5),),
)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def a_record(number: int = 1, **changes: Any) -> InstanceRecord:
    key = MountKey(Namespace(("team-a", "dev")), "auth/mock")
    return msgspec.structs.replace(
        InstanceRecord(
            id=instance_id(key, number),
            namespace=str(key.namespace),
            mount=key.path,
            generation=number,
            boot_id=current_boot_id(),
            launch=LAUNCH,
            started_at=1_700_000_000.5,
        ),
        **changes,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "instances"


@pytest.fixture
def records(folder: Path) -> InstanceRecords:
    made = InstanceRecords(folder)
    assert made.load() == ([], [])
    return made


def path_of(folder: Path, record: InstanceRecord) -> Path:
    return folder / f"{record.id}.json"


def test_the_next_daemon_reads_what_this_one_recorded(folder: Path, records: InstanceRecords) -> None:
    intent = a_record(1)
    running = a_record(2, pid=4711, start_ticks=99, executable=Identity(1, 2, 3, 4, 5))
    records.intend(intent)
    records.intend(a_record(2))
    records.started(running)
    ready = msgspec.structs.replace(running, ready=True, ready_at=2.0)
    records.update(ready)

    found, troubles = InstanceRecords(folder).load()

    assert sorted(found, key=lambda record: record.generation) == [intent, ready]
    assert troubles == []
    assert found[0].launch == LAUNCH
    assert found[0].key == MountKey(Namespace(("team-a", "dev")), "auth/mock")


def test_a_forgotten_record_is_gone_and_forgetting_again_is_fine(
    folder: Path, records: InstanceRecords
) -> None:
    records.intend(a_record())
    records.forget(a_record().id)
    records.forget(a_record().id)

    assert InstanceRecords(folder).load() == ([], [])


def test_records_hold_secrets_so_only_the_owner_reads_them(folder: Path, records: InstanceRecords) -> None:
    records.intend(a_record())

    assert stat.S_IMODE(path_of(folder, a_record()).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_half_an_identity_is_refused_before_it_is_written() -> None:
    with pytest.raises(ValueError, match="belong together"):
        a_record(pid=4711)


def test_a_record_cut_at_any_byte_is_set_aside_and_the_others_are_used(
    folder: Path, records: InstanceRecords
) -> None:
    good, torn = a_record(1), a_record(2, pid=4711, start_ticks=99)
    records.intend(good)
    records.started(torn)
    whole = path_of(folder, torn).read_bytes()

    for length in range(len(whole)):
        path_of(folder, torn).write_bytes(whole[:length])
        found, troubles = InstanceRecords(folder).load()
        assert found == [good]
        assert len(troubles) == 1
        assert "set aside as" in troubles[0]
        shutil.rmtree(folder / "set-aside")


def test_random_damage_is_set_aside_or_is_still_a_record_of_this_instance(
    folder: Path, records: InstanceRecords
) -> None:
    good, torn = a_record(1), a_record(2, pid=4711, start_ticks=99)
    records.intend(good)
    records.started(torn)
    whole = path_of(folder, torn).read_bytes()
    chance = random.Random(7)  # noqa: S311 - damage, no secret

    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path_of(folder, torn).write_bytes(damaged)
        found, _troubles = InstanceRecords(folder).load()
        assert good in found
        for record in found:
            assert record.id in {good.id, torn.id}
            assert record.pid is None or record.pid > 1
        shutil.rmtree(folder / "set-aside", ignore_errors=True)


def rewritten(change: Callable[[dict[str, Any]], object]) -> bytes:
    document = msgspec.json.decode(msgspec.json.encode(a_record(pid=4711, start_ticks=99)))
    change(document)
    return msgspec.json.encode(document)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "damaged"),
        (b"\0" * 4096, "damaged"),
        (b"[" * 100_000, "damaged"),
        (b"\xff\xfe{}", "damaged"),
        (b"{}", "damaged"),
        (b"null", "damaged"),
        (rewritten(lambda it: it.update(format=2)), "format 2"),
        (rewritten(lambda it: it.update(format=2, launch=None)), "format 2"),
        (rewritten(lambda it: it.pop("format")), "damaged"),
        (rewritten(lambda it: it.update(boot_id="0" * 36)), "earlier boot"),
        (rewritten(lambda it: it.update(pid=-1)), "damaged"),
        (rewritten(lambda it: it.update(pid=0)), "damaged"),
        (rewritten(lambda it: it.update(pid=1)), "damaged"),
        (rewritten(lambda it: it.update(start_ticks=None)), "damaged"),
        (rewritten(lambda it: it.update(id="../../etc/passwd")), "another instance"),
        (rewritten(lambda it: it.update(mount="../x")), "damaged"),
        (rewritten(lambda it: it.update(mount="/auth/mock/")), "another instance"),
        (rewritten(lambda it: it.update(namespace="sys")), "damaged"),
    ],
)
def test_what_cannot_be_believed_says_why_and_is_kept(
    folder: Path, records: InstanceRecords, content: bytes, why: str
) -> None:
    path = path_of(folder, a_record())
    path.write_bytes(content)

    found, troubles = records.load()

    assert found == []
    assert len(troubles) == 1
    assert why in troubles[0]
    assert (folder / "set-aside" / path.name).read_bytes() == content
    assert records.load() == ([], [])


@pytest.mark.parametrize("kind", ["folder", "fifo", "link", "dangling", "gigabyte"])
def test_what_is_no_record_at_all_is_set_aside_unread(
    folder: Path, records: InstanceRecords, tmp_path: Path, kind: str
) -> None:
    path = path_of(folder, a_record())
    other = tmp_path / "other.json"
    records.intend(a_record())
    path.rename(other)
    if kind == "folder":
        path.mkdir()
        (path / "inner").touch()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "gigabyte":
        path.touch()
        os.truncate(path, 1 << 30)
    else:
        path.symlink_to(other if kind == "link" else tmp_path / "nowhere")

    found, troubles = records.load()

    assert found == []
    assert len(troubles) == 1
    assert not os.path.lexists(path)
    assert other.exists()


def test_set_aside_names_never_overwrite_each_other_and_do_not_pile_up(
    folder: Path, records: InstanceRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_SET_ASIDE", 20)
    for number in range(30):
        path_of(folder, a_record()).write_text(str(number))
        records.load()

    kept = names_in(folder / "set-aside")

    assert len(kept) <= 20
    assert "29" in {(folder / "set-aside" / name).read_text() for name in kept}


def test_a_crash_between_write_and_rename_leaves_the_old_record_and_no_stray(
    folder: Path, records: InstanceRecords
) -> None:
    records.intend(a_record())
    stray = folder / f".{a_record().id}.json.999999999-1.tmp"
    stray.write_bytes(b'{"format":1,"id"')

    assert records.load() == ([a_record()], [])
    assert not stray.exists()


def test_other_things_in_the_folder_are_left_alone(folder: Path, records: InstanceRecords) -> None:
    (folder / "abc-1").mkdir()
    (folder / "README").touch()

    assert records.load() == ([], [])
    assert names_in(folder) == ["README", "abc-1"]


def test_a_folder_that_is_none_is_a_trouble_and_no_exception(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    found, troubles = InstanceRecords(tmp_path / "file").load()

    assert found == []
    assert troubles[0].startswith(f"cannot read {tmp_path}/file")


def test_a_record_that_cannot_be_written_says_where_and_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(Cannot, match=r"cannot write .*/file/.*\.json: Not a directory"):
        InstanceRecords(tmp_path / "file").intend(a_record())


def test_a_folder_of_records_that_somebody_removed_is_made_again(tmp_path: Path) -> None:
    records = InstanceRecords(tmp_path / "gone" / "instances")

    records.intend(a_record())

    assert records.load() == ([a_record()], [])


def test_text_that_is_no_unicode_is_an_error_of_that_instance_only(records: InstanceRecords) -> None:
    with pytest.raises(Cannot, match="cannot record instance"):
        records.intend(a_record(mount="\udcff"))


def test_a_disk_that_does_not_tell_which_records_there_are_ends_the_start(
    records: InstanceRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "iterdir", damaged)

    with pytest.raises(Cannot, match="Input/output error"):
        records.load()


def test_an_id_is_what_names_the_file(folder: Path, records: InstanceRecords) -> None:
    records.intend(a_record(id=InstanceId("abc-1")))

    assert (folder / "abc-1.json").exists()
