"""Golden cases of metrics and geometry: `run_metrics_folder(DIR)` for any folder with their manifest.json.

Each case is `<item>/<case>.npz` with arrays in__* and out__*; an adapter per item (goldens_metrics_cases.py,
goldens_geometry_cases.py, goldens_matching_cases.py, goldens_probe_cases.py) turns the inputs into our answers under
the names of the outputs. Outputs it does not answer are not checked, and the line says how many were. An item
without adapter is skipped.

Tolerances come from the case's `tol` in manifest.json, a sentence, read so:

- Its first number is the tolerance. An output whose name contains the word just before a later number ("K
  1e-5", "torch_histc 1e-6") has that number; `*_f32` outputs have the number after "_f32 rows tol".
- "relative" allows tol * |expected|, otherwise tol * max(1, |expected|).
- "exact", or no sentence, allows nothing.
- What is stored in float32, or comes from "float32 sources", is allowed eight of that type's rounding steps.
  Two values within the rounding noise of float32 sources around zero (sqrt(n) steps of the largest input) are
  equal.
- "max(A ..., N x library error)": the adapter says which output is the library's error.

Where NaN is expected the source is undefined, and any answer passes that does not crash; NaN from us passes
only there. A masked array leaves its masked elements out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

NUMBER = r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.]*\w)"
ROUNDING_STEPS = 8


class Result(NamedTuple):
    """One line of the report; worst and tolerance are those of the output nearest to (or furthest over) its
    limit.
    """

    status: str
    name: str
    worst: float | None = None
    tolerance: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Error:
    """An error against the truth that must not exceed max(A, N x the library's error)."""

    value: float
    library: float


@dataclass(frozen=True)
class Hint:
    """The sentence about a case's tolerances, taken apart."""

    first: float
    named: tuple[tuple[str, float], ...]
    relative: bool
    float32: bool
    times: float

    def of(self, output: str) -> float:
        """The tolerance of one output."""
        return next((value for word, value in self.named if word in output), self.first)


def read_hint(text: str | None) -> Hint:
    """Take a `tol` sentence apart (see the file's docstring)."""
    text = text or "exact"
    numbers = [float(number) for number in re.findall(NUMBER, text)]
    named = [(word, float(number)) for word, number in re.findall(rf"([A-Za-z_]\w*) ({NUMBER})", text)]
    named = [(word, value) for word, value in named if word not in ("tol", "to", "near", "max")]
    rows = re.search(rf"(\w*_f32) rows tol ({NUMBER})", text)
    if rows:
        named.insert(0, (rows[1], float(rows[2])))
    times = re.search(r"max\([^,]*, (\d+)x", text)
    first = numbers[0] if numbers and not text.startswith("exact") else 0.0
    return Hint(first, tuple(named), "relative" in text, "float32" in text, float(times[1]) if times else math.nan)


def noise_of(inputs: dict[str, np.ndarray], hint: Hint) -> float:
    """What a sum over float32 inputs can be off by; 0 unless the sources are said to be float32."""
    floats = [value for value in inputs.values() if value.dtype.kind == "f" and value.size]
    if not hint.float32 or not floats:
        return 0.0
    largest = max(float(np.abs(value[np.isfinite(value)]).max(initial=0)) for value in floats)
    return float(np.finfo(np.float32).eps) * math.sqrt(max(value.size for value in floats)) * largest


def excess(ours: Any, expected: np.ndarray, tolerance: float, hint: Hint, noise: float = 0.0) -> tuple[float, float]:
    """(deviation, tolerance) of one output, the deviation in the tolerance's unit; infinite when it cannot
    compare.
    """
    if isinstance(ours, Error):
        limit = max(tolerance, hint.times * ours.library)
        return (ours.value if math.isfinite(ours.value) else math.inf), limit
    if np.shape(ours) != expected.shape:
        return math.inf, tolerance
    kept = ~np.ma.getmaskarray(ours) if isinstance(ours, np.ma.MaskedArray) else np.ones(expected.shape, bool)
    ours, expected = np.asarray(ours)[kept], expected[kept]
    if expected.dtype.kind in "bUSiu" or expected.size == 0:
        return (0.0 if np.array_equal(ours, expected) else math.inf), tolerance
    defined = ~np.isnan(expected)
    mine, theirs = ours[defined].astype(np.float64), expected[defined].astype(np.float64)
    same = (mine == theirs) | ((np.abs(mine) <= noise) & (np.abs(theirs) <= noise))  # the first also for infinities
    if same.all():
        return 0.0, tolerance
    mine, theirs = mine[~same], theirs[~same]
    if not (np.isfinite(mine).all() and np.isfinite(theirs).all()):
        return math.inf, tolerance
    kind = np.float32 if hint.float32 or expected.dtype == np.float32 else expected.dtype
    rounding = ROUNDING_STEPS * float(np.finfo(kind).eps) * np.maximum(1, np.abs(theirs))
    unit = np.abs(theirs) if hint.relative else np.maximum(1, np.abs(theirs))
    allowed = np.maximum(tolerance * unit, rounding)
    ratio = float((np.abs(mine - theirs) / allowed).max())
    shown = tolerance or ROUNDING_STEPS * float(np.finfo(kind).eps)
    return ratio * shown, shown


def check(name: str, inputs: dict[str, np.ndarray], expected: dict[str, np.ndarray], tol: str | None) -> Result:
    """Run one case through its adapter."""
    from goldens_geometry_cases import ADAPTERS as GEOMETRY
    from goldens_matching_cases import ADAPTERS as MATCHING
    from goldens_metrics_cases import ADAPTERS as METRICS
    from goldens_probe_cases import ADAPTERS as PROBES

    item = name.split("/")[0].partition("_")[2]  # 03a_cloud_metrics -> cloud_metrics
    adapter = {**METRICS, **GEOMETRY, **MATCHING, **PROBES}.get(item)
    if adapter is None:
        return Result("SKIP", name, reason=f"the package has no {item.replace('_', ' ')} yet")
    answers: dict[str, Any] = adapter(inputs, expected)
    if not answers:
        return Result("SKIP", name, reason="no output of this case is ours to answer")
    hint = read_hint(tol)
    noise = noise_of(inputs, hint)
    worst, limit, where = 0.0, 1.0, ""
    for output, ours in answers.items():
        deviation, tolerance = excess(ours, expected[output], hint.of(output), hint, noise)
        if deviation > 0 and tolerance == 0:
            deviation, tolerance = math.inf, 1.0
        if (tolerance and deviation / tolerance >= worst / limit) or not where:
            worst, limit, where = deviation, tolerance or 1.0, output
    reason = f"{len(answers)} of {len(expected)} outputs, worst {where}"
    return Result("PASS" if worst <= limit else "FAIL", name, worst, limit, reason)


def run_metrics_folder(root: Path) -> Iterator[Result]:
    """Every case under `root` (a manifest.json and `<item>/<case>.npz`), in the manifest's order."""
    manifest = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
    known = {path.relative_to(root).with_suffix("").as_posix() for path in root.glob("*/*.npz")}
    for name in [*manifest, *sorted(known - set(manifest))]:
        try:
            with np.load(root / f"{name}.npz", allow_pickle=False) as archive:
                arrays = dict(archive)
            inputs = {key[4:]: value for key, value in arrays.items() if key.startswith("in__")}
            expected = {key[5:]: value for key, value in arrays.items() if key.startswith("out__")}
            yield check(name, inputs, expected, manifest.get(name, {}).get("tol"))
        except Exception as error:  # one broken case must not hide the others
            first_line = str(error).splitlines()[0] if str(error) else ""
            yield Result("FAIL", name, reason=f"{type(error).__name__}: {first_line}")
