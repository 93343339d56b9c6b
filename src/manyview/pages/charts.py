"""Charts as SVG documents: lines, dots, cameras seen from above, and who shares how much with whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape, quoteattr

import numpy as np

COLOURS = ("#1f6f8b", "#d1495b", "#5a8f29", "#8a5fb0", "#c98b1b")


def line_chart(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, x_label: str, y_label: str, log: bool = False
) -> str:
    """Lines {name: (x, y)} as an SVG document: axes with round numbers, a legend in the lines' colours."""
    lines = {}
    for name, (x, y) in series.items():
        points = np.stack([np.asarray(x, float), np.log10(np.maximum(y, 1e-12)) if log else np.asarray(y, float)], 1)
        if len(points := points[np.isfinite(points).all(1)]):
            lines[name] = points
    if not lines:
        return "<p>nothing to draw</p>"
    left, right, top, bottom = 62.0, 626.0, 14.0, 220.0
    every = np.concatenate(list(lines.values()))
    least, span = every.min(0), np.where(np.ptp(every, 0) > 0, np.ptp(every, 0), 1.0)
    corner, reach = np.array([left, bottom]), np.array([right - left, top - bottom])
    parts = [
        _text((left + right) / 2, 254, x_label, "middle"),
        _text(14, 117, y_label, "middle", transform="rotate(-90 14 117)"),
    ]
    for at in round_ticks(least[0], least[0] + span[0]):
        parts.append(_text(left + (at - least[0]) / span[0] * reach[0], bottom + 16, f"{at:g}", "middle"))
    for at in (
        log_ticks(*(10 ** (least[1] + part * span[1]) for part in (0, 1)))
        if log
        else round_ticks(least[1], least[1] + span[1])
    ):
        y = bottom + ((np.log10(at) if log else at) - least[1]) / span[1] * reach[1]
        parts.append(_line(left, y, right, y, "#ddd"))
        parts.append(_text(left - 6, y + 4, f"{at:g}", "end"))
    for index, (name, points) in enumerate(lines.items()):
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in corner + (points - least) / span * reach)
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        parts.append(_text(right - 6, top + 14 + 16 * index, name, "end", style=f"fill:{colour}"))
    return _document(parts, 640, 260)


def round_ticks(low: float, high: float) -> list[float]:
    """Three to ten numbers from `low` to `high`, multiples of 1, 2 or 5 times a power of ten."""
    step = _round_length((high - low) / 3)
    first, last = np.ceil(low / step - 1e-6), np.floor(high / step + 1e-6)
    return [float(f"{number * step:.12g}") for number in np.arange(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """The same for a logarithmic axis: round numbers, powers of ten where there are several of them."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for steps in ((1,), (1, 2, 5)):
        ticks = [float(f"{step}e{power}") for power in powers for step in steps]
        ticks = [tick for tick in ticks if low * (1 - 1e-6) <= tick <= high * (1 + 1e-6)]
        if len(ticks) >= 3:
            return ticks
    return [tick for tick in round_ticks(low, high) if tick > 0]


def dot_chart(rows: Mapping[str, Sequence[float]], title: str) -> str:
    """A row per name with a dot per value and a bar at the mean, as an SVG document."""
    values = [value for of in rows.values() for value in of] or [0.0, 1.0]
    room = 0.08 * (max(values) - min(values)) or 1.0
    low, high = min(values) - room, max(values) + room
    left, width, step, top = 190, 470, 30, 34
    bottom = top + step * len(rows)

    def place(value: float) -> float:
        return left + width * (value - low) / (high - low)

    parts = [_text(left, 18, title, "start", fill="#444")]
    for value in round_ticks(low, high):
        parts.append(_line(place(value), top - 6, place(value), bottom, "#e3e3df"))
        parts.append(_text(place(value), bottom + 16, f"{value:g}", "middle", fill="#666"))
    for index, (name, of) in enumerate(rows.items()):
        y, mean = top + step * index + step / 2, place(float(np.mean(of)))
        parts.append(_text(left - 10, y + 4, name, "end"))
        parts.append(_line(mean, y - 9, mean, y + 9, "#222", width=2))
        dot = f'cy="{y}" r="4.5" fill="#2b6cb0" fill-opacity="0.65"'
        parts += [f'<circle cx="{place(value):.1f}" {dot}/>' for value in of]
    return _document(parts, left + width + 40, bottom + 40)


@dataclass(frozen=True)
class Wedge:
    """A camera in a plan: its centre and the two ends of what it sees, (3, 2), with a colour and a number."""

    corners: np.ndarray
    colour: str
    number: int
    way: int = 0
    """Cameras of one way are joined by a line."""


def plan_chart(wedges: Sequence[Wedge], points: np.ndarray, *, unit: str, size: float = 460) -> str:
    """Cameras in a plane, joined in their order, among points (N, 2); a bar gives the length in `unit`.

    The first axis goes to the right, the second one up. Points very far from the cameras are left out.
    """
    low, high = (edge(np.concatenate([wedge.corners for wedge in wedges]), 0) for edge in (np.min, np.max))
    if len(points):
        reach = 30 * float((high - low).max())
        least, most = np.percentile(points, [5, 95], axis=0)
        low, high = np.minimum(low, np.maximum(least, low - reach)), np.maximum(high, np.minimum(most, high + reach))
    middle, half = (low + high) / 2, 0.56 * (high - low)
    half = np.maximum(half, half[::-1] * (4 / 3, 3 / 4))  # every plan has one shape
    low, high = middle - half, middle + half
    zoom = size / float((high - low).max())
    width, height = (high - low) * zoom

    def place(at: np.ndarray) -> np.ndarray:
        return (np.atleast_2d(at) - low) * (zoom, -zoom) + (0, height)

    shown = points[((points > low) & (points < high)).all(1)]
    spots = "".join(f"M{x:.1f} {y:.1f}h1" for x, y in place(shown)) if len(shown) else ""
    parts = [f'<path d="{spots}" stroke="#b9b9b2" stroke-width="1"/>']
    for number in sorted({wedge.way for wedge in wedges}):
        centres = np.array([wedge.corners[0] for wedge in wedges if wedge.way == number])
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in place(centres))
        parts.append(f'<polyline points="{way}" fill="none" stroke="#777" stroke-width="1" stroke-dasharray="3 3"/>')
    step = max(1, round(len(wedges) / 30))
    for index, wedge in enumerate(wedges):
        corners = place(wedge.corners)
        ends = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        parts.append(f'<polygon points="{ends}" fill="{wedge.colour}" fill-opacity="0.45" stroke="{wedge.colour}"/>')
        if index % step == 0:
            x, y = corners[0]
            parts.append(_text(x, y + 11, str(wedge.number), "middle"))
    bar = _round_length(0.25 * float(high[0] - low[0]))
    parts.append(_line(8, height + 8, 8 + bar * zoom, height + 8, "#222", width=2))
    parts.append(_text(14 + bar * zoom, height + 12, f"{bar:g} {unit}", "start"))
    return _document(parts, width, height + 20)


def _round_length(length: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not longer."""
    power = 10.0 ** np.floor(np.log10(max(length, 1e-12)))
    return float(max(step * power for step in (1, 2, 5) if step * power <= length * (1 + 1e-9)))


MANY, STRONGEST = 24, 6
SHARING, REFUSED = "#37474f", "#c2410c"


def link_chart(
    counts: np.ndarray,
    colours: Sequence[str],
    groups: Sequence[int],
    *,
    refused: Mapping[tuple[int, int], str] | None = None,
    size: float = 460,
) -> str:
    """Who shares how much: a numbered dot each on a circle, group by group, a line where counts (V, V) are not zero.

    Thicker lines share more; pointing at one says how much. Of more than 24 each keeps its six thickest lines.
    refused: pairs that are joined by a dashed line, and why; with a legend below.
    """
    order = sorted(range(len(counts)), key=lambda index: (groups[index], index))
    jumps = [0, *(int(groups[a] != groups[b]) for a, b in pairwise(order))]
    turn = np.cumsum(1 + np.array(jumps))  # a gap between groups
    angle = 2 * np.pi * turn / (turn[-1] + (1 if groups[order[0]] != groups[order[-1]] else 0)) - np.pi / 2
    radius = size / 2 - 24
    place = np.empty((len(counts), 2))
    place[order] = size / 2 + radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    between = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    if len(counts) > MANY:
        least = -np.partition(-between, STRONGEST - 1, axis=1)[:, STRONGEST - 1]
        between = np.where(between >= np.minimum(least[:, None], least[None]), between, 0)
    pairs = sorted((int(between[i, j]), i, j) for i in range(len(counts)) for j in range(i) if between[i, j] > 0)
    most = max((count for count, _, _ in pairs), default=1)
    parts = []
    for (i, j), why in (refused or {}).items():
        (x1, y1), (x2, y2) = place[i], place[j]
        ends = _line(x1, y1, x2, y2, REFUSED, dash="4 4")
        parts.append(ends.replace("/>", f"><title>{i} and {j}: {escape(why)}</title></line>"))
    for count, i, j in pairs:
        share = float(np.log1p(count) / np.log1p(most))
        (x1, y1), (x2, y2) = place[i], place[j]
        parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{SHARING}" '
            f'stroke-width="{0.4 + 4 * share**3:.1f}" stroke-opacity="{0.25 + 0.6 * share**2:.2f}">'
            f"<title>{j} and {i} share {count:,}</title></line>"
        )
    dot = 9 if len(counts) <= 60 else 4
    for index, (x, y) in enumerate(place):
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{dot}" fill="{colours[index]}"/>')
        if dot == 9:
            parts.append(_text(x, y + 4, str(index), "middle", style="fill:#fff;font-weight:600"))
    if not refused:
        return _document(parts, size, size)
    for left, words, colour, dash in ((8, "share points", SHARING, ""), (148, "matched, but refused", REFUSED, "4 4")):
        parts += [
            _line(left, size + 10, left + 30, size + 10, colour, 2, dash),
            _text(left + 36, size + 14, words, "start"),
        ]
    return _document(parts, size, size + 22)


def _text(x: float, y: float, words: str, anchor: str, **more: str) -> str:
    extra = "".join(f" {key}={quoteattr(value)}" for key, value in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1, dash: str = "") -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"{dashes}/>'


def _document(parts: Sequence[str], width: float, height: float) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width:g} {height:g}" '
    return "\n".join([head + 'font-family="system-ui,sans-serif" font-size="12">', *parts, "</svg>"]) + "\n"
