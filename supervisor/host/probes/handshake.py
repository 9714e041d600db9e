"""Kind `handshake`: HashiCorp's go-plugin line on stdout. Its place; the kind itself is to come."""

from supervisor.domain.errors import Cannot
from supervisor.host.probes.kind import ReadyProbe, Setup


def not_yet(setup: Setup) -> ReadyProbe:
    """Refuse, clearly: a catalog may use the kind already.

    Raises:
        Cannot: Always.
    """
    raise Cannot(f"cannot wait for ready kind {setup.probe.kind}: it is not supported by this version yet")
