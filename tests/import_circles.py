"""Circles of imports between modules of a package, at module level and through functions, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

# Module -> the modules of the same package that it imports.
Graph = Mapping[str, set[str]]


def modules_of(root: Path) -> dict[str, Path]:
    """Dotted name -> file, for the package whose folder is root; a folder's name is its `__init__`'s."""
    names = {}
    for path in sorted(root.rglob("*.py")):
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports(root: Path, *, deferred: bool) -> dict[str, set[str]]:
    """Each module's imports within the package: those that run on import, or, deferred, those within functions.

    What stands under `if TYPE_CHECKING` runs never and counts for neither.
    """
    modules = modules_of(root)
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        statements = _imports(ast.parse(path.read_text(encoding="utf-8")), within=False)
        graph[name] = {
            target for statement, within in statements if within == deferred for target in _targets(statement, modules)
        } - {name}
    return graph


def _imports(node: ast.AST, *, within: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import under a node, and whether it is within a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, within
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for statement in child.orelse:
                yield from _imports(ast.Module([statement], []), within=within)
        else:
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, within=within or function)


def _targets(statement: ast.Import | ast.ImportFrom, modules: Mapping[str, Path]) -> Iterator[str]:
    """Modules that a statement names: `from a import b` is a.b where that is a module, else a."""
    if isinstance(statement, ast.Import):
        names = [alias.name for alias in statement.names]
    else:
        base = statement.module or ""
        names = [name if (name := f"{base}.{alias.name}") in modules else base for alias in statement.names]
    yield from (name for name in names if name in modules)


def circles(graph: Graph) -> list[frozenset[str]]:
    """Groups of modules each of which reaches every other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    groups: list[frozenset[str]] = []

    def visit(module: str) -> None:
        index[module] = lowest[module] = len(index)
        stack.append(module)
        for target in sorted(graph[module]):
            if target not in index:
                visit(target)
                lowest[module] = min(lowest[module], lowest[target])
            elif target in stack:
                lowest[module] = min(lowest[module], index[target])
        if lowest[module] == index[module]:
            group = frozenset(stack[stack.index(module) :])
            del stack[stack.index(module) :]
            if len(group) > 1:
                groups.append(group)

    for module in sorted(graph):
        if module not in index:
            visit(module)
    return sorted(groups, key=sorted)


def joined(*graphs: Graph) -> dict[str, set[str]]:
    """The imports of all of them together."""
    return {name: set().union(*(graph[name] for graph in graphs)) for name in graphs[0]}
