"""Pictures where people would rather look than read: depth, error and confidence maps, clouds, line charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr

import numpy as np

PAPER = (250, 250, 248)
COLOURS = ("#1f6f8b", "#d1495b", "#5a8f29", "#8a5fb0", "#c98b1b")


def colour_map(
    values: np.ndarray, low: float, high: float, valid: np.ndarray | None = None, *, palette: str = "TURBO"
) -> np.ndarray:
    """Values (H, W) between `low` and `high` as colours (H, W, 3) uint8; invalid pixels light grey.

    `palette` is the name of an OpenCV colour map: TURBO for depth, INFERNO for errors, VIRIDIS for confidences.
    """
    import cv2

    share = (np.asarray(values, np.float32) - low) / max(high - low, 1e-9)
    bytes_ = (np.clip(np.nan_to_num(share), 0, 1) * 255).astype(np.uint8)
    picture = cv2.applyColorMap(bytes_, getattr(cv2, f"COLORMAP_{palette}"))[..., ::-1].copy()
    if valid is not None:
        picture[~valid] = (224, 224, 224)
    return picture


def depth_range(depth: np.ndarray, valid: np.ndarray | None = None) -> tuple[float, float]:
    """A range (2nd to 98th percentile) that shows a depth map well."""
    used = depth[(depth > 0) & np.isfinite(depth) & (True if valid is None else valid)]
    if used.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(used, [2, 98])
    return float(low), float(high)


def cloud_picture(
    xyz: np.ndarray,
    rgb: np.ndarray,
    world2cam: np.ndarray,
    *,
    size: tuple[int, int] = (300, 420),
    focal: float = 1.0,
    dot: int = 2,
) -> np.ndarray:
    """Points (N, 3) with colours (N, 3) uint8 as seen by a pinhole camera: (H, W, 3) uint8.

    `focal` is in units of the width. Farther points are drawn first, each as a square of `dot` pixels.
    """
    height, width = size
    points = xyz @ world2cam[:3, :3].T + world2cam[:3, 3]
    picture = np.full((height, width, 3), PAPER, np.uint8)
    seen = points[:, 2] > 0.05
    points, colours = points[seen], rgb[seen]
    u = points[:, 0] / points[:, 2] * focal * width + width / 2
    v = points[:, 1] / points[:, 2] * focal * width + height / 2
    order = np.argsort(-points[:, 2])
    u, v, colours = u[order].astype(int), v[order].astype(int), colours[order]
    for dv in range(dot):
        for du in range(dot):
            inside = (u + du >= 0) & (u + du < width) & (v + dv >= 0) & (v + dv < height)
            picture[v[inside] + dv, u[inside] + du] = colours[inside]
    return picture


def two_sides(xyz: np.ndarray, rgb: np.ndarray, *, size: tuple[int, int] = (300, 420)) -> list[np.ndarray]:
    """A cloud in the first camera's frame (OpenCV axes), seen from the upper left and from the upper right."""
    if len(xyz) == 0:
        return [np.full((*size, 3), PAPER, np.uint8)] * 2
    centre = np.median(xyz, axis=0)
    radius = float(np.percentile(np.linalg.norm(xyz - centre, axis=1), 90))
    return [cloud_picture(xyz, rgb, _look(centre, radius, side), size=size) for side in (-1.0, 1.0)]


def _look(centre: np.ndarray, radius: float, side: float) -> np.ndarray:
    """world2cam of a camera up to one side of `centre`, in a world whose y axis points down."""
    eye = centre + radius * np.array([1.4 * side, -1.2, -2.2])
    forward = (centre - eye) / np.linalg.norm(centre - eye)
    right = np.cross(np.array([0.0, 1.0, 0.0]), forward)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return np.concatenate([np.concatenate([rotation, -(rotation @ eye)[:, None]], 1), [[0, 0, 0, 1.0]]])


def grid(rows: Sequence[Sequence[np.ndarray]], gap: int = 4) -> np.ndarray:
    """Pictures of one size per row, tiled on paper: (H, W, 3) uint8."""
    bands = []
    for row in rows:
        height = max(p.shape[0] for p in row)
        space = np.full((height, gap, 3), PAPER, np.uint8)
        cells = [part for p in row for part in (_on_paper(p, height), space)][:-1]
        bands.append(np.concatenate(cells, 1))
    width = max(b.shape[1] for b in bands)
    space = np.full((gap, width, 3), PAPER, np.uint8)
    padded = [np.pad(b, ((0, 0), (0, width - b.shape[1]), (0, 0)), constant_values=PAPER[0]) for b in bands]
    return np.concatenate([part for band in padded for part in (band, space)][:-1], 0)


def _on_paper(picture: np.ndarray, height: int) -> np.ndarray:
    return np.pad(picture, ((0, height - picture.shape[0]), (0, 0), (0, 0)), constant_values=PAPER[0])


def line_chart(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, x_label: str, y_label: str, log: bool = False
) -> str:
    """Lines {name: (x, y)} as an SVG document: axes, five ticks a side, a legend."""
    lines = {}
    for name, (x, y) in series.items():
        points = np.stack([np.asarray(x, float), np.log10(np.maximum(y, 1e-12)) if log else np.asarray(y, float)], 1)
        if len(points := points[np.isfinite(points).all(1)]):
            lines[name] = points
    if not lines:
        return "<p>nothing to draw</p>"
    left, right, top, bottom = 62.0, 626.0, 14.0, 220.0
    every = np.concatenate(list(lines.values()))
    least, span = every.min(0), np.maximum(np.ptp(every, 0), 1e-9)
    corner, reach = np.array([left, bottom]), np.array([right - left, top - bottom])
    parts = [
        _text((left + right) / 2, 254, x_label, "middle"),
        _text(14, 117, y_label, "middle", transform="rotate(-90 14 117)"),
    ]
    for share in np.linspace(0, 1, 5):
        (x, y), (at_x, at_y) = corner + share * reach, least + share * span
        parts.append(_line(left, y, right, y, "#ddd"))
        parts.append(_text(left - 6, y + 4, f"{10**at_y if log else at_y:.3g}", "end"))
        parts.append(_text(x, bottom + 16, f"{at_x:.3g}", "middle"))
    for index, (name, points) in enumerate(lines.items()):
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in corner + (points - least) / span * reach)
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        parts.append(_text(right - 6, top + 14 + 16 * index, name, "end", fill=colour))
    return _document(parts, 640, 260)


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
    for value in np.linspace(low, high, 5).tolist():
        parts.append(_line(place(value), top - 6, place(value), bottom, "#e3e3df"))
        parts.append(_text(place(value), bottom + 16, f"{value:.3g}", "middle", fill="#666"))
    for index, (name, of) in enumerate(rows.items()):
        y, mean = top + step * index + step / 2, place(float(np.mean(of)))
        parts.append(_text(left - 10, y + 4, name, "end"))
        parts.append(_line(mean, y - 9, mean, y + 9, "#222", width=2))
        dot = f'cy="{y}" r="4.5" fill="#2b6cb0" fill-opacity="0.65"'
        parts += [f'<circle cx="{place(value):.1f}" {dot}/>' for value in of]
    return _document(parts, left + width + 40, bottom + 40)


def _text(x: float, y: float, words: str, anchor: str, **more: str) -> str:
    extra = "".join(f" {key}={quoteattr(value)}" for key, value in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'


def _document(parts: Sequence[str], width: float, height: float) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width:g} {height:g}" '
    return "\n".join([head + 'font-family="system-ui,sans-serif" font-size="12">', *parts, "</svg>"]) + "\n"
