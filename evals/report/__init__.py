"""One page that shows a run: what was trained, what it scored, how fast it decodes.

Importing this loads neither matplotlib nor jinja2; `write_report` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["write_report"]


def write_report(
    run_dirs: Sequence[Path],
    out_path: Path,
    prompts: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Write one self-contained HTML page; the same inputs give the same bytes.

    The first run is the one reported; further ones stand beside it. A stage that was not run
    leaves a note that says how to run it. `prompts` (benchmark → task id → prompt) puts what
    the model was asked above the samples shown.

    Raises:
        InputError: a folder holds no run, or one of its files is broken.
    """
    # Here, not above: these load matplotlib, jinja2 and scipy, which judging does not need.
    from evals.files import write_whole
    from evals.report.inputs import read_runs
    from evals.report.page import render

    page = render(read_runs(run_dirs), prompts or {})
    with write_whole(out_path) as file:
        file.write(page.encode("utf-8"))
