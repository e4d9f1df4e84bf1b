"""Any model that transformers can load, by its own `generate`."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor

from mtp_code.decoding.requests import SamplingConfig
from mtp_code.decoding.sampling import RowSampling, choose_tokens, uniforms_for
from mtp_code.devices import DeviceName, choose_device, describe_device
from mtp_code.errors import InputError, first_line
from mtp_code.machine import describe_versions
from mtp_code.samplers.base import Asked, Drawing, cut_at_stops, has_room
from mtp_code.samplers.hub import HubTokenizer, describe


class TransformersSampler:
    """Draws with the numbers of our own engine, so a seed means the same to both.

    The sampling that a model's `generation_config.json` suggests is not used: a score says how its
    samples were drawn.

    Args:
        name_or_folder: of a model with weights in safetensors.
        dtype: "auto" is that of the weights.
        batch_rows: answers drawn side by side; a batch lasts as long as its longest answer.

    Raises:
        InputError: there is no such model, or it is none that writes text.
        MachineError: there is no such device here.
    """

    name = "transformers"
    begins_answers = True

    def __init__(
        self,
        name_or_folder: str,
        revision: str | None = None,
        dtype: str = "auto",
        batch_rows: int = 32,
        device: DeviceName = "auto",
    ) -> None:
        place = choose_device(device)
        self._tokenizer = HubTokenizer(name_or_folder, revision)
        try:
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                name_or_folder,
                revision=revision,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
            )
        except (OSError, ValueError) as error:
            raise InputError(f"{name_or_folder}: no model to load: {first_line(error)}") from None
        self._model = model.to(place).eval()
        self._batch_rows = batch_rows
        self._end_of_text = _end_of_text(model.generation_config, self._tokenizer)
        # Whatever is not set in a call would be taken from there, such as a repetition penalty.
        model.generation_config = transformers.GenerationConfig()  # type: ignore[no-untyped-call]
        self.chat = self._tokenizer.chat
        self.model = {
            **describe(name_or_folder, revision, getattr(model.config, "_commit_hash", None)),
            "device": describe_device(place),
            "dtype": str(model.dtype).removeprefix("torch."),
        }
        self.versions = describe_versions()

    def draw(self, asked: Iterable[Asked], drawing: Drawing) -> Iterator[tuple[Asked, str]]:
        """Each question with its answer, a batch at a time, short prompts first."""
        context = getattr(self._model.config, "max_position_embeddings", None)
        prompts = []
        for question in asked:
            prompt = self._tokenizer.encode(question)
            if has_room(question, len(prompt), context):
                prompts.append((question, prompt))
            else:
                yield question, ""
        prompts.sort(key=lambda pair: len(pair[1]))
        for start in range(0, len(prompts), self._batch_rows):
            yield from self._answer(prompts[start : start + self._batch_rows], drawing, context)

    @torch.inference_mode()
    def _answer(
        self, batch: Sequence[tuple[Asked, list[int]]], drawing: Drawing, context: int | None
    ) -> list[tuple[Asked, str]]:
        longest = max(len(prompt) for _, prompt in batch)
        rooms = [
            min(drawing.max_new_tokens, context - len(prompt))
            if context
            else drawing.max_new_tokens
            for _, prompt in batch
        ]
        padded = [[0] * (longest - len(prompt)) + prompt for _, prompt in batch]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for _, prompt in batch]
        stops = [question.stops for question, _ in batch]
        ends = _Ends(self._tokenizer, stops, self._end_of_text, longest, rooms)
        draws = []
        if drawing.temperature > 0:
            uniforms = [uniforms_for(q.seed, drawing.max_new_tokens) for q, _ in batch]
            draws.append(_Draws(drawing, uniforms, longest))
        device = self._model.device
        rows = self._model.generate(
            torch.tensor(padded, device=device),
            attention_mask=torch.tensor(mask, device=device),
            max_new_tokens=max(rooms),
            do_sample=False,  # what is not the token drawn has no chance then
            logits_processor=transformers.LogitsProcessorList(draws),
            stopping_criteria=transformers.StoppingCriteriaList([ends]),
        ).tolist()
        answers = []
        for (question, prompt), row, end in zip(batch, rows, ends.lengths, strict=True):
            text = self._tokenizer.decode_after(prompt, row[longest : longest + end])
            answers.append((question, cut_at_stops(text, question.stops)))
        return answers


class _Draws(transformers.LogitsProcessor):
    """Leaves each row the one token that its question's seed draws at this place."""

    def __init__(
        self, drawing: Drawing, uniforms: Sequence[Sequence[float]], prompt_length: int
    ) -> None:
        self._sampling = SamplingConfig(temperature=drawing.temperature, top_p=drawing.top_p)
        self._uniforms_BT = torch.tensor(uniforms, dtype=torch.float64)
        self._prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        place = input_ids.shape[1] - self._prompt_length
        uniforms_B1 = self._uniforms_BT[:, place, None].to(scores.device)
        settings = [self._sampling] * len(scores)
        rows = RowSampling.of(settings, scores.shape[-1], scores.device)
        tokens_B1 = choose_tokens(scores[:, None], rows, uniforms_B1)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens_B1, 0.0)


class _Ends(transformers.StoppingCriteria):
    """Ends each row for itself, and keeps the length of its answer in `lengths`."""

    def __init__(
        self,
        tokenizer: HubTokenizer,
        stops: Sequence[Sequence[str]],
        end_of_text: set[int],
        prompt_length: int,
        rooms: Sequence[int],
    ) -> None:
        self._tokenizer, self._stops = tokenizer, stops
        self._end_of_text, self._prompt_length, self._rooms = end_of_text, prompt_length, rooms
        # A token is at least a byte, so a stop string that the newest token ends lies in these.
        self._windows = [max((len(s.encode()) for s in row), default=0) for row in stops]
        self.lengths = [0] * len(stops)
        self._is_done = [False] * len(stops)

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        rows = input_ids[:, self._prompt_length :].tolist()
        for number, answer in enumerate(rows):
            if self._is_done[number]:
                continue
            if answer[-1] in self._end_of_text:
                self._is_done[number] = True
                continue
            self.lengths[number] = len(answer)
            self._is_done[number] = len(answer) >= self._rooms[number] or self._holds_stop(
                number, answer
            )
        return torch.tensor(self._is_done, device=input_ids.device)

    def _holds_stop(self, number: int, answer: Sequence[int]) -> bool:
        if not self._windows[number]:
            return False
        newest = self._tokenizer.decode(answer[-self._windows[number] :])
        return any(stop in newest for stop in self._stops[number])


def _end_of_text(generation_config: Any, tokenizer: HubTokenizer) -> set[int]:
    """The ids that end an answer: those that the model's makers name, else the tokenizer's."""
    named = generation_config.eos_token_id
    if named is None:
        named = tokenizer.eos_token_id
    if named is None:
        return set()
    return set(named) if isinstance(named, list) else {named}
