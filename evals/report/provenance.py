"""How the figures were made, and how to make them again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evals.report.inputs import Result, Run
from evals.report.results import MAKE_TARGETS, benchmark_names
from evals.text import one_line

NOT_KNOWN = "—"


@dataclass(frozen=True)
class Setting:
    name: str
    values: Sequence[str]  # one a run
    differs: bool


@dataclass(frozen=True)
class Settings:
    title: str
    runs: Sequence[Run]
    settings: Sequence[Setting]
    is_open: bool

    @property
    def num_differing(self) -> int:
        return sum(setting.differs for setting in self.settings)


def provenance(runs: Sequence[Run]) -> list[Settings]:
    trained = [run for run in runs if run.info]
    tables = []
    if trained:
        tables.append(_settings("Training", trained, [_training(run) for run in trained], True))
        tables.append(
            _settings("Recipe", trained, [run.info.recipe for run in trained if run.info], False)
        )
    for name in benchmark_names(runs):
        judged = [run for run in runs if name in run.results]
        tables.append(
            _settings(
                f"Sampling and judging, {name}",
                judged,
                [_judging(run.results[name]) for run in judged],
                False,
            )
        )
    return tables


def _settings(
    title: str, runs: Sequence[Run], values: Sequence[Mapping[str, Any]], is_open: bool
) -> Settings:
    flat = [dict(_flattened(mapping)) for mapping in values]
    names = list(dict.fromkeys(name for mapping in flat for name in mapping))
    settings = []
    for name in names:
        row = [mapping.get(name, NOT_KNOWN) for mapping in flat]
        settings.append(Setting(one_line(name, 80), row, len(set(row)) > 1))
    return Settings(title, runs, settings, is_open)


def _training(run: Run) -> dict[str, Any]:
    info = run.info
    assert info is not None
    return {
        "machine": info.machine,
        "commit": info.commit or "none: not a git checkout",
        "started": info.started_at,
        "finished": info.finished_at or "not finished",
        **{f"version of {name}": version for name, version in info.versions.items()},
    }


def _judging(result: Result) -> dict[str, Any]:
    score = result.score
    shown: dict[str, Any] = {
        "data sha256": score.data_sha256,
        "prompt format": score.prompt_format,
        "post-processing": score.post_processing,
        "isolation": score.isolation,
        "limits": score.limits,
        **({"raised limits": score.raised_limits} if score.raised_limits else {}),
    }
    if score.sampling:
        shown |= {
            "temperature": score.sampling.temperature,
            "top-p": score.sampling.top_p,
            "samples a task": score.sampling.num_samples,
            "max new tokens": score.sampling.max_new_tokens,
            "seed": score.sampling.seed,
            "model": score.sampling.model,
        }
    return shown | {f"version of {name}": version for name, version in score.versions.items()}


def _flattened(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{name}.")
        else:
            yield name, one_line(_text(value), 200)


def _text(value: object) -> str:
    if value is None:
        return "off"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def commands(runs: Sequence[Run]) -> list[str]:
    """What makes these figures again, in order, from a checkout of the commit."""
    main = runs[0]
    return [
        *(["make train-code"] if main.info else []),
        *(MAKE_TARGETS[name] for name in benchmark_names([main]) if name in MAKE_TARGETS),
        *(["make bench-decode"] if main.decodes else []),
        "make report",
    ]
