from typing import Any

import numpy as np
import pytest

from evals.compare import change_between
from evals.errors import IncomparableError, InputError
from evals.gate import EXIT_STATUS, GateResult, finding, gate, refused
from evals.metrics import PARSED, PASS_AT_1, metric_named
from evals.records import KeptSample, References
from evals.resampling import holm
from tests.evals.scored import UNRECORDED, baseline, letters_drawn, letters_of, sampling, score

LETTERS = ["PWWW", "PPPP", "WWWW"]
NUM_TASKS, NUM_SAMPLES = 150, 8
NUM_REPEATS = 150


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def chances(rng: np.random.Generator) -> np.ndarray:
    return rng.beta(0.5, 0.5, size=NUM_TASKS)


def outcomes_drawn(chances: np.ndarray, num_samples: Any, rng: np.random.Generator) -> Any:
    numbers = np.broadcast_to(num_samples, chances.shape).tolist()
    return [
        (rng.random(number) < chance).astype(float)
        for number, chance in zip(numbers, chances.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    "num_samples",
    [1, NUM_SAMPLES, np.where(np.arange(NUM_TASKS) % 2, 1, 12)],
    ids=["one", "several", "differing by task"],
)
@pytest.mark.parametrize(
    "skew",
    [
        pytest.param((0.5, 0.5), id="even"),
        pytest.param((0.2, 2.0), id="hard", marks=pytest.mark.thorough),
    ],
)
def test_the_same_model_twice_raises_few_false_alarms(
    num_samples: Any, skew: tuple[float, float], rng: np.random.Generator
) -> None:
    chances = rng.beta(*skew, size=NUM_TASKS)
    alarms = []
    for _ in range(200):
        before, after = (outcomes_drawn(chances, num_samples, rng) for _ in range(2))
        change = change_between(before, after, 1, num_resamples=100)
        alarms.append(finding(change, change.p_drop, 0.0) == "regression")
    # 5 % at most; within what 200 repeats can tell from that.
    assert np.mean(alarms) <= 0.05 + 2 * (0.05 * 0.95 / 200) ** 0.5


def test_several_metrics_together_raise_no_more_of_them(rng: np.random.Generator) -> None:
    # Metrics that have nothing to do with each other, where each adds its own false alarms.
    chances = rng.beta(0.5, 0.5, size=40)
    together, each_alone = [], []
    for _ in range(NUM_REPEATS):
        changes = []
        for _ in range(4):
            before, after = (outcomes_drawn(chances, 4, rng) for _ in range(2))
            changes.append(change_between(before, after, 1, num_resamples=100))
        p_values = [change.p_drop for change in changes]
        for alarms, held_to in ((together, holm(p_values)), (each_alone, p_values)):
            found = [finding(*pair, 0.0) for pair in zip(changes, held_to, strict=True)]
            alarms.append("regression" in found)
    bound = 0.05 + 2 * (0.05 * 0.95 / NUM_REPEATS) ** 0.5
    assert np.mean(together) <= bound
    assert np.mean(each_alone) > bound  # the control: without Holm it shows


def test_a_planted_drop_is_caught(chances: np.ndarray, rng: np.random.Generator) -> None:
    found = [
        gate(
            baseline(letters_drawn(chances, NUM_SAMPLES, rng)),
            score(letters_drawn(chances * 0.85, NUM_SAMPLES, rng)),
        ).outcome
        for _ in range(12)
    ]
    assert found.count("regression") >= 10


def test_a_drop_within_the_tolerance_is_no_regression() -> None:
    before = baseline(letters_of([(4, 4)] * 100))
    after = score(letters_of([(4, 4)] * 90 + [(4, 3)] * 10))
    assert gate(before, after, {PASS_AT_1: 0.01}).outcome == "regression"
    assert gate(before, after, {PASS_AT_1: 0.05}).outcome == "pass"


def test_the_same_samples_pass_at_any_tolerance() -> None:
    result = gate(baseline(LETTERS), score(LETTERS), {PASS_AT_1: 0.0})
    assert (result.outcome, result.exit_status) == ("pass", 0)


def test_the_worst_metric_decides() -> None:
    before, after = baseline(["PWWW"] * 100), score(["PSSS"] * 100)
    result = gate(before, after, {PASS_AT_1: 0.02, PARSED: 0.02})
    assert [metric.outcome for metric in result.metrics] == ["pass", "regression"]
    assert result.outcome == "regression"
    assert [metric.p_holm for metric in result.metrics] == [
        pytest.approx(1.0),
        pytest.approx(2 * result.metrics[1].p_drop),
    ]


def test_too_few_samples_are_inconclusive_and_say_how_many_would_do(
    chances: np.ndarray, rng: np.random.Generator
) -> None:
    before, after = (letters_drawn(chances, 2, rng) for _ in range(2))
    result = gate(baseline(before), score(after), {PASS_AT_1: 0.05})
    assert (result.outcome, result.exit_status) == ("inconclusive", 4)
    (metric,) = result.metrics
    assert metric.settled_by is not None
    assert metric.settled_by > 2
    # And so many do.
    settled = 0
    for _ in range(8):
        many = (
            letters_drawn(now, metric.settled_by, rng)
            for now in (chances, chances * (1 + metric.difference / chances.mean()))
        )
        was, now = many
        settled += gate(baseline(was), score(now), {PASS_AT_1: 0.05}).outcome != "inconclusive"
    assert settled >= 5


def test_no_number_of_copies_settles_anything() -> None:
    greedy = {"sampling": sampling(temperature=0.0)}
    before = baseline(["PP"] * 5 + ["WW"] * 5, **greedy)
    after = score(["PP"] * 4 + ["WW"] * 6, **greedy)
    result = gate(before, after)
    assert result.outcome == "inconclusive"
    assert result.metrics[0].settled_by is None
    assert result.metrics[0].test == "exact McNemar"


def test_incomparable_scores_are_refused() -> None:
    with pytest.raises(IncomparableError, match="isolation differs"):
        gate(baseline(LETTERS), score(LETTERS, isolation="none"))
    result = refused(score(LETTERS), "isolation differs")
    assert (result.outcome, result.exit_status) == ("incomparable", 3)
    assert result.problems == ("isolation differs",)


def test_samples_of_which_nobody_recorded_how_they_were_drawn_are_noted_or_refused() -> None:
    before, after = baseline(LETTERS, **UNRECORDED), score(LETTERS, **UNRECORDED)
    result = gate(before, after)
    assert result.outcome == "pass"
    assert result.notes[0].startswith(
        "nothing says how these samples were drawn, nor the baseline's (sampling, prompt_format, "
        "prompts_sha256, post_processing, seed_rule): "
    )
    with pytest.raises(
        IncomparableError,
        match=r"not recorded for the baseline \(sampling, .*, seed_rule\); put a sampling.json",
    ):
        gate(before, after, requires_sampling=True)
    # The field that differs is not what the user is to mend.
    with pytest.raises(IncomparableError, match=r"not recorded now \(sampling, "):
        gate(baseline(LETTERS), after, requires_sampling=True)


def test_what_is_recorded_in_part_is_named() -> None:
    part = {"prompts_sha256": None}
    before, after = baseline(LETTERS, **part), score(LETTERS, **part)
    (note, *_) = gate(before, after).notes
    assert note.startswith("not all is recorded of how these samples were drawn")
    assert "(prompts_sha256)" in note
    with pytest.raises(IncomparableError, match=r"\(prompts_sha256\)"):
        gate(before, after, requires_sampling=True)
    whole = gate(baseline(LETTERS), score(LETTERS), requires_sampling=True)
    assert not any("recorded" in note for note in whole.notes)


def test_metrics_beyond_the_samples_are_bad_input() -> None:
    with pytest.raises(InputError, match="pass@5: needs 5 samples a task"):
        gate(baseline(LETTERS), score(LETTERS), {metric_named("pass@5"): 0.02})


def test_a_negative_tolerance_is_a_wrong_call() -> None:
    with pytest.raises(ValueError, match="tolerances must be 0 or more"):
        gate(baseline(LETTERS), score(LETTERS), {PASS_AT_1: -0.1})


def test_reference_solutions_that_fail_make_the_judge_unhealthy() -> None:
    well = References(num_judged=3, failed={})
    sick = References(num_judged=3, failed={"Toy/1": "timed out"})
    assert gate(baseline(LETTERS), score(LETTERS, references=well)).outcome == "pass"
    result = gate(baseline(LETTERS), score(LETTERS, references=sick))
    assert (result.outcome, result.exit_status) == ("unhealthy", 5)
    assert "1 of 3 reference solutions do not pass (Toy/1 first: timed out)" in result.problems[0]


def test_verdicts_that_are_the_programs_own_word_are_noted() -> None:
    well = References(num_judged=len(LETTERS), failed={})
    (note,) = gate(baseline(LETTERS), score(LETTERS, references=well, weak=2)).notes
    assert note.startswith(f"2 of {sum(map(len, LETTERS))} verdicts are weak")


def test_a_judge_of_unknown_health_is_noted() -> None:
    assert "nothing vouches" in gate(baseline(LETTERS), score(LETTERS)).notes[0]
    well = References(num_judged=3, failed={})
    assert gate(baseline(LETTERS), score(LETTERS, references=well)).notes == ()


def test_many_more_time_outs_than_before_make_the_judge_unhealthy() -> None:
    usual = ["PPWT"] * 20
    assert gate(baseline(usual), score(usual)).outcome == "pass"
    # Even where the drop alone would be a regression.
    many = ["PTTT"] * 20
    result = gate(baseline(usual), score(many))
    assert (result.outcome, result.exit_status) == ("unhealthy", 5)
    assert "75.0 % of the samples timed out, 25.0 % for the baseline" in result.problems[0]
    assert gate(baseline(usual), score(many), max_timed_out=0.5).outcome == "regression"


def test_the_same_samples_with_other_verdicts_make_the_judge_unhealthy() -> None:
    before = baseline(LETTERS, samples_sha256="same")
    result = gate(before, score(["PWWW", "PPPP", "PWWW"], samples_sha256="same"))
    assert result.outcome == "unhealthy"
    assert "the baseline's own samples, yet 1 tasks have other verdicts" in result.problems[0]


def test_no_difference_of_few_samples_proves_nothing() -> None:
    few, many = ["P", "W"] * 5, ["PW"] * 100
    assert gate(baseline(few), score(few, samples_sha256="other")).outcome == "inconclusive"
    assert gate(baseline(many), score(many, samples_sha256="other")).outcome == "pass"


def test_a_suspicious_rise_is_warned_of() -> None:
    result = gate(baseline(["WW"] * 20), score(["PP"] * 20))
    assert result.outcome == "pass"
    assert "pass@1 rose by 100.0 points, beyond the tolerance" in result.warnings[0]
    assert gate(baseline(["PW"] * 20), score(["PW"] * 20)).warnings == ()


def kept(text: str) -> KeptSample:
    return KeptSample(index=0, verdict="passed", text=text)


def test_tasks_that_changed_are_listed_with_both_samples() -> None:
    before = baseline(
        ["PPPP", "PWWW", "WWWW", "PPWW"], samples={"Toy/0": kept("was"), "Toy/2": kept("old")}
    )
    after = score(["WWWW", "WWWW", "PPWW", "PWWW"])
    result = gate(before, after, samples=lambda: {"Toy/0": kept("is")})
    failing, less = result.newly_failing
    assert (failing.task_id, failing.passed_before, failing.passed_now) == ("Toy/0", 4, 0)
    assert (failing.before, failing.now) == (kept("was"), kept("is"))
    assert (less.task_id, less.before, less.now) == ("Toy/1", None, None)
    assert [task.task_id for task in result.newly_passing] == ["Toy/2"]


def test_what_else_changed_is_noted() -> None:
    bits = {f"Toy/{at}": (8.0, 4) for at in range(3)}
    more_bits = {f"Toy/{at}": (10.0, 4) for at in range(3)}
    result = gate(
        baseline(LETTERS, reference_bits=bits),
        score(LETTERS, reference_bits=more_bits, versions={"python": "3.12"}),
    )
    assert "python when judging: 3.11 for the baseline, 3.12 now" in result.notes
    assert (
        "bits per byte of the reference solutions: 2.000 for the baseline, 2.500 now "
        "(lower is better)"
    ) in result.notes


def test_another_engine_under_the_same_model_is_noted() -> None:
    ours = sampling(model={"name": "m", "sampler": "mtp", "dtype": "float32"}, versions={"a": "1"})
    theirs = sampling(
        model={"name": "m", "sampler": "vllm", "dtype": "bfloat16"},
        versions={"a": "2", "vllm": "3"},
    )
    notes = gate(baseline(LETTERS, sampling=ours), score(LETTERS, sampling=theirs)).notes
    assert [note for note in notes if " when sampling: " in note] == [
        "sampler when sampling: mtp for the baseline, vllm now",
        "dtype when sampling: float32 for the baseline, bfloat16 now",
        "a when sampling: 1 for the baseline, 2 now",
        "vllm when sampling: not recorded for the baseline, 3 now",
    ]
    same = gate(baseline(LETTERS, sampling=ours), score(LETTERS, sampling=ours)).notes
    assert not any(" when " in note for note in same)
    # Another model is what the gate is for.
    other = sampling(model={**ours.model, "name": "n"}, versions={"a": "1"})
    same = gate(baseline(LETTERS, sampling=ours), score(LETTERS, sampling=other)).notes
    assert not any(" when " in note for note in same)


def test_every_outcome_has_its_exit_status() -> None:
    assert EXIT_STATUS == {
        "pass": 0,
        "regression": 1,
        "incomparable": 3,
        "inconclusive": 4,
        "unhealthy": 5,
    }


def test_a_result_written_is_the_result_read() -> None:
    result = gate(baseline(LETTERS), score(["WWWW"] * 3))
    assert GateResult.model_validate(result.as_json()) == result
