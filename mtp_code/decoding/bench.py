"""Speculative against plain decoding of the same prompts by the same engine, in one run."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mtp_code.decoding.engine import Engine, NumDrafts
from mtp_code.decoding.requests import Completion, Request
from mtp_code.model.mtp import MTPModel
from mtp_code.tokenizer import Tokenizer

NUM_ROUNDS = 9
"""Parts that the prompts are split into; each is a paired measurement of all modes."""


@dataclass
class Mode:
    """One way to decode, and what it took in each round."""

    name: str
    decode: Callable[[Sequence[Request]], Iterable[Completion]]
    max_drafts: int = 0
    prefill_s: float | None = None
    """Of its decoding, reading prompts with trunk and head 1; None where nobody can tell."""
    completions: list[Completion] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)


def measure(
    model: MTPModel,
    tokenizer: Tokenizer,
    requests: Sequence[Request],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    peers: Mapping[str, Callable[[Iterable[Request]], Iterable[Completion]]] = MappingProxyType({}),
    num_rows: int = 1,
) -> list[dict[str, Any]]:
    """A row for plain decoding, each number of drafts, `auto` and `tree`: time, acceptance,
    identity.

    Greedy, prompts included in the time. The prompts are dealt into rounds;
    within a round all modes decode the same prompts one after another, in turn first, so that a
    machine whose speed drifts slows them alike. A row's `speed_up` is the median over rounds of
    plain's wall time ÷ its own, `speed_up_low` and `speed_up_high` the lowest and highest round;
    `cpu_speed_up` and so on the same of CPU time, which other programs disturb less.
    `speed_up_of_tokens` is the speed-up ÷ tokens per forward: what is left of what drafts promise.
    `acceptance_by_offset` ends where all answers were too short for a draft.

    Args:
        peers: other ways to decode the same requests with the same weights, by name; they answer
            one at a time.
        num_rows: requests that are answered side by side.
    """
    choices: list[NumDrafts] = [*range(model.num_mtp_heads)]
    if model.num_mtp_heads > 1:
        choices.append("auto")
        if not model.mtp_heads.reads_tokens:
            choices.append("tree")
    # One engine for all rounds: what `auto` learns of the model and the machine stays.
    modes = [_mode(Engine(model, tokenizer, num_rows, choice), choice) for choice in choices]
    modes += [Mode(name, decode) for name, decode in peers.items()]
    num_rounds = min(NUM_ROUNDS, len(requests))
    for mode in modes:
        list(mode.decode(requests[:1]))  # the first call of all is slow
        if mode.prefill_s is not None:
            mode.prefill_s = 0.0
    for number in range(num_rounds):
        part = requests[number::num_rounds]
        for mode in modes[number % len(modes) :] + modes[: number % len(modes)]:
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            mode.completions += mode.decode(part)
            mode.wall_s.append(time.perf_counter() - wall_s)
            mode.cpu_s.append(time.process_time() - cpu_s)
        on_progress(number + 1, num_rounds)
    return [_row(mode, plain=modes[0]) for mode in modes]


def _mode(engine: Engine, choice: NumDrafts) -> Mode:
    name = choice if isinstance(choice, str) else "speculative" if choice else "plain"
    mode = Mode(name, lambda _: (), engine.max_drafts, prefill_s=0.0)

    def decode(requests: Sequence[Request]) -> list[Completion]:
        generated = engine.generate(requests)
        assert mode.prefill_s is not None
        mode.prefill_s += generated.stats.prefill_s
        return generated.completions

    mode.decode = decode
    return mode


def _row(mode: Mode, plain: Mode) -> dict[str, Any]:
    num_tokens = sum(completion.num_committed for completion in mode.completions)
    num_forwards = sum(completion.num_forwards for completion in mode.completions)
    # Both lists hold the requests in the same order, a round at a time.
    num_identical = sum(
        ours.tokens == theirs.tokens
        for ours, theirs in zip(mode.completions, plain.completions, strict=True)
    )
    speed_up = _speed_up("speed_up", plain.wall_s, mode.wall_s)
    drafts = range(mode.max_drafts)
    drafted = [sum(completion.drafted[i] for completion in mode.completions) for i in drafts]
    accepted = [sum(completion.accepted[i] for completion in mode.completions) for i in drafts]
    return {
        "mode": mode.name,
        "drafts": len(drafts),
        "tokens": num_tokens,
        "forwards": num_forwards,
        "tokens_per_forward": num_tokens / num_forwards,
        "cpu_s": sum(mode.cpu_s),
        "wall_s": sum(mode.wall_s),
        "prefill_s": mode.prefill_s,
        "tokens_per_s": num_tokens / sum(mode.wall_s),
        **speed_up,
        **_speed_up("cpu_speed_up", plain.cpu_s, mode.cpu_s),
        "speed_up_of_tokens": speed_up["speed_up"] * num_forwards / num_tokens,
        "acceptance_by_offset": [
            stood / made for stood, made in zip(accepted, drafted, strict=True) if made
        ],
        "identical_outputs": num_identical,
    }


def _speed_up(name: str, plain_s: Sequence[float], own_s: Sequence[float]) -> dict[str, float]:
    ratios = [theirs / ours for theirs, ours in zip(plain_s, own_s, strict=True)]
    return {
        name: statistics.median(ratios),
        f"{name}_low": min(ratios),
        f"{name}_high": max(ratios),
    }
