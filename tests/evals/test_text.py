import pytest

from evals.text import NAME_CHARS, one_line, quoted, visible

HOSTILE = (
    "\x1b[31mred\x1b]0;title\x07\nmtp-code: done\r\x9b2J\u202ekcab\u2066\u200b\u2028\x00\ud800"
)


@pytest.mark.parametrize(
    "text", ["", "Mbpp/1", "a\tb", "räksmörgås 漢字 🙂", "a" * NAME_CHARS, "two\nlines"]
)
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert visible(text) == text
    if "\n" not in text and "\t" not in text:
        assert one_line(text) == text


def test_nothing_hides_reorders_or_moves_the_cursor() -> None:
    shown = visible(HOSTILE)
    shown.encode()
    assert shown == (
        r"\x1b[31mred\x1b]0;title\x07"
        "\nmtp-code: done\n"
        r"\x9b2J\u202ekcab\u2066\u200b\u2028\x00\ud800"
    )
    assert one_line(HOSTILE, 1000) == shown.replace("\n", " ")
    assert quoted(HOSTILE).isprintable()


@pytest.mark.parametrize("text", ["x" * 10_000_000, " " * 10_000_000, "\x1b" * 10_000_000])
def test_what_is_long_is_cut_and_takes_no_time(text: str) -> None:
    shown = one_line(text, 20)
    assert len(shown) <= 20
    assert shown.endswith("…")
