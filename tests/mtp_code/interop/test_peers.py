"""transformers' own decoding, as `bench decode --peers` runs it."""

import logging

import torch

from mtp_code.decoding.engine import Engine
from mtp_code.decoding.exactness import Numbers
from mtp_code.decoding.prepare import load_for_decoding
from mtp_code.decoding.requests import Request
from mtp_code.interop.peers import peer_of, transformers_peers
from mtp_code.run_folder import load_run
from tests.mtp_code.interop.runs import TEXTS, small_bpe, write_run

NUM_NEW = 24


def test_peers_answer_as_our_engine_does_and_say_nothing(tmp_path, caplog, capfd):
    caplog.set_level(logging.INFO)
    write_run(tmp_path / "run", small_bpe())
    trained = load_run(tmp_path / "run")
    tokenizer = trained.tokenizer
    requests = [Request(tokenizer.encode_prompt(text), NUM_NEW) for text in TEXTS[:3]]
    engine = Engine(trained.model, tokenizer, num_rows=1, num_drafts=0)
    plain = {tuple(one.request.prompt): one for one in engine.complete(requests)}
    capfd.readouterr()
    caplog.clear()
    peers = transformers_peers(tmp_path / "run", tokenizer.answer_ends)
    assert len(peers) == 2
    for name, decode in peers.items():
        if name == "transformers prompt lookup":
            # Of transformers 5.17 it ends at once behind a prompt that is the end token alone.
            requests = [one for one in requests if len(one.prompt) > 1]
        found = list(decode(requests))
        assert [one.request for one in found] == requests
        for one in found:
            expected = plain[tuple(one.request.prompt)]
            assert one.tokens == expected.tokens, name
            assert one.ended_by == expected.ended_by
            num_chosen = len(one.tokens) + (one.ended_by == "end of text")
            if name == "transformers generate":
                assert one.num_forwards == num_chosen == expected.num_forwards
            else:
                assert one.num_forwards <= num_chosen
    assert caplog.text == ""
    assert "".join(capfd.readouterr()) == ""


def test_peers_compute_in_the_format_asked_for(tmp_path):
    write_run(tmp_path / "run", small_bpe())
    trained = load_for_decoding(tmp_path / "run", dtype="bf16")
    weight = trained.model.unembedding.weight
    ends = trained.tokenizer.answer_ends
    request = Request(trained.tokenizer.encode_prompt(TEXTS[0]), NUM_NEW)
    for decode in transformers_peers(tmp_path / "run", ends, weight.device, weight.dtype).values():
        assert decode._model.dtype is torch.bfloat16
        (found,) = decode([request])
        assert found.num_committed > 0


def test_a_peer_of_a_model_in_memory_answers_as_our_engine_does_to_the_last_token(tmp_path):
    write_run(tmp_path / "run", small_bpe())
    trained = load_for_decoding(tmp_path / "run", dtype="fp32")
    vocab_size = trained.model.config.vocab_size
    requests = [Request([place, 3, 2, 1], NUM_NEW) for place in range(4)]
    engine = Engine(trained.model, Numbers(vocab_size, ()), num_rows=1, num_drafts=0)
    (decode,) = peer_of(trained.model).values()
    plain = engine.generate(requests).completions
    assert [one.tokens for one in decode(requests)] == [one.tokens for one in plain]
    assert all(len(one.tokens) == NUM_NEW for one in plain)
