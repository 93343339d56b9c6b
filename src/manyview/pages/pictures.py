"""Pictures where people would rather look than read: depth, error and confidence maps, clouds, matches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PAPER = (250, 250, 248)


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


def two_sides(
    xyz: np.ndarray,
    rgb: np.ndarray,
    *,
    size: tuple[int, int] = (300, 420),
    within: np.ndarray | None = None,
    like: np.ndarray | None = None,
) -> list[np.ndarray]:
    """A cloud in the first camera's frame (OpenCV axes), seen from the upper left and from the upper right.

    within: points (M, 3) for whose sight one steps back, up to twice as far. like: another cloud (M, 3), seen from
    whose two sides this one is shown.
    """
    around = xyz if like is None else like
    if len(xyz) == 0 or len(around) == 0:
        return [np.full((*size, 3), PAPER, np.uint8)] * 2
    centre = np.median(around, axis=0)
    radius = float(np.percentile(np.linalg.norm(around - centre, axis=1), 90))
    pictures = []
    for side in (-1.0, 1.0):
        steps = [_look(centre, radius * back, side) for back in (1.0, 1.2, 1.4, 1.7, 2.0)]
        fits = [world2cam for world2cam in steps if within is None or _in_sight(within, world2cam, size)]
        pictures.append(cloud_picture(xyz, rgb, (fits or steps[-1:])[0], size=size))
    return pictures


def _in_sight(xyz: np.ndarray, world2cam: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether a camera of `cloud_picture`'s default focal length shows all points."""
    points = xyz @ world2cam[:3, :3].T + world2cam[:3, 3]
    reach = 0.5 * np.array([1.0, size[0] / size[1]]) * points[:, 2:]
    return bool((np.abs(points[:, :2]) < reach).all())


def _look(centre: np.ndarray, radius: float, side: float) -> np.ndarray:
    """world2cam of a camera up to one side of `centre`, in a world whose y axis points down."""
    eye = centre + radius * np.array([1.4 * side, -1.2, -2.2])
    forward = (centre - eye) / np.linalg.norm(centre - eye)
    right = np.cross(np.array([0.0, 1.0, 0.0]), forward)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return np.concatenate([np.concatenate([rotation, -(rotation @ eye)[:, None]], 1), [[0, 0, 0, 1.0]]])


def legend(names: Sequence[tuple[str, Sequence[int]]], width: int, *, text: int = 12) -> np.ndarray:
    """What colours mean, to stand below a picture: a square and a name for each, in rows: (H, width, 3) uint8.

    text: its height in pixels. Names that are too long end in dots; without any name H is 0.
    """
    from PIL import Image, ImageDraw, ImageFont

    font, step = ImageFont.load_default(text), text + 4
    places, x, y = [], 0, 0
    for name, colour in names:
        while len(name) > 1 and font.getlength(name) > width - 2 * step:
            name = name.rstrip("…")[: min(len(name) - 2, width)] + "…"
        end = x + 2 * step + int(font.getlength(name))
        if end > width and x:
            x, y, end = 0, y + step, end - x
        places.append((x, y, name, colour))
        x = end
    sheet = Image.new("RGB", (width, y + step if places else 0), PAPER)
    pen = ImageDraw.Draw(sheet)
    for x, y, name, colour in places:
        pen.rectangle((x + 3, y + 3, x + text, y + text), fill=tuple(colour))
        pen.text((x + step, y + 1), name, font=font, fill=(32, 32, 32))
    return np.asarray(sheet)


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
