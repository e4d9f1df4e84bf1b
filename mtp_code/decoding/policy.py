"""How many tokens to draft: a number, or what has paid so far."""

import statistics
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Final, Protocol

_NUM_TIMES: Final = 15
"""Newest step times of each number of drafts that count; their median is robust to a slow one."""
_DECAY: Final = 0.995
"""Weight of acceptance as it was a round ago: half after some 140 rounds."""
_PRIOR_WEIGHT: Final = 8.0
"""Drafts that the acceptance of all requests counts as, beside a request's own."""
_MARGIN: Final = 0.03
"""Gain over plain decoding that drafts must promise: below it, noise decides."""
_FIRST_INTERVAL: Final = 32
_LAST_INTERVAL: Final = 512
"""Rounds between two looks at whether another choice has come to pay; they double."""


class DraftPolicy(Protocol):
    def choose(self, keys: Sequence[int]) -> int:
        """Drafts of the next round, for these requests."""

    def observe(
        self, keys: Sequence[int], num_drafts: int, accepted: Sequence[int], elapsed_s: float
    ) -> None:
        """Takes what a round of these requests accepted and took."""

    def forget(self, key: int) -> None:
        """A request is over."""


class Fixed:
    """Always the same number."""

    def __init__(self, num_drafts: int) -> None:
        self._num_drafts = num_drafts

    def choose(self, keys: Sequence[int]) -> int:
        return self._num_drafts

    def observe(
        self, keys: Sequence[int], num_drafts: int, accepted: Sequence[int], elapsed_s: float
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
    stand behind those that stood, of each request with all requests' as its prior; what it takes
    is the median of the newest rounds with as many drafts and about as many rows. A number that
    was never tried is taken to lie on the line between its neighbours. While one choice holds,
    another look at the others is taken ever more seldom. A round with more drafts than the one
    before has no time of its own: in it heads catch up with what they were not asked to read.

    Which number is chosen depends on the clock; the tokens do not depend on the number.
    """

    def __init__(self, max_drafts: int) -> None:
        self._max_drafts = max_drafts
        self._all = _Acceptance(max_drafts)
        self._each: dict[int, _Acceptance] = {}
        self._times_s: dict[int, dict[int, deque[float]]] = defaultdict(
            lambda: {k: deque(maxlen=_NUM_TIMES) for k in range(max_drafts + 1)}
        )
        self._trials: deque[int] = deque()
        self._interval, self._until_look = _FIRST_INTERVAL, _FIRST_INTERVAL
        self._favourite = 0
        self._last = 0  # drafts of the round before

    def choose(self, keys: Sequence[int]) -> int:
        if self._max_drafts == 0:
            return 0
        times_s = self._times_s[_size(len(keys))]
        for num_drafts in (0, self._max_drafts):
            if len(times_s[num_drafts]) < 2:
                return num_drafts
        if self._trials:
            return self._trials.popleft()
        best = self._best(keys)
        if best != self._favourite:
            self._favourite, self._interval = best, _FIRST_INTERVAL
            self._until_look = self._interval
        self._until_look -= 1
        if self._until_look <= 0:
            self._interval = min(2 * self._interval, _LAST_INTERVAL)
            self._until_look = self._interval
            other = self._max_drafts if best == 0 else 0
            # The first with more drafts does not count: see `observe`.
            self._trials.extend([other] * (2 + (other > best)))
        return best

    def observe(
        self, keys: Sequence[int], num_drafts: int, accepted: Sequence[int], elapsed_s: float
    ) -> None:
        if num_drafts <= self._last:
            self._times_s[_size(len(keys))][num_drafts].append(elapsed_s)
        self._last = num_drafts
        for key, count in zip(keys, accepted, strict=True):
            self._all.add(num_drafts, count)
            self._each.setdefault(key, _Acceptance(self._max_drafts)).add(num_drafts, count)

    def forget(self, key: int) -> None:
        self._each.pop(key, None)

    def _best(self, keys: Sequence[int]) -> int:
        tokens_s = self._tokens_per_s(keys)
        best = max(range(len(tokens_s)), key=lambda k: tokens_s[k])
        return best if tokens_s[best] > (1 + _MARGIN) * tokens_s[0] else 0

    def _tokens_per_s(self, keys: Sequence[int]) -> list[float]:
        """Expected of each number of drafts."""
        tokens = [0.0] * (self._max_drafts + 1)
        priors = [self._all.rate(index, 0.5, 1.0) for index in range(self._max_drafts)]
        for key in keys:
            own, reached = self._each.get(key), 1.0
            for k in range(self._max_drafts + 1):
                tokens[k] += reached
                if k < self._max_drafts:
                    prior = priors[k]
                    reached *= prior if own is None else own.rate(k, prior, _PRIOR_WEIGHT)
        expected = [sum(tokens[: k + 1]) for k in range(self._max_drafts + 1)]
        times_s = self._step_times(_size(len(keys)))
        return [count / time_s for count, time_s in zip(expected, times_s, strict=True)]

    def _step_times(self, size: int) -> list[float]:
        """Of each number of drafts; what was not measured is interpolated."""
        known = {k: statistics.median(t) for k, t in self._times_s[size].items() if t}
        times_s = []
        for k in range(self._max_drafts + 1):
            below, above = max(x for x in known if x <= k), min(x for x in known if x >= k)
            share = (k - below) / (above - below) if above > below else 0.0
            times_s.append(known[below] + share * (known[above] - known[below]))
        return times_s


def _size(num_rows: int) -> int:
    """Batches of the same size class take about as long."""
    return num_rows.bit_length()
