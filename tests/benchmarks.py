"""Benchmarks that come with a name, read once for many tests."""

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import cache, partial
from unittest.mock import patch

from evals.benchmarks import BENCHMARKS, Benchmark

PLACES = ("MTP_CODE_DATA", "HF_HOME", "HF_HUB_OFFLINE")


@cache
def _read(load: Callable[[], Benchmark], places: tuple[str | None, ...]) -> Benchmark:
    return load()


def _from_here(load: Callable[[], Benchmark]) -> Benchmark:
    return _read(load, tuple(map(os.environ.get, PLACES)))


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """What is read within is kept, for as long as data are looked for in the same places."""
    kept = {name: partial(_from_here, load) for name, load in BENCHMARKS.items()}
    with patch.dict(BENCHMARKS, kept):
        yield
