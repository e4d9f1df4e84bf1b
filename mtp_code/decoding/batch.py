"""Rows of a batch that advance, finish and are refilled one by one."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mtp_code.decoding.draft import Drafter
from mtp_code.decoding.requests import Answer, Completion, Request
from mtp_code.model.cache import KeyValueCache
from mtp_code.model.mtp import MTPModel
from mtp_code.tokenizer import Tokenizer


class Batch:
    """Live requests, a row each, with the cache of all but each row's last token.

    Attributes:
        last_B: each row's newest token, which the next forward reads.
        drafts_Bk: what the heads expect behind it.
    """

    def __init__(
        self,
        model: MTPModel,
        tokenizer: Tokenizer,
        requests: Iterable[Request],
        num_rows: int,
        drafter: Drafter,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._waiting = iter(requests)
        self._drafter = drafter
        capacity = model.config.context + drafter.num_drafts
        weight = model.unembedding.weight
        self.cache = KeyValueCache(model.config, num_rows, capacity, weight.dtype, weight.device)
        self.answers: list[Answer | None] = [None] * num_rows
        self.last_B = torch.zeros(num_rows, dtype=torch.long, device=weight.device)
        self.drafts_Bk = self.last_B[:, None].repeat(1, drafter.num_drafts)
        self._refill()

    @property
    def is_live(self) -> bool:
        return bool(self.answers)

    def commit(self, tokens: Sequence[Sequence[int]]) -> list[Completion]:
        """Hands each row its new tokens, refills rows that finished; returns what finished.

        A row's last token before and all but the newest of these are in the cache then; the next
        drafts are the caller's to set, before.
        """
        counts = [
            0 if answer is None else len(new)
            for answer, new in zip(self.answers, tokens, strict=True)
        ]
        self.cache.commit(torch.tensor(counts, device=self.last_B.device))
        finished = []
        for row, answer in enumerate(self.answers):
            if answer is None:
                continue
            answer.completion.num_forwards += 1
            answer.take(tokens[row])
            self.last_B[row] = tokens[row][-1]
            if answer.is_done:
                finished.append(answer.completion)
                self.answers[row] = None
                self.cache.lengths_B[row] = 0  # an idle row must not lengthen the others' attention
        if finished:
            self._refill()
        return finished

    def next_uniforms(self, count: int) -> Tensor:
        """The draws that decide each row's next tokens, (B, count)."""
        draws = [
            answer.next_uniforms(count) if answer else [0.0] * count for answer in self.answers
        ]
        return torch.tensor(draws, dtype=torch.float64, device=self.last_B.device)

    def count_drafts(self, num_drafts: int, accepted: Sequence[int]) -> None:
        """Notes for each live row which offsets' drafts stood."""
        for answer, count in zip(self.answers, accepted, strict=True):
            if answer is not None:
                answer.completion.count_drafts(num_drafts, count)

    def _refill(self) -> None:
        for row, answer in enumerate(self.answers):
            if answer is None:
                request = next(self._waiting, None)
                if request is not None:
                    self._begin(row, request)
        self._keep_live()

    def _begin(self, row: int, request: Request) -> None:
        """Reads a prompt but for its last token, which the next forward reads."""
        answer = Answer(request, self._tokenizer, self._model.config.context)
        self.answers[row] = answer
        cache = self.cache.row(row)
        device = self.last_B.device
        tokens_1T = torch.tensor([request.prompt], dtype=torch.long, device=device)
        self.last_B[row] = tokens_1T[0, -1]
        num_read = tokens_1T.shape[1] - 1
        if num_read == 0:
            self.drafts_Bk[row] = 0  # a guess as good as any
            return
        attending = self._model.trunk.attend_cached(cache, num_read)
        reading = self._model.read(tokens_1T[:, :-1], attending)
        last_1 = torch.tensor([num_read - 1], device=device)
        self.drafts_Bk[row] = self._drafter.draft(reading, last_1, tokens_1T[:, -1])[0]
        reading.states_at(1, last_1)  # leaves its keys and values
        cache.commit(torch.tensor([num_read], device=device))

    def _keep_live(self) -> None:
        """Drops idle rows once they are half of all: nothing waits for them any more."""
        live = [row for row, answer in enumerate(self.answers) if answer is not None]
        if 2 * len(live) <= len(self.answers):
            self.answers = [self.answers[row] for row in live]
            self.cache.keep(live)
            self.last_B, self.drafts_Bk = self.last_B[live], self.drafts_Bk[live]
