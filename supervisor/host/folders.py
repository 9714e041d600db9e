"""The folder of an instance: its TMPDIR, below the runtime_dir, gone when its tree is."""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from supervisor.domain.errors import SpawnRefused
from supervisor.host.identity import is_scarcity
from supervisor.host.spawn import Account

OF_INSTANCES: Final = 0o711
"""The mode of the folder that they lie in: each may come to its own."""
_TRIAL: Final = ".trial"


def impediment(folders: Iterable[tuple[str, int]]) -> str | None:
    """Why nothing can be put into one of these, or None; one that is gone is made, with its mode.

    Want of room is none: what is replaced makes room for what replaces it.
    """
    for folder, mode in folders:
        try:
            Path(folder).mkdir(mode, parents=True, exist_ok=True)
            with suppress(FileExistsError):  # of a plugind that was killed just then
                os.mkdir(f"{folder}/{_TRIAL}", 0o700)  # noqa: PTH102 - before every reload
            remove_folder(f"{folder}/{_TRIAL}")
        except OSError as error:
            if not is_scarcity(error):
                return f"cannot write to {folder}: {error.strerror}"
    return None


def make_folder(folder: str, account: Account) -> None:
    try:
        os.mkdir(folder, 0o700)  # noqa: PTH102 - names, on the path of every start
    except FileExistsError:  # of an instance that nobody cleaned up behind: not ours to trust
        remove_folder(folder)
        os.mkdir(folder, 0o700)  # noqa: PTH102
    except FileNotFoundError:  # somebody removed the one above
        _make_again(folder)
    except OSError as error:
        raise SpawnRefused(f"cannot make {folder}: {error.strerror}") from error
    if (account.uid, account.gid) != (os.geteuid(), os.getegid()):
        os.chown(folder, account.uid, account.gid, follow_symlinks=False)


def _make_again(folder: str) -> None:
    try:
        Path(folder).parent.mkdir(OF_INSTANCES, parents=True, exist_ok=True)
        os.mkdir(folder, 0o700)  # noqa: PTH102
    except OSError as error:
        raise SpawnRefused(f"cannot make {folder}: {error.strerror}") from error


def remove_folder(folder: Path | str) -> None:
    try:
        os.rmdir(folder)  # noqa: PTH106 - names, on the path of every stop
    except FileNotFoundError:
        return
    except NotADirectoryError:  # a file or a link that somebody put there
        os.unlink(folder)  # noqa: PTH108
    except OSError:
        shutil.rmtree(folder, ignore_errors=False)  # by descriptors: follows no link
