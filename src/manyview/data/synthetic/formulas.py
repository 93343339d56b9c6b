"""Formulas of the catalogue, the data files in which furniture and materials are written down.

    width / 2 - 0.02          sums, comparisons, `x if condition else y`, calls of the functions in WORDS and DRAWN
    0.4 to 0.48               a number drawn between two
    wood or steel or white    one of several
    chance(0.3)               true that often
    wood                      what was named further up, else a constant, else a material drawn anew

What is drawn is drawn from left to right (all that is offered first, then which of it is taken), so that a seed
always gives the same scene. A formula becomes nested functions; it can reach nothing of Python but what is listed.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from importlib import resources
from random import Random
from typing import Any

import yaml

from manyview.data.synthetic.materials import Material, any_colour, flat, grey, hsv, plain, shaded

Names = dict[str, Any]
Formula = Callable[[Names, Random], Any]

WORDS: dict[str, Any] = {
    "pi": math.pi,
    "sin": math.sin,
    "cos": math.cos,
    "min": min,
    "max": max,
    "round": round,
    "material": Material,
    "plain": plain,
    "hsv": hsv,
    "shaded": shaded,
    "flat": flat,
    "grey": grey,
    "white": grey(0.92, gloss=0.2),
    "black": grey(0.1, gloss=0.4),
    "steel": grey(0.7, gloss=0.8),
    "dark_glass": flat(hsv(0.6, 0.2, 0.08), gloss=0.9),
}
DRAWN: dict[str, Callable[..., Any]] = {
    "chance": lambda rng, share: rng.random() < share,
    "any_scale": lambda rng, low, high: low * (high / low) ** rng.random(),  # as often in every octave
    "count": Random.randint,  # from one whole number to another, both included
    "any_colour": any_colour,
}
_FIELDS = [field.name for field in fields(Material)]
_OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
}


def read_catalogue(file: str) -> dict[str, Any]:
    """The contents of a data file of the catalogue."""
    text = resources.files("manyview.data.synthetic").joinpath("catalogue", file).read_text(encoding="utf-8")
    return yaml.load(text, Loader=yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader)


def value(text: Any, names: Names, rng: Random) -> Any:
    """Of a formula or a number. Raises ValueError, which quotes it, when it is none."""
    return formula(text)(names, rng) if isinstance(text, str) else text


def give(names: Names, target: str, result: Any) -> None:
    """Give a value a name; with commas in `target`, several values their names."""
    if ", " in target:
        names.update(zip(target.split(", "), result, strict=True))
    else:
        names[target] = result


@cache
def formula(text: str) -> Formula:
    """Read a formula. Raises ValueError, which quotes it, when it is none."""
    try:
        return _read(ast.parse(text.strip().replace(" to ", " | "), mode="eval").body)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{text!r} is no formula: {error}") from error


def _read(node: ast.expr) -> Formula:
    match node:
        case ast.Constant(value=int() | float() | str() as value):
            return lambda names, rng: value
        case ast.Name(id=name):
            return _word(name)
        case ast.Attribute(value=owner, attr="a" | "b" | "phase" as field):
            material = _read(owner)
            return lambda names, rng: getattr(material(names, rng), field)
        case ast.Tuple(elts=elements):
            return _several([_read(element) for element in elements])
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            positive = _read(operand)
            return lambda names, rng: -positive(names, rng)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            low, high = _read(left), _read(right)
            return lambda names, rng: rng.uniform(low(names, rng), high(names, rng))
        case ast.BinOp(left=left, op=op, right=ast.Constant(value=number)) if type(op) in _OPERATORS:
            only, act = _read(left), _OPERATORS[type(op)]  # the next case would do, one call slower
            return lambda names, rng: act(only(names, rng), number)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            first, act, second = _read(left), _OPERATORS[type(op)], _read(right)
            return lambda names, rng: act(first(names, rng), second(names, rng))
        case ast.BoolOp(op=ast.Or(), values=values):
            offers = [_read(value) for value in values]
            return lambda names, rng: rng.choice([offer(names, rng) for offer in offers])
        case ast.BoolOp(op=ast.And(), values=values):
            conditions = [_read(value) for value in values]
            return lambda names, rng: all(condition(names, rng) for condition in conditions)
        case ast.Compare(left=left, ops=ops, comparators=others) if {type(op) for op in ops} <= {*_OPERATORS}:
            return _comparison([_read(side) for side in (left, *others)], [_OPERATORS[type(op)] for op in ops])
        case ast.IfExp(test=test, body=body, orelse=orelse):
            condition, then, otherwise = _read(test), _read(body), _read(orelse)
            return lambda names, rng: (then if condition(names, rng) else otherwise)(names, rng)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=keywords):
            named = {str(keyword.arg): _read(keyword.value) for keyword in keywords}
            return _call(name, [_read(argument) for argument in arguments], named)
    raise ValueError(f"{ast.unparse(node)!r} is not among what formulas can say")


def _several(items: list[Formula]) -> Formula:
    return lambda names, rng: [item(names, rng) for item in items]


def _word(name: str) -> Formula:
    def look_up(names: Names, rng: Random) -> Any:
        if name in names:
            return names[name]
        return WORDS[name] if name in WORDS else draw(name, rng)

    return look_up


def _comparison(sides: list[Formula], acts: list[Callable[[Any, Any], Any]]) -> Formula:
    def compare(names: Names, rng: Random) -> Any:
        values = [side(names, rng) for side in sides]
        results = [act(left, right) for act, left, right in zip(acts, values, values[1:])]
        return results[0] if len(results) == 1 else all(results)

    return compare


def _call(name: str, arguments: list[Formula], keywords: dict[str, Formula]) -> Formula:
    def call(names: Names, rng: Random) -> Any:
        given = [argument(names, rng) for argument in arguments]
        options = {key: value(names, rng) for key, value in keywords.items()}
        if name in names:
            return names[name](*given, **options)
        return WORDS[name](*given, **options) if name in WORDS else DRAWN[name](rng, *given, **options)

    return call


def draw(name: str, rng: Random) -> Any:
    """A material of the catalogue, or what else of `DRAWN` needs no argument."""
    if name in DRAWN:
        return DRAWN[name](rng)
    entry = _materials()[name]
    if isinstance(entry, str):
        return value(entry, {}, rng)
    names: Names = {}
    for target, text in entry.items():
        give(names, target, value(text, names, rng))
    return names.get("surface") or Material(**{key: names[key] for key in _FIELDS if key in names})


@cache
def _materials() -> dict[str, str | dict[str, Any]]:
    return read_catalogue("materials.yaml")
