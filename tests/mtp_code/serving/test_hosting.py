import os
import signal

import pytest
import torch

from mtp_code.decoding.engine import Engine
from mtp_code.decoding.requests import Request
from mtp_code.decoding.step import advance
from mtp_code.errors import MachineError
from mtp_code.serving.hosting import Asked, Desk, Dropped, in_process, in_thread, send
from tests.processes import of_commands


def finished(desk: Desk) -> dict[int, list[int]]:
    """The tokens of all that it still answers."""
    tokens: dict[int, list[int]] = {}
    while desk.has_work:
        for told in desk.step() + desk.take([]):
            tokens[told.number] = [*tokens.get(told.number, []), *told.tokens]
    return tokens


def test_pieces_come_as_they_are_made_and_whole_answers_at_their_end(small_model, tokenizer):
    desk, request = Desk(Engine(small_model, tokenizer, 2, 0)), Request([5, 6], 4)
    assert desk.take([Asked(1, request, True), Asked(2, request, False)]) == []
    counts = [{told.number: len(told.tokens) for told in desk.step()} for _ in range(4)]
    assert counts == [{1: 1}, {1: 1}, {1: 1}, {1: 1, 2: 4}]
    assert not desk.has_work


def test_what_a_request_took_is_told_at_its_end(small_model, tokenizer):
    desk = Desk(Engine(small_model, tokenizer, 1, 2))
    desk.take([Asked(number, Request([5, 6], 3), False) for number in (1, 2)])
    ended = {}
    while desk.has_work:
        ended |= {told.number: told.ended for told in desk.step()}
        desk.take([])
    assert [(one.by, one.num_generated) for one in ended.values()] == [("length", 3)] * 2
    assert ended[1].started_s < ended[1].first_token_s <= ended[2].started_s
    assert ended[1].accepted == ended[2].accepted


def test_a_bad_request_is_refused_alone_and_one_that_is_dropped_is_not_answered(
    small_model, tokenizer
):
    engine = Engine(small_model, tokenizer, 2, 0)
    desk = Desk(engine)
    good, bad = Request([5, 6], 9), Request([999], 9)
    (refused,) = desk.take([Asked(0, bad, True), *(Asked(n, good, True) for n in (1, 2, 3, 4))])
    assert refused.number == 0
    assert "token 999 is outside the vocabulary" in refused.refusal
    desk.step()
    desk.take([Dropped(1), Dropped(4), Dropped(77)])  # in a row, waiting, not known
    answered = finished(desk)
    assert set(answered) == {2, 3}
    assert len(answered[3]) == 9
    assert engine.num_running == 0


def test_what_memory_does_not_suffice_for_fails_alone(small_model, tokenizer):
    def lacking(model, drafter, state, plan):
        if plan.end > 20:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return advance(model, drafter, state, plan)

    desk = Desk(Engine(small_model, tokenizer, 2, 0, advance=lacking))
    desk.take([Asked(1, Request([5] * 30, 4), True), Asked(2, Request([5, 6], 4), True)])
    told = []
    while desk.has_work:
        told += desk.step()
    assert [one.number for one in told if one.failure is not None] == [1]
    assert [one.number for one in told if one.ended is not None] == [2]


def test_an_engine_that_fails_says_so_and_ends(small_model, tokenizer, caplog):
    engine = Engine(small_model, tokenizer, 1, 0)

    def fail():
        raise RuntimeError("planted")

    engine.step = fail
    with in_thread(engine) as host:
        send(host.connection, [Asked(0, Request([5], 2), True)])
        assert host.connection.recv() is None
    assert "planted" in caplog.text


def end_by_signal() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail_at_once() -> None:
    raise ValueError("planted")


@pytest.mark.parametrize(
    "prepare, error, said",
    [
        (end_by_signal, MachineError, "ended by signal 9; memory may have run out"),
        (fail_at_once, RuntimeError, "failed, as it says above"),
    ],
)
def test_a_process_that_does_not_load_says_why(tmp_path, prepare, error, said):
    with (
        pytest.raises(error, match=said),
        of_commands(),
        in_process(tmp_path, 1, 0, 1, prepare=prepare) as when_loaded,
    ):
        when_loaded()
