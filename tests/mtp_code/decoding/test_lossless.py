"""The law of speculative samples is the model's own: held to all sequences of a tiny model."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare

from mtp_code.decoding import engine, step
from mtp_code.decoding.engine import Engine
from mtp_code.decoding.requests import Request
from mtp_code.decoding.sampling import RowSampling, SamplingConfig, token_probs
from mtp_code.model.config import ModelConfig
from mtp_code.model.mtp import MTPModel, build_model

V = 8
END = 7
TOKENIZER = SimpleNamespace(vocab_size=V, answer_ends=(END,))
PROMPT = [3]
SETTINGS = [
    SamplingConfig(temperature=1.0),
    SamplingConfig(temperature=0.6, top_p=0.9),
    SamplingConfig(temperature=1.5, top_p=0.7),
    SamplingConfig(temperature=1.2, top_k=3),
]


@pytest.fixture(scope="module")
def tiny_model() -> MTPModel:
    config = ModelConfig(
        vocab_size=V, width=16, num_layers=4, num_attn_heads=2, ffn_width=32, num_mtp_heads=3,
        context=16,
    )  # fmt: skip
    model = build_model(config, seed=4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(12)  # so that its laws are far from uniform
    return model.eval().requires_grad_(False)


def law(model: MTPModel, sampling: SamplingConfig, depth: int) -> dict[tuple[int, ...], float]:
    """The probability of each answer of up to `depth` tokens, multiplied out."""
    whole: dict[tuple[int, ...], float] = {}
    open_ends = {(): 1.0}
    for _ in range(depth):
        longer: dict[tuple[int, ...], float] = {}
        contexts = torch.tensor([[*PROMPT, *tokens] for tokens in open_ends])
        logits_1BV = model(contexts)[0, :, -1][None]
        probs = token_probs(logits_1BV, RowSampling.of([sampling], V))[0]
        for (tokens, before), row in zip(open_ends.items(), probs.tolist(), strict=True):
            for token, prob in enumerate(row):
                if token == END:
                    whole[tokens] = whole.get(tokens, 0) + before * prob
                else:
                    longer[(*tokens, token)] = before * prob
        open_ends = longer
    return whole | open_ends


def p_value(
    model: MTPModel, sampling: SamplingConfig, num_drafts: int, depth: int, num_samples: int
) -> float:
    """Of the samples' counts under the law; rare answers are counted together."""
    requests = (Request(PROMPT, depth, seed=seed, sampling=sampling) for seed in range(num_samples))
    counts = Counter(
        tuple(completion.tokens)
        for completion in Engine(model, TOKENIZER, 512, num_drafts).complete(requests)
    )
    expected = {tokens: num_samples * p for tokens, p in law(model, sampling, depth).items()}
    assert all(expected.get(tokens, 0) > 0 for tokens in counts)
    often = [tokens for tokens, count in expected.items() if count >= 5]
    found = [counts[tokens] for tokens in often]
    right = [expected[tokens] for tokens in often]
    rest = num_samples - sum(right)
    if rest > 1:
        found.append(num_samples - sum(found))
        right.append(rest)
    return float(chisquare(found, [each * sum(found) / sum(right) for each in right]).pvalue)


@pytest.mark.parametrize(
    "sampling, num_drafts", [(SETTINGS[0], 2), *zip(SETTINGS, (1, 2, 1, 2), strict=True)]
)
def test_the_law_of_samples_is_the_models(tiny_model, sampling, num_drafts):
    assert p_value(tiny_model, sampling, num_drafts, depth=4, num_samples=4_000) > 1e-3


def test_a_draft_that_always_stands_is_caught(tiny_model, monkeypatch):
    def accept_all(model, drafter, state, plan):
        before_B = state.cache.lengths_B.clone()
        drafts_Bk = step.draft(model, drafter, state, plan)
        outcome = advance(model, drafter, state, plan)
        targets_BT = torch.cat((drafts_Bk.clamp(min=0), outcome.targets_BT[:, -1:]), dim=1)
        places_BT = before_B[:, None] + torch.arange(1, targets_BT.shape[1] + 1)
        state.tokens_BC.scatter_(1, places_BT, targets_BT)
        state.cache.lengths_B.copy_(torch.minimum(before_B + targets_BT.shape[1], state.limits_B))
        accepted_B = torch.full_like(outcome.accepted_B, plan.num_drafts)
        return outcome._replace(targets_BT=targets_BT, accepted_B=accepted_B)

    advance = step.advance
    monkeypatch.setattr(engine, "advance", accept_all)
    assert p_value(tiny_model, SETTINGS[0], 1, depth=4, num_samples=4_000) < 1e-3


def test_the_wrong_law_in_place_of_a_draft_that_falls_is_caught(tiny_model, monkeypatch):
    """Drawn from p once more, where p without the draft would be right."""
    choose, generator = step.choose_tokens, torch.Generator().manual_seed(0)
    count, again = step.count_accepted, {}

    def choose_and_keep(logits_BTV, sampling, uniforms_BT):
        uniforms = torch.rand(uniforms_BT.shape, generator=generator, dtype=torch.float64)
        again["tokens"] = choose(logits_BTV, sampling, uniforms)
        return choose(logits_BTV, sampling, uniforms_BT)

    def count_and_replace(drafts_Bk, targets_BT):
        accepted_B = count(drafts_Bk, targets_BT)
        falls_BT = torch.arange(targets_BT.shape[1]) == accepted_B[:, None]
        falls_BT &= accepted_B[:, None] < drafts_Bk.shape[1]
        targets_BT.copy_(torch.where(falls_BT, again["tokens"], targets_BT))
        return accepted_B

    monkeypatch.setattr(step, "choose_tokens", choose_and_keep)
    monkeypatch.setattr(step, "count_accepted", count_and_replace)
    assert p_value(tiny_model, SETTINGS[0], 1, depth=4, num_samples=4_000) < 1e-3
