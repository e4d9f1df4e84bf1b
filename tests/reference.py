"""Slow, obvious twins of fast code."""

import itertools
import math
from fractions import Fraction

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
