"""Is decoding exact? Tokens held to plain decoding's, and samples to the law that they follow."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from types import MappingProxyType
from typing import Any, Final

import torch
from scipy import special

from mtp_code.decoding.draft import Drafter
from mtp_code.decoding.engine import Engine, NumDrafts
from mtp_code.decoding.requests import Completion, Request, SamplingConfig
from mtp_code.decoding.sampling import RowSampling, token_probs
from mtp_code.decoding.state import DecodeState
from mtp_code.decoding.step import Advance, Outcome, Plan, advance, draft
from mtp_code.decoding.tree import Tree
from mtp_code.model.config import ModelConfig
from mtp_code.model.mtp import MTPModel, build_model
from mtp_code.tokenizer import Tokenizer

Progress = Callable[[int, int], None]

NUM_SHOWN: Final = 5
"""Differences of a mode that its row names, in fp32."""
LEAST_IDENTICAL: Final = 0.98
MOST_ULPS: Final = 2.0
"""In lower precision: answers that are plain decoding's, and how near the two tokens must be that
others part with."""


@dataclass(frozen=True)
class _Answered:
    completion: Completion
    ends_of_rounds: tuple[int, ...]
    """How many tokens there were after each round."""


def compare_tokens(
    model: MTPModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    drafts: Mapping[str, NumDrafts],
    batches: Iterable[int],
    peers: Mapping[str, Callable[[Iterable[Request]], Iterable[Completion]]] = MappingProxyType({}),
    on_progress: Progress = lambda done, total: None,
) -> Iterator[dict[str, Any]]:
    """A row for each number of drafts and batch size: answers that are not plain decoding's.

    Greedy. Each prompt is asked twice, without stops and with a stop string from plain decoding's
    own answer, so that answers end anywhere in a round; requests of other lengths share a batch.
    What an answer with a stop must be is not taken from the engine: it is the plain answer up to
    the first token with which its text holds the stop. `stops_inside_drafts` counts answers that
    ended so before their round's last token.

    In fp32 a row `holds` where there is no difference. Below that, rounding tips choices between
    tokens that are as good as equal: there all first differences are named, each with its
    `gap_ulps`, how far the model has the two tokens' logits apart in units of the last place of the
    larger, and a row holds by `LEAST_IDENTICAL` and `MOST_ULPS`. Then there are rows of engines
    whose forwards all have one shape, `is_exact`, held to plain decoding's in that shape, of which
    no difference holds. Others' decoding rounds as it likes there: it is counted, and holds None.

    Args:
        drafts: numbers or shapes of drafts, by name.
        peers: other ways to decode with the same weights, held to the same answers without stops.
    """
    free = [Request(prompt, max_new_tokens) for prompt in prompts]
    modes = [(name, batch) for batch in batches for name in drafts]
    is_fp32 = model.unembedding.weight.dtype is torch.float32
    exact_modes = (
        [] if is_fp32 else [(name, batch) for name, batch in modes if _is_line(drafts[name])]
    )
    num_steps, done = 1 + len(modes) + len(exact_modes) + len(peers), 0
    on_progress(done, num_steps)
    engine = Engine(model, tokenizer, num_rows=1, num_drafts=0, sheds_rows=False)
    plain = [answered.completion.tokens for answered in _answer_all(engine, free)]
    stopped, cut = [], []
    for number, (request, tokens) in enumerate(zip(free, plain, strict=True)):
        if (stop := _stop_in(tokenizer, tokens, number)) is not None:
            stopped.append(replace(request, stops=(stop,)))
            cut.append(_cut(tokenizer, request.prompt, tokens, stop))
        else:
            stopped.append(request)
            cut.append(tokens)
    # With and without stops in turn: rows of a batch end at different times.
    requests = [one for pair in zip(free, stopped, strict=True) for one in pair]
    expected = [one for pair in zip(plain, cut, strict=True) for one in pair]
    for name, batch in modes:
        on_progress(done := done + 1, num_steps)
        engine = Engine(model, tokenizer, batch, drafts[name], sheds_rows=False)
        answered = _answer_all(engine, requests)
        inside = sum(
            with_stop.completion.ended_by == "stop"
            and len(with_stop.completion.tokens) not in without.ends_of_rounds
            for without, with_stop in zip(answered[::2], answered[1::2], strict=True)
        )
        found = [one.completion for one in answered]
        row = (
            _differences(found, expected)
            if is_fp32
            else _near_ties(model, tokenizer, found, expected)
        )
        yield {"drafts": name, "rows": batch} | row | {"stops_inside_drafts": inside}
    exact_plain: dict[int, list[Sequence[int]]] = {}
    for name, batch in exact_modes:
        on_progress(done := done + 1, num_steps)
        if batch not in exact_plain:
            engine = Engine(model, tokenizer, batch, 0, exact=True, sheds_rows=False)
            exact_plain[batch] = [one.tokens for one in engine.generate(free).completions]
        engine = Engine(model, tokenizer, batch, drafts[name], exact=True, sheds_rows=False)
        found = engine.generate(free).completions
        row = _differences(found, exact_plain[batch])
        yield {"drafts": name, "rows": batch, "is_exact": True} | row
    for name, decode in peers.items():
        on_progress(done := done + 1, num_steps)
        row = _differences(list(decode(free)), plain)
        yield {"peer": name} | row | ({} if is_fp32 else {"holds": None})
    on_progress(num_steps, num_steps)


def _is_line(drafts: NumDrafts) -> bool:
    return isinstance(drafts, int) or drafts == "auto"


def _differences(
    completions: Sequence[Completion], expected: Sequence[Sequence[int]]
) -> dict[str, Any]:
    first = _first_differences(completions, expected)
    return {
        "requests": len(completions),
        "tokens": sum(one.num_committed for one in completions),
        "forwards": sum(one.num_forwards for one in completions),
        "differences": len(first),
        "first_differences": first[:NUM_SHOWN],
        "holds": not first,
    }


def _near_ties(
    model: MTPModel,
    tokenizer: Tokenizer,
    completions: Sequence[Completion],
    expected: Sequence[Sequence[int]],
) -> dict[str, Any]:
    """All differences, with how near the tokens were that answers part with."""
    first = _first_differences(completions, expected)
    for each in first:
        one, tokens, place = completions[each["request"]], expected[each["request"]], each["place"]
        text = [*one.request.prompt, *tokens[:place]]
        own, plain = (
            answer[place : place + 1] or tokenizer.answer_ends for answer in (one.tokens, tokens)
        )
        each["gap_ulps"] = _gap_ulps(model, text, own, plain)
    is_often = len(first) <= (1 - LEAST_IDENTICAL) * len(completions)
    is_near = all(each["gap_ulps"] <= MOST_ULPS for each in first)
    return _differences(completions, expected) | {
        "first_differences": first,
        "holds": is_often and is_near,
    }


@torch.inference_mode()
def _gap_ulps(
    model: MTPModel, text: Sequence[int], some: Sequence[int], others: Sequence[int]
) -> float:
    """How far the likeliest of some tokens is from the likeliest of others, by their logits."""
    text_1T = torch.tensor([list(text)], device=model.unembedding.weight.device)
    logits_V = model.read(text_1T, model.trunk.attend(text_1T)).logits(1)[0, -1]
    logits: list[float] = [max(logits_V[list(tokens)].tolist()) for tokens in (some, others)]
    _, exponent = math.frexp(max(map(abs, logits)))
    ulp = math.ldexp(torch.finfo(logits_V.dtype).eps, exponent - 1)
    return abs(logits[0] - logits[1]) / ulp


def _first_differences(
    completions: Sequence[Completion], expected: Sequence[Sequence[int]]
) -> list[dict[str, Any]]:
    return [
        {"request": number, "place": _first_difference(one.tokens, tokens)}
        for number, (one, tokens) in enumerate(zip(completions, expected, strict=True))
        if one.tokens != tokens
    ]


def _first_difference(tokens: Sequence[int], expected: Sequence[int]) -> int:
    pairs = zip(tokens, expected, strict=False)
    shorter = min(len(tokens), len(expected))
    return next((place for place, (a, b) in enumerate(pairs) if a != b), shorter)


def _answer_all(engine: Engine, requests: Sequence[Request]) -> list[_Answered]:
    numbers = {engine.submit(request): place for place, request in enumerate(requests)}
    counts: dict[int, list[int]] = {number: [] for number in numbers}
    answered: dict[int, _Answered] = {}
    while engine.has_work:
        for event in engine.step():
            counts[event.id].append(len(event.tokens))
            if event.completion is not None:
                ends = tuple(accumulate(counts.pop(event.id)))
                answered[numbers[event.id]] = _Answered(event.completion, ends)
    return [answered[place] for place in range(len(requests))]


def _stop_in(tokenizer: Tokenizer, tokens: Sequence[int], number: int) -> str | None:
    """Text of two tokens somewhere in an answer, elsewhere for each; None if it has no such."""
    places = range(2, len(tokens) - 1)
    for shift in range(len(places)):
        place = places[(37 * number + shift) % len(places)]
        text = tokenizer.decode(tokens[place : place + 2])
        if text.strip() and "\N{REPLACEMENT CHARACTER}" not in text:
            return text
    return None


def _cut(
    tokenizer: Tokenizer, prompt: Sequence[int], tokens: Sequence[int], stop: str
) -> Sequence[int]:
    """Up to the first token with which the text holds the stop."""
    return next(
        (
            tokens[:count]
            for count in range(1, len(tokens) + 1)
            if stop in tokenizer.decode_after(prompt, tokens[:count])
        ),
        tokens,
    )


# The law of samples: a model so small that the probability of every answer can be multiplied out.

VOCAB_SIZE: Final = 8
END: Final = 7
DEPTH: Final = 4
PROMPT: Final = (3,)
LEAST_P_VALUE: Final = 1e-3
LEAST_DRAWS: Final = 40_000
"""Of all settings together: with fewer, hardly an answer is expected often enough to count."""

SETTINGS: Final[tuple[tuple[SamplingConfig, int | Tree], ...]] = tuple(
    (SamplingConfig(temperature=temperature, top_p=top_p, top_k=top_k), shape)
    for shape, temperatures in ((1, (0.6,)), (2, (0.8, 1.0)), (Tree.product((3, 2)), (1.5,)))
    for temperature in temperatures
    for top_p, top_k in ((1.0, None), (0.9, None), (0.7, None), (1.0, 3), (0.8, 5))
)
"""Of sampling, and the shape of drafts."""


@dataclass(frozen=True)
class Numbers:
    """All that an engine asks of a tokenizer where no answer has a stop string."""

    vocab_size: int
    answer_ends: tuple[int, ...]


def tiny_model() -> MTPModel:
    config = ModelConfig(
        vocab_size=VOCAB_SIZE,
        width=16,
        num_layers=4,
        num_attn_heads=2,
        ffn_width=32,
        num_mtp_heads=3,
        context=16,
    )
    model = build_model(config, seed=4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(12)  # so that its laws are far from uniform
    return model.eval().requires_grad_(False)


def law(model: MTPModel, sampling: SamplingConfig) -> dict[tuple[int, ...], float]:
    """The probability of each answer of up to `DEPTH` tokens, multiplied out."""
    whole: dict[tuple[int, ...], float] = {}
    open_ends: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(DEPTH):
        longer: dict[tuple[int, ...], float] = {}
        device = model.unembedding.weight.device
        contexts = torch.tensor([[*PROMPT, *tokens] for tokens in open_ends], device=device)
        logits_1BV = model(contexts)[0, :, -1][None]
        probs = token_probs(logits_1BV, RowSampling.of([sampling], VOCAB_SIZE, device))[0]
        for (tokens, before), row in zip(open_ends.items(), probs.tolist(), strict=True):
            for token, prob in enumerate(row):
                if token == END:
                    whole[tokens] = whole.get(tokens, 0) + before * prob
                else:
                    longer[(*tokens, token)] = before * prob
        open_ends = longer
    return whole | open_ends


def p_value(
    model: MTPModel,
    sampling: SamplingConfig,
    num_drafts: NumDrafts,
    num_draws: int,
    advance: Advance = advance,
) -> float:
    """Of the samples' counts under the law, by chi-square; rare answers are counted together.

    0 where an answer was drawn that the law gives no chance.
    """
    requests = (Request(PROMPT, DEPTH, seed=seed, sampling=sampling) for seed in range(num_draws))
    numbers: Any = Numbers(VOCAB_SIZE, (END,))
    engine = Engine(model, numbers, 512, num_drafts, advance=advance, sheds_rows=False)
    counts = Counter(tuple(completion.tokens) for completion in engine.complete(requests))
    expected = {tokens: num_draws * p for tokens, p in law(model, sampling).items()}
    if any(expected.get(tokens, 0.0) <= 0 for tokens in counts):
        return 0.0
    often = [tokens for tokens, count in expected.items() if count >= 5]
    found = [counts[tokens] for tokens in often]
    right = [expected[tokens] for tokens in often]
    rest = num_draws - sum(right)
    if rest > 1:
        found.append(num_draws - sum(found))
        right.append(rest)
    share = sum(found) / sum(right)
    statistic = sum((f - share * r) ** 2 / (share * r) for f, r in zip(found, right, strict=True))
    # As scipy.stats.chisquare, whose import takes a second.
    return float(special.chdtrc(len(found) - 1, statistic))


def check_law(
    num_draws: int,
    on_progress: Progress = lambda done, total: None,
    device: torch.device | None = None,
) -> list[dict[str, Any]]:
    """A row for each of `SETTINGS`, and one for each planted fault, which must be caught.

    Args:
        num_draws: of all settings together; faults have as many as one setting.
        device: where they are drawn, in fp32; None is the CPU.

    Raises:
        ValueError: fewer than `LEAST_DRAWS`.
    """
    if num_draws < LEAST_DRAWS:
        raise ValueError(f"num_draws must be at least {LEAST_DRAWS}, got {num_draws}")
    model, each = tiny_model().to(device or "cpu"), num_draws // len(SETTINGS)
    faults = {"a draft that always stands": always_stands, "a wrong residual": wrong_residual}
    rows: list[dict[str, Any]] = []
    plain = SamplingConfig(temperature=1.0)
    settings: list[tuple[SamplingConfig, int | Tree, str | None]] = [
        *((sampling, shape, None) for sampling, shape in SETTINGS),
        *((plain, 1, name) for name in faults),
    ]
    for sampling, shape, fault in settings:
        on_progress(len(rows), len(settings))
        p = p_value(model, sampling, shape, each, advance if fault is None else faults[fault])
        rows.append(
            {
                **sampling.model_dump(),
                "drafts": shape if isinstance(shape, int) else f"tree of {shape.num_nodes}",
                "draws": each,
                "p_value": p,
                "fault": fault,
                "holds": (p > LEAST_P_VALUE) == (fault is None),
            }
        )
    on_progress(len(rows), len(rows))
    return rows


def always_stands(model: MTPModel, drafter: Drafter, state: DecodeState, plan: Plan) -> Outcome:
    """A round as a fault would have it: every draft is taken for right."""
    before_B = state.cache.lengths_B.clone()
    drafts_Bk = draft(model, drafter, state, plan)[..., 0].clamp(min=0) if plan.num_drafts else None
    outcome = advance(model, drafter, state, plan)
    if drafts_Bk is None:
        return outcome
    targets_BT = torch.cat((drafts_Bk, outcome.targets_BT[:, -1:]), dim=1)
    accepted_B = torch.full_like(outcome.accepted_B, plan.num_drafts)
    return _rewritten(state, before_B, outcome, targets_BT, accepted_B)


def wrong_residual(model: MTPModel, drafter: Drafter, state: DecodeState, plan: Plan) -> Outcome:
    """A round as a fault would have it: in place of a draft that fell, p is drawn from once more.

    Right is p without the draft.
    """
    before_B, uniforms_BC = state.cache.lengths_B.clone(), state.uniforms_BC.clone()
    tokens_BC = state.tokens_BC.clone()
    outcome = advance(model, drafter, state, plan)
    state.cache.lengths_B.copy_(before_B)
    state.tokens_BC.copy_(tokens_BC)
    # Other numbers that are as good, and the same each time: the golden ratio's multiples.
    state.uniforms_BC.add_((math.sqrt(5) - 1) / 2 + 997 * state.uniforms_BC).frac_()
    again = advance(model, drafter, state, plan)
    state.uniforms_BC.copy_(uniforms_BC)
    places_T = torch.arange(outcome.targets_BT.shape[1], device=before_B.device)
    falls_BT = (places_T == outcome.accepted_B[:, None]) & (places_T < plan.num_drafts)
    targets_BT = torch.where(falls_BT, again.targets_BT, outcome.targets_BT)
    return _rewritten(state, before_B, outcome, targets_BT, outcome.accepted_B)


def _rewritten(
    state: DecodeState,
    before_B: torch.Tensor,
    outcome: Outcome,
    targets_BT: torch.Tensor,
    accepted_B: torch.Tensor,
) -> Outcome:
    steps_T = torch.arange(1, targets_BT.shape[1] + 1, device=before_B.device)
    places_BT = before_B[:, None] + steps_T
    state.tokens_BC.scatter_(1, places_BT, targets_BT)
    state.cache.lengths_B.copy_(torch.minimum(before_B + accepted_B + 1, state.limits_B))
    return outcome._replace(targets_BT=targets_BT, accepted_B=accepted_B)
