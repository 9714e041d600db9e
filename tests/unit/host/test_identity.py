"""Who a process is: ticks that no name and no clock can move."""

import os
import subprocess
from pathlib import Path

import psutil

from supervisor.host.identity import current_boot_id, is_alive, start_ticks


def test_the_boot_id_is_the_kernels() -> None:
    assert current_boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert len(current_boot_id()) == 36


def test_start_ticks_agree_with_psutil_and_stay() -> None:
    ticks = start_ticks(os.getpid())

    assert ticks is not None
    assert ticks == start_ticks(os.getpid())
    since_boot = psutil.Process().create_time() - psutil.boot_time()
    assert abs(ticks / os.sysconf("SC_CLK_TCK") - since_boot) < 2


def test_a_name_with_parentheses_spaces_and_newlines_moves_no_field(tmp_path: Path) -> None:
    program = tmp_path / ") S 1 (\n) Z"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as process:
        try:
            ticks = start_ticks(process.pid)
            assert ticks is not None
            assert abs(ticks - (start_ticks(os.getpid()) or 0)) < 100_000_000
            assert is_alive(process.pid)
        finally:
            process.kill()


def test_a_zombie_has_its_start_but_is_not_alive_and_a_reaped_one_has_neither() -> None:
    process = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    assert start_ticks(process.pid) is not None
    assert not is_alive(process.pid)
    process.wait()
    assert start_ticks(process.pid) is None
    assert not is_alive(process.pid)
