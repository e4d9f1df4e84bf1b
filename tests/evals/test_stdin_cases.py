import pytest

from evals.stdin_cases import is_right_output


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ("1\n2\n", b"1\n2"),
        ("1 2", b"  1   2  \n\n"),
        ("1\r\n2", b"1\n2\n"),
        ("0.333333333", b"0.33333333333333"),
        ("1e5", b"100000.5"),
        (".5", b"0.5"),
        ("100000", b"100000.0"),
        ("100000", b"1e5"),
        ("+2", b"02"),
        ("9" * 5000, b"0" + b"9" * 5000),
        ("1\x1c2", b"1 2"),
        ("2", b"2.0"),
        ("YES 1.0", b"YES 1"),
        ("", b""),
        ("é", "é\n".encode()),
        ("inf", b"inf"),
    ],
)
def test_right(expected: str, found: bytes) -> None:
    assert is_right_output(expected, found)


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ("1\n2", b"2\n1"),
        ("1 2", b"1\n2"),
        ("1 2", b"2 1"),
        ("1", b""),
        ("", b"1"),
        ("YES", b"yes"),
        ("0.3333", b"0.3334"),
        ("1", b"nan"),
        ("nan", b"1"),
        ("inf", b"1e400x"),
        ("1", b"\xff"),
        ("1", b"1 1"),
        ("100000", b"100001"),
        ("1000000007", b"1000000006"),
        ("2", b"2.00000001"),
        ("12345678901234567890", b"12345678901234567891"),
        ("9" * 5000, b"9" * 4999 + b"8"),
        ("12", b"1_2"),
        ("12.0", b"1_2.0"),
        ("1", "１".encode()),
        ("1.0", "１.0".encode()),
        ("1.5", b"nan"),
        ("1.5", b"inf"),
        ("1", b"1e99999999999"),
        ("1\n2", b"1\x1c2"),
        ("1\n2", b"1\r2"),
        ("1\n2", "1\x852".encode()),
    ],
)
def test_wrong(expected: str, found: bytes) -> None:
    assert not is_right_output(expected, found)
