"""micro: its splits hold apart, its references are right, its checks tell near misses."""

import ast
import builtins
import hashlib
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from evals.benchmarks import micro
from evals.benchmarks.micro.checks import agrees, draw_pool, mutants, neighbours
from evals.benchmarks.micro.programs import FAMILIES, Chance, draw_program, load
from evals.benchmarks.micro.tasks import Made, load_tasks, make_family, make_tasks, quotas

Item = dict[str, str]

SHA256 = {
    "micro": "cfd02a4ceab6d90e87da364dff23f253245f28e597a25ee38dbef3240c2ddfe5",
    "micro-hard": "ee0963dc7139b0a8e5a817b0b63bc4d89994f0b1f4577e9959c029ef8b52db21",
}
# Of the first 1,000 documents.
TRAIN_SHA256 = {
    "micro": "ca4f751ad6a73074008b142261cb2f060b3bb41dedcc3ab8be0b59f072b43573",
    "micro-hard": "d2b23bb91c3cf4df9a286ff13db5038d9b454fac88ad06621f6dfb4ea1455e63",
}

NUM_TRAIN = 1500


@cache
def tasks(size: micro.Size) -> list[Item]:
    return micro.generate("test", size)


@cache
def made_of_some_families(size: micro.Size) -> list[Made]:
    """Made anew, as the files were: the tasks of every fourth family."""
    return [made for each in quotas(size)[::4] for made in make_family(*each)]


@cache
def train(size: micro.Size) -> list[Item]:
    return micro.generate("train", size, count=NUM_TRAIN)


def program(item: Item) -> str:
    return item["prompt"] + item["canonical_solution"]


def defined(source: str, name: str) -> Callable[..., Any]:
    scope: dict[str, Any] = {}
    exec(source, scope)
    function: Callable[..., Any] = scope[name]
    return function


def reference(item: Item) -> Callable[..., Any]:
    return defined(program(item), item["entry_point"])


@cache
def check_of(test: str) -> Callable[..., Any]:
    return defined(test, "check")


def passes(function: Callable[..., Any], task: Item) -> bool:
    try:
        check_of(task["test"])(function)
    except Exception:  # noqa: BLE001 - an assertion that failed, or whatever the program raised
        return False
    return True


@pytest.mark.parametrize("size", micro.SIZES)
def test_the_test_split_is_the_one_that_was_published(size):
    assert hashlib.sha256(micro.to_jsonl(tasks(size))).hexdigest() == SHA256[size]


@pytest.mark.parametrize("size", micro.SIZES)
def test_the_grammar_still_makes_the_tasks_on_file(size):
    on_file = {task.record["prompt"]: task for task in load_tasks(size)}
    for task, _, _ in made_of_some_families(size):
        record, kinds = on_file[task.record["prompt"]]
        assert ({**task.record, "task_id": record["task_id"]}, task.kinds) == (record, kinds)


@pytest.mark.thorough
@pytest.mark.parametrize("size", micro.SIZES)
def test_the_grammar_still_makes_all_tasks_on_file_in_their_order(size):
    made = [*make_tasks(size)]
    assert [task for task, _, _ in made] == [*load_tasks(size)]
    for task, program, inputs in made:
        function = load(program.source)
        assert task.checks() == [(given, function(*given)) for given in inputs]


@pytest.mark.parametrize("size", micro.SIZES)
def test_the_training_stream_is_the_same_everywhere(size):
    assert hashlib.sha256(micro.to_jsonl(train(size)[:1000])).hexdigest() == TRAIN_SHA256[size]


def test_a_longer_training_stream_begins_with_the_shorter():
    assert micro.generate("train", count=50) == train("micro")[:50]
    assert micro.generate("train", count=50, seed=1) != train("micro")[:50]


@pytest.mark.parametrize("size", micro.SIZES)
def test_every_family_has_its_share_of_200_tasks(size):
    counts = Counter(task["family"] for task in tasks(size))
    weights = {family.name: family.weight for family in FAMILIES[size]}
    assert len({task["task_id"] for task in tasks(size)}) == len(tasks(size)) == 200
    assert counts.keys() == weights.keys()
    for name, weight in weights.items():
        assert abs(counts[name] - 200 * weight / sum(weights.values())) <= 1
    assert len({task["category"] for task in tasks(size)}) == 9


@pytest.mark.parametrize("size", micro.SIZES)
def test_records_are_humanevals(size):
    for task in tasks(size):
        assert re.fullmatch(r'def \w+\(.*\):\n    """[A-Z].*\."""\n', task["prompt"])
        assert task["canonical_solution"].startswith("    ")
        assert task["canonical_solution"].endswith("\n")
        assert 10 <= task["test"].count("    assert candidate(") <= 24


@pytest.mark.parametrize("size", micro.SIZES)
def test_every_reference_passes_its_checks(size):
    assert [task["task_id"] for task in tasks(size) if not passes(reference(task), task)] == []


@pytest.mark.parametrize("size", micro.SIZES)
def test_truth_values_are_checked_by_identity(size):
    assert not any(re.search(r"== (True|False)$", task["test"], re.M) for task in tasks(size))


@pytest.mark.parametrize("size", micro.SIZES)
def test_checks_kill_every_near_miss_that_fresh_inputs_tell_apart(size):
    survivors = []
    for task, made, chosen in made_of_some_families(size):
        right = load(made.source)
        fresh = [(inputs, right(*inputs)) for inputs in draw_pool(made, "fresh", 100)]
        checks = [(inputs, right(*inputs)) for inputs in chosen]
        for rivals in (neighbours(made), mutants(made.source)):
            for number, rival in enumerate(rivals):
                if all(agrees(rival, *check) for check in checks) and not all(
                    agrees(rival, *check) for check in fresh
                ):
                    survivors.append((program(task.record), number))
    assert survivors == []


def test_no_task_has_the_form_of_a_training_document_or_of_another_task():
    forms = Counter(micro.canonical_form(program(t)) for size in micro.SIZES for t in tasks(size))
    assert len(forms) == 400
    for size in micro.SIZES:
        assert forms.keys().isdisjoint(map(micro.canonical_form, map(program, train(size)[::2])))


def test_no_training_document_passes_the_checks_of_a_task():
    every_task = [task for size in micro.SIZES for task in tasks(size)]
    solved = [
        (item["prompt"], task["task_id"])
        for size in micro.SIZES
        for item in train(size)[::10]
        for function in [reference(item)]
        for task in every_task
        if passes(function, task)
    ]
    assert solved == []


def test_a_combination_is_held_out_whatever_its_constants():
    made = [made.program for size in micro.SIZES for made in made_of_some_families(size)]
    assert all(program.is_held_out for program in made)
    for one in made:
        assert all(near.is_held_out for near in one.neighbours() if near.parts == one.parts)


@pytest.mark.parametrize("size", micro.SIZES)
def test_training_shows_every_part_and_most_pairs_of_the_tasks(size):
    pairs: Counter[bool] = Counter()
    tested = [made.program for made in made_of_some_families(size)]
    for family, _ in quotas(size)[::4]:
        chance = Chance(f"drawn {family.name}")
        drawn = [draw_program(family, chance) for _ in range(1500)]
        shown = Counter(
            (slot, other, part.key, made.parts[other].key)
            for made in drawn
            if not made.is_held_out
            for slot, part in enumerate(made.parts)
            for other in range(len(made.parts))
        )
        for made in tested:
            if made.family == family:
                for slot, part in enumerate(made.parts):
                    assert shown[slot, slot, part.key, part.key] >= 10
                    for other in range(slot):
                        pairs[shown[slot, other, part.key, made.parts[other].key] > 0] += 1
    assert pairs[True] >= 0.9 * pairs.total()


@pytest.mark.parametrize("size", micro.SIZES)
def test_training_shows_every_word_of_the_tasks(size):
    def words(item: Item) -> list[str]:
        return re.findall(r"[a-z]+|\S", program(item).split("(", 1)[1])  # all but the name

    shown = Counter(word for item in train(size) for word in words(item))
    tested = {word for task in tasks(size) for word in words(task)}
    assert {word for word in tested if shown[word] < NUM_TRAIN // 1000} == set()


def test_names_of_a_document_never_collide():
    for item in train("micro-hard")[::8]:
        function = ast.parse(program(item)).body[0]
        assert isinstance(function, ast.FunctionDef)
        args = {arg.arg for arg in function.args.args}
        bound = {
            node.id
            for loop in ast.walk(function)
            if isinstance(loop, ast.For | ast.comprehension)
            for node in ast.walk(loop.target)
            if isinstance(node, ast.Name)
        }
        names = [function.name, *args, *bound]
        assert len(args) == len(function.args.args)
        assert len(set(names)) == len(names)
        assert not set(names) & set(dir(builtins))


def test_documents_are_short_and_all_different():
    for size, mean_length in (("micro", 200), ("micro-hard", 290)):
        texts = [program(item) for item in train(size)]
        assert len(set(texts)) == len(texts)
        assert sum(map(len, texts)) / len(texts) < mean_length


def test_the_canonical_form_forgets_names_phrasing_and_layout_only():
    form = micro.canonical_form('def f(xs, k):\n    """Doc."""\n    return [x + k for x in xs]\n')
    same = "def add(values,  m):\n    return [(v + m)\n            for v in values]\n"
    assert micro.canonical_form(same) == form
    for other in (
        "def f(xs, k):\n    return [x - k for x in xs]\n",
        "def f(xs, k):\n    return [k + x for x in xs]\n",
        "def f(xs, k):\n    return [x + 1 for x in xs]\n",
        "def f(k, xs):\n    return [x + k for x in xs]\n",
    ):
        assert micro.canonical_form(other) != form


def test_the_canonical_form_keeps_builtins_and_renames_the_function_inside():
    one = micro.canonical_form("def f(n):\n    return f(max(n, 1))\n")
    assert one == micro.canonical_form("def g(k):\n    return g(max(k, 1))\n")
    assert one != micro.canonical_form("def f(n):\n    return f(min(n, 1))\n")


def test_unknown_splits_and_sizes_are_refused():
    with pytest.raises(ValueError, match="size must be one of micro, micro-hard"):
        micro.generate("test", "huge")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="split must be train or test"):
        micro.generate("dev")  # type: ignore[arg-type]
