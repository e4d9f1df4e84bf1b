"""What drafting with our heads gains in vLLM: two engines of one process, asked in turn.

The engines are asked the same in alternating order, so that what else the machine does falls on
both; the speed-up is the median over rounds of the ratio of processor time.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mtp_code.interop.vllm import require_vllm, speculative_config


def measure(
    exported: Path,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batches: Sequence[int],
    num_rounds: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """A row for each batch: tokens a CPU second plain and drafted, their ratio, acceptance.

    Args:
        exported: a folder with `main/` and `heads/`.
        prompts: asked `batch` at a time; as many as the largest batch.

    Raises:
        MachineError: no vLLM is installed, or one that was not tested.
        InputError: the folder holds no heads.
    """
    require_vllm()
    draft_config = speculative_config(exported / "heads")
    # In this process, whose processor time is what is measured.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    plain = _engine(exported, None, max(batches))
    drafting = _engine(exported, draft_config, max(batches))
    rows = []
    for done, batch in enumerate(batches):
        on_progress(done, len(batches))
        asked = prompts[:batch]
        _answer(plain, asked, max_new_tokens)  # warms up
        _answer(drafting, asked, max_new_tokens)
        before = _drafts(drafting)
        ratios, seconds, identical = [], ([], []), 0  # type: ignore[var-annotated]
        for number in range(num_rounds):
            answers: list[list[list[int]]] = [[], []]
            taken = [0.0, 0.0]
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                engine = (plain, drafting)[which]
                answers[which], taken[which] = _answer(engine, asked, max_new_tokens)
                seconds[which].append(taken[which])
            ratios.append(taken[0] / taken[1])
            identical += sum(a == b for a, b in zip(*answers, strict=True))
        drafts, accepted = _difference(_drafts(drafting), before)
        num_tokens = batch * max_new_tokens
        rows.append(
            {
                "batch": batch,
                "rounds": num_rounds,
                "plain_tokens_per_cpu_s": num_tokens / statistics.median(seconds[0]),
                "drafting_tokens_per_cpu_s": num_tokens / statistics.median(seconds[1]),
                "speed_up": statistics.median(ratios),
                "speed_up_low": min(ratios),
                "speed_up_high": max(ratios),
                "identical_outputs": identical,
                "outputs": batch * num_rounds,
                "acceptance_by_offset": [count / drafts for count in accepted],
                "tokens_per_draft": 1 + sum(accepted) / drafts,
            }
        )
    return rows


def lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line for each row."""
    for row in rows:
        offsets = " ".join(f"{rate:.2f}" for rate in row["acceptance_by_offset"])
        yield (
            f"batch {row['batch']:>2} | {row['plain_tokens_per_cpu_s']:6.0f} → "
            f"{row['drafting_tokens_per_cpu_s']:6.0f} tokens a CPU second | {row['speed_up']:.2f}× "
            f"({row['speed_up_low']:.2f}–{row['speed_up_high']:.2f}) | "
            f"{row['identical_outputs']}/{row['outputs']} identical | accepted by offset {offsets}"
        )


def _engine(exported: Path, draft_config: dict[str, Any] | None, max_num_seqs: int) -> Any:
    from vllm import LLM

    return LLM(
        model=str(exported / "main"),
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=max_num_seqs,
        enable_prefix_caching=False,  # the same prompts come again
        seed=0,
        disable_log_stats=draft_config is None,
        speculative_config=draft_config,
    )


def _answer(
    engine: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> tuple[list[list[int]], float]:
    """Greedy answers of exactly so many tokens, and the processor's time."""
    from vllm import SamplingParams

    settings = SamplingParams(temperature=0, max_tokens=max_new_tokens, ignore_eos=True)
    asked: Any = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
    start = time.process_time()
    outputs = engine.generate(asked, settings, use_tqdm=False)
    taken = time.process_time() - start
    return [list(output.outputs[0].token_ids) for output in outputs], taken


def _drafts(engine: Any) -> tuple[int, list[int]]:
    """Drafts so far, and accepted tokens by their place in a draft."""
    by_name = {metric.name: metric for metric in engine.get_metrics()}
    return (
        by_name["vllm:spec_decode_num_drafts"].value,
        list(by_name["vllm:spec_decode_num_accepted_tokens_per_pos"].values),
    )


def _difference(
    after: tuple[int, list[int]], before: tuple[int, list[int]]
) -> tuple[int, list[int]]:
    accepted = [now - then for now, then in zip(after[1], before[1], strict=True)]
    return after[0] - before[0], accepted
