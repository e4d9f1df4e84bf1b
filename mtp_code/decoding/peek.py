"""What every head expects at each position of a text: the method in one look."""

from dataclasses import dataclass

import torch

from mtp_code.errors import PromptError
from mtp_code.model.mtp import MTPModel
from mtp_code.tokenizer import Tokenizer


@dataclass(frozen=True)
class Guess:
    """A head's likeliest token, and whether it is the one that stands in the text there.

    `is_right` is None where the text ends before that place.
    """

    text: str
    prob: float
    is_right: bool | None


@dataclass(frozen=True)
class Position:
    text: str
    guesses: tuple[Guess, ...]
    """By offset, from 1."""


@torch.inference_mode()
def peek(model: MTPModel, tokenizer: Tokenizer, text: str) -> list[Position]:
    """The guesses of all heads behind each token of the text.

    Raises:
        PromptError: the text is empty or longer than the context.
    """
    tokens = tokenizer.encode(text)
    if not tokens:
        raise PromptError("peek: empty text; give some code")
    prompt = tokenizer.encode_prompt(text)
    if len(prompt) > model.config.context:
        raise PromptError(
            f"peek: {len(tokens)} tokens are more than the context of {model.config.context} holds"
        )
    prompt_1T = torch.tensor([prompt], device=model.unembedding.weight.device)
    logits_KTV = model(prompt_1T)[:, 0, len(prompt) - len(tokens) :]
    probs_KT, guesses_KT = logits_KTV.float().softmax(dim=-1).max(dim=-1)
    return [
        Position(
            tokenizer.decode([token]),
            tuple(
                Guess(
                    tokenizer.decode([guess]),
                    probs_KT[offset - 1, place].item(),
                    guess == tokens[place + offset] if place + offset < len(tokens) else None,
                )
                for offset, guess in enumerate(guesses_KT[:, place].tolist(), start=1)
            ),
        )
        for place, token in enumerate(tokens)
    ]
