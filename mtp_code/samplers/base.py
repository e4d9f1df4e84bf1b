"""What all samplers agree on, so that a benchmark asks each of them the same.

A sampler takes questions and answers each once, in any order, as it goes. An answer is the text
that the model wrote behind the prompt, without special tokens, up to the first of the question's
stop strings, which is not part of it, or the end of text, or `max_new_tokens`.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from mtp_code.errors import InputError

log = logging.getLogger(__name__)

Chat = Callable[[str, str], str]
"""A user's message and the beginning of the answer → the text that the model continues."""


class Question(Protocol):
    """One text to draw; `evals.sampling.Request` is one.

    `is_chat` says that special tokens are spelled out in the prompt, as `Sampler.chat` wrote them.
    """

    @property
    def task_id(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def stops(self) -> tuple[str, ...]: ...
    @property
    def seed(self) -> int: ...
    @property
    def is_chat(self) -> bool: ...


Asked = TypeVar("Asked", bound=Question)


@dataclass(frozen=True)
class Drawing:
    """How to draw; at temperature 0, greedily."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0


class Sampler(Protocol):
    """
    Attributes:
        name: by which it is chosen.
        model: what a score says about the model: whatever tells it from others. Holds no secret.
        versions: of what the answers may depend on.
        chat: how the model is talked to; None for a model that is not.
        begins_answers: whether the beginning of an answer can be given in a chat.
    """

    name: str
    model: dict[str, Any]
    versions: dict[str, str]
    chat: Chat | None
    begins_answers: bool

    def draw(self, asked: Iterable[Asked], drawing: Drawing) -> Iterator[tuple[Asked, str]]:
        """Each question with its answer, in any order.

        Raises:
            InputError: what the user can mend, such as a model that is not there.
            MachineError: what the machine lacks.
        """
        ...


def cut_at_stops(text: str, stops: Sequence[str]) -> str:
    """The text before the stop string that comes first, whichever of `stops` it is."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def has_room(question: Question, num_tokens: int, context: int | None) -> bool:
    """Whether a prompt of so many tokens leaves room for an answer; where not, says so.

    Raises:
        InputError: there is no token to continue.
    """
    if num_tokens == 0:
        raise InputError(
            f"{question.task_id}: its prompt is empty, and the tokenizer begins texts with nothing"
        )
    if context is None or num_tokens < context:
        return True
    log.warning(
        "note: %s: prompt of %d tokens leaves no room in the context of %d; its answer is empty",
        question.task_id,
        num_tokens,
        context,
    )
    return False
