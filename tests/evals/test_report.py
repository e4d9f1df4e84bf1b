from __future__ import annotations

import itertools
import json
import math
import random
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from markupsafe import Markup

from evals.errors import InputError
from evals.files import file_sha256
from evals.records import VERDICT_LETTERS
from evals.report import write_report
from evals.report.charts import draw_curves
from evals.report.wording import timed_out
from tests.evals.scored import score as scored

LIMITS = {"cpu_s": 3.0, "wall_s": 30.0, "memory_bytes": 512 << 20}
VERSIONS = {"mtp-code": "0.1.0", "python": "3.11.2"}
PASSING = "    return [value * 2 for value in values if value > 0]\n"
FAILING = "    total = 0\n    for value in values:\n        total += value\n    return total\n"


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_lines(path: Path, rows: Iterable[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit_json(path: Path, changes: Mapping[str, Any]) -> None:
    write_json(path, json.loads(path.read_text()) | changes)


def make_run(
    run_dir: Path,
    *,
    name: str = "tiny",
    num_heads: int = 4,
    cpu_s: float = 240.4,
    skill: float = 0.5,
) -> Path:
    """A run folder as the trainer leaves it; its figures follow from `skill`."""
    write_json(
        run_dir / "run.json",
        {
            "schema": 1,
            "name": name,
            "recipe": {
                "model": {
                    "width": 128,
                    "num_mtp_heads": num_heads,
                    "num_trunk_layers": 8 - num_heads,
                },
                "schedule": {"time_s": 240, "warmup_steps": 100},
                "data": {"sources": ["stdlib", "micro"], "max_tokens": None},
            },
            "versions": VERSIONS | {"torch": "2.11.0"},
            "commit": "1f2e3d4c5b6a",
            "machine": "2 × Intel Xeon 2.6 GHz, Linux 6.1, no GPU",
            "started_at": "2026-11-22T21:40:00Z",
            "finished_at": "2026-11-22T21:44:05Z",
            "model": {
                "num_parameters": 1_412_352,
                "num_trunk_layers": 8 - num_heads,
                "num_mtp_heads": num_heads,
                "vocab_size": 512,
            },
            "cpu_s": cpu_s,
            "elapsed_s": cpu_s + 4,
        },
    )
    write_lines(run_dir / "metrics.jsonl", metrics(num_heads, cpu_s, skill))
    return run_dir


def metrics(num_heads: int, cpu_s: float, skill: float) -> list[dict[str, Any]]:
    noise = random.Random(num_heads)
    rows: list[dict[str, Any]] = []
    num_steps = 2400 if num_heads > 1 else 3100
    for step in range(20, num_steps + 1, 20):
        done = step / num_steps
        at = {
            "schema": 1,
            "step": step,
            "tokens": 512 * step,
            "cpu_s": cpu_s * done,
            "elapsed_s": cpu_s * done + 1,
        }
        losses = [
            (1.35 - 0.3 * skill + 0.42 * offset**0.8)
            + 4.2 * math.exp(-9 * done)
            + noise.gauss(0, 0.07)
            for offset in range(num_heads)
        ]
        rate = 4e-3 * min(step / 100, 0.5 + 0.5 * math.cos(math.pi * done))
        rows.append(
            at
            | {"kind": "train", "loss": losses[0], "loss_by_offset": losses, "lr": rate}
            | {"grad_norm": 0.5, "tokens_per_s": 5900.0}
        )
        if step % 100 == 0:
            for source, floor in (("stdlib", 2.4), ("micro", 0.31)):
                bits = floor - 0.2 * floor * skill + 3 * math.exp(-8 * done)
                rows.append(
                    at
                    | {"kind": "validation", "source": source, "bits_per_byte": bits}
                    | {"loss_by_offset": [bits * 0.9 + 0.3 * offset for offset in range(num_heads)]}
                )
    return rows


def add_scores(
    run_dir: Path,
    benchmark: str,
    *,
    num_tasks: int = 40,
    num_samples: int = 4,
    pass_rate: float = 0.5,
    isolation: str = "full",
) -> Path:
    """Samples, verdicts and a score that agree with each other."""
    draw = random.Random(f"{benchmark} {pass_rate}")
    folder = run_dir / "eval" / benchmark
    failures = ("wrong answer", "exception", "syntax error", "timed out", "undefined")
    samples, verdicts, by_verdict, tasks, letters = [], [], {}, {}, {}
    for task in range(num_tasks):
        task_id = f"{benchmark}/{task}"
        ease = min(1.0, max(0.0, pass_rate + draw.gauss(0, 0.25))) if pass_rate else 0.0
        passed = 0
        letters[task_id] = ""
        for index in range(num_samples):
            verdict = (
                "passed" if draw.random() < ease else draw.choices(failures, (8, 4, 2, 0.4, 0.3))[0]
            )
            passed += verdict == "passed"
            letters[task_id] += VERDICT_LETTERS[verdict]
            by_verdict[verdict] = by_verdict.get(verdict, 0) + 1
            completion = PASSING if verdict == "passed" else FAILING
            samples.append({"task_id": task_id, "index": index, "completion": completion})
            verdicts.append(verdict_row(task_id, index, verdict, isolation))
        tasks[task_id] = [num_samples, passed]
    value = sum(passed for _, passed in tasks.values()) / (num_tasks * num_samples)
    half = 1.96 * math.sqrt(value * (1 - value) / num_tasks)
    estimate = {
        "value": value,
        "low": max(0.0, value - half),
        "high": min(1.0, value + half) if value else 0.022,
        "level": 0.95,
        "interval": "over tasks",
        "over_samples": None,
    }
    sampling = {
        "schema": 1,
        "benchmark": benchmark,
        "data_sha256": "ab" * 32,
        "prompt_format": "completion",
        "post_processing": "cut at stops",
        "num_samples": num_samples,
        "temperature": 0.2,
        "top_p": 0.95,
        "max_new_tokens": 256,
        "seed": 0,
        "model": {"name": run_dir.name, "step": 2400, "sha256": "cd" * 32},
        "versions": VERSIONS,
    }
    score = {
        "schema": 2,
        "benchmark": benchmark,
        "data_sha256": "ab" * 32,
        "prompt_format": "completion",
        "prompts_sha256": "ef" * 32,
        "samples_sha256": "01" * 32,
        "post_processing": "cut at stops",
        "seed_rule": "by index",
        "num_tasks": num_tasks,
        "num_samples": num_tasks * num_samples,
        "pass_at_k": {"1": estimate},
        "graded": {"parsed": estimate | {"value": 0.875}},
        "by_verdict": by_verdict,
        "timed_out": by_verdict.get("timed out", 0),
        "limits": LIMITS,
        "isolation": isolation,
        "sampling": sampling,
        "versions": VERSIONS,
        "tasks": tasks,
        "verdicts": letters,
    }
    write_lines(folder / "samples.jsonl", samples)
    write_json(folder / "sampling.json", sampling)
    write_lines(folder / "verdicts.jsonl", verdicts)
    write_json(folder / "scores.json", score)
    tie_together(folder)
    return folder


def tie_together(folder: Path) -> None:
    """Make the score that of the samples and verdicts beside it."""
    edit_json(
        folder / "scores.json",
        {
            f"{name}_sha256": file_sha256(folder / f"{name}.jsonl")
            for name in ("samples", "verdicts")
        },
    )


def verdict_row(task_id: str, index: int, verdict: str, isolation: str = "full") -> dict[str, Any]:
    details = {
        "passed": "",
        "wrong answer": "double_positive([1, -2, 3]) gave 2; expected [2, 6]",
        "exception": "TypeError: 'int' object is not iterable",
        "timed out": "used 3.0 s of CPU",
    }
    return {
        "schema": 1,
        "task_id": task_id,
        "index": index,
        "verdict": verdict,
        "detail": details.get(verdict, verdict),
        "ending": "exited",
        "exit_code": 0,
        "cpu_s": 0.021,
        "wall_s": 0.03,
        "peak_memory_bytes": 14 << 20,
        "output_tail": "",
        "isolation": isolation,
    }


def add_decoding(run_dir: Path, *, num_identical: int = 164) -> None:
    speculative = [
        (1, 1.62, 1.31, [0.66]),
        (2, 1.98, 1.47, [0.65, 0.41]),
        (3, 2.17, 1.52, [0.65, 0.42, 0.29]),
    ]
    rows: list[dict[str, Any]] = [decode_row("plain", 0, 1.0, 1.0, [], 164)]
    rows += [decode_row("speculative", *figures, num_identical) for figures in speculative]
    write_json(
        run_dir / "decode-humaneval.json",
        {
            "schema": 1,
            "machine": "2 × Intel Xeon 2.6 GHz, Linux 6.1, no GPU",
            "date": "2026-11-22",
            "commit": "1f2e3d4c5b6a",
            "command": "mtp-code bench-decode runs/tiny",
            "model": {"name": "tiny"},
            "prompts": {"benchmark": "humaneval", "count": 164},
            "max_new_tokens": 128,
            "num_threads": 1,
            "repeats": 5,
            "rows": rows,
        },
    )


def decode_row(
    mode: str,
    drafts: int,
    tokens_per_forward: float,
    speed_up: float,
    acceptance: list[float],
    same: int,
) -> dict[str, Any]:
    return {
        "mode": mode,
        "drafts": drafts,
        "tokens": 20992,
        "forwards": round(20992 / tokens_per_forward),
        "tokens_per_forward": tokens_per_forward,
        "cpu_s": 30 / speed_up,
        "wall_s": 30 / speed_up,
        "tokens_per_s": 700 * speed_up,
        "speed_up": speed_up,
        "speed_up_low": speed_up - 0.04 * (drafts > 0),
        "speed_up_high": speed_up + 0.05 * (drafts > 0),
        "acceptance_by_offset": acceptance,
        "identical_outputs": same,
    }


def make_two_runs(root: Path) -> list[Path]:
    runs = [
        make_run(root / "tiny"),
        make_run(root / "tiny-next-token", name="tiny-next-token", num_heads=1, cpu_s=241.2),
    ]
    for run_dir, pass_rate in zip(runs, (0.6, 0.4), strict=True):
        add_scores(run_dir, "micro", pass_rate=pass_rate)
        add_scores(run_dir, "humaneval", pass_rate=0)
    add_decoding(runs[0])
    return runs


def report(run_dirs: list[Path], **options: Any) -> str:
    """The page, in which a chart is drawn once for all tests that show it."""
    with (
        patch("evals.report.training.draw_curves", drawn_once),
        patch("evals.report.decoding.draw_curves", drawn_once),
    ):
        return report_drawn_anew(run_dirs, **options)


def report_drawn_anew(run_dirs: list[Path], **options: Any) -> str:
    out_path = run_dirs[0].parent / "report" / "index.html"
    write_report(run_dirs, out_path, **options)
    return out_path.read_text(encoding="utf-8")


DRAWN: dict[str, Markup] = {}


def drawn_once(*arguments: Any, **options: Any) -> Markup:
    asked = repr((arguments, options))
    if asked not in DRAWN:
        DRAWN[asked] = draw_curves(*arguments, **options)
    return DRAWN[asked]


class Page(HTMLParser):
    """Elements with attributes and text, and the rows of tables as lists of cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._unread = 0
        self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._unread += tag == "style"
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._unread -= tag == "style"
        self._in_cell &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._unread:
            return
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data

    def row(self, head: str) -> list[str]:
        """The cells after the first row with this head in a table that has a column a run."""
        row = next(row for row in self.rows if row and row[0].strip() == head and len(row) == 3)
        return [cell.strip() for cell in row[1:]]

    def attributes(self, name: str) -> list[str]:
        return [value for _, attributes in self.elements if (value := attributes.get(name))]


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_two_runs(tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def html_of_two(two_runs: list[Path]) -> str:
    return report(two_runs)


@pytest.fixture(scope="module")
def page_of_two(html_of_two: str) -> Page:
    return Page(html_of_two)


def test_values_side_by_side_are_those_of_the_files(
    two_runs: list[Path], page_of_two: Page
) -> None:
    infos = [json.loads((run_dir / "run.json").read_text()) for run_dir in two_runs]
    logs = [
        [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        for run_dir in two_runs
    ]
    last = [
        [row for row in log if row.get("source") == "stdlib" and row["kind"] == "validation"][-1]
        for log in logs
    ]
    assert page_of_two.row("parameters") == [
        f"{info['model']['num_parameters']:,}" for info in infos
    ]
    assert page_of_two.row("MTP heads") == ["4", "1"]
    assert page_of_two.row("CPU time") == ["240 s (4.0 min)", "241 s (4.0 min)"]
    assert page_of_two.row("tokens") == [f"{log[-1]['tokens']:,}" for log in logs]
    assert page_of_two.row("steps") == [f"{log[-1]['step']:,}" for log in logs]
    bits = page_of_two.row("bits per byte, stdlib")
    assert [cell.split()[0] for cell in bits] == [f"{row['bits_per_byte']:.3f}" for row in last]
    losses = page_of_two.row("loss at offset 1, stdlib (nats per token)")
    assert [cell.split()[0] for cell in losses] == [
        f"{row['loss_by_offset'][0]:.3f}" for row in last
    ]


@pytest.mark.parametrize("benchmark", ["micro", "humaneval"])
def test_pass_rates_stand_with_interval_and_counts(
    two_runs: list[Path], page_of_two: Page, benchmark: str
) -> None:
    scores = [
        json.loads((run_dir / "eval" / benchmark / "scores.json").read_text())["pass_at_k"]["1"]
        for run_dir in two_runs
    ]
    assert page_of_two.row(f"{benchmark} pass@1") == [
        f"{100 * score['value']:.1f} % ({100 * score['low']:.1f}–{100 * score['high']:.1f})"
        for score in scores
    ]
    assert "40 tasks × 4 samples" in page_of_two.text


def test_exact_values_can_be_read_by_program(two_runs: list[Path], page_of_two: Page) -> None:
    score = json.loads((two_runs[0] / "eval" / "micro" / "scores.json").read_text())
    values = [attributes["value"] for tag, attributes in page_of_two.elements if tag == "data"]
    assert repr(score["pass_at_k"]["1"]["value"]) in values


def test_base_and_all_checks_of_a_plus_benchmark_stand_apart(tmp_path: Path) -> None:
    run = make_run(tmp_path / "plus")
    path = add_scores(run, "humaneval+") / "scores.json"
    score = json.loads(path.read_text())
    base = {"1": score["pass_at_k"]["1"] | {"value": 0.75, "low": 0.7, "high": 0.8}}
    edit_json(path, {"base_pass_at_k": base, "base_verdicts": score["verdicts"]})
    add_scores(run, "humaneval")
    page = Page(report([run]))
    assert "pass@1 (base) 75.0 % (70.0–80.0)" in page.text
    assert "pass@1 (base + extra) " in page.text
    assert "humaneval+ pass@1 (base)" in page.text
    assert "humaneval pass@1 (" not in page.text


def test_verdict_table_counts_what_the_score_counts(
    two_runs: list[Path], page_of_two: Page
) -> None:
    scores = [
        json.loads((run_dir / "eval" / "micro" / "scores.json").read_text()) for run_dir in two_runs
    ]
    counts = [cell.split()[0] for cell in page_of_two.row("passed")]
    assert counts == [f"{score['by_verdict']['passed']:,}" for score in scores]


def test_comparison_names_the_run_ahead(page_of_two: Page) -> None:
    assert "at equal training time" in page_of_two.text
    assert "tiny is ahead" in page_of_two.text
    assert "both too close to 0 to compare" in page_of_two.text


def test_a_difference_within_the_interval_names_no_winner(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", name="a"), make_run(tmp_path / "b", name="b", cpu_s=400)]
    for run_dir in runs:
        add_scores(run_dir, "micro")
    text = Page(report(runs)).text
    assert "no clear difference" in text
    assert "at different training time" in text
    assert "is ahead" not in text


def test_runs_judged_differently_are_not_compared(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", name="a"), make_run(tmp_path / "b", name="b")]
    for run_dir in runs:
        folder = add_scores(run_dir, "micro")
    edit_json(folder / "scores.json", {"data_sha256": "ef" * 32})
    assert "not comparable: data_sha256 differs" in Page(report(runs)).text


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    assert "tiny (2)" in Page(report([make_run(tmp_path / "a"), make_run(tmp_path / "b")])).text


def test_more_runs_than_colours_are_shown(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(number), name=f"run {number}") for number in range(5)]
    assert "run 4" in Page(report(runs)).text


def test_page_loads_nothing_from_outside(page_of_two: Page, html_of_two: str) -> None:
    assert not re.search(r"https?://|@import|url\((?!#)", html_of_two)
    references = page_of_two.attributes("src") + page_of_two.attributes("href")
    assert references
    assert all(reference.startswith("#") for reference in references)
    assert not {tag for tag, _ in page_of_two.elements} & {"script", "link", "img", "iframe"}


def test_page_is_small(html_of_two: str) -> None:
    assert len(html_of_two.encode()) < 1_000_000


def test_same_inputs_give_the_same_bytes(two_runs: list[Path], html_of_two: str) -> None:
    assert report_drawn_anew(two_runs) == html_of_two


def test_ids_are_unique_and_what_they_are_referred_to_by_exists(
    page_of_two: Page, html_of_two: str
) -> None:
    ids = page_of_two.attributes("id")
    assert len(ids) == len(set(ids))
    referred = {reference[1:] for reference in page_of_two.attributes("href")}
    referred |= set(re.findall(r"url\(#([^)]+)\)", html_of_two))
    referred |= set(page_of_two.attributes("aria-labelledby"))
    assert referred <= set(ids)


def test_each_chart_is_drawn_in_the_pages_colours_and_says_what_it_shows(
    page_of_two: Page, html_of_two: str
) -> None:
    charts = [
        attributes
        for tag, attributes in page_of_two.elements
        if tag == "svg" and "viewbox" in attributes
    ]
    # Loss by offset, loss at offset 1, two sources, learning rate, acceptance.
    assert len(charts) == 6
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    drawn = "".join(re.findall(r"<svg viewBox.*?</svg>", html_of_two, flags=re.DOTALL))
    assert "var(--run-1)" in drawn
    assert not re.search(r"#[0-9a-f]{6}\b|rgb\(", drawn)


def test_headings_go_down_one_level_at_a_time(page_of_two: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page_of_two.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}</code></pre>"


def test_foreign_text_is_inert(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny", name=HOSTILE)
    edit_json(
        run_dir / "run.json", {"recipe": {HOSTILE: HOSTILE}, "machine": HOSTILE, "commit": HOSTILE}
    )
    log = run_dir / "metrics.jsonl"
    log.write_text(log.read_text().replace('"stdlib"', json.dumps(HOSTILE)))
    folder = add_scores(run_dir, HOSTILE.replace("/", "∕"), num_tasks=1, num_samples=1)
    edit_json(
        folder / "scores.json",
        {
            "benchmark": HOSTILE,
            "tasks": {HOSTILE: [1, 1]},
            "verdicts": {HOSTILE: "P"},
            "isolation": HOSTILE,
        },
    )
    write_lines(folder / "samples.jsonl", [{"task_id": HOSTILE, "completion": HOSTILE}])
    write_lines(
        folder / "verdicts.jsonl", [verdict_row(HOSTILE, 0, "exception") | {"detail": HOSTILE}]
    )
    tie_together(folder)
    add_decoding(run_dir)
    edit_json(
        run_dir / "decode-humaneval.json", {"command": HOSTILE, "machine": HOSTILE, "date": HOSTILE}
    )

    html = report([run_dir], prompts={HOSTILE: {HOSTILE: HOSTILE}})
    page = Page(html)
    assert not {tag for tag, _ in page.elements} & {"script", "img"}
    assert "onerror" not in {name for _, attributes in page.elements for name in attributes}
    assert page.text.count(HOSTILE) >= 4  # control: it is shown, as text
    assert "default-src 'none'" in html


def test_characters_that_hide_or_reorder_code_are_spelled_out(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    folder = add_scores(run_dir, "micro", num_tasks=1, num_samples=1, pass_rate=0)
    completion = "a = '\u202e'\x00\ud800\x1b[31m\n"
    write_lines(folder / "samples.jsonl", [{"task_id": "micro/0", "completion": completion}])
    tie_together(folder)
    assert r"a = '\u202e'\x00\ud800\x1b[31m" in Page(report([run_dir])).text


def test_a_long_sample_is_cut_with_a_notice(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    folder = add_scores(run_dir, "micro", num_tasks=1, num_samples=1)
    code = "".join(f"    line_{number} = {number}\n" for number in range(500))
    write_lines(folder / "samples.jsonl", [{"task_id": "micro/0", "completion": code}])
    tie_together(folder)
    text = Page(report([run_dir])).text
    assert "line_10 = 10" in text
    assert "line_400" not in text
    assert "460 more lines" in text


def test_a_prompt_stands_above_its_completion_as_one_program(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    add_scores(run_dir, "micro", num_tasks=1, num_samples=1, pass_rate=1)
    prompt = "def double_positive(values):\n"
    text = Page(report([run_dir], prompts={"micro": {"micro/0": prompt}})).text
    assert prompt + PASSING in text


def test_samples_that_passed_and_samples_that_failed_are_shown(html_of_two: str) -> None:
    assert html_of_two.count('<article class="sample passed">') == 2
    assert html_of_two.count('<article class="sample failed">') == 8  # four a benchmark


def test_a_score_near_zero_is_explained_and_points_to_the_benchmark_that_moves(
    page_of_two: Page,
) -> None:
    note = "humaneval says nothing about this model"
    assert note in page_of_two.text
    assert "micro is the one that moves" in page_of_two.text
    assert "micro says nothing" not in page_of_two.text


def test_a_score_near_zero_of_a_large_model_is_called_unexpected(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "large")
    model = {"num_parameters": 7_000_000_000, "num_trunk_layers": 29, "num_mtp_heads": 4}
    edit_json(run_dir / "run.json", {"model": model | {"vocab_size": 32_000}})
    add_scores(run_dir, "humaneval", pass_rate=0)
    text = Page(report([run_dir])).text
    assert "For 7 B parameters that is unexpected" in text
    assert "to be expected" not in text


def test_weaker_isolation_is_named(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    add_scores(run_dir, "micro", isolation="none")
    assert "judged with isolation “none”, not full" in Page(report([run_dir])).text


def test_stages_not_run_say_what_to_run(tmp_path: Path) -> None:
    text = Page(report([make_run(tmp_path / "tiny")])).text
    for command in ("eval-micro", "eval-humaneval", "eval-mbpp", "bench-decode"):
        assert f"Run make {command}." in text


def test_a_folder_with_scores_alone_is_reported(tmp_path: Path) -> None:
    add_scores(tmp_path / "hub-model", "micro")
    text = Page(report([tmp_path / "hub-model"])).text
    assert "hub-model" in text
    assert "Run make train-code." in text


@pytest.mark.parametrize("name", ["samples.jsonl", "verdicts.jsonl"])
def test_what_a_score_was_not_made_from_is_refused(tmp_path: Path, name: str) -> None:
    run_dir = make_run(tmp_path / "tiny")
    path = add_scores(run_dir, "micro") / name
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(InputError, match=f"{name}: not the file that scores.json was made from"):
        report([run_dir])
    path.unlink()
    assert "micro" in report([run_dir])


def test_samples_not_judged_yet_are_named(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    (add_scores(run_dir, "micro") / "scores.json").unlink()
    assert (
        "micro: samples are drawn but not judged yet. Run make eval-micro."
        in Page(report([run_dir])).text
    )


def test_outputs_that_differ_from_plain_decoding_are_called_out(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    add_decoding(run_dir)
    assert "All 164 outputs are token for token" in Page(report([run_dir])).text  # control
    add_decoding(run_dir, num_identical=162)
    text = Page(report([run_dir])).text
    assert "2 of 164 outputs differ from plain decoding" in text
    assert "All 164 outputs" not in text


def test_a_log_cut_off_by_a_kill_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    whole = report([run_dir])
    with (run_dir / "metrics.jsonl").open("a") as log:
        log.write('{"schema":1,"kind":"train","step":9999,"tok')
    assert report([run_dir]) == whole


def test_steps_logged_again_after_a_resume_count_once(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    whole = report([run_dir])
    log = run_dir / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:60] + lines[40:]))
    assert report([run_dir]) == whole


def test_a_run_not_finished_is_reported_as_far_as_it_went(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    record = json.loads((run_dir / "run.json").read_text()) | {"finished_at": None}
    del record["cpu_s"], record["elapsed_s"]
    write_json(run_dir / "run.json", record)
    assert "for 240 s (4.0 min) of CPU time, not finished yet" in Page(report([run_dir])).text


def test_a_loss_that_is_not_a_number_does_not_break_the_page(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["loss_by_offset"] = [math.nan] * 4
        if row["kind"] == "validation":
            row["bits_per_byte"] = math.nan
    write_lines(run_dir / "metrics.jsonl", rows)
    assert "not finite" in Page(report([run_dir])).text


@pytest.mark.parametrize(
    "name, content, problem",
    [
        ("run.json", "{", "run.json: Invalid JSON"),
        ("run.json", '{"schema": 2}', "run.json: schema: Input should be 1"),
        ("metrics.jsonl", "\n{\n{}\n", "metrics.jsonl:2: Invalid JSON"),
        ("metrics.jsonl", '{"schema":1,"kind":"train"}\n', "metrics.jsonl:1: step: Field required"),
        (
            "decode-humaneval.json",
            '{"schema": 1}',
            "decode-humaneval.json: machine: Field required",
        ),
        ("eval/micro/scores.json", "{}", "scores.json: benchmark: Field required"),
        ("eval/micro/verdicts.jsonl", "{}\n", "verdicts.jsonl:1: task_id: Field required"),
        ("eval/micro/samples.jsonl", '{"task_id": "x"}\n', "samples.jsonl:1: unknown task 'x'"),
    ],
)
def test_a_broken_file_is_named_in_one_line(
    tmp_path: Path, name: str, content: str, problem: str
) -> None:
    run_dir = make_run(tmp_path / "tiny")
    folder = add_scores(run_dir, "micro")
    (run_dir / name).write_text(content)
    if name.endswith(("samples.jsonl", "verdicts.jsonl")):
        tie_together(folder)  # or that would be the complaint
    with pytest.raises(InputError) as refusal:
        report([run_dir])
    assert problem in str(refusal.value)
    assert str(run_dir) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_folder_that_holds_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run folder"):
        write_report([tmp_path / "none"], tmp_path / "index.html")
    with pytest.raises(InputError, match="give a run folder"):
        write_report([tmp_path], tmp_path / "index.html")


def test_a_failed_report_leaves_the_earlier_one(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    earlier = report([run_dir])
    (run_dir / "decode-humaneval.json").write_text("{")
    with pytest.raises(InputError):
        report([run_dir])
    assert (tmp_path / "report" / "index.html").read_text(encoding="utf-8") == earlier


def test_importing_the_report_loads_no_plotting_and_no_templates() -> None:
    names = "('matplotlib', 'jinja2', 'numpy', 'torch')"
    code = f"import sys, evals.report; sys.exit(any(name in sys.modules for name in {names}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_time_outs_are_told_with_their_limits() -> None:
    ten = {"limits": {"cpu_s": 10.0}}
    assert timed_out(scored(["PT", "TP"], **ten)) == "2 timed out (10 s CPU)"
    raised = {"Toy/0": {"cpu_s": 20.0}, "Toy/1": {"cpu_s": 120.0, "wall_s": 1200.0}}
    also = raised | {"Toy/2": {"memory_bytes": 1 << 32}}
    assert timed_out(scored(["PP"], **ten, raised_limits=also)) == (
        "0 timed out (10 s CPU; 2 tasks up to 120 s)"
    )
