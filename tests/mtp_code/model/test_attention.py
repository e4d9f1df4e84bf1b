"""Blocks of a mask against the mask itself."""

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_mask

from mtp_code.model.attention import BLOCK, block_mask, dense_mask, first_of_document, flex


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
