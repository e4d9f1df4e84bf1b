"""Fill-in-the-middle: documents cut in three and put in another order, so that a model learns to
write what stands between two texts.

Source: Bavarian et al. 2022, arXiv 2207.14255: cuts between any two characters, and both orders.
"""

import hashlib
from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
from pydantic import Field

from mtp_code.config import Strict
from mtp_code.tokenizer import FimIds, TokenIds, Tokenizer

_SALT: Final = b"fill-in-the-middle"


class FimConfig(Strict):
    """
    Attributes:
        rate: share of the training documents that are cut.
        spm_share: of those, how many have the suffix first, with prefix and middle in one piece
            behind it; the others have the prefix first.
    """

    rate: float = Field(default=0.5, ge=0, le=1)
    spm_share: float = Field(default=0.5, ge=0, le=1)


class Cut(NamedTuple):
    """Where the middle begins and ends, in characters."""

    begin: int
    end: int
    suffix_first: bool


def choose_cut(num_characters: int, digest: bytes, config: FimConfig) -> Cut | None:
    """How a document is cut, which its digest decides; None if it stays whole."""
    random = hashlib.blake2b(digest + _SALT, digest_size=32).digest()
    rate, order, one, other = (
        int.from_bytes(random[place : place + 8], "big") for place in (0, 8, 16, 24)
    )
    if rate >= config.rate * 2**64:
        return None
    # A cut before each character or behind the last.
    begin, end = sorted(cut * (num_characters + 1) >> 64 for cut in (one, other))
    return Cut(begin, end, suffix_first=order < config.spm_share * 2**64)


def encode_cut(
    texts: Iterable[tuple[str, Cut | None]], tokenizer: Tokenizer, fim: FimIds | None
) -> list[TokenIds]:
    """The ids of each text, cut or whole.

    Prefix first is `<prefix> prefix <suffix> suffix <middle> middle`; suffix first is
    `<prefix> <suffix> suffix <middle> prefix middle`. Each part is encoded by itself, as prompts
    will be.
    """
    texts = list(texts)
    pieces: list[str] = []
    for text, cut in texts:
        pieces += [text] if cut is None else [text[: cut.begin], text[cut.begin : cut.end]]
        pieces += [] if cut is None else [text[cut.end :]]
    encoded = iter(tokenizer.encode_batch(pieces))
    return [
        next(encoded)
        if cut is None
        else _joined(next(encoded), next(encoded), next(encoded), cut, fim)
        for _, cut in texts
    ]


def _joined(
    prefix: TokenIds, middle: TokenIds, suffix: TokenIds, cut: Cut, fim: FimIds | None
) -> TokenIds:
    assert fim is not None, "documents are cut only where the tokenizer can mark it"
    marks = {name: np.array([token], dtype=np.uint32) for name, token in fim._asdict().items()}
    if cut.suffix_first:
        parts = (marks["prefix"], marks["suffix"], suffix, marks["middle"], prefix, middle)
        return np.concatenate(parts)
    parts = (marks["prefix"], prefix, marks["suffix"], suffix, marks["middle"], middle)
    return np.concatenate(parts)
