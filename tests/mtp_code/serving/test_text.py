"""Text while tokens come: equal to the whole, never taken back, nothing of a stop."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtp_code.serving.text import AnswerText
from mtp_code.tokenizer import BytesTokenizer, train_bpe

BYTES = BytesTokenizer()
BPE = train_bpe(["naïve 😀 def f(x): return x\n" * 20, "日本語 text"], 300)


def in_parts(data: st.DataObject, tokens: list[int]) -> list[list[int]]:
    parts = []
    while tokens:
        count = data.draw(st.integers(1, len(tokens)))
        parts.append(tokens[:count])
        tokens = tokens[count:]
    return parts


@settings(max_examples=60, deadline=None)
@given(st.data(), st.text(alphabet="ab😀日\ufffd\n", max_size=12), st.sampled_from([BYTES, BPE]))
def test_pieces_are_whole_characters_and_together_the_text(data, text, tokenizer):
    tokens = tokenizer.encode(text)
    answer, pieces = AnswerText(tokenizer), []
    for part in in_parts(data, tokens):
        pieces.append(answer.push(part))
        assert text.startswith("".join(pieces))
    pieces.append(answer.push([], is_last=True))
    assert "".join(pieces) == text


@settings(max_examples=60, deadline=None)
@given(st.data(), st.lists(st.sampled_from([97, 0xF0, 0x9F, 0x98, 0x80, 0xFF, 0xE6]), max_size=12))
def test_bytes_that_are_no_text_come_out_as_decoded_at_once(data, tokens):
    answer = AnswerText(BYTES)
    said = "".join(answer.push(part) for part in in_parts(data, tokens))
    assert BYTES.decode(tokens).startswith(said)
    assert said + answer.push([], is_last=True) == BYTES.decode(tokens)


@settings(max_examples=120, deadline=None)
@given(
    st.text(alphabet="abc", max_size=14),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_nothing_of_a_stop_string_is_told(text, stops):
    """Token by token, as an engine stops: at the first token that completes a stop string."""
    answer, said, seen = AnswerText(BYTES, stops=stops), "", ""
    for token in BYTES.encode(text):
        said += answer.push([token])
        seen += chr(token)
        found = [seen.index(stop) for stop in stops if stop in seen]
        if found:
            assert answer.is_stopped
            assert said == seen[: min(found)]
            return
        # Never what a stop string may yet turn out to begin in, and no more held than that.
        held = len(seen) - len(said)
        beginnings = [n for n in range(1, 5) if any(s.startswith(seen[-n:]) for s in stops)]
        assert held == max((n for n in beginnings if n <= len(seen)), default=0)
    assert said + answer.push([], is_last=True) == text
    assert not answer.is_stopped


def test_starts_count_the_characters_before_each_token():
    answer = AnswerText(BYTES, wants_starts=True)
    answer.push(BYTES.encode("a😀b"))
    assert answer.starts == [0, 1, 1, 1, 1, 2]


@pytest.mark.parametrize("tokenizer", [BYTES, BPE])
def test_the_bytes_of_tokens_make_up_the_text(tokenizer):
    text = "def naïve(x):\n    return '😀日本'"
    tokens = tokenizer.encode(text)
    assert b"".join(map(tokenizer.token_bytes, tokens)) == text.encode()
    assert tokenizer.token_bytes(tokenizer.end_of_text) == b""
