"""Constructor calls kept as text in old checkpoints, such as "AsymmetricMASt3R(img_size=(512, 512), …)", read as data.

Nothing is ever evaluated: a call is a name and literals (numbers, inf, strings, booleans, None, tuples and lists).
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from manyview.errors import UserError

LONGEST = 10_000


@dataclass(frozen=True)
class Call:
    """A constructor's name and what it was given."""

    name: str
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]


def parse(text: str) -> Call:
    """'Name(1, key=(2, inf))' -> Call("Name", (1,), {"key": (2, inf)}). Raises UserError for anything else."""
    shown = repr(text[:60])
    if len(text) > LONGEST:
        raise UserError(f"the model string {shown}… has {len(text)} characters; a constructor call is shorter")
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("it is no call of a name")
        if any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("** is no literal")
        return Call(
            call.func.id,
            tuple(_literal(argument) for argument in call.args),
            {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords},
        )
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(
            f"the file's model string {shown} is refused: {error}; only a constructor with plain values is read"
        ) from error


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str, type(None))):
        return node.value
    if isinstance(node, ast.Name) and node.id == "inf":
        return math.inf
    if isinstance(node, ast.Tuple):
        return tuple(_literal(item) for item in node.elts)
    if isinstance(node, ast.List):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return -value
    raise ValueError(f"{ast.unparse(node)[:40]!r} is no literal")
