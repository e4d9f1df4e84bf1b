from xml.etree import ElementTree

import pytest

from evals.gate import gate, refused
from evals.gate_report import in_words, junit, markdown
from evals.metrics import PARSED, PASS_AT_1
from evals.records import KeptSample, References
from tests.evals.scored import UNRECORDED, baseline, sampling, score

SAMPLES = {"Toy/0": KeptSample(index=1, verdict="passed", text="return 1")}
HOSTILE = "</code></details>```````\x1b[31m\u202e<script>alert(1)</script>]]>\ufffe|\n# heading"


def dropped(text: str = "return 2", **changes: object):
    before = baseline(["PP"] * 20 + ["WW"], samples=SAMPLES)
    now = {"Toy/0": KeptSample(index=0, verdict="wrong answer", text=text)}
    return gate(before, score(["WW"] * 20 + ["PW"], **changes), samples=lambda: now)


def cases(document: bytes) -> dict[str, list[str]]:
    """By case the kinds of what went wrong with it."""
    root = ElementTree.fromstring(document)
    return {case.attrib["name"]: [child.tag for child in case] for case in root.iter("testcase")}


def test_the_page_says_what_was_found_and_by_how_much() -> None:
    page = markdown(dropped(versions={"python": "3.12"}))
    assert page.startswith(
        "`toy` **regression**: the drop is significant and beyond the tolerance (exit status 1)\n"
    )
    assert "| pass@1 | 95.2 % | 2.4 % | −92.9 points (" in page
    assert "Newly failing: `Toy/0` (2 → 0 of 2), `Toy/1`" in page
    assert "Newly passing: `Toy/20` (0 → 1 of 2)" in page
    assert "- python when judging: 3.11 for the baseline, 3.12 now" in page
    assert "would be called a regression 80 % of the time" in page
    assert "return 1" not in page


def test_the_summary_shows_both_samples_of_a_task_that_changed() -> None:
    page = markdown(dropped(), with_samples=True)
    assert "baseline, sample 1: passed\n\n```python\nreturn 1\n```" in page
    assert "now, sample 0: wrong answer\n\n```python\nreturn 2\n```" in page
    assert page.count("<details>") == 1  # the only task of which there are both


def test_long_lists_end() -> None:
    result = gate(baseline(["PP"] * 50), score(["WW"] * 50))
    assert "and 30 more" in markdown(result)


def test_a_hostile_sample_stays_in_its_block() -> None:
    page = markdown(dropped(HOSTILE), with_samples=True)
    block = page.split("now, sample 0")[1]
    assert "\n\n````````python\n</code>" in block  # a fence longer than any in it
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_a_hostile_task_id_is_spelled_harmlessly() -> None:
    result = dropped()
    task = result.newly_failing[0].model_copy(update={"task_id": HOSTILE})
    page = markdown(result.model_copy(update={"newly_failing": (task,)}), with_samples=True)
    assert "<summary><code>&lt;/code&gt;&lt;/details&gt;" in page
    assert "\n# heading" not in page
    assert "<script>" not in page.split("Newly failing")[1].split("`")[0]


def test_an_inconclusive_result_says_what_would_settle_it() -> None:
    result = gate(baseline(["PW"] * 30), score(["WP"] * 30), {PASS_AT_1: 0.1})
    assert result.outcome == "inconclusive"
    assert f"**{result.metrics[0].settled_by} samples a task**, for the baseline too" in markdown(
        result
    )
    greedy = {"sampling": sampling(temperature=0.0)}
    copies = gate(baseline(["PP", "WW"], **greedy), score(["WW", "WW"], **greedy))
    assert "No number of samples is sure to settle pass@1" in markdown(copies)


def test_every_form_says_that_nothing_tells_how_samples_were_drawn() -> None:
    said = "nothing says how these samples were drawn"
    for changes, is_said in ((UNRECORDED, True), ({}, False)):
        result = gate(baseline(["PW"], **changes), score(["PW"], **changes))
        forms = (in_words(result), markdown(result), junit(result).decode(), str(result.as_json()))
        assert [said in form for form in forms] == [is_said] * 4


def test_a_rise_is_called_suspicious() -> None:
    page = markdown(gate(baseline(["WW"] * 20), score(["PP"] * 20)))
    assert "**Suspicious:** pass@1 rose by 100.0 points" in page


def test_a_terminal_is_told_in_plain_lines() -> None:
    first, metric, *others = in_words(dropped()).splitlines()
    assert first == (
        "toy regression: the drop is significant and beyond the tolerance (exit status 1)"
    )
    assert metric.startswith("  pass@1 regression: 95.2 % before, 2.4 % now, −92.9 points (")
    assert any(line.startswith("  newly failing: Toy/0 (") for line in others)
    unclear = in_words(gate(baseline(["PW"] * 30), score(["WP"] * 30), {PASS_AT_1: 0.1}))
    assert "samples a task, for the baseline too" in unclear
    refusal = in_words(refused(score(["P"]), "data_sha256 differs: 'a' before, 'b' now"))
    assert refusal.splitlines()[1] == "  data_sha256 differs: 'a' before, 'b' now"
    assert not {*"*`\\"} & {*in_words(dropped()), *unclear, *refusal}


def test_a_hostile_task_id_stays_on_its_line() -> None:
    result = dropped()
    task = result.newly_failing[0].model_copy(update={"task_id": HOSTILE + "\x1b[31m"})
    lines = in_words(result.model_copy(update={"newly_failing": (task,)})).splitlines()
    assert len(lines) == len(in_words(result).splitlines())
    assert "\x1b" not in "".join(lines)


def test_a_regression_is_a_failed_case() -> None:
    document = junit(dropped())
    assert cases(document) == {
        "score and baseline are comparable": [],
        "the judge is healthy": [],
        "pass@1 has not dropped": ["failure"],
    }
    (suite,) = ElementTree.fromstring(document)
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "0")
    (failure,) = suite.iter("failure")
    assert "pass@1 regression: 95.2 % before, 2.4 % now" in failure.attrib["message"]


def test_what_keeps_the_gate_from_judging_is_an_error() -> None:
    before, after = baseline(["PW"] * 50), score(["WP"] * 50)
    unclear = gate(before, after, {PASS_AT_1: 0.02, PARSED: 0.02})
    assert cases(junit(unclear))["pass@1 has not dropped"] == ["error"]
    assert cases(junit(unclear))["parsed has not dropped"] == []
    sick = References(num_judged=3, failed={"Toy/1": "crashed"})
    unhealthy = gate(baseline(["P"] * 9), score(["P"] * 9, references=sick))
    assert cases(junit(unhealthy))["the judge is healthy"] == ["error"]
    refusal = refused(score(["P"]), "data_sha256 differs: 'a' before, 'b' now")
    assert cases(junit(refusal)) == {"score and baseline are comparable": ["error"]}
    assert "data\\_sha256 differs" in markdown(refusal)


@pytest.mark.parametrize("text", [HOSTILE, "\ud800", "\x00\x01", "é\u2028"])
def test_every_text_makes_xml_that_can_be_read(text: str) -> None:
    result = refused(score(["P"]), text)
    assert ElementTree.fromstring(junit(result)) is not None
    assert markdown(result).encode("utf-8")


def test_what_is_too_long_to_be_read_is_cut_in_every_form() -> None:
    changed = score(["P"]).model_copy(update={"benchmark": "b" * 100_000})
    result = refused(changed, f"{'x' * 100_000}: \x1b[31m")
    for form in (in_words(result), markdown(result), junit(result).decode()):
        assert len(form) < 5000
        assert "x…" in form
        assert "b…" in form
