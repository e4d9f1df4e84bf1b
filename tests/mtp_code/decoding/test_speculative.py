import re
from dataclasses import replace

import pytest
import torch

from mtp_code.decoding import step
from mtp_code.decoding.engine import Engine
from mtp_code.decoding.requests import Completion, Request, SamplingConfig
from mtp_code.errors import PromptError
from mtp_code.model.mtp import MTPModel, build_model
from mtp_code.tokenizer import BytesTokenizer, Tokenizer
from tests.decoding import decode_plain, decode_speculative
from tests.reference import decode_without_cache

PROMPTS = ["def f(x):\n", "x", "import os\nfor i in range(3):", "a b c d e f g h", "\n\n", "é∀"]


def requests_for(tokenizer: Tokenizer, stops: tuple[str, ...] = ()) -> list[Request]:
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    return [Request(prompt, 8 + 3 * i, stops) for i, prompt in enumerate(prompts)]


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


@pytest.fixture(
    scope="module",
    params=["causal", "anticausal", "linear", "sequential", "replicated", "sequential replicated"],
)
def other_model(request: pytest.FixtureRequest, small_model: MTPModel) -> MTPModel:
    """Other heads than the default, which agree with head 1 now and then.

    Trunk and heads add little to what they read, so heads that read the trunk alone agree where a
    token is repeated; sequential ones, which read the tokens in between, more often.
    """
    heads, _, replicated = request.param.partition("replicated")
    changes = {"heads": heads.strip() or "parallel", "replicated_unembeddings": bool(replicated)}
    model = build_model(small_model.config.model_copy(update=changes), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(6)
            if name.endswith("attn.out.weight"):
                parameter.mul_(0.05)
            if name.startswith("mtp_heads") and parameter.dim() == 2:
                parameter.mul_(0.2)
            if changes["heads"] == "sequential" and name.endswith("ffn.down.weight"):
                parameter.mul_(0.2)
            if name.endswith("project.weight"):
                parameter[:, len(parameter) :] += torch.eye(len(parameter))
            if name.startswith("later_unembeddings"):
                parameter.mul_(0.2).add_(model.unembedding.weight)
    return model.eval().requires_grad_(False)


def test_with_other_heads_too_speculative_equals_plain_greedy(other_model, tokenizer):
    requests = requests_for(tokenizer)[:4]
    plain = by_prompt(list(decode_plain(other_model, tokenizer, requests, num_rows=3)))
    for prompt, completion in plain.items():
        assert completion.tokens == decode_without_cache(other_model, completion.request), prompt
    for num_drafts, num_rows in ((2, 1), (3, 3)):
        completions = decode_speculative(other_model, tokenizer, requests, num_drafts, num_rows)
        for prompt, completion in by_prompt(list(completions)).items():
            assert completion.tokens == plain[prompt].tokens


def test_with_other_heads_too_tokens_do_not_depend_on_when_the_number_of_drafts_changes(
    other_model, tokenizer
):
    requests = requests_for(tokenizer)[:3]
    engine = Engine(other_model, tokenizer, 2, "auto")
    rounds = iter([3, 0, 0, 2, 1, 0, 3, 1] * 20)
    engine._policy.choose = lambda keys: next(rounds)
    plain = by_prompt(list(decode_plain(other_model, tokenizer, requests, num_rows=3)))
    for completion in engine.generate(requests).completions:
        assert completion.tokens == plain[tuple(completion.request.prompt)].tokens


@pytest.mark.parametrize("num_drafts", [pytest.param(1, marks=pytest.mark.thorough), 3])
def test_every_draft_is_what_the_heads_say_of_the_whole_text(
    other_model, tokenizer, num_drafts, monkeypatch
):
    """With rows of other lengths beside it, and after drafts that did not stand."""
    drafted, longest_lag, real_draft = 0, 0, step.draft

    def checked(model, drafter, state, plan):
        nonlocal drafted, longest_lag
        drafts_Bkr = real_draft(model, drafter, state, plan)  # r ranks, of which a line has one
        drafts_Bk = drafts_Bkr[:, :, 0]
        longest_lag = max(longest_lag, plan.window)
        rows = zip(state.tokens_BC, state.cache.lengths_B.tolist(), drafts_Bk.tolist(), strict=True)
        for tokens_C, length, drafts_k in rows:
            if length == 0:
                assert drafts_k == [-1] * num_drafts
                continue
            # The newest token stands already; what is behind it is drafted at the one before.
            logits_KTV = other_model(tokens_C[None, :length])[:, 0]
            newest, *expected = logits_KTV[: num_drafts + 1, -1].argmax(dim=-1).tolist()
            if newest != tokens_C[length]:
                continue  # a prompt's last token, which the reference does not know
            assert drafts_k == expected
            drafted += 1
        return drafts_Bkr

    monkeypatch.setattr(step, "draft", checked)
    requests = [replace(request, max_new_tokens=14) for request in requests_for(tokenizer)]
    completions = list(decode_speculative(other_model, tokenizer, requests, num_drafts, 3))
    rounds = torch.tensor([one.rounds_by_accepted for one in completions]).sum(dim=0)
    assert rounds[0] > 1  # wrong ones
    assert rounds[1:].sum() > 1  # and right ones
    assert drafted > 20
    assert longest_lag > num_drafts


@pytest.mark.parametrize("heads", ["parallel", "causal", "anticausal", "linear"])
def test_of_a_row_alone_nothing_looks_at_drafts_that_did_not_stand(
    small_config, tokenizer, heads, monkeypatch
):
    """By heads to whose answers it matters much where they look."""
    model = build_model(small_config.model_copy(update={"heads": heads}), seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(6)
    num_checked, real_draft = 0, step.draft

    def checked(model, drafter, state, plan):
        nonlocal num_checked
        drafts_Bkr = real_draft(model, drafter, state, plan)
        (length,) = state.cache.lengths_B.tolist()
        with torch.inference_mode():
            logits_KTV = model(state.tokens_BC[:, :length])[:, 0]
        newest, *expected = logits_KTV[:, -1].argmax(dim=-1).tolist()
        if newest == state.tokens_BC[0, length]:  # no prompt's last token
            assert drafts_Bkr[0, :, 0].tolist() == expected
            num_checked += 1
        return drafts_Bkr

    monkeypatch.setattr(step, "draft", checked)
    request = Request([5, 6, 7], 24)
    (found,) = Engine(model, tokenizer, 1, 3).generate([request]).completions
    assert found.tokens == decode_without_cache(model, request)
    assert found.rounds_by_accepted[0] > 5
    assert num_checked > 5


@pytest.fixture(scope="module")
def plain_greedy(model: MTPModel, tokenizer: Tokenizer) -> list[Completion]:
    requests = requests_for(tokenizer)
    return list(decode_plain(model, tokenizer, requests, num_rows=len(requests)))


def test_plain_greedy_equals_decoding_without_a_cache(model, plain_greedy):
    for completion in plain_greedy:
        expected = decode_without_cache(model, completion.request)
        assert completion.tokens == expected


@pytest.mark.parametrize(
    "num_drafts, num_rows",
    [
        (0, 3),
        (1, 8),
        (2, 1),
        (3, 3),
        pytest.param(2, 3, marks=pytest.mark.thorough),
        pytest.param(3, 1, marks=pytest.mark.thorough),
        pytest.param(3, 8, marks=pytest.mark.thorough),
    ],
)
def test_speculative_greedy_equals_plain_greedy(
    model, tokenizer, plain_greedy, num_drafts, num_rows
):
    requests = requests_for(tokenizer)
    plain = by_prompt(plain_greedy)
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


def test_a_stop_string_inside_a_draft_ends_where_plain_decoding_would(
    model, tokenizer, plain_greedy
):
    tried = 0
    for longest in plain_greedy:
        pair = re.search("(?s)(?<=.{3})[ -~]{2}", tokenizer.decode(longest.tokens))
        if pair is None:
            continue
        request = replace(longest.request, stops=(pair[0],))
        (plain,) = decode_plain(model, tokenizer, [request])
        (speculative,) = decode_speculative(model, tokenizer, [request], 3)
        assert plain.ended_by == speculative.ended_by == "stop"
        assert speculative.tokens == plain.tokens == longest.tokens[: len(plain.tokens)]
        tried += 1
    assert tried > 1


def test_a_sample_does_not_depend_on_its_company_in_the_batch(small_model, tokenizer):
    sampling = SamplingConfig(temperature=0.8, top_p=0.95)
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    requests = [Request(prompt, 24, seed=i, sampling=sampling) for i, prompt in enumerate(prompts)]
    alone = {
        tuple(request.prompt): next(decode_plain(small_model, tokenizer, [request]))
        for request in requests
    }
    together = by_prompt(list(decode_plain(small_model, tokenizer, requests, 4)))
    assert {p: c.tokens for p, c in together.items()} == {p: c.tokens for p, c in alone.items()}


def test_seeds_give_other_samples_and_equal_seeds_the_same(small_model, tokenizer):
    sampling = SamplingConfig(temperature=1.0)
    prompt = tokenizer.encode("x = ")
    requests = [Request(prompt, 16, seed=seed, sampling=sampling) for seed in (1, 2, 1)]
    first, second, third = decode_plain(small_model, tokenizer, requests)
    assert first.tokens == third.tokens != second.tokens


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [([], "empty"), ([1] * 256, "context of 256"), ([3, 400], "token 400")],
)
def test_an_impossible_prompt_is_named(small_model, tokenizer, prompt, complaint):
    (completion,) = decode_speculative(small_model, tokenizer, [Request(prompt, 8)], 3)
    assert complaint in completion.error
    assert completion.tokens == []


def test_a_request_that_nothing_could_answer_is_refused():
    with pytest.raises(PromptError, match="max_new_tokens: must be at least 1, got 0"):
        Request([1], 0)
    with pytest.raises(PromptError, match="stops: an empty string"):
        Request([1], 8, stops=("\n", ""))


def test_a_batch_without_rows_is_refused(small_model, tokenizer):
    with pytest.raises(ValueError, match="num_rows must be at least 1, got 0"):
        decode_plain(small_model, tokenizer, [Request([1], 8)], num_rows=0)
    with pytest.raises(ValueError, match="num_rows must be at least 1, got 0"):
        decode_speculative(small_model, tokenizer, [Request([1], 8)], 1, num_rows=0)


@pytest.mark.parametrize(
    "model, num_rows",
    [
        ("untrained", 4),
        ("repetitive", 1),
        pytest.param("untrained", 1, marks=pytest.mark.thorough),
        pytest.param("repetitive", 4, marks=pytest.mark.thorough),
    ],
    indirect=["model"],
)
def test_each_forward_commits_the_drafts_it_accepted_and_one_token_more(
    model, plain_greedy, num_rows
):
    """However an answer ends: at a limit, a stop, the context's or its text's end."""
    tokenizer, longest = BytesTokenizer(), plain_greedy
    limits = (1, 2, 3, 4, 7, 18)
    requests = [
        Request(one.request.prompt, limit)
        for at, one in enumerate(longest)
        for limit in limits[at % 2 :: 2]
    ]
    requests += [
        Request(one.request.prompt, 20, stops=(tokenizer.decode(one.tokens[4:6]),))
        for one in longest
        if tokenizer.decode(one.tokens[4:6])
    ]
    requests += [Request([7] * 250, 100), *(Request([token], 9) for token in range(0, 250, 80))]
    found = list(decode_speculative(model, tokenizer, requests, 3, num_rows))
    tokenizer.answer_ends = tuple({one.tokens[-1] for one in longest if one.tokens})  # type: ignore[misc]
    found += decode_speculative(model, tokenizer, requests, 3, num_rows)
    assert {one.ended_by for one in found} == {"length", "stop", "end of text"}
    for one in found:
        assert one.num_committed == one.num_forwards + sum(one.accepted)
        assert len(one.drafted) == 3
        assert all(a <= b for a, b in zip(one.accepted, one.drafted, strict=True))
        is_drafted_at_once = len(one.request.prompt) > 1
        assert max(one.drafted) <= one.num_forwards - (not is_drafted_at_once)
    assert sum(sum(one.accepted) for one in found) > 3


def test_an_answer_ends_where_the_context_does(small_model, tokenizer):
    request = Request([7] * 250, 100)
    (plain,) = decode_plain(small_model, tokenizer, [request])
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
    requests = [Request([5] * (context - 4), 100), Request([6] * 4, 30), Request([7] * 4, 40)]
    if num_drafts is None:
        together = list(decode_plain(small_model, tokenizer, requests, num_rows=3))
    else:
        together = list(decode_speculative(small_model, tokenizer, requests, num_drafts, 3))
    alone = [next(decode_plain(small_model, tokenizer, [one])) for one in requests]
    found = by_prompt(together)
    for completion in alone:
        assert found[tuple(completion.request.prompt)].tokens == completion.tokens


@pytest.mark.parametrize(
    "num_drafts, num_rows, temperature",
    [
        (1, 1, 1.0),
        (3, 4, 0.3),
        pytest.param(1, 4, 0.3, marks=pytest.mark.thorough),
        pytest.param(3, 1, 1.0, marks=pytest.mark.thorough),
    ],
)
def test_speculative_samples_equal_plain_samples(
    model, tokenizer, num_drafts, num_rows, temperature
):
    sampling = SamplingConfig(temperature=temperature, top_p=0.95)
    requests = [
        replace(request, seed=seed, sampling=sampling)
        for seed, request in enumerate(requests_for(tokenizer))
    ]
    plain = by_prompt(list(decode_plain(model, tokenizer, requests, num_rows=len(requests))))
    speculative = list(decode_speculative(model, tokenizer, requests, num_drafts, num_rows))
    assert len(speculative) == len(requests)
    for prompt, completion in by_prompt(speculative).items():
        assert completion.tokens == plain[prompt].tokens
        assert completion.ended_by == plain[prompt].ended_by
