"""The wall clock goes where it likes: identities, timers and adoption do not ask it."""

import time
from datetime import datetime
from pathlib import Path

import pytest
from harness import Plugind
from test_05_a_crash import SLEEPER, kill

COUNT = 20
LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
MOUNTS = {"root": {f"auth/m{number}": "{plugin: auth/mock}" for number in range(COUNT)}}


class Clock:
    """What plugind takes for the time of day; what is monotonic is left as it is."""

    def __init__(self, folder: Path) -> None:
        # not beside the catalog: a rename there makes watchdog sleep, and the library refuses every sleep
        self._file = folder / "faketime" / "clock"
        self._file.parent.mkdir()
        self.set("+0")
        self.within = [
            "env",
            f"LD_PRELOAD={LIBRARY}",
            f"FAKETIME_TIMESTAMP_FILE={self._file}",
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        ]

    def set(self, shift: str) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(f"{shift}\n")
        new.rename(self._file)


@pytest.mark.skipif(LIBRARY is None, reason="faketime is not installed")
def test_whatever_the_clock_says_everything_is_adopted_and_timers_keep_their_length(plugind: Plugind) -> None:
    clock = Clock(plugind.folder)
    path = plugind.plugin("plugin", SLEEPER)
    plugind.write({"v1": (path, [])}, MOUNTS, "v1", "restart: {backoff: 1s}")
    plugind.start(within=clock.within)
    before = plugind.pids()
    for shift in ("+365d", "-1d"):
        clock.set(shift)
        told = datetime.fromisoformat(plugind.call("GET", "supervisor/status").data["started_at"])
        plugind.kill()

        plugind.start(within=clock.within)

        assert plugind.pids() == before
        started = datetime.fromisoformat(plugind.call("GET", "supervisor/status").data["started_at"])
        assert abs((started - told).total_seconds()) > 80_000, "the clock was not moved at all"
    for mount, shift in (("root:auth/m0", "+1h"), ("root:auth/m1", "-1h")):
        began = time.monotonic()
        kill(before[mount])
        plugind.saw("instance_exited", pid=before[mount])  # now it waits for a second
        clock.set(shift)
        plugind.until(lambda mount=mount: plugind.rows()[mount]["state"] == "ready")
        assert 0.9 < time.monotonic() - began < 10
    assert plugind.reload().status == 200
