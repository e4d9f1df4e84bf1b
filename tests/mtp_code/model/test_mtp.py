import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from mtp_code.model.cache import KeyValueCache, Span
from mtp_code.model.config import ModelConfig
from mtp_code.model.heads.parallel import StackedHeads
from mtp_code.model.layers import Attending
from mtp_code.model.mtp import MTPModel, Reading, build_model
from tests.reference import states_of_all_heads

SHAPES = {
    "plain": {},
    "grouped queries": {"num_kv_heads": 2},
    "biased and normed": {"qkv_bias": True, "qk_norm": True},
    "wide attention heads": {"attn_head_width": 16},
    "tied": {"tied_embeddings": True},
}

HEADS = ("parallel", "causal", "anticausal", "linear", "sequential")
ARCHITECTURES = {
    **{heads: {"heads": heads} for heads in HEADS},
    "replicated": {"replicated_unembeddings": True},
}


def config_of(**changes: object) -> ModelConfig:
    values = {
        "vocab_size": 61, "width": 32, "num_layers": 5, "num_attn_heads": 4, "ffn_width": 48,
        "num_mtp_heads": 3, "context": 40,
    }  # fmt: skip
    return ModelConfig.model_validate(values | changes)


def model_of(**changes: object) -> MTPModel:
    model = build_model(config_of(**changes), seed=0).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Not the initial ones and zeros, which would hide a norm or bias in the wrong place.
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(len(name)))
            else:
                parameter.mul_(5)
    return model.requires_grad_(False)


def tokens_of(rows: int, length: int) -> Tensor:
    return torch.randint(0, 61, (rows, length), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_trunk_and_first_head_are_a_llama_model(changes):
    """Against the transformers library's Llama (Qwen3 where queries and keys are normed)."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    ours = model_of(**changes)
    shape = ours.config
    kind, kind_config = (
        (Qwen3ForCausalLM, Qwen3Config) if shape.qk_norm else (LlamaForCausalLM, LlamaConfig)
    )
    theirs = kind(
        kind_config(
            vocab_size=61,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=shape.num_trunk_layers + 1,
            num_attention_heads=4,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_width,
            max_position_embeddings=40,
            rms_norm_eps=shape.norm_eps,
            rope_theta=shape.rope_theta,
            attention_bias=shape.qkv_bias,
            tie_word_embeddings=shape.tied_embeddings,
        )
    ).double()
    weights = {
        "model.embed_tokens.weight": ours.trunk.embedding.weight,
        "model.norm.weight": ours.norm.weight,
        "lm_head.weight": ours.unembedding.weight,
    }
    for number, block in enumerate([*ours.trunk.layers, ours.mtp_heads.layers[0]]):
        prefix = f"model.layers.{number}."
        attn = block.attn
        names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        widths = [n * attn.head_width for n in (shape.num_attn_heads, *[shape.kv_heads] * 2)]
        for name, weight in zip(names, attn.qkv.weight.split(widths), strict=True):
            weights[f"{prefix}{name}.weight"] = weight
        if shape.qkv_bias:
            for name, bias in zip(names, attn.qkv.bias.split(widths), strict=True):
                weights[f"{prefix}{name}.bias"] = bias
            weights[prefix + "self_attn.o_proj.bias"] = torch.zeros(32)
        if shape.qk_norm:
            weights[prefix + "self_attn.q_norm.weight"] = attn.q_norm.weight
            weights[prefix + "self_attn.k_norm.weight"] = attn.k_norm.weight
        gate, up = block.ffn.gate_up.weight.chunk(2)
        weights |= {
            prefix + "self_attn.o_proj.weight": attn.out.weight,
            prefix + "mlp.gate_proj.weight": gate,
            prefix + "mlp.up_proj.weight": up,
            prefix + "mlp.down_proj.weight": block.ffn.down.weight,
            prefix + "input_layernorm.weight": block.attn_norm.weight,
            prefix + "post_attention_layernorm.weight": block.ffn_norm.weight,
        }
    theirs.load_state_dict(weights)
    tokens_BT = tokens_of(2, 17)
    with torch.no_grad():
        expected = theirs(tokens_BT).logits
    torch.testing.assert_close(ours(tokens_BT)[0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("changes", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_under_autocast_the_residual_stream_stays_in_fp32(changes):
    model, tokens_BS = model_of(**changes).float(), tokens_of(2, 9)
    with torch.autocast("cpu", torch.bfloat16):
        attending = model.trunk.attend(tokens_BS[:, :6])
        reading = Reading(model, tokens_BS, model.trunk(tokens_BS[:, :6], attending), attending)
        states = [reading.states(offset) for offset in (1, 2, 3)]
    assert [state.dtype for state in states] == [torch.float32] * 3


def test_sequential_heads_need_a_trunk():
    assert config_of(heads="sequential", num_layers=3).num_trunk_layers == 1
    with pytest.raises(ValidationError, match=r"leaves no layer for the trunk.* at least 3"):
        config_of(heads="sequential", num_layers=2)


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_every_head_says_what_its_paper_says(changes):
    for heads in ARCHITECTURES.values():
        if heads.get("replicated_unembeddings") and changes.get("tied_embeddings"):
            continue
        model = model_of(**changes, **heads)
        tokens_BT = tokens_of(2, 12)
        found_KBTV = model(tokens_BT)
        # Behind its end, the text goes on with what the heads expect of its last position.
        drafts_BK = found_KBTV[:, :, -1].argmax(dim=-1).T
        tokens_BS = torch.cat((tokens_BT, drafts_BK), dim=1)
        attending = model.trunk.attend(tokens_BT)
        hidden_BTD = model.trunk(tokens_BT, attending)
        for offset, states_BTD in enumerate(
            states_of_all_heads(model, tokens_BS, hidden_BTD, attending), 1
        ):
            expected_BTV = model.unembed(offset, states_BTD)
            torch.testing.assert_close(found_KBTV[offset - 1], expected_BTV)


def attend_behind(model: MTPModel, cache: KeyValueCache, num_tokens: int) -> Attending:
    """Of each row's next tokens over what the cache holds of that row."""
    lengths = cache.lengths_B.tolist()
    slots_BT = cache.lengths_B[:, None] + torch.arange(num_tokens)
    start = lengths[0] if min(lengths) == max(lengths) else None
    return model.trunk.attend_span(cache, Span(slots_BT, start, max(lengths) + num_tokens))


@pytest.mark.parametrize("changes", [*SHAPES.values(), *ARCHITECTURES.values()])
def test_reading_piece_by_piece_equals_reading_at_once(changes):
    model = model_of(**changes)
    tokens_BS = tokens_of(2, 14)
    whole_KBTV = model(tokens_BS)[:, :, :12]
    cache = KeyValueCache(model.config, num_rows=2, capacity=12, dtype=torch.float64)
    pieces, begin = [], 0
    for length in (5, 1, 4, 2):
        attending = attend_behind(model, cache, length)
        piece_BT = tokens_BS[:, begin : begin + length]
        reading = model.read(piece_BT, attending)
        reading.tokens_BS = tokens_BS[:, begin : begin + length + 2]
        pieces.append(torch.stack([reading.logits(offset) for offset in (1, 2, 3)]))
        cache.commit(torch.full((2,), length))
        begin += length
    torch.testing.assert_close(torch.cat(pieces, dim=2), whole_KBTV)


def test_rows_advance_and_roll_back_on_their_own():
    model = model_of(num_kv_heads=2)
    tokens_BT = tokens_of(3, 14)
    cache = KeyValueCache(model.config, num_rows=3, capacity=20, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    while (begin_B := cache.lengths_B.clone()).max() < 11:
        # Three tokens a row, of which the last ones may be wrong drafts that are rolled back.
        kept_B = torch.randint(1, 4, (3,), generator=generator)
        places_BT = begin_B[:, None] + torch.arange(3)
        piece_BT = tokens_BT.gather(1, places_BT)
        wrong_BT = torch.arange(3) >= kept_B[:, None]
        piece_BT = torch.where(wrong_BT, (piece_BT + 7) % 61, piece_BT)
        attending = attend_behind(model, cache, 3)
        logits_BTV = model.read(piece_BT, attending).logits(1)
        for row in range(3):
            end = int(begin_B[row] + kept_B[row])
            expected = model(tokens_BT[row : row + 1, :end])[0, 0]
            ours = logits_BTV[row, : int(kept_B[row])]
            torch.testing.assert_close(ours, expected[int(begin_B[row]) :])
        cache.commit(kept_B)


@pytest.mark.parametrize("heads", HEADS)
def test_answering_for_one_token_equals_answering_for_all(heads):
    model = model_of(num_kv_heads=2, qkv_bias=True, qk_norm=True, heads=heads)
    tokens_BS = tokens_of(3, 11)
    tokens_BT = tokens_BS[:, :9]
    chosen_B = torch.tensor([8, 0, 4])
    for make in ("whole", "cached"):
        if make == "whole":
            same = torch.zeros(3, 9, dtype=torch.int)
            attending = model.trunk.attend(tokens_BT, same)
        else:
            cache = KeyValueCache(model.config, num_rows=3, capacity=9, dtype=torch.float64)
            attending = attend_behind(model, cache, 9)
        hidden_BTD = model.trunk(tokens_BT, attending)
        for offset in (1, 2, 3):
            all_BTD, only_B1D = (
                ask(Reading(model, tokens_BS, hidden_BTD, attending), offset, chosen_B)
                for ask in (lambda reading, k, _: reading.states(k), Reading.states_at)
            )
            torch.testing.assert_close(only_B1D[:, 0], all_BTD[torch.arange(3), chosen_B])


@pytest.mark.parametrize("heads", HEADS)
def test_no_head_runs_twice_in_one_reading(heads):
    model = model_of(heads=heads)
    ran: list[int] = []
    model.mtp_heads.register_forward_pre_hook(lambda _, inputs: ran.append(inputs[0]))
    model(tokens_of(1, 6))
    assert sorted(ran) == [1, 2, 3]


def test_the_order_of_backward_has_each_head_before_the_one_it_reads():
    for heads in HEADS:
        module = model_of(heads=heads).mtp_heads
        order = module.backward_order([1, 2, 3])
        assert sorted(order) == [1, 2, 3]
        for offset in order:
            below = module.reads(offset)
            assert below == 0 or order.index(offset) < order.index(below)
    assert model_of().mtp_heads.backward_order([1, 2, 3]) == [1, 2, 3]
    assert model_of(heads="causal").mtp_heads.backward_order([2]) == [2, 1]
    assert model_of(heads="anticausal").mtp_heads.backward_order([2]) == [2, 3]


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("ragged", [False, True])
def test_stacked_heads_equal_the_heads_one_by_one(changes, ragged):
    model = model_of(**changes)
    tokens_BT = tokens_of(3, 12)
    caches = [KeyValueCache(model.config, 3, 12, torch.float64) for _ in range(2)]
    stacked = StackedHeads(model.mtp_heads, range(2, 4), model.config)
    if ragged:
        for cache in caches:
            cache.commit(torch.tensor([0, 3, 1]))
    for piece_BT in tokens_BT[:, :9].split([5, 1, 3], dim=1):
        chosen_B = torch.tensor([piece_BT.shape[1] - 1, 0, piece_BT.shape[1] // 2])
        first, second = (
            attend_behind(model, cache, piece_BT.shape[1]).only(chosen_B) for cache in caches
        )
        hidden_BTD = model.trunk.embedding(piece_BT)
        one_by_one = [model.mtp_heads(offset, hidden_BTD, first)[:, 0] for offset in (2, 3)]
        torch.testing.assert_close(stacked(hidden_BTD, second), torch.stack(one_by_one))
        for cache in caches:
            cache.commit(torch.full((3,), piece_BT.shape[1]))
    heads = slice(model.config.num_trunk_layers + 1, None)
    torch.testing.assert_close(caches[0].keys_LBHCd[heads], caches[1].keys_LBHCd[heads])


@pytest.mark.parametrize("heads", HEADS)
def test_no_position_sees_the_future(heads):
    """But for the tokens in between, which sequential heads read by design."""
    model = model_of(heads=heads)
    tokens_BT = tokens_of(1, 10)
    changed_BT = tokens_BT.clone()
    changed_BT[:, 6] = (changed_BT[:, 6] + 1) % 61
    ours, theirs = model(tokens_BT), model(changed_BT)
    for offset in (1, 2, 3):
        first = 6 - (offset - 1 if heads == "sequential" else 0)
        torch.testing.assert_close(ours[offset - 1, :, :first], theirs[offset - 1, :, :first])
        assert not torch.allclose(ours[offset - 1, :, first], theirs[offset - 1, :, first])


@pytest.mark.parametrize("heads", ["parallel", "causal", "anticausal"])
@pytest.mark.parametrize("num_mtp_heads", [1, 2, 4])
def test_heads_take_their_layers_from_the_trunk_at_equal_parameters(heads, num_mtp_heads):
    model = build_model(config_of(heads=heads, num_mtp_heads=num_mtp_heads), seed=0)
    plain = build_model(config_of(num_mtp_heads=1), seed=0)
    assert len(model.trunk.layers) == 5 - num_mtp_heads
    count = [sum(p.numel() for p in m.parameters()) for m in (model, plain)]
    assert count[0] == count[1]


@pytest.mark.parametrize(("heads", "in_trunk"), [("linear", 5), ("sequential", 3)])
def test_the_trunk_keeps_what_the_heads_do_not_take(heads, in_trunk):
    model = build_model(config_of(heads=heads), seed=0)
    assert len(model.trunk.layers) == model.config.num_trunk_layers == in_trunk


def test_one_head_is_the_same_model_in_every_architecture():
    tokens_BT = tokens_of(2, 9)
    expected = model_of(num_mtp_heads=1)
    weights = dict(expected.named_parameters())
    for heads in HEADS[1:]:
        model = model_of(num_mtp_heads=1, heads=heads)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                # Where the trunk's states are head 1's, its last layer is the parallel head.
                parameter.copy_(weights[name.replace("trunk.layers.4", "mtp_heads.layers.0")])
        torch.testing.assert_close(model(tokens_BT), expected(tokens_BT))


@pytest.mark.parametrize("heads", HEADS)
def test_replicated_unembeddings_are_one_for_each_offset(heads):
    model = model_of(heads=heads, replicated_unembeddings=True)
    weights = [model.unembedding_for(offset).weight for offset in (1, 2, 3)]
    assert len({id(weight) for weight in weights}) == 3
    assert model.vocabulary_weights() == {model.trunk.embedding.weight, *weights}
    shared = model_of(heads=heads)
    assert len({id(shared.unembedding_for(offset).weight) for offset in (1, 2, 3)}) == 1


def test_the_default_heads_keep_the_names_that_checkpoints_know():
    names = {name.split(".layers.")[0] for name, _ in model_of().named_parameters()}
    assert names == {
        "trunk.embedding.weight", "trunk", "mtp_heads", "norm.weight", "unembedding.weight",
    }  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"qkv_bias": True}, {"heads": "sequential"}])
def test_equal_seeds_give_equal_weights(changes):
    first, second, other = (build_model(config_of(**changes), seed=seed) for seed in (1, 1, 2))
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_mtp_heads": 6}, "needs at least as many num_layers"),
        ({"width": 30}, "set attn_head_width"),
        ({"num_kv_heads": 3}, "no multiple of num_kv_heads"),
        ({"attn_head_width": 5}, "even width"),
        ({"heads": "paralel"}, "parallel"),
        ({"heads": "sequential", "num_mtp_heads": 7}, "needs at least as many num_layers"),
        ({"tied_embeddings": True, "replicated_unembeddings": True}, "set one of them"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes, complaint):
    with pytest.raises(ValidationError, match=complaint):
        config_of(**changes)
