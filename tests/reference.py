"""Slow, obvious twins of fast code."""

import ast
import itertools
import math
import warnings
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch

from mtp_code.decoding.requests import Request
from mtp_code.model.mtp import MTPModel


@torch.no_grad()
def decode_without_cache(model: MTPModel, request: Request) -> list[int]:
    """Greedy decoding that reads the whole text again for every token."""
    tokens = list(request.prompt)
    while len(tokens) < len(request.prompt) + request.max_new_tokens:
        token = int(model(torch.tensor([tokens]))[0, 0, -1].argmax())
        if token == 256:  # the byte tokenizer's end of text
            break
        tokens.append(token)
    return tokens[len(request.prompt) :]


@torch.no_grad()
def bits_token_by_token(model: MTPModel, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """Reads everything again for every token; beyond the context, what its window has before it."""
    tokens, context = [*prompt, *answer], model.config.context
    half = -(-context // 2)
    bits = 0.0
    for place in range(len(prompt), len(tokens)):
        begins = 0
        if place > context:
            first = max(len(prompt), context + 1)  # that any later window predicts
            ends = min(first + half * ((place - first) // half + 1), len(tokens))
            begins = ends - context - 1
            assert place - begins >= context / 2
        logits_V = model(torch.tensor([tokens[begins:place]]))[0, 0, -1]
        bits -= logits_V.double().log_softmax(-1)[tokens[place]].item() / math.log(2)
    return bits


def exact_pass_at_k(num_samples: int, num_passed: int, k: int) -> Fraction:
    """One less the chance of drawing k failed samples one after the other."""
    all_fail = Fraction(1)
    for drawn in range(k):
        all_fail *= Fraction(max(num_samples - num_passed - drawn, 0), num_samples - drawn)
    return 1 - all_fail


def sign_flip_p_value_by_listing(gains: list[int]) -> float:
    """The share of all ways to flip signs whose sum is as low as the one observed."""
    flips = list(itertools.product((-1, 1), repeat=len(gains)))
    sums = [sum(sign * gain for sign, gain in zip(flip, gains, strict=True)) for flip in flips]
    return sum(total <= sum(gains) for total in sums) / len(flips)


def holm_by_steps(p_values: list[float], alpha: float) -> list[bool]:
    """Which are rejected: from the least on, each at alpha over those left, until one is not."""
    rejected = [False] * len(p_values)
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda at: p_values[at])):
        if p_values[at] > alpha / (len(p_values) - rank):
            break
        rejected[at] = True
    return rejected


def top_p_probs(logits: list[float], temperature: float, top_p: float) -> list[float]:
    """Softmax at a temperature, then the likeliest tokens until they hold `top_p`, rescaled."""
    weights = [math.exp(logit / temperature) for logit in logits]
    probs = [weight / sum(weights) for weight in weights]
    kept: set[int] = set()
    for token in sorted(range(len(probs)), key=lambda token: -probs[token]):
        if sum(probs[other] for other in kept) >= top_p:
            break
        kept.add(token)
    total = sum(probs[token] for token in kept)
    return [prob / total if token in kept else 0.0 for token, prob in enumerate(probs)]


def longest_run_by_trying(text: str) -> str:
    """Every run of two or more lines, tried one by one; the first line where none is Python."""
    lines = text.split("\n")
    best, most = lines[:1], 0
    for start in range(len(lines)):
        for end in range(start + 2, len(lines) + 1):
            count = sum(1 for line in lines[start:end] if line.strip())
            if count > most and is_python("\n".join(lines[start:end])):
                best, most = lines[start:end], count
    return "\n".join(best)


def is_python(code: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(code)
    except (SyntaxError, ValueError, MemoryError):
        return False
    return True


def numpy_all_close(answer: object, right: object, atol: float) -> bool:
    """What `evals.oracles.holding.all_close` does without numpy; False where numpy raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bool(np.allclose(answer, right, rtol=1e-07, atol=atol))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False
