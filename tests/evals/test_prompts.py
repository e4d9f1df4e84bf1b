"""Prompt formats, word for word: one that changes under its name would make old scores lies."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from evals.benchmarks.formats import Benchmark, humaneval_benchmark, mbpp_benchmark
from evals.errors import InputError
from evals.postprocess import cut_at_stops
from evals.prompts import (
    FORMATS,
    Example,
    PromptFormat,
    prompts_read,
    prompts_sha256,
    reference_answer,
    sample_of,
    with_format,
)
from evals.records import Question
from tests.evals.benchmarks.test_formats import MBPP_ROW
from tests.evals.conftest import ROWS
from tests.evals.loaded import loaded

HUMANEVAL = Question(code='\ndef f(x):\n    """Add one."""\n')
MBPP = Question(text="Add one.", asserts=("assert f(1) == 2", "assert f(2) == 3"))
APPS = Question(text="Add one.", reads_stdin=True)
CALL = Question(text="Add one.", code="def f(x):\n")

needs_data = pytest.mark.skipif(
    not os.environ.get("MTP_CODE_DATA"), reason="data of MBPP and EvalPlus: MTP_CODE_DATA"
)


SHOT = (
    "You are an expert Python programmer, and here is your task: {text} Your code should pass "
    "these tests:\n\n{tests}\n[BEGIN]"
)


def written(name: str, question: Question, *examples: Example) -> str:
    return FORMATS[name].write(question, examples)


def test_humaneval() -> None:
    assert written("humaneval raw", HUMANEVAL) == HUMANEVAL.code
    assert written("humaneval stripped", HUMANEVAL) == 'def f(x):\n    """Add one."""'


def test_mbpp_zero_shot() -> None:
    assert written("mbpp docstring with one assert", MBPP) == (
        '"""\nAdd one.\nassert f(1) == 2\n"""\n'
    )


def test_mbpp_three_shot() -> None:
    example = Example(Question(text="Be.", asserts=("assert g()",)), "def g():\n\treturn True")
    shot = SHOT.format(text="Be.", tests="assert g()") + "\ndef g():\n    return True\n[DONE]\n"
    asked = SHOT.format(text="Add one.", tests="assert f(1) == 2\nassert f(2) == 3")
    assert written("mbpp 3-shot", MBPP, *[example] * 3) == shot * 3 + asked


def test_apps() -> None:
    assert written("apps", APPS) == "\nQUESTION:\nAdd one.\nUse Standard Input format\nANSWER:\n"
    assert written("apps", CALL) == (
        "\nQUESTION:\nAdd one.def f(x):\n\nUse Call-Based format\nANSWER:\n"
    )


@pytest.mark.parametrize(
    ("question", "shown"),
    [
        (HUMANEVAL, 'def f(x):\n    """Add one."""'),
        (MBPP, '"""\nAdd one.\nassert f(1) == 2\n"""'),
        (CALL, "Add one.\n\ndef f(x):"),
    ],
)
def test_chat(question: Question, shown: str) -> None:
    assert written("chat", question) == (
        "Write a complete Python script, with all the imports it needs, that solves the problem "
        f"below. Put it in one Markdown code block.\n\n```python\n{shown}\n```\n"
    )
    assert FORMATS["chat"].answer_begins == "```python\n"


def test_a_chat_without_a_template_is_its_message_and_the_beginning_of_the_answer() -> None:
    chat, plain = FORMATS["chat"], FORMATS["chat plain"]
    assert plain.write(MBPP, ()) == f"{chat.write(MBPP, ())}\n```python\n"
    assert (plain.stops, plain.post_processing) == (chat.stops, chat.post_processing)
    assert plain.answer_begins == chat.answer_begins
    assert not plain.is_chat


def test_chat_says_where_input_comes_from() -> None:
    assert written("chat", APPS).startswith(
        "Write a complete Python script that reads standard input and writes standard output, with"
    )


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("humaneval raw", ("\nclass", "\ndef", "\n#", "\nif", "\nprint")),
        (
            "humaneval stripped",
            ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>"),
        ),
        (
            "mbpp docstring with one assert",
            ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```"),
        ),
        ("mbpp 3-shot", ("[DONE]",)),
        ("apps", ("\nQUESTION", "\n---", "\nANSWER")),
        ("chat", ("\n```",)),
        ("chat plain", ("\n```",)),
    ],
)
def test_stops(name: str, stops: tuple[str, ...]) -> None:
    assert FORMATS[name].stops == stops


def test_a_benchmark_is_put_in_another_format(toy: Benchmark) -> None:
    stripped = with_format(toy, "humaneval-stripped")
    assert stripped.prompt_format == "humaneval stripped"
    assert stripped.tasks[0].prompt == toy.tasks[0].prompt.strip()
    assert stripped.stops == stripped.tasks[0].stops == FORMATS["humaneval stripped"].stops
    assert stripped.data_sha256 == toy.data_sha256
    assert with_format(stripped, "humaneval raw") == toy


def test_a_format_brings_its_post_processing_unless_one_is_named(toy: Benchmark) -> None:
    assert with_format(toy, "chat").post_processing == "longest parseable span"
    assert with_format(toy, "chat", "fenced-block").post_processing == "fenced block"
    assert with_format(toy, None, "longest parseable span").prompt_format == toy.prompt_format
    assert with_format(toy) == toy


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("humaneval strip", None), "prompt format humaneval strip: unknown to toy; did you mean "),
        (
            ("mbpp 3-shot", None),
            "prompt format mbpp 3-shot: unknown to toy; known: humaneval raw, ",
        ),
        ((None, "x"), "post-processing x: unknown to toy; known: cut at stops, "),
    ],
)
def test_an_unknown_name_is_told(
    toy: Benchmark, names: tuple[str | None, str | None], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        with_format(toy, *names)
    assert str(caught.value).startswith(message)


def test_three_shots_are_had_where_there_are_examples() -> None:
    rows = [{**MBPP_ROW, "task_id": number} for number in (2, 3, 4, 11)]
    with_examples = mbpp_benchmark("toy", rows[3:], examples=rows[:3])
    prompt = with_format(with_examples, "mbpp 3-shot").tasks[0].prompt
    assert prompt.count("[DONE]") == 3
    assert prompt.count("[BEGIN]") == 4
    assert "\r" not in prompt
    assert "mbpp 3-shot" not in mbpp_benchmark("toy", rows[3:]).formats


@pytest.mark.parametrize(
    ("prompt_format", "raw", "kept"),
    [
        ("humaneval raw", "    return x\ndef g(): pass", {"completion": "    return x"}),
        ("humaneval stripped", "\n    return x\n@g", {"solution": 'def f():\n  "."\n    return x'}),
        ("chat", "def f(): return 1\n\nprint(2)\n```\n", {"solution": "def f(): return 1"}),
    ],
)
def test_a_sample_is_a_completion_only_where_it_continues_the_prompt_as_others_have_it(
    prompt_format: str, raw: str, kept: dict[str, str]
) -> None:
    row = {**ROWS[0], "prompt": '\ndef f():\n  "."\n', "entry_point": "f"}
    task = humaneval_benchmark("toy", [row]).tasks[0]
    sample = sample_of(task, 3, raw, prompt_format, FORMATS[prompt_format].post_processing)
    assert sample.model_dump(exclude_none=True) == {
        "task_id": "Toy/0",
        "index": 3,
        "raw": raw,
        **kept,
    }


@pytest.mark.parametrize(
    ("prompt_format", "answer"),
    [
        ("humaneval raw", "    return x\n"),
        ("humaneval stripped", "\n    return x\n"),
        ("chat", '\ndef f():\n  "."\n    return x\n'),
        ("chat plain", '\ndef f():\n  "."\n    return x\n'),
    ],
)
def test_a_reference_answers_as_a_model_would_have_to(prompt_format: str, answer: str) -> None:
    row = {**ROWS[0], "prompt": '\ndef f():\n  "."\n', "entry_point": "f"}
    row["canonical_solution"] = "    return x\n"
    task = humaneval_benchmark("toy", [row]).tasks[0]
    assert reference_answer(task, prompt_format) == answer
    assert reference_answer(task.model_copy(update={"reference": None}), prompt_format) is None


@pytest.mark.parametrize(
    "name",
    [
        "humaneval",
        "micro",
        *(pytest.param(name, marks=needs_data) for name in ("humaneval+", "mbpp")),
        # Tasks of mbpp's, once more.
        *(
            pytest.param(name, marks=[needs_data, pytest.mark.thorough])
            for name in ("mbpp-sanitized", "mbpp+")
        ),
    ],
)
def test_prompt_and_reference_answer_make_the_reference_in_every_format(name: str) -> None:
    benchmark = loaded(name)
    for prompt_format in benchmark.formats:
        for task in benchmark.tasks:
            begun = FORMATS[prompt_format].program_prefix(task.question)
            answer = reference_answer(task, prompt_format)
            assert task.reference is not None
            assert answer is not None
            program = task.program_prefix + task.reference
            assert (begun + answer).strip() == program.strip(), (prompt_format, task.task_id)


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("humaneval", set()),
        ("micro", set()),
        pytest.param("humaneval+", set(), marks=needs_data),
        pytest.param("mbpp", {("mbpp docstring with one assert", "Mbpp/342")}, marks=needs_data),
        pytest.param("mbpp-sanitized", set(), marks=needs_data),
        pytest.param("mbpp+", set(), marks=needs_data),
    ],
)
def test_stops_cut_no_reference_but_one(name: str, cut: set[tuple[str, str]]) -> None:
    benchmark = loaded(name)
    found = set()
    for prompt_format in benchmark.formats:
        for task in benchmark.tasks:
            answer = reference_answer(task, prompt_format)
            assert answer is not None
            if cut_at_stops(answer, FORMATS[prompt_format].stops) != answer:
                found.add((prompt_format, task.task_id))
    assert found == cut


def test_three_shots_have_a_line_end_before_the_code() -> None:
    rows = [{**MBPP_ROW, "task_id": number} for number in (2, 3)]
    asked = with_format(mbpp_benchmark("toy", rows[1:], examples=rows[:1]), "mbpp 3-shot")
    (task,) = asked.tasks
    answer = reference_answer(task, "mbpp 3-shot")
    assert answer is not None
    shot = f"[BEGIN]{answer}\n[DONE]\n"
    assert shot in task.prompt  # the example is the same task


@pytest.mark.parametrize("change", ["prompt", "stops", "template", "order"])
def test_the_hash_of_prompts_tells_whatever_the_model_reads(toy: Benchmark, change: str) -> None:
    chat = with_format(toy, "chat")
    prompts = prompts_read(chat, lambda message, begins: f"<user>{message}<assistant>{begins}")
    known = prompts_sha256(chat, prompts)
    assert known == prompts_sha256(chat, dict(reversed(prompts.items())))
    task, *others = chat.tasks
    match change:
        case "prompt":
            prompts["Toy/1"] += "\n"
        case "stops":
            changed = task.model_copy(update={"stops": ("```",)})
            chat = replace(chat, tasks=(changed, *others))
        case "template":
            prompts = prompts_read(chat, lambda message, begins: f"{message}{begins}")
        case "order":
            chat = replace(chat, tasks=(*others, task))
    assert prompts_sha256(chat, prompts) != known


def test_names_are_those_of_the_formats(tmp_path: Path) -> None:
    for name, prompt_format in FORMATS.items():
        assert isinstance(prompt_format, PromptFormat)
        assert name == prompt_format.name
