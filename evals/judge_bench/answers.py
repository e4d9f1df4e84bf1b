"""Answers as chat models give them, made of reference solutions: prose, fences, more code, cuts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from evals.records import Task


@dataclass(frozen=True)
class ChatAnswer:
    """What is made up as a model's whole answer to a task; `kind` says how."""

    task_id: str
    entry_point: str
    kind: str
    text: str


def chat_answers(tasks: Sequence[Task], count: int) -> list[ChatAnswer]:
    """So many, the same ones each time: of one task after another, each of a kind by chance."""
    solved = [task for task in tasks if task.reference]
    return [_answer(solved[number % len(solved)], number) for number in range(count)]


def _answer(task: Task, number: int) -> ChatAnswer:
    rng = random.Random(number)
    assert task.reference is not None
    code = (task.program_prefix + task.reference).strip("\n")
    more = [name for name in _MORE if rng.random() < 0.25]
    for name in more:
        code = _MORE[name](code, task.entry_point)
    shape = rng.choice(list(_SHAPES))
    text = _SHAPES[shape](code, rng)
    return ChatAnswer(task.task_id, task.entry_point, ", ".join([shape, *more]), text)


_BEFORE: Final = (
    "Here is a solution:",
    "Sure! Let's think about it first. The function's input can be empty.",
    "I'd go over the list once, and keep what is needed:\n\n1. read it\n2. return it",
    "",
)
_AFTER: Final = (
    "It runs in linear time, doesn't it?",
    "Explanation: the loop ends at the first hit.\n\n- simple\n- fast",
    "x = 1 is then what you get.",
    "",
)


def _fenced(code: str, rng: random.Random, mark: str = "python", end: str = "```") -> str:
    return f"{rng.choice(_BEFORE)}\n\n```{mark}\n{code}\n{end}\n\n{rng.choice(_AFTER)}"


def _usage_first(code: str, rng: random.Random) -> str:
    return f"Install it:\n```bash\npip install things\n```\n{_fenced(code, rng)}"


def _example_after(code: str, rng: random.Random) -> str:
    return f"{_fenced(code, rng)}\n```python\nresult = 1\nprint(result)\n```\n"


def _unfinished(code: str, rng: random.Random) -> str:
    return f"```python\n{code[: rng.randrange(len(code) // 2, len(code))]}"


_SHAPES: Final[dict[str, Callable[[str, random.Random], str]]] = {
    "code alone": lambda code, rng: code,
    "fenced block": _fenced,
    "fence without a language": lambda code, rng: _fenced(code, rng, mark=""),
    "prose without fences": lambda code, rng: f"{_BEFORE[1]}\n{code}\n{rng.choice(_AFTER)}",
    "fence not closed": lambda code, rng: _fenced(code, rng, end="").rstrip(),
    "a block before": _usage_first,
    "a block behind": _example_after,
    "unfinished": _unfinished,
    "two blocks of code": lambda code, rng: f"{_fenced(code, rng)}\nOr so:\n{_fenced(code, rng)}",
}


def _calling(code: str, entry_point: str, name: str) -> str:
    """The code with a call of the helper in the entry point, ahead of its first statement."""
    head, found, rest = code.partition(f"def {entry_point}(")
    signature, _, body = rest.partition(":\n")
    return f"{head}{found}{signature}:\n    {name}(0)\n{body}" if found else code


# More code, as models write around a function: (code, entry point) → code.
_MORE: Final[dict[str, Callable[[str, str], str]]] = {
    "imports": lambda code, name: f"from __future__ import annotations\nimport math, os\n{code}",
    "a helper": lambda code, name: (
        "def helper(x):\n    return limit + x\n\nlimit: int = 3\n\n"
        + _calling(code, name, "helper")
    ),
    "a helper behind": lambda code, name: (
        f"{_calling(code, name, 'later')}\n\n\ndef later(x):\n    return [x, unused.__doc__]"
    ),
    "a helper that returns nothing": lambda code, name: (
        f"def show(x):\n    print(x)\n\n{_calling(code, name, 'show')}"
    ),
    "a decorated helper": lambda code, name: (
        f"@memo\ndef kept(x):\n    return x\n\n{_calling(code, name, 'kept')}"
    ),
    "a class": lambda code, name: f"class Unused:\n    value = {{1: 'é'}}\n\n{code}",
    "several targets": lambda code, name: f"a, b = 1, 2\nc = d = a\n{code}",
    "a second definition": lambda code, name: f"{code}\n\ndef {name}(*values):\n    return values",
    "tests": lambda code, name: f"{code}\n\nprint({name})\nassert {name} is not None",
    "a main block": lambda code, name: (
        f'{code}\n\nif __name__ == "__main__":\n    import sys\n    {name}(*sys.argv)'
    ),
    "comments": lambda code, name: f"# Python 3\n{code}  # that's it",
}
