import asyncio
import threading
import time

import pytest

from sandbox import AsyncPool, Checks, Ending, Limits, Outcome, Program, SandboxUnavailable
from sandbox.engine import Engine
from sandbox.jobs import RunJob
from sandbox.worker import Worker

pytestmark = pytest.mark.usefixtures("needs_sandbox", "shared_incubators")


def test_many_wait_for_few_workers_and_the_loop_goes_on():
    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        async with AsyncPool(Limits(cpu_s=2), 2) as pool:
            programs = [f"import time; time.sleep(0.1); print({i})" for i in range(10)]
            executions = await asyncio.gather(*map(pool.run, programs))
            held = await pool.examine("def f(x): return x", Checks("assert f(1) == 1"))
        ticking.cancel()
        return executions, held, ticks

    executions, held, ticks = asyncio.run(main())
    assert [execution.output_tail for execution in executions] == [f"{i}\n" for i in range(10)]
    assert held.outcome is Outcome.HELD
    assert ticks > 10


def test_limits_are_kept_while_nobody_else_wakes_the_loop():
    async def main():
        async with AsyncPool(Limits(cpu_s=1, wall_s=0.3), 1) as pool:
            return await pool.run("import time; time.sleep(60)")

    assert asyncio.run(main()).ending is Ending.TIMED_OUT_WALL


def test_one_that_is_cancelled_does_not_hold_up_the_next():
    async def main():
        async with AsyncPool(Limits(cpu_s=1, wall_s=1), 1) as pool:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pool.run("import time; time.sleep(60)"), 0.1)
            return await pool.run("print(1)")

    assert asyncio.run(main()).output_tail == "1\n"


def test_leaving_early_cancels_who_waits():
    async def main():
        async with AsyncPool(Limits(cpu_s=1), 1) as pool:
            waiting = asyncio.create_task(pool.run("import time; time.sleep(60)"))
            await asyncio.sleep(0.1)
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())


def test_a_program_whose_worker_turns_out_to_be_lost_is_begun_again(monkeypatch):
    begin, lost = Worker.begin, []

    def lose_the_first(worker, job):
        if lost:
            return begin(worker, job)
        lost.append(job)
        return job

    async def main():
        monkeypatch.setattr(Worker, "begin", lose_the_first)
        async with AsyncPool(Limits(cpu_s=1), 1) as pool:
            return await asyncio.wait_for(pool.run("print(1)"), 20)

    assert asyncio.run(main()).output_tail == "1\n"
    assert len(lost) == 1


def unfit(number):
    """A program that cannot be handed to a room; its maker would have refused it."""
    program = Program(f"print({number})")
    object.__setattr__(program, "stdin", "text")
    return program


def test_a_program_that_cannot_be_begun_fails_its_awaiter_alone():
    async def main():
        async with AsyncPool(Limits(cpu_s=1), 1) as pool:
            programs = [unfit(0), "print(1)", unfit(2), "print(3)", unfit(4)]
            runs = asyncio.gather(*map(pool.run, programs), return_exceptions=True)
            return await asyncio.wait_for(runs, 20)

    results = asyncio.run(main())
    assert [type(results[i]) for i in (0, 2, 4)] == [TypeError] * 3
    assert [results[i].output_tail for i in (1, 3)] == ["1\n", "3\n"]


def test_a_program_that_fails_on_the_way_fails_its_awaiter_alone(monkeypatch):
    on_report = RunJob.on_report

    def fail_one(job, *arguments, **named):
        if job.program.source == "pass":
            raise OSError("no more descriptors")
        on_report(job, *arguments, **named)

    async def main():
        monkeypatch.setattr(RunJob, "on_report", fail_one)
        async with AsyncPool(Limits(cpu_s=1), 2) as pool:
            programs = ["import time; time.sleep(0.3); print(0)", "pass", "print(2)"]
            runs = asyncio.gather(*map(pool.run, programs), return_exceptions=True)
            return await asyncio.wait_for(runs, 20)

    first, failed, last = asyncio.run(main())
    assert (first.output_tail, last.output_tail) == ("0\n", "2\n")
    assert isinstance(failed, OSError)


def test_a_pool_that_is_broken_fails_all_who_wait(monkeypatch):
    async def main():
        async with AsyncPool(Limits(cpu_s=1), 1) as pool:
            runs = [asyncio.create_task(pool.run("import time; time.sleep(9)")) for _ in range(2)]
            await asyncio.sleep(0.1)

            def lose(_):
                raise SandboxUnavailable("rooms are gone", "start anew")

            monkeypatch.setattr(pool._engine, "step", lose)
            pool._on_event()
            return await asyncio.wait_for(asyncio.gather(*runs, return_exceptions=True), 5)

    assert [type(error) for error in asyncio.run(main())] == [SandboxUnavailable] * 2


def test_a_pool_that_was_left_or_not_entered_says_so():
    async def main():
        pool = AsyncPool(Limits(cpu_s=1), 1)
        with pytest.raises(ValueError, match="this pool is closed"):
            await pool.run("pass")
        async with pool:
            await pool.run("pass")
        with pytest.raises(ValueError, match="this pool is closed"):
            await asyncio.wait_for(pool.run("pass"), 5)

    asyncio.run(main())


@pytest.mark.parametrize("loop_goes_on", [True, False])
def test_who_is_cancelled_while_it_starts_leaves_nothing_behind(loop_goes_on, monkeypatch):
    opened, closed, is_starting = [], threading.Event(), threading.Event()

    class SlowEngine(Engine):
        def __init__(self, *arguments):
            is_starting.set()
            super().__init__(*arguments)
            opened.append(self)
            time.sleep(0.3)

        def close(self):
            super().close()
            closed.set()

    monkeypatch.setattr("sandbox.async_pool.Engine", SlowEngine)

    async def main():
        entering = asyncio.create_task(AsyncPool(Limits(cpu_s=1), 1).__aenter__())
        await asyncio.to_thread(is_starting.wait, 10)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        if loop_goes_on:
            assert await asyncio.to_thread(closed.wait, 10)

    asyncio.run(main())
    assert closed.wait(10)
    assert len(opened) == 1
