"""Slow, obvious twins of fast code."""

import ast
import builtins
import cmath
import itertools
import keyword
import math
import re
import warnings
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mtp_code.decoding.requests import Request
from mtp_code.model.layers import Attending
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


def states_of_all_heads(
    model: MTPModel, tokens_BS: Tensor, hidden_BTD: Tensor, attending: Attending
) -> list[Tensor]:
    """Each offset's states, architecture by architecture as its paper says it, in one graph."""
    heads, config = model.mtp_heads, model.config
    numbers = range(config.num_mtp_heads)
    first, length = config.num_trunk_layers, hidden_BTD.shape[1]
    match config.heads:
        case "parallel":
            return [heads.layers[k](hidden_BTD, attending, first + k) for k in numbers]
        case "causal" | "anticausal":
            states, below_BTD = {}, hidden_BTD
            for k in numbers if config.heads == "causal" else reversed(numbers):
                states[k] = below_BTD = heads.layers[k](below_BTD, attending, first + k)
            return [states[k] for k in numbers]
        case "linear":
            return [
                hidden_BTD,
                *(hidden_BTD + F.silu(hidden_BTD @ p.weight.T) for p in heads.projections),
            ]
        case "sequential":
            chain = [hidden_BTD]
            for depth, module in enumerate(heads.layers, 1):
                ahead_BTD = model.trunk.embedding(tokens_BS[:, depth : depth + length])
                normed = [module.states_norm(chain[-1]), module.token_norm(ahead_BTD)]
                projected = torch.cat(normed, dim=-1) @ module.project.weight.T
                chain.append(module.block(projected, attending, first + depth - 1))
            return chain


def naive_backward(
    model: MTPModel,
    tokens_BS: Tensor,
    documents_BS: Tensor,
    mask_documents: bool,
    weights: tuple[float, ...],
    distillation: float = 0.0,
    token_order: tuple[float, int] | None = None,
) -> dict[str, Any]:
    """All heads' logits at once, mean losses summed, one backward.

    Args:
        token_order: weight and window.
    """
    num_positions = tokens_BS.shape[1] - model.num_mtp_heads
    documents_BT = documents_BS[:, :num_positions]
    attending = model.trunk.attend(documents_BT, documents_BT if mask_documents else None)
    hidden_BTD = model.trunk(tokens_BS[:, :num_positions], attending)
    states = states_of_all_heads(model, tokens_BS, hidden_BTD, attending)
    total, by_offset, divergences = hidden_BTD.new_zeros(()), [], []
    logits = [model.unembedding_for(k)(model.norm(one)) for k, one in enumerate(states, 1)]
    for offset, weight in enumerate(weights, 1):
        losses, divergence = [], []
        for row, t in itertools.product(range(len(tokens_BS)), range(num_positions)):
            if documents_BS[row, t] == documents_BS[row, t + offset] >= 0:
                label = tokens_BS[row, t + offset]
                log_probs_V = logits[offset - 1][row, t].log_softmax(-1)
                losses.append(-log_probs_V[label])
                if t + offset - 1 < num_positions:
                    teacher_V = logits[0][row, t + offset - 1].detach().log_softmax(-1)
                    divergence.append((teacher_V.exp() * (teacher_V - log_probs_V)).sum())
        by_offset.append(torch.stack(losses).mean())
        divergences.append(torch.stack(divergence).sum() / len(losses))
        total = total + weight * (by_offset[-1] + distillation * divergences[-1])
    figures = {"loss_by_offset": by_offset, "distillation_by_offset": divergences}
    if token_order is not None:
        normed_BTD = model.norm(states[0])
        ranking = []
        for row, t in itertools.product(range(len(tokens_BS)), range(num_positions)):
            scores: dict[int, float] = {}
            for distance in range(1, token_order[1] + 1):
                ahead = t + distance
                if ahead < tokens_BS.shape[1] and (
                    documents_BS[row, t] == documents_BS[row, ahead] >= 0
                ):
                    scores.setdefault(int(tokens_BS[row, ahead]), -distance)
            if scores:
                log_probs_V = model.token_order_unembedding(normed_BTD[row, t]).log_softmax(-1)
                shares = torch.tensor(list(scores.values()), dtype=log_probs_V.dtype).softmax(-1)
                ranking.append(-(shares * log_probs_V[list(scores)]).sum())
        figures["token_order"] = torch.stack(ranking).mean()
        total = total + token_order[0] * figures["token_order"]
    total.backward()
    return {"loss": total.detach(), **figures}


def published_logits(
    weights: dict[str, Tensor], params: dict[str, Any], tokens: list[int]
) -> list[list[Tensor]]:
    """Logits by offset and position of a checkpoint in the layout of the published ones.

    Position by position, pair by pair, in double precision: a pair is two neighbours, a complex
    number that turns with its position.
    """
    w = {name: tensor.double() for name, tensor in weights.items()}
    num_heads, dim = params["n_heads"], params["dim"]
    num_kv_heads = params.get("n_kv_heads") or num_heads
    width = dim // num_heads
    extras = sorted({name.split(".")[1] for name in w if name.startswith("extra_heads.")}, key=int)

    def normed(x_D: Tensor, name: str) -> Tensor:
        return x_D / (x_D.square().mean() + params["norm_eps"]).sqrt() * w[name]

    def turned(x_d: Tensor, position: int) -> Tensor:
        out = []
        for pair in range(width // 2):
            angle = position * params.get("rope_theta", 10_000.0) ** (-2 * pair / width)
            number = complex(x_d[2 * pair], x_d[2 * pair + 1]) * cmath.exp(1j * angle)
            out += [number.real, number.imag]
        return torch.tensor(out, dtype=torch.float64)

    def layer(name: str, states: list[Tensor]) -> list[Tensor]:
        inputs = [normed(x, f"{name}.attention_norm.weight") for x in states]

        def projected(which: str, t: int, head: int) -> Tensor:
            rows = slice(head * width, (head + 1) * width)
            return w[f"{name}.attention.{which}.weight"][rows] @ inputs[t]

        out = []
        for t, state in enumerate(states):
            mixed = []
            for head in range(num_heads):
                group = head * num_kv_heads // num_heads
                query = turned(projected("wq", t, head), t)
                scores = [
                    query @ turned(projected("wk", s, group), s) / width**0.5 for s in range(t + 1)
                ]
                shares = torch.stack(scores).softmax(0)
                mixed.append(sum(shares[s] * projected("wv", s, group) for s in range(t + 1)))
            state = state + w[f"{name}.attention.wo.weight"] @ torch.cat(mixed)
            x = normed(state, f"{name}.ffn_norm.weight")
            gate = w[f"{name}.feed_forward.w1.weight"] @ x
            up = w[f"{name}.feed_forward.w3.weight"] @ x
            gated = gate / (1 + (-gate).exp()) * up
            out.append(state + w[f"{name}.feed_forward.w2.weight"] @ gated)
        return out

    states = [w["tok_embeddings.weight"][token] for token in tokens]
    last = params["n_layers"] - len(extras) - 1
    for number in range(last):
        states = layer(f"layers.{number}", states)
    names = [f"layers.{last}", *(f"extra_heads.{number}" for number in extras)]
    return [
        [w["output.weight"] @ normed(x, "norm.weight") for x in layer(name, states)]
        for name in names
    ]


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


def words_one_by_one(text: str) -> list[str]:
    """What `mtp_code.data.lexing.words` tells apart."""
    plain = re.sub(rb"\\[ntr]", b"  ", text.encode().lower())
    found = re.findall(rb"[A-Za-z0-9_\x80-\xff]+", plain)
    return [_eights(word) for word in found if not word[:1].isdigit()]


def code_tokens_one_by_one(text: str, keep_numbers: bool) -> list[str]:
    """What `mtp_code.data.lexing.code_tokens` tells apart."""
    code = _without_literals(text.encode())
    tokens = []
    for found in re.finditer(rb"[A-Za-z0-9_\x80-\xff]+|[-+*/%<>=!&|^~@\[{]", code):
        token = found[0]
        before, after = code[: found.start()][-1:], code[found.end() :]
        if not re.match(rb"[A-Za-z0-9_\x80-\xff]", token):
            tokens.append(token.decode())
        elif after.startswith(b'"'):
            continue
        elif token[:1].isdigit():
            tokens.append(f"{before == b'.'} {_eights(token)}" if keep_numbers else "<number>")
        elif before == b".":
            tokens.append(f".{_eights(token)}")
        else:
            name = token.decode(errors="replace")
            is_called = after.startswith((b"(", b" ("))
            kept = keyword.iskeyword(name) or (
                is_called and not name.startswith("_") and hasattr(builtins, name)
            )
            tokens.append(name if kept else "<name>")
    return tokens


def _without_literals(code: bytes) -> bytes:
    """Comments and strings as a quote each, found character by character."""
    left, place = [], 0
    while place < len(code):
        quote = next((q for q in (b'"""', b"'''", b'"', b"'") if code.startswith(q, place)), None)
        end = place
        if code.startswith(b"#", place):
            end = code.find(b"\n", place)
            end = len(code) if end < 0 else end
        elif quote is not None:
            end = _end_of_string(code, place, quote)
        left.append(code[place : place + 1] if end == place else b'"')
        place = max(end, place + 1)
    return b"".join(left)


def _end_of_string(code: bytes, place: int, quote: bytes) -> int:
    """Behind its last quote; of one that is not closed, the end of its line or of the code."""
    at = place + len(quote)
    while at < len(code):
        if code.startswith(quote, at):
            return at + len(quote)
        if len(quote) == 1 and code.startswith(b"\n", at):
            return at
        at += 2 if code.startswith(b"\\", at) else 1
    return len(code)


def _eights(word: bytes) -> str:
    return f"{word[:8]!r} {word[-8:]!r} {len(word)}"


def similar_pairs(documents: list[set[object]], threshold: float) -> set[tuple[int, int]]:
    """All pairs whose Jaccard similarity reaches the threshold, the earlier one first."""
    return {
        (i, j)
        for i, j in itertools.combinations(range(len(documents)), 2)
        if len(documents[i] & documents[j]) >= threshold * len(documents[i] | documents[j])
    }
