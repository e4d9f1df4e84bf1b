"""Plain decoding, a token a forward: the reference for every faster way."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

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
        PromptError: a prompt is empty, outside the vocabulary, or as long as the context.
    """
    batch = Batch(model, tokenizer, requests, num_rows, build_drafter(model, num_drafts=0))
    while batch.is_live:
        attending = model.trunk.attend_cached(batch.cache, num_tokens=1)
        logits_BV = model.read(batch.last_B[:, None], attending).logits(1)[:, 0]
        tokens_B = choose_tokens(logits_BV, sampling, _next_uniforms(batch))
        yield from batch.commit([[token] for token in tokens_B.tolist()])


def _next_uniforms(batch: Batch) -> Tensor:
    return torch.tensor(
        [answer.next_uniform() if answer else 0.0 for answer in batch.answers],
        dtype=torch.float64,
        device=batch.last_B.device,
    )
