"""What every ready kind fits, and what several of them need: pacing, one deadline, one wording.

How long to wait and what a failure means is decided by the state machine (`domain/lifecycle.py`);
a probe says that it is ready, or why not yet.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from supervisor.domain.catalog import Probe
from supervisor.domain.errors import Cannot
from supervisor.domain.names import Seconds, shown_duration

Run = Callable[[Sequence[str]], Awaitable[int]]
"""Runs a command to its end and gives its exit status; ends it when it is cancelled."""

NO_ENV: Final[Mapping[str, str]] = MappingProxyType({})
SHORTEST_ATTEMPT: Final[Seconds] = 2.0
LONGEST_SOCKET_PATH: Final = 107
"""sun_path has 108 bytes, and libraries want the final NUL within them."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The instance that a probe asks about."""

    pid: int
    folder: str
    """Its private TMPDIR."""
    uid: int
    belongs: Callable[[int], bool]
    """Whether this living pid is part of the instance."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a probe is made from, before there is a process."""

    probe: Probe
    folder: str
    run: Run | None = None
    watchdog: Seconds = 0.0
    """How often liveness is checked; 0 when it is not."""

    def expanded(self, text: str) -> str:
        return text.replace("$TMPDIR", self.folder)

    def address(self) -> str:
        """The address with the instance's folder in it.

        Raises:
            Cannot: There is none.
        """
        if not self.probe.address:
            raise Cannot(f"cannot probe by {self.probe.kind}: no address is given")
        return self.expanded(self.probe.address)


class ReadyProbe(Protocol):
    """One instance's probe: made before its spawn, closed when it is gone or replaced."""

    @property
    def env(self) -> Mapping[str, str]:
        """What the instance's environment needs for it."""

    @property
    def status(self) -> str:
        """What the plugin said last about itself, or nothing."""

    @property
    def extended_until(self) -> Seconds | None:
        """Until when the plugin asked for patience, on the loop's clock."""

    def attend(self, subject: Subject) -> None:
        """Begin to hear the instance, right after its spawn or adoption; the others do so by themselves.

        An instance that was ready when it was adopted is not waited for, and must not block because
        nobody takes what it says.
        """

    async def wait_ready(self, subject: Subject) -> None:
        """Return once the instance is ready; wait for ever otherwise."""

    async def check(self, subject: Subject) -> None:
        """Return if the instance is alive.

        Raises:
            Cannot: It is not, and why.
        """

    def why_not(self) -> str:
        """Kind, address and the last failure: `tcp 127.0.0.1:80: connection refused`."""

    def close(self) -> None:
        """Give back descriptors and socket files; again is allowed."""


class Polling:
    """A probe that asks again and again: what `http`, `tcp`, `unix` and `command` share.

    `attempt` returns when the answer is good and raises OSError or Cannot with the reason otherwise.
    """

    env = NO_ENV
    status = ""
    extended_until = None

    def __init__(
        self, shown: str, attempt: Callable[[], Awaitable[None]], interval: Seconds, limit: Seconds | None
    ) -> None:
        self._shown = shown
        self._attempt = attempt
        self._interval = interval
        self._limit = limit
        self._failure = "no answer yet"

    def attend(self, subject: Subject) -> None:
        """It says nothing by itself."""

    async def wait_ready(self, subject: Subject) -> None:  # noqa: ARG002 - an address is asked
        while not await self._ask():
            await pause(self._interval)

    async def check(self, subject: Subject) -> None:  # noqa: ARG002 - an address is asked
        if not await self._ask():
            raise Cannot(self.why_not())

    def why_not(self) -> str:
        return f"{self._shown}: {self._failure}"

    def close(self) -> None:
        """Every attempt gave back what it took."""

    async def _ask(self) -> bool:
        try:
            async with asyncio.timeout(self._limit):
                await self._attempt()
        except TimeoutError as error:
            # the kernel's own (ETIMEDOUT) carries a number, that of the deadline does not
            self._failure = (
                reason(error) if error.errno else f"no answer in {shown_duration(self._limit or 0)}"
            )
        except OSError as error:
            self._failure = reason(error)
        except Cannot as error:
            self._failure = str(error)
        else:
            self._failure = "it answered"
            return True
        return False


async def pause(seconds: Seconds) -> None:
    """Let `seconds` pass: pacing, not waiting for a fact."""
    if seconds <= 0:
        return
    loop = asyncio.get_running_loop()
    passed: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(seconds, _resolve, passed)
    try:
        await passed
    finally:
        timer.cancel()


def reason(error: OSError) -> str:
    """`connection refused`: asyncio puts its own text where strerror should be."""
    if error.errno is None or error.errno <= 0:  # the resolver's numbers are negative
        return (error.strerror or str(error)).lower()
    return os.strerror(error.errno).lower()


def attempt_limit(probe: Probe) -> Seconds:
    return max(SHORTEST_ATTEMPT, probe.interval)


def socket_path(path: str) -> str:
    """`path`, if a socket can have it.

    Raises:
        Cannot: It is longer than the 107 bytes that fit into an address.
    """
    length = len(os.fsencode(path))
    if length > LONGEST_SOCKET_PATH:
        raise Cannot(
            f"cannot use {path} as a socket: its path has {length} bytes, at most {LONGEST_SOCKET_PATH} fit"
        )
    return path


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
