import itertools
import random

import pytest
import torch

from mtp_code.decoding.engine import Engine
from mtp_code.decoding.exactness import LEAST_P_VALUE, p_value, tiny_model
from mtp_code.decoding.requests import Request, SamplingConfig
from mtp_code.decoding.tree import MAX_NODES, Tree, follow, tensors_of
from mtp_code.model.mtp import build_model
from tests.mtp_code.decoding.test_runner import REQUESTS

RATES = [[0.5, 0.3, 0.1], [0.4, 0.2, 0.2], [0.9, 0.05, 0.01]]


@pytest.fixture(scope="module")
def agreeing(small_model):
    """Heads that are head 1 over again, over a trunk that hardly mixes: drafts stand now and then,
    and not always the likeliest."""
    model = build_model(small_model.config, seed=1)
    model.load_state_dict(small_model.state_dict())
    with torch.no_grad():
        for layer in model.mtp_heads.layers[1:]:
            layer.load_state_dict(model.mtp_heads.layers[0].state_dict())
        for layer in model.trunk.layers:
            layer.attn.out.weight.mul_(0.05)
    return model.eval().requires_grad_(False)


def expected_of_paths(paths: set[tuple[int, ...]]) -> float:
    return sum(
        torch.tensor([RATES[depth][rank] for depth, rank in enumerate(path)]).prod().item()
        for path in paths
    )


def test_the_best_tree_of_a_size_is_the_best_of_all():
    everything = [
        path for length in (1, 2, 3) for path in itertools.product(range(3), repeat=length)
    ]
    closed = [
        chosen
        for chosen in map(set, itertools.combinations(everything[:21], 4))
        if all(len(path) == 1 or path[:-1] in chosen for path in chosen)
    ]
    most = 1 + max(expected_of_paths(chosen) for chosen in closed)
    assert Tree.best(RATES, 5).expected_tokens(RATES) == pytest.approx(most)


def test_a_trees_worth_is_what_it_accepts():
    """Played: each offset's right token is drawn from its rates, whatever came before."""
    tree, dice, num_rounds = Tree.best(RATES, 9), random.Random(0), 20_000
    tensors = tensors_of(tree, torch.device("cpu"))
    tokens_BN = torch.tensor([tree.ranks]).expand(num_rounds, -1)
    by_depth = torch.tensor(
        [
            [dice.choices(range(4), [*row, 1 - sum(row)])[0] for row in [*RATES, [1.0, 0.0, 0.0]]]
            for _ in range(num_rounds)
        ]
    )
    targets_BN = by_depth[:, tensors.depths_N]
    _, accepted_B = follow(tensors, tree.num_drafts, tokens_BN, targets_BN)
    found = 1 + accepted_B.double().mean().item()
    assert found == pytest.approx(tree.expected_tokens(RATES), abs=0.02)


def test_following_stops_at_the_first_token_that_no_child_holds():
    tree = Tree.product([2, 2])
    tensors = tensors_of(tree, torch.device("cpu"))
    tokens_BN = torch.tensor([[0, 10, 11, 20, 21, 20, 21]] * 3)
    targets_BN = torch.tensor(
        [[11, 0, 21, 0, 0, 0, 0], [12, 20, 20, 0, 0, 0, 0], [10, 22, 20, 0, 0, 0, 0]]
    )
    path_BT, accepted_B = follow(tensors, 2, tokens_BN, targets_BN)
    assert accepted_B.tolist() == [2, 0, 1]
    assert path_BT.tolist() == [[0, 2, 6], [0, 0, 0], [0, 1, 1]]


@pytest.fixture(scope="module")
def plain(agreeing, tokenizer):
    return Engine(agreeing, tokenizer, 1, 0).generate(REQUESTS).completions


@pytest.mark.parametrize("num_rows", [pytest.param(1, marks=pytest.mark.thorough), 3])
@pytest.mark.parametrize("shape", [Tree.product([3, 2, 2]), Tree.best(RATES, 32), "tree"])
def test_trees_give_plain_decodings_tokens(agreeing, tokenizer, plain, shape, num_rows):
    engine = Engine(agreeing, tokenizer, num_rows, shape)
    found = engine.generate(REQUESTS).completions
    for ours, theirs in zip(found, plain, strict=True):
        assert ours.tokens == theirs.tokens
        assert ours.ended_by == theirs.ended_by
        assert ours.num_committed == ours.num_forwards + sum(ours.accepted)
        if theirs.logprobs is not None:
            for one, other in zip(ours.logprobs, theirs.logprobs, strict=True):
                assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


def test_a_tree_accepts_what_a_line_does_not(agreeing, tokenizer):
    requests = [Request([token, 5], 30) for token in range(60, 76)]
    line = Engine(agreeing, tokenizer, 8, 3).generate(requests).stats
    tree = Engine(agreeing, tokenizer, 8, Tree.product([3, 3, 1])).generate(requests).stats
    assert tree.tokens_per_forward > line.tokens_per_forward > 1


@pytest.mark.parametrize("heads", ["causal", "anticausal", "linear"])
def test_heads_of_other_kinds_draft_trees(small_config, tokenizer, heads):
    model = build_model(small_config.model_copy(update={"heads": heads}), seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(6)
    requests = REQUESTS[:3]
    plain = Engine(model, tokenizer, 1, 0).generate(requests).completions
    found = Engine(model, tokenizer, 2, Tree.product([2, 2, 2])).generate(requests).completions
    assert [one.tokens for one in found] == [one.tokens for one in plain]


def test_heads_that_read_drafts_are_refused(small_config, tokenizer):
    model = build_model(small_config.model_copy(update={"heads": "sequential"}), seed=1)
    with pytest.raises(ValueError, match="token by token, which makes no tree"):
        Engine(model, tokenizer, 1, "tree")


def test_samples_of_trees_follow_the_models_law():
    """A tree with three ranks at its second offset: the bench's settings have two."""
    sampling = SamplingConfig(temperature=1.0)
    assert p_value(tiny_model(), sampling, Tree.product([2, 3]), 2_000) > LEAST_P_VALUE


def test_trees_that_are_none_are_refused():
    assert Tree.product([1, 1, 1]).num_drafts == 3
    for widths in ([8, 8], []):
        with pytest.raises(ValueError, match=rf"2\.\.{MAX_NODES} nodes"):
            Tree.product(widths)
    with pytest.raises(ValueError, match="parent must come before"):
        Tree((0, 2, 1), (0, 0, 0))
    with pytest.raises(ValueError, match="ranks of their own"):
        Tree((0, 0, 0), (0, 1, 1))
    with pytest.raises(ValueError, match="order of depth"):
        Tree((0, 0, 1, 0), (0, 0, 0, 1))
