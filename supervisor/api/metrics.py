"""GET sys/metrics: what runs, as Prometheus or a little JSON. Collected when asked for, not before."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from supervisor.api.calls import Bare, Call, Reply, Text
from supervisor.domain.names import Namespace
from supervisor.engine.node import Node

STATES: Final = ("stopped", "starting", "ready", "stopping", "backoff", "failed")
_LABELS: Final = ("namespace", "mount", "type", "plugin")


class NodeCollector(Collector):
    """The mounts of one namespace and its children as metric families."""

    def __init__(self, node: Node, namespace: Namespace) -> None:
        self._node = node
        self._rows = node.instances(namespace)

    def collect(self) -> Iterator[Metric]:
        """Yield each family once, a sample per mount."""
        info = GaugeMetricFamily("plugind_build_info", "Version of plugind.", labels=("version", "node"))
        info.add_metric((self._node.version, self._node.name), 1)
        yield info
        counts = Counter(row.state for row in self._rows)
        mounts = GaugeMetricFamily("plugind_mounts", "Mounts by state.", labels=("state",))
        for state in (*STATES, *sorted(counts.keys() - set(STATES))):
            mounts.add_metric((state,), counts[state])
        yield mounts
        up = GaugeMetricFamily("plugind_mount_ready", "Whether the mount is ready.", labels=_LABELS)
        drift = GaugeMetricFamily(
            "plugind_mount_drift",
            "Whether another version runs than the pinned one, on a mount without its own.",
            labels=_LABELS,
        )
        restarts = CounterMetricFamily(
            "plugind_mount_restarts", "Restarts that nobody asked for.", labels=_LABELS
        )
        cpu = CounterMetricFamily(
            "plugind_mount_cpu_seconds", "CPU time of the running instance.", labels=_LABELS
        )
        memory = GaugeMetricFamily(
            "plugind_mount_memory_bytes", "Resident memory of the instance.", labels=_LABELS
        )
        for row in self._rows:
            labels = (row.namespace, row.mount, row.type, row.plugin)
            has_drift = row.version != row.pinned_version and not row.has_own_version and row.pid is not None
            up.add_metric(labels, row.state == "ready")
            drift.add_metric(labels, has_drift)
            restarts.add_metric(labels, row.restarts)
            if row.cpu_seconds is not None:
                cpu.add_metric(labels, row.cpu_seconds)
            if row.memory_bytes is not None:
                memory.add_metric(labels, row.memory_bytes)
        yield from (up, drift, restarts, cpu, memory)


async def read(call: Call) -> Reply:
    wanted = call.query.get("format", "")
    if wanted == "prometheus":
        registry = CollectorRegistry()
        registry.register(NodeCollector(call.node, call.namespace))
        return Text(generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4)
    if wanted:
        return Text(b"metric response format unknown\n", "text/plain", status=400)
    counts = Counter(row.state for row in call.node.instances(call.namespace))
    gauges = [
        {"Name": "plugind.mounts", "Value": counts[state], "Labels": {"state": state}} for state in STATES
    ]
    return Bare(
        {
            "Timestamp": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S +0000 UTC}",
            "Gauges": gauges,
            "Counters": [],
            "Points": [],
            "Samples": [],
        }
    )
