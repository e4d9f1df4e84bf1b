"""The judge over a cluster: its logic with nodes made up here, then Ray where it is installed."""

from __future__ import annotations

import itertools
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from evals.benchmarks.formats import Benchmark, humaneval_benchmark
from evals.cluster import driver, post
from evals.cluster.driver import Cluster
from evals.cluster.ledger import Ledger, Member, Node
from evals.cluster.messages import (
    MOST_BYTES,
    Batch,
    HeldTo,
    Introduction,
    Item,
    Lost,
    Reply,
    Report,
    Result,
    Sent,
)
from evals.cluster.over_ray import RayNodes, on_cluster
from evals.cluster.post import Post
from evals.errors import InputError, MachineError
from evals.judge import judge
from evals.oracles.expected import Answered, Reference
from evals.plan import fingerprint
from evals.records import Sample, StdinCase, write_samples
from evals.work import Examiner, Finding, Here, Job
from sandbox import Checks, Limits, SandboxUnavailable
from tests.evals.conftest import ROWS, FakePool

LIMITS = Limits(cpu_s=1.0)
CHECKS = Checks("assert f() == 1", ("f",))
MEASURED = ("cpu_s", "wall_s", "peak_memory_bytes")


def job(number: int, checks: Checks | None = CHECKS) -> Job:
    return Job(b"key %d" % number, f"program {number}", LIMITS, checks)


def finding(program: str) -> Finding:
    return Finding("passed", program, "exited", 0, 0.1, 0.2, 1000, "", "full")


def told(written: bytes) -> Answered:
    return Answered(written, 0.1, 0.2, 1000, "full")


def found_by(work: Iterable[tuple[Job, Finding]]) -> dict[bytes, str]:
    """Key to the program that was found out about."""
    return {each.key: found.detail for each, found in work}


class FakeNode:
    """Finds out `pace` items in each exchange; dies in the one that has the number `dies_at`."""

    def __init__(
        self,
        pace: int = 3,
        *,
        dies_at: int | None = None,
        introduction: Introduction | None = None,
    ) -> None:
        self.pace = pace
        self.dies_at = dies_at
        self.introduction = introduction or Introduction(fingerprint(), "")
        self.begin()

    def begin(self) -> None:
        self.num_exchanges = 0
        self.has: list[Sent] = []
        self.held_to: dict[int, HeldTo] = {}
        self.num_held_to_sent = 0

    def exchange(self, batch: Batch) -> Reply:
        self.num_exchanges += 1
        if self.num_exchanges == self.dies_at:
            return Lost("the power failed")
        self.held_to |= batch.held_to
        self.num_held_to_sent += len(batch.held_to)
        self.has += batch.items
        done, self.has = self.has[: self.pace], self.has[self.pace :]
        return Report([(sent.number, self.result(sent)) for sent in done], len(self.has))

    def result(self, sent: Sent) -> Result:
        if isinstance(sent.item, Reference):
            return told(sent.item.stdin)
        assert sent.held_to is not None
        assert self.held_to[sent.held_to] == (CHECKS, ())
        return finding(sent.item.program)


class FakeNodes:
    """A cluster of them by name, of which those in `present` are there."""

    def __init__(self, **nodes: FakeNode) -> None:
        self.nodes = nodes
        self.present = [*nodes]
        self.begun: list[str] = []
        self.ended: list[str] = []
        self._asked: dict[str, Callable[[], Reply]] = {}

    def alive(self) -> list[Node]:
        return [Node(f"id of {name}", name, 2) for name in self.present]

    def begin(self, node: Node, here: Examiner, num_cpus: int, trial: Job) -> None:
        self.nodes[node.name].begin()
        self.begun.append(node.name)
        self._asked[node.name] = lambda: self.nodes[node.name].introduction

    def send(self, node: Node, batch: Batch) -> None:
        assert node.name not in self._asked
        self._asked[node.name] = lambda: self.nodes[node.name].exchange(batch)

    def replies(self, timeout_s: float) -> list[tuple[Node, Reply]]:
        if not self._asked:
            time.sleep(0.01)
        asked, self._asked = self._asked, {}
        replies = [(Node(f"id of {name}", name, 2), reply()) for name, reply in asked.items()]
        for node, reply in replies:
            if isinstance(reply, Lost) and self.nodes[node.name].dies_at is not None:
                self.present.remove(node.name)
        return replies

    def end(self, node: Node) -> None:
        self._asked.pop(node.name, None)
        self.ended.append(node.name)


def cluster_of(nodes: FakeNodes, **options: Any) -> tuple[Cluster, list[str]]:
    """The examiner, and what it warns of."""
    warnings: list[str] = []
    return Cluster(nodes, LIMITS, on_warning=warnings.append, **options), warnings


def member(name: str = "a") -> Member:
    return Member(Node(name, name, 2), num_workers=3)


def numbers(batch: Batch) -> list[int]:
    return [sent.number for sent in batch.items]


def report(batch: Batch, num_waiting: int = 1) -> Report:
    return Report([(sent.number, b"") for sent in batch.items], num_waiting)


def test_no_more_is_taken_than_nodes_are_to_have() -> None:
    taken: list[int] = []
    ledger = Ledger(job(number) for number in range(100) if not taken.append(number))
    assert numbers(ledger.batch(one := member())) == [0, 1, 2, 3, 4, 5]
    assert numbers(ledger.batch(one)) == []
    assert len(taken) == 7  # and the one ahead, which says that it is not over


def test_what_a_lost_node_had_goes_to_others_first() -> None:
    one, other, ledger = member("one"), member("other"), Ledger(map(job, range(20)))
    ledger.batch(one)
    assert ledger.take_back(one) == 6
    assert numbers(ledger.batch(other)) == [0, 1, 2, 3, 4, 5]
    assert numbers(ledger.batch(one)) == [6, 7, 8, 9, 10, 11]


def test_a_ledger_is_over_when_every_item_has_its_result() -> None:
    one, ledger = member(), Ledger(map(job, range(8)))
    results: list[int] = []
    while not ledger.is_over:
        results += [number for number, _, _ in ledger.settle(one, report(ledger.batch(one)))]
    assert results == [*range(8)]
    assert Ledger([]).is_over


def test_a_node_is_sent_the_same_checks_once() -> None:
    one, other, ledger = member("one"), member("other"), Ledger(map(job, range(20)))
    first = ledger.batch(one)
    assert [*first.held_to.values()] == [(CHECKS, ())]
    assert all(isinstance(sent.item, Job) and sent.item.checks is None for sent in first.items)
    list(ledger.settle(one, report(first)))
    assert ledger.batch(one).held_to == {}
    assert len(ledger.batch(other).held_to) == 1


def test_bytes_under_way_at_a_node_are_bounded_but_one_item_may_always_go() -> None:
    large = [Reference(str(number), "", b" " * (MOST_BYTES // 2)) for number in range(5)]
    assert numbers(Ledger(large).batch(member())) == [0, 1]
    too_large = [Reference("", "", b" " * (2 * MOST_BYTES))] * 2
    assert numbers(Ledger(too_large).batch(member())) == [0]
    checks = [job(n, Checks(f"# {n}" + " " * (MOST_BYTES // 2))) for n in range(5)]
    assert numbers(Ledger(checks).batch(member())) == [0]


def test_a_node_that_ran_out_of_work_is_given_more_and_one_that_is_slow_less() -> None:
    one, ledger = member(), Ledger(map(job, range(10_000)))
    sizes = []
    for _ in range(9):
        batch = ledger.batch(one)
        sizes.append(len(batch.items))
        list(ledger.settle(one, report(batch, num_waiting=0)))
    assert sizes == [6, 12, 24, 48, 96, 192, 192, 192, 192]
    first, *others = ledger.batch(one).items
    for sent in [first, *others[:2]]:
        list(ledger.settle(one, Report([(sent.number, b"")], num_waiting=9)))
    assert one.window == 24


def test_every_job_is_found_out_once_however_nodes_die() -> None:
    chance = random.Random(0)
    for _ in range(50):
        nodes = FakeNodes(
            **{
                f"node{at}": FakeNode(chance.randint(1, 9), dies_at=chance.randint(1, 9))
                for at in range(chance.randint(0, 4))
            },
            steady=FakeNode(),
        )
        cluster, _ = cluster_of(nodes)
        jobs = [job(number) for number in range(chance.randint(1, 200))]
        found = list(cluster.examine(jobs))
        assert Counter(each.key for each, _ in found) == Counter(each.key for each in jobs)
        assert all(each == jobs[int(each.key[4:])] for each, _ in found)
        assert all(finding.detail == each.program for each, finding in found)


def test_a_node_that_dies_is_told_of() -> None:
    cluster, warnings = cluster_of(FakeNodes(a=FakeNode(), b=FakeNode(dies_at=2)))
    assert len(found_by(cluster.examine(map(job, range(50))))) == 50
    assert warnings == ["node b is lost, 6 programs go to others: the power failed"]


def test_no_more_jobs_are_under_way_than_nodes_are_to_have() -> None:
    num_taken = num_found = most = 0

    def jobs() -> Iterator[Job]:
        nonlocal num_taken
        for number in range(3000):
            num_taken += 1
            yield job(number)

    cluster, _ = cluster_of(FakeNodes(a=FakeNode(500), b=FakeNode(500)))
    for _ in cluster.examine(jobs()):
        num_found += 1
        most = max(most, num_taken - num_found)
    assert num_found == 3000
    assert 192 < most <= 2 * 64 * 3 + 1


def test_a_node_that_joins_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_LOOK_S", 0)
    nodes = FakeNodes(a=FakeNode(), late=FakeNode())
    nodes.present.remove("late")
    cluster, _ = cluster_of(nodes)
    for at, _ in enumerate(cluster.examine(map(job, range(100)))):
        if at == 20:
            nodes.present.append("late")
    assert nodes.nodes["late"].num_exchanges > 5


OTHERWISE = [*fingerprint()[:-1], "0" * 64]


@pytest.mark.parametrize(
    ("introduction", "reason"),
    [
        (Introduction(fingerprint(), "sandbox: no namespaces; allow them"), "sandbox: no name"),
        (Introduction(OTHERWISE, ""), "its code of sandbox and evals is 000000000000, not "),
        (Introduction(["pypy", *fingerprint()[1:]], ""), "its interpreter is pypy, not cpython"),
    ],
)
def test_a_node_that_may_not_judge_gets_nothing(introduction: Introduction, reason: str) -> None:
    bad = FakeNode(introduction=introduction)
    cluster, warnings = cluster_of(FakeNodes(bad=bad, good=FakeNode()))
    assert len(found_by(cluster.examine(map(job, range(20))))) == 20
    assert bad.num_exchanges == 0
    assert len(warnings) == 1
    assert warnings[0].startswith(f"node bad gets no work: {reason}")


def test_a_node_that_can_no_longer_contain_hands_back_what_it_has() -> None:
    class Failing(FakeNode):
        def exchange(self, batch: Batch) -> Reply:
            given = super().exchange(batch)
            return given._replace(refusal="disk full") if self.num_exchanges == 3 else given

    cluster, warnings = cluster_of(FakeNodes(bad=Failing(), good=FakeNode()))
    assert len(found_by(cluster.examine(map(job, range(50))))) == 50
    assert warnings == ["node bad gets no work: disk full"]


def test_a_node_that_fails_behind_the_last_result_does_no_harm() -> None:
    class Failing(FakeNode):
        def exchange(self, batch: Batch) -> Reply:
            return super().exchange(batch)._replace(refusal="disk full")

    assert len(list(cluster_of(FakeNodes(a=Failing()))[0].examine([job(0), job(1)]))) == 2


def test_where_every_node_refuses_one_line_says_why() -> None:
    bad = Introduction(fingerprint(), "sandbox: no namespaces; allow them")
    cluster, _ = cluster_of(FakeNodes(a=FakeNode(introduction=bad), b=FakeNode(introduction=bad)))
    with pytest.raises(MachineError) as raised:
        list(cluster.examine([job(0)]))
    assert str(raised.value) == (
        "--cluster: none of 2 nodes can judge: a: sandbox: no namespaces; allow them; "
        "b: sandbox: no namespaces; allow them"
    )


def test_without_any_node_it_waits_for_one_up_to_a_limit() -> None:
    nodes = FakeNodes(only=FakeNode(dies_at=3))
    cluster, _ = cluster_of(nodes, patience_s=0.1)
    found = []
    with pytest.raises(MachineError, match=r"no node to judge on for 0\.1 s; what was found is ke"):
        found += cluster.examine(map(job, range(50)))
    nodes.nodes["next"] = FakeNode()
    nodes.present.append("next")
    assert len(list(cluster.examine(map(job, range(50))))) == 50


def test_a_node_where_posts_keep_dying_gets_no_other() -> None:
    class Dying(FakeNode):
        def exchange(self, batch: Batch) -> Reply:
            return Lost("out of memory")

    nodes = FakeNodes(bad=Dying())
    cluster, warnings = cluster_of(nodes, patience_s=0.1)
    with pytest.raises(MachineError, match="refused: bad: work there was lost 3 times: out of mem"):
        list(cluster.examine(map(job, range(50))))
    assert nodes.begun == ["bad"] * 3
    assert len(warnings) == 3


def test_leaving_in_the_middle_ends_what_is_under_way() -> None:
    nodes = FakeNodes(a=FakeNode(), b=FakeNode())
    cluster, _ = cluster_of(nodes)
    with closing(cluster.examine(map(job, range(50)))) as found:
        next(found)
    assert sorted(nodes.ended) == ["a", "b"]
    assert len(found_by(cluster.examine(map(job, range(50, 90))))) == 40
    assert sorted(nodes.begun) == ["a", "a", "b", "b"]


def test_posts_and_what_they_know_outlast_a_call() -> None:
    nodes = FakeNodes(a=FakeNode())
    cluster, _ = cluster_of(nodes)
    for _ in range(3):
        assert len(found_by(cluster.examine(map(job, range(50))))) == 50
    assert nodes.begun == ["a"]
    assert nodes.nodes["a"].num_held_to_sent == 1


def test_where_nothing_is_to_be_found_out_no_node_is_asked() -> None:
    nodes = FakeNodes(a=FakeNode())
    assert list(cluster_of(nodes)[0].examine([])) == []
    assert nodes.begun == []


def test_answers_come_in_order() -> None:
    cluster, _ = cluster_of(FakeNodes(a=FakeNode(1), b=FakeNode(5), c=FakeNode(2, dies_at=3)))
    asked = [Reference(str(number), "", b"%d" % number) for number in range(50)]
    assert list(cluster.answers(asked)) == [told(b"%d" % number) for number in range(50)]


class FakeHere:
    """Finds the program in the checks that it got with it; "raise" is what is to be raised."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.streams: list[int] = []  # jobs in each

    def examine(self, jobs: Iterable[Job]) -> Generator[tuple[Job, Finding], None, None]:
        self.streams.append(0)
        kinds = set()
        for each in jobs:
            kinds.add(each.checks is None)
            assert len(kinds) == 1
            self.streams[-1] += 1
            if self.error is not None and each.program:
                raise self.error
            yield each, finding(f"{each.program} by {each.checks or each.cases}")

    def answers(self, references: Iterable[Reference]) -> Iterator[Answered]:
        for each in list(references):
            if self.error is not None:
                raise self.error
            yield told(each.stdin)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_DRY_S", "_GATHERED_S"):
        monkeypatch.setattr(post, name, 0.02)


def settled(one: Post, items: Iterable[Item]) -> list[tuple[Item, Result]]:
    """All results of a post, by way of a ledger."""
    ledger, here, found = Ledger(items), member(), []
    while not ledger.is_over:
        reported = one.exchange(ledger.batch(here))
        assert not reported.refusal
        assert not reported.input_error
        found += [(item, result) for _, item, result in ledger.settle(here, reported)]
    return found


@pytest.mark.usefixtures("quick")
def test_a_post_finds_out_what_its_machine_does() -> None:
    here = FakeHere()
    jobs = [job(number, Checks(f"pass # {number % 3}")) for number in range(50)]
    found = dict(settled(Post(here), jobs))
    assert found == {each: finding(f"{each.program} by {each.checks}") for each in jobs}


@pytest.mark.usefixtures("quick")
def test_a_post_keeps_kinds_of_items_apart() -> None:
    cases = (StdinCase(stdin="1", stdout="2"),)
    items: list[Item] = []
    for number in range(4):
        by_cases = job(number, None)._replace(cases=cases)
        items += [job(number), by_cases, by_cases, Reference(str(number), "", b"%d" % number)]
    found = settled(Post(FakeHere()), items)
    assert [item for item, _ in found] == items
    assert [result for item, result in found if isinstance(item, Reference)] == [
        told(b"0"),
        told(b"1"),
        told(b"2"),
        told(b"3"),
    ]


@pytest.mark.usefixtures("quick")
def test_a_post_ends_the_stream_when_it_runs_dry() -> None:
    here = FakeHere()
    one = Post(here)
    settled(one, map(job, range(5)))
    time.sleep(0.2)
    settled(one, map(job, range(7)))
    assert len(here.streams) > 1  # on a busy machine there may be more than two
    assert sum(here.streams) == 12


@pytest.mark.usefixtures("quick")
def test_a_post_tries_wall_clock_time_outs_again_alone(pool: type[FakePool]) -> None:
    slow = job(0)._replace(program="# slow")
    ((_, found),) = settled(Post(Here(LIMITS, 2)), [slow])
    assert isinstance(found, Finding)
    assert found.verdict == "passed"
    assert pool.examined == ["# slow", "# slow"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("error", "reported"),
    [
        (SandboxUnavailable("no namespaces", "allow them"), {"refusal": "sandbox: no names"}),
        (OSError("disk full"), {"refusal": "disk full"}),
        (InputError("its reference solution fails"), {"input_error": "its reference sol"}),
    ],
)
def test_a_post_reports_what_is_no_bug(error: Exception, reported: dict[str, str]) -> None:
    one = Post(FakeHere(error))
    batch = Ledger([Reference("", "", b"")]).batch(member())
    ((field, text),) = reported.items()
    assert getattr(one.exchange(batch), field).startswith(text)


@pytest.mark.usefixtures("quick")
def test_a_post_raises_what_is_a_bug() -> None:
    one = Post(FakeHere(AssertionError("ours")))
    with pytest.raises(AssertionError, match="ours"):
        one.exchange(Ledger([job(0)]).batch(member()))


def test_a_post_introduces_itself_by_a_trial(pool: type[FakePool]) -> None:
    def introduced(here: Examiner, program: str) -> Introduction:
        return Post(here).introduce(Job(b"", program, LIMITS, Checks("pass")))

    here = Here(LIMITS)
    assert introduced(here, "") == Introduction(fingerprint(), "")
    assert introduced(here, "# failed").refusal == "an empty program: wrong answer (said failed)"

    class Unable(FakeHere):
        def examine(self, jobs: Iterable[Job]) -> Generator[tuple[Job, Finding], None, None]:
            raise SandboxUnavailable("no namespaces", "allow them")

    assert introduced(Unable(), "").refusal == "sandbox: no namespaces; allow them"


def test_importing_it_imports_no_ray() -> None:
    script = "import sys, evals.cluster.over_ray; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_without_ray_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MachineError, match=r"^[^\n]*pip install 'mtp-code\[cluster\]'$"):
        RayNodes("auto")


def test_ray_clients_addresses_are_refused() -> None:
    with pytest.raises(InputError, match="Ray Client is not supported"):
        RayNodes("ray://127.0.0.1:10001")


def toy_benchmark() -> Benchmark:
    return humaneval_benchmark("toy", ROWS)


def write(path: Path, num_samples: int) -> None:
    """Distinct programs, one in three right; some take a while, one hundred CPU ms."""
    faults = ["", "\n    while True: pass", "0 if x else", "(", "\n    exit()"]
    write_samples(
        path,
        [
            Sample(
                task_id=f"Toy/{at % 3}",
                index=at // 3,
                completion=f"    sum(range(10 ** {7 if at % 10 == 0 else 1}))\n"
                f"    return {faults[at % 5] if at % 20 < 5 else ''} x + 1 # {at}",
            )
            for at in range(num_samples)
        ],
    )


def but_measured(verdicts: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in verdicts.read_bytes().splitlines()]
    return [{key: row[key] for key in row if key not in MEASURED} for row in rows]


NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@pytest.fixture(scope="module")
def ray_cluster(needs_sandbox: None) -> Iterator[Any]:
    """A head without CPUs, and two nodes with one; what a test changes it changes back."""
    utils = pytest.importorskip(
        "ray.cluster_utils", reason="Ray is not installed: pip install 'mtp-code[cluster]'"
    )
    cluster = utils.Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
    for _ in range(2):
        cluster.add_node(**NODE)
    yield cluster
    cluster.shutdown()


def test_with_a_node_killed_and_one_joining_verdicts_are_those_of_one_machine(
    ray_cluster: Any, tmp_path: Path
) -> None:
    samples, alone, together = (tmp_path / name for name in ("samples", "alone/v", "together/v"))
    write(samples, 600)
    limits = Limits(cpu_s=0.5)
    judge(samples, toy_benchmark(), alone, limits=limits)
    killed = ray_cluster.list_all_nodes()[-1]
    told: list[tuple[int, int]] = []
    warnings: list[str] = []

    def on_progress(done: int, total: int) -> None:
        told.append((done, total))
        if done == 100 and total > 500:
            ray_cluster.remove_node(killed, allow_graceful=False)
        if done == 200 and total > 500:
            ray_cluster.add_node(**NODE)

    with on_cluster(ray_cluster.address, limits, 2, on_warning=warnings.append) as examiner:
        judge(
            samples,
            toy_benchmark(),
            together,
            limits=limits,
            examiner=examiner,
            on_progress=on_progress,
        )
    assert but_measured(together) == but_measured(alone)
    assert [at for at in told if at[1] == 603] == [(done, 603) for done in range(604)]
    assert len(warnings) == 1
    assert " is lost, " in warnings[0]


def test_cases_and_references_go_over_ray(ray_cluster: Any) -> None:
    cases = (StdinCase(stdin="1\n", stdout="2\n"), StdinCase(stdin="4", stdout="8"))
    programs = ["print(2 * int(input()))", "print(2)", "1 / 0"]
    jobs = [Job(program.encode(), program, LIMITS, None, cases) for program in programs]
    echo = "import sys; sys.stdout.write(sys.stdin.read())"
    asked = [Reference(str(number), echo, b"%d" % number) for number in range(20)]
    wrong = Reference("toy, base", "1 / 0", b"")
    with on_cluster(ray_cluster.address, LIMITS, 2) as examiner:
        found = {each.key.decode(): found for each, found in examiner.examine(jobs)}
        answers = [each.written for each in examiner.answers(asked)]
        assert answers == [b"%d" % number for number in range(20)]
        with pytest.raises(InputError, match=r"^toy, base: its reference solution fails"):
            list(examiner.answers([*asked, wrong]))
    assert [found[each].verdict for each in programs] == ["passed", "wrong answer", "exception"]
    assert found["print(2)"].detail == "case 2: wrote '2', not '8'"


# Stands in for a machine that cannot contain, and for one with another Python.
UNLIKE = """
import os, platform, sys
if any(part.endswith("default_worker.py") for part in sys.orig_argv):
    if os.environ["UNLIKE"] == "system":
        platform.system = lambda: "Plan 9"
    else:
        sys.version = sys.version.replace("(", "(another ", 1)
"""


def test_nodes_that_may_not_judge_are_told_of_and_left_out(
    ray_cluster: Any, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(UNLIKE)
    bad = [
        ray_cluster.add_node(**NODE, env_vars={"UNLIKE": what, "PYTHONPATH": str(tmp_path)})
        for what in ("system", "version")
    ]
    warnings: list[str] = []
    try:
        with on_cluster(ray_cluster.address, LIMITS, 2, on_warning=warnings.append) as examiner:
            # As many as it takes until both have introduced themselves.
            numbers = itertools.takewhile(lambda at: len(warnings) < 2, range(100_000))
            jobs = (Job(b"%d" % at, f"x = {at}", LIMITS, Checks("pass")) for at in numbers)
            found = found_by(examiner.examine(jobs))
            assert 0 < len(found) < 100_000
    finally:
        for node in bad:
            ray_cluster.remove_node(node)
    reasons = sorted(line.partition(" gets no work: ")[2] for line in warnings)
    assert len(reasons) == 2
    assert reasons[0].startswith("its Python is ")
    assert "(another " in reasons[0]
    assert reasons[1].startswith("sandbox: Plan 9 has no namespaces; run this in a ")


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command line of each that is not over yet, by id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if state != "Z":
            found[int(folder.name)] = int(parent), command
    return found


def work_of_posts() -> set[int]:
    """Processes of the actors, and all that they started."""
    found = processes()
    below = {pid for pid, (_, command) in found.items() if command.startswith("ray::Post")}
    while True:
        more = {pid for pid, (parent, _) in found.items() if parent in below} - below
        if not more:
            return below
        below |= more


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_is_killed_leaves_nothing_running_and_its_run_goes_on(
    ray_cluster: Any, tmp_path: Path, number: signal.Signals
) -> None:
    tasks, samples, verdicts = (tmp_path / name for name in ("tasks", "samples", "verdicts"))
    tasks.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    write(samples, 600)
    command = [sys.executable, "-m", "mtp_code.cli", "judge", str(samples)]
    command += ["--benchmark", str(tasks), "--out", str(verdicts), "--no-cache", "--workers", "2"]
    child = subprocess.Popen([*command, "--cluster", ray_cluster.address], text=True)
    partial = verdicts.with_name("verdicts.partial")
    until(lambda: partial.exists() and num_kept(partial) >= 50)
    left = work_of_posts()
    assert len(left) > 4
    child.send_signal(number)
    child.wait(30)
    assert not verdicts.exists()
    kept = num_kept(partial)
    assert 50 <= kept < 600
    until(lambda: not left & processes().keys())
    subprocess.run([*command, f"--cluster={ray_cluster.address}"], check=True)
    judge(samples, toy_benchmark(), tmp_path / "alone")
    assert but_measured(verdicts) == but_measured(tmp_path / "alone")


def num_kept(partial: Path) -> int:
    with closing(sqlite3.connect(partial)) as database, suppress(sqlite3.OperationalError):
        (count,) = database.execute("SELECT count(*) FROM findings").fetchone()
        return int(count)
    return 0  # its table is still to be made


def until(is_so: Callable[[], object]) -> None:
    give_up_s = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < give_up_s
        time.sleep(0.05)
