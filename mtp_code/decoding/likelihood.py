"""How likely a model is to answer a prompt with a given text, in bits."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mtp_code.decoding.requests import check_prompt
from mtp_code.model.mtp import MTPModel
from mtp_code.tokenizer import Tokenizer

# Logits of so many positions at once: fp32 for a vocabulary of 150,000 take 0.6 GB.
_POSITIONS_AT_ONCE: Final = 1024


class Answered(NamedTuple):
    """A prompt in tokens, as a decoder is given it, and a text to follow it."""

    prompt: Sequence[int]
    answer: str


class _Window(NamedTuple):
    """Tokens that are read at once, but for the last; from place `first` on they are labels."""

    answered: int
    tokens: Sequence[int]
    first: int


@torch.inference_mode()
def bits_of_answers(
    model: MTPModel,
    tokenizer: Tokenizer,
    asked: Sequence[Answered],
    num_rows: int = 8,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[float]:
    """−log2 of the chance that sampling from trunk and head 1 gives exactly this answer's tokens.

    That is at temperature 1, and up to its last token: the end of text behind it is not counted.

    Prompt and answer are tokenised apart, since that is where sampling begins: a token that would
    reach across the border is none that it could draw. With our own tokenizers it makes no
    difference where they meet at a newline. Other tokens of the same text would add to its chance,
    so that in bits this is an upper bound for the text, as it is for every model with merges.

    What is longer than the context is read in windows: each token is predicted from all that is
    before it if that fits, else from at least half a context.

    Raises:
        PromptError: a prompt is empty or outside the vocabulary.
    """
    windows: list[_Window] = []
    for number, (prompt, answer) in enumerate(asked):
        check_prompt(prompt, tokenizer.vocab_size)
        tokens = [*prompt, *tokenizer.encode_after(answer)]
        windows += _windows(number, tokens, len(prompt), model.config.context)
    bits = [0.0] * len(asked)
    # Rows of like lengths side by side, so that little is read in vain.
    windows.sort(key=lambda window: -len(window.tokens))
    for start in range(0, len(windows), num_rows):
        on_progress(start, len(windows))
        batch = windows[start : start + num_rows]
        for window, of_window in zip(batch, _bits(model, batch), strict=True):
            bits[window.answered] += of_window
    on_progress(len(windows), len(windows))
    return bits


def _windows(number: int, tokens: Sequence[int], first: int, context: int) -> Iterator[_Window]:
    """Each token from `first` on is a label in one of them."""
    while first < len(tokens):
        # One token more than the context holds: the last is only a label.
        end = context + 1 if first <= context else first + (context + 1) // 2
        end = min(end, len(tokens))
        start = max(0, end - context - 1)
        yield _Window(number, tokens[start:end], first - start)
        first = end


def _bits(model: MTPModel, windows: Sequence[_Window]) -> list[float]:
    tokens_BS = torch.zeros(len(windows), len(windows[0].tokens), dtype=torch.long)
    is_label_BS = torch.zeros_like(tokens_BS, dtype=torch.bool)
    for row, window in enumerate(windows):
        tokens_BS[row, : len(window.tokens)] = torch.tensor(window.tokens)
        is_label_BS[row, window.first : len(window.tokens)] = True
    device = model.unembedding.weight.device
    inputs_BT, labels_BT = tokens_BS[:, :-1].to(device), tokens_BS[:, 1:].to(device)
    is_label_BT = is_label_BS[:, 1:].to(device)

    attending = model.trunk.attend(inputs_BT)
    states_BTD = model.read(inputs_BT, attending).states(1)
    nats_BT = torch.zeros(labels_BT.shape, dtype=torch.float64, device=device)
    nats_BT[is_label_BT] = _nats(model, states_BTD[is_label_BT], labels_BT[is_label_BT])
    return [nats / math.log(2) for nats in nats_BT.sum(1).tolist()]


def _nats(model: MTPModel, states_ND: Tensor, labels_N: Tensor) -> Tensor:
    losses = [
        F.cross_entropy(model.unembed(1, states).float(), labels, reduction="none").double()
        for states, labels in zip(
            torch.split(states_ND, _POSITIONS_AT_ONCE),
            torch.split(labels_N, _POSITIONS_AT_ONCE),
            strict=True,
        )
    ]
    return torch.cat(losses)
