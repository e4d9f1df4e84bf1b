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
    """

    def __init__(
        self,
        config: ModelConfig,
        num_rows: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.num_layers, num_rows, config.kv_heads, capacity, config.head_width)
        self.keys_LBHCd = torch.zeros(shape, dtype=dtype, device=device)
        self.values_LBHCd = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths_B = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.capacity = capacity

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
        return view

    def keep(self, rows: list[int]) -> None:
        """Drops all other rows."""
        self.keys_LBHCd = self.keys_LBHCd[:, rows]
        self.values_LBHCd = self.values_LBHCd[:, rows]
        self.lengths_B = self.lengths_B[rows]

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
    """The positions that the next T tokens of each row take.

    `start` is the first of them where all rows agree (then storage is written as one slice),
    else None; `end` is one behind the last.
    """

    def __init__(self, cache: KeyValueCache, num_tokens: int) -> None:
        lengths = cache.lengths_B.tolist()
        self.start = lengths[0] if min(lengths) == max(lengths) else None
        self.end = max(lengths) + num_tokens
        if self.end > cache.capacity:
            raise ValueError(f"the cache holds {cache.capacity} tokens a row, {self.end} asked for")
        steps_T = torch.arange(num_tokens, device=cache.lengths_B.device)
        self.positions_BT = cache.lengths_B[:, None] + steps_T
