import re
from dataclasses import replace

import pytest
import torch

from mtp_code.decoding.plain import decode_plain
from mtp_code.decoding.requests import Completion, Request
from mtp_code.decoding.sampling import SamplingConfig
from mtp_code.decoding.speculative import decode_speculative
from mtp_code.errors import PromptError
from mtp_code.model.mtp import MTPModel, build_model
from mtp_code.tokenizer import Tokenizer
from tests.reference import decode_without_cache

GREEDY = SamplingConfig()
PROMPTS = ["def f(x):\n", "x", "import os\nfor i in range(3):", "a b c d e f g h", "\n\n", "é∀"]


def requests_for(tokenizer: Tokenizer, stops: tuple[str, ...] = ()) -> list[Request]:
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    return [Request(prompt, 20 + 9 * i, stops) for i, prompt in enumerate(prompts)]


def by_prompt(completions: list[Completion]) -> dict[tuple[int, ...], Completion]:
    return {tuple(completion.request.prompt): completion for completion in completions}


@pytest.fixture(scope="module", params=["untrained", "repetitive"])
def model(request: pytest.FixtureRequest, small_model: MTPModel) -> MTPModel:
    """Heads that mostly disagree with head 1, and heads that mostly agree."""
    if request.param == "untrained":
        return small_model
    model = build_model(small_model.config, seed=1)
    model.load_state_dict(small_model.state_dict())
    first = model.mtp_heads.layers[0].state_dict()
    for layer in model.mtp_heads.layers[1:]:
        layer.load_state_dict(first)
    with torch.no_grad():
        # A trunk that hardly mixes tokens answers in short cycles, where equal heads agree often.
        for layer in model.trunk.layers:
            layer.attn.out.weight.mul_(0.05)
    return model.eval().requires_grad_(False)


def test_plain_greedy_equals_decoding_without_a_cache(model, tokenizer):
    for completion in decode_plain(model, tokenizer, requests_for(tokenizer), GREEDY):
        expected = decode_without_cache(model, completion.request)
        assert completion.tokens == expected


@pytest.mark.parametrize("num_drafts", [0, 1, 2, 3])
@pytest.mark.parametrize("num_rows", [1, 3, 8])
def test_speculative_greedy_equals_plain_greedy(model, tokenizer, num_drafts, num_rows):
    requests = requests_for(tokenizer)
    plain = by_prompt(list(decode_plain(model, tokenizer, requests, GREEDY)))
    speculative = list(decode_speculative(model, tokenizer, requests, num_drafts, num_rows))
    assert len(speculative) == len(requests)
    for prompt, completion in by_prompt(speculative).items():
        assert completion.tokens == plain[prompt].tokens
        assert completion.ended_by == plain[prompt].ended_by


def test_speculative_needs_fewer_forwards_where_drafts_stand(model, tokenizer):
    completions = list(decode_speculative(model, tokenizer, requests_for(tokenizer), 3))
    num_accepted = sum(sum(completion.accepted) for completion in completions)
    num_tokens = sum(len(completion.tokens) for completion in completions)
    num_forwards = sum(completion.num_forwards for completion in completions)
    assert num_accepted > 0
    # Each round commits its accepted drafts and one token of the verifier; the last may be cut.
    assert num_forwards < num_tokens <= num_accepted + num_forwards


def test_a_stop_string_inside_a_draft_ends_where_plain_decoding_would(model, tokenizer):
    tried = 0
    for request in requests_for(tokenizer):
        (longest,) = decode_plain(model, tokenizer, [request], GREEDY)
        pair = re.search("(?s)(?<=.{3})[ -~]{2}", tokenizer.decode(longest.tokens))
        if pair is None:
            continue
        request = replace(request, stops=(pair[0],))
        (plain,) = decode_plain(model, tokenizer, [request], GREEDY)
        (speculative,) = decode_speculative(model, tokenizer, [request], 3)
        assert plain.ended_by == speculative.ended_by == "stop"
        assert speculative.tokens == plain.tokens == longest.tokens[: len(plain.tokens)]
        tried += 1
    assert tried > 2


def test_a_sample_does_not_depend_on_its_company_in_the_batch(small_model, tokenizer):
    sampling = SamplingConfig(temperature=0.8, top_p=0.95)
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    requests = [Request(prompt, 24, seed=i) for i, prompt in enumerate(prompts)]
    alone = {
        tuple(request.prompt): next(decode_plain(small_model, tokenizer, [request], sampling))
        for request in requests
    }
    together = by_prompt(list(decode_plain(small_model, tokenizer, requests, sampling, 4)))
    assert {p: c.tokens for p, c in together.items()} == {p: c.tokens for p, c in alone.items()}


def test_seeds_give_other_samples_and_equal_seeds_the_same(small_model, tokenizer):
    sampling = SamplingConfig(temperature=1.0)
    prompt = tokenizer.encode("x = ")
    requests = [Request(prompt, 16, seed=seed) for seed in (1, 2, 1)]
    first, second, third = decode_plain(small_model, tokenizer, requests, sampling)
    assert first.tokens == third.tokens != second.tokens


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [([], "empty"), ([1] * 256, "context of 256"), ([3, 400], "token 400")],
)
def test_an_impossible_prompt_is_named(small_model, tokenizer, prompt, complaint):
    with pytest.raises(PromptError, match=complaint):
        list(decode_speculative(small_model, tokenizer, [Request(prompt, 8)], 3))


def test_an_answer_ends_where_the_context_does(small_model, tokenizer):
    request = Request([7] * 250, 100)
    (plain,) = decode_plain(small_model, tokenizer, [request], GREEDY)
    (speculative,) = decode_speculative(small_model, tokenizer, [request], 3)
    assert len(plain.tokens) == 6
    assert speculative.tokens == plain.tokens


def test_more_drafts_than_heads_are_refused(small_model, tokenizer):
    with pytest.raises(ValueError, match=r"num_drafts must be in 0\.\.3"):
        list(decode_speculative(small_model, tokenizer, [], 4))


@pytest.mark.parametrize("num_drafts", [None, 3])
def test_rows_that_finished_take_no_room_from_those_that_go_on(small_model, tokenizer, num_drafts):
    """A long prompt ends at the context's end early; its idle row must stay out of the way."""
    context = small_model.config.context
    requests = [Request([5] * (context - 4), 100), Request([6] * 4, 200), Request([7] * 4, 220)]
    if num_drafts is None:
        together = list(decode_plain(small_model, tokenizer, requests, GREEDY, num_rows=3))
    else:
        together = list(decode_speculative(small_model, tokenizer, requests, num_drafts, 3))
    alone = [next(decode_plain(small_model, tokenizer, [one], GREEDY)) for one in requests]
    found = by_prompt(together)
    for completion in alone:
        assert found[tuple(completion.request.prompt)].tokens == completion.tokens


@pytest.mark.parametrize("num_drafts", [1, 3])
@pytest.mark.parametrize("num_rows", [1, 4])
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_speculative_samples_equal_plain_samples(
    model, tokenizer, num_drafts, num_rows, temperature
):
    sampling = SamplingConfig(temperature=temperature, top_p=0.95)
    requests = [replace(request, seed=seed) for seed, request in enumerate(requests_for(tokenizer))]
    plain = by_prompt(list(decode_plain(model, tokenizer, requests, sampling)))
    speculative = list(
        decode_speculative(model, tokenizer, requests, num_drafts, num_rows, sampling)
    )
    assert len(speculative) == len(requests)
    for prompt, completion in by_prompt(speculative).items():
        assert completion.tokens == plain[prompt].tokens
        assert completion.ended_by == plain[prompt].ended_by
