"""A report as an answer: which status, which error text, which warnings.

A mount that failed or was rolled back makes the status 400, since `bao` prints "Success!" on any
2xx; never 412, 429 or 5xx, which Go clients would send again.
"""

from collections import Counter
from typing import Final

import msgspec

from supervisor import wire
from supervisor.api.bodies import ReloadRequest
from supervisor.api.calls import Answer, Call
from supervisor.domain.names import Namespace
from supervisor.engine.node import Ticket

NOTHING: Final = "no plugins were reloaded"
_BAD: Final = frozenset({"failed", "rolled_back", "interrupted"})
_MOST_LINES: Final = 50


async def settled(call: Call, ticket: Ticket, asked: ReloadRequest) -> bool:
    """Wait as long as asked, or until the server stops; False means 202."""
    if not asked.wait:
        return False
    limit = call.patience if asked.timeout is None else asked.timeout
    try:
        async with call.endings.scope("wait"):
            return await ticket.wait(limit)
    except TimeoutError:
        return False


def answer_of(report: wire.ReloadData, *, is_done: bool, warnings: tuple[str, ...] = ()) -> Answer:
    if not is_done and not report.done:
        return Answer(report, status=202, warnings=warnings, outcome="going on")
    if not report.mounts and report.verb == "reload":
        warnings += (NOTHING,)
    held = [shown(row) for row in report.mounts if is_held(row)]
    if held:
        warnings += (f"stopped by hand, so not reloaded: {', '.join(held[:_MOST_LINES])}",)
    if trouble := problems(report):
        return Answer(
            report, status=400, warnings=warnings, errors=(trouble,), outcome=trouble.partition("\n")[0]
        )
    return Answer(report, warnings=warnings)


def problems(report: wire.ReloadData) -> str | None:
    """One string in the form of go-multierror: counts, then a line for each mount that is not as asked."""
    bad = [
        row for row in report.mounts if row.result in _BAD or (row.result == "skipped" and not is_held(row))
    ]
    if not bad:
        return None
    counts = Counter(row.result for row in report.mounts)
    failed = sum(1 for row in bad if row.result in _BAD)
    parts = ", ".join(f"{number} {result.replace('_', ' ')}" for result, number in sorted(counts.items()))
    lines = [f"{shown(row)}: {row.result.replace('_', ' ')}: {row.error or 'no reason given'}" for row in bad]
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES:] = [f"… and {len(bad) - _MOST_LINES} more"]
    head = f"{failed} of {len(report.mounts)} mount{'s' * (len(report.mounts) != 1)} failed ({parts}):"
    return head + "".join(f"\n\t* {line}" for line in lines) + "\n\n"


def is_held(row: wire.MountResult) -> bool:
    """Whether a mount was skipped since somebody stopped it by hand."""
    return row.result == "skipped" and (row.error or "").startswith("stopped by hand")


def shown(row: wire.MountResult) -> str:
    return f"{row.mount.rstrip('/')}/ in {row.namespace}"


def visible(report: wire.ReloadData | None, namespace: Namespace) -> wire.ReloadData | None:
    """The part of a report that `namespace` may see; None where that is nothing."""
    if report is None or namespace.is_root:
        return report
    rows = [row for row in report.mounts if namespace.covers(Namespace.parse(row.namespace))]
    return msgspec.structs.replace(report, mounts=rows) if rows else None
