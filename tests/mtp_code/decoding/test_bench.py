from types import SimpleNamespace
from typing import Any

import pytest

from mtp_code.decoding import bench
from mtp_code.decoding.bench import Mode, deal, measure
from mtp_code.decoding.engine import Stats
from mtp_code.decoding.parts import PARTS
from mtp_code.decoding.requests import Completion, Request


def test_answers_too_short_for_a_draft_have_no_acceptance(small_model, tokenizer):
    """One token each: those drafts that stood would have saved nothing, others fell."""
    rows = measure(small_model, tokenizer, [Request([5, 6, place], 1) for place in range(3)])
    assert [row["drafts"] for row in rows] == [0, 1, 2, 3, 3, 3]
    assert [row["mode"] for row in rows[-2:]] == ["auto", "tree"]
    for row in rows:
        assert row["tokens"] == row["forwards"] == row["identical_outputs"] == 3
        assert row["speed_up_of_tokens"] == pytest.approx(row["speed_up"])
        assert row["cpu_speed_up_low"] <= row["cpu_speed_up"] <= row["cpu_speed_up_high"]
        assert 0 < row["prefill_s"] < row["wall_s"]
        assert row["acceptance_by_offset"] in ([], [0.0])


@pytest.fixture(scope="module")
def rows(small_model, tokenizer):
    """More rows than prompts."""
    requests = [Request([5, 6, place], 6) for place in range(3)]
    return measure(small_model, tokenizer, requests, num_rows=4, copy_bytes_per_s=1e9)


def test_every_round_fills_all_rows_however_few_prompts_there_are(rows):
    for row in rows:
        assert row["batch_rows"] == 4
        assert row["tokens"] == 3 * 4 * 6
        assert row["identical_outputs"] == 3


def test_rounds_of_a_fixed_number_of_drafts_are_known_by_their_parts(rows):
    for row in rows:
        is_fixed = row["mode"] in ("plain", "speculative")
        assert {"round_s", "parts_s", "share_of_bandwidth"} & row.keys() == (
            {"round_s", "parts_s", "share_of_bandwidth"} if is_fixed else set()
        )
        if is_fixed:
            assert list(row["parts_s"]) == list(PARTS)
            assert (row["parts_s"]["other heads"] > 0) == (row["drafts"] > 0)
            assert row["share_of_bandwidth"] > 0


def test_speed_is_told_before_rounds_are_taken_apart(small_model, tokenizer, monkeypatch):
    told: list[Any] = []
    monkeypatch.setattr(bench, "_time_parts", lambda *_: told.append(None))
    rows = measure(small_model, tokenizer, [Request([5, 6], 3)], on_rows=told.append)
    assert told == [rows, *[None] * 4]
    assert [row["parts_s"] for row in rows[:4]] == [None] * 4


def test_recording_is_no_part_of_what_decoding_takes(monkeypatch):
    now_s = 0.0

    def decode(requests):
        nonlocal now_s
        now_s += 7
        return [Completion(request) for request in requests]

    clock = SimpleNamespace(perf_counter=lambda: now_s, process_time=lambda: now_s)
    monkeypatch.setattr(bench, "time", clock)
    engine: Any = SimpleNamespace(stats=Stats(recording_s=5.0, decode_s=1.5))
    mode = Mode("plain", decode, engine=engine, wall_s=[1.0], cpu_s=[1.0])
    bench._decode(mode, [Request([5], 2)], [0])
    assert (mode.wall_s, mode.cpu_s, mode.decode_s) == ([3.0], [8.0], 1.5)


def test_modes_take_turns_by_the_prompt_and_each_is_first_as_often(
    small_model, tokenizer, monkeypatch
):
    turns = []

    def noted(mode, requests, places, decode=bench._decode):
        turns.append((mode.name, mode.drafts, tuple(places)))
        decode(mode, requests, places)

    monkeypatch.setattr(bench, "_decode", noted)
    requests = [Request([5, 6, place], 2) for place in range(12)]
    num_modes = len(measure(small_model, tokenizer, requests))
    by_turn = [turns[first : first + num_modes] for first in range(0, len(turns), num_modes)]
    assert sorted(turn[0][2] for turn in by_turn) == [(place,) for place in range(12)]
    for turn in by_turn:
        assert len({places for *_, places in turn}) == 1
        assert len({(name, drafts) for name, drafts, _ in turn}) == num_modes
    first = [turn[0][:2] for turn in by_turn]
    assert all(first.count(mode) == 2 for mode in first)


@pytest.mark.parametrize(
    "count, num_rounds, at_least", [(27, 9, 1), (10, 9, 1), (27, 9, 16), (3, 9, 4), (1, 9, 8)]
)
def test_all_requests_are_dealt_and_each_round_has_enough(count, num_rounds, at_least):
    rounds = deal(count, num_rounds, at_least)
    assert len(rounds) == min(num_rounds, count)
    assert {place for places in rounds for place in places} == set(range(count))
    for places in rounds:
        assert len(places) >= at_least
        assert max(places.count(place) for place in places) <= -(-at_least // count)
    if at_least == 1:
        assert sum(map(len, rounds)) == count
