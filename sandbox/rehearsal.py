"""A sample's way, taken some times before the first sample is forked.

What the interpreter finds out on the way it then need not find out in each sample anew: attributes
looked up, code specialized, functions of libraries linked. Each of these also costs a sample a page
of its own, since it is written down in memory that it shares with the process that forked it.
"""

import linecache
import os
import socket
import sys
from pathlib import Path
from typing import Final

from sandbox import beside, candidate, checker, wire

# The interpreter specializes what has run about ten times.
_NUM_TIMES: Final = 10

_PROGRAM: Final = '''
from typing import Dict, List, Optional, Tuple
import math
class Node:
    def __init__(self, value: int = 0, **rest: object) -> None:
        self.value, self.rest = value, {**rest}
def work(numbers: List[float], limit: Optional[int] = None) -> bool:
    """Exercise the parser, the compiler and the interpreter once."""
    try:
        for index, number in enumerate(numbers):
            if index != limit and abs(number - 1.5) < 0.25 or not number % 2:
                return any(x for x in [y ** 2 for y in numbers] if x)
        while limit: limit -= 1
        with open("/dev/null") as file: file.read()
        raise ValueError(f"{numbers!r:>10} {sorted({'a': 1}.items(), key=lambda pair: pair[1])}")
    except (ValueError, TypeError) as error:
        return isinstance(error, ValueError)
    finally:
        limit = None
def give(text: str, numbers: List[int], *rest, **named) -> Dict[str, Tuple[int, ...]]:
    words = [word.lower() for word in text.split(" ") if len(word) > 2]
    return {word: tuple(range(number)) for word, number in zip(words, sorted(numbers))}
assert work([1, 3], 2) and Node(1, a=2).value == 1 and math.sqrt(4) == 2.0
'''
_NAMES: Final = ("give", "work")
_CHECKS: Final = """
def check(candidate):
    assert candidate("The quick fox", [3, 1, 2]) == {"the": (0,), "quick": (0, 1), "fox": (0, 1, 2)}
    assert candidate("", [], 1.5, last=None) == {}
check(give)
assert work([1, 3], 2) is True, "work"
"""
_CALLS: Final[tuple[tuple[str, tuple[object, ...], tuple[str, ...]], ...]] = (
    ("give", ("The quick fox", [3, 1, 2]), ()),
    ("give", ("", [], 1.5, None), ("last",)),
    ("work", ([1, 3], 2), ()),
    ("work", ([1.25, -3, True], None), ()),
)


def rehearse() -> None:
    """Have a program answer calls, and run it with its checks beside it; nothing of it stays."""
    with Path(os.devnull).open("wb") as note:
        for _ in range(_NUM_TIMES):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                ours.sendall(_requests())
                ours.shutdown(socket.SHUT_WR)
                candidate.answer(_PROGRAM, theirs)
            beside.run(_PROGRAM, _CHECKS, [*_NAMES], note.fileno())
    del sys.modules[candidate.MODULE]
    linecache.clearcache()
    checker.compile_checks.cache_clear()


def _requests() -> bytes:
    frames = [wire.frame(["names", [*_NAMES]])]
    for name, arguments, named in _CALLS:
        places = [*range(len(arguments))]
        data = wire.encode(arguments, _refuse)
        frames.append(wire.frame(["call", _NAMES.index(name), data, places, [*named]]))
    return b"".join(frames)


def _refuse(value: object) -> wire.Json:
    raise AssertionError(f"no plain data: {value!r}")
