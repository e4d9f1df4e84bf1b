"""How questions are put to a model: formats by name, each as its source has it.

A name is kept with every score, for a prompt's last line end alone has moved published scores by
tens of points. So a format never changes under its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from evals.errors import InputError, did_you_mean
from evals.files import json_line
from evals.postprocess import CUT, CUT_AND_STRIP, FENCED, POST_PROCESSINGS, SPAN, Answer
from evals.records import Question, Sample, Task

if TYPE_CHECKING:
    from evals.benchmarks.formats import Benchmark

# A user's message and the beginning of the answer → the text that a chat model continues.
Chat = Callable[[str, str], str]

_CODE_BLOCK: Final = "```python\n"


class Example(NamedTuple):
    """A question and its solution, to be shown before another question."""

    question: Question
    solution: str


@dataclass(frozen=True)
class PromptFormat:
    """`write` puts a question; the model's answer begins with `answer_begins`, which it is given.

    The program is `program_prefix` of the question, then the answer. `post_processing` is what is
    done to answers unless something else is asked for. A format that `is_chat` writes the user's
    message; the rest is up to the model's own template. `before_solution` is what stands before
    the code in an answer, as the format's examples have it.
    """

    name: str
    write: Callable[[Question, Sequence[Example]], str]
    stops: tuple[str, ...]
    post_processing: str = CUT
    program_prefix: Callable[[Question], str] = lambda question: ""
    answer_begins: str = ""
    is_chat: bool = False
    before_solution: str = ""


def _humaneval(question: Question, examples: Sequence[Example] = ()) -> str:
    return question.code


def _humaneval_stripped(question: Question, examples: Sequence[Example] = ()) -> str:
    return question.code.strip()


def _mbpp_docstring(question: Question, examples: Sequence[Example] = ()) -> str:
    return f'"""\n{question.text}\n{question.asserts[0]}\n"""\n'


def _mbpp_shots(question: Question, examples: Sequence[Example]) -> str:
    shots = (
        # Tabs as the source has them, so that all shots are indented alike.
        f"{_mbpp_task(each.question)}\n{each.solution.replace(chr(9), '    ')}\n[DONE]\n"
        for each in examples
    )
    return "".join(shots) + _mbpp_task(question)


def _mbpp_task(question: Question) -> str:
    tests = "\n".join(question.asserts)
    return (
        f"You are an expert Python programmer, and here is your task: {question.text} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]"
    )


def _apps(question: Question, examples: Sequence[Example] = ()) -> str:
    kind = "Standard Input" if question.reads_stdin else "Call-Based"
    return f"\nQUESTION:\n{question.text}{question.code}\nUse {kind} format\nANSWER:\n"


def _message(question: Question, examples: Sequence[Example] = ()) -> str:
    if question.asserts:
        task = _mbpp_docstring(question)
    elif question.text:
        task = "\n\n".join(part for part in (question.text, question.code) if part)
    else:
        task = question.code
    kind = "that reads standard input and writes standard output" if question.reads_stdin else ""
    return (
        f"Write a complete Python script {kind}".rstrip()
        + ", with all the imports it needs, that solves the problem below. "
        f"Put it in one Markdown code block.\n\n```python\n{task.strip()}\n```\n"
    )


def _message_and_beginning(question: Question, examples: Sequence[Example] = ()) -> str:
    return f"{_message(question)}\n{_CODE_BLOCK}"


# The prompt as it is, with its line end. Stops: Chen et al. 2021, arXiv 2107.03374, section 2.
HUMANEVAL_RAW: Final = PromptFormat(
    "humaneval raw",
    _humaneval,
    ("\nclass", "\ndef", "\n#", "\nif", "\nprint"),
    program_prefix=_humaneval,
)

# Without white space at either end, since many tokenizers join the last line end with what follows.
# bigcode-evaluation-harness, tasks/humaneval.py (`humaneval`; its `humaneval-unstripped` is raw).
HUMANEVAL_STRIPPED: Final = PromptFormat(
    "humaneval stripped",
    _humaneval_stripped,
    ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>"),
    program_prefix=_humaneval_stripped,
)

# Zero-shot: a docstring of the task's text and its first assert. Prompt: Fried et al. 2022
# (InCoder), arXiv 2204.05999, section 5.2; stops as bigcode-evaluation-harness has them.
MBPP_DOCSTRING: Final = PromptFormat(
    "mbpp docstring with one assert",
    _mbpp_docstring,
    ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```"),
)

# Tasks 2, 3 and 4, then the question, each with all its asserts: Austin et al. 2021, arXiv
# 2108.07732, section 3; as DeepSeek-Coder's Evaluation/MBPP (mbpp.py, utils/dataset.py) has it.
MBPP_3_SHOT: Final = PromptFormat(
    "mbpp 3-shot", _mbpp_shots, ("[DONE]",), CUT_AND_STRIP, before_solution="\n"
)

# Hendrycks et al. 2021, arXiv 2105.09938, as bigcode-evaluation-harness has it (tasks/apps.py).
APPS: Final = PromptFormat("apps", _apps, ("\nQUESTION", "\n---", "\nANSWER"))

# One message, and an answer that begins inside a code block, as EvalPlus asks instruction models
# (provider/utility.py); the words are ours.
CHAT: Final = PromptFormat(
    "chat", _message, ("\n```",), SPAN, answer_begins=_CODE_BLOCK, is_chat=True
)

# The same message and beginning of the answer with nothing around them, for models without a
# template: ours. (EvalPlus gives those the code alone, which is `humaneval raw` here.)
CHAT_PLAIN: Final = PromptFormat(
    "chat plain", _message_and_beginning, ("\n```",), SPAN, answer_begins=_CODE_BLOCK
)

# The message alone, and the whole reply: for endpoints that let nobody begin an answer. Ours.
CHAT_REPLY: Final = PromptFormat("chat reply", _message, (), FENCED, is_chat=True)

FORMATS: Final = {
    each.name: each
    for each in (
        HUMANEVAL_RAW,
        HUMANEVAL_STRIPPED,
        MBPP_DOCSTRING,
        MBPP_3_SHOT,
        APPS,
        CHAT,
        CHAT_PLAIN,
        CHAT_REPLY,
    )
}


def with_format(
    benchmark: Benchmark, prompt_format: str | None = None, post_processing: str | None = None
) -> Benchmark:
    """The benchmark with its questions put in another format; None keeps what it has.

    A format brings its own post-processing, unless one is named. Names may be written with hyphens.

    Raises:
        InputError: there is no such post-processing, or this benchmark has no such format.
    """
    name = prompt_format and _named(prompt_format, benchmark.formats, "prompt format", benchmark)
    if name and name != benchmark.prompt_format:
        chosen = FORMATS[name]
        benchmark = replace(
            benchmark,
            tasks=tuple(put(task, chosen, benchmark.examples) for task in benchmark.tasks),
            prompt_format=chosen.name,
            stops=chosen.stops,
            post_processing=chosen.post_processing,
        )
    if post_processing:
        known = _named(post_processing, POST_PROCESSINGS, "post-processing", benchmark)
        benchmark = replace(benchmark, post_processing=known)
    return benchmark


def put(task: Task, prompt_format: PromptFormat, examples: Sequence[Example] = ()) -> Task:
    """The task with its question put in that format."""
    prompt = prompt_format.write(task.question, examples)
    return task.model_copy(update={"prompt": prompt, "stops": prompt_format.stops})


def prompts_read(benchmark: Benchmark, chat: Chat | None = None) -> dict[str, str]:
    """What a model reads for each task, by its id; a chat goes through the model's own template.

    Raises:
        InputError: the prompt format is one for chats, and there is no `chat` to write it.
    """
    chosen = FORMATS[benchmark.prompt_format]
    if not chosen.is_chat:
        return {task.task_id: task.prompt for task in benchmark.tasks}
    if chat is None:
        others = [name for name in benchmark.formats if not FORMATS[name].is_chat]
        raise InputError(
            f"prompt format {chosen.name}: this model has no chat template; take "
            f"{' or '.join(others)}"
        )
    return {task.task_id: chat(task.prompt, chosen.answer_begins) for task in benchmark.tasks}


def prompts_sha256(benchmark: Benchmark, prompts: Mapping[str, str]) -> str:
    """Of what a model reads and where it is stopped, whatever the format's name."""
    digest = hashlib.sha256()
    for task in benchmark.tasks:
        digest.update(json_line([task.task_id, prompts[task.task_id], task.stops]))
    return digest.hexdigest()


def reference_answer(task: Task, prompt_format: str) -> str | None:
    """The benchmark's own solution as a model would have to write it, if there is one.

    Together with what the prompt gives of it, it is the whole program.
    """
    if task.reference is None:
        return None
    chosen = FORMATS[prompt_format]
    program, prefix = task.program_prefix + task.reference, chosen.program_prefix(task.question)
    # Stripped, a prompt lacks white space at the program's very beginning too.
    before, _, answer = program.partition(prefix) if prefix else ("", "", program)
    assert not before.strip(), f"{task.task_id}: its program does not begin as {prompt_format} does"
    return chosen.before_solution + answer


def sample_of(task: Task, index: int, raw: str, prompt_format: str, post_processing: str) -> Sample:
    """The sample that a model's answer to a task makes.

    It is a completion where it continues the task's program, as others write it too; else a whole
    program.
    """
    chosen, process = FORMATS[prompt_format], POST_PROCESSINGS[post_processing]
    prefix = chosen.program_prefix(task.question)
    # A program that reads, or holds a method to be called, has no function that all leads to.
    entry_point = task.entry_point if task.entry_point in task.checked_names else ""
    text = process.apply(Answer(raw, prefix, chosen.answer_begins, entry_point, chosen.stops))
    if process.gives_program:
        return Sample(task_id=task.task_id, index=index, solution=text, raw=raw)
    if prefix == task.program_prefix:
        return Sample(task_id=task.task_id, index=index, completion=text, raw=raw)
    return Sample(task_id=task.task_id, index=index, solution=prefix + text, raw=raw)


def _named(name: str, known: Collection[str], what: str, of: Benchmark) -> str:
    """That of the known names which is meant."""
    spelled = {each.replace("-", " "): each for each in known}
    if name.replace("-", " ") not in spelled:
        raise InputError(f"{what} {name}: unknown to {of.name}{did_you_mean(name, known)}")
    return spelled[name.replace("-", " ")]
