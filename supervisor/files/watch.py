"""Notices that the catalog's files changed, however an editor or a ConfigMap replaces them.

watchdog's threads see the folders of the symlink chain; what they report only means "look again".
Looking compares stats, so that reads, and neighbours of the file, call nobody. A stat every five
seconds finds what inotify cannot see, or everything where inotify is not to be had.
"""

import asyncio
import ctypes
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

import structlog
from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer, inotify_c
from watchdog.observers.api import BaseObserver

from supervisor.domain.names import Seconds

log = structlog.get_logger(__name__)
_DEBOUNCE: Final[Seconds] = 0.2
_POLL: Final[Seconds] = 5.0
_MOST_LINKS: Final = 40
_MOST_FILES: Final = 10_000
# not opened and not closed_no_write: a handler that reads would call itself for ever
_EVENTS: Final[list[type[FileSystemEvent]]] = [
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
]
_IN_CLOEXEC: Final = 0x80000
_Stat: TypeAlias = tuple[str, tuple[int, ...] | None]
_State: TypeAlias = tuple[_Stat, ...]


def _inotify_init() -> int:
    """As watchdog's own, but no plugin inherits the descriptor. Source: inotify_init1(2)."""
    descriptor: int = _libc.inotify_init1(_IN_CLOEXEC)
    return descriptor


_libc: Final = ctypes.CDLL(None, use_errno=True)
inotify_c.inotify_init = _inotify_init


class CatalogWatcher(FileSystemEventHandler):
    """Calls `on_change` on `loop`, at most five times a second, after what stands at `path` changed."""

    def __init__(
        self, path: str | os.PathLike[str], on_change: Callable[[], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._path = Path(path).absolute()
        self._on_change = on_change
        self._loop = loop
        self._lock = threading.Lock()
        self._observer: BaseObserver | None = None
        self._armed: _State = ()
        self._seen: _State = ()
        self._is_running = False
        self._is_due = False
        self._is_stale = False
        self._timer: asyncio.TimerHandle | None = None
        self.is_polling = False
        """Whether inotify was not to be had: then a change is seen within five seconds."""

    def start(self) -> None:
        """Watch from now on; to be called on the loop. Changes before it are nobody's news."""
        self._is_running = True
        with self._lock:
            try:
                self._arm()
                self._seen = _state(self._path)
            except OSError:
                self._is_stale = self.is_polling = True
        self._set_timer(_POLL)

    def stop(self) -> None:
        """Return when no thread is left; `on_change` is not called any more."""
        self._is_running = False
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            _end(self._observer)
            self._observer = None

    # ---- on watchdog's thread

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.is_directory and {event.src_path, event.dest_path} & {folder for folder, _ in self._armed}:
            self._is_stale = True  # its successor may even get the same inode number
        if not self._is_due:
            self._is_due = True
            # a loop that was closed has no use for it
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._set_timer, _DEBOUNCE)

    # ---- on the loop

    def _set_timer(self, delay: Seconds) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._is_running:
            self._timer = self._loop.call_later(delay, self._look_soon)

    def _look_soon(self) -> None:
        self._is_due = False
        # set first: should the look fail, there is another one
        self._set_timer(_POLL)
        self._loop.run_in_executor(None, self._look)

    def _call(self) -> None:
        if self._is_running:
            self._on_change()

    # ---- in a worker thread

    def _look(self) -> None:
        with self._lock:
            if not self._is_running:
                return
            try:
                has_changed = self._has_changed()
            except OSError:  # a disk that cannot be read just now: the next look sees what there is
                self._is_stale = True
                return
            if has_changed:
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._call)

    def _has_changed(self) -> bool:
        is_stale, self._is_stale = self._is_stale, False
        if is_stale or _chain_state(self._path) != self._armed:
            self._arm()
        state = _state(self._path)
        if state == self._seen:
            return False
        self._seen = state
        return True

    def _arm(self) -> None:
        """Watch the folders as they are now; what they were is let go of."""
        before, self._observer = self._observer, None
        self._armed = _chain_state(self._path)
        observer: BaseObserver | None = None
        try:
            observer = Observer(timeout=_DEBOUNCE)
            for folder, identity in self._armed:
                if identity is not None:
                    observer.schedule(self, folder, recursive=False, event_filter=_EVENTS)
            observer.start()
            if self.is_polling:
                log.info("catalog_watched_again", catalog=str(self._path))
            self._observer, self.is_polling = observer, False
        except (OSError, RuntimeError) as error:
            if not self.is_polling:
                why = getattr(error, "strerror", None) or str(error)
                told = f"{why}: a change is seen within {_POLL:g} s, not at once"
                log.warning("catalog_polled", catalog=str(self._path), reason=told)
            # out of watches, instances or threads, or a folder went away: the next look tries again
            self.is_polling = True
            self._armed = ()
            _end(observer)
        _end(before)


def _end(observer: BaseObserver | None) -> None:
    if observer is None:
        return
    observer.stop()  # also one that was never started: it has descriptors and a thread from its making on
    if observer.is_alive():
        observer.join()


def _state(path: Path) -> _State:
    """What would differ after a change: the chain of folders, and every file's stat."""
    files = [path]
    with suppress(OSError):
        if path.is_dir():
            names = sorted(entry.name for entry in path.iterdir() if entry.name.endswith(".yaml"))
            files += [path / name for name in names[:_MOST_FILES]]
    return _chain_state(path) + tuple(_stat(file) for file in files)


def _stat(path: Path) -> _Stat:
    try:
        found = path.stat()
    except OSError:
        return str(path), None
    times = (found.st_mtime_ns, found.st_ctime_ns)
    return str(path), (found.st_dev, found.st_ino, found.st_size, *times)


def _chain_state(path: Path) -> _State:
    """The folders in which an element of the chain may be replaced, each with its identity."""
    result: list[_Stat] = []
    for folder in _chain(path):
        try:
            found = folder.stat()
        except OSError:
            continue
        result.append((str(folder), (found.st_dev, found.st_ino)))
    return tuple(result)


def _chain(path: Path) -> list[Path]:
    """Folders of `path` and of every symlink it leads over, and the folder above each."""
    folders: dict[Path, None] = {}
    here = path
    for _ in range(_MOST_LINKS):
        folders.update(dict.fromkeys([here.parent, here.parent.parent]))
        link = _first_link(here)
        if link is None:
            break
        folders[link.parent] = None
        # the part behind the link stays; `..` is taken as the kernel takes it, after the links before it
        here = Path(os.path.normpath(link.parent / link.readlink())) / here.relative_to(link)
    if here.is_dir():
        folders[here] = None
    return list(folders)


def _first_link(path: Path) -> Path | None:
    for element in [*reversed(path.parents), path]:
        if element.is_symlink():
            return element
    return None
