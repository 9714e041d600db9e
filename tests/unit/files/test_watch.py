"""Real folders, every way of saving: the callback comes, and comes only then."""

import asyncio
import ctypes
import errno
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from supervisor.files import watch
from supervisor.files.watch import CatalogWatcher

DEADLINE = 8.0


def descriptors_open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class Seen:
    """Counts the calls, and waits for the next one."""

    def __init__(self) -> None:
        self.calls = 0
        self._changed = asyncio.Event()

    def __call__(self) -> None:
        self.calls += 1
        self._changed.set()

    async def after(self, act: Callable[[], object]) -> None:
        self._changed.clear()
        act()
        await asyncio.wait_for(self._changed.wait(), DEADLINE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "etc" / "plugind").mkdir(parents=True)
    path = tmp_path / "etc" / "plugind" / "catalog.yaml"
    path.write_text("old")
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_DEBOUNCE", 0.02)


@pytest.fixture
async def seen(path: Path) -> AsyncIterator[Seen]:
    seen = Seen()
    watcher = CatalogWatcher(path, seen, asyncio.get_running_loop())
    watcher.start()
    yield seen
    watcher.stop()


def rename_over(path: Path) -> None:
    beside = path.with_name(".catalog.yaml.swp")
    beside.write_text("renamed")
    beside.rename(path)


def vim(path: Path) -> None:
    path.rename(path.with_name("catalog.yaml~"))
    path.write_text("new")
    path.with_name("catalog.yaml~").unlink()


def remove_and_write(path: Path) -> None:
    path.unlink()
    path.write_text("again")


def replace_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("old"))
    path.parent.mkdir()
    path.write_text("in another folder")


@pytest.mark.parametrize(
    "save", [lambda path: path.write_text("in place"), rename_over, vim, remove_and_write, replace_folder]
)
async def test_a_save_is_seen_and_so_is_the_next_one(
    seen: Seen, path: Path, save: Callable[[Path], None]
) -> None:
    await seen.after(lambda: save(path))
    await seen.after(lambda: path.write_text("and in place, after that"))
    await seen.after(lambda: rename_over(path))


async def test_a_removed_file_is_seen(seen: Seen, path: Path) -> None:
    await seen.after(path.unlink)
    await seen.after(lambda: path.write_text("back"))


async def test_the_swap_of_a_config_map_is_seen_every_time(tmp_path: Path) -> None:
    def publish(number: int) -> None:
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "catalog.yaml").write_text(f"{number}")
        (tmp_path / "..tmp").symlink_to(f"..{number}")
        (tmp_path / "..tmp").rename(tmp_path / "..data")

    publish(1)
    (tmp_path / "catalog.yaml").symlink_to("..data/catalog.yaml")
    for watched in (tmp_path / "catalog.yaml", tmp_path):
        seen = Seen()
        watcher = CatalogWatcher(watched, seen, asyncio.get_running_loop())
        watcher.start()
        for number in range(2, 5):
            await seen.after(lambda n=number + 10 * (watched == tmp_path): publish(n))
        watcher.stop()


async def test_a_link_to_another_folder_is_watched_at_both_ends(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "catalog.yaml").write_text(name)
    link = tmp_path / "here" / "catalog.yaml"
    link.parent.mkdir()
    link.symlink_to("../one/catalog.yaml")
    seen = Seen()
    watcher = CatalogWatcher(link, seen, asyncio.get_running_loop())
    watcher.start()

    await seen.after(lambda: (tmp_path / "one" / "catalog.yaml").write_text("changed"))

    def swap() -> None:
        (tmp_path / "here" / "new").symlink_to("../two/catalog.yaml")
        (tmp_path / "here" / "new").rename(link)

    await seen.after(swap)
    await seen.after(lambda: (tmp_path / "two" / "catalog.yaml").write_text("changed"))
    watcher.stop()


async def test_a_new_file_in_a_directory_is_seen(tmp_path: Path) -> None:
    seen = Seen()
    watcher = CatalogWatcher(tmp_path, seen, asyncio.get_running_loop())
    watcher.start()

    await seen.after(lambda: (tmp_path / "b.yaml").write_text("b"))
    await seen.after((tmp_path / "b.yaml").unlink)
    watcher.stop()


async def test_reads_and_neighbours_call_nobody(seen: Seen, path: Path) -> None:
    for _ in range(20):
        path.read_text()
        path.with_name("other.txt").write_text("x")

    # whatever the reads caused comes before what the save causes
    await seen.after(lambda: path.write_text("saved"))
    assert seen.calls == 1


async def test_a_storm_of_saves_is_a_handful_of_calls_and_the_last_one_counts(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_DEBOUNCE", 0.2)
    contents: list[str] = []
    last = asyncio.Event()

    def note() -> None:
        contents.append(path.read_text())
        if contents[-1] == "499":
            last.set()

    watcher = CatalogWatcher(path, note, asyncio.get_running_loop())
    watcher.start()
    loop = asyncio.get_running_loop()
    start = loop.time()

    def storm() -> None:
        for number in range(500):
            beside = path.with_name(".new")
            beside.write_text(str(number))
            beside.rename(path)

    await asyncio.to_thread(storm)
    await asyncio.wait_for(last.wait(), DEADLINE)
    watcher.stop()

    assert len(contents) <= (loop.time() - start) / 0.2 + 2


async def test_without_inotify_a_stat_finds_the_change(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr(watch.Observer, "schedule", none_left)
    monkeypatch.setattr(watch, "_POLL", 0.05)
    seen = Seen()
    watcher = CatalogWatcher(path, seen, asyncio.get_running_loop())
    watcher.start()

    await seen.after(lambda: path.write_text("changed"))

    assert watcher.is_polling
    watcher.stop()


def refuses(number: int) -> Callable[..., int]:
    def refused(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    return refused


@pytest.mark.parametrize(
    ("call", "number"), [("inotify_add_watch", errno.ENOSPC), ("inotify_init", errno.EMFILE)]
)
async def test_each_look_in_vain_for_inotify_leaves_no_thread_and_no_descriptor(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    await asyncio.to_thread(lambda: None)
    threads, descriptors = set(threading.enumerate()), descriptors_open()
    watcher = CatalogWatcher(path, Seen(), asyncio.get_running_loop())
    watcher.start()
    monkeypatch.setattr(watch.inotify_c, call, refuses(number))
    for _ in range(3):
        watcher._is_stale = True
        await asyncio.to_thread(watcher._look)

    assert watcher.is_polling
    assert {
        thread.name for thread in set(threading.enumerate()) - threads if "asyncio" not in thread.name
    } == set()
    assert descriptors_open() == descriptors
    monkeypatch.undo()
    watcher._look()
    assert not watcher.is_polling
    watcher.stop()


async def test_stop_leaves_no_thread_and_no_descriptor(path: Path) -> None:
    await asyncio.to_thread(lambda: None)
    threads, descriptors = set(threading.enumerate()), descriptors_open()
    for _ in range(3):
        seen = Seen()
        watcher = CatalogWatcher(path, seen, asyncio.get_running_loop())
        watcher.start()
        assert threading.active_count() > len(threads)
        watcher.stop()

    left = {
        thread for thread in set(threading.enumerate()) - threads if not thread.name.startswith("asyncio_")
    }
    assert left == set()
    assert descriptors_open() == descriptors
