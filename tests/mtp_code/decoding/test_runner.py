import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

from mtp_code.decoding import engine as engine_module
from mtp_code.decoding import runner as runner_module
from mtp_code.decoding.engine import Engine
from mtp_code.decoding.requests import Request, SamplingConfig
from mtp_code.decoding.runner import Graphed, Shapes
from mtp_code.decoding.tree import Tree, tensors_of
from mtp_code.model.mtp import build_model

REQUESTS = [
    Request([5, 6, 7], 24),
    Request([9] * 30, 12, seed=3, sampling=SamplingConfig(temperature=1.0)),
    Request([40], 14, seed=4, sampling=SamplingConfig(temperature=0.7, top_p=0.8, top_k=20)),
    Request([1, 2], 6, num_logprobs=2),
    Request(list(range(3, 60)), 30),
    Request([7] * 240, 100),
]


def plain_tokens(model, tokenizer, requests):
    completions = Engine(model, tokenizer, 1, 0).generate(requests).completions
    return [completion.tokens for completion in completions]


def recorded_on_a_cpu(rounds):
    """As a graph would: what is recorded runs again, and leaves its outcomes where it first did."""
    outcomes = rounds()

    def replay():
        for old, new in zip(outcomes, rounds(), strict=True):
            for name in ("targets_BT", "accepted_B", "is_drafted_B", "ranks_Bk"):
                if getattr(old, name) is not None:
                    getattr(old, name).copy_(getattr(new, name))
            if old.logprobs is not None:
                for one, other in zip(old.logprobs, new.logprobs, strict=True):
                    one.copy_(other)

    return replay, outcomes


@pytest.fixture(scope="module")
def plain(small_model, tokenizer) -> list[list[int]]:
    return plain_tokens(small_model, tokenizer, REQUESTS)


@pytest.mark.parametrize("num_drafts", [0, 3, "auto", Tree.product([2, 2])])
@pytest.mark.parametrize("num_rows", [pytest.param(1, marks=pytest.mark.thorough), 5])
def test_rounds_between_two_looks_change_no_token(
    small_model, tokenizer, plain, num_drafts, num_rows
):
    engine = Engine(small_model, tokenizer, num_rows, num_drafts, 16, rounds_a_look=8)
    found = engine.generate(REQUESTS).completions
    assert [one.tokens for one in found] == plain
    for completion in found:
        assert completion.num_committed == completion.num_forwards + sum(completion.accepted)


@pytest.mark.parametrize("num_drafts", [0, 2, Tree.product([2, 2])])
def test_recorded_rounds_in_buckets_of_shapes_change_no_token(
    small_model, tokenizer, plain, num_drafts
):
    """A GPU's path, with a recorder that needs none; rows idle, are read and freed in between."""
    engine = Engine(small_model, tokenizer, 5, num_drafts, 16, rounds_a_look=3)
    engine._shapes = Shapes.BUCKETS
    engine._runner = Graphed(engine._runner, lambda: recorded_on_a_cpu)
    for _ in range(2):
        found = engine.generate(REQUESTS).completions
        assert [one.tokens for one in found] == plain
    assert 1 < len(engine._runner._recorded) < 24


def graphed(model, tokenizer, num_drafts, record=recorded_on_a_cpu):
    engine = Engine(model, tokenizer, 2, num_drafts, rounds_a_look=8)
    engine._shapes = Shapes.BUCKETS
    engine._runner = Graphed(engine._runner, lambda: record)
    return engine


def test_what_recording_takes_counts_as_no_round(small_model, tokenizer, monkeypatch):
    """Nor as the cost of trying drafts out, which would forbid to try them again."""
    now_s = 0.0
    for module in (engine_module, runner_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now_s))

    def record(rounds):
        nonlocal now_s
        now_s += 1000
        replay, outcomes = recorded_on_a_cpu(rounds)

        def replay_in_a_second():
            nonlocal now_s
            now_s += 1
            replay()

        return replay_in_a_second, outcomes

    engine = graphed(small_model, tokenizer, "auto", record)
    stats, policy = engine.generate([Request([5, 6, 7], 200)] * 4).stats, engine._policy
    num_recorded = len(engine._runner._recorded)
    assert num_recorded >= 2
    assert stats.recording_s == 1000 * num_recorded
    num_looks = stats.decode_s
    assert num_looks <= stats.num_rounds <= 8 * num_looks
    assert policy._elapsed_s == num_looks - num_recorded > 0
    assert policy._looking_s <= policy._elapsed_s
    times_s = [timed.round_s for timed in policy._recent]
    assert set(times_s) <= {1 / 8, 1.0}
    assert 2 <= len(times_s) <= num_looks - num_recorded


def test_what_heads_read_to_catch_up_counts_as_reading_prompts(small_model, tokenizer, monkeypatch):
    now_s, in_engine = 0.0, engine_module.draft

    def draft_in_a_second(*args):
        nonlocal now_s
        now_s += 1
        return in_engine(*args)

    monkeypatch.setattr(engine_module, "time", SimpleNamespace(perf_counter=lambda: now_s))
    monkeypatch.setattr(engine_module, "draft", draft_in_a_second)
    engine = Engine(small_model, tokenizer, 2, 3, rounds_a_look=8)
    stats = engine.generate([Request([5, 6, 7] * 10, 12), Request([9] * 60, 12)]).stats
    assert stats.prefill_s == now_s > 0
    assert stats.decode_s == 0


def test_on_a_gpu_tokens_alone_and_several_have_the_same_kernels_of_attention():
    def enabled():
        of = torch.backends.cuda
        return of.cudnn_sdp_enabled(), of.mem_efficient_sdp_enabled(), of.math_sdp_enabled()

    before = enabled()
    with engine_module._kernels_of_any_length(torch.device("cuda")):
        assert enabled() == (False, True, True)
    assert enabled() == before
    with engine_module._kernels_of_any_length(torch.device("cpu")):
        assert enabled() == before


def test_what_a_recording_reads_of_its_tree_is_kept_with_it(small_model, tokenizer):
    tree = Tree.product([3, 2])
    engine = graphed(small_model, tokenizer, tree)
    engine.generate([Request([5, 6, 7], 24)])
    tensors = weakref.ref(tensors_of(tree, torch.device("cpu")).sees_NN)
    tensors_of.cache_clear()
    gc.collect()
    assert tensors() is not None
    engine._runner._recorded.clear()
    gc.collect()
    assert tensors() is None


def test_an_engine_that_is_gone_leaves_no_memory_behind(small_model, tokenizer):
    engine = Engine(small_model, tokenizer, 2, 2)
    engine.generate([Request([5, 6, 7], 8)] * 3)
    state = weakref.ref(engine._state.rows(0, 1).cache.lengths_B)
    gc.disable()
    try:
        del engine
        assert state() is None
    finally:
        gc.enable()


def test_buckets_are_few_and_hold_what_is_asked():
    assert {Shapes.BUCKETS.rows(n, 12) for n in range(1, 13)} == {1, 2, 4, 8, 12}
    assert {Shapes.BUCKETS.end(n, 1032) for n in range(1, 1033)} == {256, 512, 1024, 1032}
    for shapes in Shapes:
        assert all(shapes.rows(n, 12) >= n and shapes.end(n, 32) >= n for n in range(1, 13))
    assert Shapes.FIXED.rows(1, 12) == 12


@pytest.fixture(scope="module")
def in_bf16(small_model):
    model = build_model(small_model.config, seed=1)
    model.load_state_dict(small_model.state_dict())
    return model.to(torch.bfloat16).eval().requires_grad_(False)


def test_with_one_shape_for_all_forwards_tokens_are_exact_in_bf16_too(in_bf16, tokenizer):
    requests = [Request([token, 5, 9 * (token % 20)], 30) for token in range(40, 52)]

    def tokens(num_drafts, exact):
        engine = Engine(in_bf16, tokenizer, 4, num_drafts, 16, exact=exact)
        return [completion.tokens for completion in engine.generate(requests).completions]

    plain = tokens(0, exact=True)
    assert tokens(3, exact=True) == tokens(1, exact=True) == plain
    assert tokens(3, exact=False) != tokens(0, exact=False)  # or it would show nothing


def test_trees_and_one_shape_for_all_do_not_go_together(small_model, tokenizer):
    with pytest.raises(ValueError, match="draft in a line"):
        Engine(small_model, tokenizer, 1, "tree", exact=True)
    with pytest.raises(ValueError, match="rounds_a_look must be at least 1, got 0"):
        Engine(small_model, tokenizer, 1, rounds_a_look=0)


@pytest.mark.parametrize("lacks", ["reading", "a round"])
def test_no_request_fails_for_memory_that_recordings_hold(
    small_model, tokenizer, plain, lacks, monkeypatch
):
    """And what is recorded behind them goes elsewhere: not every pool of memory is fit for more."""
    recorders = []

    def recorder():
        recorders.append(weakref.WeakSet())
        return record

    def record(rounds):
        if lacks == "a round":
            lack()
        replay, outcomes = recorded_on_a_cpu(rounds)
        recorders[-1].add(outcomes[0].targets_BT)
        return replay, outcomes

    def lack():
        gc.collect()
        if any(recorders):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    read = small_model.read

    def lacking(tokens_BT, attending):
        if tokens_BT.numel() > 100:  # the longest prompt alone
            lack()
        return read(tokens_BT, attending)

    engine = Engine(small_model, tokenizer, 1 if lacks == "a round" else 2, 2, rounds_a_look=3)
    engine._shapes = Shapes.BUCKETS
    engine._runner = Graphed(engine._runner, recorder)
    if lacks == "reading":
        monkeypatch.setattr(small_model, "read", lacking)
    found = engine.generate(REQUESTS).completions
    assert [one.error for one in found] == [None] * len(REQUESTS)
    assert [one.tokens for one in found] == plain
    assert len(recorders) > 1
    assert not any(recorders[:-1])
