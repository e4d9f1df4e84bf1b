"""Speculative against plain decoding of the same prompts by the same engine, in one run."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from mtp_code.decoding.bandwidth import least_s
from mtp_code.decoding.engine import Engine, NumDrafts
from mtp_code.decoding.parts import PartClock
from mtp_code.decoding.requests import Completion, Request
from mtp_code.model.mtp import MTPModel
from mtp_code.tokenizer import Tokenizer

NUM_ROUNDS: Final = 9
"""Parts that the prompts are split into; each is a paired measurement of all modes."""
_NUM_TIMED: Final = 3
"""Of these parts, those that are decoded once more with a clock for each part of a step."""

Decode = Callable[[Sequence[Request]], Iterable[Completion]]


@dataclass
class Mode:
    """One way to decode, and what it took in each round.

    Attributes:
        engine: ours, if it is one of ours.
        prefill_s: of its decoding, reading prompts with trunk and head 1.
        decode_s, num_rounds: the rounds of the batch.
    """

    name: str
    decode: Decode
    drafts: NumDrafts = 0
    engine: Engine | None = None
    completions: list[tuple[int, Completion]] = field(default_factory=list)
    """With the number of the request that each answers."""
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    prefill_s: float = 0.0
    decode_s: float = 0.0
    num_rounds: int = 0
    clock: PartClock | None = None


def measure(
    model: MTPModel,
    tokenizer: Tokenizer,
    requests: Sequence[Request],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    peers: Mapping[str, Decode] = MappingProxyType({}),
    num_rows: int = 1,
    copy_bytes_per_s: float | None = None,
    on_rows: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
) -> list[dict[str, Any]]:
    """A row for plain decoding, each number of drafts, `auto` and `tree`: time, acceptance,
    identity.

    Greedy, prompts included in the time, but not what a GPU's rounds take to be recorded, once for
    each shape. The prompts are dealt into rounds, within which all modes decode the same prompts in
    turns (`turns_of`), each as often first, so that a machine whose speed drifts slows them alike.
    A row's `speed_up` is the median over rounds of plain's wall time ÷ its own, `speed_up_low` and
    `speed_up_high` the lowest and highest round;
    `cpu_speed_up` and so on the same of CPU time, which other programs disturb less.
    `speed_up_of_tokens` is the speed-up ÷ tokens per forward: what is left of what drafts promise.
    `acceptance_by_offset` ends where all answers were too short for a draft.

    Of our engine with a fixed number of drafts, `round_s` is what a round of the batch took, and
    `parts_s` what each part of one takes, by a clock of its own and in rounds of their own, so that
    the clock slows nothing else. `share_of_bandwidth` is what reading a round's weights, keys and
    values at copy bandwidth would take ÷ `round_s`.

    Args:
        peers: other ways to decode the same requests with the same weights, by name; they answer
            one at a time.
        num_rows: requests that are answered side by side. Each round has as many at least: where
            there are too few for that, requests are asked in several rounds.
        copy_bytes_per_s: of the machine; None leaves `share_of_bandwidth` out.
        on_rows: sees the rows once all but `parts_s` is there, which on a GPU takes long.

    Raises:
        MachineError: memory does not suffice for so many rows; it says how many fit.
    """
    modes = _modes(model, tokenizer, num_rows)
    modes += [Mode(name, decode) for name, decode in peers.items()]
    rounds = deal(len(requests), NUM_ROUNDS, num_rows)
    num_timed = min(_NUM_TIMED, len(rounds))
    is_cuda = model.unembedding.weight.is_cuda
    for mode in modes:
        # The first call of all is slow; on a GPU so is the first of each shape.
        warming_up = rounds[0] if is_cuda and mode.engine is not None else rounds[0][:1]
        list(mode.decode([requests[place] for place in warming_up]))
    num_turns = 0
    for number, places in enumerate(rounds):
        for mode in modes:
            mode.wall_s.append(0.0)
            mode.cpu_s.append(0.0)
        for turn in turns_of(places, num_rows):
            for mode in _in_turn(modes, num_turns):
                _decode(mode, requests, turn)
            num_turns += 1
        on_progress(number + 1, len(rounds) + num_timed)

    def rows() -> list[dict[str, Any]]:
        return [_row(mode, modes[0], model, num_rows, copy_bytes_per_s) for mode in modes]

    on_rows(rows())
    for number, places in enumerate(rounds[:num_timed]):
        for mode in _in_turn(modes, number):
            if mode.clock is not None:
                _time_parts(model, mode.clock, tokenizer, mode, [requests[i] for i in places])
        on_progress(len(rounds) + number + 1, len(rounds) + num_timed)
    return rows()


def deal(count: int, num_rounds: int, at_least: int) -> list[list[int]]:
    """Numbers of requests by round: each in one, and the next ones too where these are too few."""
    num_rounds = min(num_rounds, count)
    # Neighbours go to different rounds: they may be alike.
    order = [place for first in range(num_rounds) for place in range(first, count, num_rounds)]
    own = [len(range(first, count, num_rounds)) for first in range(num_rounds)]
    begins = [sum(own[:number]) for number in range(num_rounds)]
    return [
        [order[(begin + step) % count] for step in range(max(size, at_least))]
        for begin, size in zip(begins, own, strict=True)
    ]


def turns_of(places: Sequence[int], num_rows: int) -> list[Sequence[int]]:
    """What of a round one mode decodes before the next does: a prompt where they are answered one
    by one, since the speed of a shared machine changes within seconds; else all, whose rows fill
    up as others are done."""
    return [[place] for place in places] if num_rows == 1 else [places]


def _modes(model: MTPModel, tokenizer: Tokenizer, num_rows: int) -> list[Mode]:
    choices: list[NumDrafts] = [*range(model.num_mtp_heads)]
    if model.num_mtp_heads > 1:
        choices.append("auto")
        if not model.mtp_heads.reads_tokens:
            choices.append("tree")
    modes = []
    for choice in choices:
        # One engine for all rounds: what `auto` learns of the model and the machine stays.
        engine = Engine(model, tokenizer, num_rows, choice, sheds_rows=False)
        name = choice if isinstance(choice, str) else "speculative" if choice else "plain"
        mode = Mode(name, _answering(engine), choice, engine)
        if isinstance(choice, int):
            mode.clock = PartClock(model.unembedding.weight.device)
        modes.append(mode)
    return modes


def _answering(engine: Engine) -> Decode:
    return lambda requests: engine.generate(requests).completions


def _in_turn(modes: Sequence[Mode], number: int) -> Iterator[Mode]:
    first = number % len(modes)
    yield from modes[first:]
    yield from modes[:first]


def _decode(mode: Mode, requests: Sequence[Request], places: Sequence[int]) -> None:
    """Adds a turn to the round that has begun."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    completions = list(mode.decode([requests[place] for place in places]))
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    mode.completions += zip(places, completions, strict=True)
    if mode.engine is not None:
        stats = mode.engine.stats
        wall_s -= stats.recording_s
        mode.prefill_s += stats.prefill_s
        mode.decode_s += stats.decode_s
        mode.num_rounds += stats.num_rounds
    mode.wall_s[-1] += wall_s
    mode.cpu_s[-1] += cpu_s


def _time_parts(
    model: MTPModel, clock: PartClock, tokenizer: Tokenizer, mode: Mode, asked: Sequence[Request]
) -> None:
    assert mode.engine is not None
    engine = Engine(
        model, tokenizer, mode.engine.num_rows, mode.drafts,
        rounds_a_look=1, captures=False, advance=clock.advance, sheds_rows=False,
    )  # fmt: skip
    for request in asked:
        engine.submit(request)
    with clock.watching(model):
        while engine.has_work:
            with clock.step():
                engine.step()


def _row(
    mode: Mode, plain: Mode, model: MTPModel, num_rows: int, copy_bytes_per_s: float | None
) -> dict[str, Any]:
    completions = [completion for _, completion in mode.completions]
    num_tokens = sum(completion.num_committed for completion in completions)
    num_forwards = sum(completion.num_forwards for completion in completions)
    speed_up = _speed_up("speed_up", plain.wall_s, mode.wall_s)
    row: dict[str, Any] = {
        "mode": mode.name,
        "drafts": 0 if mode.engine is None else mode.engine.max_drafts,
        "batch_rows": num_rows,
        "tokens": num_tokens,
        "forwards": num_forwards,
        "tokens_per_forward": num_tokens / num_forwards,
        "cpu_s": sum(mode.cpu_s),
        "wall_s": sum(mode.wall_s),
        "prefill_s": None if mode.engine is None else mode.prefill_s,
        "tokens_per_s": num_tokens / sum(mode.wall_s),
        **speed_up,
        **_speed_up("cpu_speed_up", plain.cpu_s, mode.cpu_s),
        "speed_up_of_tokens": speed_up["speed_up"] * num_forwards / num_tokens,
        "acceptance_by_offset": _acceptance(completions, mode),
        "identical_outputs": _num_identical(mode, plain),
    }
    if mode.clock is not None:
        assert isinstance(mode.drafts, int)
        round_s = mode.decode_s / mode.num_rounds
        row |= {"round_s": round_s, "parts_s": mode.clock.per_step_s()}
        if copy_bytes_per_s is not None:
            num_cached = _mean_length(completions) * num_forwards / mode.num_rounds
            bound_s = least_s(model, mode.drafts, num_cached, copy_bytes_per_s)
            row["share_of_bandwidth"] = bound_s / round_s
    return row


def _acceptance(completions: Sequence[Completion], mode: Mode) -> list[float]:
    offsets = range(0 if mode.engine is None else mode.engine.max_drafts)
    drafted = [sum(completion.drafted[i] for completion in completions) for i in offsets]
    accepted = [sum(completion.accepted[i] for completion in completions) for i in offsets]
    return [stood / made for stood, made in zip(accepted, drafted, strict=True) if made]


def _num_identical(mode: Mode, plain: Mode) -> int:
    """Requests whose answers are all plain decoding's."""
    expected = {place: completion.tokens for place, completion in plain.completions}
    different = {place for place, found in mode.completions if found.tokens != expected[place]}
    return len(expected) - len(different)


def _mean_length(completions: Sequence[Completion]) -> float:
    """Tokens that a row's cache holds in a forward."""
    num_forwards = sum(completion.num_forwards for completion in completions)
    return (
        sum(
            one.num_forwards * (len(one.request.prompt) + one.num_committed / 2)
            for one in completions
        )
        / num_forwards
    )


def _speed_up(name: str, plain_s: Sequence[float], own_s: Sequence[float]) -> dict[str, float]:
    ratios = [theirs / ours for theirs, ours in zip(plain_s, own_s, strict=True)]
    return {
        name: statistics.median(ratios),
        f"{name}_low": min(ratios),
        f"{name}_high": max(ratios),
    }
