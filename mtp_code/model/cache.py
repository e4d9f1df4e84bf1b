"""Keys and values of positions already seen; every row of a batch has its own length."""

import copy

import torch
from torch import Tensor

from mtp_code.model.config import ModelConfig


class KeyValueCache:
    """Static storage for `num_rows` sequences of at most `capacity` tokens.

    A forward writes its keys and values behind each row's committed length and commits nothing:
    the caller advances `commit`, by as much as it accepted. What lies behind a row's length is
    stale and is overwritten by the next forward, so rolling back costs nothing.

    Layers are numbered through: trunk first, then the MTP heads by offset.

    For heads that read tokens, what the trunk read and its states are kept too: the newest
    positions are read again once drafts gave way to the tokens that stand (`SequentialDrafter`).
    """

    def __init__(
        self,
        config: ModelConfig,
        num_rows: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        reads_again = config.heads == "sequential"
        # Positions before a row's first are written behind the capacity, where nobody looks.
        storage = capacity + (config.num_mtp_heads if reads_again else 0)
        shape = (config.num_layers, num_rows, config.kv_heads, storage, config.head_width)
        self.keys_LBHCd = torch.zeros(shape, dtype=dtype, device=device)
        self.values_LBHCd = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths_B = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.capacity = capacity
        self.tokens_BC: Tensor | None = None
        self.hidden_BCD: Tensor | None = None
        if reads_again:
            self.tokens_BC = torch.zeros((num_rows, storage), dtype=torch.long, device=device)
            self.hidden_BCD = torch.zeros(
                (num_rows, storage, config.width), dtype=dtype, device=device
            )

    @property
    def num_rows(self) -> int:
        return self.lengths_B.shape[0]

    def commit(self, counts_B: Tensor) -> None:
        """Counts tokens of the last forward, row by row, as seen."""
        self.lengths_B += counts_B

    def row(self, row: int) -> "KeyValueCache":
        """One row, emptied, as a cache of its own over the same storage."""
        view = copy.copy(self)
        self.lengths_B[row] = 0
        view.keys_LBHCd = self.keys_LBHCd[:, row : row + 1]
        view.values_LBHCd = self.values_LBHCd[:, row : row + 1]
        view.lengths_B = self.lengths_B[row : row + 1]
        if self.tokens_BC is not None and self.hidden_BCD is not None:
            view.tokens_BC = self.tokens_BC[row : row + 1]
            view.hidden_BCD = self.hidden_BCD[row : row + 1]
        return view

    def keep(self, rows: list[int]) -> None:
        """Drops all other rows."""
        self.keys_LBHCd = self.keys_LBHCd[:, rows]
        self.values_LBHCd = self.values_LBHCd[:, rows]
        self.lengths_B = self.lengths_B[rows]
        if self.tokens_BC is not None and self.hidden_BCD is not None:
            self.tokens_BC, self.hidden_BCD = self.tokens_BC[rows], self.hidden_BCD[rows]

    def remember(self, span: "Span", tokens_BT: Tensor, hidden_BTD: Tensor) -> None:
        """Keeps what the trunk read at a span's positions, and its states there."""
        assert self.tokens_BC is not None
        assert self.hidden_BCD is not None
        rows_B1 = torch.arange(self.num_rows, device=tokens_BT.device)[:, None]
        self.tokens_BC[rows_B1, span.positions_BT] = tokens_BT
        self.hidden_BCD[rows_B1, span.positions_BT] = hidden_BTD

    def recall(self, span: "Span") -> tuple[Tensor, Tensor]:
        """What was remembered at a span's positions: tokens (B, T) and states (B, T, D)."""
        assert self.tokens_BC is not None
        assert self.hidden_BCD is not None
        rows_B1 = torch.arange(self.num_rows, device=self.tokens_BC.device)[:, None]
        positions_BT = span.positions_BT
        return self.tokens_BC[rows_B1, positions_BT], self.hidden_BCD[rows_B1, positions_BT]

    def write(
        self, layer: int | slice, span: "Span", keys_BHTd: Tensor, values_BHTd: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Writes at the span's positions; returns all keys and values up to its end.

        For a slice of layers, all tensors have an axis for them in front.
        """
        kept = []
        for storage, new in (
            (self.keys_LBHCd[layer], keys_BHTd),
            (self.values_LBHCd[layer], values_BHTd),
        ):
            if span.start is not None:
                storage[..., span.start : span.end, :] = new
            else:
                rows_B1 = torch.arange(self.num_rows, device=storage.device)[:, None]
                by_position = storage.transpose(-3, -2)
                by_position[..., rows_B1, span.positions_BT, :, :] = new.transpose(-3, -2)
            kept.append(storage[..., : span.end, :])
        return kept[0], kept[1]


class Span:
    """The positions that the next T tokens of each row take, behind `num_again` read again.

    `start` is the first of them where all rows agree (then storage is written as one slice),
    else None; `end` is one behind the last. Positions before a row's first are negative.
    """

    def __init__(self, cache: KeyValueCache, num_tokens: int, num_again: int = 0) -> None:
        lengths = cache.lengths_B.tolist()
        is_slice = min(lengths) == max(lengths) >= num_again
        self.start = lengths[0] - num_again if is_slice else None
        self.end = max(lengths) + num_tokens
        if self.end > cache.capacity:
            raise ValueError(f"the cache holds {cache.capacity} tokens a row, {self.end} asked for")
        steps_T = torch.arange(-num_again, num_tokens, device=cache.lengths_B.device)
        self.positions_BT = cache.lengths_B[:, None] + steps_T
