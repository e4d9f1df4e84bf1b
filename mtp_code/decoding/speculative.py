"""Self-speculative decoding: the heads draft, trunk and head 1 verify."""

from collections.abc import Iterable, Iterator

import torch

from mtp_code.decoding.batch import Batch
from mtp_code.decoding.draft import build_drafter
from mtp_code.decoding.requests import Completion, Request
from mtp_code.decoding.sampling import SamplingConfig, choose_tokens
from mtp_code.decoding.verify import committed_tokens, count_accepted
from mtp_code.model.mtp import MTPModel
from mtp_code.tokenizer import Tokenizer


@torch.inference_mode()
def decode_speculative(
    model: MTPModel,
    tokenizer: Tokenizer,
    requests: Iterable[Request],
    num_drafts: int,
    num_rows: int = 1,
    sampling: SamplingConfig = SamplingConfig(),  # noqa: B008 - frozen
) -> Iterator[Completion]:
    """Completions that are token for token those of `decode_plain` in fp32, sampled ones too.

    In lower precision they are wherever rounding, which differs with the number of tokens in a
    forward, does not tip a choice.

    Each round is one trunk forward over a row's last token and its drafts. What head 1 answers
    there verifies the drafts; the tokens up to its first disagreement, and its own answer at that
    place (the bonus token), are committed. The other heads then draft from the last position that
    stands.

    Above temperature 0 an answer of head 1 is a draw from its law, by the uniform number that the
    request's seed has for that place. A draft x stands if it is the token drawn, so with
    probability p(x), and the token in place of one that does not follows p without x: as in the
    rejection rule of speculative sampling (proofs: Leviathan et al. 2023, arXiv 2211.17192,
    appendix A.1; Chen et al. 2023, arXiv 2302.01318) for a draft that is sure of itself. Since
    plain decoding draws with the same numbers, not only the law is the same but each sample.

    Args:
        num_drafts: tokens drafted a round, 0 … n−1.

    Raises:
        ValueError: the model has too few heads for so many drafts, or num_rows is below 1.
        PromptError: a prompt is empty, outside the vocabulary, or as long as the context.

    Source: Gloeckle et al. 2024, arXiv 2404.19737, section 3.2.
    """
    if not 0 <= num_drafts < model.num_mtp_heads:
        raise ValueError(
            f"num_drafts must be in 0..{model.num_mtp_heads - 1} "
            f"(the heads beyond the first), got {num_drafts}"
        )
    drafter = build_drafter(model, num_drafts)
    batch = Batch(model, tokenizer, requests, num_rows, drafter)
    while batch.refill():
        # draft → verify
        tokens_BT = torch.cat((batch.last_B[:, None], batch.drafts_Bk.clamp(min=0)), dim=1)
        attending = model.trunk.attend_cached(batch.cache, num_drafts + 1)
        reading = model.read(tokens_BT, attending)
        uniforms_BT = batch.next_uniforms(num_drafts + 1)
        targets_BT = choose_tokens(reading.logits(1), sampling, uniforms_BT)
        accepted_B = count_accepted(batch.drafts_Bk, targets_BT)
        # commit; what lies behind the committed length is rolled back with it
        bonus_B = targets_BT.gather(1, accepted_B[:, None])[:, 0]
        batch.drafts_Bk = drafter.draft(reading, accepted_B, bonus_B)
        yield from batch.commit(committed_tokens(targets_BT, accepted_B))
