"""What a person sees while a command runs: on stderr, so that stdout holds results alone."""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from evals.text import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from evals.records import Estimate
    from mtp_code.data.prepare import Progress as DataProgress

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_COUNTS = 30.0
WIDEST_TABLE = 1000
MOST_CHARS = 4000  # of a message: it may name what somebody else chose, of any length


def in_a_line(message: str) -> str:
    """A message, whatever it names: nothing in it moves the cursor or looks like another line."""
    shown = visible(message[:MOST_CHARS]).replace("\n", " ").replace("\t", " ")
    return shown if len(message) <= MOST_CHARS else f"{shown}…"


class _LogLine(logging.Formatter):
    """Log messages, with nothing in them that moves the cursor."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def log_to_stderr() -> None:
    """What the library logs, of other libraries warnings alone."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LogLine("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    noisy = ("httpx", "httpx2", "openai", "datasets", "fsspec", "huggingface_hub", "torch")
    for name in (*noisy, "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own


def warn(message: str) -> None:
    typer.echo(f"note: {in_a_line(message)}", err=True)


def table_console() -> "Console":
    """Where tables go: as wide as a terminal is, elsewhere as they are."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = WIDEST_TABLE
    return console


@contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """Shows the newest of many messages: in place on a terminal, else one every ten seconds."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("") as status:
            yield status.update
        return
    shown_s = -math.inf
    newest = ""

    def show(message: str) -> None:
        nonlocal shown_s, newest
        newest = message
        if time.monotonic() - shown_s >= SECONDS_BETWEEN_LINES:
            shown_s, newest = time.monotonic(), ""
            console.print(message, highlight=False, soft_wrap=True)

    yield show
    if newest:
        console.print(newest, highlight=False, soft_wrap=True)


@contextmanager
def stage_bars() -> "Iterator[Callable[[DataProgress], None]]":
    """A bar for each stage of preparation, or lines where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        with status_line() as show:
            yield lambda p: show(f"{p.stage}: {p.done / max(p.total, 1):.0%}")
        return
    with Progress(console=console, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def on_progress(progress: "DataProgress") -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(progress.stage)
            bar.update(tasks[progress.stage], completed=progress.done, total=progress.total)

        yield on_progress


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with time left, or where stderr is no terminal a line now and then."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        shown_s = time.monotonic()  # what takes no longer needs no line

        def show(done: int, total: int) -> None:
            nonlocal shown_s
            if time.monotonic() - shown_s >= SECONDS_BETWEEN_COUNTS:
                shown_s = time.monotonic()
                console.print(f"{what}: {done:,} of {total:,}", highlight=False, soft_wrap=True)

        yield show
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def sum_of_parts(sizes: Mapping[Any, float], show: Callable[[float], str]) -> str:
    """A sum and what it is made of."""
    parts = ", ".join(f"{name} {show(size)}" for name, size in sizes.items())
    return f"{show(sum(sizes.values()))} = {parts}"


def short_count(number: float) -> str:
    return _scaled(number, 1000, ("", " k", " M", " G", " T"))


def short_size(num_bytes: float) -> str:
    return _scaled(num_bytes, 1024, (" B", " KiB", " MiB", " GiB"))


def _scaled(number: float, step: int, units: Sequence[str]) -> str:
    """Three digits or so, in the largest unit that leaves one before the point."""
    power = 0
    while number >= step and power + 1 < len(units):
        number, power = number / step, power + 1
    return f"{number:,.{2 if number < 10 else 1 if number < 100 else 0}f}{units[power]}"


def estimates(name: str, by_k: "Mapping[str, Estimate]") -> list[str]:
    """Each with its interval, in per cent; the name has a place for k."""
    return [
        f"{name.format(k)} {100 * estimate.value:.1f} % "
        f"({100 * estimate.low:.1f}–{100 * estimate.high:.1f})"
        for k, estimate in by_k.items()
    ]
