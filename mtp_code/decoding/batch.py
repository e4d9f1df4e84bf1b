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
        drafts_Bk: what the heads expect behind it; −1 where they have not read yet.
    """

    def __init__(
        self,
        model: MTPModel,
        tokenizer: Tokenizer,
        requests: Iterable[Request],
        num_rows: int,
        drafter: Drafter,
    ) -> None:
        """
        Raises:
            ValueError: there is no row.
        """
        if num_rows < 1:
            raise ValueError(f"num_rows must be at least 1, got {num_rows}")
        self._model, self._tokenizer = model, tokenizer
        self._waiting = iter(requests)
        self._drafter = drafter
        capacity = model.config.context + drafter.num_drafts
        weight = model.unembedding.weight
        self.cache = KeyValueCache(model.config, num_rows, capacity, weight.dtype, weight.device)
        self.answers: list[Answer | None] = [None] * num_rows
        self.last_B = torch.zeros(num_rows, dtype=torch.long, device=weight.device)
        self.drafts_Bk = self.last_B[:, None].repeat(1, drafter.num_drafts)

    def refill(self) -> bool:
        """Begins waiting requests in idle rows; whether there is anything to answer.

        Apart from `commit`, so that what finished is handed out before a prompt is refused.

        Raises:
            PromptError: a prompt is empty, outside the vocabulary, or as long as the context.
        """
        for row, answer in enumerate(self.answers):
            if answer is None:
                request = next(self._waiting, None)
                if request is not None:
                    self._begin(row, request)
        self._keep_live()
        return bool(self.answers)

    def commit(self, tokens: Sequence[Sequence[int]]) -> list[Completion]:
        """Hands each row its new tokens; returns what finished, whose rows are idle then.

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
            answer.commit(tokens[row])
            self.last_B[row] = tokens[row][-1]
            if answer.is_done:
                finished.append(answer.completion)
                self.answers[row] = None
                self.cache.lengths_B[row] = 0  # an idle row must not lengthen the others' attention
        return finished

    def next_uniforms(self, count: int) -> Tensor:
        """The draws that decide each row's next tokens, (B, count)."""
        draws = [
            answer.next_uniforms(count) if answer else [0.0] * count for answer in self.answers
        ]
        return torch.tensor(draws, dtype=torch.float64, device=self.last_B.device)

    def _begin(self, row: int, request: Request) -> None:
        """Reads a prompt but for its last token, which the next forward reads."""
        context, num_drafts = self._model.config.context, self._drafter.num_drafts
        answer = Answer(request, self._tokenizer, context, num_drafts)
        self.answers[row] = answer
        cache = self.cache.row(row)
        device = self.last_B.device
        tokens_1T = torch.tensor([request.prompt], dtype=torch.long, device=device)
        self.last_B[row] = tokens_1T[0, -1]
        num_read = tokens_1T.shape[1] - 1
        if num_read == 0:
            self.drafts_Bk[row] = -1  # no token, so none that could stand
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
