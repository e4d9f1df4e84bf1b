import openai
import pytest

from mtp_code.decoding.prepare import load_for_decoding
from mtp_code.model.config import ModelConfig
from mtp_code.serving.bench import Took, Way, _row, write_untrained
from mtp_code.serving.clients import ask_all
from tests.mtp_code.interop.runs import SMALL


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_that_is_missing_fails_the_measurement(served, is_streamed):
    clients, prompts = [served.client(), served.client()], ["a", "b", "c"]
    ours = ask_all(clients, prompts, served.service.model_name, 4, is_streamed)
    assert len(ours) == 3
    assert all(ours)
    with pytest.raises(openai.NotFoundError):
        ask_all(clients, prompts, "another", 4, is_streamed)


def test_ratios_are_of_the_same_round_and_the_clients_are_in_none_of_them():
    alone = Way("engine", [Took(1.0, 1.0, 1.0), Took(3.0, 2.0, 2.0)], ["x", "y"])
    served = Way("server", [Took(2.0, 1.25, 1.6, 9.0), Took(3.0, 2.5, 3.2, 9.0)], ["x", "z"])
    row = _row(served, alone, num_tokens=10)
    assert (row["throughput"], row["throughput_low"], row["throughput_high"]) == (0.75, 0.5, 1.0)
    assert row["throughput_of_engine"] == pytest.approx(0.8)
    assert row["throughput_of_cpu"] == pytest.approx(0.625)
    assert row["tokens_per_s"] == 4
    assert row["identical_outputs"] == 1


def test_an_untrained_model_of_a_shape_says_a_word_with_every_token(tmp_path):
    config = ModelConfig.model_validate({**SMALL, "vocab_size": 2000})
    write_untrained(tmp_path / "shape", config, ["def double(x):\n    return 2 * x\n"])
    found = load_for_decoding(tmp_path / "shape")
    assert found.model.config == config
    assert found.tokenizer.decode(found.tokenizer.encode("def double(x)")) == "def double(x)"
    silent = [token for token in range(2000) if not found.tokenizer.decode([token])]
    assert silent == [found.tokenizer.end_of_text]
