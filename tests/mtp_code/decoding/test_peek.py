import pytest
import torch

from mtp_code.decoding.peek import peek
from mtp_code.errors import PromptError


def test_each_guess_is_its_heads_likeliest_token_and_marked_by_the_text(small_model, tokenizer):
    text = "def f(x):\n"
    positions = peek(small_model, tokenizer, text)
    assert "".join(position.text for position in positions) == text
    tokens = tokenizer.encode(text)
    logits_KTV = small_model(torch.tensor([[tokenizer.end_of_text, *tokens]]))[:, 0]
    for place, position in enumerate(positions):
        assert len(position.guesses) == 4
        for offset, guess in enumerate(position.guesses, start=1):
            likeliest = logits_KTV[offset - 1, place + 1].argmax().item()
            assert guess.text == tokenizer.decode([likeliest])
            assert 0 < guess.prob <= 1
            behind = place + offset
            expected = tokens[behind] == likeliest if behind < len(tokens) else None
            assert guess.is_right == expected


@pytest.mark.parametrize(("text", "complaint"), [("", "empty"), ("x" * 300, "context of 256")])
def test_texts_that_do_not_fit_are_refused(small_model, tokenizer, text, complaint):
    with pytest.raises(PromptError, match=complaint):
        peek(small_model, tokenizer, text)
