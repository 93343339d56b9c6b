"""Pictures in rows and columns with words over them, as one picture: headings, a title per row, captions, marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT = (255, 255, 255), (30, 30, 30), (105, 105, 105)
GAP, LINE, HEAD = 8, 18, 24


@dataclass(frozen=True)
class Mark:
    """A rectangle on a picture, as shares of its height and width, and a short word beside it."""

    box: tuple[float, float, float, float]  # top, left, bottom, right
    colour: tuple[int, int, int]
    word: str = ""


@dataclass(frozen=True)
class Cell:
    """One picture (h, w, 3) uint8. `smooth` for photos; patches stay squares."""

    picture: np.ndarray
    caption: str = ""
    smooth: bool = False
    marks: Sequence[Mark] = ()


@dataclass(frozen=True)
class Row:
    """Cells of one row, and the line over them."""

    title: str
    cells: Sequence[Cell]


def table(headings: Sequence[str], rows: Sequence[Row], *, side: int = 176) -> np.ndarray:
    """All rows under the headings as one picture (H, W, 3) uint8; the long side of a cell has `side` pixels.

    Words that are wider than their column end in an ellipsis.
    """
    font = ImageFont.load_default(13)

    def shown(cell: Cell) -> tuple[int, int]:
        """Height and width at which a cell is shown."""
        (height, width), scale = cell.picture.shape[:2], side / max(cell.picture.shape[:2])
        return max(1, round(height * scale)), max(1, round(width * scale))

    sizes = [[shown(cell) for cell in row.cells] for row in rows]
    widths = [max(size[column][1] for size in sizes) for column in range(len(headings))]
    captioned = [any(cell.caption for cell in row.cells) for row in rows]
    heights = [
        LINE + max(height for height, _ in size) + LINE * caption + GAP
        for size, caption in zip(sizes, captioned, strict=True)
    ]
    width = sum(widths) + GAP * (len(widths) + 1)
    sheet = Image.new("RGB", (width, GAP + HEAD + sum(heights)), PAPER)
    pen = ImageDraw.Draw(sheet)
    lefts = [GAP + sum(widths[:column]) + GAP * column for column in range(len(widths))]
    for left, room, heading in zip(lefts, widths, headings, strict=True):
        _write(pen, (left, GAP), heading, room, font, INK)
    top = GAP + HEAD
    for row, size, height in zip(rows, sizes, heights, strict=True):
        _write(pen, (lefts[0], top), row.title, width - 2 * GAP, font, FAINT)
        for cell, left, room, (rows_, columns) in zip(row.cells, lefts, widths, size, strict=True):
            _paste(sheet, cell, (top + LINE, left), (rows_, columns))
            _write(pen, (left, top + LINE + rows_ + 1), cell.caption, room, font, FAINT)
        top += height
    return np.asarray(sheet)


def places(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, spread evenly, the first and the last among them."""
    return [round(place) for place in np.linspace(0, count - 1, min(most, count)).tolist()]


def below_each_other(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures (H, W, 3) of any widths as one, each at the left edge."""
    width = max(picture.shape[1] for picture in pictures)
    filled = [
        np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=PAPER[0])
        for picture in pictures
    ]
    return np.concatenate(filled)


def _paste(sheet: Image.Image, cell: Cell, place: tuple[int, int], size: tuple[int, int]) -> None:
    (top, left), (height, width) = place, size
    how = Image.Resampling.LANCZOS if cell.smooth else Image.Resampling.NEAREST
    picture = Image.fromarray(cell.picture).resize((width, height), how)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(11)
    for mark in cell.marks:
        y0, x0, y1, x1 = (share * full for share, full in zip(mark.box, (height, width) * 2, strict=True))
        pen.rectangle((x0 - 2, y0 - 2, x1 + 1, y1 + 1), outline=(0, 0, 0))
        pen.rectangle((x0 - 1, y0 - 1, x1, y1), outline=mark.colour)
        if mark.word:
            room = font.getlength(mark.word)
            right = x1 + 3 + room <= width
            at = (x1 + 3 if right else x0 - 3 - room, min(max(y0 - 4, 0), height - 13))
            pen.text(at, mark.word, font=font, fill=mark.colour, stroke_width=1, stroke_fill=(0, 0, 0))
    sheet.paste(picture, (left, top))


def _write(
    pen: ImageDraw.ImageDraw,
    place: tuple[int, int],
    words: str,
    room: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    colour: tuple[int, int, int],
) -> None:
    """Words in at most `room` pixels."""
    shown = words
    while shown and font.getlength(shown) > room:
        words = words[:-1]
        shown = words.rstrip() + "..." if words else ""
    pen.text(place, shown, font=font, fill=colour)
