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
    decode: Callable[[Iterable[Request]], Iterable[Completion]]
    max_drafts: int = 0
    completions: list[Completion] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)


def measure(
    model: MTPModel,
    tokenizer: Tokenizer,
    requests: Sequence[Request],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    peers: Mapping[str, Callable[[Iterable[Request]], Iterable[Completion]]] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """A row for plain decoding, for each number of drafts and for `auto`: time, acceptance,
    identity.

    Greedy, a request at a time, prompts included in the time. The prompts are dealt into rounds;
    within a round all modes decode the same prompts one after another, in turn first, so that a
    machine whose speed drifts slows them alike. A row's `speed_up` is the median over rounds of
    plain's wall time ÷ its own, `speed_up_low` and `speed_up_high` the lowest and highest round.
    `acceptance_by_offset` ends where all answers were too short for a draft.

    Args:
        peers: other ways to decode the same requests with the same weights, by name.
    """
    choices: list[NumDrafts] = [*range(model.num_mtp_heads)]
    if model.num_mtp_heads > 1:
        choices.append("auto")
    modes = []
    for choice in choices:
        # One for all rounds: what `auto` learns of the model and the machine stays.
        engine = Engine(model, tokenizer, num_rows=1, num_drafts=choice)
        name = {0: "plain", "auto": "auto"}.get(choice, "speculative")
        modes.append(Mode(name, engine.complete, engine.max_drafts))
    modes += [Mode(name, decode) for name, decode in peers.items()]
    num_rounds = min(NUM_ROUNDS, len(requests))
    for mode in modes:
        list(mode.decode(requests[:1]))  # the first call of all is slow
    for number in range(num_rounds):
        part = requests[number::num_rounds]
        for mode in modes[number % len(modes) :] + modes[: number % len(modes)]:
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            mode.completions += mode.decode(part)
            mode.wall_s.append(time.perf_counter() - wall_s)
            mode.cpu_s.append(time.process_time() - cpu_s)
        on_progress(number + 1, num_rounds)
    return [_row(mode, plain=modes[0]) for mode in modes]


def _row(mode: Mode, plain: Mode) -> dict[str, Any]:
    num_tokens = sum(completion.num_committed for completion in mode.completions)
    num_forwards = sum(completion.num_forwards for completion in mode.completions)
    ratios = [theirs / ours for theirs, ours in zip(plain.wall_s, mode.wall_s, strict=True)]
    # Both lists hold the requests in the same order: a request at a time, a round at a time.
    num_identical = sum(
        ours.tokens == theirs.tokens
        for ours, theirs in zip(mode.completions, plain.completions, strict=True)
    )
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
        "tokens_per_s": num_tokens / sum(mode.wall_s),
        "speed_up": statistics.median(ratios),
        "speed_up_low": min(ratios),
        "speed_up_high": max(ratios),
        "acceptance_by_offset": [
            stood / made for stood, made in zip(accepted, drafted, strict=True) if made
        ],
        "identical_outputs": num_identical,
    }
