import json

import pytest
import tokenizers
from tokenizers import decoders, models

from mtp_code.decoding.requests import Answer, Request
from mtp_code.tokenizer import Tokenizer, train_bpe


def spaces_marked() -> Tokenizer:
    """Writes spaces as SentencePiece does, and takes one off the start of a text."""
    vocab = {piece: number for number, piece in enumerate(["<unk>", "</s>", "\u2581", "x", "y"])}
    backend = tokenizers.Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    backend.add_special_tokens(["</s>"])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return Tokenizer(json.dumps(json.loads(backend.to_str())), "</s>")


def num_taken(tokenizer: Tokenizer, prompt: list[int], tokens: list[int], stop: str) -> int:
    answer = Answer(Request(prompt, 60, stops=(stop,)), tokenizer, 80, 0)
    for token in tokens:
        if not answer.is_done:
            answer.commit([token], 0)
    assert answer.completion.ended_by == "stop"
    return len(answer.completion.tokens)


def test_a_stop_string_is_found_around_special_tokens():
    tokenizer = train_bpe(["abc"], 280, fim_tokens=True)
    assert tokenizer.fim is not None
    a, b, c = map(tokenizer.encode, "abc")
    special = [tokenizer.fim.prefix] * 9
    assert num_taken(tokenizer, c, [*c, *c, *a, *special, *b, *c], "ab") == 13


@pytest.mark.parametrize("num_before", [0, 1, 12])
def test_a_stop_string_that_begins_or_ends_with_a_space_is_found(num_before):
    tokenizer = spaces_marked()
    space, x, y = 2, 3, 4
    tokens = [*[y] * num_before, space, x, y]
    assert num_taken(tokenizer, [y], tokens, " x") == num_before + 2
    assert num_taken(tokenizer, [y], [*tokens, x, space], "x ") == num_before + 5
