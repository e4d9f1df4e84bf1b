"""The families of size ``micro-hard``: two or three steps, nesting, and loops with more state."""

from dataclasses import replace

from evals.benchmarks.micro.easy import FEW_REDUCERS, GATHERS, QUANTIFIERS
from evals.benchmarks.micro.grammar import (
    Bound,
    Say,
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

FEW_TESTS = only(NUMBER_TESTS, "even", "odd", "positive", "negative", "above", "below", "multiple")
FEW_MAPS = without(NUMBER_MAPS, "cap", "lift", "minus", "distance")
CHANGES = without(FEW_MAPS, "")
TEXT_REDUCERS = tuple(replace(part, takes="") for part in WORD_REDUCERS if part.takes != "int")

# --- arithmetic ---


@family(
    "arithmetic",
    ("int",),
    (NUMBER_TESTS, FEW_MAPS, NUMBER_TESTS, FEW_MAPS, FEW_MAPS),
)
def branches(
    say: Say, args: list[str], one: Bound, then: Bound, two: Bound, second: Bound, other: Bound
) -> tuple[str, str]:
    (n,) = args
    doc = (
        f"Return {then.one(n)} if {n} is {one.one()}, else {second.one(n)} if it is {two.one()}, "
        f"{say('otherwise', 'else')} {other.one(n)}."
    )
    code = "".join(
        f"if {test.code(x=n)}:\n    return {change.code(x=n)}\n"
        for test, change in ((one, then), (two, second))
    )
    return doc, f"{code}return {other.code(x=n)}"


# Each makes a number above 1 smaller and none negative, so that the loop ends.
SHRINKS = (
    Part("half", "{x} // 2", ("halve it rounding down",)),
    Part("third", "{x} // 3", ("divide it by 3 rounding down",)),
    Part("tenth", "{x} // 10", ("drop its last digit",)),
    Part("less", "{x} - {k}", ("subtract {k}", "decrease it by {k}"), constants=(1, 2)),
    Part("rest", "{x} - {x} // 2 - 1", ("subtract its half rounded down and 1",)),
    Part("limit", "min({x} - 1, {k})", ("subtract 1 and cap it at {k}",), constants=(20, 30, 40)),
)
VISITS = (
    Part("count", "total += 1", ("how many steps this takes", "the number of steps")),
    Part("list", "total.append({m})", ("the list of values reached",)),
    Part("front", "total.insert(0, {m})", ("the reversed list of values reached",)),
    Part("sum", "total += {m}", ("the sum of the values reached", "the total of values reached")),
    Part("squares", "total += {m} * {m}", ("the sum of the squares of the values reached",)),
    Part("odds", "total += {m} % 2", ("how many of the values reached are odd",)),
)


@family(
    "arithmetic",
    ("count",),
    (without(NUMBER_TESTS, "positive", "negative", "nonzero", "upto"), SHRINKS, SHRINKS, VISITS),
    literal=True,
)
def steps(
    say: Say, args: list[str], test: Bound, then: Bound, other: Bound, visit: Bound
) -> tuple[str, str]:
    (n,) = args
    doc = (
        f"While {n} is above 1, {then.one()} if it is {test.one()}, "
        f"{say('otherwise', 'else')} {other.one()}. Return {visit.one()}."
    )
    change = f"{n} = {then.code(x=n)} if {test.code(x=n)} else {other.code(x=n)}"
    return doc, f"{initial(visit)}while {n} > 1:\n    {change}\n    {visit.code(m=n)}\nreturn total"


# --- logic ---


@family(
    "logic",
    ("rows",),
    (QUANTIFIERS, only(QUANTIFIERS, "all", "any", "none"), (ALL, *FEW_TESTS), NUMBER_TESTS),
)
def nested(
    say: Say, args: list[str], outer: Bound, inner: Bound, among: Bound, test: Bound
) -> tuple[str, str]:
    (rows,) = args
    claim = f"{inner.one(numbers_that(say, among, 'it'))} is {test.one()}"
    doc = f"Return whether for {outer.one(f'the lists in {rows}')} {claim}."
    row = inner.code(g=loop(test.code(x="x"), "x", "row", among.code(x="x")))
    return doc, f"return {outer.code(g=loop(row, 'row', rows))}"


@family(
    "logic",
    ("ints",),
    (
        QUANTIFIERS,
        FEW_TESTS,
        only(NUMBER_MAPS, "square", "mod", "plus", "digit", "quotient"),
        FEW_TESTS,
    ),
    weight=0.5,
)
def claimed(
    say: Say, args: list[str], quantifier: Bound, one: Bound, change: Bound, two: Bound
) -> tuple[str, str]:
    (xs,) = args
    doc = (
        f"Take {change.many(numbers_that(say, one, xs))}. "
        f"Return whether {quantifier.one('these')} {say('is', 'turns out')} {two.one()}."
    )
    taken = loop(change.code(x="x"), "x", xs, one.code(x="x"))
    claim = quantifier.code(g=loop(two.code(x="x"), "x", "kept"))
    return doc, f"kept = [{taken}]\nreturn {claim}"


# --- numbers ---


@family(
    "numbers",
    ("ints",),
    (NUMBER_TESTS, CHANGES, NUMBER_TESTS, FEW_MAPS, NUMBER_REDUCERS),
)
def chain(
    say: Say, args: list[str], one: Bound, first: Bound, two: Bound, then: Bound, reduce: Bound
) -> tuple[str, str]:
    (xs,) = args
    those = then.many(f"those that are {two.one()}")
    doc = f"Take {first.many(numbers_that(say, one, xs))}. Return {reduce.one(those)}."
    kept = loop(first.code(x="x"), "x", xs, one.code(x="x"))
    inside = loop(then.code(x="x"), "x", "kept", two.code(x="x"))
    return doc, f"kept = [{kept}]\nreturn {reduce.code(g=inside)}"


@family(
    "numbers",
    ("rows",),
    (
        (ALL, *NUMBER_TESTS),
        NUMBER_MAPS,
        only(NUMBER_REDUCERS, "sum", "max", "min", "first", "distinct"),
        without(NUMBER_REDUCERS, "first"),
    ),
)
def rowwise(
    say: Say, args: list[str], test: Bound, change: Bound, inner: Bound, outer: Bound
) -> tuple[str, str]:
    (rows,) = args
    each = inner.one(change.many(numbers_that(say, test, "it")))
    doc = f"For each list in {rows} take {each}. Return {outer.one('these')}."
    row = inner.code(g=loop(change.code(x="x"), "x", "row", test.code(x="x")))
    return doc, f"return {outer.code(g=loop(row, 'row', rows))}"


# --- text ---


@family(
    "text",
    ("text",),
    (CHAR_TESTS, CHAR_TESTS, without(CHAR_MAPS, ""), CHAR_MAPS, CHAR_REDUCERS),
)
def sifted(
    say: Say, args: list[str], kept: Bound, test: Bound, then: Bound, other: Bound, reduce: Bound
) -> tuple[str, str]:
    (s,) = args
    those = f"the {kept.one()} in {s}"
    doc = (
        f"Return {reduce.one(those)}, with {then.one(f'the {test.one()}')} "
        f"and {other.one('all others')}."
    )
    change = f"{then.code(c='c')} if {test.code(c='c')} else {other.code(c='c')}"
    return doc, f"return {reduce.code(g=loop(change, 'c', s, kept.code(c='c')))}"


# --- words ---


@family(
    "words",
    ("words",),
    (WORD_TESTS, CHAR_TESTS, CHAR_MAPS, TEXT_REDUCERS),
)
def spelled(
    say: Say, args: list[str], test: Bound, letters: Bound, change: Bound, reduce: Bound
) -> tuple[str, str]:
    (s,) = args
    doc = (
        f"In each of {words_that(say, test, s)} keep only {change.one(f'the {letters.one()}')}. "
        f"Return {reduce.one('the results')}."
    )
    word = f'"".join({loop(change.code(c="c"), "c", "w", letters.code(c="c"))})'
    return doc, f"return {reduce.code(g=loop(word, 'w', f'{s}.split()', test.code(w='w')))}"


@family(
    "words",
    ("words",),
    (WORD_TESTS, without(WORD_MAPS, "length", "count"), WORD_TESTS, TEXT_REDUCERS),
)
def rewritten(
    say: Say, args: list[str], one: Bound, change: Bound, two: Bound, reduce: Bound
) -> tuple[str, str]:
    (s,) = args
    doc = f"Take {change.many(words_that(say, one, s))}. Return {reduce.one(f'those {two.one()}')}."
    kept = loop(change.code(w="w"), "w", f"{s}.split()", one.code(w="w"))
    return doc, f"kept = [{kept}]\nreturn {reduce.code(g=loop('w', 'w', 'kept', two.code(w='w')))}"


# --- dictionaries ---

GROUPINGS = (
    Part("count", "groups[key] = groups.get(key, 0) + 1", ("how many there are",)),
    Part("sum", "groups[key] = groups.get(key, 0) + {m}", ("the sum of {v}", "the total of {v}")),
    Part("max", "groups[key] = max(groups.get(key, 0), {m})", ("the maximum of 0 and {v}",)),
    Part("list", "groups.setdefault(key, []).append({m})", ("the list of {v}", "a list of {v}")),
    Part("last", "groups[key] = {m}", ("the last of {v}",)),
    Part("first", "groups.setdefault(key, {m})", ("the first of {v}",)),
)


@family(
    "dicts",
    ("ints",),
    (
        (ALL, *NUMBER_TESTS),
        only(NUMBER_MAPS, "mod", "digit", "quotient", "abs", "square", "cap", "lift"),
        NUMBER_MAPS,
        GROUPINGS,
    ),
)
def grouped(
    say: Say, args: list[str], test: Bound, by: Bound, change: Bound, update: Bound
) -> tuple[str, str]:
    (xs,) = args
    doc = (
        f"Group {numbers_that(say, test, xs)} by {by.one('x')} and map each key to "
        f"{update.one(change.many('its numbers'))}."
    )
    body = guarded(test.code(x="x"), f"key = {by.code(x='x')}", update.code(m=change.code(x="x")))
    return doc, f"groups = {{}}\nfor x in {xs}:\n{body}return groups"


OFTEN = (
    Part("often", "count > {k}", ("above {k}",), constants=(1, 2)),
    Part("atleast", "count >= {k}", ("at least {k}",), constants=(2, 3)),
    Part("rare", "count < {k}", ("below {k}",), constants=(2, 3)),
    Part("exactly", "count == {k}", ("equal to {k}",), constants=(1, 2, 3)),
    Part("odd", "count % 2 == 1", ("odd",)),
    Part("even", "count % 2 == 0", ("even",)),
)
TALLY_REDUCERS = (
    Part("keys", "sorted(key for {g})", ("the sorted list of those whose count is {v}",)),
    Part("dict", "{{key: count for {g}}}", ("a dictionary of the counts that are {v}",)),
    Part("sum", "sum(count for {g})", ("the sum of the counts that are {v}",)),
    Part("join", '"".join(key for {g})', ("a string of those whose count is {v}",)),
)


@family(
    "dicts",
    ("text",),
    ((ALL, *CHAR_TESTS), CHAR_MAPS[:7], OFTEN, TALLY_REDUCERS),
)
def tallied(
    say: Say, args: list[str], test: Bound, change: Bound, often: Bound, reduce: Bound
) -> tuple[str, str]:
    (s,) = args
    those = change.one(f"the {test.one() or 'characters'} in {s}")
    doc = f"Count {those}. Return {reduce.one(often.one())}."
    body = guarded(
        test.code(c="c"), f"key = {change.code(c='c')}", "counts[key] = counts.get(key, 0) + 1"
    )
    inside = f"key, count in counts.items() if {often.code()}"
    return doc, f"counts = {{}}\nfor c in {s}:\n{body}return {reduce.code(g=inside)}"


# --- sorting ---

COARSE = only(NUMBER_MAPS, "mod", "digit", "quotient", "cap", "lift")  # so that there are ties
FINE = only(NUMBER_MAPS, "negate", "abs", "distance", "mod", "digit")
CUTS = (
    Part("all", "", ("them",)),
    Part("head", "[:{k}]", ("the first {k}",), constants=COUNTS),
    Part("tail", "[-{k}:]", ("the last {k}",), constants=COUNTS),
    Part("rest", "[{k}:]", ("all after the first {k}",), constants=COUNTS),
    Part("second", "[::2]", ("every second one",)),
    Part("flip", "[::-1]", ("them in reverse order",)),
)


@family(
    "sorting",
    ("ints",),
    ((ALL, *NUMBER_TESTS), COARSE, FINE, CUTS),
)
def ranked(
    say: Say, args: list[str], test: Bound, one: Bound, two: Bound, cut: Bound
) -> tuple[str, str]:
    (xs,) = args
    doc = (
        f"Sort {numbers_that(say, test, xs)} by {one.one('x')}, ties by {two.one('x')}. "
        f"Return {cut.one()}."
    )
    those = f"[{loop('x', 'x', xs, test.code(x='x'))}]" if test.key else xs
    by = f"lambda x: ({one.code(x='x')}, {two.code(x='x')})"
    return doc, f"kept = sorted({those}, key={by})\nreturn kept{cut.code()}"


@family(
    "sorting",
    ("words",),
    (
        (ALL, *WORD_TESTS),
        only(WORD_MAPS, "length", "last", "reverse", "lower", "count", "rest", "initial"),
        CUTS,
        WORD_MAPS,
    ),
)
def shelved(
    say: Say, args: list[str], test: Bound, by: Bound, cut: Bound, change: Bound
) -> tuple[str, str]:
    (s,) = args
    doc = (
        f"Sort {words_that(say, test, s)} by {by.one('the word')}. "
        f"Return a list of {change.many(cut.one())}."
    )
    those = f"{s}.split()"
    if test.key:
        those = f"[{loop('w', 'w', those, test.code(w='w'))}]"
    kept = f"sorted({those}, key=lambda w: {by.code(w='w')})"
    return doc, f"kept = {kept}\nreturn [{loop(change.code(w='w'), 'w', f'kept{cut.code()}')}]"


# --- pairs ---


@family(
    "pairs",
    ("left", "right"),
    ((ALL, *PAIR_TESTS), PAIR_MAPS, FEW_TESTS, CHANGES, FEW_REDUCERS),
)
def combined(
    say: Say, args: list[str], pairs: Bound, pair: Bound, test: Bound, change: Bound, reduce: Bound
) -> tuple[str, str]:
    xs, ys = args
    those = f"{pair.one()} of pairs from {xs} and {ys}"
    if pairs.key:
        those += say(f" where {pairs.one()}", f" such that {pairs.one()}")
    taken = change.many(f"those that are {test.one()}")
    doc = f"Take {those}. Return {reduce.one(taken)}."
    over = f"zip({xs}, {ys})"
    kept = loop(pair.code(a="a", b="b"), "a, b", over, pairs.code(a="a", b="b"))
    inside = loop(change.code(x="x"), "x", "kept", test.code(x="x"))
    return doc, f"kept = [{kept}]\nreturn {reduce.code(g=inside)}"


# --- loops ---


@family(
    "loops",
    ("ints",),
    (NUMBER_TESTS, NUMBER_TESTS, FEW_MAPS, FEW_MAPS),
)
def balance(
    say: Say, args: list[str], stop: Bound, test: Bound, more: Bound, less: Bound
) -> tuple[str, str]:
    (xs,) = args
    doc = (
        f"Go through {xs} until a number is {stop.one()}: add {more.one('x')} if x is "
        f"{test.one()}, otherwise subtract {less.one('x')}. Return the total."
    )
    body = guarded(stop.code(x="x"), "break") + guarded(
        test.code(x="x"), f"total += {more.code(x='x')}"
    )
    body += guarded("", "else:", f"    total -= {less.code(x='x')}")
    return doc, f"total = 0\nfor x in {xs}:\n{body}return total"


REMEMBERED = (
    Part("before", "last = x", ("the number before",)),
    Part("kept", "last = x", ("the last one used",)),
    Part("highest", "last = max(last, x)", ("the largest so far",)),
    Part("lowest", "last = min(last, x)", ("the smallest so far",)),
    Part("total", "last += x", ("the sum so far",)),
)


@family(
    "loops",
    ("ints",),
    (REMEMBERED, FEW_TESTS, CHANGES, GATHERS),
)
def compared(
    say: Say, args: list[str], memory: Bound, test: Bound, change: Bound, gather: Bound
) -> tuple[str, str]:
    (xs,) = args
    doc = (
        f"Of {numbers_that(say, test, xs)} take those above {memory.one()} (0 at first). "
        f"Return {gather.one(change.many('these'))}."
    )
    condition = f"{test.code(x='x')} and x > last"
    update = gather.code(m=change.code(x="x"))
    if memory.key == "kept":
        body = guarded(condition, update, memory.code())
    else:
        body = guarded(condition, update) + guarded("", memory.code())
    return doc, f"last = 0\n{initial(gather)}for x in {xs}:\n{body}return total"


FAMILIES = (
    branches,
    steps,
    nested,
    claimed,
    chain,
    rowwise,
    sifted,
    spelled,
    rewritten,
    grouped,
    tallied,
    ranked,
    shelved,
    combined,
    balance,
    compared,
)
