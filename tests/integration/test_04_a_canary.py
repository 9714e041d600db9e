"""Guarantee 4: a bad version on a canary costs one mount its start-up time, and no other mount anything.

With 40 mounts; `PLUGIND_MOUNTS=400` has more.
"""

import os

from harness import Plugind

SLEEPER = "#!/bin/sh\nexec sleep 1000\n"
COUNT = int(os.environ.get("PLUGIND_MOUNTS", "40"))
SETTLES = "ready: {settle: 30s, timeout: 60s}"
"""What ends by itself does so before, on the busiest machine."""


def staged(daemon: Plugind, bad: str, settings: str) -> dict[str, dict[str, object]]:
    """`COUNT` mounts of v1, with v2 pinned."""
    good, new = daemon.plugin("good", SLEEPER), daemon.plugin("bad", bad)
    mounts = {f"auth/m{number:03}": "{plugin: auth/mock}" for number in range(COUNT)}
    daemon.write({"v1": (good, []), "v2": (new, [])}, {"root": mounts}, "v1")
    text = daemon.catalog.read_text()
    at = text.index("        v2: {command: ") + len("        v2: {")
    daemon.catalog.write_text(f"{text[:at]}{settings}, {text[at:]}")
    daemon.start()
    before = daemon.rows()
    daemon.edit("pin: v1", "pin: v2")
    return before


def test_a_version_that_does_not_start_costs_one_mount_its_start_and_touches_no_other(
    plugind: Plugind,
) -> None:
    before = staged(plugind, "#!/bin/sh\necho no database >&2\nexit 3\n", SETTLES)
    seen = len(plugind.log)

    answer = plugind.reload(canary=1)

    after = plugind.rows()
    results = [row["result"] for row in answer.data["mounts"]]
    [canary] = [row for row in answer.data["mounts"] if row["result"] == "rolled_back"]
    changed = {name for name, row in before.items() if after[name]["pid"] != row["pid"]}
    moved = {entry["mount"] for entry in plugind.log[seen:] if "mount" in entry}
    assert answer.status == 400
    assert results.count("skipped") == COUNT - 1
    assert {row["error"] for row in answer.data["mounts"] if row["result"] == "skipped"} == {
        "not begun, as other mounts failed: it runs as before"
    }
    assert changed == {f"root:{canary['mount'].strip('/')}"}
    assert moved == {canary["mount"].strip("/")}
    assert {row["state"] for row in after.values()} == {"ready"}
    assert {row["version"] for row in after.values()} == {"v1"}
    kept = ("instance", "started_at", "ready_at", "restarts", "last_exit", "reason")
    assert all(after[name][key] == before[name][key] for name in before.keys() - changed for key in kept)
    # two starts and two ends of a shell, not one for each mount
    assert canary["down_seconds"] < 30


def test_one_that_dies_while_the_canary_is_watched_touches_no_other_either(plugind: Plugind) -> None:
    before = staged(
        plugind, f"#!/bin/sh\nuntil [ -e {plugind.folder}/now ]; do sleep 0.05; done\nexit 4\n", "cwd: /"
    )
    reload_id = plugind.reload(canary=1, canary_for="60s", wait=False).data["reload_id"]
    report = f"supervisor/reloads/{reload_id}"
    plugind.until(lambda: any(row["version"] == "v2" for row in plugind.rows().values()))

    (plugind.folder / "now").touch()
    told = plugind.saw("reload_rolled_back")
    plugind.until(lambda: plugind.call("GET", report).data["done"])  # at once, not after canary_for

    after = plugind.rows()
    changed = {name for name, row in before.items() if after[name]["pid"] != row["pid"]}
    results = [row["result"] for row in plugind.call("GET", report).data["mounts"]]
    assert (results.count("rolled_back"), results.count("skipped")) == (1, COUNT - 1)
    assert changed == {f"root:{told['mount']}"}
    assert {row["version"] for row in after.values()} == {"v1"}
