"""What decoding is measured on: a benchmark's prompts, questions, or any text."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import evals.errors
from mtp_code.cli.common import named_benchmark
from mtp_code.cli.show import warn
from mtp_code.errors import did_you_mean

if TYPE_CHECKING:
    from mtp_code.tokenizer import Tokenizer

PromptsName = Annotated[
    str,
    typer.Option(
        "--prompts",
        "--benchmark",
        help="humaneval, mbpp, micro or another benchmark, mt-bench, gsm8k, spec-bench (both), a "
        "file of tasks (.jsonl), or a text file or folder of them, cut into pieces.",
    ),
]
PieceTokens = Annotated[
    int, typer.Option(min=1, help="Of text: tokens of a piece, which is a prompt.")
]


@dataclass(frozen=True)
class Prompts:
    """Prompts in tokens, and what they are called."""

    name: str
    tokens: list[list[int]]


def named_prompts(
    name: str, tokenizer: "Tokenizer", count: int | None, piece_tokens: int, context: int
) -> Prompts:
    """Up to `count` prompts that leave room for an answer.

    Questions go through the tokenizer's chat template, where it has one.

    Raises:
        InputError: there are none of that name, or none that fit.
        MachineError: their data cannot be had on this machine.
    """
    from evals.benchmarks import BENCHMARKS
    from evals.benchmarks.questions import QUESTIONS, load_questions

    path = Path(name)
    found: Iterator[list[int]]
    if name in QUESTIONS:
        found = (_asked(question, tokenizer) for question in load_questions(name))
    elif name not in BENCHMARKS and path.exists() and not name.endswith((".jsonl", ".jsonl.gz")):
        name = path.resolve().name if path.is_dir() else path.stem
        found = _pieces(path, tokenizer, piece_tokens)
    elif name in BENCHMARKS or "@" in name or path.exists():
        loaded = named_benchmark(name)
        name = loaded.name
        found = (tokenizer.encode_prompt(task.prompt) for task in loaded.tasks)
    else:
        raise evals.errors.InputError(
            f"--prompts {name}: no set of prompts, file or folder"
            f"{did_you_mean(name, [*BENCHMARKS, *QUESTIONS])}"
        )
    taken = list(islice(found, count))
    if not taken:
        raise evals.errors.InputError(f"--prompts {path}: holds no text")
    fitting = [tokens for tokens in taken if len(tokens) < context]
    if not fitting:
        raise evals.errors.InputError(
            f"--prompts {name}: none of {len(taken)} leaves room in a context of {context} tokens"
        )
    if len(fitting) < len(taken):
        warn(f"{len(taken) - len(fitting)} prompts fill the context of {context}: left out")
    return Prompts(name, fitting)


def _asked(question: str, tokenizer: "Tokenizer") -> list[int]:
    if tokenizer.chat_template is None:
        return tokenizer.encode_prompt(question)
    return tokenizer.encode_chat(tokenizer.chat(question, ""))


def _pieces(path: Path, tokenizer: "Tokenizer", piece_tokens: int) -> Iterator[list[int]]:
    """A piece of each file in turn, then the next of each; each begins a document."""
    paths = [path]
    if path.is_dir():
        seen = (one for one in path.rglob("*") if one.is_file())
        paths = sorted(p for p in seen if not _is_hidden(p.relative_to(path)))
    by_file = (_pieces_of(one, tokenizer, piece_tokens, one == path) for one in paths)
    absent: list[int] = []
    in_turn = chain.from_iterable(zip_longest(*by_file, fillvalue=absent))
    return (tokens for tokens in in_turn if tokens is not absent)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _pieces_of(
    path: Path, tokenizer: "Tokenizer", piece_tokens: int, is_alone: bool
) -> Iterator[list[int]]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        if is_alone:
            raise evals.errors.InputError(f"--prompts {path}: not UTF-8 text") from None
        return
    tokens = tokenizer.encode(text)
    for start in range(0, len(tokens), piece_tokens):
        piece = tokens[start : start + piece_tokens]
        if len(piece) == piece_tokens or start == 0:
            yield [*tokenizer.begin_document, *piece]
