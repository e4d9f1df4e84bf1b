"""The law of speculative samples is the model's own: held to all sequences of a tiny model."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare

from mtp_code.decoding import speculative
from mtp_code.decoding.requests import Request
from mtp_code.decoding.sampling import SamplingConfig, token_probs
from mtp_code.model.config import ModelConfig
from mtp_code.model.mtp import MTPModel, build_model

V = 8
END = 7
TOKENIZER = SimpleNamespace(vocab_size=V, end_of_text=END)
PROMPT = [3]
SETTINGS = [SamplingConfig(temperature=t, top_p=p) for t, p in [(1.0, 1.0), (0.6, 0.9), (1.5, 0.7)]]


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
        probs = token_probs(model(contexts)[0, :, -1], sampling)
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
    requests = (Request(PROMPT, depth, seed=seed) for seed in range(num_samples))
    counts = Counter(
        tuple(completion.tokens)
        for completion in speculative.decode_speculative(
            model, TOKENIZER, requests, num_drafts, 512, sampling
        )
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


@pytest.mark.parametrize("sampling", SETTINGS)
@pytest.mark.parametrize("num_drafts", [1, 2])
def test_the_law_of_samples_is_the_models(tiny_model, sampling, num_drafts):
    assert p_value(tiny_model, sampling, num_drafts, depth=4, num_samples=4_000) > 1e-3


def test_a_draft_that_always_stands_is_caught(tiny_model, monkeypatch):
    drafted = []

    def count_all(drafts_Bk, targets_BT):
        drafted.append(drafts_Bk.clamp(min=0))  # a first round has no drafts
        return torch.full((len(drafts_Bk),), drafts_Bk.shape[1])

    def commit_all(targets_BT, accepted_B):
        return torch.cat((drafted.pop(), targets_BT[:, -1:]), dim=1).tolist()

    monkeypatch.setattr(speculative, "count_accepted", count_all)
    monkeypatch.setattr(speculative, "committed_tokens", commit_all)
    assert p_value(tiny_model, SETTINGS[0], 1, depth=4, num_samples=4_000) < 1e-3


def test_the_wrong_law_in_place_of_a_draft_that_falls_is_caught(tiny_model, monkeypatch):
    """Drawn from p once more, where p without the draft would be right."""
    choose, generator = speculative.choose_tokens, torch.Generator().manual_seed(0)
    drawn = {}

    def choose_and_keep(logits_BTV, sampling, uniforms_BT):
        again_BT = torch.rand(uniforms_BT.shape, generator=generator, dtype=torch.float64)
        drawn["again"] = choose(logits_BTV, sampling, again_BT)
        return choose(logits_BTV, sampling, uniforms_BT)

    def commit(targets_BT, accepted_B):
        rows = []
        for row, accepted in enumerate(accepted_B.tolist()):
            targets = targets_BT[row, : accepted + 1].tolist()
            if accepted < targets_BT.shape[1] - 1:
                targets[-1] = int(drawn["again"][row, accepted])
            rows.append(targets)
        return rows

    monkeypatch.setattr(speculative, "choose_tokens", choose_and_keep)
    monkeypatch.setattr(speculative, "committed_tokens", commit)
    assert p_value(tiny_model, SETTINGS[0], 1, depth=4, num_samples=4_000) < 1e-3
