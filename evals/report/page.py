"""The page: what stands on it, in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

import jinja2
from markupsafe import Markup

from evals.report.comparison import comparisons
from evals.report.decoding import decoding
from evals.report.inputs import Run
from evals.report.provenance import commands, provenance
from evals.report.results import MAKE_TARGETS, results, side_by_side, tiles, verdicts
from evals.report.samples import samples
from evals.report.training import figures
from evals.report.wording import moment, plural, rounded, seconds
from evals.text import one_line


def render(runs: Sequence[Run], prompts: Mapping[str, Mapping[str, str]]) -> str:
    main = runs[0]
    return _template().render(
        style=Markup(resources.files(__package__).joinpath("style.css").read_text("utf-8")),
        runs=runs,
        main=main,
        about=_about(main),
        made=f"{one_line(main.info.machine, 120)} · {moment(main.info.started_at)}"
        if main.info
        else "",
        tiles=tiles(runs),
        comparisons=comparisons(runs),
        results=results(runs),
        not_measured=_not_measured(main),
        side_by_side=side_by_side(runs),
        figures=figures(runs),
        verdicts=verdicts(runs),
        samples=samples(main, prompts),
        decodings=[decoding(decode, n) for n, decode in enumerate(main.decodes, 1)],
        provenance=provenance(runs),
        commands=commands(runs),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("evals", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


def _about(run: Run) -> str:
    info = run.info
    if info is None:
        return "A model judged here; its training is not in this run folder."
    heads = info.model.num_mtp_heads
    predicts = "the next token" if heads == 1 else f"the next {heads} tokens at once"
    about = (
        f"A code model of {rounded(info.model.num_parameters)} parameters that predicts {predicts} "
        f"({plural(heads, 'MTP head')} on {plural(info.model.num_trunk_layers, 'trunk layer')})"
    )
    if run.train:
        about += f", trained on {rounded(run.train[-1].tokens)} tokens"
        if run.cpu_s is not None:
            about += f" for {seconds(run.cpu_s)} of CPU time"
        if info.finished_at is None:
            about += ", not finished yet"
    return f"{about}."


def _not_measured(run: Run) -> list[tuple[str, str]]:
    """(What is missing, the command that makes it, if make has one) for each stage not run."""
    unjudged = [
        (f"{one_line(name, 40)}: samples are drawn but not judged yet", MAKE_TARGETS.get(name, ""))
        for name in run.unjudged
    ]
    return unjudged + [
        (f"{name} was not measured", target)
        for name, target in MAKE_TARGETS.items()
        if name not in run.results and name not in run.unjudged
    ]
