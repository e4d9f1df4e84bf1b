"""Self-speculative decoding: the heads draft, trunk and head 1 verify."""

from collections.abc import Iterable, Iterator

from mtp_code.decoding.engine import Engine, NumDrafts
from mtp_code.decoding.requests import Completion, Request
from mtp_code.model.mtp import MTPModel
from mtp_code.tokenizer import Tokenizer


def decode_speculative(
    model: MTPModel,
    tokenizer: Tokenizer,
    requests: Iterable[Request],
    num_drafts: NumDrafts,
    num_rows: int = 1,
) -> Iterator[Completion]:
    """Completions that are token for token those of `decode_plain`, as they finish.

    Args:
        num_drafts: tokens drafted a round, 0 … n−1, or `auto`.

    Raises:
        ValueError: the model has too few heads for so many drafts, or num_rows is below 1.
        PromptError: a prompt is empty, outside the vocabulary, or as long as the context.
    """
    return Engine(model, tokenizer, num_rows, num_drafts).complete(requests)
