"""Keys and values of positions already seen; every row of a batch has its own length."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from mtp_code.model.config import ModelConfig


class KeyValueCache:
    """Static storage for `num_rows` sequences of at most `capacity` tokens.

    A forward writes its keys and values behind each row's committed length and commits nothing:
    the caller advances `commit`, by as much as it accepted. What lies behind a row's length is
    stale and is overwritten by the next forward, so rolling back costs nothing.

    Layers are numbered through: trunk first, then the MTP heads by offset.

    Attributes:
        rows_B1: the rows' numbers, made once: each layer writes by them.
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
        self.rows_B1 = torch.arange(num_rows, device=device)[:, None]
        self.capacity = capacity
        self._by_layer = self._views()

    @property
    def num_rows(self) -> int:
        return self.lengths_B.shape[0]

    def commit(self, counts_B: Tensor) -> None:
        """Counts tokens of the last forward, row by row, as seen."""
        self.lengths_B += counts_B

    def rows(self, rows: slice) -> "KeyValueCache":
        """Some rows as a cache of their own over the same storage."""
        view = copy.copy(self)
        view.keys_LBHCd, view.values_LBHCd = self.keys_LBHCd[:, rows], self.values_LBHCd[:, rows]
        view.lengths_B = self.lengths_B[rows]
        view.rows_B1 = self.rows_B1[: view.num_rows]
        view._by_layer = view._views()
        return view

    def _views(self) -> list[tuple[Tensor, Tensor]]:
        """Each layer's keys and values: made once, since a forward of a token takes hardly longer
        than making them."""
        return list(zip(self.keys_LBHCd.unbind(), self.values_LBHCd.unbind(), strict=True))

    def move(self, source: int, target: int, length: int) -> None:
        """Makes one row another's copy, of which `length` tokens matter."""
        for storage in (self.keys_LBHCd, self.values_LBHCd):
            storage[:, target, :, :length] = storage[:, source, :, :length]
        self.lengths_B[target] = self.lengths_B[source]

    def gather(self, sources_BT: Tensor, targets_BT: Tensor) -> None:
        """Copies what stands in some slots of each row, in all layers, into others of it."""
        rows_B1 = self.rows_B1
        for storage in (self.keys_LBHCd, self.values_LBHCd):
            by_position = storage.transpose(-3, -2)
            by_position[:, rows_B1, targets_BT] = by_position[:, rows_B1, sources_BT]

    def write(
        self, layer: int | slice, span: "Span", keys_BHTd: Tensor, values_BHTd: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Writes at the span's positions; returns all keys and values up to its end.

        For a slice of layers, all tensors have an axis for them in front.
        """
        if isinstance(layer, int):
            keys, values = self._by_layer[layer]
        else:
            keys, values = self.keys_LBHCd[layer], self.values_LBHCd[layer]
        for storage, new in ((keys, keys_BHTd), (values, values_BHTd)):
            if span.start is not None:
                storage.narrow(-2, span.start, new.shape[-2]).copy_(new)
            else:
                by_position = storage.transpose(-3, -2)
                by_position[..., self.rows_B1, span.positions_BT, :, :] = new.transpose(-3, -2)
        return keys.narrow(-2, 0, span.end), values.narrow(-2, 0, span.end)


@dataclass(frozen=True)
class Branches:
    """Tokens of one forward that continue a row's text in several ways.

    Attributes:
        depths_T: how many of them each token has before it in its text.
        sees_TT: whether a token has another in its text, itself included.
    """

    depths_T: Tensor
    sees_TT: Tensor


@dataclass(frozen=True)
class Span:
    """Where in the cache the tokens of one forward are written, and up to where is looked.

    Attributes:
        positions_BT: slots of the tokens; one below 0 is a slot counted from the storage's end,
            where nobody looks.
        start: the first slot where all rows agree (then storage is written as one slice), or None.
        end: one behind the last slot that any row may look at.
        branches: how these tokens follow one another, where they are no line.
    """

    positions_BT: Tensor
    start: int | None
    end: int
    branches: "Branches | None" = None

    @classmethod
    def behind(cls, cache: KeyValueCache, num_tokens: int) -> "Span":
        """The slots behind each row's length.

        Raises:
            ValueError: the cache holds fewer.
        """
        lengths = cache.lengths_B.tolist()
        end = max(lengths) + num_tokens
        if end > cache.capacity:
            raise ValueError(f"the cache holds {cache.capacity} tokens a row, {end} asked for")
        steps_T = torch.arange(num_tokens, device=cache.lengths_B.device)
        start = lengths[0] if min(lengths) == max(lengths) else None
        return cls(cache.lengths_B[:, None] + steps_T, start, end)
