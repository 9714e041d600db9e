"""One reload or apply from its begin to its report. All targets were verified before it is made.

Here: how many at a time, the canary, when to halt. What becomes of each mount is decided in `domain/`.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

import structlog

from supervisor.domain.catalog import MountSpec
from supervisor.domain.events import Outcome
from supervisor.domain.names import MountKey, Seconds
from supervisor.domain.plan import Current, Step, changed_keys
from supervisor.engine.ports import Clock
from supervisor.engine.world import Ended
from supervisor.wire import MountResult, RehearsedResult, ReloadData, Result

log = structlog.get_logger(__name__)
Verb = Literal["reload", "start", "stop", "settings", "keep"]
DONE: Final[dict[Verb, Result]] = {
    "reload": "reloaded",
    "start": "started",
    "stop": "stopped",
    "settings": "unchanged",
    "keep": "unchanged",
}
_KEPT: Final = "not begun, as what gets its listeners is not: it runs as before"
BAD: Final = frozenset({"failed", "rolled_back"})


@dataclass(frozen=True, slots=True)
class Options:
    """How a reload or an apply is carried out (the keys of wire.ReloadBody, parsed)."""

    dry_run: bool = False
    parallel: int | None = None
    on_failure: str = "halt"
    max_failures: int = 0
    partial: bool = False
    canary: int = 0
    canary_for: Seconds = 0.0
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done with one mount. `spec` is None where it is removed."""

    key: MountKey
    verb: Verb
    plugin: str
    spec: MountSpec | None = None
    refusal: str | None = None
    """Why nothing is done with it: it is unfit, and the caller said `partial`."""
    held_by: str | None = None
    """Who stopped it by hand: neither a reload nor an apply starts it."""
    frozen: str | None = None
    """Which hold keeps it as it is; the caller said `partial`."""
    read: int = 0
    """Number of the catalog that it was made of: a later command has the same or a higher one."""
    after: tuple[MountKey, ...] = ()
    """Mounts that are removed, whose jobs are done right before this one: it gets their listeners."""

    @property
    def is_a_trial(self) -> bool:
        """It starts something, so that others may learn from how it goes."""
        return self.starts and self.refusal is None

    @property
    def starts(self) -> bool:
        """It is to start something, so its files matter."""
        return self.verb in {"reload", "start"} and self.held_by is None and self.frozen is None


Do = Callable[[Job, str], Awaitable[Ended]]


@dataclass(frozen=True, slots=True)
class Signs:
    """What a reload looks at while it is under way."""

    frozen: Callable[[MountKey], str | None] = lambda _: None
    """Which hold keeps a mount as it is now, if any."""
    crashes: Callable[[MountKey], tuple[int, str | None]] = lambda _: (0, None)
    """How often a mount has crashed, ever, and why it runs nothing now, if it was given up."""


NO_SIGNS: Final = Signs()


class Reload:
    """A reload under way. It goes on whether or not somebody waits. Fits `node.Ticket`."""

    def __init__(
        self,
        data: ReloadData,
        jobs: Sequence[Job],
        options: Options,
        clock: Clock,
        signs: Signs = NO_SIGNS,
    ) -> None:
        self._signs = signs
        self._crashes: dict[MountKey, int] = {}
        """Of each mount when it was answered for."""
        self._canary_failed = False
        self.reload_id = data.reload_id
        self._data = data
        self._jobs = jobs
        self._options = options
        self._clock = clock
        self._rows: dict[MountKey, MountResult] = {job.key: pending(job) for job in jobs}
        self._awaited = frozenset(key for job in jobs for key in job.after)
        """Whose turn comes with another's."""
        begun = [job for job in jobs if job.refusal is None and job.frozen is None]
        self._kept = self._awaited - {key for job in begun for key in job.after}
        """Those whose listeners nobody gets now."""
        self._handing_on = {job.key: job for job in jobs if job.key in self._awaited}
        self._done = asyncio.Event()
        self._watched = asyncio.Event()
        """Nothing is to be waited for any more before the others begin, or do not."""
        self._bad: set[MountKey] = set()
        self.is_interrupted = False

    async def wait(self, seconds: Seconds) -> bool:
        """True once it is done; False after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._done.wait()
        except TimeoutError:
            return False
        return True

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    def rehearse(self, rows: Sequence[RehearsedResult]) -> None:
        """A dry run: these rows, and nothing is done."""
        for job, row in zip(self._jobs, rows, strict=True):
            if job.key in self._kept and row.result != "skipped":
                row.result, row.would_be, row.error = "skipped", "skipped", _KEPT
        self._rows = dict(zip((job.key for job in self._jobs), rows, strict=True))
        self._finish()

    def report(self) -> ReloadData:
        self._data.mounts = list(self._rows.values())
        return self._data

    async def run(self, do: Do, parallel: int, release: Callable[[str], None] = lambda _: None) -> None:
        """Do every job, `parallel` at a time, until too many failed; then `release` what was reserved."""
        try:
            canaries = [job for job in self._jobs if job.is_a_trial][: self._options.canary]
            await self._some(do, canaries, parallel)
            if canaries and self._options.canary_for and not self._is_bad(canaries):
                await self._watch_canaries()
                self._look_after(canaries)
            self._canary_failed = self._is_bad(canaries)
            tried = {job.key for job in canaries}
            await self._some(do, [job for job in self._jobs if job.key not in tried], parallel)
        finally:
            release(self.reload_id)
            self._finish()

    async def _watch_canaries(self) -> None:
        """Return after `canary_for`, or as soon as one of them is no longer what was hoped for."""
        timer = self._clock.call_at(self._clock.time() + self._options.canary_for, self._watched.set)
        try:
            await self._watched.wait()
        finally:
            timer.cancel()

    def interrupt(self, why: str) -> None:
        """The daemon ends now; whoever waits is told how far it came."""
        close_interrupted(self.report(), why)
        self.is_interrupted = True
        self._done.set()

    def amend(self, ended: Ended) -> None:
        """A version died after it had been ready: what was answered is not true any more."""
        row = self._rows.get(ended.key)
        if row is not None:
            fill(row, ended, row.result)
            self._count(ended.key, row)

    def _is_bad(self, jobs: Sequence[Job]) -> bool:
        return any(job.key in self._bad for job in jobs)

    def _look_after(self, canaries: Sequence[Job]) -> None:
        """One that crashed while it was watched failed, also where there was nothing to go back to."""
        for job in canaries:
            row = self._rows[job.key]
            crashes, given_up = self._signs.crashes(job.key)
            if row.result not in BAD and (given_up or crashes > self._crashes.get(job.key, crashes)):
                row.result, row.error = (
                    "failed",
                    given_up or "crashed while it was watched, and was restarted",
                )
                self._count(job.key, row)

    @property
    def _halted(self) -> bool:
        if self._canary_failed:
            return True
        if self._options.on_failure != "halt":
            return False
        return len(self._bad) > self._options.max_failures

    def _count(self, key: MountKey, row: MountResult) -> None:
        if row.result in BAD:
            self._bad.add(key)
            self._watched.set()

    def _finish(self) -> None:
        for row in self._rows.values():
            if row.result == "pending":
                row.result, row.error = "failed", "broken off before its end: see status for what runs"
        self._data.done = True
        self._data.finished_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._done.set()

    async def _some(self, do: Do, jobs: Sequence[Job], parallel: int) -> None:
        waiting = deque(job for job in jobs if job.key not in self._awaited)
        workers = max(1, min(self._options.parallel or parallel, len(waiting)))
        async with asyncio.TaskGroup() as group:
            for _ in range(workers if waiting else 0):
                group.create_task(self._work(do, waiting))

    async def _work(self, do: Do, waiting: deque[Job]) -> None:
        while waiting and not self.is_interrupted:
            job = waiting.popleft()
            for key in job.after:
                if (before := self._handing_on.pop(key, None)) is not None:
                    await self._one(do, before)
            await self._one(do, job)

    async def _one(self, do: Do, job: Job) -> None:
        row = self._rows[job.key]
        # asked again for each: one that is held meanwhile is left as it is
        frozen = job.frozen or (self._signs.frozen(job.key) if job.verb != "keep" else None)
        if frozen is not None:
            row.result, row.error = "skipped", frozen
        elif job.refusal is not None:
            row.result, row.error = "failed", job.refusal
        elif job.held_by is not None:
            row.result, row.error = "skipped", f"stopped by hand by {job.held_by}"
        elif job.verb == "keep":
            row.result = "unchanged"
        elif job.key in self._kept:
            row.result, row.error = "skipped", _KEPT
        elif self._halted:
            row.result, row.error = "skipped", "not begun, as other mounts failed: it runs as before"
        else:
            ended = await self._ended(do, job)
            if not self.is_interrupted:
                fill(row, ended, DONE[job.verb])
                self._count(job.key, row)
                self._crashes[job.key], _ = self._signs.crashes(job.key)

    async def _ended(self, do: Do, job: Job) -> Ended:
        try:
            return await do(job, self.reload_id)
        except Exception as error:
            # a request's edge: what broke for one mount costs no other its row
            log.exception("reload_broke", reload_id=self.reload_id, mount=str(job.key))
            return Ended(job.key, Outcome.FAILED, f"plugind broke, which its log tells more of: {error!r}")


def pending(job: Job) -> MountResult:
    return MountResult(
        namespace=str(job.key.namespace), mount=job.key.path, plugin=job.plugin, result="pending"
    )


def dry_row(job: Job, current: Current | None) -> RehearsedResult:
    """What would happen with a mount, and `unchanged`, as nothing was done."""
    row = RehearsedResult(
        namespace=str(job.key.namespace),
        mount=job.key.path,
        plugin=job.plugin,
        result="unchanged",
        would_be=DONE[job.verb],
    )
    old = new = current.launch if current is not None else None
    if job.frozen is not None:
        row.result, row.would_be, row.error = "skipped", "skipped", job.frozen
    elif job.refusal is not None:
        row.result, row.would_be, row.error = "failed", "failed", job.refusal
    elif job.held_by is not None:
        row.result, row.would_be, row.error = "skipped", "skipped", f"stopped by hand by {job.held_by}"
    elif job.verb == "stop":
        new = None
    if job.spec is not None and job.starts:
        new = job.spec.launch
    if old is not None:
        row.old_version, row.old_sha256 = old.version, old.sha256
    if new is not None:
        row.new_version, row.new_sha256 = new.version, new.sha256
    if old is not None and new is not None:
        row.changed = list(changed_keys(old, new))
    return row


def fill(row: MountResult, ended: Ended, done: Result) -> None:
    """Write how it ended into a row; `done` is the word for success."""
    match ended.outcome:
        case Outcome.DONE:
            row.result = done
        case Outcome.ROLLED_BACK:
            row.result = "rolled_back"
        case Outcome.FAILED:
            row.result = "failed"
        case Outcome.SKIPPED:
            row.result = "skipped"
    row.old_version = ended.old_version
    row.old_pid = ended.old_pid
    row.new_version = ended.new_version
    row.new_pid = ended.new_pid
    row.down_seconds = None if ended.down is None or math.isnan(ended.down) else round(ended.down, 6)
    row.error = ended.reason
    row.log = ended.log


def close_interrupted(report: ReloadData, why: str) -> None:
    """Say of each mount that nobody knows how far it came; plugind starts or adopts what there is."""
    for row in report.mounts:
        if row.result == "pending":
            row.result, row.error = "interrupted", why
    report.done = True
    report.finished_at = datetime.now(UTC).isoformat(timespec="milliseconds")


def amend(report: ReloadData, ended: Ended) -> None:
    """The same for a report that was read from history."""
    for row in report.mounts:
        if (row.namespace, row.mount) == (str(ended.key.namespace), ended.key.path):
            old = row.old_version, row.old_pid
            fill(row, ended, row.result)
            if ended.old_version is None:  # it was a former daemon that knew
                row.old_version, row.old_pid = old


def reload_of(spec: MountSpec, held_by: str | None, read: int) -> Job:
    """A new instance of a mount, whatever runs there."""
    return Job(spec.key, "reload", str(spec.plugin), spec, held_by=held_by, read=read)


def job_of(step: Step, held_by: str | None, read: int = 0, after: tuple[MountKey, ...] = ()) -> Job:
    """What apply does for one step of a plan."""
    plugin = step.wanted.plugin if step.wanted else step.running.plugin if step.running else ""
    verbs: dict[str, Verb] = {"replace": "reload", "start": "start", "stop": "stop", "settings": "settings"}
    held = held_by if step.wanted is not None else None  # one that is removed goes, whoever stopped it
    verb = verbs.get(step.action, "keep")
    return Job(step.key, verb, str(plugin), step.wanted, held_by=held, read=read, after=after)
