"""Text as arrays of numbers, one a word or token, by which duplicates and benchmark text are found.

Texts are bytes of UTF-8, lexed many at once: they are joined by NUL, which none of them may hold
and which is a token of its own, so that no run of tokens reaches from one into the next. Equal
words have equal numbers: hashes of 64 bits of their length and their first and last eight bytes.
"""

import builtins
import keyword
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]

# Arbitrary odd numbers.
_FIRST, _LAST, _LENGTH, _MIX, _GRAM = (
    np.uint64(number)
    for number in (
        0x9E3779B97F4A7C15,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0xD6E8FEB86659FD93,
        0xA0761D6478BD642F,
    )
)
BORDER, _NAME, _NUMBER, _ATTRIBUTE, _MARK = (
    np.uint64(number)
    for number in (
        0x9D39247E33776D41,
        0x2AF7398005AAA5C7,
        0x44DB015024623547,
        0x9C15F73E62A76AE2,
        0x75834465489C0C89,
    )
)

# Zeros around the texts, so that eight bytes can be read from any place in them.
_PADDING: Final = 8

_OTHER, _LETTER, _DIGIT, _MARKED, _BETWEEN = range(5)

# Brackets that only group, commas and colons may differ in a copy that was laid out anew.
_MARKS: Final = b"+-*/%<>=!&|^~@[{"

# Loops over what needs no decision, with the decisions between them: several times as fast as a
# decision at every character. What is not closed is a literal too, to the end of its line or of the
# text, and no loop gives back what it took: else each of many quotes would be read to the end anew.
_LITERALS: Final = re.compile(
    rb"#[^\n]*+"
    rb'|"""[^"\\]*+(?:(?:\\.?+|"(?!""))[^"\\]*+)*+(?:""")?+'
    rb"|'''[^'\\]*+(?:(?:\\.?+|'(?!''))[^'\\]*+)*+(?:''')?+"
    rb'|"[^"\\\n]*+(?:\\.?+[^"\\\n]*+)*+"?+'
    rb"|'[^'\\\n]*+(?:\\.?+[^'\\\n]*+)*+'?+",
    re.DOTALL,
)
# The head of a function, without literals, if it says types; brackets in brackets up to three deep.
_IN_BRACKETS: Final = (
    rb"[(\[{][^()\[\]{}]*+(?:[(\[{][^()\[\]{}]*+"
    rb"(?:[(\[{][^()\[\]{}]*+[)\]}][^()\[\]{}]*+)*+[)\]}][^()\[\]{}]*+)*+[)\]}]"
)
_HEADS: Final = re.compile(
    rb"def(?<![\w.]def)[ \t]++\w++[ \t]*+(" + _IN_BRACKETS + rb")(?:\s*+->[^:\n]*+)?+"
)
_TYPES: Final = re.compile(rb"(?<=\w)\s*+:(?:[^,=()\[\]{}]++|" + _IN_BRACKETS + rb")*+")
# Begins as it does for speed, and asks no more than what tells nearly all others apart.
_MAY_SAY_TYPES: Final = re.compile(rb"def[ \t]++\w++[ \t]*+\([^():]*+(?:[:(]|\)\s*+->)")


class Lexed(NamedTuple):
    """One number a word or token, and where in the joined texts each begins."""

    hashes: Hashes
    starts: Places


def words(texts: Sequence[bytes]) -> Lexed:
    """Words in lower case, from comments and strings too; no numbers, operators or layout.

    Escaped newlines and tabs are layout, so that a text has its words in JSON too.
    """
    data = _padded(b"\0".join(texts).lower())
    escaped = np.flatnonzero(data == ord("\\")) + 1
    data = data.copy()
    data[escaped[np.isin(data[escaped], _BLANKS)]] = ord(" ")
    kinds = _kinds_of(data)
    starts, ends = _runs((kinds == _LETTER) | (kinds == _DIGIT))
    are_words = kinds[starts] == _LETTER
    starts, ends = starts[are_words], ends[are_words]
    hashes = _word_hashes(data, starts, ends)
    borders = _inside(np.flatnonzero(kinds == _BETWEEN))
    places = np.searchsorted(starts, borders)
    return Lexed(np.insert(hashes, places, BORDER), np.insert(starts, places, borders) - _PADDING)


def may_say_types(text: bytes) -> bool:
    """Whether the head of a function may say types, which `code_tokens` may leave out."""
    return _MAY_SAY_TYPES.search(text) is not None


def code_tokens(
    texts: Sequence[bytes], keep_numbers: bool = False, keep_types: bool = False
) -> Lexed:
    """Tokens of Python code, the same whatever its names, layout, comments and docstrings are.

    Kept as they are: keywords, attributes, built-in functions where they are called, operators.
    All other names count as one and the same, and so do all numbers unless they are to be kept
    too; strings do not count, nor, unless kept, do the types that the head of a function says.
    """
    bare: Iterable[bytes] = (_LITERALS.sub(b'"', text) for text in texts)
    if not keep_types:
        bare = (_HEADS.sub(_without_types, t) if may_say_types(t) else t for t in bare)
    data = _padded(b"\0".join(bare))
    kinds = _kinds_of(data)
    starts, ends = _runs((kinds == _LETTER) | (kinds == _DIGIT))
    are_words = data[ends] != ord('"')  # but a string's prefix, as in r""
    starts, ends = starts[are_words], ends[are_words]
    hashes = _word_hashes(data, starts, ends)
    after = data[ends]
    after = np.where(after == ord(" "), data[ends + 1], after)
    are_attributes = data[starts - 1] == ord(".")
    are_numbers = kinds[starts] == _DIGIT
    are_kept = are_numbers | _KEYWORDS.hold(hashes)
    are_kept |= _BUILTINS.hold(hashes) & (after == ord("("))
    hashes = np.where(are_attributes, hashes ^ _ATTRIBUTE, np.where(are_kept, hashes, _NAME))
    if not keep_numbers:
        hashes[are_numbers] = _NUMBER
    marks = _inside(np.flatnonzero(kinds >= _MARKED))
    is_start = np.zeros(len(data), dtype=np.bool_)
    is_start[starts] = is_start[marks] = True
    all_starts = np.flatnonzero(is_start)
    are_marks = kinds[all_starts] >= _MARKED
    all_hashes = np.empty(len(all_starts), dtype=np.uint64)
    all_hashes[are_marks] = _MARK_HASHES[data[marks]]
    all_hashes[~are_marks] = hashes
    return Lexed(all_hashes, all_starts - _PADDING)


def grams(hashes: Hashes, length: int) -> Hashes:
    """One number for each run of `length` numbers, in order; none where there are fewer."""
    count = max(len(hashes) - length + 1, 0)
    combined = hashes[:count].copy()
    for offset in range(1, length):
        combined *= _GRAM
        combined += hashes[offset : offset + count]
    return combined ^ (combined >> np.uint64(29))


def _without_types(head: re.Match[bytes]) -> bytes:
    return head.string[head.start() : head.start(1)] + _TYPES.sub(b"", head[1])


class _WordSet:
    """Words, looked up by hash."""

    def __init__(self, members: Iterable[str]) -> None:
        data = _padded(" ".join(sorted(members)).encode())
        hashes = _word_hashes(data, *_runs(_kinds_of(data) == _LETTER))
        self._hashes = np.sort(hashes)
        self._bits = np.zeros(1 << 16, dtype=bool)
        self._bits[hashes >> np.uint64(48)] = True

    def hold(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = self._bits[hashes >> np.uint64(48)]
        candidates = hashes[found]
        places = np.searchsorted(self._hashes[:-1], candidates)
        found[found] = self._hashes[places] == candidates
        return found


def _padded(text: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join((bytes(_PADDING), text, bytes(_PADDING))), dtype=np.uint8)


def _kinds_of(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    # Several times as fast as numpy's look-up of each.
    return np.frombuffer(data.tobytes().translate(_KINDS), dtype=np.uint8)


def _runs(members: npt.NDArray[np.bool_]) -> tuple[Places, Places]:
    """Begin and end of each run of members; the first and the last are none."""
    borders = np.flatnonzero(members[1:] != members[:-1]) + 1
    return borders[::2], borders[1::2]


def _word_hashes(data: npt.NDArray[np.uint8], starts: Places, ends: Places) -> Hashes:
    eights = np.ndarray((len(data) - 7,), dtype="<u8", buffer=data, strides=(1,))
    lengths = ends - starts
    hashes: Hashes = (eights[starts] & _FIRST_BYTES[np.minimum(lengths, 8)]) * _FIRST
    are_long = np.flatnonzero(lengths > 8)
    hashes[are_long] += eights[ends[are_long] - 8] * _LAST
    hashes += lengths.astype(np.uint64) * _LENGTH
    hashes ^= hashes >> np.uint64(32)
    hashes *= _MIX
    hashes ^= hashes >> np.uint64(29)
    return hashes


def _inside(borders: Places) -> Places:
    """Without the padding, which looks like borders."""
    return borders[_PADDING:-_PADDING]


def _kinds() -> bytes:
    kinds = np.full(256, _OTHER, dtype=np.uint8)
    kinds[[byte for byte in range(128) if chr(byte).isalpha() or chr(byte) == "_"]] = _LETTER
    kinds[128:] = _LETTER
    kinds[[ord(digit) for digit in "0123456789"]] = _DIGIT
    kinds[list(_MARKS)] = _MARKED
    kinds[0] = _BETWEEN
    return kinds.tobytes()


def _mark_hashes() -> Hashes:
    hashes = np.arange(1, 257, dtype=np.uint64) * _MARK
    hashes[0] = BORDER
    return hashes


_KINDS: Final = _kinds()
_BLANKS: Final = np.frombuffer(b"ntr", dtype=np.uint8)  # when a backslash is before them
_MARK_HASHES: Final = _mark_hashes()
_FIRST_BYTES: Final = np.array([(1 << 8 * length) - 1 for length in range(9)], dtype=np.uint64)
_KEYWORDS: Final = _WordSet(keyword.kwlist)
_BUILTINS: Final = _WordSet(name for name in dir(builtins) if not name.startswith("_"))
