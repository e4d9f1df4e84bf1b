"""Drawing samples from whatever can continue a prompt, resumably.

Who draws is a callable that the command line hands over; models are unknown here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import Field, NonNegativeFloat, PositiveInt

from evals.benchmarks.formats import Benchmark
from evals.errors import InputError
from evals.files import Journal, Progress, json_line, write_whole
from evals.prompts import FORMATS, Chat, prompts_read, prompts_sha256, sample_of
from evals.records import (
    SAMPLING_FILE,
    Sampling,
    Strict,
    differences,
    read_record,
    write_record,
)
from evals.text import one_line, quoted

# How a sample's seed follows from the run's: `sample_seed`.
SEED_RULE: Final = "sha256 of seed, task id and index"


class Settings(Strict):
    """How to draw. At temperature 0 every sample of a task is the same.

    `model` and `versions` are kept with the samples: whatever tells this model from others.
    """

    num_samples: PositiveInt
    temperature: NonNegativeFloat
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: PositiveInt
    seed: int
    model: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class Request:
    """One text to draw. What comes from the first of `stops` on will be cut, if not left out.

    `is_chat` says that special tokens are spelled out in the prompt, as a chat's template has them.
    """

    task_id: str
    index: int
    prompt: str
    stops: tuple[str, ...]
    seed: int
    is_chat: bool = False


Sampler = Callable[[Iterable[Request]], Iterator[tuple[Request, str]]]


def draw_samples(
    benchmark: Benchmark,
    sampler: Sampler,
    settings: Settings,
    path: Path,
    on_progress: Progress = lambda done, total: None,
    chat: Chat | None = None,
) -> None:
    """Write `num_samples` samples a task to `path`, and how they were drawn to sampling.json.

    Questions are put in the benchmark's prompt format, and answers go through its post-processing;
    what the model wrote is kept beside the result. `chat` is the model's own way to be talked to.

    The sampler may answer in any order. Each answer is kept at once in `path` + ".partial", so
    a run that was killed goes on where it stopped; the finished file is in the benchmark's order
    and does not depend on where that was.

    Raises:
        InputError: the folder holds samples that were drawn otherwise; or the prompt format is one
            for chats, which the model has no template for.
        ValueError: the sampler answered a request twice or not at all, or one never made.
    """
    prompts = prompts_read(benchmark, chat)
    _hold_to_same_settings(benchmark, prompts_sha256(benchmark, prompts), settings, path)
    tasks = {task.task_id: task for task in benchmark.tasks}
    requests = {
        (task.task_id, index): Request(
            task.task_id,
            index,
            prompts[task.task_id],
            task.stops,
            sample_seed(settings.seed, task.task_id, index),
            FORMATS[benchmark.prompt_format].is_chat,
        )
        for task in benchmark.tasks
        for index in range(settings.num_samples)
    }
    if path.exists():
        on_progress(len(requests), len(requests))
        return

    partial = path.with_name(path.name + ".partial")
    with Journal(partial, lambda row: (row["task_id"], row["index"])) as journal:
        on_progress(len(journal), len(requests))
        missing = [request for key, request in requests.items() if key not in journal]
        for request, text in sampler(missing) if missing else ():
            key = request.task_id, request.index
            if requests.get(key) != request or key in journal:
                raise ValueError(f"the sampler answered {key}, which was not to be asked (again)")
            sample = sample_of(
                tasks[request.task_id],
                request.index,
                text,
                benchmark.prompt_format,
                benchmark.post_processing,
            )
            journal.append(sample.model_dump(exclude_none=True))
            on_progress(len(journal), len(requests))
        if left_out := len(requests) - len(journal):
            raise ValueError(f"the sampler left {left_out} of {len(requests)} requests unanswered")
        with write_whole(path) as file:
            for key in requests:
                file.write(json_line(journal[key]))
        journal.remove()


def sample_seed(seed: int, task_id: str, index: int) -> int:
    """A seed of 63 bits for one sample: no batch, order or other task has a part in it."""
    digest = hashlib.sha256(f"{seed}\n{task_id}\n{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _hold_to_same_settings(
    benchmark: Benchmark, read_sha256: str, settings: Settings, path: Path
) -> None:
    """Record the settings, or see that those on record are the same."""
    wanted = Sampling(
        benchmark=benchmark.name,
        data_sha256=benchmark.data_sha256,
        prompt_format=benchmark.prompt_format,
        prompts_sha256=read_sha256,
        post_processing=benchmark.post_processing,
        seed_rule=SEED_RULE,
        **settings.model_dump(),
    )
    record = path.with_name(SAMPLING_FILE)
    if not record.exists():
        if path.exists():
            raise InputError(
                f"{path}: has no {SAMPLING_FILE} beside it, so nobody knows how it was drawn; "
                "choose another folder or delete it"
            )
        write_record(record, wanted)
        return
    for field, before, now in differences(
        read_record(Sampling, record).as_json(), wanted.as_json()
    ):
        raise InputError(
            f"{record}: the samples here are drawn with {one_line(field)} {quoted(before)}, "
            f"not {quoted(now)}; "
            "choose another folder or delete this one"
        )
