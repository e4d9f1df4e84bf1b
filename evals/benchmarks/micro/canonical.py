"""One form for all programs that differ in names only."""

import ast


class _Renamer(ast.NodeTransformer):
    """Names in the order of their first appearance; names nobody binds (builtins) stay."""

    def __init__(self, bound: set[str]) -> None:
        self.bound = bound
        self.names: dict[str, str] = {}

    def rename(self, name: str) -> str:
        if name not in self.bound:
            return name
        return self.names.setdefault(name, f"v{len(self.names)}")

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.name = self.rename(node.name)
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        self.generic_visit(node)
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.arg = self.rename(node.arg)
        node.annotation = None
        return node

    def visit_Name(self, node: ast.Name) -> ast.Name:
        node.id = self.rename(node.id)
        return node


def canonical_form(code: str) -> str:
    """A program without its docstrings, with functions, arguments and locals renamed alike.

    Equal for two programs that differ in those names, in phrasing or in layout only; constants
    stay.

    Raises:
        SyntaxError: the code is none.
    """
    tree = ast.parse(code)
    bound = {
        *(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)),
        *(node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)),
        *(
            node.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        ),
    }
    return ast.unparse(_Renamer(bound).visit(tree))
