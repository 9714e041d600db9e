"""One actor: events in turn, actions in order, every command answered, a fault costs this mount only."""

import asyncio
from dataclasses import replace as replace_policies
from functools import partial
from typing import Any

import pytest
from engine_fakes import V1, V2, Bench, FakeClock, Script, a_key, keeping, settle, with_liveness
from msgspec.structs import replace
from structlog.testing import capture_logs

from supervisor.domain.catalog import (
    Policies,
    Probe,
    ReloadPolicy,
    RestartPolicy,
    RestartRate,
    StopPolicy,
)
from supervisor.domain.events import (
    Configure,
    Exit,
    Instance,
    Outcome,
    ProbeFailed,
    Reload,
    Start,
    Stop,
    TimerFired,
)
from supervisor.domain.memory import StoppedBy
from supervisor.domain.mount import Mount
from supervisor.domain.names import instance_id
from supervisor.engine.pace import Pace
from supervisor.engine.world import Ended

START_FIRST = Policies(reload=ReloadPolicy(order="start_first"))
BY_HAND = StoppedBy("alice", 1.0)


@pytest.fixture
async def bench() -> Any:
    async with keeping() as tasks:
        yield Bench(tasks)


async def running(bench: Bench, policies: Policies | None = None, *, proved: bool = True) -> Bench:
    """The mount runs V1."""
    if policies is not None:
        bench.actor.mount = replace(bench.actor.mount, policies=policies)
    bench.actor.post(Start(V1))
    await settle()
    if proved:
        await bench.clock.advance(20)
    bench.told.clear()
    bench.processes.did.clear()
    return bench


async def test_a_start_is_answered_when_the_instance_is_ready(bench: Bench) -> None:
    bench.processes.scripts["v1"] = Script(ready=False)
    asked = bench.asked(Start(V1, "s1"))
    await settle()
    before = asked.done()

    bench.processes.spawned[0].become_ready()
    await settle()

    assert not before
    assert (await asked).outcome is Outcome.DONE
    assert bench.steps == ["Start", "Spawned", "BecameReady"]
    assert bench.processes.spawned[0].ready_at == bench.clock.time()


async def test_a_reload_ends_the_old_tree_before_it_starts_the_new_one_and_names_both(bench: Bench) -> None:
    await running(bench)
    old = bench.processes.spawned[0]

    ended = await bench.asked(Reload(V2, "r1"))

    assert bench.processes.did == ["signal auth/a 15", "end auth/a v1", "spawn auth/a v2"]
    assert bench.processes.most_of_one_mount == 1
    assert (ended.outcome, ended.old_version, ended.new_version) == (Outcome.DONE, "v1", "v2")
    assert (ended.old_pid, ended.new_pid) == (old.pid, bench.processes.spawned[1].pid)


async def test_nothing_starts_while_the_old_tree_is_being_ended(bench: Bench) -> None:
    await running(bench)
    bench.processes.gate = asyncio.Event()
    asked = bench.asked(Reload(V2, "r1"))
    await settle()
    spawned_meanwhile = len(bench.processes.spawned)

    bench.processes.gate.set()
    await asked

    assert (spawned_meanwhile, len(bench.processes.spawned)) == (1, 2)


async def test_an_event_that_a_step_brings_about_is_taken_after_it(bench: Bench) -> None:
    taken: list[str] = []
    narrate = bench.told.append

    def tell(step: Any) -> None:
        narrate(step)
        taken.append(f"begin {type(step.event).__name__}")
        if len(taken) == 1:
            bench.actor.post(Reload(V2, "r1"))
        taken.append(f"end {type(step.event).__name__}")

    bench.feed._tell = tell

    bench.actor.post(Start(V1))

    assert taken[:4] == ["begin Start", "end Start", "begin Reload", "end Reload"]


async def test_what_changes_nothing_is_not_published(bench: Bench) -> None:
    await running(bench)

    bench.actor.post(TimerFired("ready", 99))

    assert bench.told == []


async def test_a_crash_is_restarted_after_its_backoff_and_counted(bench: Bench) -> None:
    await running(bench)

    bench.processes.spawned[0].exit(1)
    await settle()
    waiting = (bench.phase, len(bench.processes.spawned))
    await bench.clock.advance(0.2)

    assert waiting == ("backoff", 1)
    assert (bench.phase, len(bench.processes.spawned)) == ("ready", 2)
    assert (bench.actor.crashes, bench.actor.last_exit) == (1, "exit 1")


async def test_a_crash_loop_ends_in_failed_with_its_reason(bench: Bench) -> None:
    await running(bench, Policies(restart=RestartPolicy(burst=2)))
    bench.processes.scripts["v1"] = Script(never_ready="the handshake was nonsense")

    bench.processes.spawned[0].exit(signal=11)
    await bench.clock.advance(60)

    assert bench.phase == "failed"
    assert bench.actor.mount.reason == "the handshake was nonsense; given up after 3 crashes within 1m"
    assert bench.processes.living() == []


async def test_an_instance_that_is_not_ready_in_time_is_stopped_with_what_it_said(bench: Bench) -> None:
    await running(bench)
    bench.processes.scripts["v2"] = Script(ready=False, why_not="no READY=1 yet")
    asked = bench.asked(Reload(V2, "r1"))

    await bench.clock.advance(10)

    ended = await asked
    assert (ended.outcome, ended.reason) == (Outcome.ROLLED_BACK, "not ready in 10s: no READY=1 yet")
    assert (ended.new_version, bench.phase) == ("v1", "ready")


async def test_an_answer_about_a_failure_carries_the_last_lines_of_the_instance_that_failed(
    bench: Bench,
) -> None:
    await running(bench)
    bench.processes.scripts["v2"] = Script(ready=False)
    bench.logs.lines[instance_id(bench.actor.key, 2)] = ["reading config", "config: no such file"]
    asked = bench.asked(Reload(V2, "r1"))
    await settle()

    bench.processes.spawned[1].exit(3)

    ended = await asked
    assert ended.reason == "ended before it was ready: exit 3"
    assert ended.log == ["reading config", "config: no such file"]


async def test_a_version_that_dies_inside_its_watch_amends_what_was_answered(bench: Bench) -> None:
    await running(bench)
    first = await bench.asked(Reload(V2, "r1"))
    await bench.clock.advance(5)

    bench.processes.spawned[1].exit(1)
    await settle()

    assert first.outcome is Outcome.DONE
    assert [(command, ended.outcome) for command, ended in bench.amended] == [("r1", Outcome.ROLLED_BACK)]
    assert bench.processes.living()[0].instance.launch == V1


async def test_after_its_watch_a_version_is_what_worked_last(bench: Bench) -> None:
    await running(bench)
    await bench.asked(Reload(V2, "r1"))

    await bench.clock.advance(10)
    bench.processes.spawned[1].exit(1)
    await bench.clock.advance(1)

    assert bench.amended == []
    assert bench.processes.living()[0].instance.launch == V2
    assert bench.memory.known[bench.actor.key].good == V2


async def test_a_file_that_is_not_what_the_catalog_says_is_not_spawned(bench: Bench) -> None:
    await running(bench)
    bench.binaries.unfit[V2.command] = "it was overwritten"

    ended = await bench.asked(Reload(V2, "r1"))

    assert (ended.outcome, ended.reason) == (
        Outcome.ROLLED_BACK,
        "cannot run auth/mock v2: it was overwritten",
    )
    assert [process.instance.launch for process in bench.processes.spawned] == [V1, V1]


async def test_a_machine_without_room_for_a_process_is_waited_for_and_never_given_up(bench: Bench) -> None:
    bench.processes.scripts["v1"] = Script(refused="fork: no room", transient=True)
    bench.actor.post(Start(V1))
    await bench.clock.advance(60)
    waiting = bench.phase

    bench.processes.scripts["v1"].refused = None
    await bench.clock.advance(60)

    assert (waiting, bench.phase) == ("backoff", "ready")


async def test_a_stop_answers_when_the_tree_is_gone_and_is_remembered_with_who(bench: Bench) -> None:
    await running(bench)
    bench.processes.gate = asyncio.Event()
    asked = bench.asked(Stop("s1", BY_HAND))
    await settle()
    before = asked.done()

    bench.processes.gate.set()
    ended = await asked

    assert (before, ended.outcome, bench.phase) == (False, Outcome.DONE, "stopped")
    assert bench.memory.known[bench.actor.key].held == BY_HAND


async def test_one_that_ignores_its_signal_is_killed_when_its_time_is_over(bench: Bench) -> None:
    await running(bench)
    bench.processes.spawned[0].script.ignores_signals = True
    asked = bench.asked(Stop("s1"))

    await bench.clock.advance(4.9)
    before = bench.processes.did.copy()
    await bench.clock.advance(0.1)

    assert before == ["signal auth/a 15"]
    assert (await asked).outcome is Outcome.DONE
    assert bench.processes.did == ["signal auth/a 15", "end auth/a v1"]


async def test_a_stop_while_the_file_is_being_checked_starts_nothing_and_answers_both(bench: Bench) -> None:
    bench.binaries.gate = asyncio.Event()
    start = bench.asked(Start(V1, "s1"))
    await settle()
    stop = bench.asked(Stop("s2", BY_HAND))
    await settle()

    bench.binaries.gate.set()

    assert (await start).outcome is Outcome.SKIPPED
    assert (await stop).outcome is Outcome.DONE
    assert bench.processes.spawned == []


async def test_a_stop_whose_time_is_over_while_the_file_is_being_checked_starts_nothing(bench: Bench) -> None:
    bench.binaries.gate = asyncio.Event()
    bench.actor.post(Start(V1))
    stop = bench.asked(Stop("s2"))
    await bench.clock.advance(5)

    bench.binaries.gate.set()

    assert (await stop).outcome is Outcome.DONE
    assert bench.processes.spawned == []


async def test_a_stop_command_runs_first_and_then_comes_the_signal(bench: Bench) -> None:
    await running(bench, Policies(stop=StopPolicy(signal=2, command=("/bin/leave", "now"))))

    await bench.asked(Stop("s1"))

    assert bench.processes.did == ["command auth/a /bin/leave now", "signal auth/a 2", "end auth/a v1"]


async def test_a_stop_command_that_fails_is_followed_by_the_signal_all_the_same(bench: Bench) -> None:
    await running(bench, Policies(stop=StopPolicy(command=("/bin/leave",))))
    bench.processes.spawned[0].script.stop_command_fails = True

    ended = await bench.asked(Stop("s1"))

    assert ended.outcome is Outcome.DONE
    assert bench.processes.spawned[0].signals == [15]


async def test_a_stop_command_before_there_is_a_process_is_not_run(bench: Bench) -> None:
    bench.actor.mount = replace(
        bench.actor.mount, policies=Policies(stop=StopPolicy(command=("/bin/leave",)))
    )
    bench.binaries.gate = asyncio.Event()
    bench.actor.post(Start(V1))
    stop = bench.asked(Stop("s1"))
    await settle()

    bench.binaries.gate.set()

    assert (await stop).outcome is Outcome.DONE
    assert bench.processes.did == []


async def test_one_that_may_not_be_signalled_is_killed_when_its_time_is_over(bench: Bench) -> None:
    await running(bench)
    bench.processes.spawned[0].script.broken = "signal"
    asked = bench.asked(Stop("s1"))

    await bench.clock.advance(5)

    assert (await asked).outcome is Outcome.DONE


async def test_a_tree_that_cannot_be_killed_fails_the_mount_and_nothing_is_started(bench: Bench) -> None:
    await running(bench)
    bench.processes.spawned[0].script.unkillable = True

    ended = await bench.asked(Reload(V2, "r1"))

    assert ended.outcome is Outcome.FAILED
    assert f"pid {bench.processes.spawned[0].pid}" in str(ended.reason)
    assert (bench.phase, len(bench.processes.spawned)) == ("failed", 1)
    assert bench.actor.process is bench.processes.spawned[0]


async def test_concurrent_reloads_cost_two_replacements_and_all_are_answered(bench: Bench) -> None:
    await running(bench)

    asked = [bench.asked(Reload(V2, f"r{number}")) for number in range(10)]
    answers = [await one for one in asked]

    assert {answer.outcome for answer in answers} == {Outcome.DONE}
    assert len(bench.processes.spawned) <= 3


async def test_a_caller_that_goes_away_cancels_nothing(bench: Bench) -> None:
    await running(bench)
    bench.processes.gate = asyncio.Event()
    asked = bench.asked(Reload(V2, "r1"))
    await settle()

    asked.cancel()
    bench.processes.gate.set()
    await settle()

    assert (bench.phase, bench.processes.living()[0].instance.launch) == ("ready", V2)
    assert bench.amended == []


async def test_with_start_first_the_old_one_goes_when_the_new_one_is_ready(bench: Bench) -> None:
    await running(bench, START_FIRST)

    ended = await bench.asked(Reload(V2, "r1"))
    await settle()

    assert ended.outcome is Outcome.DONE
    assert bench.processes.did == ["spawn auth/a v2", "signal auth/a 15", "end auth/a v1"]
    assert bench.processes.most_of_one_mount == 2


async def test_liveness_that_fails_too_often_replaces_the_instance(bench: Bench) -> None:
    await running(bench, with_liveness(failures=2), proved=False)
    bench.processes.spawned[0].checks = [False, False]

    await bench.clock.advance(21)

    assert bench.processes.spawned[0].is_gone
    assert bench.processes.living()[0].instance.generation == 2
    assert any(isinstance(step.event, ProbeFailed) for step in bench.told)


async def test_no_liveness_check_is_made_of_an_instance_that_is_being_stopped(bench: Bench) -> None:
    await running(bench, with_liveness(), proved=False)
    bench.processes.gate = asyncio.Event()
    bench.actor.post(Stop())

    await bench.clock.advance(100)

    assert bench.processes.spawned[0].checked == 0


async def test_an_adopted_instance_is_watched_like_one_of_our_own(bench: Bench) -> None:
    instance = Instance(instance_id(bench.actor.key, 5), 5, V1)
    process = bench.processes.make(bench.actor.key, instance)

    bench.actor.adopt(instance, process, ready=True)
    await settle()
    adopted = (bench.phase, bench.processes.did.copy())
    process.exit()
    await bench.clock.advance(1)

    assert adopted == ("ready", [])
    assert bench.actor.last_exit == "exit status unknown"
    assert bench.processes.living()[0].instance.generation == 6


async def test_an_adopted_instance_that_is_dead_by_now_is_replaced(bench: Bench) -> None:
    instance = Instance(instance_id(bench.actor.key, 5), 5, V1)
    process = bench.processes.make(bench.actor.key, instance)
    process.exit(1)

    bench.actor.adopt(instance, process, ready=True)
    await bench.clock.advance(1)

    assert [one.instance.generation for one in bench.processes.living()] == [6]


async def test_an_adopted_instance_that_was_starting_has_its_time_to_become_ready(bench: Bench) -> None:
    bench.processes.scripts["v1"] = Script(ready=False)
    instance = Instance(instance_id(bench.actor.key, 5), 5, V1)
    process = bench.processes.make(bench.actor.key, instance)

    bench.actor.adopt(instance, process, ready=False)
    await bench.clock.advance(9)
    process.become_ready()
    await settle()

    assert (bench.phase, bench.processes.living()) == ("ready", [process])


async def test_letting_go_touches_no_process_and_does_nothing_any_more(bench: Bench) -> None:
    await running(bench, proved=False)
    process = bench.processes.spawned[0]

    bench.actor.leave()
    process.exit(1)
    await bench.clock.advance(100)

    assert process.is_left
    assert bench.processes.did == []
    assert bench.told == []


async def test_letting_go_while_a_file_is_being_checked_starts_nothing(bench: Bench) -> None:
    bench.binaries.gate = asyncio.Event()
    bench.actor.post(Start(V1))
    await settle()

    bench.actor.leave()
    bench.binaries.gate.set()
    await settle()

    assert bench.processes.spawned == []


async def test_an_effect_that_breaks_costs_no_other_mount(bench: Bench) -> None:
    other = type(bench.actor)(Mount(a_key("auth/b")), bench.actor._world)
    bench.processes.scripts["v1"] = Script(broken="spawn")

    bench.actor.post(Start(V1))
    other.post(Start(V2))
    await settle()

    assert other.mount.phase.value == "ready"


async def test_a_stop_command_that_breaks_is_followed_by_the_signal(bench: Bench) -> None:
    await running(bench, Policies(stop=StopPolicy(command=("/bin/leave",))))
    bench.processes.spawned[0].script.broken = "command"

    ended = await bench.asked(Stop("s1"))

    assert ended.outcome is Outcome.DONE
    assert bench.processes.spawned[0].signals == [15]


async def test_a_kill_that_breaks_fails_the_mount_and_says_why(bench: Bench) -> None:
    await running(bench)
    bench.processes.spawned[0].script.broken = "end"

    ended = await bench.asked(Reload(V2, "r1"))

    assert ended.outcome is Outcome.FAILED
    assert "plugind failed at it: RuntimeError" in str(ended.reason)
    assert (bench.phase, len(bench.processes.spawned)) == ("failed", 1)


async def test_a_liveness_check_that_breaks_is_one_that_failed(bench: Bench) -> None:
    await running(bench, with_liveness(), proved=False)
    broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    broken.set_exception(RuntimeError("nobody expects this"))
    bench.processes.spawned[0].checks = [broken]

    await bench.clock.advance(11)

    assert bench.processes.spawned[0].is_gone
    assert bench.phase == "ready"


async def test_a_log_that_cannot_be_read_costs_an_answer_its_lines_only(bench: Bench) -> None:
    await running(bench)
    bench.processes.scripts["v2"] = Script(never_ready="no handshake")
    bench.logs.is_broken = True

    ended = await bench.asked(Reload(V2, "r1"))

    assert (ended.outcome, ended.reason, ended.log) == (Outcome.ROLLED_BACK, "no handshake", [])


async def test_what_cannot_be_remembered_is_done_all_the_same(bench: Bench) -> None:
    await running(bench)
    bench.memory.fails = "cannot be written as JSON"

    with capture_logs() as logs:
        ended = await bench.asked(Stop("s1", BY_HAND))

    assert (ended.outcome, bench.phase) == (Outcome.DONE, "stopped")
    assert "mount_not_remembered" in [line["event"] for line in logs]


async def test_when_plugind_ends_only_a_stop_is_taken(bench: Bench) -> None:
    await running(bench)
    bench.actor.is_closing = True

    reload = await bench.asked(Reload(V2, "r1"))
    stop = await bench.asked(Stop("s1"))

    assert (reload.outcome, reload.reason) == (Outcome.SKIPPED, "plugind is shutting down")
    assert stop.outcome is Outcome.DONE
    assert bench.processes.living() == []


async def test_other_settings_are_in_effect_at_once(bench: Bench) -> None:
    await running(bench)

    bench.actor.post(Configure(Policies(stop=StopPolicy(signal=1))))
    await bench.asked(Stop("s1"))

    assert bench.processes.spawned[0].signals == [1]
    assert len(bench.processes.spawned) == 1


async def test_an_exit_without_status_says_so(bench: Bench) -> None:
    await running(bench)

    bench.processes.spawned[0].exit()
    await settle()

    assert bench.actor.last_exit == str(Exit())
    assert bench.actor.crashes == 1


async def test_what_the_start_of_a_new_daemon_runs_is_answered_without_anybody_asking(bench: Bench) -> None:
    bench.actor.post(Start(V1))
    await settle()

    assert bench.amended == []
    assert isinstance(await bench.asked(Start(V2, "s1")), Ended)
    assert bench.processes.living()[0].instance.launch == V1


# --- turns, more time, other settings


ONE_AT_A_TIME = RestartRate(per_second=1.0, burst=1)


async def test_restarts_take_turns_in_order_and_say_so() -> None:
    async with keeping() as tasks:
        clock = FakeClock()
        pace, came = Pace(clock, ONE_AT_A_TIME), []
        waits = [pace.turn(partial(came.append, number)) for number in range(4)]
        at_once = list(came)
        waits[2][0].cancel()  # type: ignore[index]  # it waits
        await clock.advance(1.5)
        then = list(came)
        await clock.advance(10)

        assert tasks
        assert waits[0] is None
        assert "waits for its turn: 1 other first, 1 restarts a second" in waits[2][1]  # type: ignore[index]
        assert (at_once, then, came) == ([0], [0, 1], [0, 1, 3])
        assert pace.turn(partial(came.append, 4)) is None


async def test_a_crash_waits_for_its_turn_and_a_reload_does_not() -> None:
    async with keeping() as tasks:
        bench = await running(Bench(tasks, rate=ONE_AT_A_TIME))
        bench.processes.spawned[0].exit(1)
        await bench.clock.advance(0.2)
        bench.processes.spawned[1].exit(1)
        await bench.clock.advance(0.5)
        waiting = (bench.phase, bench.actor.mount.reason or "")
        ended = await bench.asked(Reload(V2, "r1"))
        await bench.clock.advance(5)

        assert waiting[0] == "backoff"
        assert waiting[1].startswith("exit 1; waits for its turn: 0 others first")
        assert bench.steps.count("Paced") == 1
        assert ended.outcome is Outcome.DONE
        assert len(bench.processes.spawned) == 3


async def test_an_instance_that_asked_for_more_time_is_given_it(bench: Bench) -> None:
    bench.processes.scripts["v1"] = Script(ready=False, extended_until=bench.clock.time() + 25)
    bench.actor.post(Start(V1))
    await bench.clock.advance(24)
    waiting = bench.phase

    await bench.clock.advance(2)

    assert waiting == "starting"
    assert 15 in bench.processes.spawned[0].signals


async def test_other_liveness_takes_effect_on_what_runs(bench: Bench) -> None:
    await running(bench)
    process = bench.processes.spawned[0]
    process.checks = [False] * 10

    bench.actor.post(Configure(with_liveness(failures=2)))
    await bench.clock.advance(15)
    checked = process.checked
    bench.actor.post(Configure(Policies()))
    await bench.clock.advance(100)

    assert (checked, process.checked, process.status) == (1, 1, None)
    assert process.policies == Policies()
    bench.actor.post(Configure(with_liveness(failures=2)))
    await bench.clock.advance(21)
    assert process.is_gone


async def test_one_that_is_taken_as_ready_is_recorded_so_and_its_liveness_watched() -> None:
    policies = replace_policies(with_liveness(failures=2), ready=Probe("notify"))
    async with keeping() as tasks:
        bench = Bench(tasks, policies=policies)
        bench.processes.scripts["v1"] = Script(ready=False)
        instance = Instance(instance_id(bench.actor.key, 5), 5, V1)
        process = bench.processes.make(bench.actor.key, instance)
        with capture_logs():
            bench.actor.adopt(instance, process, ready=False)
            await bench.clock.advance(11)
        known = (bench.phase, process.ready_at is not None)
        process.checks = [False] * 10
        await bench.clock.advance(21)

        assert known == ("ready", True)
        assert process.is_gone
