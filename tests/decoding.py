"""Completions of an engine made for them, by trunk and head 1 alone or with drafts."""

from collections.abc import Iterable, Iterator

from mtp_code.decoding.engine import Engine, NumDrafts
from mtp_code.decoding.requests import Completion, Request
from mtp_code.model.mtp import MTPModel
from mtp_code.tokenizer import Tokenizer


def decode_plain(
    model: MTPModel, tokenizer: Tokenizer, requests: Iterable[Request], num_rows: int = 1
) -> Iterator[Completion]:
    """As they finish: what every faster way is held to."""
    return Engine(model, tokenizer, num_rows, num_drafts=0).complete(requests)


def decode_speculative(
    model: MTPModel,
    tokenizer: Tokenizer,
    requests: Iterable[Request],
    num_drafts: NumDrafts,
    num_rows: int = 1,
) -> Iterator[Completion]:
    """As they finish."""
    return Engine(model, tokenizer, num_rows, num_drafts).complete(requests)
