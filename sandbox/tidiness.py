"""Whether checks leave their process as they found it, by what their text could do at all.

The same process then runs the checks of the next program. What is allowed is listed; checks that do
anything else (define a class, patch a module, walk frames) get a process to themselves. To doubt is
cheap: such checks cost a fork each time.

What is listed reaches no object that can be changed and that others find; nor does it make one that
passes for another (in a cache of a library's), or that does something when it is let go of. Hence
neither classes nor generators that end in statements of their own.
"""

import ast
import builtins
import functools
from collections.abc import Iterable, Iterator
from typing import Final

from sandbox import checker

_NODES: Final = (
    ast.mod, ast.expr_context, ast.boolop, ast.operator, ast.unaryop, ast.cmpop,
    ast.arguments, ast.arg, ast.keyword, ast.alias, ast.comprehension, ast.ExceptHandler,
    ast.FunctionDef, ast.Return, ast.Delete, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.For,
    ast.While, ast.If, ast.Raise, ast.Try, ast.Assert, ast.Import, ast.ImportFrom, ast.Global,
    ast.Nonlocal, ast.Expr, ast.Pass, ast.Break, ast.Continue,
    ast.BoolOp, ast.NamedExpr, ast.BinOp, ast.UnaryOp, ast.Lambda, ast.IfExp, ast.Dict, ast.Set,
    ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Compare,
    ast.Call, ast.FormattedValue, ast.JoinedStr, ast.Constant, ast.Attribute,
    ast.Subscript, ast.Starred, ast.Name, ast.List, ast.Tuple, ast.Slice,
)  # fmt: skip
_BUILTINS: Final = frozenset(
    """
    abs all any ascii bin bool bytearray bytes callable chr complex dict divmod enumerate filter
    float frozenset hash hex id int isinstance issubclass iter len list map max min next object oct
    ord pow print range repr reversed round set slice sorted str sum tuple zip
    Ellipsis NotImplemented __name__
    """.split()  # noqa: SIM905
).union(
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
)
# What may be taken from modules. Random state is put back each time.
_MODULES: Final = {
    module: frozenset(names.split())
    for module, names in {
        "__future__": "annotations",
        "bisect": "bisect bisect_left bisect_right insort insort_left insort_right",
        "cmath": "e exp inf isclose nan phase pi polar rect sqrt",
        "collections": "Counter OrderedDict defaultdict deque",
        "copy": "copy deepcopy",
        "datetime": "date datetime time timedelta",
        "decimal": "Decimal",
        "fractions": "Fraction",
        "functools": "cmp_to_key partial reduce",
        "heapq": "heapify heappop heappush heappushpop heapreplace merge nlargest nsmallest",
        "itertools": """
            accumulate chain combinations combinations_with_replacement compress count cycle
            dropwhile filterfalse groupby islice pairwise permutations product repeat starmap
            takewhile tee zip_longest""",
        "json": "dumps loads",
        "math": """
            acos acosh asin asinh atan atan2 atanh cbrt ceil comb copysign cos cosh degrees dist e
            erf erfc exp exp2 expm1 fabs factorial floor fmod frexp fsum gamma gcd hypot inf isclose
            isfinite isinf isnan isqrt lcm ldexp lgamma log log10 log1p log2 modf nan nextafter perm
            pi pow prod radians remainder sin sinh sqrt tan tanh tau trunc ulp""",
        "numbers": "Complex Integral Number Rational Real",
        "operator": """
            add and_ concat contains eq floordiv ge gt itemgetter le lt mod mul ne neg not_ or_ pos
            sub truediv xor""",
        "random": """
            Random choice choices gauss getrandbits randint random randrange sample seed shuffle
            uniform""",
        "re": "DOTALL IGNORECASE MULTILINE VERBOSE compile escape findall finditer fullmatch match "
        "search split sub subn",
        "statistics": """
            fmean geometric_mean harmonic_mean mean median median_high median_low mode multimode
            pstdev pvariance stdev variance""",
        "string": """
            ascii_letters ascii_lowercase ascii_uppercase capwords digits hexdigits octdigits
            printable punctuation whitespace""",
        "typing": """
            Any Callable Dict FrozenSet Generator Iterable Iterator List Mapping NoReturn Optional
            Sequence Set Text Tuple Type Union""",
    }.items()
}
# Of values. Not `format`, which walks along attributes that are named in text.
_METHODS: Final = frozenset(
    """
    __name__ args
    capitalize casefold center count decode encode endswith expandtabs find index isalnum isalpha
    isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper
    join ljust lower lstrip maketrans partition removeprefix removesuffix replace rfind rindex
    rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title translate upper
    zfill
    append appendleft clear copy extend extendleft insert pop popleft remove reverse rotate sort
    elements fromkeys get items keys most_common move_to_end popitem setdefault subtract total
    update values
    add difference difference_update discard intersection intersection_update isdisjoint issubset
    issuperset symmetric_difference symmetric_difference_update union
    as_integer_ratio bit_count bit_length conjugate denominator from_bytes fromhex hex imag
    is_integer numerator real to_bytes
    day days hour isoformat minute month second seconds strftime strptime total_seconds today
    weekday year
    end group groupdict groups span start
    """.split()  # noqa: SIM905
)
_ATTRIBUTES: Final = _METHODS.union(*_MODULES.values())


# Of the builtins' kind, and what a module finds in its namespace without having written it.
_UNLISTED: Final = vars(builtins).keys() - _BUILTINS


@functools.lru_cache(maxsize=256)
def is_tidy(source: str, names: tuple[str, ...]) -> bool:
    """Whether these checks may share a process with others."""
    try:
        tree = ast.parse(checker.without_definitions(source, names), checker.FILE_NAME)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    nodes = [*ast.walk(tree)]
    compared = set(map(id, _types_compared(nodes)))
    return all(_is_listed(node) or id(node) in compared for node in nodes)


def _is_listed(node: ast.AST) -> bool:
    # `import operator as __builtins__` makes all of it names to the functions here.
    if any(name.startswith("__") for name in _names_bound(node)):
        return False
    match node:
        case ast.Name(name):
            return name in _BUILTINS or not (name in _UNLISTED or name.startswith("__"))
        case ast.Attribute(attr=name):
            return name in _ATTRIBUTES and isinstance(node.ctx, ast.Load)
        case ast.Import(aliases):
            return all(each.name in _MODULES for each in aliases)
        case ast.ImportFrom(module, aliases):
            listed = _MODULES.get(module or "", frozenset())
            return not node.level and all(each.name in listed for each in aliases)
    return isinstance(node, _NODES)


def _names_bound(node: ast.AST) -> Iterator[str]:
    """Those that stand in the node itself, and not as a name among its parts."""
    match node:
        case ast.FunctionDef(name=name) | ast.ExceptHandler(name=str(name)):
            yield name
        case ast.alias(name=name, asname=asname):
            yield asname or name
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            yield from names


def _types_compared(nodes: Iterable[ast.AST]) -> Iterator[ast.Name]:
    """Each ``type`` whose result is compared and nothing else. It could make classes, and so could
    the type of a type."""
    for node in nodes:
        if isinstance(node, ast.Compare):
            for operand in (node.left, *node.comparators):
                match operand:
                    case ast.Call(ast.Name("type") as name, [_], []):
                        yield name
