"""Prints how long a catalog of 1,000 to 15,000 mounts takes to parse and check."""

import gc
import resource
import sys
import time

from supervisor.files.load import Source, parse_catalog

_PLUGINS = 1000
_RUNS = 3


def catalog_text(mounts: int, plugins: int = _PLUGINS) -> str:
    """A catalog of two versions per plugin, whose mounts are spread over a hundred namespaces."""
    lines = ["plugins:", "  secret:"]
    for number in range(plugins):
        lines += [
            f"    p{number}:",
            "      pin: v1.1.0",
            "      versions:",
            f"        v1.0.0: {{command: bin/p{number}-1.0.0, sha256: {'a' * 64}}}",
            f"        v1.1.0: {{command: bin/p{number}-1.1.0, sha256: {'c' * 64}, args: [--fast]}}",
        ]
    lines.append("namespaces:")
    for namespace in range(100):
        lines += [f"  team-{namespace}:", "    mounts:"]
        lines += [
            f"      kv/m{mount}: {{plugin: secret/p{mount % plugins}}}"
            for mount in range(namespace, mounts, 100)
        ]
    return "\n".join(lines) + "\n"


def best_of(text: str) -> float:
    """Seconds of the fastest run."""
    best = float("inf")
    for _ in range(_RUNS):
        gc.collect()
        start = time.perf_counter()
        catalog = parse_catalog([Source("/etc/plugind/catalog.yaml", text)])
        best = min(best, time.perf_counter() - start)
        del catalog
    return best


def main() -> None:
    """Print one row per size, and what one more mount costs."""
    out = sys.stdout.write
    out(f"{'mounts':>7} {'plugins':>8} {'seconds':>8} {'us/mount':>9} {'ratio':>6}\n")
    first = None
    for mounts in (1000, 5000, 10_000, 15_000):
        seconds = best_of(catalog_text(mounts, mounts // 10))
        each = seconds / mounts * 1e6
        first = first or each
        out(f"{mounts:>7} {mounts // 10:>8} {seconds:>8.3f} {each:>9.1f} {each / first:>6.2f}\n")
    out(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB\n")


if __name__ == "__main__":
    main()
