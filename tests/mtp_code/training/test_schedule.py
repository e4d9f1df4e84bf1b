import pytest
from pydantic import ValidationError

from mtp_code.training.schedule import ScheduleConfig, learning_rate_share


def shares(**settings: object) -> list[float]:
    schedule = ScheduleConfig(num_steps=100, warmup_steps=10, **settings)
    return [learning_rate_share(step, schedule) for step in range(100)]


@pytest.mark.parametrize("decay", ["cosine", "linear", "wsd"])
def test_it_rises_to_the_peak_and_falls_to_the_final_share(decay):
    values = shares(decay=decay, final_share=0.1)
    assert values[0] == pytest.approx(0.1)
    assert values[9] == max(values) == 1
    assert values[:10] == sorted(values[:10])
    assert values[9:] == sorted(values[9:], reverse=True)
    assert values[-1] == pytest.approx(0.1)


def test_cosine_is_half_way_down_in_the_middle():
    assert shares(decay="cosine", final_share=0)[54] == pytest.approx(0.5, abs=0.02)


def test_wsd_is_constant_until_its_decay():
    values = shares(decay="wsd", decay_share=0.3)
    assert values[9:70] == [1.0] * 61
    assert values[72] < 1


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(ValidationError, match="leaves nothing"):
        ScheduleConfig(num_steps=10, warmup_steps=10)
