"""Blocks of a mask against the mask itself."""

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_mask

from mtp_code.model.attention import (
    BLOCK,
    _folded,
    attend_cached,
    block_mask,
    dense_mask,
    first_of_document,
    flex,
)
from mtp_code.model.cache import Branches, KeyValueCache, Span
from mtp_code.model.config import ModelConfig
from mtp_code.model.trunk import Trunk


def documents(num_tokens: int) -> torch.Tensor:
    """One document, several, one of a token each, and padding at the end."""
    generator = torch.Generator().manual_seed(num_tokens)
    several = torch.randint(0, 6, (num_tokens,), generator=generator).sort().values
    padded = several.clone()
    padded[num_tokens // 2 :] = -1
    return torch.stack(
        [torch.zeros_like(several), several, torch.arange(num_tokens), padded],
    )


LENGTHS = (5, BLOCK, BLOCK + 1, 300, 4 * BLOCK)


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_blocks_are_seen_where_the_mask_lets_anything_through(num_tokens):
    documents_BT = documents(num_tokens)
    mask_BTT = dense_mask(documents_BT)
    blocks = block_mask(documents_BT)
    num_blocks = -(-num_tokens // BLOCK)
    padding = num_blocks * BLOCK - num_tokens

    def by_block(mask: torch.Tensor) -> torch.Tensor:
        return mask.view(-1, num_blocks, BLOCK, num_blocks, BLOCK)

    seen = by_block(F.pad(mask_BTT, (0, padding, 0, padding))).any(4).any(2)
    assert torch.equal(blocks.to_dense()[:, 0].bool(), seen)
    # Behind the end nobody asks: a block at the edge may be whole.
    whole = by_block(F.pad(mask_BTT, (0, padding, 0, padding), value=True)).all(4).all(2)
    counts, order = blocks.full_kv_num_blocks[:, 0], blocks.full_kv_indices[:, 0]
    listed = torch.zeros_like(whole)
    for row in range(len(counts)):
        for query in range(num_blocks):
            listed[row, query, order[row, query, : counts[row, query]].long()] = True
    assert not (listed & ~whole).any()
    assert torch.equal(listed, whole & torch.ones(num_blocks, num_blocks).tril(-1).bool())


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_inside_a_block_the_mask_is_the_same(num_tokens):
    documents_BT = documents(num_tokens)
    blocks = block_mask(documents_BT)
    size = len(documents_BT), 1, num_tokens, num_tokens
    assert torch.equal(
        create_mask(blocks.mask_mod, *size, device="cpu")[:, 0], dense_mask(documents_BT)
    )


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_attention_by_blocks_equals_attention_by_booleans():
    documents_BT = documents(300)
    query = torch.randn(4, 4, 300, 16)
    key, value = torch.randn(2, 4, 2, 300, 16)
    dense = F.scaled_dot_product_attention(
        query, key, value, attn_mask=dense_mask(documents_BT)[:, None], enable_gqa=True
    )
    assert torch.allclose(flex(query, key, value, block_mask(documents_BT), True), dense, atol=1e-5)


def test_documents_begin_where_their_number_changes():
    found = first_of_document(torch.tensor([[0, 0, 1, 1, 1, 2, -1, -1]]))
    assert found.tolist() == [[0, 0, 2, 2, 2, 5, 6, 6]]


@pytest.mark.parametrize("num_masks", [1, 3])
def test_queries_of_a_group_behind_one_another_equal_groups(num_masks):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 6, 5, 8, generator=generator, dtype=torch.float64)
    key, value = torch.randn(2, 3, 2, 9, 8, generator=generator, dtype=torch.float64)
    sees_BTS = torch.rand(num_masks, 5, 9, generator=generator) < 0.5
    sees_BTS[..., 0] = True
    mask_BTS = torch.zeros_like(sees_BTS, dtype=torch.float64).masked_fill_(~sees_BTS, -torch.inf)
    torch.testing.assert_close(
        _folded(query, key, value, mask_BTS), attend_cached(query, key, value, mask_BTS)
    )


@pytest.mark.parametrize("is_tree", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_added_to_scores_is_to_the_bit_what_booleans_would_be(is_tree, dtype):
    """Each token sees its row up to itself, and of a tree its own branch."""
    config = ModelConfig(
        vocab_size=20, width=16, num_layers=1, num_attn_heads=2, ffn_width=16, context=16
    )
    cache = KeyValueCache(config, num_rows=2, capacity=16, dtype=dtype)
    positions_BT = torch.tensor([[3, 4, 5], [7, 8, 9]])
    branches, sees_BTS = None, torch.arange(12) <= positions_BT[..., None]
    if is_tree:  # the last two tokens are brothers
        branches = Branches(
            torch.tensor([0, 1, 1]), torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]]) > 0
        )
        sees_BTS[0, 2, 4] = sees_BTS[1, 2, 8] = False
    mask_BTS = Trunk(config).attend_span(cache, Span(positions_BT, None, 12, branches)).mask_BQT
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 2, 3, 8, generator=generator).to(dtype)
    key, value = torch.randn(2, 2, 2, 12, 8, generator=generator).to(dtype)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=sees_BTS[:, None])
    assert torch.equal(attend_cached(query, key, value, mask_BTS), expected)
