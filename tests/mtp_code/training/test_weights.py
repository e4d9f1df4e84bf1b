from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from mtp_code.training.weights import (
    CurriculumConfig,
    WeightsConfig,
    num_active_heads,
    weights_at,
)


def weights(step: int, curriculum: CurriculumConfig | None = None, **config: Any) -> list[float]:
    return list(weights_at(step, 100, 3, WeightsConfig.model_validate(config), curriculum))


def test_every_offset_counts_alike_unless_told_otherwise():
    assert weights(0) == weights(57) == weights(99) == [1, 1, 1]


def test_a_number_is_the_weight_of_each_offset_but_the_first():
    assert weights(0, initial=0.1) == weights(99, initial=0.1) == [1, 0.1, 0.1]
    assert weights(99, initial=[2, 1, 0.5], final=0) == pytest.approx([1, 0, 0])


def test_constant_weights_stay():
    assert weights(0, initial=[1, 0.5, 0.25]) == weights(99, initial=[1, 0.5, 0.25])


@pytest.mark.parametrize("anneal", ["linear", "cosine"])
def test_annealed_weights_go_from_the_initial_to_the_final_ones(anneal):
    line = [weights(i, initial=[1, 1, 1], final=[1, 0.4, 0], anneal=anneal) for i in range(100)]
    assert line[0] == [1, 1, 1]
    assert line[99] == pytest.approx([1, 0.4, 0])
    assert [w[1] for w in line] == sorted((w[1] for w in line), reverse=True)
    assert line[49][1] == pytest.approx(0.7, abs=0.02)


def test_annealing_can_end_before_the_run_does():
    config = {"final": [1, 0, 0], "share": 0.5}
    assert weights(49, **config) == weights(80, **config) == [1, 0, 0]
    assert weights(40, **config)[1] > 0


def test_a_step_is_taken_at_once():
    config = {"initial": [1, 0.3, 0.3], "final": [1, 0.1, 0.1], "anneal": "step", "share": 0.6}
    assert weights(59, **config) == [1, 0.3, 0.3]
    assert weights(60, **config) == pytest.approx([1, 0.1, 0.1])


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_a_curriculums_stages_are_of_equal_length_and_in_order(order):
    curriculum = CurriculumConfig(order=order)
    numbers = [num_active_heads(step, 100, 4, curriculum) for step in range(100)]
    assert Counter(numbers) == {1: 25, 2: 25, 3: 25, 4: 25}
    assert numbers == sorted(numbers, reverse=order == "reverse")


def test_behind_its_share_of_the_steps_a_curriculum_stays_where_it_ended():
    curriculum = CurriculumConfig(order="forward", share=0.4)
    numbers = [num_active_heads(step, 100, 4, curriculum) for step in range(100)]
    assert Counter(numbers) == {1: 10, 2: 10, 3: 10, 4: 70}


def test_a_curriculum_leaves_offsets_out_of_the_weights():
    curriculum = CurriculumConfig(order="forward")
    config = {"initial": [1, 0.5, 0.25]}
    assert weights(0, curriculum, **config) == [1, 0, 0]
    assert weights(50, curriculum, **config) == [1, 0.5, 0]
    assert weights(99, curriculum, **config) == [1, 0.5, 0.25]


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"initial": [0, 1]}, "initial: offset 1 needs a weight above 0"),
        ({"final": []}, "final: offset 1 needs a weight above 0"),
        ({"initial": [1, -1]}, "greater than or equal to 0"),
        ({"initial": -0.1}, "greater than or equal to 0"),
        ({"anneal": "slowly"}, "linear"),
        ({"share": 0}, "greater than 0"),
        ({"anneal": "cosine"}, "give final as well"),
        ({"share": 0.5, "initial": [1, 2]}, "give final as well"),
        ({"anneal": "step", "final": [1, 2]}, "set a share below 1"),
    ],
)
def test_weights_that_train_nothing_are_refused(config, complaint):
    with pytest.raises(ValidationError, match=complaint):
        WeightsConfig.model_validate(config)
