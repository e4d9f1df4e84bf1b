import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evals.benchmarks.formats import Benchmark
from evals.errors import InputError
from evals.prompts import prompts_sha256, with_format
from evals.records import Sampling, read_record, read_samples
from evals.sampling import Request, Settings, draw_samples, sample_seed

SETTINGS = Settings(
    num_samples=4,
    temperature=0.8,
    top_p=0.95,
    max_new_tokens=64,
    seed=1,
    model={"name": "toy", "step": 10},
    versions={"torch": "2"},
)


def by_seed(requests: Iterable[Request]) -> Iterator[tuple[Request, str]]:
    for request in requests:
        yield request, f"    return {request.seed}\nclass A: pass"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "eval" / "samples.jsonl"


def test_each_task_gets_its_samples_cut_at_stops_with_the_raw_text_kept(
    toy: Benchmark, path: Path
) -> None:
    draw_samples(toy, by_seed, SETTINGS, path)
    samples = list(read_samples(path, [task.task_id for task in toy.tasks], pytest.fail))
    assert [(sample.task_id, sample.index) for sample in samples] == [
        (task.task_id, index) for task in toy.tasks for index in range(4)
    ]
    seed = sample_seed(1, "Toy/2", 3)
    assert samples[-1].completion == f"    return {seed}"
    assert samples[-1].raw == f"    return {seed}\nclass A: pass"


def test_answers_go_through_the_benchmarks_post_processing_with_the_raw_text_kept(
    toy: Benchmark, path: Path
) -> None:
    """Stripped, the prompt is not what others continue: so the whole program is the sample."""
    stripped = with_format(toy, "humaneval stripped", "longest parseable span")

    def answer(requests: Iterable[Request]) -> Iterator[tuple[Request, str]]:
        for request in requests:
            assert request.prompt.endswith('"""')
            assert request.stops == stripped.stops
            yield request, "\n    return x\n\ny = 1\n"

    draw_samples(stripped, answer, SETTINGS, path)
    sample = next(iter(read_samples(path, [task.task_id for task in toy.tasks], pytest.fail)))
    assert sample.raw == "\n    return x\n\ny = 1\n"
    assert sample.solution == 'def add0(x):\n    """Add 0."""\n    return x'
    sampling = read_record(Sampling, path.with_name("sampling.json"))
    assert sampling.prompt_format == "humaneval stripped"
    assert sampling.post_processing == "longest parseable span"


def test_a_chat_goes_through_the_models_own_template(toy: Benchmark, path: Path) -> None:
    asked: list[Request] = []

    def answer(requests: Iterable[Request]) -> Iterator[tuple[Request, str]]:
        for request in requests:
            asked.append(request)
            yield request, f"def add{request.task_id[-1]}(x):\n    return x\n```\nDone."

    def chat(message: str, begins: str) -> str:
        return f"<user>{message}<assistant>{begins}"

    draw_samples(with_format(toy, "chat"), answer, SETTINGS, path, chat=chat)
    assert all(request.is_chat for request in asked)
    assert asked[0].prompt.startswith("<user>Write a complete Python script, ")
    assert asked[0].prompt.endswith("```\n<assistant>```python\n")
    sample = next(iter(read_samples(path, [task.task_id for task in toy.tasks], pytest.fail)))
    assert sample.solution == "def add0(x):\n    return x"


def test_the_hash_of_what_was_read_is_kept_and_another_template_refused(
    toy: Benchmark, path: Path
) -> None:
    asked = with_format(toy, "chat")

    def noted(template: str) -> str | None:
        draw_samples(
            asked, by_seed, SETTINGS, path, chat=lambda said, begins: template + said + begins
        )
        return read_record(Sampling, path.with_name("sampling.json")).prompts_sha256

    read = {task.task_id: f"<user>{task.prompt}```python\n" for task in asked.tasks}
    assert noted("<user>") == prompts_sha256(asked, read)
    with pytest.raises(InputError, match="are drawn with prompts_sha256"):
        noted("[INST]")


def test_a_model_without_a_template_is_not_chatted_with(toy: Benchmark, path: Path) -> None:
    with pytest.raises(InputError, match="chat: this model has no chat template; take humaneval r"):
        draw_samples(with_format(toy, "chat"), by_seed, SETTINGS, path)
    assert not path.parent.exists()


def test_how_samples_were_drawn_is_kept(toy: Benchmark, path: Path) -> None:
    draw_samples(toy, by_seed, SETTINGS, path)
    sampling = read_record(Sampling, path.with_name("sampling.json"))
    assert sampling.data_sha256 == toy.data_sha256
    assert sampling.prompt_format == "humaneval raw"
    assert sampling.model == {"name": "toy", "step": 10}
    assert sampling.seed_rule == "sha256 of seed, task id and index"
    digest = hashlib.sha256(b"7\nToy/0\n3").digest()
    assert sample_seed(7, "Toy/0", 3) == int.from_bytes(digest[:8], "big") >> 1


def test_seeds_are_stable_and_of_63_bits() -> None:
    seeds = {
        sample_seed(seed, task_id, index)
        for seed in range(10)
        for task_id in ("Toy/1", "Toy/11")
        for index in range(100)
    }
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sample_seed(0, "HumanEval/0", 0) == SEED_OF_RECORD


# Changing this changes every sample that anyone has drawn with a seed.
SEED_OF_RECORD = 2609889549119015675


class KilledError(Exception):
    pass


@pytest.mark.parametrize("num_before", [0, 1, 5, 11])
def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_file(
    toy: Benchmark, path: Path, tmp_path: Path, num_before: int
) -> None:
    whole = tmp_path / "whole" / "samples.jsonl"
    draw_samples(toy, by_seed, SETTINGS, whole)
    asked: list[Request] = []

    def stopped(requests: Iterable[Request]) -> Iterator[tuple[Request, str]]:
        shuffled = list(requests)
        random.Random(num_before).shuffle(shuffled)
        for done, answer in enumerate(by_seed(shuffled)):
            if done == num_before:
                raise KilledError
            yield answer

    def noting(requests: Iterable[Request]) -> Iterator[tuple[Request, str]]:
        asked.extend(requests)
        return by_seed(asked)

    with pytest.raises(KilledError):
        draw_samples(toy, stopped, SETTINGS, path)
    assert not path.exists()
    partial = path.with_name("samples.jsonl.partial")
    partial.write_bytes(partial.read_bytes() + b'{"task_id": "Toy/0", "ind')
    draw_samples(toy, noting, SETTINGS, path)
    assert path.read_bytes() == whole.read_bytes()
    assert len(asked) == 12 - num_before
    assert not partial.exists()


def test_samples_that_are_all_there_are_not_drawn_again(toy: Benchmark, path: Path) -> None:
    def never(requests: Iterable[Request]) -> Iterator[tuple[Request, str]]:
        pytest.fail("asked again")

    draw_samples(toy, by_seed, SETTINGS, path)
    draw_samples(toy, never, SETTINGS, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.2}, "temperature 0.8, not 0.2"),
        ({"num_samples": 5}, "num_samples 4, not 5"),
        ({"model": {"name": "toy", "step": 11}}, "model.step 10, not 11"),
        ({"versions": {}}, "versions.torch '2', not None"),
    ],
)
def test_other_settings_are_refused_by_name_and_nothing_is_lost(
    toy: Benchmark, path: Path, change: dict[str, Any], message: str
) -> None:
    draw_samples(toy, by_seed, SETTINGS, path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=message):
        draw_samples(toy, by_seed, SETTINGS.model_copy(update=change), path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("humaneval stripped", None), "prompt_format 'humaneval raw', not 'humaneval stripped'"),
        ((None, "fenced block"), "post_processing 'cut at stops', not 'fenced block'"),
    ],
)
def test_samples_drawn_with_another_format_are_refused_by_name(
    toy: Benchmark, path: Path, names: tuple[str | None, str | None], message: str
) -> None:
    draw_samples(toy, by_seed, SETTINGS, path)
    with pytest.raises(InputError, match=message):
        draw_samples(with_format(toy, *names), by_seed, SETTINGS, path)


def test_samples_of_unknown_origin_are_left_alone(toy: Benchmark, path: Path) -> None:
    path.parent.mkdir()
    path.write_text("somebody's")
    with pytest.raises(InputError, match=r"has no sampling.json beside it"):
        draw_samples(toy, by_seed, SETTINGS, path)
    assert path.read_text() == "somebody's"


def test_a_sampler_that_leaves_requests_out_is_found_out(toy: Benchmark, path: Path) -> None:
    with pytest.raises(ValueError, match="left 11 of 12 requests unanswered"):
        draw_samples(toy, lambda requests: by_seed(list(requests)[:1]), SETTINGS, path)
    with pytest.raises(ValueError, match="not to be asked"):
        draw_samples(toy, lambda requests: by_seed([*requests] * 2), SETTINGS, path)


def test_progress_counts_what_an_earlier_run_drew(toy: Benchmark, path: Path) -> None:
    told: list[tuple[int, int]] = []
    with pytest.raises(ValueError, match="unanswered"):
        draw_samples(toy, lambda requests: by_seed(list(requests)[:8]), SETTINGS, path)
    draw_samples(toy, by_seed, SETTINGS, path, lambda done, total: told.append((done, total)))
    assert told == [(done, 12) for done in range(8, 13)]


def test_a_line_of_samples_is_human_evals(toy: Benchmark, path: Path) -> None:
    draw_samples(toy, by_seed, SETTINGS, path)
    first = json.loads(path.read_text().splitlines()[0])
    assert {"task_id", "completion"} <= first.keys()
