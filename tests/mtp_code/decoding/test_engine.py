from dataclasses import replace

import pytest
import torch

from mtp_code.decoding import engine as engine_module
from mtp_code.decoding.engine import Engine
from mtp_code.decoding.requests import Completion, Request, SamplingConfig
from mtp_code.decoding.step import advance
from mtp_code.decoding.tree import Tree
from mtp_code.errors import MachineError, PromptError
from mtp_code.model.mtp import build_model
from tests.reference import decode_without_cache

MIXED = [
    Request([5, 6, 7], 12),
    Request([9] * 30, 8, seed=3, sampling=SamplingConfig(temperature=1.0)),
    Request([40], 14, seed=4, sampling=SamplingConfig(temperature=0.7, top_p=0.8, top_k=20)),
    Request([1, 2], 6, num_logprobs=2),
    Request(list(range(3, 60)), 10),
]


def alone(model, tokenizer, request: Request) -> Completion:
    return Engine(model, tokenizer, num_rows=1, num_drafts=0).generate([request]).completions[0]


@pytest.fixture(scope="module")
def answers(small_model, tokenizer) -> list[list[int]]:
    """Of each of `MIXED`, alone."""
    return [alone(small_model, tokenizer, request).tokens for request in MIXED]


@pytest.mark.parametrize("num_drafts", [0, 2, "auto"])
@pytest.mark.parametrize("prefill_tokens", [7, 256])
def test_requests_of_other_settings_share_a_batch_and_answer_as_alone(
    small_model, tokenizer, answers, num_drafts, prefill_tokens
):
    generated = Engine(small_model, tokenizer, 3, num_drafts, prefill_tokens).generate(MIXED)
    assert [completion.tokens for completion in generated.completions] == answers


def shapes_read(engine: Engine, monkeypatch) -> list[tuple[int, ...]]:
    """What the trunk is given from now on."""
    shapes, read = [], engine.model.read

    def noted(tokens_BT, attending):
        shapes.append(tuple(tokens_BT.shape))
        return read(tokens_BT, attending)

    monkeypatch.setattr(engine.model, "read", noted)
    return shapes


@pytest.mark.parametrize(
    "lengths, exact, read",
    [
        ([20, 24, 22], False, [(3, 23)]),  # the last token is the first round's
        ([20, 24, 22], True, [(1, 19), (1, 23), (1, 21)]),
        ([20, 2, 24, 3], False, [(2, 23), (2, 2)]),  # too much of it would be filling
        ([1, 1], False, []),
        ([60, 18, 20], False, [(1, 59), (2, 19)]),
        ([90, 20, 22], False, [(1, 50)]),  # the rest of it is for the next step, and so are they
    ],
)
def test_prompts_that_go_together_are_read_in_one_forward(
    small_model, tokenizer, monkeypatch, lengths, exact, read
):
    budget = 50 if 90 in lengths else 200
    engine = Engine(small_model, tokenizer, 4, 0, budget, exact=exact)
    ids = [engine.submit(Request([7] * length, 2)) for length in lengths]
    shapes = shapes_read(engine, monkeypatch)
    events = engine.step()
    assert shapes[: len(read)] == read
    assert len(shapes) - len(read) == bool(events)  # and a round, if there is a row for it
    finished = {event.id for event in events if event.completion is not None}
    while engine.has_work:
        finished |= {event.id for event in engine.step() if event.completion is not None}
    assert finished == set(ids)


def test_heads_catch_up_with_neighbours_at_once(small_model, tokenizer, monkeypatch):
    engine = Engine(small_model, tokenizer, 4, 2)
    for length in (20, 24, 22, 100):
        engine.submit(Request([7] * length, 9))
    drafted, draft = [], engine._drafter.draft

    def noted(reading, *rest):
        drafted.append(tuple(reading.hidden_BTD.shape[:2]))
        return draft(reading, *rest)

    monkeypatch.setattr(engine._drafter, "draft", noted)
    engine.step()
    assert drafted == [(3, 23), (1, 99), (4, 1)]


@pytest.mark.parametrize("switching", [[0, 3, 1, 2], [3, 0, 0, 0, 0, 2]])
def test_tokens_do_not_depend_on_when_the_number_of_drafts_changes(
    small_model, tokenizer, answers, switching
):
    engine = Engine(small_model, tokenizer, 2, "auto")
    rounds = iter(switching * 100)
    engine._policy.choose = lambda keys: next(rounds)
    for tokens, completion in zip(answers, engine.generate(MIXED).completions, strict=True):
        assert completion.tokens == tokens
        assert completion.num_committed == completion.num_forwards + sum(completion.accepted)


def test_a_bad_request_fails_alone_with_a_line(small_model, tokenizer):
    requests = [Request([], 4), MIXED[0], Request([3, 999], 4), Request([1] * 256, 4)]
    generated = Engine(small_model, tokenizer, 2).generate(requests)
    errors = [completion.error for completion in generated.completions]
    assert errors[1] is None
    assert "empty" in errors[0]
    assert "token 999" in errors[2]
    assert "context of 256" in errors[3]
    assert generated.completions[1].tokens == decode_without_cache(small_model, MIXED[0])
    assert (generated.stats.num_requests, generated.stats.num_failed) == (4, 3)


def test_events_bring_each_token_once_and_the_completion_last(small_model, tokenizer):
    engine = Engine(small_model, tokenizer, 2, 3)
    streamed: dict[int, list[int]] = {engine.submit(request): [] for request in MIXED}
    completions = {}
    while engine.has_work:
        for event in engine.step():
            assert event.id not in completions
            streamed[event.id] += event.tokens
            if event.completion is not None:
                completions[event.id] = event.completion
    assert {id_: completion.tokens for id_, completion in completions.items()} == streamed


def test_a_cancelled_request_frees_its_row_and_disturbs_nobody(small_model, tokenizer, answers):
    engine = Engine(small_model, tokenizer, 3, 2, prefill_tokens=8)
    ids = [engine.submit(request) for request in MIXED]
    engine.step()
    assert engine.cancel(ids[0])  # being answered
    assert engine.cancel(ids[1])  # its prompt being read
    assert engine.cancel(ids[4])  # waiting
    assert not engine.cancel(ids[4])
    completions = {}
    while engine.has_work:
        completions |= {e.id: e.completion for e in engine.step() if e.completion is not None}
    assert set(completions) == {ids[2], ids[3]}
    for place in (2, 3):
        assert completions[ids[place]].tokens == answers[place]


def test_logprobs_are_the_models_own_before_temperature(small_model, tokenizer):
    sampling = SamplingConfig(temperature=0.5, top_k=40)
    request = Request([8, 9], 9, seed=1, sampling=sampling, num_logprobs=3)
    completion = Engine(small_model, tokenizer, 1, 3).generate([request]).completions[0]
    text = torch.tensor([[*request.prompt, *completion.tokens]])
    logprobs_TV = small_model(text)[0, 0].log_softmax(dim=-1)[1:-1]
    assert completion.logprobs is not None
    assert len(completion.logprobs) == len(completion.tokens)
    for token, ours, row_V in zip(completion.tokens, completion.logprobs, logprobs_TV, strict=True):
        assert ours.logprob == pytest.approx(row_V[token].item(), abs=1e-4)
        top = row_V.topk(3)
        assert [pair[0] for pair in ours.top] == top.indices.tolist()
        assert [pair[1] for pair in ours.top] == pytest.approx(top.values.tolist(), abs=1e-4)


@pytest.mark.parametrize("num_drafts", [2, Tree.product((2, 2))])
def test_a_look_is_one_transfer_with_logprobs_too(small_model, tokenizer, monkeypatch, num_drafts):
    engine = Engine(small_model, tokenizer, 2, num_drafts, rounds_a_look=3)
    for request in (MIXED[0], replace(MIXED[3], max_new_tokens=40)):
        engine.submit(request)
    transfers, listed = [], torch.Tensor.tolist

    def noted(tensor):
        transfers.append(tuple(tensor.shape))
        return listed(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", noted)
    for number in range(1, 4):
        engine.step()
        assert len(transfers) == number


def test_a_stream_ends_with_its_completion(small_model, tokenizer):
    *_, last = Engine(small_model, tokenizer, 1).stream(MIXED[0])
    assert last.completion is not None
    assert last.completion.tokens == decode_without_cache(small_model, MIXED[0])


def test_too_many_rows_for_the_memory_are_refused_with_the_most_that_fit(
    small_model, tokenizer, monkeypatch
):
    monkeypatch.setattr(engine_module, "largest_num_rows", lambda *_: 5)
    with pytest.raises(MachineError, match=r"num_rows = 6: .* the most that do are 5"):
        Engine(small_model, tokenizer, 6)
    assert Engine(small_model, tokenizer, 5).num_rows == 5


def test_a_refused_prompt_is_not_queued(small_model, tokenizer):
    engine = Engine(small_model, tokenizer)
    with pytest.raises(PromptError, match="empty"):
        engine.submit(Request([], 4))
    assert not engine.has_work


def test_completions_given_up_leave_nothing_for_the_next(small_model, tokenizer):
    engine = Engine(small_model, tokenizer, 3, 2)
    begun = engine.complete(MIXED)
    next(begun)
    begun.close()
    assert not engine.has_work
    assert [completion.request for completion in engine.complete([MIXED[3]])] == [MIXED[3]]


def test_a_bad_request_among_others_is_completed_by_its_line(small_model, tokenizer, answers):
    requests = [MIXED[0], Request([], 4), MIXED[2], Request([3, 999], 4), MIXED[4]]
    completions = list(Engine(small_model, tokenizer, 2, 2).complete(iter(requests)))
    assert {id(one.request) for one in completions} == set(map(id, requests))
    errors = {id(one.request): one.error for one in completions}
    assert "empty" in errors[id(requests[1])]
    assert "token 999" in errors[id(requests[3])]
    for place in (0, 2, 4):
        (found,) = (one for one in completions if one.request is requests[place])
        assert (found.error, found.tokens) == (None, answers[place])


def test_completions_are_those_of_its_own_requests(small_model, tokenizer):
    engine = Engine(small_model, tokenizer, 3, 2)
    engine.submit(MIXED[3])
    completions = list(engine.complete([MIXED[0], MIXED[4]]))
    assert {len(completion.request.prompt) for completion in completions} == {3, 57}


@pytest.mark.parametrize("num_drafts", ["auto", "tree"])
def test_a_model_of_one_head_drafts_nothing_whatever_is_asked(small_config, tokenizer, num_drafts):
    config = small_config.model_copy(update={"num_mtp_heads": 1})
    model = build_model(config, seed=1).eval().requires_grad_(False)
    found = Engine(model, tokenizer, 2, num_drafts).generate(MIXED)
    plain = Engine(model, tokenizer, 2, 0).generate(MIXED)
    assert [c.tokens for c in found.completions] == [c.tokens for c in plain.completions]
    assert found.stats.tokens_per_forward == 1


LACKING = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
]


def lacking_beyond(most_rows: int, error: Exception, every: int = 1):
    """A round for which memory suffices only for so many rows; of the others `every` so manieth
    fails, behind all that it writes."""
    num_rounds = 0

    def lacking(model, drafter, state, plan):
        nonlocal num_rounds
        outcome = advance(model, drafter, state, plan)
        num_rounds += state.num_rows > most_rows
        if state.num_rows > most_rows and num_rounds % every == 0:
            raise error
        return outcome

    return lacking


@pytest.mark.parametrize("error", LACKING, ids=["gpu", "cpu"])
@pytest.mark.parametrize(
    "num_drafts, rounds_a_look, every", [(0, 1, 1), (2, 1, 3), (2, 3, 2), ("auto", 4, 7)]
)
def test_where_rows_do_not_fit_fewer_go_on_and_answers_are_the_same(
    small_model, tokenizer, answers, caplog, error, num_drafts, rounds_a_look, every
):
    engine = Engine(
        small_model, tokenizer, 5, num_drafts, prefill_tokens=40, rounds_a_look=rounds_a_look,
        advance=lacking_beyond(2, error, every),
    )  # fmt: skip
    place_of = {engine.submit(request): place for place, request in enumerate(MIXED)}
    streamed: list[list[int]] = [[] for _ in MIXED]
    logprobs = []
    while engine.has_work:
        for event in engine.step():
            streamed[place_of[event.id]] += event.tokens
            logprobs += event.logprobs or ()
    assert streamed == answers
    assert len(logprobs) == len(answers[3])
    assert all("out of memory with" in record.message for record in caplog.records)
    assert caplog.records[-1].message.endswith("going on with 2")
    assert engine.stats.num_failed == 0
    generated = engine.generate(MIXED)  # from now on with as many
    assert [completion.tokens for completion in generated.completions] == answers


def test_a_request_that_does_not_fit_alone_fails_with_a_line_and_the_others_go_on(
    small_model, tokenizer, answers
):
    def lacking(model, drafter, state, plan):
        if state.num_rows > 1 or plan.end > 60:
            raise LACKING[0]
        return advance(model, drafter, state, plan)

    engine = Engine(small_model, tokenizer, 4, 2, advance=lacking)
    found = engine.generate(MIXED).completions
    assert [one.tokens for one in found[:4]] == answers[:4]
    assert found[4].error is not None
    assert found[4].error.startswith("out of memory: a round of one row does not fit")
    assert "\n" not in found[4].error
    assert found[4].tokens == answers[4][: len(found[4].tokens)]
    assert (engine.stats.num_requests, engine.stats.num_failed) == (5, 1)
    assert engine.generate(MIXED[:2]).completions[1].tokens == answers[1]


def test_prompts_that_do_not_fit_together_are_read_alone_and_one_too_long_fails(
    small_model, tokenizer, monkeypatch
):
    engine, read = Engine(small_model, tokenizer, 4, 2), small_model.read
    longest = []

    def lacking(tokens_BT, attending):
        longest.append(tokens_BT.numel())
        if tokens_BT.numel() > 50:
            raise LACKING[1]
        return read(tokens_BT, attending)

    monkeypatch.setattr(engine.model, "read", lacking)
    requests = [Request([7 + i] * length, 6) for i, length in enumerate((30, 40, 99, 35, 3))]
    found = engine.generate(requests).completions
    monkeypatch.undo()
    assert max(longest) > 99  # some were tried together
    assert found[2].error == ("out of memory: reading 99 tokens does not fit; shorten the prompt")
    for place in (0, 1, 3, 4):
        assert found[place].tokens == alone(small_model, tokenizer, requests[place]).tokens


def test_rounds_of_one_shape_have_no_fewer_rows_so_all_in_them_fail(small_model, tokenizer):
    engine = Engine(
        small_model, tokenizer, 2, 2, exact=True, advance=lacking_beyond(1, LACKING[0], every=13)
    )
    found = engine.generate(MIXED).completions
    failed = [one for one in found if one.error is not None]
    assert 2 <= len(failed) < len(MIXED)
    assert all("a round of all 2 rows does not fit" in one.error for one in failed)


def test_errors_that_are_not_of_memory_are_raised_and_all_are_where_it_is_not_to_cope(
    small_model, tokenizer
):
    ours = lacking_beyond(0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        Engine(small_model, tokenizer, 2, 0, advance=ours).generate(MIXED)
    measured = lacking_beyond(2, LACKING[0])
    with pytest.raises(torch.OutOfMemoryError):
        Engine(small_model, tokenizer, 4, 0, advance=measured, sheds_rows=False).generate(MIXED)
