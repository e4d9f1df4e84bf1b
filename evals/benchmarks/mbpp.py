"""MBPP: the 500 tasks of its test split (Austin et al. 2021, arXiv 2108.07732).

Known traps, all met: CRLF line ends, set-up code that needs the solution's classes (367, 927), a
task that takes 5 s of CPU (123), one that shadows a builtin (126).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from evals.benchmarks.formats import Benchmark, mbpp_benchmark
from evals.errors import BenchmarkUnavailable, RecordError
from evals.records import read_rows

TEST_IDS: Final = range(11, 511)
HUB_NAME: Final = "google-research-datasets/mbpp"
DATA_FOLDER: Final = "MTP_CODE_DATA"

log = logging.getLogger(__name__)


def load() -> Benchmark:
    """From mbpp.jsonl.gz in the folder that MTP_CODE_DATA names, or from the hub.

    Raises:
        BenchmarkUnavailable: it is in neither.
        RecordError: the file does not hold MBPP's test split.
    """
    folder = os.environ.get(DATA_FOLDER)
    path = Path(folder) / "mbpp.jsonl.gz" if folder else None
    if path and path.exists():
        source, rows = str(path), read_rows(path)
    else:
        source, rows = HUB_NAME, _rows_of_hub(path)
    split = [row for row in rows if row.get("task_id") in TEST_IDS]
    if len(split) != len(TEST_IDS):
        raise RecordError(
            f"{source}: holds {len(split)} of the {len(TEST_IDS)} test tasks (ids "
            f"{TEST_IDS.start} to {TEST_IDS.stop - 1}); get MBPP's full edition"
        )
    return mbpp_benchmark("mbpp", split, source)


def _rows_of_hub(tried: Path | None) -> list[dict[str, Any]]:
    import datasets  # here, since it takes seconds

    try:
        with contextlib.nullcontext() if _hub_is_within_reach() else _offline():
            return [dict(row) for row in datasets.load_dataset(HUB_NAME, "full", split="test")]
    except (OSError, RuntimeError, ValueError) as error:
        log.debug("hub: %s", error)
        raise BenchmarkUnavailable(
            f"mbpp: no data in {tried or f'{DATA_FOLDER} (not set)'} and none from the hub; set "
            f"{DATA_FOLDER} to a folder that holds mbpp.jsonl.gz, or go online once"
        ) from None


def _hub_is_within_reach() -> bool:
    if urllib.request.getproxies():
        return True  # the way there is not ours to try
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.create_connection((endpoint.hostname, endpoint.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Look only into the hub's cache: its client would try for 25 s, and say so at length."""
    from datasets import config
    from huggingface_hub import constants

    # Where both keep what the environment said when they were imported.
    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
