"""Adoption records: what the next plugind must know about each instance, one file per instance.

Decided here: how a record is written, and which of the files found at a start can be believed.
What a record means for a mount (adopt, kill, leave alone) is decided in `engine/adoption.py`.
The folder is on tmpfs and written at every start of a process, so nothing is synced to a disk.
"""

import errno
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec

from supervisor.domain.catalog import Identity, Launch
from supervisor.domain.errors import BadRequest, Cannot
from supervisor.domain.events import Instance
from supervisor.domain.names import InstanceId, MountKey, Namespace
from supervisor.host.identity import current_boot_id, is_scarcity
from supervisor.host.wholefile import (
    free_name,
    read_whole,
    refusal,
    remove_strays,
    unlink_quietly,
    write_whole,
)

FORMAT: Final = 1
SET_ASIDE: Final = "set-aside"
MOST_BYTES: Final = 16 << 20
"""A Launch is bounded by what execve takes (2 MiB), and by JSON's escapes."""
MOST_SET_ASIDE: Final = 200


class RecordedSocket(msgspec.Struct, frozen=True):
    """A listener that the instance was handed, as the next plugind finds it among its descriptors."""

    kind: str
    address: str
    inode: int
    """Of the socket: what /proc/PID/fd shows."""
    file: tuple[int, int] | None = None
    """Device and inode of a Unix socket's file."""


class InstanceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One instance. Before its spawn `pid` is None: the intent; a process may or may not exist."""

    id: InstanceId
    namespace: str
    mount: str
    """Without leading and final slash, as in `MountKey.path`."""
    generation: Annotated[int, msgspec.Meta(ge=0)]
    boot_id: str
    launch: Launch
    """Whole, env values included: the file is 0600. Values of kind FromFile stay names of files."""
    started_at: float
    """Wall clock, for people."""
    pid: Annotated[int, msgspec.Meta(gt=1)] | None = None
    start_ticks: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Field 22 of /proc/PID/stat, raw: `identity.start_ticks`."""
    mark: Annotated[int, msgspec.Meta(ge=0)] = 0
    """The soft RLIMIT_MSGQUEUE that its members are known by: `orphans.py`."""
    executable: Identity | None = None
    """What /proc/PID/exe was when it was seen to run."""
    ready: bool = False
    ready_at: float | None = None
    """Wall clock, for people."""
    sockets: tuple[RecordedSocket, ...] = ()
    format: int = FORMAT

    def __post_init__(self) -> None:
        """Refuse half an identity: a pid without its start may be anybody by now."""
        if (self.pid is None) != (self.start_ticks is None):
            raise ValueError("pid and start_ticks belong together")

    @property
    def key(self) -> MountKey:
        return MountKey(Namespace.parse(self.namespace), self.mount)


def intended(
    key: MountKey, instance: Instance, mark: int, sockets: tuple[RecordedSocket, ...]
) -> InstanceRecord:
    """The record of an instance that is about to be spawned."""
    return InstanceRecord(
        id=instance.id,
        namespace=str(key.namespace),
        mount=key.path,
        generation=instance.generation,
        boot_id=current_boot_id(),
        launch=instance.launch,
        started_at=datetime.now(UTC).timestamp(),
        mark=mark,
        sockets=sockets,
    )


class _Header(msgspec.Struct):
    format: int


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(InstanceRecord)
_header: Final = msgspec.json.Decoder(_Header)


class InstanceRecords:
    """The records of one runtime_dir. Synchronous: a write is some tens of microseconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def intend(self, record: InstanceRecord) -> None:
        """Record an instance that is about to be spawned.

        Raises:
            Cannot: Nothing may be spawned: a crash would leave a stranger.
        """
        try:
            self.update(record)
        except Cannot as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            with suppress(OSError):  # somebody removed the folder; the next try says what is wrong
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.update(record)

    def started(self, record: InstanceRecord) -> None:
        """Record pid and start of what was spawned.

        Raises:
            Cannot: The intent still stands; the process is found by its mark after a crash.
        """
        self.update(record)

    def update(self, record: InstanceRecord) -> None:
        """Replace the record of this instance.

        Raises:
            Cannot: The old record still stands.
        """
        try:
            data = _encoder.encode(record)
        except (UnicodeEncodeError, msgspec.MsgspecError) as error:
            raise Cannot(f"cannot record instance {record.id}: {error}") from error
        write_whole(self._path(record.id), data, durable=False)

    def forget(self, instance: InstanceId) -> None:
        """Remove the record of an instance whose tree is gone.

        Raises:
            Cannot: It is still there; the next start finds nobody under its pid and start.
        """
        path = self._path(instance)
        try:
            os.unlink(path)  # noqa: PTH108 - a name, on the path of every stop
        except FileNotFoundError:
            return
        except OSError as error:
            raise refusal("remove", path, error) from error

    def load(self) -> tuple[list[InstanceRecord], list[str]]:
        """Every record of this boot that can be believed, and what is wrong with the others.

        The others are moved to `set-aside/`, where people may look at them. Whatever a crash or a disk
        left here, the daemon starts, and finds instances without records by their environments.

        Raises:
            Cannot: A descriptor or memory is missing just now, or the disk does not tell which there are:
                nothing is wrong with the records, and who runs must not end for that.
        """
        records: list[InstanceRecord] = []
        troubles: list[str] = []
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            paths = sorted(self.folder.iterdir())
        except OSError as error:
            if is_scarcity(error) or error.errno == errno.EIO:
                raise refusal("read", self.folder, error) from error
            return [], [str(refusal("read", self.folder, error))]
        remove_strays(self.folder)
        for path in paths:
            if path.suffix != ".json":
                continue  # TMPDIRs, temporary files
            try:
                records.append(_believed(path))
            except Cannot as error:
                if isinstance(error.__cause__, OSError) and (again := _read_again(path)) is not None:
                    records.append(again)
                    continue
                if is_scarcity(error):
                    raise
                troubles.append(f"{error}; {self._set_aside(path)}")
        return records, troubles

    def _path(self, instance: InstanceId) -> str:
        return f"{self.folder}/{instance}.json"

    def _set_aside(self, path: Path) -> str:
        folder = self.folder / SET_ASIDE
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            place = path.rename(free_name(folder / path.name))
            _keep_newest(folder, MOST_SET_ASIDE)
        except OSError as error:
            return f"it could not be set aside: {error.strerror}"
        return f"set aside as {place}"


def _believed(path: Path) -> InstanceRecord:
    data = read_whole(path, MOST_BYTES)
    if data is None:
        raise Cannot(f"cannot read {path}: it vanished")
    try:
        found = _header.decode(data).format
        if found != FORMAT:
            raise Cannot(f"cannot use {path}: it has format {found}, this version knows {FORMAT}")
        record = _decoder.decode(data)
        key = record.key
        is_this_file = path.name == f"{record.id}.json" and MountKey.parse(key.namespace, key.path) == key
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, BadRequest) as error:
        raise Cannot(f"cannot use {path}: it is damaged: {error}") from error
    if not is_this_file:
        raise Cannot(f"cannot use {path}: it is damaged: it is about another instance")
    if record.boot_id != current_boot_id():
        raise Cannot(f"cannot use {path}: it is from an earlier boot")
    return record


def _read_again(path: Path) -> InstanceRecord | None:
    """A disk that failed once may do it the next time, and there is a life at stake."""
    try:
        return _believed(path)
    except Cannot:
        return None


def _keep_newest(folder: Path, most: int) -> None:
    """Bound what piles up: a runtime_dir on a disk sets every record aside at every boot."""
    for path in sorted(folder.iterdir(), key=lambda path: path.lstat().st_ctime_ns)[:-most]:
        unlink_quietly(path)
