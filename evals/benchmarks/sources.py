"""Where rows of benchmarks come from: a folder of the user's, the hub, or another place online."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from evals.errors import BenchmarkUnavailable
from evals.records import read_rows

DATA_FOLDER: Final = "MTP_CODE_DATA"
HUB: Final = "https://huggingface.co"

Rows = Sequence[dict[str, Any]]
Keep = Callable[[dict[str, Any]], bool]

log = logging.getLogger(__name__)


def rows_from_hub(
    name: str, stem: str, dataset: str, config: str | None, split: str
) -> tuple[str, Rows]:
    """Rows and their source: STEM.jsonl.gz in the user's folder, else a data set on the hub.

    Raises:
        BenchmarkUnavailable: neither is there.
        RecordError: the file cannot be read.
    """

    def fetch() -> Rows:
        import datasets  # here, since it takes seconds

        return [dict(row) for row in datasets.load_dataset(dataset, config, split=split)]

    return _rows(name, stem, dataset, os.environ.get("HF_ENDPOINT", HUB), fetch)


def rows_from_url(
    name: str, stem: str, url: str, keep: Keep = lambda row: True
) -> tuple[str, Rows]:
    """Rows and their source: STEM.jsonl.gz in the user's folder, else a file online.

    Raises:
        BenchmarkUnavailable: neither is there.
        RecordError: the file cannot be read.
    """

    def fetch() -> Rows:
        import datasets

        return read_rows(Path(datasets.DownloadManager().download(url)), keep)

    is_of_hub = url.startswith("hf://")
    host = os.environ.get("HF_ENDPOINT", HUB) if is_of_hub else url
    return _rows(name, stem, url, host, fetch, keep)


def _rows(
    name: str,
    stem: str,
    elsewhere: str,
    host: str,
    fetch: Callable[[], Rows],
    keep: Keep = lambda row: True,
) -> tuple[str, Rows]:
    if path := _in_folder(stem):
        return str(path), read_rows(path, keep)
    try:
        with contextlib.nullcontext() if _is_within_reach(host) else _offline():
            return elsewhere, fetch()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        log.debug("%s: %s", elsewhere, error)
        folder = os.environ.get(DATA_FOLDER) or f"{DATA_FOLDER} (not set)"
        raise BenchmarkUnavailable(
            f"{name}: no data in {folder} and none from {elsewhere}; set {DATA_FOLDER} to a folder "
            f"that holds {stem}.jsonl.gz, or go online once"
        ) from None


def _in_folder(stem: str) -> Path | None:
    folder = os.environ.get(DATA_FOLDER)
    paths = [Path(folder) / f"{stem}{end}" for end in (".jsonl.gz", ".jsonl")] if folder else []
    return next((path for path in paths if path.exists()), None)


def _is_within_reach(url: str) -> bool:
    if urllib.request.getproxies():
        return True  # the way there is not ours to try
    place = urlsplit(url)
    try:
        socket.create_connection((place.hostname, place.port or 443), timeout=5).close()
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
