"""Rooms share what they began with, and nothing that came after."""

import os
import re
import signal
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from sandbox import Checks, Incubators, Limits, Outcome, Pool, SandboxUnavailable, incubation
from sandbox.incubation import Incubator
from sandbox.plan import Plan
from sandbox.room import Room

pytestmark = pytest.mark.usefixtures("needs_sandbox")

MB = 1000  # of the kilobytes that /proc counts in


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def incubator_of(pool):
    return pool._engine._incubators.of_programs._process.pid


def private_kb(pid):
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(number) for number in re.findall(r"Private_\w+: +(\d+) kB", text))


def test_rooms_share_what_the_incubator_imported():
    with Pool(Limits(cpu_s=5), 2) as pool:
        assert [e.output_tail for e in pool.run_all(["print(1)"] * 20)] == ["1\n"] * 20
        incubator = incubator_of(pool)
        rooms = children(incubator)
        assert len(rooms) == 2
        whole = int(
            re.search(r"Rss: +(\d+)", Path(f"/proc/{incubator}/smaps_rollup").read_text())[1]
        )
        for room in rooms:
            (zygote,) = children(room)
            assert private_kb(room) + private_kb(zygote) < min(7 * MB, whole / 2)


def test_pools_may_share_their_incubators():
    with closing(Incubators()) as incubators:
        incubators.begin()
        process = incubators.of_programs._process
        for _ in range(2):
            with Pool(num_workers=1, incubators=incubators) as pool:
                assert next(pool.run_all(["pass"])).exit_code == 0
                assert incubator_of(pool) == process.pid
            assert process.poll() is None
    assert process.poll() == 0


def test_rooms_go_on_without_their_incubator_and_new_ones_come_from_another():
    with Pool(Limits(cpu_s=5), 1) as pool:
        lost = incubator_of(pool)
        os.kill(lost, signal.SIGKILL)
        assert [e.output_tail for e in pool.run_all(["print(1)"])] == ["1\n"]
        pool._engine._workers[0].room.process.kill()
        assert [e.output_tail for e in pool.run_all(["print(2)"] * 2)] == ["2\n"] * 2
        assert incubator_of(pool) != lost


def test_what_a_program_does_to_its_interpreter_is_in_no_other_room():
    spoil = "import builtins, sys\nbuiltins.len = None\nsys.setrecursionlimit(50)\n"
    with Pool(Limits(cpu_s=5), 1) as pool:
        assert next(pool.run_all([spoil])).exit_code == 0
        pool._engine._workers[0].room.process.kill()
        (after,) = pool.run_all(["import sys; print(len('ab'), sys.getrecursionlimit())"])
        assert after.output_tail == "2 1000\n"


def test_a_room_is_in_its_group_before_it_forks(cgroups):
    group = cgroups.new_group(1 << 30, 64)
    with closing(Incubator()) as incubator:
        room = Room(Plan(Limits()), incubator, group)
        try:
            room.wait_until_ready()
            # Beside it there may be, for a moment, the process that entered the namespaces.
            zygote = children(room.process.pid)[-1]
            for folder in group._folders:
                members = (folder / "cgroup.procs").read_text().split()
                assert {str(room.process.pid), str(zygote)} <= {*members}
        finally:
            room.close()


def test_programs_and_checks_come_from_different_interpreters():
    """Programs know the seed that their interpreter hashes by."""
    program = "def f(): return hash('seed')"
    with Pool(Limits(cpu_s=5), 1) as pool:
        (same,) = pool.examine_all([(program, Checks("assert f() == f()"))])
        (known,) = pool.examine_all([(program, Checks("assert f() == hash('seed')"))])
    assert (same.outcome, known.outcome) == (Outcome.HELD, Outcome.FAILED)


@pytest.mark.parametrize(
    ("interpreter", "said"),
    [("/nowhere/python", "cannot start /nowhere/python"), ("/bin/true", "/bin/true runs no room")],
)
def test_an_interpreter_that_is_none_is_named(interpreter, said):
    with (
        closing(Incubator(interpreter)) as incubator,
        pytest.raises(SandboxUnavailable, match=said),
    ):
        Room(Plan(Limits()), incubator)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into anything")
def test_nobody_may_look_into_an_incubator():
    with Pool(Limits(cpu_s=5), 1) as pool:
        # What belongs to a process that may be traced is its user's; else it is root's.
        assert Path(f"/proc/{incubator_of(pool)}/mem").stat().st_uid == 0
    assert Path("/proc/self/mem").stat().st_uid == os.geteuid()


def test_a_room_that_was_forked_but_not_told_of_ends(monkeypatch):
    """Else two rooms would listen to one socket, and the one in no group might be heard."""
    boot = incubation._BOOT.replace(
        "incubator.main(",
        "import os\nif not os.path.exists({mark!r}):\n"
        "    open({mark!r}, 'x').close()\n"
        "    os.pidfd_open = lambda pid: os._exit(1)\nincubator.main(",
    )
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(incubation, "_BOOT", boot.replace("{mark!r}", repr(f"{folder}/mark")))
        with Pool(Limits(cpu_s=5), 1) as pool:
            first = pool._engine._workers[0].room.process.pid
            assert next(pool.run_all(["print(1)"])).output_tail == "1\n"
            assert children(incubator_of(pool)) == [first]
            assert children(first)
        assert Path(folder, "mark").exists()  # the first incubator was lost
