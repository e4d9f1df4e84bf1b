"""Plain decoding, a token a forward: the reference for every faster way."""

from collections.abc import Iterable, Iterator

import torch

from mtp_code.decoding.batch import Batch
from mtp_code.decoding.draft import build_drafter
from mtp_code.decoding.requests import Completion, Request
from mtp_code.decoding.sampling import SamplingConfig, choose_tokens
from mtp_code.model.mtp import MTPModel
from mtp_code.tokenizer import Tokenizer


@torch.inference_mode()
def decode_plain(
    model: MTPModel,
    tokenizer: Tokenizer,
    requests: Iterable[Request],
    sampling: SamplingConfig,
    num_rows: int = 1,
) -> Iterator[Completion]:
    """Completions by trunk and head 1, as they finish, up to `num_rows` at a time.

    Raises:
        ValueError: num_rows is below 1.
        PromptError: a prompt is empty, outside the vocabulary, or as long as the context.
    """
    batch = Batch(model, tokenizer, requests, num_rows, build_drafter(model, num_drafts=0))
    while batch.refill():
        attending = model.trunk.attend_cached(batch.cache, num_tokens=1)
        logits_B1V = model.read(batch.last_B[:, None], attending).logits(1)
        tokens_B1 = choose_tokens(logits_B1V, sampling, batch.next_uniforms(1))
        yield from batch.commit(tokens_B1.tolist())
