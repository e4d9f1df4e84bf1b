"""The text of an answer while its tokens come."""

from collections.abc import Sequence
from typing import Final

from mtp_code.tokenizer import Tokenizer

_REPLACEMENT: Final = "\ufffd"
_ENOUGH_BEFORE: Final = 8
"""Tokens that may change how the next one is written; special ones are among them."""


class AnswerText:
    """Turns tokens into text that never has to be taken back.

    Held back until more is known: a character whose bytes have not all come, and what may be the
    beginning of a stop string. A stop string and all behind it are left out. The pieces together
    are what the tokenizer's `decode_after` makes of prompt and answer, up to the first stop string.

    Attributes:
        starts: for each token the characters before it, if they are asked for.
        num_released: characters handed out.
        is_stopped: a stop string was found; nothing follows.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int] = (),
        stops: Sequence[str] = (),
        wants_starts: bool = False,
    ) -> None:
        self._tokenizer, self._stops = tokenizer, stops
        self._wants_starts = wants_starts
        self._before = list(prompt[-_ENOUGH_BEFORE:])
        self._unsettled: list[int] = []
        self._num_known = 0  # characters of these that are settled
        self._held = ""
        self.starts: list[int] = []
        self.num_released = 0
        self.is_stopped = False

    def push(self, tokens: Sequence[int], is_last: bool = False) -> str:
        """What can be said after these tokens that could not before; all, if they are the last."""
        if self.is_stopped:
            return ""
        if self._wants_starts:
            for token in tokens:
                self.starts.append(self.num_released + len(self._held))
                self._read([token])
        elif tokens:
            self._read(tokens)
        if is_last:
            self._held += self._decoded()[self._num_known :]
        return self._release(is_last)

    def _read(self, tokens: Sequence[int]) -> None:
        self._unsettled += tokens
        text = self._decoded()
        # The beginning of a character decodes to replacements, as do bytes that are none.
        settled = text.rstrip(_REPLACEMENT)
        new = settled[self._num_known :]
        if not new:
            return
        self._held += new
        self._num_known = len(settled)
        if settled == text:
            self._before = (self._before + self._unsettled)[-_ENOUGH_BEFORE:]
            self._unsettled, self._num_known = [], 0

    def _decoded(self) -> str:
        return self._tokenizer.decode_after(self._before, self._unsettled)

    def _release(self, is_last: bool) -> str:
        ends = [found for stop in self._stops if (found := self._held.find(stop)) >= 0]
        if ends:
            self.is_stopped = True
            count = min(ends)
        elif is_last:
            count = len(self._held)
        else:
            count = len(self._held) - _num_beginning(self._held, self._stops)
        released, self._held = self._held[:count], self._held[count:]
        self.num_released += count
        return released


def _num_beginning(text: str, stops: Sequence[str]) -> int:
    """The length of the longest end of the text that a stop string begins with."""
    longest = max((len(stop) for stop in stops), default=0) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0
