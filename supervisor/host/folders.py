"""The folder of an instance: its TMPDIR, below the runtime_dir, gone when its tree is."""

import os
import shutil
from pathlib import Path

from supervisor.domain.errors import SpawnRefused
from supervisor.host.spawn import Account


def make_folder(folder: str, account: Account) -> None:
    try:
        os.mkdir(folder, 0o700)  # noqa: PTH102 - names, on the path of every start
    except FileExistsError:  # of an instance that nobody cleaned up behind: not ours to trust
        remove_folder(folder)
        os.mkdir(folder, 0o700)  # noqa: PTH102
    except OSError as error:
        raise SpawnRefused(f"cannot make {folder}: {error.strerror}") from error
    if (account.uid, account.gid) != (os.geteuid(), os.getegid()):
        os.chown(folder, account.uid, account.gid, follow_symlinks=False)


def remove_folder(folder: Path | str) -> None:
    try:
        os.rmdir(folder)  # noqa: PTH106 - names, on the path of every stop
    except FileNotFoundError:
        return
    except NotADirectoryError:  # a file or a link that somebody put there
        os.unlink(folder)  # noqa: PTH108
    except OSError:
        shutil.rmtree(folder, ignore_errors=False)  # by descriptors: follows no link
