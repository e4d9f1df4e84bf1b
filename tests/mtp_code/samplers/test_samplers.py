"""Samplers that load models: the same answers from a run and from its export."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from evals.sampling import Request as Asked
from mtp_code.errors import InputError
from mtp_code.interop.export import export
from mtp_code.run_folder import load_run
from mtp_code.samplers.base import Drawing, Sampler, cut_at_stops
from mtp_code.samplers.hf import TransformersSampler
from mtp_code.samplers.hub import describe
from mtp_code.samplers.ours import OurSampler
from mtp_code.tokenizer import BytesTokenizer
from tests.mtp_code.interop.runs import small_bpe, write_run

PROMPTS = ("def double(x):\n", "a", "x <|endoftext|> y = 2\n    return x", "hello  world\n")


@dataclass(frozen=True)
class Both:
    ours: OurSampler
    foreign: TransformersSampler


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("run")
    tokenizer = BytesTokenizer() if request.param == "bytes" else small_bpe()
    write_run(folder / "run", tokenizer, context=64)
    export(folder / "run", folder / "out")
    return Both(
        OurSampler(load_run(folder / "run"), batch_rows=3),
        TransformersSampler(str(folder / "out" / "main"), batch_rows=3),
    )


def answers(
    sampler: Sampler, drawing: Drawing, stops: tuple[str, ...] = (), seed: int = 0
) -> list[str]:
    asked = [Asked(str(n), 0, prompt, stops, seed + n) for n, prompt in enumerate(PROMPTS)]
    found = {one.task_id: text for one, text in sampler.draw(asked, drawing)}
    return [found[one.task_id] for one in asked]


@pytest.mark.parametrize("drawing", [Drawing(24), Drawing(24, temperature=0.7, top_p=0.9)])
def test_transformers_answers_as_our_engine_does(both, drawing):
    ours = answers(both.ours, drawing)
    assert len(set(ours)) > 1
    assert answers(both.foreign, drawing) == ours


def test_other_seeds_draw_other_answers(both):
    drawing = Drawing(24, temperature=1.0)
    for sampler in (both.ours, both.foreign):
        first = answers(sampler, drawing)
        assert answers(sampler, drawing) == first
        assert answers(sampler, drawing, seed=100) != first


def test_an_answer_ends_before_its_first_stop(both):
    whole = answers(both.ours, Drawing(24))
    stops = (whole[0][4:6], whole[1][7:9])
    expected = [cut_at_stops(text, stops) for text in whole]
    assert expected[0] == whole[0][: whole[0].index(stops[0])]
    for sampler in (both.ours, both.foreign):
        assert answers(sampler, Drawing(24), stops) == expected


def test_an_answer_ends_where_the_context_does(both, caplog):
    long, short = Asked("long", 0, "x = 1\n" * 99, (), 1), Asked("short", 0, "y" * 40, (), 2)
    expected: list[str] = []
    for sampler in (both.ours, both.foreign):
        found = {one.task_id: text for one, text in sampler.draw([long, short], Drawing(999))}
        assert found["long"] == ""
        assert found["short"]
        expected.append(found["short"])
        assert "long: prompt of" in caplog.text
        caplog.clear()
    assert expected[0] == expected[1]


def test_what_tells_an_export_from_others_is_its_content(both, tmp_path):
    assert both.foreign.model.keys() == {"model", "sha256", "device", "dtype"}
    assert both.foreign.model["dtype"] == "float32"


@pytest.mark.parametrize(
    "name", ["config.json", "chat_template.jinja", "merges.txt", "tokenizer.model"]
)
def test_whatever_answers_depend_on_is_in_the_content_s_hash(tmp_path, name):
    before = describe(str(tmp_path), None, None)
    (tmp_path / "notes.md").touch()
    assert describe(str(tmp_path), None, None) == before  # control
    (tmp_path / name).write_text("{}")
    assert describe(str(tmp_path), None, None) != before


def test_a_model_that_is_not_there_is_named(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no tokenizer to load"):
        TransformersSampler(str(tmp_path / "empty"))


def test_each_sampler_says_in_which_dtype_its_weights_are(both):
    assert both.ours.model["dtype"] == both.foreign.model["dtype"] == "float32"
    assert both.ours.model["device"] == both.foreign.model["device"] == "cpu"
