from types import SimpleNamespace

import pytest

from mtp_code.checkpoint import TrainingState
from mtp_code.training import logbook
from mtp_code.training.logbook import Clock


@pytest.fixture
def now(monkeypatch):
    """Seconds, which pass only where a test says so."""
    time_s = SimpleNamespace(now=100.0)
    clock = SimpleNamespace(monotonic=lambda: time_s.now, process_time=lambda: time_s.now)
    monkeypatch.setattr(logbook, "time", clock)
    return time_s


def test_a_rate_is_that_of_the_steps_and_of_nothing_done_between_them(now):
    clock = Clock(TrainingState(step=3, num_tokens=300, cpu_s=7, elapsed_s=9))
    clock.num_tokens += 50
    now.now += 5
    with clock.aside():
        now.now += 1000
    clock.num_tokens += 50
    now.now += 5
    assert clock.tokens_per_s() == 10
    assert (clock.elapsed_s, clock.cpu_s) == (9 + 1010, 7 + 1010)  # all that it took
    clock.num_tokens += 100
    now.now += 5
    assert clock.tokens_per_s() == 20
