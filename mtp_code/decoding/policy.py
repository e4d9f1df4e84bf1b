"""How to draft: a number of tokens in a line, a tree, or what has paid so far."""

import statistics
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from mtp_code.decoding.tree import MAX_NODES, MAX_RANKS, Tree

_NUM_COSTS: Final = 64
"""Newest comparisons of each choice that count; their median is robust to a slow round."""
_NUM_RECENT: Final = 20
"""Looks before one that its rounds are compared with."""
_NUM_TO_BEGIN: Final = 4
"""Looks at each end, no drafts and most, that costs are first told from."""
_FADING: Final = 0.998
"""Weight of what catching up took a look ago."""
_TOKENS_TO_TELL: Final = 32.0
"""That come with drafts before what catching up took is held against them in full."""
_DECAY: Final = 0.995
"""Weight of acceptance as it was a round ago: half after some 140 rounds."""
_PRIOR_WEIGHT: Final = 8.0
"""Drafts that the acceptance of all requests counts as, beside a request's own."""
_MARGIN_TO_BEGIN: Final = 0.08
_MARGIN_TO_GO_ON: Final = 0.02
"""Gain over plain decoding that drafts must promise, where none or some were made so far: noise
would turn them on and off, and each time they are turned on the heads must catch up."""
_INTERVAL: Final = 32
_LOOKING_SHARE: Final = 0.01
"""After so many looks another choice may be tried again, if that took no more of all time."""
_TREE_SIZES: Final = (4, 8, 16, MAX_NODES)
_REGROWN_EVERY: Final = 128
"""Rounds after which trees are grown anew, by what their heads' tokens were worth since."""
_GAIN_TO_REGROW: Final = 0.03
"""Tokens that a new tree must promise beyond the one in its place: on a GPU its rounds must be
recorded first."""

DraftShape = int | Tree
"""Drafts of a round: so many in a line, or a tree."""


def num_drafts_of(shape: DraftShape) -> int:
    """The most that a row may accept."""
    return shape if isinstance(shape, int) else shape.num_drafts


def num_verified(shape: DraftShape) -> int:
    """Tokens of a row that one forward reads."""
    return shape + 1 if isinstance(shape, int) else shape.num_nodes


class Round(NamedTuple):
    """What a round brought the requests that it found unfinished.

    Attributes:
        keys: the requests.
        accepted: of each, how many drafts stood.
        ranks: of each, where the right tokens had their places among the drafts for their offsets,
            up to the first that did not stand; of a tree.
    """

    keys: Sequence[int]
    accepted: Sequence[int]
    ranks: Sequence[Sequence[int]] = ()


class DraftPolicy(Protocol):
    def choose(self, keys: Sequence[int]) -> DraftShape:
        """Drafts of the rounds up to the next look, for these requests."""

    def observe(
        self,
        shape: DraftShape,
        rounds: Sequence[Round],
        elapsed_s: float | None,
        caught_up_s: float = 0.0,
    ) -> None:
        """Takes what the rounds up to a look brought.

        Args:
            elapsed_s: what they took, all together; None if that says nothing about rounds to come.
            caught_up_s: what the heads took to catch up before them.
        """

    def forget(self, key: int) -> None:
        """A request is over."""


class Fixed:
    """Always the same."""

    def __init__(self, shape: DraftShape) -> None:
        self._shape = shape

    def choose(self, keys: Sequence[int]) -> DraftShape:
        return self._shape

    def observe(
        self,
        shape: DraftShape,
        rounds: Sequence[Round],
        elapsed_s: float | None,
        caught_up_s: float = 0.0,
    ) -> None:
        pass

    def forget(self, key: int) -> None:
        pass


class _Acceptance:
    """Of each offset: how often a draft stood where all before it did."""

    def __init__(self, max_drafts: int) -> None:
        self.stood = [0.0] * max_drafts
        self.asked = [0.0] * max_drafts

    def add(self, num_drafts: int, accepted: int) -> None:
        for index in range(min(accepted + 1, num_drafts)):
            self.stood[index] = self.stood[index] * _DECAY + (index < accepted)
            self.asked[index] = self.asked[index] * _DECAY + 1

    def rate(self, index: int, prior: float, weight: float) -> float:
        return (self.stood[index] + prior * weight) / (self.asked[index] + weight)


class Auto:
    """The number that promises the most tokens a second, none at all if that is plain decoding.

    Expected tokens of a round with k drafts are 1 + a₂ + a₂a₃ + … over the rates at which drafts
    stand behind those that stood, of each request with all requests' as its prior. What the round
    costs is counted in plain rounds of as many rows: only rounds that follow one another are
    compared, so that a machine that slows down, for a moment or for good, speaks for no choice. A
    number that was never tried is taken to lie on the line between its neighbours. A batch
    begins with the costs of the nearest larger size, so that one that empties does not warm up at
    each; with those of a smaller one it would make drafts that cost little there and much here.

    Rounds with more drafts than those up to the look before have no cost of their own: in them
    heads catch up with what they were not asked to read. That is spread over the tokens that come
    with drafts. Nor have rounds that were recorded.

    While one choice holds, another is tried now and then, as long as trials have cost little: where
    drafts do not pay, trials and warming up are all that `auto` loses.

    Which number is chosen depends on the clock; the tokens do not depend on the number.
    """

    def __init__(self, max_drafts: int) -> None:
        self._max_drafts = max_drafts
        self._all = _Acceptance(max_drafts)
        self._each: dict[int, _Acceptance] = {}
        self._choices: list[DraftShape] = list(range(max_drafts + 1))
        # By size of the batch and tokens verified.
        self._costs: dict[int, dict[int, _Cost]] = defaultdict(lambda: defaultdict(_Cost))
        self._costs_by_choice: dict[int, list[float]] = {}  # of sizes that were asked for since
        self._recent: deque[_Timed] = deque(maxlen=_NUM_RECENT)
        self._catching_up = 0.0  # plain rounds that it took
        self._drafted_tokens = 0.0  # that came with drafts
        self._trials: deque[int] = deque()  # places among the choices
        self._until_look = _INTERVAL
        self._elapsed_s, self._looking_s = 0.0, 0.0
        self._rounds_per_token = 0.0  # of the favourite
        self._favourite = 0
        self._is_looking = True
        self._last = 0  # drafts up to the look before

    def choose(self, keys: Sequence[int]) -> DraftShape:
        if self._max_drafts == 0:
            return 0
        size, self._is_looking = _size(len(keys)), True
        if self._measured_size(size) is None:
            num_plain = sum(one.size == size and one.num_verified == 1 for one in self._recent)
            return self._choices[0 if num_plain < _NUM_TO_BEGIN else -1]
        if self._trials:
            return self._choices[self._trials.popleft()]
        self._is_looking = False
        best = self._favourite = self._best(keys)
        self._until_look -= 1
        if self._until_look <= 0 and self._looking_s <= _LOOKING_SHARE * self._elapsed_s:
            self._until_look = _INTERVAL
            other = len(self._choices) - 1 if best == 0 else 0
            # The first with more drafts does not count: see `observe`.
            self._trials.extend([other] * (2 + (other > best)))
        return self._choices[best]

    def observe(
        self,
        shape: DraftShape,
        rounds: Sequence[Round],
        elapsed_s: float | None,
        caught_up_s: float = 0.0,
    ) -> None:
        num_drafts = num_drafts_of(shape)
        if elapsed_s is not None:
            num_tokens = sum(sum(one.accepted) + len(one.accepted) for one in rounds)
            # Rows that are done before the look idle until it, which takes as long.
            size, behind_s = _size(len(rounds[0].keys)), caught_up_s
            plain_s = self._plain_round_s(size) if num_drafts or self._is_looking else 0.0
            if num_drafts <= self._last:
                self._compare(_Timed(size, num_verified(shape), elapsed_s / len(rounds)))
            elif plain_s:
                usual_s = plain_s * self._cost(size, num_verified(shape)) * len(rounds)
                behind_s += elapsed_s - usual_s
            all_s = elapsed_s + caught_up_s
            self._elapsed_s += all_s
            self._catching_up *= _FADING
            self._drafted_tokens *= _FADING
            if self._is_looking:
                usual_s = num_tokens * self._rounds_per_token * plain_s
                self._looking_s += max(0.0, all_s - usual_s)
            elif num_drafts and plain_s:
                self._catching_up += behind_s / plain_s
                self._drafted_tokens += num_tokens
        self._last = num_drafts
        for one in rounds:
            for key, count in zip(one.keys, one.accepted, strict=True):
                self._all.add(num_drafts, count)
                self._each.setdefault(key, _Acceptance(self._max_drafts)).add(num_drafts, count)

    def forget(self, key: int) -> None:
        self._each.pop(key, None)

    def _compare(self, timed: "_Timed") -> None:
        """Hold a round to those just before it that verified another number of tokens."""
        others: dict[int, list[float]] = defaultdict(list)
        for one in self._recent:
            if one.size == timed.size and one.num_verified != timed.num_verified:
                others[one.num_verified].append(one.round_s)
        self._recent.append(timed)
        if not others:
            return
        self._costs_by_choice.clear()
        costs = self._costs[timed.size]
        if timed.num_verified == 1:
            for count, times_s in others.items():
                costs[count].add(statistics.median(times_s) / timed.round_s)
        else:
            plain_s = [
                round_s / self._cost(timed.size, count)
                for count, times_s in others.items()
                for round_s in times_s
            ]
            costs[timed.num_verified].add(timed.round_s / statistics.median(plain_s))

    def _plain_round_s(self, size: int) -> float:
        """What one takes at present; 0 if nothing is known of it."""
        times_s = [
            one.round_s / self._cost(size, one.num_verified)
            for one in self._recent
            if one.size == size
        ]
        return statistics.median(times_s) if times_s else 0.0

    def _best(self, keys: Sequence[int]) -> int:
        """The place of the choice that promises the most tokens a second."""
        size = _size(len(keys))
        behind = max(0.0, self._catching_up) / (self._drafted_tokens + _TOKENS_TO_TELL)
        costs = self._costs_by_choice.get(size)
        if costs is None:
            costs = [self._cost(size, num_verified(choice)) for choice in self._choices]
            self._costs_by_choice[size] = costs
        pairs = zip(costs, self._expected(keys), strict=True)
        rounds_per_token = [cost / count + behind for cost, count in pairs]
        rounds_per_token[0] -= behind
        best = min(range(len(costs)), key=rounds_per_token.__getitem__)
        margin = _MARGIN_TO_GO_ON if self._favourite else _MARGIN_TO_BEGIN
        best = best if (1 + margin) * rounds_per_token[best] < rounds_per_token[0] else 0
        self._rounds_per_token = rounds_per_token[best]
        return best

    def _expected(self, keys: Sequence[int]) -> list[float]:
        """Tokens of a round, all rows together, by choice."""
        tokens = [0.0] * (self._max_drafts + 1)
        priors = [self._all.rate(index, 0.5, 1.0) for index in range(self._max_drafts)]
        for key in keys:
            own, reached = self._each.get(key), 1.0
            for k in range(self._max_drafts + 1):
                tokens[k] += reached
                if k < self._max_drafts:
                    prior = priors[k]
                    reached *= prior if own is None else own.rate(k, prior, _PRIOR_WEIGHT)
        return [sum(tokens[: k + 1]) for k in range(self._max_drafts + 1)]

    def _cost(self, size: int, count: int) -> float:
        """Plain rounds that one of so many tokens verified takes.

        What was not measured is interpolated. Of a batch of another size what was not measured at
        all is as in the nearest larger size that was.
        """
        if count == 1:
            return 1.0
        known = self._costs[size]
        if count in known:
            return known[count].median
        nearest = self._measured_size(size)
        if nearest is not None and nearest != size:
            known = self._costs[nearest] | known
        points = {1: 1.0} | {n: cost.median for n, cost in known.items()}
        below = max(n for n in points if n <= count)
        above = min((n for n in points if n >= count), default=below)
        share = (count - below) / (above - below) if above > below else 0.0
        return points[below] + share * (points[above] - points[below])

    def _measured_size(self, size: int) -> int | None:
        """The nearest size of batch, no smaller, in which most drafts were held to none."""
        most = num_verified(self._choices[-1])
        measured = [
            other
            for other, costs in self._costs.items()
            if other >= size and most in costs and len(costs[most].seen) >= _NUM_TO_BEGIN
        ]
        return min(measured, default=None)


class _Cost:
    """What rounds of a kind took, in plain rounds next to them."""

    def __init__(self) -> None:
        self.seen: deque[float] = deque(maxlen=_NUM_COSTS)
        self.median = 0.0

    def add(self, plain_rounds: float) -> None:
        self.seen.append(plain_rounds)
        self.median = statistics.median(self.seen)


class _Timed(NamedTuple):
    """What a round took."""

    size: int
    num_verified: int
    round_s: float


class AutoTree(Auto):
    """The tree that promises the most tokens a second, of several sizes; none if plain decoding is.

    A tree of a size is the one that would have accepted the most, had the tokens of each head's
    list been right as often, rank by rank, as they were so far.
    """

    def __init__(self, max_drafts: int) -> None:
        super().__init__(max_drafts)
        # Of each offset and rank: how often its token was right, where all before it were.
        self._right = [[0.0] * MAX_RANKS for _ in range(max_drafts)]
        self._asked = [[0.0] * MAX_RANKS for _ in range(max_drafts)]
        self._until_regrown = _REGROWN_EVERY
        sizes = [size for size in _TREE_SIZES if size > max_drafts] if max_drafts else []
        self._choices = [0, *(Tree.best(self._rates(), size) for size in sizes)]

    def observe(
        self,
        shape: DraftShape,
        rounds: Sequence[Round],
        elapsed_s: float | None,
        caught_up_s: float = 0.0,
    ) -> None:
        super().observe(shape, rounds, elapsed_s, caught_up_s)
        if isinstance(shape, int):
            return
        for one in rounds:
            for count, places in zip(one.accepted, one.ranks, strict=True):
                for index in range(min(count + 1, shape.num_drafts)):
                    for rank in range(shape.num_ranks):
                        right, asked = self._right[index], self._asked[index]
                        right[rank] = right[rank] * _DECAY + (places[index] == rank)
                        asked[rank] = asked[rank] * _DECAY + 1
        self._until_regrown -= len(rounds)
        if self._until_regrown <= 0:
            self._regrow()

    def _regrow(self) -> None:
        self._until_regrown = _REGROWN_EVERY
        rates = self._rates()
        for place, tree in enumerate(self._choices):
            if isinstance(tree, int):
                continue
            grown = Tree.best(rates, tree.num_nodes)
            now, then = (one.expected_tokens(rates) for one in (tree, grown))
            if then > (1 + _GAIN_TO_REGROW) * now:
                self._choices[place] = grown
                self._costs_by_choice.clear()

    def _expected(self, keys: Sequence[int]) -> list[float]:
        rates = self._rates()
        return [
            len(keys) * (1.0 if isinstance(choice, int) else choice.expected_tokens(rates))
            for choice in self._choices
        ]

    def _rates(self) -> list[list[float]]:
        """Falling along the ranks; before anything is known, each half the one before."""
        rates = []
        for right, asked in zip(self._right, self._asked, strict=True):
            row: list[float] = []
            for rank in range(MAX_RANKS):
                rate = (right[rank] + 0.5 ** (rank + 1)) / (asked[rank] + 1)
                row.append(min(rate, *row) if row else rate)
            rates.append(row)
        return rates


def _size(num_rows: int) -> int:
    """Batches of the same size class take about as long."""
    return num_rows.bit_length()
