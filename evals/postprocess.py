"""From a model's answer to code: ways by name, which are kept with every score."""

from __future__ import annotations

import ast
import contextlib
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

CUT: Final = "cut at stops"
CUT_AND_STRIP: Final = "cut at stops, stripped"
FENCED: Final = "fenced block"
SPAN: Final = "longest parseable span"

# An answer of a few pages, prose around it, takes some ten thousand; these take ten seconds.
_MOST_TRIED_CHARS: Final = 10_000_000


class Answer(NamedTuple):
    """What a model wrote, `begins` being what it was given to begin with.

    The program it belongs to begins with `prefix` and is called at `entry_point`, if at one place.
    """

    text: str
    prefix: str
    begins: str
    entry_point: str
    stops: Sequence[str]


@dataclass(frozen=True)
class PostProcessing:
    """`apply` gives a whole program, or what follows the answer's prefix in it."""

    apply: Callable[[Answer], str]
    gives_program: bool


def cut_at_stops(text: str, stops: Sequence[str]) -> str:
    """The text up to the stop string that comes first, whichever of `stops` it is."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def fenced_block(text: str, entry_point: str) -> str:
    """The first Markdown code block that mentions the entry point, else the first; else the text.

    One that is not closed reaches to the end.
    """
    blocks = [match[1] for match in _FENCE.finditer(text)]
    return next((block for block in blocks if entry_point in block), [*blocks, text][0])


def longest_span(text: str, entry_point: str) -> str:
    """Of the longest run of lines that is Python: imports, and what the entry point may need.

    As EvalPlus 0.3.1 has it (sanitize.py), which works on tree-sitter's tree: what has passed
    Python's parser has the same statements in Python's own. Kept are the first class, function or
    assignment of a name, where the entry point leads to it over any names; functions only if they
    return something; nothing that is decorated. If nothing is left, or without an entry point, it
    is the whole run.
    """
    code = longest_run(text)
    if not entry_point:
        return code
    imports: list[str] = []
    definitions: dict[str | None, tuple[set[str], str]] = {}
    for node in _statements(code):
        if _is_import(node):
            imports.append(ast.get_source_segment(code, node) or "")
        elif _is_definition(node):
            text_of_node = ast.get_source_segment(code, node) or ""
            definitions.setdefault(_defined_name(node), (_identifiers(node), text_of_node))
    reached = _reached(entry_point, definitions)
    kept = [text for name, (_, text) in definitions.items() if name in reached]
    return "\n".join([*imports, *kept]).strip() or code


def longest_run(text: str) -> str:
    """The run of two or more lines that is Python and has most lines that are not blank.

    The first of several; where there is none, the first line. Each end that cannot be is passed
    over: an error that lies before the end stays one, whatever follows. Of a text that could go on
    so for hours, such as `@a` a thousand times, it is the longest of the runs tried first.
    """
    lines = text.split("\n")
    filled = [0]  # lines that are not blank, up to each
    for line in lines:
        filled.append(filled[-1] + bool(line.strip()))
    first, end, most = 0, 1, 0
    trials = _Trials()
    with contextlib.suppress(_NoMoreTrials):
        for start in range(len(lines)):
            if filled[-1] - filled[start] <= most:
                break  # no longer one begins here or later
            for stop in _possible_ends(lines, start, trials):
                if filled[stop] - filled[start] <= most:
                    break
                shortest = max(start + 2, filled.index(filled[stop]))
                if shortest <= stop:
                    # The shortest that has as many lines.
                    ends = range(shortest, stop + 1)
                    end = next(
                        each for each in ends if trials.error_line(lines[start:each]) is None
                    )
                    first, most = start, filled[stop] - filled[start]
                    break
    return "\n".join(lines[first:end])


POST_PROCESSINGS: Final[dict[str, PostProcessing]] = {
    CUT: PostProcessing(lambda answer: cut_at_stops(answer.text, answer.stops), False),
    CUT_AND_STRIP: PostProcessing(
        lambda answer: cut_at_stops(answer.text, answer.stops).strip(), False
    ),
    FENCED: PostProcessing(
        lambda answer: fenced_block(answer.begins + answer.text, answer.entry_point), True
    ),
    SPAN: PostProcessing(
        lambda answer: longest_span(
            answer.prefix + cut_at_stops(answer.text, answer.stops), answer.entry_point
        ),
        True,
    ),
}

_FENCE: Final = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)


def _possible_ends(lines: list[str], start: int, trials: _Trials) -> Iterator[int]:
    """Ends of the runs from `start` on that are Python, longest first, as far as they differ."""
    end = len(lines)
    while end > start:
        error_line = trials.error_line(lines[start:end])
        if error_line is None:
            yield end
            end -= 1
        else:
            # A run that goes beyond the line of an error has it too.
            end = min(end - 1, start + max(error_line, 1) - 1)


class _NoMoreTrials(Exception):  # noqa: N818 - no error
    """So much of a text was parsed, time and again, that it is no answer to be read so."""


class _Trials:
    """Runs of lines given to Python's parser: by their length, so that it hangs on no clock."""

    def __init__(self) -> None:
        self._left_chars = _MOST_TRIED_CHARS

    def error_line(self, lines: list[str]) -> int | None:
        """Where the parser gives up, counted from 1; None if it does not.

        Raises:
            _NoMoreTrials: too much was parsed before.
        """
        if self._left_chars < 0:
            raise _NoMoreTrials
        error_line = _error_line("\n".join(lines))
        # Where the parser gave up, it read no further.
        self._left_chars -= sum(map(len, lines[:error_line]))
        return error_line


def _error_line(code: str) -> int | None:
    try:
        _parse(code)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, MemoryError, RecursionError):
        return code.count("\n") + 1
    return None


def _parse(code: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes such as "\w", which are not ours to mend
        return ast.parse(code)


def _statements(code: str) -> list[ast.stmt]:
    try:
        return _parse(code).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return []


def _is_import(node: ast.stmt) -> bool:
    is_future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
    return isinstance(node, ast.Import | ast.ImportFrom) and not is_future


def _is_definition(node: ast.stmt) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        returns = any(isinstance(part, ast.Return) for part in ast.walk(node))
        return returns and not node.decorator_list
    if isinstance(node, ast.ClassDef):
        return not node.decorator_list
    return isinstance(node, ast.Assign | ast.AnnAssign)


def _defined_name(node: ast.stmt) -> str | None:
    """The name that stands for the definition; of `a, b = c` that is c, since the source has it."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name
    sides: list[ast.expr | None] = []
    if isinstance(node, ast.Assign):
        sides = [*node.targets[:1], node.value if len(node.targets) == 1 else None]
    elif isinstance(node, ast.AnnAssign):
        sides = [node.target, node.value]
    return next((side.id for side in sides if isinstance(side, ast.Name)), None)


def _identifiers(node: ast.stmt) -> set[str]:
    """Every name that is spelled out in the statement, whatever it is the name of."""
    found: set[str] = set()
    for part in ast.walk(node):
        for field in ("id", "attr", "arg", "name", "asname", "module", "rest"):
            spelled = getattr(part, field, None)
            if isinstance(spelled, str):
                found.update(spelled.split("."))
        for field in ("names", "kwd_attrs"):
            found.update(each for each in getattr(part, field, ()) if isinstance(each, str))
    return found


def _reached(entry_point: str, definitions: dict[str | None, tuple[set[str], str]]) -> set[str]:
    reached: set[str] = set()
    ahead = [entry_point]
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead += definitions.get(name, (set(), ""))[0]
    return reached
