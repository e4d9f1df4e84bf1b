"""Attention within documents: by a mask of T × T booleans, or of blocks that a kernel skips."""

import functools
from collections.abc import Callable
from typing import Any, Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK: Final = 128
"""Positions of a block, by queries and by keys: the smallest that FlexAttention's kernels take."""

Mask = Tensor | BlockMask
"""Which queries may look where: (B, Q, T) booleans, or what is added to their scores; or blocks."""


class DocumentMask(Protocol):
    """How a forward of whole rows keeps attention within each document."""

    def __call__(self, documents_BT: Tensor) -> Mask | None:
        """Causal within each document, of which each is one piece of its row; None is causal."""


def dense_mask(documents_BT: Tensor) -> Tensor:
    """For any device, and what others are held to: B · T² booleans."""
    positions_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    causal_TT = positions_T[:, None] >= positions_T
    return (documents_BT[:, :, None] == documents_BT[:, None]) & causal_TT


def block_mask(documents_BT: Tensor) -> BlockMask:
    """For FlexAttention: B · (T / 128)² numbers, and no more is ever made.

    Since a document is one piece, a query sees what lies between its document's first token and
    itself. So the blocks that a block of queries sees are a range, and all of a range but its ends
    are seen as a whole.

    Source: FlexAttention, Dong et al. 2024, arXiv 2412.05496.
    """
    num_tokens = documents_BT.shape[1]
    first_BT = first_of_document(documents_BT)

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (key >= first_BT[row, query])

    num_blocks = -(-num_tokens // BLOCK)
    blocks_K = torch.arange(num_blocks, device=documents_BT.device)
    last_query_Q = ((blocks_K + 1) * BLOCK - 1).clamp(max=num_tokens - 1)
    # Firsts never fall along a row: those of a block's first and last query are the extremes.
    seen_from_BQ1 = (first_BT[:, blocks_K * BLOCK] // BLOCK)[..., None]
    whole_from_BQ1 = first_BT[:, last_query_Q][..., None]
    here_Q1 = blocks_K[:, None]
    is_whole_BQK = (blocks_K < here_Q1) & (blocks_K * BLOCK >= whole_from_BQ1)
    is_part_BQK = (blocks_K <= here_Q1) & (blocks_K >= seen_from_BQ1) & ~is_whole_BQK
    return BlockMask.from_kv_blocks(
        *_listed(is_part_BQK[:, None]),
        *_listed(is_whole_BQK[:, None]),
        BLOCK_SIZE=BLOCK,
        mask_mod=sees,
        seq_lengths=(num_tokens, num_tokens),
    )


def first_of_document(documents_BT: Tensor) -> Tensor:
    """Where each token's document begins in its row, (B, T)."""
    positions_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    begins_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    begins_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    return torch.where(begins_BT, positions_T, 0).cummax(dim=1).values


def flex(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, enable_gqa: bool) -> Tensor:
    """FlexAttention by its kernel; on a CPU by all scores at once, and without a backward."""
    run: Callable[..., Any] = flex_attention
    if query.is_cuda and not torch.compiler.is_compiling():
        run = _compiled_flex()
    return run(query, key, value, block_mask=mask, enable_gqa=enable_gqa)  # type: ignore[no-any-return]


def attend_cached(
    query_BHTd: Tensor, key_BGSd: Tensor, value_BGSd: Tensor, mask_BTS: Tensor | None
) -> Tensor:
    """Of tokens over what a cache holds; attention heads share G heads' keys and values.

    Of CUDA's kernels only one takes both masks and a single query, and that one takes no groups.
    So there, queries that look at the same keys stand behind one another, as if of one head.
    """
    is_grouped = query_BHTd.shape[1] != key_BGSd.shape[1]
    if is_grouped and mask_BTS is not None and query_BHTd.is_cuda:
        return _folded(query_BHTd, key_BGSd, value_BGSd, mask_BTS)
    return F.scaled_dot_product_attention(
        query_BHTd,
        key_BGSd,
        value_BGSd,
        attn_mask=None if mask_BTS is None else mask_BTS[:, None],
        enable_gqa=is_grouped,
    )


def _folded(query_BHTd: Tensor, key_BGSd: Tensor, value_BGSd: Tensor, mask_BTS: Tensor) -> Tensor:
    num_kv = key_BGSd.shape[1]
    num_each = query_BHTd.shape[1] // num_kv
    mixed_BGXd = F.scaled_dot_product_attention(
        query_BHTd.unflatten(1, (num_kv, num_each)).flatten(2, 3),  # type: ignore[no-untyped-call]
        key_BGSd,
        value_BGSd,
        attn_mask=mask_BTS.repeat(1, num_each, 1)[:, None],
    )
    return mixed_BGXd.reshape(query_BHTd.shape)


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    """Without compiling, it makes the scores that it is there to avoid."""
    return torch.compile(flex_attention, dynamic=False)


def _listed(chosen_BHQK: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks each block of queries has chosen, and all blocks' numbers, those first."""
    counts_BHQ = chosen_BHQK.sum(dim=-1, dtype=torch.int32)
    order_BHQK = chosen_BHQK.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return counts_BHQ, order_BHQK.to(torch.int32)
