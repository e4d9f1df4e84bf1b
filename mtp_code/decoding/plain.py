"""Plain decoding, a token a forward: the reference for every faster way."""

from collections.abc import Iterable, Iterator

from mtp_code.decoding.engine import Engine
from mtp_code.decoding.requests import Completion, Request
from mtp_code.model.mtp import MTPModel
from mtp_code.tokenizer import Tokenizer


def decode_plain(
    model: MTPModel, tokenizer: Tokenizer, requests: Iterable[Request], num_rows: int = 1
) -> Iterator[Completion]:
    """Completions by trunk and head 1, as they finish, up to `num_rows` at a time.

    Raises:
        ValueError: num_rows is below 1.
        PromptError: a prompt is empty, outside the vocabulary, or as long as the context.
    """
    return Engine(model, tokenizer, num_rows, num_drafts=0).complete(requests)
