"""What decoding costs a model of some shape: random weights, drafts that stand as often as told.

Time depends on how many drafts stand, not on what the tokens are. So a shape is measured before
anybody has trained it: a round drafts, verifies and commits as ever, and only how many drafts
stand is drawn. The same code runs on a GPU and, at a small size, on a CPU.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import torch
from torch import Tensor

from mtp_code.decoding.draft import Drafter
from mtp_code.decoding.engine import Engine, NumDrafts
from mtp_code.decoding.exactness import Numbers
from mtp_code.decoding.prepare import lay_out
from mtp_code.decoding.requests import Completion, Request
from mtp_code.decoding.sampling import uniforms_for
from mtp_code.decoding.state import DecodeState
from mtp_code.decoding.step import Advance, Outcome, Plan, advance
from mtp_code.errors import MachineError
from mtp_code.model.accounting import count_parameters
from mtp_code.model.config import ModelConfig
from mtp_code.model.mtp import MTPModel
from mtp_code.recipe import load_recipe

Size = Literal["smoke", "cpu", "gpu"]

_NUM_DRAWN: Final = 4096
"""Rounds after which the numbers of drafts that stand come again."""


@dataclass(frozen=True)
class Measured:
    """What is measured of a size.

    Attributes:
        shapes: recipes, by name.
        batches: rows side by side.
        num_rounds: of all ways to draft, in turn first, behind one that warms up.
        num_prompt, num_new: tokens of a prompt, and at most of an answer, which is more than the
            rounds between two looks may bring.
    """

    shapes: tuple[str, ...]
    batches: tuple[int, ...]
    num_rounds: int
    num_prompt: int
    num_new: int
    dtype: torch.dtype


MEASURED: Final[Mapping[Size, Measured]] = {
    "smoke": Measured(("smoke",), (1, 2), 1, 8, 56, torch.float32),
    "cpu": Measured(("tiny",), (1, 4), 5, 64, 64, torch.float32),
    "gpu": Measured(
        ("code-130m", "code-1b", "7b-200b"), (1, 8, 32, 64), 5, 128, 256, torch.bfloat16
    ),
}


def measure(
    size: Size | None,
    tokens_per_forward: float,
    limit_s: float,
    on_progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """A record with the machine's copy bandwidth and rows of all shapes.

    Args:
        size: None is what the machine is fit for.
        tokens_per_forward: that as many drafts as the shape has heads for are to give.
        limit_s: no shape, batch or round begins behind it.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = size or ("gpu" if device.type == "cuda" else "cpu")
    ends_at_s, measured = time.monotonic() + limit_s, MEASURED[size]
    bandwidth = copy_bandwidth(device)
    record: dict[str, Any] = {
        "size": size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "dtype": str(measured.dtype).removeprefix("torch."),
        "copy_bytes_per_s": bandwidth,
        "rows": [],
        "precision": [],
        "left_out": [],
    }
    for shape in measured.shapes:
        with _left_out_without_memory(record, shape):
            model = random_model(_config(shape, measured), device, measured.dtype)
            for batch in measured.batches:
                name = f"{shape}, {batch} rows"
                if time.monotonic() > ends_at_s:
                    record["left_out"].append(f"{name}: no time left")
                    continue
                on_progress(name)
                with _left_out_without_memory(record, name):
                    record["rows"] += [
                        {"shape": shape, **row}
                        for row in _rows(
                            model, measured, batch, tokens_per_forward, bandwidth, ends_at_s
                        )
                    ]
            if measured.dtype is torch.bfloat16 and time.monotonic() < ends_at_s:
                with _left_out_without_memory(record, f"{shape}, precision"):
                    record["precision"].append({"shape": shape, **precision(model, measured)})
            del model  # before the next is made
    return record


@contextmanager
def _left_out_without_memory(record: dict[str, Any], name: str) -> Iterator[None]:
    """Notes what the machine has no memory for, and goes on."""
    try:
        yield
    except (MachineError, torch.OutOfMemoryError) as error:
        record["left_out"].append(f"{name}: {str(error).splitlines()[0]}")


def _config(shape: str, measured: Measured) -> ModelConfig:
    """A recipe's, with no more context than is measured: an engine's caches for each way to draft
    are there at once."""
    context = measured.num_prompt + measured.num_new
    return load_recipe(shape).model.model_copy(update={"context": context})


def random_model(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> MTPModel:
    """A model of that shape as torch fills it, laid out for decoding."""
    with torch.device(device):
        model = MTPModel(config).to(dtype)
    model.eval().requires_grad_(False)
    lay_out(model)
    return model


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written ones, that a large copy moves: the median of five."""
    num_bytes = (1 << 30) if device.type == "cuda" else (1 << 26)
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rates = []
    for _ in range(6):  # the first is slow
        _wait(device)
        begun_s = time.perf_counter()
        target.copy_(source)
        _wait(device)
        rates.append(2 * num_bytes / (time.perf_counter() - begun_s))
    return statistics.median(rates[1:])


def rate_for(tokens_per_forward: float, num_drafts: int) -> float:
    """How often each draft stands behind those that stood, so that a round gives as many tokens.

    Raises:
        ValueError: no rate does: a round gives 1 to k + 1 tokens.
    """
    if not 1 <= tokens_per_forward <= num_drafts + 1:
        raise ValueError(
            f"tokens_per_forward must be in 1..{num_drafts + 1} with {num_drafts} drafts, "
            f"got {tokens_per_forward}"
        )
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        expected = sum(middle**place for place in range(num_drafts + 1))
        low, high = (middle, high) if expected < tokens_per_forward else (low, middle)
    return low


class DrawnCounts:
    """How many drafts of each row stand, whatever they are: drawn ahead, so that a graph may
    replay it."""

    def __init__(self, rate: float, num_rows: int, max_drafts: int, device: torch.device) -> None:
        drawn = torch.tensor(uniforms_for(0, _NUM_DRAWN * num_rows * max(1, max_drafts)))
        stands_NBk = (drawn < rate).view(_NUM_DRAWN, num_rows, -1)
        self._counts_NB = stands_NBk.long().cumprod(dim=-1).sum(dim=-1).to(device)
        self._turn_1 = torch.zeros(1, dtype=torch.long, device=device)

    def __call__(self, drafts_Bk: Tensor, targets_BT: Tensor) -> Tensor:
        counts_B = self._counts_NB.index_select(0, self._turn_1)[0, : len(drafts_Bk)]
        self._turn_1.add_(1).remainder_(_NUM_DRAWN)
        return counts_B.clamp(max=drafts_Bk.shape[1])


def drawn_advance(rate: float, num_rows: int, max_drafts: int, device: torch.device) -> Advance:
    """A round as ever, but for how many drafts stand."""
    counts = DrawnCounts(rate, num_rows, max_drafts, device)

    def drawn(model: MTPModel, drafter: Drafter, state: DecodeState, plan: Plan) -> Outcome:
        return advance(model, drafter, state, plan, counts)

    return drawn


@dataclass
class _Way:
    num_drafts: NumDrafts
    engine: Engine
    num_tokens: int = 0
    num_rounds: int = 0
    elapsed_s: float = 0.0
    tokens_per_s: list[float] = field(default_factory=list)

    def tokens_per_forward(self, batch: int) -> float:
        return self.num_tokens / (self.num_rounds * batch)

    @property
    def s_per_round(self) -> float:
        return self.elapsed_s / self.num_rounds


def _rows(
    model: MTPModel,
    measured: Measured,
    batch: int,
    tokens_per_forward: float,
    bandwidth: float,
    ends_at_s: float,
) -> Iterator[dict[str, Any]]:
    config, most = model.config, model.num_mtp_heads - 1
    device = model.unembedding.weight.device
    rate = rate_for(min(tokens_per_forward, most + 1), most)
    choices: list[NumDrafts] = [*range(most + 1), "auto"]
    ways = []
    for choice in choices:
        drawn = drawn_advance(rate, batch, most, device)
        engine = Engine(
            model, _numbers(config), batch, choice, prefill_tokens=1 << 30, advance=drawn
        )
        ways.append(_Way(choice, engine))
    for number in range(measured.num_rounds + 1):
        if number > 1 and time.monotonic() > ends_at_s:
            break
        for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
            _decode(way, measured, batch, is_counted=number > 0)
    plain, least_s = ways[0], _bytes_of_a_step(model, measured, batch) / bandwidth
    for way in ways:
        pairs = zip(way.tokens_per_s, plain.tokens_per_s, strict=True)
        ratios = [ours / theirs for ours, theirs in pairs]
        tokens_a_forward = way.tokens_per_forward(batch)
        row: dict[str, Any] = {
            "rows": batch,
            "drafts": way.num_drafts,
            "rounds": len(ratios),
            "tokens_per_forward": tokens_a_forward,
            "tokens_per_s": statistics.median(way.tokens_per_s),
            "speed_up": statistics.median(ratios),
            "speed_up_low": min(ratios),
            "speed_up_high": max(ratios),
            "speed_up_of_tokens": statistics.median(ratios) / tokens_a_forward,
            "s_per_round": way.s_per_round,
        }
        if way is plain:
            row["share_of_bandwidth"] = least_s / way.s_per_round
        yield row


def _decode(way: _Way, measured: Measured, batch: int, is_counted: bool) -> None:
    """Up to the last look that finds all rows unfinished, so that each round has all of them."""
    engine = way.engine
    prompt = [1] * measured.num_prompt
    ids = [engine.submit(Request(prompt, measured.num_new)) for _ in range(batch)]
    before_s, before_rounds = engine.stats.decode_s, engine.stats.num_rounds
    num_tokens, num_rounds, elapsed_s = 0, 0, 0.0
    while True:
        events = engine.step()
        if any(event.completion is not None for event in events):
            break
        num_tokens += sum(len(event.tokens) for event in events)
        num_rounds = engine.stats.num_rounds - before_rounds
        elapsed_s = engine.stats.decode_s - before_s
    for id_ in ids:
        engine.cancel(id_)
    assert num_rounds > 0, f"a look brought all of {measured.num_new} tokens"
    if is_counted:
        way.num_tokens += num_tokens
        way.num_rounds += num_rounds
        way.elapsed_s += elapsed_s
        way.tokens_per_s.append(num_tokens / elapsed_s)


def _bytes_of_a_step(model: MTPModel, measured: Measured, batch: int) -> float:
    """What plain decoding must read: the weights of trunk, head 1 and unembedding, keys, values."""
    config = model.config
    parameters = count_parameters(config)
    unembedding = config.width * config.vocab_size
    weights = parameters.trunk + parameters.heads / config.num_mtp_heads + unembedding
    layers = config.num_trunk_layers + 1
    mean_length = measured.num_prompt + measured.num_new / 2
    cached = 2 * layers * config.kv_heads * config.head_width * mean_length * batch
    return (weights + cached) * model.unembedding.weight.element_size()


def precision(model: MTPModel, measured: Measured, num_prompts: int = 32) -> dict[str, Any]:
    """Answers with drafts that are not plain decoding's, with one shape for all forwards and
    without; of the latter how near the two likeliest tokens were where answers part, in nats."""
    config, most = model.config, model.num_mtp_heads - 1
    vocab = config.vocab_size
    requests = [
        Request([(7 * number + place) % vocab for place in range(16)], 64, num_logprobs=2)
        for number in range(num_prompts)
    ]

    def answers(num_drafts: int, exact: bool) -> list[Completion]:
        engine = Engine(model, _numbers(config), 8, num_drafts, exact=exact)
        return engine.generate(requests).completions

    def differences(exact: bool) -> list[tuple[Completion, Completion]]:
        pairs = zip(answers(0, exact), answers(most, exact), strict=True)
        return [(plain, ours) for plain, ours in pairs if plain.tokens != ours.tokens]

    gaps = []
    for plain, ours in differences(exact=False):
        pairs = zip(plain.tokens, ours.tokens, strict=True)
        place = next(place for place, (one, other) in enumerate(pairs) if one != other)
        assert plain.logprobs is not None
        (_, first), (_, second) = plain.logprobs[place].top
        gaps.append(first - second)
    return {
        "prompts": num_prompts,
        "differences_exact": len(differences(exact=True)),
        "differences_fast": len(gaps),
        "gaps_where_they_part": gaps,
    }


def _numbers(config: ModelConfig) -> Any:
    return Numbers(config.vocab_size, answer_ends=())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
