"""posix_spawn(3) by ctypes: unlike `os.posix_spawn` it can be called without the interpreter's lock.

The kernel lets the caller wait until the child has replaced itself, some tenths of a millisecond, and
as long as it likes on a busy machine. All of plugind would wait with it.
"""

import ctypes
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Final

from supervisor.domain.errors import SpawnRefused

_ENOUGH: Final = 1024
"""Bytes for an attribute, a list of file actions or a set of signals: more than any libc takes."""
_SETSIGDEF: Final = 0x04
_SETSIGMASK: Final = 0x08
_SETSID: Final = 0x80
KEPT: Final = (signal.SIGKILL, signal.SIGSTOP)

_LIBC: Final = ctypes.CDLL(None)
_HELD: Final = ctypes.PyDLL(None)
"""The same functions, called with the lock: handing it over would cost more than what they do."""
_Words = ctypes.POINTER(ctypes.c_char_p)
for _library in (_LIBC, _HELD):
    _library.posix_spawn.argtypes = (
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.c_void_p,
        _Words,
        _Words,
    )
_HELD.posix_spawn_file_actions_addopen.argtypes = (
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_uint,
)


def _attributes() -> "ctypes.Array[ctypes.c_char]":
    """A session of its own, default handlers, an empty signal mask."""
    attributes = ctypes.create_string_buffer(_ENOUGH)
    signals = ctypes.create_string_buffer(_ENOUGH)
    _LIBC.posix_spawnattr_init(attributes)
    _LIBC.posix_spawnattr_setflags(attributes, ctypes.c_short(_SETSID | _SETSIGDEF | _SETSIGMASK))
    _LIBC.sigemptyset(signals)
    _LIBC.posix_spawnattr_setsigmask(attributes, signals)
    _LIBC.sigfillset(signals)
    for number in KEPT:
        _LIBC.sigdelset(signals, int(number))
    _LIBC.posix_spawnattr_setsigdefault(attributes, signals)
    return attributes


_ATTRIBUTES: Final = _attributes()


class Program:
    """What is to be started: `output` is opened as stdout and stderr, /dev/null as stdin.

    `path` is what is executed, by default the first of `argv`; `inherited` a descriptor that it keeps.
    The sockets of `listening`, none of which has a low number, become 3, 4 and so on.

    Raises:
        SpawnRefused: A word cannot be handed to a program.
    """

    __slots__ = ("_actions", "_argv", "_env", "_path", "_pid")

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        output: str,
        *,
        path: str = "",
        inherited: int | None = None,
        listening: Sequence[int] = (),
    ) -> None:
        self._argv = _words(argv)
        self._path = os.fsencode(path) if path else self._argv[0]
        self._env = _words([f"{name}={value}" for name, value in env.items()])
        self._pid = ctypes.c_int()
        self._actions = ctypes.create_string_buffer(_ENOUGH)
        _HELD.posix_spawn_file_actions_init(self._actions)
        _HELD.posix_spawn_file_actions_addopen(self._actions, 0, b"/dev/null", os.O_RDONLY, 0)
        _HELD.posix_spawn_file_actions_addopen(self._actions, 1, os.fsencode(output), os.O_RDWR, 0)
        _HELD.posix_spawn_file_actions_adddup2(self._actions, 1, 2)
        if inherited is not None:  # to itself: then it is not closed by the exec
            _HELD.posix_spawn_file_actions_adddup2(self._actions, inherited, inherited)
        for number, descriptor in enumerate(listening, 3):
            _HELD.posix_spawn_file_actions_adddup2(self._actions, descriptor, number)

    def start(self, *, lock: bool) -> int:
        """Its pid; without `lock` other threads go on meanwhile. Raises OSError."""
        spawn = _HELD.posix_spawn if lock else _LIBC.posix_spawn
        error = spawn(ctypes.byref(self._pid), self._path, self._actions, _ATTRIBUTES, self._argv, self._env)
        _HELD.posix_spawn_file_actions_destroy(self._actions)
        if error:
            raise OSError(error, os.strerror(error))
        return self._pid.value


def _words(words: Sequence[str]) -> "ctypes.Array[ctypes.c_char_p]":
    encoded = [os.fsencode(word) for word in words]
    for word in encoded:
        if b"\0" in word:
            raise SpawnRefused("cannot start it: a NUL byte in its arguments or environment")
    return (ctypes.c_char_p * (len(encoded) + 1))(*encoded)
