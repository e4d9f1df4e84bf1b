"""The families of size ``micro``: one expression, or one loop with one state.

A family's function returns the docstring beside the body, so that what is asked and what answers
it stay on one screen. The body depends on the parts, their constants and the argument names only;
the phrasing is picked by ``say``.
"""

from evals.benchmarks.micro.grammar import (
    Bound,
    Say,
    characters_that,
    family,
    guarded,
    initial,
    loop,
    numbers_that,
    words_that,
)
from evals.benchmarks.micro.parts import (
    ALL,
    CHAR_MAPS,
    CHAR_REDUCERS,
    CHAR_TESTS,
    COUNTS,
    DIGITS,
    FACTORS,
    NUMBER_MAPS,
    NUMBER_REDUCERS,
    NUMBER_TESTS,
    PAIR_MAPS,
    PAIR_TESTS,
    WORD_MAPS,
    WORD_REDUCERS,
    WORD_TESTS,
    Part,
    only,
    without,
)

# --- arithmetic ---


@family("arithmetic", ("int",), (NUMBER_TESTS, NUMBER_MAPS, NUMBER_MAPS))
def choice(say: Say, args: list[str], test: Bound, then: Bound, other: Bound) -> tuple[str, str]:
    (n,) = args
    doc = say(
        f"Return {then.one(n)} if {n} is {test.one()}, otherwise {other.one(n)}.",
        f"If {n} is {test.one()} return {then.one(n)}, else {other.one(n)}.",
    )
    code = f"if {test.code(x=n)}:\n    return {then.code(x=n)}\nreturn {other.code(x=n)}"
    return doc, code


RANGES = (
    Part("count", "range(1, {x} + 1)", ("numbers from 1 to {v}",)),
    Part("below", "range({x})", ("numbers from 0 up to but not including {v}",)),
    Part("from", "range({k}, {x} + 1)", ("numbers from {k} to {v}",), constants=DIGITS),
    Part("digits", "map(int, str({x}))", ("digits of {v}",)),
    Part("tens", "range(0, {x}, 10)", ("multiples of 10 below {v}",)),
)


@family(
    "arithmetic",
    ("count",),
    (
        RANGES,
        (ALL, *without(NUMBER_TESTS, "positive", "negative", "upto")),
        without(NUMBER_MAPS, "abs", "lift", "distance", "digit"),
        only(NUMBER_REDUCERS, "sum", "max", "list", "reversed", "distinct"),
    ),
    weight=0.5,
)
def ranges(
    say: Say, args: list[str], source: Bound, test: Bound, change: Bound, reduce: Bound
) -> tuple[str, str]:
    (n,) = args
    those = f"the {source.one(n)}" + (f" that are {test.one()}" if test.key else "")
    inside = loop(change.code(x="x"), "x", source.code(x=n), test.code(x="x"))
    return f"Return {reduce.one(change.many(those))}.", f"return {reduce.code(g=inside)}"


# --- logic ---

CONNECTIVES = (
    Part("and", "{a} and {b}", ("{a} and {b}", "both {a} and {b}")),
    Part("or", "{a} or {b}", ("{a} or {b}", "{a} or {b} or both")),
    Part("but", "{a} and not {b}", ("{a} but not {b}",)),
    Part("unless", "{a} or not {b}", ("{a} or not {b}",)),
    Part("neither", "not ({a} or {b})", ("neither {a} nor {b}",)),
    Part("either", "({a}) != ({b})", ("either {a} or {b} but not both",)),
)


@family("logic", ("int",), (CONNECTIVES, NUMBER_TESTS, NUMBER_TESTS), weight=0.5)
def both(say: Say, args: list[str], joined: Bound, one: Bound, two: Bound) -> tuple[str, str]:
    (n,) = args
    claim = joined.one(a=one.one(), b=two.one())
    doc = say(f"Return whether {n} is {claim}.", f"Return True if {n} is {claim}, else False.")
    return doc, f"return {joined.code(a=one.code(x=n), b=two.code(x=n))}"


QUANTIFIERS = (
    Part("all", "all({g})", ("every one of {v}", "each of {v}")),
    Part("any", "any({g})", ("at least one of {v}", "any of {v}")),
    Part("none", "not any({g})", ("none of {v}",)),
    Part("notall", "not all({g})", ("not every one of {v}",)),
    Part("one", "sum({g}) == 1", ("exactly one of {v}",)),
    Part("several", "sum({g}) >= {k}", ("at least {k} of {v}",), constants=(2, 3, 4)),
)


@family("logic", ("ints",), (QUANTIFIERS, (ALL, *NUMBER_TESTS), NUMBER_TESTS))
def quantified(
    say: Say, args: list[str], quantifier: Bound, among: Bound, test: Bound
) -> tuple[str, str]:
    (xs,) = args
    being = "are" if quantifier.key == "several" else "is"
    claim = f"{quantifier.one(numbers_that(say, among, xs))} {being} {test.one()}"
    doc = say(f"Return whether {claim}.", f"Return True if {claim}, else False.")
    inside = loop(test.code(x="x"), "x", xs, among.code(x="x"))
    return doc, f"return {quantifier.code(g=inside)}"


# --- numbers ---


@family("numbers", ("ints",), ((ALL, *NUMBER_TESTS), NUMBER_MAPS, NUMBER_REDUCERS), weight=1.5)
def numbers(
    say: Say, args: list[str], test: Bound, change: Bound, reduce: Bound
) -> tuple[str, str]:
    (xs,) = args
    inside = loop(change.code(x="x"), "x", xs, test.code(x="x"))
    doc = f"Return {reduce.one(change.many(numbers_that(say, test, xs)))}."
    return doc, f"return {reduce.code(g=inside)}"


SLICES = (
    Part("head", "{x}[:{k}]", ("the first {k} numbers of {v}",), constants=COUNTS),
    Part("tail", "{x}[-{k}:]", ("the last {k} numbers of {v}",), constants=COUNTS),
    Part("skip", "{x}[{k}:]", ("the numbers of {v} after the first {k}",), constants=COUNTS),
    Part("chop", "{x}[:-{k}]", ("the numbers of {v} before the last {k}",), constants=COUNTS),
    Part(
        "step",
        "{x}[::{k}]",
        ("the numbers of {v} at indices divisible by {k}",),
        constants=(2, 3, 4),
    ),
    Part("inner", "{x}[1:-1]", ("the numbers of {v} between the first and the last",)),
    Part("backward", "{x}[::-1]", ("the numbers of {v}, last first",)),
    Part("odd", "{x}[1::2]", ("the numbers of {v} at odd indices",)),
    Part("firsthalf", "{x}[:len({x}) // 2]", ("the first half of {v}",)),
    Part("secondhalf", "{x}[len({x}) // 2:]", ("the second half of {v}",)),
)


@family(
    "numbers",
    ("ints",),
    (SLICES, NUMBER_MAPS, without(NUMBER_REDUCERS, "reversed")),
    weight=0.5,
)
def sliced(say: Say, args: list[str], cut: Bound, change: Bound, reduce: Bound) -> tuple[str, str]:
    (xs,) = args
    inside = loop(change.code(x="x"), "x", cut.code(x=xs))
    return f"Return {reduce.one(change.many(cut.one(xs)))}.", f"return {reduce.code(g=inside)}"


# --- text ---


@family("text", ("text",), ((ALL, *CHAR_TESTS), CHAR_MAPS, CHAR_REDUCERS))
def characters(
    say: Say, args: list[str], test: Bound, change: Bound, reduce: Bound
) -> tuple[str, str]:
    (s,) = args
    inside = loop(change.code(c="c"), "c", s, test.code(c="c"))
    doc = f"Return {reduce.one(change.one(characters_that(say, test, s)))}."
    return doc, f"return {reduce.code(g=inside)}"


@family("text", ("text",), (CHAR_TESTS, without(CHAR_MAPS, ""), CHAR_MAPS), weight=0.5)
def edited(say: Say, args: list[str], test: Bound, then: Bound, other: Bound) -> tuple[str, str]:
    (s,) = args
    doc = f"Return {s} with {then.one('the ' + test.one())}"
    if other.key:
        doc += f" and {other.one('all other characters')}"
    code = f"{then.code(c='c')} if {test.code(c='c')} else {other.code(c='c')}"
    return f"{doc}.", f'return "".join({loop(code, "c", s)})'


# --- words ---


@family("words", ("words",), ((ALL, *WORD_TESTS), WORD_MAPS, WORD_REDUCERS))
def words(say: Say, args: list[str], test: Bound, change: Bound, reduce: Bound) -> tuple[str, str]:
    (s,) = args
    inside = loop(change.code(w="w"), "w", f"{s}.split()", test.code(w="w"))
    doc = f"Return {reduce.one(change.many(words_that(say, test, s)))}."
    return doc, f"return {reduce.code(g=inside)}"


# --- dictionaries ---

KEY_TESTS = tuple(
    Part(
        "key" + part.key, part.code, tuple(f"key is {p}" for p in part.phrases), (), part.constants
    )
    for part in only(WORD_TESTS, "long", "short", "sized", "evenlength", "small", "capitalized")
)
VALUE_TESTS = tuple(
    Part(part.key, part.code, tuple(f"value is {p}" for p in part.phrases), (), part.constants)
    for part in without(NUMBER_TESTS, "nonzero", "upto")
)
ENTRY_REDUCERS = (
    Part("dict", "{{key: {m} for {g}}}", ("a dictionary from the keys to {v}",)),
    Part("inverse", "{{{m}: key for {g}}}", ("a dictionary from {v} to the keys",)),
    Part("sum", "sum({m} for {g})", ("the sum of {v}", "the total of {v}")),
    Part("list", "[{m} for {g}]", ("a list of {v}", "the list of {v}")),
    Part("sorted", "sorted({m} for {g})", ("the sorted list of {v}", "in ascending order {v}")),
    Part("max", "max(({m} for {g}), default=0)", ("the largest of {v} (0 if none)",)),
    Part("pairs", "[(key, {m}) for {g}]", ("a list of pairs of the keys and {v}",)),
)


@family("dicts", ("dict",), ((ALL, *VALUE_TESTS, *KEY_TESTS), NUMBER_MAPS, ENTRY_REDUCERS))
def entries(
    say: Say, args: list[str], test: Bound, change: Bound, reduce: Bound
) -> tuple[str, str]:
    (d,) = args
    doc = f"Return {reduce.one(change.many(f'the values in {d}'))}"
    if test.key:
        doc += say(f", where the {test.one()}", f", for items whose {test.one()}")
    over = f"key, value in {d}.items()"
    if condition := test.code(x="value", w="key"):
        over += f" if {condition}"
    return f"{doc}.", f"return {reduce.code(m=change.code(x='value'), g=over)}"


@family("dicts", ("ints",), ((ALL, *NUMBER_TESTS), NUMBER_MAPS, NUMBER_MAPS), weight=0.5)
def mapped(say: Say, args: list[str], test: Bound, key: Bound, value: Bound) -> tuple[str, str]:
    (xs,) = args
    those = f"each x in {xs}" + (f" that is {test.one()}" if test.key else "")
    doc = say(
        f"Return a dictionary from {key.one('x')} to {value.one('x')} for {those}.",
        f"For {those}, map {key.one('x')} to {value.one('x')}.",
    )
    pair = f"{key.code(x='x')}: {value.code(x='x')}"
    return doc, f"return {{{loop(pair, 'x', xs, test.code(x='x'))}}}"


@family("dicts", ("words",), ((ALL, *WORD_TESTS), WORD_MAPS, WORD_MAPS), weight=0.5)
def indexed(say: Say, args: list[str], test: Bound, key: Bound, value: Bound) -> tuple[str, str]:
    (s,) = args
    those = words_that(say, test, s)
    doc = say(
        f"Return a dictionary from {key.one('w')} to {value.one('w')} for each w of {those}.",
        f"Map {key.one('w')} to {value.one('w')} for {those}.",
    )
    pair = f"{key.code(w='w')}: {value.code(w='w')}"
    return doc, f"return {{{loop(pair, 'w', f'{s}.split()', test.code(w='w'))}}}"


# --- sorting ---

KEYS = only(NUMBER_MAPS, "negate", "abs", "digit", "mod", "distance", "quotient")
TAKES = (
    Part("by", "sorted({g}, key=lambda {x})", ("sorted by {v}", "in order of {v}")),
    Part(
        "downby",
        "sorted({g}, key=lambda {x}, reverse=True)",
        ("sorted downwards by {v}", "in descending order of {v}"),
    ),
    Part(
        "first",
        "sorted({g}, key=lambda {x})[:{k}]",
        ("sorted by {v}, only the first {k}",),
        constants=COUNTS,
    ),
    Part(
        "last",
        "sorted({g}, key=lambda {x})[-{k}:]",
        ("sorted by {v}, only the last {k}",),
        constants=COUNTS,
    ),
    Part("second", "sorted({g}, key=lambda {x})[::2]", ("sorted by {v}, every second one",)),
    Part("flip", "sorted({g}, key=lambda {x})[::-1]", ("sorted by {v} and then reversed",)),
)


@family("sorting", ("ints",), ((ALL, *NUMBER_TESTS), KEYS, TAKES), weight=0.6)
def arranged(say: Say, args: list[str], test: Bound, key: Bound, take: Bound) -> tuple[str, str]:
    (xs,) = args
    those = f"[{loop('x', 'x', xs, test.code(x='x'))}]" if test.key else xs
    by = key.one(say("the number", "each number"))
    doc = f"Return {numbers_that(say, test, xs)}, {take.one(by)}."
    return doc, f"return {take.code(g=those, x='x: ' + key.code(x='x'))}"


@family(
    "sorting",
    ("words",),
    (
        (ALL, *WORD_TESTS),
        only(WORD_MAPS, "length", "last", "reverse", "lower", "count", "rest", "initial"),
        TAKES,
    ),
    weight=0.6,
)
def ordered(say: Say, args: list[str], test: Bound, key: Bound, take: Bound) -> tuple[str, str]:
    (s,) = args
    those = f"{s}.split()"
    if test.key:
        those = f"[{loop('w', 'w', those, test.code(w='w'))}]"
    by = key.one(say("the word", "each word"))
    doc = f"Return {words_that(say, test, s)}, {take.one(by)}."
    return doc, f"return {take.code(g=those, x='w: ' + key.code(w='w'))}"


# --- pairs ---

FEW_REDUCERS = only(NUMBER_REDUCERS, "sum", "max", "min", "list", "sorted", "distinct", "unique")


@family("pairs", ("left", "right"), ((ALL, *PAIR_TESTS), PAIR_MAPS, FEW_REDUCERS), weight=0.6)
def zipped(say: Say, args: list[str], test: Bound, change: Bound, reduce: Bound) -> tuple[str, str]:
    xs, ys = args
    those = f"{change.one()} of pairs from {xs} and {ys}"
    if test.key:
        those += say(f" where {test.one()}", f" such that {test.one()}")
    inside = loop(change.code(a="a", b="b"), "a, b", f"zip({xs}, {ys})", test.code(a="a", b="b"))
    return f"Return {reduce.one(those)}.", f"return {reduce.code(g=inside)}"


@family("pairs", ("ints",), ((ALL, *PAIR_TESTS), PAIR_MAPS, FEW_REDUCERS), weight=0.6)
def neighbours(
    say: Say, args: list[str], test: Bound, change: Bound, reduce: Bound
) -> tuple[str, str]:
    (xs,) = args
    those = f"{change.one()} of {say('neighbours', 'adjacent numbers')} in {xs}"
    if test.key:
        those += say(f" where {test.one()}", f" such that {test.one()}")
    over = f"zip({xs}, {xs}[1:])"
    inside = loop(change.code(a="a", b="b"), "a, b", over, test.code(a="a", b="b"))
    return f"Return {reduce.one(those)}.", f"return {reduce.code(g=inside)}"


PLACES = (
    Part("evenindex", "{i} % 2 == 0", ("at even indices",)),
    Part("oddindex", "{i} % 2 == 1", ("at odd indices",)),
    Part("nth", "{i} % {k} == 0", ("at indices divisible by {k}",), constants=FACTORS),
    Part("since", "{i} >= {k}", ("from index {k} on",), constants=COUNTS),
    Part("until", "{i} < {k}", ("before index {k}",), constants=COUNTS),
    Part("except", "{i} != {k}", ("except at index {k}",), constants=COUNTS),
    Part("overindex", "{x} > {i}", ("greater than their index",)),
    Part("equalindex", "{x} == {i}", ("equal to their index",)),
)
PLACED = (
    Part("timesindex", "{x} * {i}", ("{v} times its index",), ("{v}, each times its index",)),
    Part("plusindex", "{x} + {i}", ("{v} plus its index",), ("{v}, each plus its index",)),
    Part("lessindex", "{x} - {i}", ("{v} minus its index",), ("{v}, each minus its index",)),
    Part(
        "index",
        "{i}",
        ("the index of {v}", "the position of {v}"),
        ("the indices of {v}", "the positions of {v}"),
    ),
)


@family(
    "pairs",
    ("ints",),
    (
        PLACES,
        PLACED + NUMBER_MAPS,
        only(NUMBER_REDUCERS, "sum", "max", "list", "reversed", "distinct"),
    ),
    weight=0.6,
)
def placed(say: Say, args: list[str], test: Bound, change: Bound, reduce: Bound) -> tuple[str, str]:
    (xs,) = args
    those = say(f"the numbers in {xs} {test.one()}", f"the values of {xs} {test.one()}")
    over = f"enumerate({xs})"
    inside = loop(change.code(x="x", i="i"), "i, x", over, test.code(x="x", i="i"))
    return f"Return {reduce.one(change.many(those))}.", f"return {reduce.code(g=inside)}"


# --- loops ---

FOLDS = (
    Part("product", "total *= {m}", ("the product of {v}",)),
    Part("max", "total = max(total, {m})", ("the maximum of 0 and {v}",)),
    Part("min", "total = min(total, {m})", ("the minimum of 0 and {v}",)),
    Part("alternate", "total = {m} - total", ("the total, negated before each step, of {v}",)),
    Part("decimal", "total = 10 * total + {m}", ("the total, times 10 before each step, of {v}",)),
    Part("halving", "total = total // 2 + {m}", ("the total, halved before each step, of {v}",)),
    Part(
        "ceiling",
        "total = min(total + {m}, {k})",
        ("the total, never above {k}, of {v}",),
        constants=(10, 12, 15, 20),
    ),
    Part("floored", "total = max(total + {m}, 0)", ("the total, never below 0, of {v}",)),
    Part(
        "modular",
        "total = (total + {m}) % {k}",
        ("the total modulo {k} of {v}",),
        constants=FACTORS,
    ),
)


@family("loops", ("ints",), ((ALL, *NUMBER_TESTS), NUMBER_MAPS, FOLDS), weight=0.8)
def folded(say: Say, args: list[str], test: Bound, change: Bound, fold: Bound) -> tuple[str, str]:
    (xs,) = args
    doc = f"Return {fold.one(change.many(numbers_that(say, test, xs)))}."
    body = guarded(test.code(x="x"), fold.code(m=change.code(x="x")))
    return doc, f"{initial(fold)}for x in {xs}:\n{body}return total"


RUNNING = (
    Part("sum", "total += {m}", ("the sum of {v}", "the total of {v}")),
    *without(FOLDS, "decimal", "halving"),
)


@family("loops", ("ints",), ((ALL, *NUMBER_TESTS), NUMBER_MAPS, RUNNING), weight=0.6)
def running(say: Say, args: list[str], test: Bound, change: Bound, fold: Bound) -> tuple[str, str]:
    (xs,) = args
    each = fold.one(change.many(numbers_that(say, test, xs)))
    doc = say(f"Return the list, step by step, of {each}.", f"List, after each step, {each}.")
    body = guarded(test.code(x="x"), fold.code(m=change.code(x="x")), "result.append(total)")
    return doc, f"result = []\n{initial(fold)}for x in {xs}:\n{body}return result"


GATHERS = (
    Part("sum", "total += {m}", ("the sum of {v}", "the total of {v}")),
    Part("product", "total *= {m}", ("the product of {v}",)),
    Part("list", "total.append({m})", ("a list of {v}", "the list of {v}")),
    Part("front", "total.insert(0, {m})", ("a reversed list of {v}", "the reversed list of {v}")),
    Part("set", "total.add({m})", ("a set of {v}", "the set of {v}")),
)


@family("loops", ("ints",), (NUMBER_TESTS, NUMBER_MAPS, GATHERS), weight=0.6)
def until(say: Say, args: list[str], stop: Bound, change: Bound, gather: Bound) -> tuple[str, str]:
    (xs,) = args
    those = change.many(say(f"the numbers in {xs}", f"the values of {xs}"))
    before = say("before the first that is", "up to but not including the first")
    body = guarded(stop.code(x="x"), "break") + guarded("", gather.code(m=change.code(x="x")))
    doc = f"Return {gather.one(those)} {before} {stop.one()}."
    return doc, f"{initial(gather)}for x in {xs}:\n{body}return total"


FINDS = (
    Part("first", "return {m}", ("the first",)),
    Part("last", "found = {m}", ("the last",)),
)


@family("loops", ("ints",), (FINDS, NUMBER_TESTS, PLACED + NUMBER_MAPS), weight=0.5)
def found(say: Say, args: list[str], find: Bound, test: Bound, change: Bound) -> tuple[str, str]:
    (xs,) = args
    which = f"{find.one()} number in {xs} that is {test.one()}"
    doc = f"Return {change.one(which)}, " + say("or -1 if there is none.", "else -1.")
    over = f"for i, x in enumerate({xs}):" if "{i}" in change.part.code else f"for x in {xs}:"
    body = guarded(test.code(x="x"), find.code(m=change.code(x="x", i="i")))
    if find.key == "first":
        return doc, f"{over}\n{body}return -1"
    return doc, f"found = -1\n{over}\n{body}return found"


STREAKS = (
    Part("length", "count + 1", ("the length of the longest run",)),
    Part("weight", "count + x", ("the largest sum of a run",)),
    Part("energy", "count + x * x", ("the largest sum of squares of a run",)),
    Part("power", "count + abs(x)", ("the largest sum of absolute values of a run",)),
    Part("growth", "2 * count + x", ("the largest sum, doubled at each step, of a run",)),
)


@family("loops", ("ints",), (STREAKS, NUMBER_TESTS), weight=0.2)
def streak(say: Say, args: list[str], count: Bound, test: Bound) -> tuple[str, str]:
    (xs,) = args
    doc = f"Return {count.one()} of " + say(
        f"numbers in {xs} that are {test.one()}, at least 0.",
        f"neighbours in {xs} that are {test.one()}, at least 0.",
    )
    body = f"    count = {count.code()} if {test.code(x='x')} else 0\n"
    return doc, f"best = count = 0\nfor x in {xs}:\n{body}    best = max(best, count)\nreturn best"


FAMILIES = (
    choice,
    both,
    quantified,
    numbers,
    characters,
    words,
    entries,
    mapped,
    arranged,
    neighbours,
    placed,
    folded,
    found,
    streak,
)

# As easy, but more of them than a few minutes' training can take in: they belong to micro-hard.
FURTHER_FAMILIES = (ranges, sliced, edited, indexed, ordered, zipped, running, until)
