import time

import pytest
import torch

from mtp_code.decoding.draft import ParallelDrafter
from mtp_code.decoding.engine import Engine
from mtp_code.decoding.parts import PARTS, PartClock
from mtp_code.decoding.requests import Request
from mtp_code.decoding.state import DecodeState

REQUESTS = [Request([5, 6, 7], 12), Request([9] * 20, 8)]
SLOW_S = 0.01


def timed(model, tokenizer, num_drafts, num_rows=1):
    """Parts of a mean step, and what was answered."""
    clock = PartClock(torch.device("cpu"))
    engine = Engine(model, tokenizer, num_rows, num_drafts, captures=False, advance=clock.advance)
    completions = {}
    for request in REQUESTS:
        completions[engine.submit(request)] = None
    with clock.watching(model):
        while engine.has_work:
            with clock.step():
                events = engine.step()
            completions |= {e.id: e.completion for e in events if e.completion is not None}
    return clock.per_step_s(), [completion.tokens for completion in completions.values()]


def slowed(function):
    def slow(*args, **options):
        until_s = time.process_time() + SLOW_S
        while time.process_time() < until_s:
            pass
        return function(*args, **options)

    return slow


@pytest.mark.parametrize("num_rows", [1, 2])
@pytest.mark.parametrize("num_drafts", [0, 2])
def test_a_clock_changes_no_token_and_is_gone_afterwards(
    small_model, tokenizer, num_drafts, num_rows
):
    parts_s, tokens = timed(small_model, tokenizer, num_drafts, num_rows)
    plain = Engine(small_model, tokenizer, 1, 0).generate(REQUESTS).completions
    assert tokens == [completion.tokens for completion in plain]
    assert list(parts_s) == list(PARTS)
    assert all(spent_s > 0 for part, spent_s in parts_s.items() if part != "other heads")
    assert (parts_s["other heads"] > 0) == (num_drafts > 0)
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in small_model.modules()
    )


@pytest.mark.parametrize("part", PARTS)
def test_what_a_part_takes_is_its_own(small_model, tokenizer, monkeypatch, part):
    model = small_model
    of_model = {
        "trunk": (model.trunk.layers[0], 1),
        "head 1": (model.mtp_heads.layers[0], 1),
        "unembedding": (model.unembedding, 2),  # for drafts and for verifying
    }
    times = 1
    if part in of_model:
        module, times = of_model[part]
        monkeypatch.setattr(module, "forward", slowed(module.forward))
    elif part == "other heads":
        monkeypatch.setattr(ParallelDrafter, "draft", slowed(ParallelDrafter.draft))
    elif part == "acceptance":
        monkeypatch.setattr(DecodeState, "commit", slowed(DecodeState.commit))
    else:
        monkeypatch.setattr(Engine, "_commit", slowed(Engine._commit))
    parts_s, _ = timed(model, tokenizer, 2)
    assert parts_s[part] >= times * SLOW_S
    others_s = [spent_s for name, spent_s in parts_s.items() if name != part]
    assert max(others_s) < times * SLOW_S


def test_steps_that_read_a_prompt_do_not_count(small_model, tokenizer):
    clock = PartClock(torch.device("cpu"))
    engine = Engine(small_model, tokenizer, 1, 0, advance=clock.advance)
    engine.submit(Request([5, 6, 7], 3))
    with clock.watching(small_model), clock.step():
        engine.step()
    assert clock.per_step_s() is None
    with clock.watching(small_model), clock.step():
        engine.step()
    assert clock.per_step_s() is not None
