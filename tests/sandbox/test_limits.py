import pytest

from sandbox import Limits


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf")])
def test_a_limit_that_is_not_positive_is_refused(wrong):
    with pytest.raises(ValueError, match="cpu_s must be a positive number"):
        Limits(cpu_s=wrong)


def test_the_wall_clock_limit_is_ten_times_the_cpu_limit_unless_given():
    assert Limits(cpu_s=2).wall_limit_s == 20
    assert Limits(cpu_s=2, wall_s=3).wall_limit_s == 3
