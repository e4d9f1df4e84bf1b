"""Our engine: a run, its heads helping, or a model of others."""

from collections.abc import Iterable, Iterator
from typing import Any

from mtp_code.decoding.engine import Engine
from mtp_code.decoding.prepare import describe_place
from mtp_code.decoding.requests import Request, SamplingConfig
from mtp_code.errors import MachineError
from mtp_code.machine import describe_versions
from mtp_code.run_folder import TrainedModel
from mtp_code.samplers.base import Asked, Chat, Drawing, cut_at_stops, has_room


class OurSampler:
    """Decoding by our engine, self-speculative where the model has heads for it.

    Args:
        batch_rows: answers drawn side by side.
    """

    name = "mtp"
    begins_answers = True

    def __init__(self, trained: TrainedModel, batch_rows: int) -> None:
        self._trained, self._batch_rows = trained, batch_rows
        self.model: dict[str, Any] = {
            **trained.description,
            **describe_place(trained.model),
        }
        self.versions = describe_versions()
        tokenizer = trained.tokenizer
        self.chat: Chat | None = tokenizer.chat if tokenizer.chat_template is not None else None

    def draw(self, asked: Iterable[Asked], drawing: Drawing) -> Iterator[tuple[Asked, str]]:
        """Each question with its answer, as it is finished.

        Raises:
            MachineError: memory did not suffice for some answers; all others were handed out.
        """
        model, tokenizer = self._trained.model, self._trained.tokenizer
        sampling = SamplingConfig(temperature=drawing.temperature, top_p=drawing.top_p)
        question_by_request: dict[int, Asked] = {}
        requests = []
        for question in asked:
            encode = tokenizer.encode_chat if question.is_chat else tokenizer.encode_prompt
            prompt = encode(question.prompt)
            if not has_room(question, len(prompt), model.config.context):
                yield question, ""
                continue
            requests.append(
                Request(prompt, drawing.max_new_tokens, question.stops, question.seed, sampling)
            )
            question_by_request[id(requests[-1])] = question
        errors = []
        for completion in Engine(model, tokenizer, self._batch_rows).complete(requests):
            if completion.error is not None:
                errors.append(completion.error)
                continue
            question = question_by_request[id(completion.request)]
            text = tokenizer.decode_after(completion.request.prompt, completion.tokens)
            yield question, cut_at_stops(text, question.stops)
        if errors:
            raise MachineError(f"{len(errors)} of {len(requests)} answers: {errors[0]}")
