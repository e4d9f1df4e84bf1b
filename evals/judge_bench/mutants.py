"""Programs with one small mistake each, made from reference solutions.

Deterministic: the same solutions give the same programs each time.
"""

from __future__ import annotations

import ast
import copy
import itertools
import random
import textwrap
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from evals.records import Task

# One in so many programs may be one whose loop was changed: many of these never end.
LOOPS_ONE_IN: Final = 60

_LOOP: Final = "loop"


class Mutant(NamedTuple):
    """A completion of a task. `kind` says what was changed; a changed `while` may never end."""

    task_id: str
    kind: str
    completion: str


def mutants(tasks: Sequence[Task], count: int, loops_one_in: int = LOOPS_ONE_IN) -> list[Mutant]:
    """So many mutants of the tasks' reference solutions, as evenly spread as these allow.

    No two have the same text, nor is one the reference's. There are fewer where the solutions do
    not give that many.
    """
    queues = [_of_task(task) for task in tasks]
    chosen: list[Mutant] = []
    num_loops = 0
    while queues and len(chosen) < count:
        still: list[Iterator[Mutant]] = []
        for queue in queues:
            for mutant in queue:
                if mutant.kind == _LOOP:
                    if num_loops * loops_one_in >= len(chosen):
                        continue
                    num_loops += 1
                chosen.append(mutant)
                still.append(queue)
                break
        queues = still
    return chosen[:count]


def _of_task(task: Task) -> Iterator[Mutant]:
    """All of a task's, each kind in turn."""
    if task.reference is None:
        return
    by_kind: dict[str, list[str]] = defaultdict(list)
    body = _Body(task)
    seen = {body.text()}
    for kind, completion in body.variants():
        if completion not in seen:
            seen.add(completion)
            by_kind[kind].append(completion)
    order = random.Random(task.task_id)
    kinds = sorted(by_kind)
    order.shuffle(kinds)
    for kind in kinds:
        order.shuffle(by_kind[kind])
    for row in itertools.zip_longest(*(by_kind[kind] for kind in kinds)):
        for kind, completion in zip(kinds, row, strict=True):
            if completion is not None:
                yield Mutant(task.task_id, kind, completion)


class _Body:
    """What a completion holds: the rest of the function that the prompt began, or all of it."""

    def __init__(self, task: Task) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes such as "\w"
            tree = ast.parse(task.program_prefix + (task.reference or ""))
        self._is_indented = bool(task.program_prefix.strip())
        if not self._is_indented:
            self._tree = tree
            return
        at, entry = next(
            (at, node)
            for at, node in reversed([*enumerate(tree.body)])
            if isinstance(node, ast.FunctionDef) and node.name == task.entry_point
        )
        is_documented = ast.get_docstring(entry, clean=False) is not None
        self._tree = ast.Module(body=entry.body[is_documented:], type_ignores=[])
        self._after = ast.Module(body=tree.body[at + 1 :], type_ignores=[])

    def text(self) -> str:
        text = ast.unparse(self._tree)
        if not self._is_indented:
            return f"{text}\n"
        after = ast.unparse(self._after)
        return f"{textwrap.indent(text, '    ')}\n{after and after + chr(10)}"

    def variants(self) -> Iterator[tuple[str, str]]:
        """Kind and text of each change to one place."""
        for place in list(_places(self._tree)):
            for kind, node in _changes(place.node):
                place.put(node)
                yield (_LOOP if place.is_in_loop else kind), self.text()
            place.put(place.node)


class _Place:
    """A node, where it hangs, and whether a `while` is around it."""

    def __init__(self, parent: ast.AST, field: str, at: int | None, is_in_loop: bool) -> None:
        self._parent, self._field, self._at = parent, field, at
        held = getattr(parent, field)
        self.node: ast.AST = held if at is None else held[at]
        self.is_in_loop = is_in_loop

    def put(self, node: ast.AST) -> None:
        if self._at is None:
            setattr(self._parent, self._field, node)
        else:
            getattr(self._parent, self._field)[self._at] = node


# Neither types nor what stands in an f-string change what a program does, or can be written.
_LEFT_ALONE: Final = {"annotation", "returns", "decorator_list", "format_spec"}


def _places(parent: ast.AST, is_in_loop: bool = False) -> Iterator[_Place]:
    if isinstance(parent, ast.JoinedStr):
        return
    is_in_loop = is_in_loop or isinstance(parent, ast.While)
    for field, held in ast.iter_fields(parent):
        if field in _LEFT_ALONE:
            continue
        for at, node in enumerate(held) if isinstance(held, list) else [(None, held)]:
            if isinstance(node, ast.expr | ast.stmt | ast.comprehension) and not _is_text(node):
                yield _Place(parent, field, at, is_in_loop)
                yield from _places(node, is_in_loop)


def _is_text(node: ast.AST) -> bool:
    """A docstring, or what else stands alone and does nothing."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What may stand in the node's place, and which kind of mistake that is."""
    match node:
        case ast.Compare():
            for other in _COMPARISONS.get(type(node.ops[0]), ()):
                yield "comparison", _with(node, ops=[other(), *node.ops[1:]])
        case ast.BinOp() | ast.AugAssign():
            for operator in _ARITHMETIC.get(type(node.op), ()):
                yield "arithmetic", _with(node, op=operator())
            if isinstance(node, ast.BinOp):
                yield "operands", _with(node, left=node.right, right=node.left)
        case ast.BoolOp():
            yield "and, or", _with(node, op=ast.And() if isinstance(node.op, ast.Or) else ast.Or())
        case ast.UnaryOp():
            yield "sign", node.operand
        case ast.Constant():
            for value in _other_values(node.value):
                yield "constant", ast.Constant(value)
        case ast.Subscript():
            yield from _other_subscripts(node)
        case ast.Call():
            yield from _other_calls(node)
        case ast.comprehension():
            yield from _other_comprehensions(node)
        case ast.List() if isinstance(node.ctx, ast.Load):
            yield "literal", ast.Tuple(node.elts, ast.Load())
        case ast.Tuple() if isinstance(node.ctx, ast.Load):
            yield "literal", ast.List(node.elts, ast.Load())
        case ast.IfExp():
            yield "condition", _with(node, test=ast.UnaryOp(ast.Not(), node.test))
        case ast.stmt():
            yield from _other_statements(node)


def _other_statements(node: ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.FunctionDef() | ast.ClassDef() | ast.Import() | ast.ImportFrom() | ast.Pass():
            return
        case ast.If() | ast.While():
            yield "condition", _with(node, test=ast.UnaryOp(ast.Not(), node.test))
        case ast.For():
            yield "range", _with(node, iter=_expression("list({})[1:]", node.iter))
            yield "range", _with(node, iter=_expression("list({})[:-1]", node.iter))
            yield "order", _with(node, iter=_expression("list({})[::-1]", node.iter))
        case ast.Return() if node.value is not None:
            for kind, shape in _OTHER_ANSWERS:
                yield kind, ast.Return(_expression(shape, node.value))
            yield "no answer", ast.Expr(ast.Yield(node.value))
            yield "no answer", ast.Expr(_expression("print({})", node.value))
            for error in ("ValueError", "KeyError", "SystemExit", "StopIteration"):
                yield "raises", ast.parse(f"raise {error}({error!r})").body[0]
        case ast.Raise():
            yield "raises", ast.parse("raise ZeroDivisionError").body[0]
            yield "raises", ast.Return(ast.Constant(None))
        case ast.Break():
            yield "jump", ast.Continue()
        case ast.Continue():
            yield "jump", ast.Break()
    yield "statement", ast.Pass()


def _other_subscripts(node: ast.Subscript) -> Iterator[tuple[str, ast.AST]]:
    part = node.slice
    if not isinstance(part, ast.Slice):
        if isinstance(node.ctx, ast.Load):
            yield "index", _with(node, slice=_expression("{} - 1", part))
            yield "index", _with(node, slice=_expression("{} + 1", part))
        return
    for end in ("lower", "upper"):
        bound = getattr(part, end)
        if bound is not None:
            for shape in ("{} + 1", "{} - 1"):
                yield "slice", _with(node, slice=_with(part, **{end: _expression(shape, bound)}))
            yield "slice", _with(node, slice=_with(part, **{end: None}))


def _other_calls(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    match node.func:
        case ast.Name(id="range"):
            for at, argument in enumerate(node.args[:2]):
                for shape in ("{} + 1", "{} - 1"):
                    arguments = [*node.args]
                    arguments[at] = _expression(shape, argument)
                    yield "range", _with(node, args=arguments)
        case ast.Name(id=name) if name in _FUNCTIONS:
            yield "function", _with(node, func=ast.Name(_FUNCTIONS[name], ast.Load()))
        case ast.Attribute(attr=name) if name in _METHODS:
            yield "function", _with(node, func=_with(node.func, attr=_METHODS[name]))
    if len(node.args) > 1 and not any(isinstance(each, ast.Starred) for each in node.args):
        yield "operands", _with(node, args=[*node.args[1::-1], *node.args[2:]])
    if node.keywords:
        yield "arguments", _with(node, keywords=node.keywords[:-1])


def _other_comprehensions(node: ast.comprehension) -> Iterator[tuple[str, ast.AST]]:
    if node.ifs:
        yield "condition", _with(node, ifs=node.ifs[1:])
        negated = ast.UnaryOp(ast.Not(), node.ifs[0])
        yield "condition", _with(node, ifs=[negated, *node.ifs[1:]])
    yield "range", _with(node, iter=_expression("list({})[1:]", node.iter))


def _other_values(value: object) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield value + 1
        yield value - 1
        yield float(value) if isinstance(value, int) else int(value)
    elif isinstance(value, str):
        yield value + " "
        yield value.swapcase()
        yield value[1:]
    elif value is None:
        yield 0


def _with(node: ast.AST, **fields: Any) -> Any:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _expression(shape: str, held: ast.expr) -> ast.expr:
    """The expression with what it holds in place of {}."""
    (statement,) = ast.parse(shape.replace("{}", f"({ast.unparse(held)})")).body
    assert isinstance(statement, ast.Expr)
    return statement.value


_COMPARISONS: Final[dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Eq: (ast.NotEq, ast.Is),
    ast.NotEq: (ast.Eq,),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_ARITHMETIC: Final[dict[type[ast.operator], tuple[type[ast.operator], ...]]] = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add, ast.FloorDiv),
    ast.Div: (ast.FloorDiv, ast.Mult),
    ast.FloorDiv: (ast.Div,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitXor: (ast.BitOr,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
}
_FUNCTIONS: Final = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "sorted": "list",
    "list": "tuple",
    "tuple": "list",
    "set": "list",
    "int": "float",
    "float": "int",
    "abs": "float",
    "sum": "max",
    "len": "bool",
    "round": "int",
    "str": "repr",
    "map": "filter",
}
_METHODS: Final = {
    "append": "extend",
    "lower": "upper",
    "upper": "lower",
    "islower": "isupper",
    "isupper": "islower",
    "startswith": "endswith",
    "endswith": "startswith",
    "strip": "lstrip",
    "find": "rfind",
    "split": "partition",
    "items": "keys",
    "keys": "values",
    "values": "keys",
    "add": "discard",
    "pop": "index",
    "isdigit": "isalpha",
    "isalpha": "isalnum",
}
# Answers that are wrong, nearly right, or of another type: with the last, harnesses agree only if
# they agree about what is equal.
_OTHER_ANSWERS: Final = (
    ("no answer", "None"),
    ("no answer", "..."),
    ("no answer", "lambda: {}"),
    ("value", "not {}"),
    ("value", "-{}"),
    ("value", "{} + 1"),
    ("value", "{} * 2"),
    ("value", "{}[:-1]"),
    ("value", "{}[::-1]"),
    ("value", "sorted({})"),
    ("close", "{} + 1e-9"),
    ("close", "{} * (1 + 1e-6)"),
    ("close", "round({}, 2)"),
    ("close", "float('nan')"),
    ("type", "[{}]"),
    ("type", "({},)"),
    ("type", "tuple({})"),
    ("type", "list({})"),
    ("type", "set({})"),
    ("type", "frozenset({})"),
    ("type", "str({})"),
    ("type", "int({})"),
    ("type", "float({})"),
    ("type", "bool({})"),
    ("type", "complex({})"),
    ("type", "bytes({}, 'utf-8')"),
    ("type", "type('Same', ({}.__class__,), dict())({})"),
    ("lazy", "iter({})"),
    ("lazy", "reversed({})"),
    ("lazy", "enumerate({})"),
    ("lazy", "dict.fromkeys({}).keys()"),
    ("library", "__import__('collections').OrderedDict({})"),
    ("library", "__import__('collections').Counter({})"),
    ("library", "__import__('collections').deque({})"),
    ("library", "__import__('collections').UserList({})"),
    ("library", "__import__('fractions').Fraction({})"),
    ("library", "__import__('decimal').Decimal({})"),
)
