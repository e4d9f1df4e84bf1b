"""The vocabulary of *micro*: what a docstring says, beside what the code does.

A combination is one part from each slot of a family (see families.py); the test split holds out
combinations, never parts.
"""

from dataclasses import dataclass

Constant = int | str


@dataclass(frozen=True)
class Part:
    """One primitive.

    In ``code``, ``{x}`` (or ``{c}``, ``{w}``, ``{a}`` and ``{b}``, ``{g}`` for a generator) is what
    it works on; in the phrases ``{v}`` is the phrase of that. ``{k}`` is its constant in both.
    """

    key: str  # also a word of a function's name
    code: str
    phrases: tuple[str, ...]  # of one thing: "the square of n"
    plurals: tuple[str, ...] = ()  # of many: "the squares of the numbers in nums"
    constants: tuple[Constant, ...] = ()
    takes: str = ""  # a type that it needs; any where empty
    gives: str = ""

    def __post_init__(self) -> None:
        if not self.plurals:
            object.__setattr__(self, "plurals", self.phrases)


def without(parts: tuple[Part, ...], *keys: str) -> tuple[Part, ...]:
    return tuple(part for part in parts if part.key not in keys)


def only(parts: tuple[Part, ...], *keys: str) -> tuple[Part, ...]:
    return tuple(part for part in parts if part.key in keys)


DIGITS = tuple(range(2, 10))
FACTORS = (3, 4, 5, 6, 7)
COUNTS = (1, 2, 3, 4)
LETTERS = tuple("abeimoprst")
MARKS = tuple("-+.,:/*_")

ALL = Part("", "", ("",))  # no condition

# --- numbers: every phrase of a test fits after "is", "are" and "that are" ---

NUMBER_TESTS = (
    Part("even", "{x} % 2 == 0", ("even",)),
    Part("odd", "{x} % 2 == 1", ("odd",)),
    Part("positive", "{x} > 0", ("positive",)),
    Part("negative", "{x} < 0", ("negative",)),
    Part("nonzero", "{x} != 0", ("nonzero",)),
    Part("above", "{x} > {k}", ("greater than {k}", "above {k}"), constants=DIGITS),
    Part("below", "{x} < {k}", ("less than {k}", "below {k}"), constants=DIGITS),
    Part("atleast", "{x} >= {k}", ("at least {k}", "{k} or more"), constants=DIGITS),
    Part("atmost", "{x} <= {k}", ("at most {k}", "{k} or less"), constants=DIGITS),
    Part("multiple", "{x} % {k} == 0", ("divisible by {k}",), constants=FACTORS),
    Part("indivisible", "{x} % {k} != 0", ("not divisible by {k}",), constants=FACTORS),
    Part("not", "{x} != {k}", ("not equal to {k}", "different from {k}"), constants=DIGITS),
    Part("upto", "0 <= {x} <= {k}", ("between 0 and {k}", "from 0 to {k}"), constants=DIGITS),
)

SAME = Part("", "{x}", ("{v}",))
NUMBER_MAPS = (
    SAME,
    Part("square", "{x} * {x}", ("{v} squared", "the square of {v}"), ("the squares of {v}",)),
    Part("cube", "{x} ** 3", ("{v} cubed", "the cube of {v}"), ("the cubes of {v}",)),
    Part("double", "{x} * 2", ("twice {v}", "double {v}"), ("the doubles of {v}",)),
    Part("negate", "-{x}", ("the negative of {v}", "minus {v}"), ("the negatives of {v}",)),
    Part("abs", "abs({x})", ("the absolute value of {v}",), ("the absolute values of {v}",)),
    Part("digit", "abs({x}) % 10", ("the last digit of {v}",), ("the last digits of {v}",)),
    Part(
        "plus",
        "{x} + {k}",
        ("{v} plus {k}", "{v} increased by {k}"),
        ("{v}, each plus {k}", "{v}, each increased by {k}"),
        DIGITS,
    ),
    Part(
        "minus",
        "{x} - {k}",
        ("{v} minus {k}", "{v} decreased by {k}"),
        ("{v}, each minus {k}", "{v}, each decreased by {k}"),
        DIGITS,
    ),
    Part(
        "times",
        "{x} * {k}",
        ("{v} times {k}", "{v} multiplied by {k}"),
        ("{v}, each times {k}", "{v}, each multiplied by {k}"),
        FACTORS,
    ),
    Part(
        "mod",
        "{x} % {k}",
        ("{v} modulo {k}", "the remainder of {v} modulo {k}"),
        ("{v}, each modulo {k}", "the remainders of {v} modulo {k}"),
        FACTORS,
    ),
    Part(
        "quotient",
        "{x} // {k}",
        ("{v} floor divided by {k}",),
        ("{v}, each floor divided by {k}",),
        FACTORS,
    ),
    Part("cap", "min({x}, {k})", ("{v} capped at {k}",), ("{v}, each capped at {k}",), DIGITS),
    Part(
        "lift",
        "max({x}, {k})",
        ("{v} raised to at least {k}",),
        ("{v}, each raised to at least {k}",),
        DIGITS,
    ),
    Part(
        "distance",
        "abs({x} - {k})",
        ("the distance of {v} from {k}", "the distance from {k} to {v}"),
        ("the distances of {v} from {k}", "the distances from {k} to {v}"),
        DIGITS,
    ),
)

NUMBER_REDUCERS = (
    Part("sum", "sum({g})", ("the sum of {v}", "the total of {v}"), gives="int"),
    Part(
        "max",
        "max(({g}), default=0)",
        ("the largest of {v} (0 if none)", "the maximum of {v}, or 0 if there are none"),
        gives="int",
    ),
    Part(
        "min",
        "min(({g}), default=0)",
        ("the smallest of {v} (0 if none)", "the minimum of {v}, or 0 if there are none"),
        gives="int",
    ),
    Part(
        "first",
        "next(({g}), 0)",
        ("the first of {v} (0 if none)", "the first of {v}, or 0 if there are none"),
        gives="int",
    ),
    Part(
        "distinct",
        "len(set({g}))",
        ("the number of distinct values among {v}", "how many distinct values are in {v}"),
        gives="int",
    ),
    Part("list", "[{g}]", ("the list of {v}", "a list of {v}")),
    Part("reversed", "[{g}][::-1]", ("the reversed list of {v}", "a list, last first, of {v}")),
    Part("sorted", "sorted({g})", ("the sorted list of {v}", "in ascending order {v}")),
    Part(
        "descending",
        "sorted(({g}), reverse=True)",
        ("the descending list of {v}", "in descending order {v}"),
    ),
    Part(
        "unique",
        "sorted(set({g}))",
        ("the sorted list without duplicates of {v}", "in ascending order without duplicates {v}"),
    ),
)

# --- characters of a string ---

CHAR_TESTS = (
    Part("vowels", '{c}.lower() in "aeiou"', ("vowels",)),
    Part("nonvowels", '{c}.lower() not in "aeiou"', ("characters that are not vowels",)),
    Part("letters", "{c}.isalpha()", ("letters",)),
    Part("nonletters", "not {c}.isalpha()", ("characters that are not letters",)),
    Part("digits", "{c}.isdigit()", ("digits",)),
    Part("nondigits", "not {c}.isdigit()", ("characters that are not digits",)),
    Part("upper", "{c}.isupper()", ("uppercase letters", "capital letters")),
    Part("lower", "{c}.islower()", ("lowercase letters", "small letters")),
    Part("nonspaces", '{c} != " "', ("characters that are not spaces", "characters but spaces")),
    Part(
        "not",
        "{c} != {k}",
        ("characters other than {k}", "characters except {k}"),
        constants=LETTERS,
    ),
    Part("after", "{c} > {k}", ("characters after {k}", "characters above {k}"), constants=LETTERS),
)

CHAR_MAPS = (
    Part("", "{c}", ("{v}",), gives="str"),
    Part("upper", "{c}.upper()", ("{v} in upper case", "{v} in capitals"), gives="str"),
    Part("lower", "{c}.lower()", ("{v} in lower case", "{v} in small letters"), gives="str"),
    Part("swap", "{c}.swapcase()", ("{v} with case swapped",), gives="str"),
    Part("double", "{c} * 2", ("{v} doubled", "{v} written twice"), gives="str"),
    Part("triple", "{c} * 3", ("{v} tripled", "{v} written three times"), gives="str"),
    Part("next", "chr(ord({c}) + 1)", ("{v} moved to the next character",), gives="str"),
    Part("before", "{k} + {c}", ("{v} preceded by {k}",), constants=MARKS, gives="str"),
    Part("behind", "{c} + {k}", ("{v} followed by {k}",), constants=MARKS, gives="str"),
    Part("mask", "{k}", ("{v} replaced by {k}",), constants=MARKS, gives="str"),
)

CHAR_REDUCERS = (
    Part("join", '"".join({g})', ("a string of {v}", "the string of {v}")),
    Part("list", "[{g}]", ("a list of {v}", "the list of {v}")),
    Part("reverse", '"".join({g})[::-1]', ("a string, reversed, of {v}", "backwards {v}")),
    Part("sorted", '"".join(sorted({g}))', ("a sorted string of {v}", "in sorted order {v}")),
    Part("distinct", "len(set({g}))", ("the number of distinct strings among {v}",)),
    Part("unique", "sorted(set({g}))", ("a sorted list without duplicates of {v}",)),
    Part(
        "separate", "{k}.join({g})", ("{v}, joined by {k}", "{v} joined with {k}"), constants=MARKS
    ),
    Part("head", '"".join({g})[:{k}]', ("the first {k} characters of {v}",), constants=COUNTS),
    Part("tail", '"".join({g})[-{k}:]', ("the last {k} characters of {v}",), constants=COUNTS),
    Part("repeat", '"".join({g}) * {k}', ("{k} times the string of {v}",), constants=(2, 3, 4)),
)

# --- words of a string: every phrase of a test fits after "words" ---

WORD_TESTS = (
    Part(
        "long",
        "len({w}) > {k}",
        ("longer than {k}", "of more than {k} letters"),
        constants=(2, 3, 4, 5),
    ),
    Part(
        "short",
        "len({w}) < {k}",
        ("shorter than {k}", "of less than {k} letters"),
        constants=(2, 3, 4, 5),
    ),
    Part("sized", "len({w}) == {k}", ("of length {k}", "with {k} letters"), constants=(2, 3, 4, 5)),
    Part(
        "starting",
        "{w}.startswith({k})",
        ("starting with {k}", "that start with {k}"),
        constants=LETTERS,
    ),
    Part(
        "ending", "{w}.endswith({k})", ("ending with {k}", "that end with {k}"), constants=LETTERS
    ),
    Part("containing", "{k} in {w}", ("containing {k}", "that contain {k}"), constants=LETTERS),
    Part("without", "{k} not in {w}", ("without {k}", "not containing {k}"), constants=LETTERS),
    Part("evenlength", "len({w}) % 2 == 0", ("of even length",)),
    Part("oddlength", "len({w}) % 2 == 1", ("of odd length",)),
    Part("capitalized", "{w}[:1].isupper()", ("starting with a capital letter",)),
    Part("small", "{w}.islower()", ("in lower case",)),
    Part("palindromes", "{w} == {w}[::-1]", ("that are palindromes", "equal to their reverse")),
)
WORD_MAPS = (
    Part("", "{w}", ("{v}",), gives="str"),
    Part("upper", "{w}.upper()", ("{v} in upper case", "{v} in capitals"), gives="str"),
    Part("lower", "{w}.lower()", ("{v} in lower case", "{v} in small letters"), gives="str"),
    Part("capital", "{w}.capitalize()", ("{v} capitalized",), gives="str"),
    Part("reverse", "{w}[::-1]", ("{v} reversed", "{v} spelled backwards"), gives="str"),
    Part("double", "{w} * 2", ("{v} written twice", "{v} doubled"), gives="str"),
    Part(
        "initial",
        "{w}[0]",
        ("the first letter of {v}",),
        ("the first letters of {v}",),
        gives="str",
    ),
    Part("last", "{w}[-1]", ("the last letter of {v}",), ("the last letters of {v}",), gives="str"),
    Part("rest", "{w}[1:]", ("{v} without the first letter",), gives="str"),
    Part("chop", "{w}[:-1]", ("{v} without the last letter",), gives="str"),
    Part("prefix", "{w}[:{k}]", ("{v} cut to {k} letters",), constants=(2, 3, 4), gives="str"),
    Part("behind", "{w} + {k}", ("{v} followed by {k}",), constants=MARKS, gives="str"),
    Part("length", "len({w})", ("the length of {v}",), ("the lengths of {v}",), gives="int"),
    Part(
        "count",
        "{w}.count({k})",
        ("the number of {k} in {v}",),
        ("the numbers of {k} in {v}",),
        LETTERS,
        gives="int",
    ),
)
WORD_REDUCERS = (
    Part(
        "join",
        '" ".join({g})',
        ("{v}, joined by spaces", "a string of {v} with spaces between"),
        takes="str",
    ),
    Part(
        "separate",
        "{k}.join({g})",
        ("{v}, joined by {k}", "{v} joined with {k}"),
        constants=MARKS,
        takes="str",
    ),
    Part(
        "longest",
        'max(({g}), key=len, default="")',
        ("the longest of {v} ('' if none)", "the longest, or '' if there are none, of {v}"),
        takes="str",
    ),
    Part("list", "[{g}]", ("a list of {v}", "the list of {v}")),
    Part("reversed", "[{g}][::-1]", ("the reversed list of {v}", "a list, last first, of {v}")),
    Part("sorted", "sorted({g})", ("a sorted list of {v}", "in sorted order {v}")),
    Part("unique", "sorted(set({g}))", ("a sorted list without duplicates of {v}",)),
    Part("distinct", "len(set({g}))", ("the number of distinct values among {v}",)),
    Part("sum", "sum({g})", ("the sum of {v}", "the total of {v}"), takes="int"),
    Part("max", "max(({g}), default=0)", ("the largest of {v} (0 if none)",), takes="int"),
    Part("min", "min(({g}), default=0)", ("the smallest of {v} (0 if none)",), takes="int"),
)

# --- pairs ---

PAIR_TESTS = (
    Part("rising", "{a} < {b}", ("the first is smaller", "the second is larger")),
    Part("falling", "{a} > {b}", ("the first is larger", "the second is smaller")),
    Part("unequal", "{a} != {b}", ("the two differ", "the two are not equal")),
    Part("parity", "{a} % 2 == {b} % 2", ("both have the same parity",)),
    Part("botheven", "{a} % 2 == 0 and {b} % 2 == 0", ("both are even",)),
    Part("positive", "{a} > 0 and {b} > 0", ("both are positive",)),
    Part("anynegative", "{a} < 0 or {b} < 0", ("one is negative", "at least one is negative")),
    Part("sumabove", "{a} + {b} > {k}", ("their sum is above {k}",), constants=DIGITS),
    Part("near", "abs({a} - {b}) < {k}", ("they differ by less than {k}",), constants=DIGITS),
)

PAIR_MAPS = (
    Part("sums", "{a} + {b}", ("the sums",)),
    Part("differences", "{a} - {b}", ("the differences", "first minus second")),
    Part("backward", "{b} - {a}", ("second minus first", "the increases")),
    Part("products", "{a} * {b}", ("the products",)),
    Part("larger", "max({a}, {b})", ("the larger numbers", "the maxima")),
    Part("smaller", "min({a}, {b})", ("the smaller numbers", "the minima")),
    Part("gaps", "abs({a} - {b})", ("the absolute differences", "the gaps")),
    Part("weighted", "{a} + {k} * {b}", ("first plus {k} times second",), constants=FACTORS),
)
