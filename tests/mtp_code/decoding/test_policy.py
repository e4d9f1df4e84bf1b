import random
from collections.abc import Callable

import pytest

from mtp_code.decoding.policy import Auto, AutoTree, Round, num_drafts_of, num_verified
from mtp_code.decoding.tree import Tree

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
        policy.observe(num_drafts, [Round([1], [min(accepts, num_drafts)])], elapsed_s)
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


WARMING_UP = [0] * 4 + [MAX_DRAFTS] * 5
"""Four clean rounds of either: in the first with drafts heads catch up."""


def test_warming_up_ends_after_some_clean_rounds_of_either():
    assert run(Auto(MAX_DRAFTS), 10, accepts=0) == [*WARMING_UP, 0]


def played(
    policy: Auto,
    num_rounds: int,
    rates: list[float],
    a_token: float,
    seed: int,
    drifts: bool = False,
) -> float:
    """Speed-up over plain decoding of the same tokens, on a machine with noise.

    A round takes 1 s and `a_token` for each further token that it verifies, times noise; one with
    more drafts than the one before, as much more as half of all rounds since took, for the heads
    to catch up. Requests of 60 rounds follow one another. Drafts of offset i + 2 stand at
    `rates[i]`; tokens further down a head's list are right half as often as the one before, where
    the first is at all. One that `drifts` takes up to twice as long, for some 40 rounds at a time.
    """
    dice, elapsed_s, plain_s, since = random.Random(seed), 0.0, 0.0, 60
    last, slowness = 0, 1.0
    for number in range(num_rounds):
        key = number // 60
        if number % 60 == 0:
            policy.forget(key - 1)
            since = 60  # the prompt
        shape = policy.choose([key])
        num_drafts, accepted, ranks = num_drafts_of(shape), 0, []
        for index in range(num_drafts):
            rate = rates[index]
            weights = [rate, *(min(rate, 1 - rate) * 0.5**rank for rank in range(1, 8))]
            rank = dice.choices(range(9), [*weights, max(0.0, 1 - sum(weights))])[0]
            ranks.append(rank)
        if isinstance(shape, int):
            while accepted < num_drafts and ranks[accepted] == 0:
                accepted += 1
        else:
            node = 0
            nodes = zip(shape.parents, shape.ranks, strict=True)
            children = {place: child for child, place in enumerate(nodes) if child}
            while accepted < num_drafts and (node, ranks[accepted]) in children:
                node, accepted = children[node, ranks[accepted]], accepted + 1
        if drifts and dice.random() < 1 / 40:
            slowness = dice.choice([1.0, 1.0, 1.3, 1.6, 2.0])
        noise = slowness * dice.lognormvariate(0, 0.15)
        took_s = (1 + a_token * (num_verified(shape) - 1)) * noise
        if num_drafts:
            took_s += 0.05 * since if num_drafts > last else 0.0
            since = 0
        since, last = since + 1, num_drafts
        policy.observe(shape, [Round([key], [accepted], [ranks])], took_s)
        elapsed_s += took_s
        plain_s += (accepted + 1) * slowness * 1.01  # e^(0.15² / 2): a round's mean
    return plain_s / elapsed_s


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rates", [[0.0, 0.0, 0.0], [0.25, 0.3, 0.3]])
def test_where_drafts_do_not_pay_auto_is_hardly_slower_than_plain(rates, seed):
    for policy in (Auto(MAX_DRAFTS), AutoTree(MAX_DRAFTS)):
        assert played(policy, 3000, rates, a_token=0.25, seed=seed) > 0.97


@pytest.mark.parametrize("seed", range(0, 6, 2))
def test_a_machine_that_slows_down_now_and_then_speaks_for_no_drafts(seed):
    """Rates as of `tiny` on HumanEval, where a first draft costs more than it brings."""
    policy = Auto(MAX_DRAFTS)
    assert played(policy, 3000, [0.39, 0.15, 0.2], 0.45, seed, drifts=True) > 0.98


def test_where_drafts_pay_auto_makes_them():
    assert played(Auto(MAX_DRAFTS), 3000, [0.9, 0.9, 0.9], a_token=0.1, seed=0) > 2


def test_trees_are_grown_where_tokens_cost_little():
    rates = [0.45, 0.45, 0.45]
    line = played(Auto(MAX_DRAFTS), 3000, rates, a_token=0.005, seed=0)
    assert played(AutoTree(MAX_DRAFTS), 3000, rates, a_token=0.005, seed=0) > 1.1 * line


def test_without_heads_to_draft_there_is_nothing_to_choose():
    for policy in (Auto(0), AutoTree(0)):
        assert run(policy, 40, accepts=0) == [0] * 40


def costs_of(policy: Auto, size: int) -> list[float]:
    return [policy._cost(size, num_verified(choice)) for choice in policy._choices]


def test_a_look_of_many_rounds_counts_once_and_not_where_heads_catch_up_in_it():
    policy = Auto(MAX_DRAFTS)
    chosen = []
    for _ in range(9):
        num_drafts = policy.choose([1])
        is_behind = num_drafts > (chosen[-1] if chosen else 0)
        rounds = [Round([1], [min(1, num_drafts)])] * 8
        policy.observe(num_drafts, rounds, 8 * (1 + 0.1 * num_drafts) * (20 if is_behind else 1))
        chosen.append(num_drafts)
    assert chosen == WARMING_UP
    assert costs_of(policy, 1) == pytest.approx([1, 1.1, 1.2, 1.3])


def chosen_of_many(
    policy: Auto, num_keys: int, num_rounds: int, time_s: Callable[[int], float]
) -> list[int]:
    """For so many rows, all of whose drafts stand; a round takes what its tokens take together."""
    keys, chosen = list(range(num_keys)), []
    for _ in range(num_rounds):
        num_drafts = policy.choose(keys)
        took_s = time_s(num_keys * (num_drafts + 1))
        policy.observe(num_drafts, [Round(keys, [num_drafts] * num_keys)], took_s)
        chosen.append(num_drafts)
    return chosen


def test_a_batch_that_empties_does_not_warm_up_at_each_of_its_sizes():
    policy = Auto(MAX_DRAFTS)
    assert chosen_of_many(policy, 64, 9, lambda n: 1 + 0.001 * n) == WARMING_UP
    for num_keys in (32, 16, 8, 4, 2, 1):
        assert chosen_of_many(policy, num_keys, 20, lambda n: 1 + 0.001 * n) == [MAX_DRAFTS] * 20
    assert costs_of(policy, 1)[3] == pytest.approx(1.256 / 1.064)  # no plain round to hold it to


def test_a_batch_that_grows_is_timed_before_drafts_that_paid_in_a_smaller_one_are_made():
    policy = Auto(MAX_DRAFTS)
    for num_keys, expected in ((1, MAX_DRAFTS), (64, 0)):
        chosen = chosen_of_many(policy, num_keys, 29, lambda n: max(1.0, n / 64))
        assert chosen == WARMING_UP + 20 * [expected]


def test_a_size_of_batch_in_which_drafts_do_not_pay_is_found_out_all_the_same():
    """Up to 64 tokens take as long as one; from there on twice as many take twice as long."""
    policy = Auto(MAX_DRAFTS)
    for num_keys, expected in ((1, MAX_DRAFTS), (64, 0), (1, MAX_DRAFTS)):
        chosen = chosen_of_many(policy, num_keys, 3000, lambda n: max(1.0, n / 64))
        assert share(chosen[-500:], lambda k, expected=expected: k == expected) > 0.9


def test_catching_up_is_a_cost_of_trying_but_no_time_of_a_round():
    alike, behind = Auto(MAX_DRAFTS), Auto(MAX_DRAFTS)
    for _ in WARMING_UP:
        for policy, caught_up_s in ((alike, 0.0), (behind, 5.0)):
            num_drafts = policy.choose([1])
            rounds = [Round([1], [0])]
            policy.observe(num_drafts, rounds, 1.0, caught_up_s if num_drafts else 0.0)
    assert costs_of(behind, 1) == costs_of(alike, 1)
    assert behind._looking_s == alike._looking_s + 25
    assert behind._elapsed_s == alike._elapsed_s + 25


def test_what_catching_up_takes_is_held_against_the_tokens_that_it_brings():
    """A draft a round would nearly double the speed, but for what each answer begins with."""
    policy = Auto(MAX_DRAFTS)
    chosen = []
    for number in range(400):
        if number % 10 == 0:
            policy.forget(number // 10 - 1)
        num_drafts = policy.choose([number // 10])
        behind_s = 12.0 if num_drafts and number % 10 == 0 else 0.0
        rounds = [Round([number // 10], [num_drafts and 1])]
        policy.observe(num_drafts, rounds, 1 + 0.1 * num_drafts, behind_s)
        chosen.append(num_drafts)
    assert share(chosen[-100:], lambda k: k == 0) > 0.9


def test_rounds_whose_time_says_nothing_are_no_measurement_and_no_cost():
    policy = Auto(MAX_DRAFTS)
    for _ in range(10):
        assert policy.choose([1]) == 0
        policy.observe(0, [Round([1], [0])], None)
    assert (policy._looking_s, policy._elapsed_s) == (0, 0)
    assert run(policy, 9, accepts=1) == WARMING_UP


def after_rounds(num_rounds: int, num_right: int) -> AutoTree:
    """After so many rounds of the largest tree, in which the first head's likeliest `num_right`
    tokens are right in turn, and the likeliest one of each other head."""
    policy = AutoTree(MAX_DRAFTS)
    for number in range(num_rounds):
        tree, ranks = policy._choices[-1], [number % num_right, 0, 0]
        assert isinstance(tree, Tree)
        nodes = list(zip(tree.parents, tree.ranks, strict=True))
        node = accepted = 0
        while accepted < MAX_DRAFTS and (node, ranks[accepted]) in nodes[1:]:
            node, accepted = nodes.index((node, ranks[accepted]), 1), accepted + 1
        policy.observe(tree, [Round([1], [accepted], [ranks])], 1.0)
    return policy


def test_a_tree_makes_way_for_one_that_is_clearly_better_and_for_no_other():
    first = AutoTree(MAX_DRAFTS)._choices[-1]
    assert after_rounds(100, num_right=5)._choices[-1] == first  # not looked at yet
    grown = after_rounds(200, num_right=5)
    assert grown._choices[-1] != first
    assert after_rounds(1500, num_right=5)._choices[-1] == grown._choices[-1]
    # Where the likeliest are right, the first holds all that stands; the best has other leaves.
    policy = after_rounds(200, num_right=1)
    assert policy._choices[-1] == first != Tree.best(policy._rates(), num_verified(first))
