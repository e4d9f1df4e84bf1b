"""Continuous batching: requests come and go while others are answered."""

import gc
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mtp_code.decoding.bandwidth import wait_for
from mtp_code.decoding.draft import build_drafter, last_position
from mtp_code.decoding.policy import (
    Auto,
    AutoTree,
    DraftPolicy,
    DraftShape,
    Fixed,
    Round,
    num_drafts_of,
    num_verified,
)
from mtp_code.decoding.prepare import largest_num_rows, load_for_decoding
from mtp_code.decoding.requests import Answer, Completion, Request, TokenLogprobs
from mtp_code.decoding.runner import Direct, Graphed, Runner, Shapes
from mtp_code.decoding.state import DecodeState
from mtp_code.decoding.step import Advance, Outcome, Plan, advance, draft
from mtp_code.decoding.tree import MAX_NODES, Tree
from mtp_code.devices import DeviceName, DtypeName, is_out_of_memory
from mtp_code.errors import CheckpointError, MachineError, PromptError
from mtp_code.model.mtp import MTPModel
from mtp_code.run_folder import TrainedModel
from mtp_code.tokenizer import Tokenizer

log = logging.getLogger(__name__)

T = TypeVar("T")

NumDrafts = int | Literal["auto", "tree"] | Tree
"""Drafts of a round: a number in a line or a tree, or as many, or as large a one, as pay."""

PREFILL_TOKENS: Final = 512
"""Tokens of waiting prompts that the trunk and head 1 read between two rounds of other rows.

The heads that draft read a prompt all at once, before the first round that asks them: for that
other rows do wait longer.
"""


@dataclass(frozen=True)
class Event:
    """News of one request: tokens as they come, and the whole answer once it is there, or why it
    will not be (`completion.error`)."""

    id: int
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] | None = None
    completion: Completion | None = None


@dataclass
class Stats:
    """What an engine did since it began.

    Offsets are counted from 2: `drafted[i]` and `accepted[i]` belong to offset i + 2.
    """

    num_requests: int = 0
    num_failed: int = 0
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    """Committed, ends of text included."""
    num_forwards: int = 0
    """Of single rows: a forward of a batch counts once for each."""
    num_rounds: int = 0
    """Of the batch: all that ran, also for rows that were done or cancelled."""
    prefill_s: float = 0.0
    """Reading prompts; and, apart from rounds, what heads were not asked to read before."""
    decode_s: float = 0.0
    recording_s: float = 0.0
    """Taking rounds down before they first ran, on a GPU; not in `decode_s`."""
    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    rounds_by_accepted: list[int] = field(default_factory=list)

    @property
    def tokens_per_forward(self) -> float | None:
        """τ: the verifier's own token counts too."""
        return self.num_tokens / self.num_forwards if self.num_forwards else None

    @property
    def acceptance_by_offset(self) -> list[float | None]:
        pairs = zip(self.accepted, self.drafted, strict=True)
        return [stood / made if made else None for stood, made in pairs]

    def add(self, completion: Completion) -> None:
        self.num_requests += 1
        self.num_failed += completion.error is not None
        self.num_prompt_tokens += len(completion.request.prompt)
        self.num_tokens += completion.num_committed
        self.num_forwards += completion.num_forwards
        for name in ("drafted", "accepted", "rounds_by_accepted"):
            total = getattr(self, name)
            for index, count in enumerate(getattr(completion, name)):
                total[index] += count


@dataclass(frozen=True)
class Generated:
    """Completions in the order of the requests, and what they took."""

    completions: list[Completion]
    stats: Stats


@dataclass
class _Row:
    """A request that has a row.

    Attributes:
        length: tokens that the row's cache holds.
        heads_read: positions that each head beyond the first has read, by offset.
    """

    id: int
    answer: Answer
    heads_read: list[int]
    length: int = 0

    @property
    def request(self) -> Request:
        return self.answer.completion.request

    @property
    def text(self) -> list[int]:
        """The prompt, and what is there of the answer."""
        return [*self.request.prompt, *self.answer.completion.tokens]

    @property
    def is_read(self) -> bool:
        """Whether all of the text is, but for its last token, which a round reads."""
        return self.length >= _num_to_read(self.answer)

    def num_behind(self, num_heads: int) -> int:
        """Positions that some of the first heads behind head 1 have not read."""
        return self.length - min(self.heads_read[:num_heads], default=0)


class Engine:
    """Answers requests with a row of a batch each; every row advances by its own acceptance.

    Completions are token for token those of plain decoding (`num_drafts=0`) in fp32, sampled ones
    too, in whatever company they are decoded. In lower precision they are wherever rounding, which
    differs with the number of tokens in a forward, does not tip a choice.

    Each round is one trunk forward over a row's newest token and its drafts. What head 1 answers
    there verifies the drafts; the tokens up to its first disagreement, and its own answer at that
    place (the bonus token), are committed.

    Above temperature 0 an answer of head 1 is a draw from its law, by the uniform number that the
    request's seed has for that place. A draft x stands if it is the token drawn, so with
    probability p(x), and the token in place of one that does not follows p without x: as in the
    rejection rule of speculative sampling (proofs: Leviathan et al. 2023, arXiv 2211.17192,
    appendix A.1; Chen et al. 2023, arXiv 2302.01318) for a draft that is sure of itself. Since
    plain decoding draws with the same numbers, not only the law is the same but each sample.

    Where memory does not suffice inside a step, rows are given up, the newest first, and answered
    once others are done; a request that does not fit alone ends with an `error`. From then on no
    more rows are answered at a time than did fit.

    Not for use by several threads at once.

    Source: Gloeckle et al. 2024, arXiv 2404.19737, section 3.2.
    """

    def __init__(
        self,
        model: MTPModel,
        tokenizer: Tokenizer,
        num_rows: int = 8,
        num_drafts: NumDrafts = "auto",
        prefill_tokens: int = PREFILL_TOKENS,
        rounds_a_look: int | None = None,
        exact: bool = False,
        captures: bool = True,
        advance: Advance = advance,
        sheds_rows: bool = True,
    ) -> None:
        """
        Args:
            num_drafts: tokens drafted a round, 0 … n−1, or a tree of them; `auto` drafts as many
                in a line as pay, which may be none, `tree` as large a tree.
            rounds_a_look: rounds between two looks of the host at what they brought. More make
                less of its time; tokens come in larger pieces, and a row that is done idles until
                the next look. By default 8 on a GPU, where rounds are captured, and 1 elsewhere.
            exact: every forward has the same shape, whatever is drafted and whoever else is in the
                batch: n tokens a row, all rows, all slots. Then tokens are those of plain decoding
                (`num_drafts=0, exact=True`, the same num_rows) in any precision, if the machine's
                kernels treat the rows of a product alike. Slower.
            captures: on a GPU, rounds are recorded once and replayed; else each runs kernel by
                kernel.
            advance: a round; another one is for checks, which must notice that it is wrong.
            sheds_rows: where memory does not suffice for a round, it goes on with fewer rows at a
                time, and a request that is too much by itself fails alone; else `step` raises what
                torch did, as measurements want it, and the engine is of no use any more.

        Raises:
            ValueError: the model has too few heads for so many drafts, heads that cannot draft
                trees, there is no row, or no round between two looks.
            MachineError: memory does not suffice for so many rows; it says how many fit.
        """
        if num_rows < 1:
            raise ValueError(f"num_rows must be at least 1, got {num_rows}")
        self.model, self.tokenizer = model, tokenizer
        most = model.num_mtp_heads - 1
        self._policy: DraftPolicy
        if num_drafts == "auto":
            self.max_drafts, self._policy = most, Auto(most)
        elif num_drafts == "tree":
            self.max_drafts, self._policy = most, AutoTree(most)
        else:
            self.max_drafts, self._policy = num_drafts_of(num_drafts), Fixed(num_drafts)
        self._drafter = build_drafter(model, self.max_drafts)
        is_tree = num_drafts == "tree" or isinstance(num_drafts, Tree)
        if is_tree and not self._drafter.can_branch:
            raise ValueError("sequential heads draft token by token, which makes no tree")
        if is_tree and exact:
            raise ValueError("exact: trees are not among the shapes that are held; draft in a line")
        self._prefill_tokens = prefill_tokens
        self._device = model.unembedding.weight.device
        is_cuda = self._device.type == "cuda"
        if rounds_a_look is None:
            rounds_a_look = 8 if is_cuda else 1
        if rounds_a_look < 1:
            raise ValueError(f"rounds_a_look must be at least 1, got {rounds_a_look}")
        self._rounds_a_look = rounds_a_look
        self._width = most + 1 if exact else 0
        num_spare = 2 * (most if exact else self.max_drafts) + 2 + (MAX_NODES if is_tree else 0)
        fitting = largest_num_rows(model, num_spare, self.max_drafts)
        if fitting is not None and fitting < num_rows:
            raise MachineError(
                f"num_rows = {num_rows}: the cache of so many rows does not fit into memory; "
                f"the most that do are {fitting}"
            )
        self._state = DecodeState(model, num_rows, num_spare, self.max_drafts)
        self._shapes = Shapes.FIXED if exact else Shapes.BUCKETS if is_cuda else Shapes.TIGHT
        direct = Direct(model, self._drafter, advance)
        self._runner: Runner = Graphed(direct) if is_cuda and captures else direct
        self._sheds_rows = sheds_rows
        self._most_rows, self._reads_together = num_rows, not exact
        # Rows being answered come first, then at most one whose prompt is being read.
        self._rows: list[_Row] = []
        self._waiting: deque[tuple[int, Answer]] = deque()
        self._next_id = 0
        self.stats = self._fresh_stats()

    @classmethod
    def load(
        cls,
        run_dir: Path,
        num_rows: int = 8,
        num_drafts: NumDrafts = "auto",
        trained: TrainedModel | None = None,
        device: DeviceName = "auto",
        dtype: DtypeName = "auto",
    ) -> Self:
        """An engine for a run's newest checkpoint, its weights laid out for decoding.

        Args:
            run_dir: a run folder, or what else `load_model` takes.
            trained: what `load_for_decoding` made of it, if it did already.
            device, dtype: `auto` is a GPU in bf16 where there is one, else the CPU in fp32.

        Raises:
            InputError: the folder holds no model, or a damaged one, or one of too few heads for so
                many drafts.
            MachineError: memory does not suffice for so many rows (it says how many fit) or for
                the weights, or there is no such device.
        """
        trained = trained or load_for_decoding(run_dir, device, dtype)
        most = trained.model.num_mtp_heads - 1
        if isinstance(num_drafts, int) and not 0 <= num_drafts <= most:
            raise CheckpointError(f"{run_dir}: {num_drafts} drafts: it has heads for 0..{most}")
        if num_drafts == "tree" and trained.model.mtp_heads.reads_tokens:
            raise CheckpointError(f"{run_dir}: its heads draft token by token, which makes no tree")
        return cls(trained.model, trained.tokenizer, num_rows, num_drafts)

    @property
    def num_rows(self) -> int:
        return self._state.num_rows

    @property
    def num_running(self) -> int:
        return len(self._rows)

    @property
    def has_work(self) -> bool:
        return bool(self._rows or self._waiting)

    def submit(self, request: Request) -> int:
        """Queues a request; returns the number that its events carry.

        Raises:
            PromptError: the prompt is empty, outside the vocabulary, or as long as the context;
                nothing is queued then.
        """
        answer = Answer(request, self.tokenizer, self.model.config.context, self.max_drafts)
        self._next_id += 1
        self._waiting.append((self._next_id, answer))
        return self._next_id

    def cancel(self, id_: int) -> bool:
        """Drops a request, whose row is free at once; False if it is not here (any more)."""
        for place, (waiting, _) in enumerate(self._waiting):
            if waiting == id_:
                del self._waiting[place]
                return True
        for place, row in enumerate(self._rows):
            if row.id == id_:
                self._free([place])
                return True
        return False

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Reads some of the waiting prompts, then advances all that are read up to a look."""
        with _kernels_of_any_length(self._device):
            return self._step()

    def _step(self) -> list[Event]:
        events = self._read_prompts()
        if self._num_live:
            brought = self._within_memory(self._run)
            events += self._shed() if brought is None else self._take(brought)
        return events

    def _run(self) -> "_Brought":
        """Rounds of all rows that are read, up to a look."""
        live = self._rows[: self._num_live]
        shape = self._policy.choose([row.id for row in live])
        num_rounds = self._num_rounds(live)
        caught_up_s = self._catch_up(live, num_drafts_of(shape), num_rounds)
        begun_s = time.perf_counter()
        plan = self._plan(live, shape, num_rounds)
        state = self._state.rows(0, self._shapes.rows(len(live), self.num_rows))
        outcomes, recording_s = self._runner.run(state, plan, num_rounds)
        told = _told(outcomes, len(live))
        return _Brought(shape, plan, told, begun_s, recording_s, caught_up_s)

    def _take(self, ran: "_Brought") -> list[Event]:
        """Hands rows what rounds brought them, and gives up those that are done."""
        live, plan = self._rows[: self._num_live], ran.plan
        before = [len(row.answer.completion.tokens) for row in live]
        brought: list[Round] = []
        for by_row in ran.told:
            # What comes behind an answer's end is dropped.
            going_on = [place for place, row in enumerate(live) if not row.answer.is_done]
            self._note_read([live[place] for place in going_on], plan.num_drafts)
            for place in going_on:
                self._commit(live[place], by_row[place], plan.num_drafts)
            brought.append(
                Round(
                    [live[place].id for place in going_on],
                    [by_row[place].accepted for place in going_on],
                    [by_row[place].ranks for place in going_on],
                )
            )
        events = [_event(row, since) for row, since in zip(live, before, strict=True)]
        elapsed_s = time.perf_counter() - ran.begun_s - ran.recording_s
        self._policy.observe(
            ran.shape, brought, None if ran.recording_s else elapsed_s, ran.caught_up_s
        )
        self.stats.num_rounds += len(ran.told)
        self.stats.prefill_s += ran.caught_up_s
        self.stats.decode_s += elapsed_s
        self.stats.recording_s += ran.recording_s
        done = [place for place, row in enumerate(live) if row.answer.is_done]
        for place in done:
            self.stats.add(live[place].answer.completion)
        self._free(done)
        return events

    def _within_memory(self, work: Callable[[], T]) -> T | None:
        """What work comes to; None where memory does not suffice for it.

        Returned from, so that nothing keeps alive what the work had made by then.
        """
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not self._sheds_rows or not is_out_of_memory(error):
                raise
            return None

    def _shed(self) -> list[Event]:
        """Rolls rounds back that memory did not suffice for, and has the newest rows wait again.

        What is there of their answers is read with their prompts then. A row that is alone fails,
        and so do all rows of an engine whose rounds always have all of them; but not before they
        had the memory of what was recorded as well.
        """
        has_more = self._release()
        num_live = self._num_live
        live = self._rows[:num_live]
        self._state.rows(0, num_live).roll_back([row.length for row in live])
        if num_live == 1 or self._shapes is Shapes.FIXED:
            if has_more:
                return []
            rows = "one row" if self._shapes is not Shapes.FIXED else f"all {self.num_rows} rows"
            events = [
                self._fail(
                    row.answer,
                    row.id,
                    f"out of memory: a round of {rows} does not fit, of {row.length} tokens here; "
                    "free memory, ask for fewer tokens, or choose a smaller number format",
                )
                for row in live
            ]
            self._free(range(num_live))
            return events
        self._most_rows = (num_live + 1) // 2
        log.warning(
            "out of memory with %d rows at once; going on with %d", num_live, self._most_rows
        )
        oldest = sorted(row.id for row in live)[: self._most_rows]
        given_up = [row for row in self._rows if row.id not in oldest]
        self._free([place for place, row in enumerate(live) if row.id not in oldest])
        del self._rows[self._most_rows :]  # what was being read
        self._wait_again(given_up)
        return []

    def _give_up_reading(self, first: int) -> list[Event]:
        """Has the rows from one on, whose prompts memory did not suffice for, read alone; one that
        was alone fails, but not before it had the memory of what was recorded as well."""
        has_more = self._release()
        rows = self._rows[first:]
        del self._rows[first:]
        if len(rows) > 1:
            log.warning("out of memory reading %d prompts at once; reading them alone", len(rows))
            self._reads_together = False
        if len(rows) > 1 or has_more:
            self._wait_again(rows)
            return []
        (row,) = rows
        count = len(row.text)
        what = f"out of memory: reading {count} tokens does not fit; shorten the prompt"
        return [self._fail(row.answer, row.id, what)]

    def _wait_again(self, rows: Sequence[_Row]) -> None:
        """In front of those that have not had a row yet."""
        newest_first = sorted(rows, key=lambda row: row.id, reverse=True)
        self._waiting.extendleft((row.id, row.answer) for row in newest_first)

    def _fail(self, answer: Answer, id_: int, error: str) -> Event:
        answer.completion.error = error
        self.stats.add(answer.completion)
        return Event(id_, completion=answer.completion)

    def _release(self) -> bool:
        """Gives memory back that is only held to be fast; whether rounds held any."""
        had_any = self._runner.forget()
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return had_any

    def stream(self, request: Request) -> Iterator[Event]:
        """The events of one request, beside whatever else is being answered.

        Other requests' events of these steps are lost: to follow several, call `step`.

        Raises:
            PromptError: as `submit`.
        """
        id_ = self.submit(request)
        try:
            while True:
                for event in self.step():
                    if event.id == id_:
                        yield event
                        if event.completion is not None:
                            return
        finally:
            self.cancel(id_)

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Completions as they finish; requests are taken when there is a row for them.

        A request that cannot be begun, or that memory does not suffice for, fails alone, with an
        `error`. Other requests' events of these steps are lost, as with `stream`. Those of its own
        that are unfinished when it ends early are cancelled.
        """
        waiting = iter(requests)
        is_exhausted = False
        own: set[int] = set()
        try:
            while True:
                while not is_exhausted and len(self._rows) + len(self._waiting) < self.num_rows:
                    request = next(waiting, None)
                    if request is None:
                        is_exhausted = True
                        break
                    begun = self._submit_or_fail(request)
                    if isinstance(begun, Completion):
                        yield begun
                    else:
                        own.add(begun)
                if is_exhausted and not own:
                    return
                for event in self.step():
                    if event.completion is not None and event.id in own:
                        own.remove(event.id)
                        yield event.completion
        finally:
            for id_ in own:
                self.cancel(id_)

    def generate(self, requests: Sequence[Request]) -> Generated:
        """Answers all; a request that cannot be begun, or that memory does not suffice for, fails
        alone, with an `error`."""
        self.stats = self._fresh_stats()
        completions: dict[int, Completion] = {}
        place_of: dict[int, int] = {}
        for place, request in enumerate(requests):
            begun = self._submit_or_fail(request)
            if isinstance(begun, Completion):
                completions[place] = begun
            else:
                place_of[begun] = place
        while self.has_work:
            for event in self.step():
                if event.completion is not None and event.id in place_of:
                    completions[place_of[event.id]] = event.completion
        return Generated([completions[place] for place in range(len(requests))], self.stats)

    def _submit_or_fail(self, request: Request) -> int | Completion:
        """The number that its events carry, or how it failed."""
        try:
            return self.submit(request)
        except PromptError as error:
            failed = Completion(request, error=str(error))
            self.stats.add(failed)
            return failed

    @property
    def _num_live(self) -> int:
        return len(self._rows) - (bool(self._rows) and not self._rows[-1].is_read)

    def _read_prompts(self) -> list[Event]:
        """Up to some tokens of them, with the trunk and head 1: see `PREFILL_TOKENS`.

        Returns:
            Of those that memory does not suffice for.
        """
        begun_s, budget = time.perf_counter(), self._prefill_tokens
        reads = False
        failed: list[Event] = []
        while budget > 0:
            first = self._num_live
            if first == len(self._rows):
                if not self._waiting or first >= self._most_rows:
                    break
                self._begin(self._next_to_read(budget))
            if self._width:
                budget = self._prefill_tokens  # pieces that do not depend on other prompts
            count = self._within_memory(partial(self._read, first, budget))
            if count is None:
                failed += self._give_up_reading(first)
            else:
                budget -= count
            reads = True
        if reads:
            wait_for(self._device)
            self.stats.prefill_s += time.perf_counter() - begun_s
        return failed

    def _next_to_read(self, budget: int) -> list[tuple[int, Answer]]:
        """The first that waits, and those whose turn it is as well and that go well with it."""
        chosen, passed = [self._waiting.popleft()], []
        counts = [_num_to_read(chosen[0][1])]
        if self._reads_together:
            for _ in range(min(len(self._waiting), self._most_rows - len(self._rows) - 1)):
                waiting = self._waiting.popleft()
                count = _num_to_read(waiting[1])
                if _go_together([*counts, count], budget):
                    chosen.append(waiting)
                    counts.append(count)
                else:
                    passed.append(waiting)
            self._waiting.extendleft(reversed(passed))
        return chosen

    def _begin(self, requests: Sequence[tuple[int, Answer]]) -> None:
        """Gives requests the rows behind those that are taken."""
        first = len(self._rows)
        for id_, answer in requests:
            self._rows.append(_Row(id_, answer, [0] * self.max_drafts))
        self._state.rows(first, len(self._rows)).clear()

    def _read(self, first: int, budget: int) -> int:
        """Reads on in the prompts of all rows from one on, which are as far; how many tokens.

        Several are read whole: those that are shorter are filled up to the longest, and what that
        writes lies behind their lengths.
        """
        rows = self._rows[first:]
        state, start = self._state.rows(first, len(self._rows)), rows[0].length
        counts = [min(budget, _num_to_read(row.answer) - start) for row in rows]
        if longest := max(counts):
            pieces = [row.text[start : start + longest] for row in rows]
            tokens_BT = _filled_up(pieces, longest).to(state.tokens_BC.device)
            span = state.span(0, longest, start + longest, start)
            reading = self.model.read(tokens_BT, self.model.trunk.attend_span(state.cache, span))
            state.keep(span, reading.hidden_BTD)
            reading.states_at(1, last_position(reading))  # leaves its keys and values
            state.read(counts)
            for row, count in zip(rows, counts, strict=True):
                row.length += count
        if all(row.is_read for row in rows):
            texts = [row.text for row in rows]
            state.begin(
                _filled_up(texts, max(map(len, texts))),
                [row.request for row in rows],
                [row.answer.max_new_tokens for row in rows],
            )
        return len(rows) * longest

    def _num_rounds(self, live: Sequence[_Row]) -> int:
        """One where all rows are about to be done: each round brings a token at least."""
        left = max(row.answer.max_new_tokens - len(row.answer.completion.tokens) for row in live)
        return self._rounds_a_look if left >= self._rounds_a_look else 1

    def _plan(self, live: Sequence[_Row], shape: DraftShape, num_rounds: int) -> Plan:
        """The rounds of all live rows, whose heads have caught up but for a few positions."""
        num_drafts, is_tight = num_drafts_of(shape), self._is_tight(num_rounds)
        lengths = [row.length for row in live]
        longest = max(lengths)
        end = longest + (num_rounds - 1) * (num_drafts + 1) + num_verified(shape)
        is_in_line = min(lengths) == longest and is_tight
        requests = [row.request for row in live]
        vocab_size = self.model.config.vocab_size
        return Plan(
            num_drafts,
            window=self._window(live, num_drafts) if is_tight else _window_of(num_drafts),
            end=self._shapes.end(end, self._state.cache.capacity),
            start=longest if is_in_line else None,
            is_greedy=all(request.sampling.temperature == 0 for request in requests),
            is_cut=any(
                request.sampling.top_p < 1 or (request.sampling.top_k or vocab_size) < vocab_size
                for request in requests
            ),
            num_logprobs=max(
                (r.num_logprobs for r in requests if r.num_logprobs is not None), default=None
            ),
            tree=None if isinstance(shape, int) else shape,
            width=self._width,
        )

    def _is_tight(self, num_rounds: int) -> bool:
        """Whether a plan is for one round alone, and no larger than that needs."""
        return num_rounds == 1 and self._shapes is Shapes.TIGHT

    def _window(self, rows: Sequence[_Row], num_drafts: int) -> int:
        return max(1, *(row.num_behind(num_drafts) for row in rows))

    def _catch_up(self, live: Sequence[_Row], num_drafts: int, num_rounds: int) -> float:
        """Has heads read what they were not asked for, where that is more than a window.

        Apart from the other rows; neighbours that are about as far behind at once. One row in one
        round catches up in it.

        Returns:
            Seconds that it took.
        """
        window = _window_of(num_drafts)
        in_round = len(live) == 1 and self._is_tight(num_rounds)
        if not num_drafts or in_round or self._window(live, num_drafts) <= window:
            return 0.0
        begun_s = time.perf_counter()
        place, budget = 0, 0 if self._width else self._prefill_tokens
        while place < len(live):
            first, counts = place, [live[place].num_behind(num_drafts)]
            place += 1
            if counts[0] <= window:
                continue
            while place < len(live) and (count := live[place].num_behind(num_drafts)) > window:
                if not _go_together([*counts, count], budget):
                    break
                counts.append(count)
                place += 1
            rows = live[first:place]
            lengths = [row.length for row in rows]
            start = lengths[0] if min(lengths) == max(lengths) else None
            plan = Plan(num_drafts, self._window(rows, num_drafts), max(lengths) + 1, start)
            draft(self.model, self._drafter, self._state.rows(first, place), plan)
            self._note_read(rows, num_drafts)
        wait_for(self._device)
        return time.perf_counter() - begun_s

    def _note_read(self, rows: Iterable[_Row], num_drafts: int) -> None:
        again = self._drafter.num_again
        for row in rows:
            for index in range(num_drafts):
                row.heads_read[index] = max(0, row.length - again * index)

    def _commit(
        self,
        row: _Row,
        told: "_Told",
        num_drafts: int,
    ) -> None:
        """Hands a row what a round brought it."""
        wanted, own = row.request.num_logprobs, None
        if wanted is not None and told.logprobs is not None:
            own = [TokenLogprobs(one, top[:wanted]) for one, top in told.logprobs]
        num_committed = told.accepted + 1
        drafted = num_drafts if told.is_drafted else 0
        row.answer.commit(told.targets[:num_committed], drafted, own)
        row.length += num_committed

    def _free(self, places: Sequence[int]) -> None:
        """Gives rows up; the last ones move into their places, so that rows stay side by side."""
        for place in reversed(places):
            self._policy.forget(self._rows[place].id)
            last_live = self._num_live - 1
            if place < last_live:
                self._move(last_live, place)
            if place <= last_live < len(self._rows) - 1:
                self._move(len(self._rows) - 1, last_live)
            self._rows.pop()

    def _move(self, source: int, target: int) -> None:
        row = self._rows[target] = self._rows[source]
        self._state.move(source, target, row.length)

    def _fresh_stats(self) -> Stats:
        count = self.max_drafts
        return Stats(
            drafted=[0] * count, accepted=[0] * count, rounds_by_accepted=[0] * (count + 1)
        )


@contextmanager
def _kernels_of_any_length(device: torch.device) -> Iterator[None]:
    """Has forwards of one token and of several use the same kernels of attention on a GPU.

    Else torch takes cuDNN's where it can, which is not for one token: plain decoding and what
    verifies drafts would round differently, and cuDNN plans anew for each number of slots.
    """
    if device.type != "cuda":
        yield
        return
    backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(backends):
        yield


def _window_of(num_drafts: int) -> int:
    """Positions that heads may be behind in rounds of any number: what a round may bring, and what
    sequential heads read again."""
    return 2 * num_drafts


def _num_to_read(answer: Answer) -> int:
    """Tokens of a prompt, and of what is there of the answer, before the last, which a round
    reads."""
    return len(answer.completion.request.prompt) + len(answer.completion.tokens) - 1


def _go_together(counts: Sequence[int], budget: int) -> bool:
    """Whether rows with so much to read are read at once: filled up to the longest.

    At most a third of it is filling, which costs as much as what is read.
    """
    filled_up = len(counts) * max(counts)
    return filled_up <= budget and 3 * sum(counts) >= 2 * filled_up


def _filled_up(pieces: Sequence[Sequence[int]], count: int) -> Tensor:
    """Pieces of text, one a row, with tokens behind them that nobody looks at, (B, count)."""
    return torch.tensor([[*piece, *([0] * (count - len(piece)))] for piece in pieces])


class _Told(NamedTuple):
    """A row's part of an outcome, on the host.

    Attributes:
        logprobs: by place: of its token, and of others.
    """

    accepted: int
    is_drafted: bool
    targets: list[int]
    ranks: list[int]
    logprobs: list[tuple[float, tuple[tuple[int, float], ...]]] | None


class _Brought(NamedTuple):
    """What rounds brought, on the host, by round and row; and what they took."""

    shape: DraftShape
    plan: Plan
    told: list[list[_Told]]
    begun_s: float
    recording_s: float
    caught_up_s: float


def _told(outcomes: Sequence[Outcome], num_live: int) -> list[list[_Told]]:
    """By round and row; one transfer for all."""
    stacked_RBX = torch.stack([_in_one(outcome)[:num_live] for outcome in outcomes])
    return [
        [_taken_apart(numbers, outcome) for numbers in rows]
        for outcome, rows in zip(outcomes, stacked_RBX.tolist(), strict=True)
    ]


def _in_one(outcome: Outcome) -> Tensor:
    """All of a round, row by row, (B, numbers)."""
    parts = [outcome.accepted_B[:, None], outcome.is_drafted_B[:, None], outcome.targets_BT]
    if outcome.ranks_Bk is not None:
        parts.append(outcome.ranks_Bk)
    if outcome.logprobs is not None:  # in fp64, which has room for tokens and logarithms
        parts = [part.double() for part in (*parts, *(x.flatten(1) for x in outcome.logprobs))]
    return torch.cat(parts, dim=1)


def _taken_apart(numbers: Sequence[float], outcome: Outcome) -> _Told:
    """A row of `_in_one`."""
    left = iter(numbers)

    def whole(count: int) -> list[int]:
        return [int(number) for number in islice(left, count)]

    (accepted, is_drafted), num_targets = whole(2), outcome.targets_BT.shape[1]
    targets = whole(num_targets)
    ranks = whole(0 if outcome.ranks_Bk is None else outcome.ranks_Bk.shape[1])
    logprobs = None
    if outcome.logprobs is not None:
        num_top = outcome.logprobs.top_BTm.shape[2]
        chosen = list(islice(left, num_targets))
        top = [tuple(islice(left, num_top)) for _ in range(num_targets)]
        tokens = [whole(num_top) for _ in range(num_targets)]
        logprobs = [
            (own, tuple(zip(others, theirs, strict=True)))
            for own, others, theirs in zip(chosen, tokens, top, strict=True)
        ]
    return _Told(accepted, bool(is_drafted), targets, ranks, logprobs)


def _event(row: _Row, since: int) -> Event:
    """News of a row that had so many tokens before."""
    completion = row.answer.completion
    return Event(
        row.id,
        tuple(completion.tokens[since:]),
        None if completion.logprobs is None else tuple(completion.logprobs[since:]),
        completion if row.answer.is_done else None,
    )
