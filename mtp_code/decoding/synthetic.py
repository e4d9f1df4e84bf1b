"""What decoding costs where drafts stand as often as told: shapes that nobody has trained.

Time depends on how many drafts stand, not on what the tokens are. So a shape is measured with
random weights: a round drafts, verifies and commits as ever, and only how many drafts stand is
told. `agreement` holds that to trained heads. The same code runs on a GPU and, at a small size, on
a CPU.
"""

import gc
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import torch
from torch import Tensor

from mtp_code.decoding.bandwidth import copy_bandwidth, least_s
from mtp_code.decoding.bench import NUM_ROUNDS, Decode, deal, turns_of
from mtp_code.decoding.draft import Drafter
from mtp_code.decoding.engine import Engine, NumDrafts
from mtp_code.decoding.exactness import Numbers
from mtp_code.decoding.parts import PartClock
from mtp_code.decoding.prepare import lay_out
from mtp_code.decoding.requests import Completion, Request
from mtp_code.decoding.state import DecodeState
from mtp_code.decoding.step import Advance, Outcome, Plan, advance
from mtp_code.decoding.tree import MAX_RANKS, Tree, TreeTensors
from mtp_code.devices import choose_device, describe_device, is_failure, is_out_of_memory
from mtp_code.errors import InteropError, MachineError, first_line
from mtp_code.model.config import ModelConfig
from mtp_code.model.mtp import MTPModel
from mtp_code.recipe import load_recipe
from mtp_code.tokenizer import Tokenizer

log = logging.getLogger(__name__)

Size = Literal["smoke", "cpu", "gpu"]

Peers = Callable[[MTPModel], Mapping[str, Decode]]
"""Makes other ways to decode with a model's weights, by name."""

_NUM_TOLD: Final = 4096
"""Rounds after which the numbers of drafts that stand come again."""
_NUM_TIMED: Final = 16
"""Rounds that are taken apart by a clock, which takes a GPU long: nothing is captured."""
_TREE_NODES: Final = 16
AGREEMENT: Final = 0.03
"""Share by which drafts as told may be faster or slower than trained heads' that stand as often."""
_PEERS_WITHIN: Final = 0.25
"""Of the time: others' decoding begins no round behind that share of it, for what it takes of one
shape is a multiple of all else there."""
_BY_ROUND, _BY_ROW = 0.6180339887498949, 0.4142135623730951
"""Steps, fractions of √5 and √2, whose multiples fill the unit interval evenly however far one
goes."""


@dataclass(frozen=True)
class Measured:
    """What is measured of a size.

    Attributes:
        shapes: recipes, by name; of the first of them others' decoding is measured too.
        batches: rows side by side.
        num_rounds: of all ways to draft, in turn first, behind one that warms up.
        num_prompt, num_new: tokens of a prompt, and at most of an answer, which is more than the
            rounds up to the second look may bring.
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
    shapes: Sequence[str] | None = None,
    batches: Sequence[int] | None = None,
    overrides: Sequence[str] = (),
    on_record: Callable[[dict[str, Any]], None] = lambda record: None,
    peers: Peers = lambda model: {},
) -> dict[str, Any]:
    """A record with the machine's copy bandwidth and rows of all shapes.

    What fails is noted in `left_out`, and the rest goes on. Where rounds could not be recorded as
    graphs, they are measured kernel by kernel, and their rows say so: `is_captured`.

    Args:
        size: None is what the machine is fit for.
        tokens_per_forward: that as many drafts as the shape has heads for are to give.
        limit_s: no shape, batch or round begins behind it.
        shapes, batches: in place of the size's own.
        overrides: of the recipes, `section.key=value`.
        on_record: sees the record as it is so far, whenever there is more of it.
        peers: others' decoding, one at a time, of the first shape.

    Raises:
        RecipeError: there is no such recipe or key, or a value is wrong.
    """
    device = choose_device("auto")
    size = size or ("gpu" if device.type == "cuda" else "cpu")
    begun_s, measured = time.monotonic(), MEASURED[size]
    ends_at_s = begun_s + limit_s
    if shapes is not None:
        measured = replace(measured, shapes=tuple(shapes))
    if batches is not None:
        measured = replace(measured, batches=tuple(batches))
    configs = {shape: _config(shape, measured, overrides) for shape in measured.shapes}
    bandwidth = copy_bandwidth(device)
    record: dict[str, Any] = {
        "size": size,
        "device": describe_device(device),
        "dtype": str(measured.dtype).removeprefix("torch."),
        "copy_bytes_per_s": bandwidth,
        "rows": [],
        "precision": [],
        "left_out": [],
    }
    for shape, config in configs.items():
        with _left_out_if_it_fails(record, shape, device):
            model = random_model(config, device, measured.dtype)
            for batch in measured.batches:
                name = f"{shape}, {batch} rows"
                if time.monotonic() > ends_at_s:
                    record["left_out"].append(f"{name}: no time left")
                    continue
                others: dict[str, Decode] = {}
                if shape == measured.shapes[0] and batch == 1:
                    with _left_out_if_it_fails(record, f"{name}, others", device):
                        others = dict(peers(model))
                on_progress(name)
                found: list[dict[str, Any]] = []
                for captures in (True, False) if device.type == "cuda" else (True,):
                    what = name if captures else f"{name}, kernel by kernel"
                    with _left_out_if_it_fails(record, what, device):
                        found += _rows(
                            model, measured, batch, tokens_per_forward, bandwidth, ends_at_s,
                            begun_s + _PEERS_WITHIN * limit_s, others, captures,
                        )  # fmt: skip
                    if found:
                        break
                found = [{"shape": shape, **row} for row in found]
                record["rows"] += found
                on_record(record)
                if time.monotonic() < ends_at_s:
                    with _left_out_if_it_fails(record, f"{name}, parts of a round", device):
                        _add_parts(found, model, measured, batch, tokens_per_forward)
                    on_record(record)
            if measured.dtype is torch.bfloat16 and time.monotonic() < ends_at_s:
                with _left_out_if_it_fails(record, f"{shape}, precision", device):
                    record["precision"].append({"shape": shape, **precision(model, measured)})
            del model  # before the next is made
        on_record(record)
    return record


@contextmanager
def _left_out_if_it_fails(
    record: dict[str, Any], name: str, device: torch.device
) -> Iterator[None]:
    """Notes what a GPU fails at, memory does not suffice for or others do not compute; goes on."""
    try:
        yield
    except Exception as error:
        if not is_failure(error, device) and not isinstance(error, InteropError):
            raise
        if not isinstance(error, MachineError | InteropError) and not is_out_of_memory(error):
            log.exception("%s", name)
        record["left_out"].append(f"{name}: {first_line(error)}")
    else:
        return
    # Behind the except clause, which keeps all that was measured with alive.
    gc.collect()
    # A device that has failed for good frees nothing; what is next will say so.
    with suppress(RuntimeError):
        torch.cuda.empty_cache()


def _config(shape: str, measured: Measured, overrides: Sequence[str] = ()) -> ModelConfig:
    """A recipe's, with no more context than is measured: an engine's caches for each way to draft
    are there at once."""
    context = measured.num_prompt + measured.num_new
    return load_recipe(shape, overrides).model.model_copy(update={"context": context})


def random_model(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> MTPModel:
    """A model of that shape as torch fills it, laid out for decoding."""
    with torch.device(device):
        model = MTPModel(config).to(dtype)
    model.eval().requires_grad_(False)
    lay_out(model)
    return model


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


class ToldCounts:
    """How many drafts of each row stand, whatever they are: known ahead, so that a graph may replay
    it.

    Each offset's draft stands as often as told, not only on average: the numbers that decide are
    spread evenly over any run of rounds, so that a short measurement has no luck.
    """

    def __init__(self, reached: Sequence[float], num_rows: int, device: torch.device) -> None:
        """
        Args:
            reached: how often at least 1, 2, … drafts stand.
        """
        rounds_N1 = torch.arange(1, _NUM_TOLD + 1, dtype=torch.float64)[:, None]
        rows_B = torch.arange(num_rows, dtype=torch.float64)
        even_NB = (rounds_N1 * _BY_ROUND + rows_B * _BY_ROW) % 1
        reached_k = torch.tensor(reached, dtype=torch.float64)
        self._counts_NB = (even_NB[..., None] < reached_k).sum(dim=-1).to(device)
        self._turn_1 = torch.zeros(1, dtype=torch.long, device=device)

    def __call__(self, drafts_Bk: Tensor, targets_BT: Tensor) -> Tensor:
        counts_B = self._counts_NB.index_select(0, self._turn_1)[0, : len(drafts_Bk)]
        self._turn_1.add_(1).remainder_(_NUM_TOLD)
        return counts_B.clamp(max=drafts_Bk.shape[1])


class ToldWalk:
    """Of a tree as many stand, along the likeliest tokens."""

    def __init__(self, tree: Tree, counts: ToldCounts, device: torch.device) -> None:
        line = [0]
        for node, (parent, rank) in enumerate(zip(tree.parents, tree.ranks, strict=True)):
            if node and parent == line[-1] and rank == 0:
                line.append(node)
        line += [line[-1]] * (tree.num_drafts + 1 - len(line))
        self._line_T = torch.tensor(line, device=device)
        self._steps_T = torch.arange(tree.num_drafts + 1, device=device)
        self._counts = counts

    def __call__(
        self, tensors: TreeTensors, num_drafts: int, tokens_BN: Tensor, targets_BN: Tensor
    ) -> tuple[Tensor, Tensor]:
        accepted_B = self._counts(tokens_BN[:, 1 : num_drafts + 1], targets_BN)
        return self._line_T[torch.minimum(self._steps_T, accepted_B[:, None])], accepted_B


def told_advance(
    reached: Sequence[float], num_rows: int, device: torch.device, tree: Tree | None = None
) -> Advance:
    """A round as ever, but for how many drafts stand.

    Args:
        tree: that the rounds have, if it is one.
    """
    counts = ToldCounts(reached, num_rows, device)
    walk = {} if tree is None else {"walk": ToldWalk(tree, counts, device)}

    def told(model: MTPModel, drafter: Drafter, state: DecodeState, plan: Plan) -> Outcome:
        return advance(model, drafter, state, plan, counts, **walk)

    return told


@dataclass
class _Way:
    num_drafts: NumDrafts
    engine: Engine
    tree: Tree | None = None
    num_tokens: int = 0
    num_rounds: int = 0
    elapsed_s: float = 0.0
    tokens_per_s: list[float] = field(default_factory=list)
    tokens_per_cpu_s: list[float] = field(default_factory=list)

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
    peers_end_at_s: float,
    peers: Mapping[str, Decode],
    captures: bool,
) -> Iterator[dict[str, Any]]:
    config, most = model.config, model.num_mtp_heads - 1
    device = model.unembedding.weight.device
    reached = _reached(tokens_per_forward, most)
    choices: list[NumDrafts] = [*range(most + 1), "auto"]
    if batch == 1 and most and not model.mtp_heads.reads_tokens:
        choices.append(_tree(reached[0], most))
    ways = []
    for choice in choices:
        tree = choice if isinstance(choice, Tree) else None
        told = told_advance(reached, batch, device, tree)
        engine = Engine(
            model, _numbers(config), batch, choice, prefill_tokens=1 << 30, captures=captures,
            advance=told, sheds_rows=False,
        )  # fmt: skip
        ways.append(_Way(choice, engine, tree))
    others = {name: _Peer(decode) for name, decode in peers.items()}
    for number in range(measured.num_rounds + 1):
        if number > 1 and time.monotonic() > ends_at_s:
            break
        for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
            _decode(way, measured, batch, is_counted=number > 0)
        for peer in others.values():
            if number < 2 or time.monotonic() < peers_end_at_s:
                peer.decode(measured, is_counted=number > 0)
    plain = ways[0]
    num_cached = batch * (measured.num_prompt + measured.num_new / 2)
    for way in ways:
        ratios = _ratios(way.tokens_per_s, plain.tokens_per_s)
        tokens_a_forward = way.tokens_per_forward(batch)
        row: dict[str, Any] = {
            "rows": batch,
            "drafts": way.num_drafts if way.tree is None else "tree",
            "rounds": len(ratios),
            "tokens_per_forward": tokens_a_forward,
            "tokens_per_s": statistics.median(way.tokens_per_s),
            "speed_up": statistics.median(ratios),
            "speed_up_low": min(ratios),
            "speed_up_high": max(ratios),
            "speed_up_of_tokens": statistics.median(ratios) / tokens_a_forward,
            "s_per_round": way.s_per_round,
        }
        if way.tree is not None:
            row["nodes"] = way.tree.num_nodes
        if isinstance(way.num_drafts, int):
            bound_s = least_s(model, way.num_drafts, num_cached, bandwidth)
            row["share_of_bandwidth"] = bound_s / way.s_per_round
        if device.type == "cuda":
            row["is_captured"] = captures
        else:
            row["cpu_speed_up"] = statistics.median(
                _ratios(way.tokens_per_cpu_s, plain.tokens_per_cpu_s)
            )
        yield row
    for name, peer in others.items():
        # Rounds of others may have ended before.
        ratios = _ratios(peer.tokens_per_s, plain.tokens_per_s[: len(peer.tokens_per_s)])
        row = {
            "rows": 1,
            "drafts": name,
            "rounds": len(ratios),
            "tokens_per_forward": 1.0,
            "tokens_per_s": statistics.median(peer.tokens_per_s),
            "speed_up": statistics.median(ratios),
            "speed_up_low": min(ratios),
            "speed_up_high": max(ratios),
        }
        if device.type != "cuda":
            cpu_ratios = _ratios(peer.tokens_per_cpu_s, plain.tokens_per_cpu_s[: len(ratios)])
            row["cpu_speed_up"] = statistics.median(cpu_ratios)
        yield row


def _reached(tokens_per_forward: float, most: int) -> list[float]:
    """How often at least 1, 2, … drafts stand."""
    rate = rate_for(min(tokens_per_forward, most + 1), most)
    return [rate**count for count in range(1, most + 1)]


def _tree(rate: float, most: int) -> Tree:
    """The best of its size where a head's next guesses are each right half as often as the one
    before, and together as often as the first is not."""
    of_ranks = [rate, *((1 - rate) / 2**rank for rank in range(1, MAX_RANKS))]
    return Tree.best([sorted(of_ranks, reverse=True)] * most, _TREE_NODES)


@dataclass
class _Peer:
    """Others' decoding, one request at a time, of the same prompt and as many tokens."""

    answer: Decode
    tokens_per_s: list[float] = field(default_factory=list)
    tokens_per_cpu_s: list[float] = field(default_factory=list)

    def decode(self, measured: Measured, is_counted: bool) -> None:
        """The first token, with which the prompt is read, is taken off."""
        first, whole = (self._took(measured, count) for count in (1, measured.num_new))
        if is_counted:
            num_tokens = measured.num_new - 1
            self.tokens_per_s.append(num_tokens / (whole[0] - first[0]))
            self.tokens_per_cpu_s.append(num_tokens / (whole[1] - first[1]))

    def _took(self, measured: Measured, num_new: int) -> tuple[float, float]:
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        (completion,) = self.answer([Request([1] * measured.num_prompt, num_new)])
        assert completion.num_committed == num_new
        return time.perf_counter() - begun_s, time.process_time() - begun_cpu_s


def _add_parts(
    rows: Sequence[dict[str, Any]],
    model: MTPModel,
    measured: Measured,
    batch: int,
    tokens_per_forward: float,
) -> None:
    """To the rows of each number of drafts."""
    reached = _reached(tokens_per_forward, model.num_mtp_heads - 1)
    for row in rows:
        if isinstance(row["drafts"], int):
            told = told_advance(reached, batch, model.unembedding.weight.device)
            row["parts_s"] = _parts(model, measured, batch, row["drafts"], told)


def _parts(
    model: MTPModel, measured: Measured, batch: int, num_drafts: int, told: Advance
) -> dict[str, float] | None:
    """Seconds of each part of a round, kernel by kernel."""
    clock = PartClock(model.unembedding.weight.device, told)
    engine = Engine(
        model, _numbers(model.config), batch, num_drafts, prefill_tokens=1 << 30,
        rounds_a_look=1, captures=False, advance=clock.advance, sheds_rows=False,
    )  # fmt: skip
    for _ in range(batch):
        engine.submit(Request([1] * measured.num_prompt, measured.num_new))
    engine.step()
    num_rounds = min(_NUM_TIMED, measured.num_new // (num_drafts + 1) - 1)
    with clock.watching(model):
        for _ in range(num_rounds):
            with clock.step():
                engine.step()
    return clock.per_step_s()


def _decode(way: _Way, measured: Measured, batch: int, is_counted: bool) -> None:
    """From the first look, before which prompts are read, to the last that finds all rows
    unfinished, so that each round has all of them."""
    engine = way.engine
    prompt = [1] * measured.num_prompt
    ids = [engine.submit(Request(prompt, measured.num_new)) for _ in range(batch)]
    engine.step()
    before_s, before_rounds = engine.stats.decode_s, engine.stats.num_rounds
    begun_cpu_s = time.process_time()
    num_tokens, num_rounds, elapsed_s, cpu_s = 0, 0, 0.0, 0.0
    while True:
        events = engine.step()
        if any(event.completion is not None for event in events):
            break
        num_tokens += sum(len(event.tokens) for event in events)
        num_rounds = engine.stats.num_rounds - before_rounds
        elapsed_s = engine.stats.decode_s - before_s
        cpu_s = time.process_time() - begun_cpu_s
    for id_ in ids:
        engine.cancel(id_)
    assert num_rounds > 0, f"two looks brought all of {measured.num_new} tokens"
    if is_counted:
        way.num_tokens += num_tokens
        way.num_rounds += num_rounds
        way.elapsed_s += elapsed_s
        way.tokens_per_s.append(num_tokens / elapsed_s)
        way.tokens_per_cpu_s.append(num_tokens / cpu_s)


def agreement(
    model: MTPModel,
    tokenizer: Tokenizer,
    requests: Sequence[Request],
    num_rows: int = 1,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[dict[str, Any]]:
    """Rows of how drafts that stand as often as told compare with trained heads', by drafts.

    Both on the same weights and prompts, greedily, to answers of the same lengths, in turn first
    in paired rounds. What is told is how often the heads' own drafts stood, offset by offset, in a
    run before. `ratio` is the median over rounds of told ÷ real tokens a second behind the prompts;
    `cpu_ratio` of tokens per second of CPU time, prompts included. `agrees` says whether the ratio
    is within `AGREEMENT` of 1; None where it is not, but some round's is, so that nothing is shown.
    """
    most, device = model.num_mtp_heads - 1, model.unembedding.weight.device
    rounds = deal(len(requests), NUM_ROUNDS, num_rows)
    for num_drafts in range(1, most + 1):
        real = Engine(model, tokenizer, num_rows, num_drafts, sheds_rows=False)
        found = real.generate(requests)
        reached = [rate or 0.0 for rate in found.stats.acceptance_by_offset]
        told = Engine(
            model, _numbers(model.config), num_rows, num_drafts,
            advance=told_advance(reached, num_rows, device), sheds_rows=False,
        )  # fmt: skip
        as_long = [
            replace(request, max_new_tokens=one.num_committed, stops=())
            for request, one in zip(requests, found.completions, strict=True)
        ]
        ways = [_Paired(real, requests), _Paired(told, as_long)]
        told.generate(as_long[:1])  # the first call is slow
        num_turns = 0
        for number, places in enumerate(rounds):
            for way in ways:
                way.rounds.append(_Round())
            for turn in turns_of(places, num_rows):
                for way in ways if num_turns % 2 else reversed(ways):
                    way.decode(turn)
                num_turns += 1
            on_progress((num_drafts - 1) * len(rounds) + number + 1, most * len(rounds))
        of_real, of_told = ways
        ratios = _ratios(of_told.tokens_per_s, of_real.tokens_per_s)
        ratio = statistics.median(ratios)
        yield {
            "drafts": num_drafts,
            "batch_rows": num_rows,
            "reached": reached,
            "tokens_per_forward": of_real.tokens_per_forward,
            "tokens_per_forward_told": of_told.tokens_per_forward,
            "ratio": ratio,
            "ratio_low": min(ratios),
            "ratio_high": max(ratios),
            "agrees": agrees(ratio, min(ratios), max(ratios)),
            "cpu_ratio": statistics.median(
                _ratios(of_told.tokens_per_cpu_s, of_real.tokens_per_cpu_s)
            ),
        }


def agrees(ratio: float, low: float, high: float) -> bool | None:
    """See `agreement`; ``low`` and ``high`` are the ratios of single rounds."""
    if abs(ratio - 1) <= AGREEMENT:
        return True
    return False if low > 1 + AGREEMENT or high < 1 - AGREEMENT else None


@dataclass
class _Round:
    num_tokens: int = 0
    decode_s: float = 0.0
    cpu_s: float = 0.0


@dataclass
class _Paired:
    engine: Engine
    requests: Sequence[Request]
    num_tokens: int = 0
    num_forwards: int = 0
    rounds: list[_Round] = field(default_factory=list)

    @property
    def tokens_per_forward(self) -> float:
        return self.num_tokens / self.num_forwards

    @property
    def tokens_per_s(self) -> list[float]:
        return [one.num_tokens / one.decode_s for one in self.rounds]

    @property
    def tokens_per_cpu_s(self) -> list[float]:
        return [one.num_tokens / one.cpu_s for one in self.rounds]

    def decode(self, places: Sequence[int]) -> None:
        """Adds a turn to the round that has begun."""
        begun_s, newest = time.process_time(), self.rounds[-1]
        stats = self.engine.generate([self.requests[place] for place in places]).stats
        newest.cpu_s += time.process_time() - begun_s
        newest.decode_s += stats.decode_s
        newest.num_tokens += stats.num_tokens
        self.num_tokens += stats.num_tokens
        self.num_forwards += stats.num_forwards


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def precision(model: MTPModel, measured: Measured, num_prompts: int = 32) -> dict[str, Any]:
    """Answers with drafts that are not plain decoding's, with one shape for all forwards and
    without; of the latter how near the two likeliest tokens were where answers part, in nats.

    An untrained model's tokens are nearly as likely as one another, so that ties are many:
    `differences_fast` says nothing of trained weights, `differences_exact` holds for all.
    """
    config, most = model.config, model.num_mtp_heads - 1
    vocab = config.vocab_size
    requests = [
        Request([(7 * number + place) % vocab for place in range(16)], 64, num_logprobs=2)
        for number in range(num_prompts)
    ]

    def answers(num_drafts: int, exact: bool) -> list[Completion]:
        engine = Engine(model, _numbers(config), 8, num_drafts, exact=exact, sheds_rows=False)
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
        "weights": "random",
        "prompts": num_prompts,
        "differences_exact": len(differences(exact=True)),
        "differences_fast": len(gaps),
        "gaps_where_they_part": gaps,
    }


def _numbers(config: ModelConfig) -> Any:
    return Numbers(config.vocab_size, answer_ends=())
