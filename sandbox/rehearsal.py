"""A sample's way, taken some times before the first sample is forked.

What the interpreter finds out on the way it then need not find out in each sample anew: attributes
looked up, code specialized, functions of libraries linked. Each of these also costs a sample a page
of its own, since it is written down in memory that it shares with the process that forked it.
"""

import linecache
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sandbox import beside, candidate, checker, libc, rlimits, wire, zygote
from sandbox.limits import Limits

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
_SMALL_PROGRAM: Final = '''
def double(number, others):
    """Twice the number, if it is even."""
    result = []
    for other in others:
        if number % 2 == 0:
            result.append(str(other))
    return number * 2
'''
_ANSWERS_BYTES: Final = 1 << 12
_CHECKS: Final = """
def check(candidate):
    assert candidate("The quick fox", [3, 1, 2]) == {"the": (0,), "quick": (0, 1), "fox": (0, 1, 2)}
    assert candidate("", [], 1.5, last=None) == {}
check(give)
assert work([1, 3], 2) is True, "work"
"""
_Call = tuple[str, tuple[object, ...], tuple[str, ...]]  # function, arguments, names of the last
_CALLS: Final[tuple[_Call, ...]] = (
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


def _requests(names: tuple[str, ...] = _NAMES, calls: tuple[_Call, ...] = _CALLS) -> bytes:
    frames = [wire.frame(["names", [*names]])]
    for name, arguments, named in calls:
        places = [*range(len(arguments))]
        data = wire.encode(arguments, _refuse)
        frames.append(wire.frame(["call", names.index(name), data, places, [*named]]))
    return b"".join(frames)


def as_samples() -> list[Callable[[], None]]:
    """What samples do from their first call to their last answer, each for a forked process. What
    all of them write to, samples write to whatever they run.
    """
    small = _requests(("double",), (("double", (2, [1, 3]), ()),))
    return [_as_sample(_PROGRAM, _requests()), _as_sample(_SMALL_PROGRAM, small)]


def _as_sample(program: str, requests: bytes) -> Callable[[], None]:
    """Prepared beforehand, as the zygote does."""
    steps = [libc.prepare("setsid"), *rlimits.sample_limits(Limits())]
    places = zygote.places_of(
        orders=_file(wire.dump([program])),
        output=_file(b""),
        requests=_file(requests),
        answers=_file(bytes(_ANSWERS_BYTES)),
    )

    def act() -> None:
        libc.run(places.to_spare)
        libc.run(steps)
        zygote.act_as_sample("recorded", places)

    return act


def _file(content: bytes) -> int:
    descriptor = os.memfd_create("rehearsal", os.MFD_CLOEXEC)
    os.write(descriptor, content)
    return descriptor


def _refuse(value: object) -> wire.Json:
    raise AssertionError(f"no plain data: {value!r}")
