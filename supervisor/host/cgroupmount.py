"""Where on this machine cgroups (v2) may be made, and which controllers there are."""

import os
from pathlib import Path
from typing import Final

from supervisor.domain.catalog import Launch, Limits
from supervisor.host.cgroup import read

CONTROLLERS: Final = ("memory", "cpu", "pids")
_SYSTEMD: Final = Path("/run/systemd/system")
_DELEGATED: Final = ("user.delegate", "trusted.delegate")


def needed(limits: Limits) -> list[str]:
    """The controllers that `limits` ask for."""
    return [name for name in CONTROLLERS if getattr(limits, name) is not None]


def trouble_with(controllers: list[str], why: str) -> str:
    named = ", ".join(f"limits.{name}" for name in controllers)
    return f"{named}: needs the controller of cgroup v2 of that name: {why}"


def controllers_in(folder: str) -> list[str]:
    """Those that can be handed on from there."""
    return read(f"{folder}/cgroup.controllers").decode().split()


def own_folder() -> tuple[str, str]:
    """The folder of the cgroup that plugind runs in, if it may make others there; else why not.

    Source: cgroups(7) /proc/PID/cgroup; proc(5) mountinfo; systemd.resource-control(5) Delegate=, and
    https://systemd.io/CGROUP_DELEGATION for the extended attributes.
    """
    mounted = _mounted()
    if mounted is None:
        return "", "no cgroup v2 is mounted"
    point, root = mounted
    lines = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    own = next((line[3:] for line in lines if line.startswith("0::")), "")
    if not own.startswith("/") or "/.." in own or not f"{own}/".startswith(f"{root.rstrip('/')}/"):
        return "", f"the cgroup of plugind, {own or 'unknown'}, is not below {point}"
    folder = (point + own.removeprefix(root.rstrip("/"))).rstrip("/")
    if not os.access(folder, os.W_OK) or not os.access(f"{folder}/cgroup.procs", os.W_OK):
        return "", f"{folder} is not writable"
    if _SYSTEMD.exists() and not _is_delegated(folder):
        return "", f"systemd has not delegated {folder}: Delegate=yes does"
    return folder, ""


def _mounted() -> tuple[str, str] | None:
    """The mount point of cgroup v2, and which of it is mounted there."""
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.split()[0] == "cgroup2":
            root, point = fields.split()[3:5]
            return point, root
    return None


def _is_delegated(folder: str) -> bool:
    for name in _DELEGATED:
        try:
            if os.getxattr(folder, name) == b"1":
                return True
        except OSError:
            continue
    return False


def machine_lacks(launch: Launch) -> str | None:
    """What `launch` asks for that no plugind could give on this machine, or None: for a check without one."""
    controllers = needed(launch.limits)
    mounted = _mounted() if controllers else None
    if not controllers:
        return None
    if mounted is None:
        return trouble_with(controllers, "no cgroup v2 is mounted")
    there = controllers_in(mounted[0])
    missing = [name for name in controllers if name not in there]
    return trouble_with(missing, f"this machine has not got it in {mounted[0]}") if missing else None
