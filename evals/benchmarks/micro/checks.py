"""Checks that tell a task's reference from what a near miss would write."""

import ast
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from evals.benchmarks.micro.parts import LETTERS
from evals.benchmarks.micro.programs import Chance, Program, load

Inputs = tuple[Any, ...]

MIN_INPUTS, MAX_INPUTS = 12, 24
POOL_SIZE = 150
MAX_STEPS = 1000  # of a mutant's while loop; references need fewer than 100

WORDS = (
    *("level", "Noon", "kayak", "Stone", "apple", "tree", "Bob", "Map", "at", "toast", "pop"),
    *("Rest", "impose", "sea", "Omit", "bar", "a", "I", "beam", "abate", "mop", "PIE", "site"),
)
ALPHABET = "aeioubmprstAEIOUBMRSTz 019.-!"


def _ints(chance: Chance, near: Sequence[int]) -> list[int]:
    count = chance.integer(1, 8)
    low, high = chance.pick(((-9, 12), (0, 9), (-12, 25), (1, 30), (-6, 3)))
    values = [chance.integer(low, high) for _ in range(count)]
    if near and chance.random() < 0.5:
        at = chance.pick(near) + chance.integer(-1, 1)
        values.insert(chance.integer(0, len(values)), at)
    if chance.random() < 0.3:
        values.append(chance.pick(values))
    return values


def _text(chance: Chance) -> str:
    return "".join(chance.pick(ALPHABET) for _ in range(chance.integer(1, 10)))


def _word(chance: Chance) -> str:
    if chance.random() < 0.5:
        return chance.pick(WORDS)
    word = "".join(chance.pick(LETTERS) for _ in range(chance.integer(1, 7)))
    return chance.pick((word, word, word.capitalize(), word + word[::-1]))


def _words(chance: Chance) -> str:
    return " ".join(_word(chance) for _ in range(chance.integer(1, 6)))


EDGES: dict[str, tuple[Any, ...]] = {
    "int": (0, 1, -1, 2, -2, 3, 4, 5, 6, 7, 8, 9, 10, 12, -7, 15, 20, 35, -30, 100),
    "count": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 20, 25, 30, 36, 47, 60),
    "left": ([], [3], [2, 5], [], [7, -1, 4, 4, 0], [1, 2, 3]),
    "right": ([], [3], [4], [1], [7, 2, -4, 5, 0], [3, 2, 1, 0]),
    "ints": ([], [0], [5], [-3], [4, 4, 4], [1, 2, 3, 4, 5, 6, 7, 8, 9], [6, -2, 7, -5, 0, 10]),
    "rows": ([], [[]], [[], [3]], [[2, 4], [6]], [[1, 3], []], [[-1], [0, 5, 5], [8, -4]]),
    "text": ("", " ", "a", "Z", "7", "Hello World 42", "banana", "aAbB-cC", "MISSISSIPPI"),
    "words": ("", "a", "Noon", "level up", "the Same same the", "pop Toast tree at Bob stem"),
    "dict": ({}, {"a": 0}, {"bo": 5}, {"Map": -3, "at": 4, "tea": 4}),
}


def draw_input(kind: str, chance: Chance, near: Sequence[int]) -> Any:
    """An input of a kind, with numbers close to a program's constants often among it."""
    match kind:
        case "int":
            at = chance.pick(near) if near else 0
            return chance.pick((at + chance.integer(-1, 1), chance.integer(-40, 60)))
        case "count":
            at = chance.pick(near) if near else 0
            return max(0, chance.pick((at + chance.integer(-1, 1), chance.integer(0, 60))))
        case "ints" | "left" | "right":
            return _ints(chance, near)
        case "rows":
            return [
                _ints(chance, near) if chance.random() < 0.8 else []
                for _ in range(chance.integer(1, 4))
            ]
        case "text":
            return _text(chance)
        case "words":
            return _words(chance)
        case "dict":
            return {_word(chance): value for value in _ints(chance, near)}
        case _:
            raise ValueError(f"no inputs of kind {kind!r}")


def draw_pool(program: Program, seed: str, size: int = POOL_SIZE) -> list[Inputs]:
    """Edge cases of the first argument, then inputs by chance, ``size`` in all."""
    chance = Chance(seed)
    near = [constant for constant in program.constants if isinstance(constant, int)]
    pool: list[Inputs] = []
    for number in range(size):
        inputs: list[Any] = []
        for kind in program.kinds:
            if kind.endswith("constant"):
                assert program.parameter is not None
                constant = chance.pick(program.parts[program.parameter].constants)
                near = [constant] if isinstance(constant, int) else near
                inputs.append(constant)
            elif number < len(EDGES.get(kind, ())):
                inputs.append(EDGES[kind][number])
            else:
                inputs.append(draw_input(kind, chance, near))
        if tuple(inputs) not in pool:
            pool.append(tuple(inputs))
    return pool


# --- near misses ---

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATIONS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Mod: ast.FloorDiv,
    ast.FloorDiv: ast.Mod,
    ast.Pow: ast.Mult,
}
CALLS = {
    **{"max": "min", "min": "max", "any": "all", "all": "any", "sum": "max"},
    **{"abs": "int", "set": "list", "upper": "lower", "lower": "upper"},
    **{"isupper": "islower", "islower": "isupper", "isalpha": "isalnum", "isdigit": "isalpha"},
    **{"startswith": "endswith", "endswith": "startswith", "append": "extend"},
}

Change = tuple[str, Any]  # a field of a node, and what stands there instead


def _changes(node: ast.AST) -> Iterator[Change]:
    """Ways to get a node wrong."""
    match node:
        case ast.Compare(ops=[operator]):
            for other in COMPARISONS[type(operator)]:
                yield "ops", [other()]
        case ast.BinOp(op=operation) | ast.AugAssign(op=operation):
            yield "op", OPERATIONS[type(operation)]()
        case ast.BoolOp(op=ast.And()):
            yield "op", ast.Or()
        case ast.BoolOp(op=ast.Or()):
            yield "op", ast.And()
        case ast.UnaryOp(op=ast.USub()):
            yield "op", ast.UAdd()
        case ast.Constant(value=bool(truth)):
            yield "value", not truth
        case ast.Constant(value=int(number)):
            yield "value", number + 1
            yield "value", number - 1
        case ast.comprehension(ifs=[_, *_]):
            yield "ifs", []
        case ast.If() | ast.IfExp():
            for truth in (True, False):
                yield "test", ast.copy_location(ast.Constant(truth), node)
        # Not of a set: the order of its strings changes from run to run.
        case ast.Call(func=ast.Name(id="sorted") as called, args=[ast.GeneratorExp()], keywords=[]):
            yield "func", ast.copy_location(ast.Name("list", ast.Load()), called)
        case ast.Name(id=name) if name in CALLS:
            yield "id", CALLS[name]
        case ast.Attribute(attr=name) if name in CALLS:
            yield "attr", CALLS[name]
        case ast.Slice(step=ast.expr()):
            yield "step", None


def mutants(source: str) -> Iterator[Callable[..., Any]]:
    """Functions that differ from ``f`` of the source in one node."""
    tree = _parse_counting(source)
    for node in list(ast.walk(tree)):
        for field, changed in list(_changes(node)):
            right = getattr(node, field)
            setattr(node, field, changed)
            yield _load_bounded(tree)
            setattr(node, field, right)


def neighbours(program: Program) -> Iterator[Callable[..., Any]]:
    """Functions that differ from the program's in one part or constant."""
    for near in program.neighbours():
        loops = "while" in near.source
        yield _load_bounded(_parse_counting(near.source)) if loops else load(near.source)


def _parse_counting(source: str) -> ast.Module:
    """The source with a call of ``step()`` in every while loop."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.While):
            node.body.insert(0, ast.Expr(ast.Call(ast.Name("step", ast.Load()), [], [])))
    return ast.fix_missing_locations(tree)


def _load_bounded(tree: ast.Module) -> Callable[..., Any]:
    """The function ``f`` of a tree, raising where its while loops would run for ever."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps > MAX_STEPS:
            raise TimeoutError

    function = load(tree, step=step)

    def bounded(*inputs: Any) -> Any:
        nonlocal steps
        steps = 0
        return function(*inputs)

    return bounded


def agrees(function: Callable[..., Any], inputs: Inputs, expected: Any) -> bool:
    """Whether the check of these inputs would hold for a function."""
    try:
        value = function(*inputs)
    except Exception:  # noqa: BLE001 - whatever a wrong program raises, it has failed
        return False
    return value is expected if isinstance(expected, bool) else bool(value == expected)


def choose_inputs(program: Program, seed: str) -> list[Inputs] | None:
    """Inputs on which no neighbour and no mutant agrees throughout with the program.

    None where the program makes no good task: a neighbour, which training may show, does the same;
    results hardly depend on the inputs; or telling all rivals apart takes too many inputs.
    """
    reference = load(program.source)
    pool = draw_pool(program, seed)
    expected = [reference(*inputs) for inputs in pool]
    if not _is_varied(expected):
        return None
    chosen = list(range(5))
    for rival in neighbours(program):
        if not _tell_apart(rival, pool, expected, chosen):
            return None
    for mutant in mutants(program.source):
        _tell_apart(mutant, pool, expected, chosen)
    for i in range(len(pool)):
        if len(chosen) < MIN_INPUTS and i not in chosen:
            chosen.append(i)
    return [pool[i] for i in sorted(chosen)] if len(chosen) <= MAX_INPUTS else None


def _tell_apart(
    rival: Callable[..., Any], pool: list[Inputs], expected: list[Any], chosen: list[int]
) -> bool:
    """Whether some inputs tell; the first that do are chosen where none of those chosen does."""
    for i in (*chosen, *range(len(pool))):
        if not agrees(rival, pool[i], expected[i]):
            if i not in chosen:
                chosen.append(i)
            return True
    return False


def _is_varied(values: list[Any]) -> bool:
    shown = [repr(value) for value in values]
    most_common = max(shown.count(text) for text in set(shown))
    return most_common <= 0.8 * len(shown) and (
        len(set(shown)) >= 5 or all(isinstance(value, bool) for value in values)
    )


def _literal(value: Any) -> str:
    """``repr``, with the elements of a set in order."""
    if isinstance(value, set) and value:
        return "{" + ", ".join(map(repr, sorted(value))) + "}"
    return repr(value)


def write_checks(program: Program, chosen: list[Inputs]) -> str:
    """``check(candidate)`` as HumanEval has it; truth values are compared by identity."""
    reference = load(program.source)
    lines = ["def check(candidate):"]
    for inputs in chosen:
        expected = reference(*inputs)
        relation = "is" if isinstance(expected, bool) else "=="
        call = f"candidate({', '.join(map(_literal, inputs))})"
        lines.append(f"    assert {call} {relation} {_literal(expected)}")
    return "\n".join(lines) + "\n"
