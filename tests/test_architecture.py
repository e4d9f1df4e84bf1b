"""The arrows between the parts, and what importing one may do."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("mtp_code", "evals", "sandbox")
MAY_IMPORT = {"mtp_code": {"mtp_code"}, "evals": {"evals", "sandbox"}, "sandbox": {"sandbox"}}
CLI = "mtp_code.cli"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")
}


def source_of(name: str) -> str:
    return SOURCES[name].read_text(encoding="utf-8")


@cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(source_of(name))


@cache
def imports_of(name: str, only_at_import_time: bool = False) -> set[str]:
    """Names of modules that a module imports; ours as far as they are modules."""
    found: set[str] = set()
    for node in _statements(tree_of(name), only_at_import_time):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            assert node.module is not None
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            ours = {part for part in parts if part in SOURCES}
            found |= ours
            if len(ours) < len(parts):
                found.add(node.module)
    return found


def is_command_line(name: str) -> bool:
    return name == CLI or name.startswith(f"{CLI}.")


def _statements(node: ast.AST, only_at_import_time: bool) -> Iterator[ast.AST]:
    """Those inside of a node. (Expressions, most of all nodes, import nothing.)"""
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, block, ()):
            if only_at_import_time and (
                isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
                or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test))
            ):
                continue
            yield child
            yield from _statements(child, only_at_import_time)


def test_sources_are_found():
    assert {CLI, "evals.judge", "sandbox.contain", "mtp_code.model.mtp"} <= SOURCES.keys()


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_arrows_run_as_designed(name):
    package = name.partition(".")[0]
    if is_command_line(name):
        return
    ours = {module.partition(".")[0] for module in imports_of(name)} & set(PACKAGES)
    assert ours <= MAY_IMPORT[package]


def test_nobody_imports_the_command_line():
    for name in SOURCES:
        assert is_command_line(name) or not any(map(is_command_line, imports_of(name))), name


def test_training_and_decoding_meet_in_the_checkpoint_only():
    for name in SOURCES:
        for here, there in (("training", "decoding"), ("decoding", "training")):
            if name.startswith(f"mtp_code.{here}"):
                assert not any(m.startswith(f"mtp_code.{there}") for m in imports_of(name)), name


def test_the_model_knows_only_its_configuration():
    for name in SOURCES:
        if name.startswith("mtp_code.model"):
            ours = {m for m in imports_of(name) if m.startswith("mtp_code")}
            assert all(m == "mtp_code.config" or m.startswith("mtp_code.model") for m in ours), name


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        name: {module for module in imports_of(name, only_at_import_time=True) if module in SOURCES}
        for name in SOURCES
    }
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_sandbox_needs_nothing_but_the_standard_library():
    for name in SOURCES:
        if name.startswith("sandbox"):
            for module in imports_of(name):
                top = module.partition(".")[0]
                assert top in sys.stdlib_module_names or top == "sandbox", f"{name}: {module}"


def test_library_code_does_not_print():
    for name in SOURCES:
        if name == "sandbox.__main__" or "print" not in source_of(name):
            continue
        for node in ast.walk(tree_of(name)):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            assert not (is_call and node.func.id == "print"), f"{name}:{node.lineno}"


def test_what_judges_or_reads_a_recipe_loads_no_torch():
    modules = (
        "evals",
        "evals.judge",
        "evals.gate",
        "sandbox",
        CLI,
        "mtp_code.interop.vllm",
        "mtp_code.samplers.endpoint",
        "mtp_code.recipe",
        "mtp_code.data.prepare",
    )
    script = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules: sys.exit(f'importing {name} loads torch')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
