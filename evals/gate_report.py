"""What the gate found: in words for a terminal, as Markdown and as JUnit XML for CI servers."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from typing import Final
from xml.etree import ElementTree

from evals.gate import ChangedTask, GateResult, MetricResult, Outcome
from evals.noise import POWER
from evals.records import KeptSample
from evals.report.wording import percent, plural, points_between, shortened
from evals.text import NAME_CHARS, one_line, visible

_MOST_TASKS_SHOWN: Final = 20

_HEADLINES: Final[dict[Outcome, str]] = {
    "pass": "no drop beyond the tolerance",
    "regression": "the drop is significant and beyond the tolerance",
    "inconclusive": "too few samples to tell a drop from noise",
    "incomparable": "the baseline cannot be compared with",
    "unhealthy": "the judge cannot be trusted",
}


def in_words(result: GateResult) -> str:
    """Lines for a terminal."""
    lines = [
        f"{one_line(result.benchmark, 80)} {result.outcome}: {_HEADLINES[result.outcome]} "
        f"(exit status {result.exit_status})"
    ]
    lines += [f"  {one_line(problem, 1000)}" for problem in result.problems]
    for metric in result.metrics:
        tasks = metric.over_tasks
        over_tasks = f"{100 * tasks.low:+.1f} to {100 * tasks.high:+.1f}".replace("-", "−")
        lines.append(
            f"  {_in_words(metric)} | over tasks {over_tasks} | p {metric.p_holm:.3g} "
            f"({metric.test})"
        )
        if sentence := _what_it_takes(metric):
            lines.append(f"    {sentence.replace('**', '')}")
    if result.metrics:
        counted = plural(result.num_tasks, "task"), plural(result.num_samples, "sample")
        lines.append(f"  {', '.join(counted)}")
    for tasks_changed, how in _changed(result):
        lines.append(f"  newly {how}: {_listed(tasks_changed).replace('`', '')}")
    lines += [f"  {one_line(note, 1000)}" for note in result.notes]
    return "\n".join(lines)


def markdown(result: GateResult, with_samples: bool = False) -> str:
    """A page for a job's summary; `with_samples` shows what changed tasks were and are."""
    return "\n".join(_lines(result, with_samples)) + "\n"


def junit(result: GateResult) -> bytes:
    """JUnit XML: a case for the comparison, one for the judge, and one for each metric.

    A regression is a failure; what keeps the gate from judging the model is an error.
    """
    suite = ElementTree.Element("testsuite", name=_line(f"mtp-code gate {result.benchmark}"))
    _case(suite, "score and baseline are comparable", result.outcome == "incomparable", result)
    if result.outcome != "incomparable":
        _case(suite, "the judge is healthy", result.outcome == "unhealthy", result)
    for metric in result.metrics:
        case = ElementTree.SubElement(
            suite, "testcase", classname="gate", name=_xml(f"{metric.metric} has not dropped")
        )
        if metric.outcome != "pass":
            kind = "failure" if metric.outcome == "regression" else "error"
            said = ElementTree.SubElement(
                case, kind, type=metric.outcome, message=_xml(_in_words(metric))
            )
            said.text = _xml("\n".join(_table([metric])))
    ElementTree.SubElement(suite, "system-out").text = _xml(markdown(result))
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _case(suite: ElementTree.Element, name: str, is_error: bool, result: GateResult) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname="gate", name=name)
    if is_error:
        ElementTree.SubElement(
            case,
            "error",
            type=result.outcome,
            message=_line("; ".join(result.problems), 1000),
        )


def _lines(result: GateResult, with_samples: bool) -> Iterator[str]:
    yield (
        f"{_code(result.benchmark)} **{result.outcome}**: {_HEADLINES[result.outcome]} "
        f"(exit status {result.exit_status})"
    )
    for problem in result.problems:
        yield from ("", f"- {_escaped(problem)}")
    if result.metrics:
        yield ""
        yield from _table(result.metrics)
        yield ""
        yield (
            f"{plural(result.num_tasks, 'task')}, {plural(result.num_samples, 'sample')}. "
            "The interval over samples decides: did this model change? The one over tasks: is it "
            "worse in general?"
        )
    for metric in result.metrics:
        if sentence := _what_it_takes(metric):
            yield from ("", sentence)
    for warning in result.warnings:
        yield from ("", f"**Suspicious:** {_escaped(warning)}.")
    for tasks, how in _changed(result):
        yield from ("", f"Newly {how}: {_listed(tasks)}")
        if with_samples:
            yield from _with_samples(tasks)
    if result.notes:
        yield ""
        yield from (f"- {_escaped(note)}" for note in result.notes)


def _changed(result: GateResult) -> Iterator[tuple[Sequence[ChangedTask], str]]:
    for tasks, how in ((result.newly_failing, "failing"), (result.newly_passing, "passing")):
        if tasks:
            yield tasks, how


def _table(metrics: Sequence[MetricResult]) -> Iterator[str]:
    yield (
        "| metric | baseline | now | difference, 95 % interval over samples | over tasks "
        "| p | tolerance | |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---|"
    for metric in metrics:
        samples, tasks = metric.over_samples, metric.over_tasks
        yield (
            f"| {metric.metric} | {percent(metric.before)} | {percent(metric.after)} "
            f"| {points_between(metric.difference, samples.low, samples.high)} "
            f"| {100 * tasks.low:+.1f} to {100 * tasks.high:+.1f} "
            f"| {metric.p_holm:.3g} ({metric.test}) | {100 * metric.tolerance:g} points "
            f"| {metric.outcome} |".replace("-", "−")
        )


def _in_words(metric: MetricResult) -> str:
    difference = points_between(
        metric.difference, metric.over_samples.low, metric.over_samples.high
    )
    return (
        f"{metric.metric} {metric.outcome}: {percent(metric.before)} before, "
        f"{percent(metric.after)} now, {difference}, tolerance {100 * metric.tolerance:g} points"
    )


def _what_it_takes(metric: MetricResult) -> str:
    sentences = []
    if metric.detectable_drop is not None:
        sentences.append(
            f"A drop of {100 * metric.detectable_drop:.1f} points in {metric.metric} would be "
            f"called a regression {100 * POWER:.0f} % of the time."
        )
    if metric.outcome == "inconclusive":
        sentences.append(
            f"**{plural(metric.settled_by, 'sample')} a task**, for the baseline too, would "
            f"settle {metric.metric} {100 * POWER:.0f} % of the time if the difference is what it "
            "seems."
            if metric.settled_by
            else f"No number of samples is sure to settle {metric.metric}: it takes more tasks, "
            "or another tolerance."
        )
    return " ".join(sentences)


def _listed(tasks: Sequence[ChangedTask]) -> str:
    more = len(tasks) - _MOST_TASKS_SHOWN
    shown = ", ".join(
        f"{_code(task.task_id)} ({task.passed_before} → {task.passed_now} of {task.num_samples})"
        for task in tasks[:_MOST_TASKS_SHOWN]
    )
    return shown + (f" and {more} more" if more > 0 else "")


def _with_samples(tasks: Sequence[ChangedTask]) -> Iterator[str]:
    for task in tasks[:_MOST_TASKS_SHOWN]:
        if not (task.before and task.now):
            continue
        title = html.escape(one_line(task.task_id, 80))
        yield from ("", f"<details><summary><code>{title}</code></summary>", "")
        yield from _shown("baseline", task.before)
        yield from _shown("now", task.now)
        yield "</details>"


def _shown(side: str, sample: KeptSample) -> Iterator[str]:
    code, left_out = shortened(sample.text)
    longest = max(map(len, re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    yield f"{side}, sample {sample.index}: {sample.verdict}"
    yield from ("", f"{fence}python", code, fence)
    if left_out:
        yield left_out
    yield ""


def _code(text: str) -> str:
    return f"`{one_line(text, 80).replace('`', '′').replace('|', '¦')}`"


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", one_line(text, 1000))


def _line(text: str, max_chars: int = NAME_CHARS) -> str:
    return _xml(one_line(text, max_chars))


def _xml(text: str) -> str:
    # What no XML may hold, not even as a reference, and visible() leaves.
    return re.sub("[\ufffe\uffff]", "�", visible(text))
