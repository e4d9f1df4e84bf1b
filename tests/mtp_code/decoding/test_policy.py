from collections.abc import Callable

from mtp_code.decoding.policy import Auto

MAX_DRAFTS = 3


def run(policy: Auto, num_rounds: int, accepts: int, catching_up: float = 1.0) -> list[int]:
    """What is chosen for one request, of whose drafts up to `accepts` stand.

    A round takes 1 s and 0.1 s a draft, `catching_up` times that after one with fewer drafts.
    """
    chosen = []
    for _ in range(num_rounds):
        num_drafts = policy.choose([1])
        is_behind = num_drafts > (chosen[-1] if chosen else 0)
        elapsed_s = (1 + 0.1 * num_drafts) * (catching_up if is_behind else 1)
        policy.observe([1], num_drafts, [min(accepts, num_drafts)], elapsed_s)
        chosen.append(num_drafts)
    return chosen


def share(chosen: list[int], holds: Callable[[int], bool]) -> float:
    return sum(map(holds, chosen)) / len(chosen)


def test_drafts_that_stand_are_made_however_long_catching_up_took():
    chosen = run(Auto(MAX_DRAFTS), 200, accepts=MAX_DRAFTS, catching_up=20)
    assert share(chosen[20:], lambda k: k == MAX_DRAFTS) > 0.9


def test_drafts_that_fall_are_not_made():
    assert share(run(Auto(MAX_DRAFTS), 200, accepts=0)[50:], lambda k: k == 0) > 0.9


def test_a_change_of_acceptance_is_noticed():
    policy = Auto(MAX_DRAFTS)
    run(policy, 100, accepts=0)
    assert run(policy, 4000, accepts=MAX_DRAFTS, catching_up=20)[-1] == MAX_DRAFTS
    chosen = run(policy, 800, accepts=0)
    assert share(chosen[-100:], lambda k: k == 0) > 0.9


def test_warming_up_ends_after_two_clean_rounds_of_either():
    assert run(Auto(MAX_DRAFTS), 5, accepts=1) == [0, 0, 3, 3, 3]
