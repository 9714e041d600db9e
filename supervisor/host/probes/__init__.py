"""The ready kinds: how an instance is found to be ready, and later to be alive.

A new kind is one file here and one line of `PROBES`; its settings are fields of
`domain/catalog.Probe`, checked in `files/load.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from supervisor.domain.catalog import Liveness, Probe, ReadyKind
from supervisor.domain.errors import Cannot
from supervisor.host.probes.command import Command
from supervisor.host.probes.exec import Exec
from supervisor.host.probes.handshake import not_yet
from supervisor.host.probes.http import Http
from supervisor.host.probes.kind import ReadyProbe, Run, Setup, Subject
from supervisor.host.probes.notify import Notify
from supervisor.host.probes.tcp import Tcp
from supervisor.host.probes.unix import Unix

__all__ = ["PROBES", "ReadyProbe", "Run", "Subject", "prepare", "prepare_both", "reconsidered"]

PROBES: Final[Mapping[ReadyKind, Callable[[Setup], ReadyProbe]]] = {
    "exec": Exec,
    "notify": Notify,
    "handshake": not_yet,
    "http": Http,
    "tcp": Tcp,
    "unix": Unix,
    "command": Command,
}


def prepare(probe: Probe, folder: str, *, run: Run | None = None) -> ReadyProbe:
    """A probe for an instance that is about to be spawned with `folder` as its TMPDIR.

    Raises:
        Cannot: Its settings cannot work, or the kernel refused a socket.
    """
    return PROBES[probe.kind](Setup(probe, folder, run))


def prepare_both(
    ready: Probe, liveness: Liveness | None, folder: str, *, run: Run | None = None
) -> tuple[ReadyProbe, ReadyProbe | None]:
    """The ready and the liveness probe of one instance; for `notify` they are one object with one socket.

    Raises:
        Cannot: As `prepare`; nothing is held then.
    """
    setup = Setup(ready, folder, run)
    if liveness is None:
        return PROBES[ready.kind](setup), None
    asked = replace(setup, probe=liveness.probe, watchdog=liveness.interval)
    if ready.kind == liveness.probe.kind == "notify":
        both = PROBES["notify"](asked)
        return both, both
    first = PROBES[ready.kind](setup)
    try:
        return first, PROBES[liveness.probe.kind](asked)
    except BaseException:
        first.close()
        raise


def reconsidered(
    ready: ReadyProbe,
    former: ReadyProbe | None,
    liveness: Liveness | None,
    folder: str,
    *,
    run: Run | None = None,
) -> ReadyProbe | None:
    """The liveness probe of an instance that runs, by other settings than those it was started with.

    Raises:
        Cannot: The instance cannot be asked this before its next start.
    """
    spoken = next((probe for probe in (former, ready) if isinstance(probe, Notify)), None)
    if liveness is None or liveness.probe.kind != "notify":
        if spoken is not None:
            spoken.allow_silence(0.0)
        if liveness is None:
            return None
        return PROBES[liveness.probe.kind](Setup(liveness.probe, folder, run, liveness.interval))
    if spoken is None or not spoken.was_told:
        raise Cannot("cannot expect WATCHDOG=1 of an instance that was not told so: its next start tells it")
    spoken.allow_silence(liveness.interval)
    return spoken
