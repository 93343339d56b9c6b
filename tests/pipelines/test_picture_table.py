"""Pictures in a table: where cells, marks and words come to lie."""

from __future__ import annotations

import numpy as np

from manyview.pipelines.picture_table import GAP, HEAD, LINE, Cell, Mark, Row, below_each_other, table

RED, BLUE = (np.full((2, 3, 3), colour, np.uint8) for colour in ([255, 0, 0], [0, 0, 255]))
TALL = np.full((6, 3, 3), [0, 255, 0], np.uint8)


def test_cells_lie_in_their_columns_and_rows():
    sheet = table(["a", "b"], [Row("one", [Cell(RED), Cell(BLUE)]), Row("two", [Cell(TALL), Cell(RED)])], side=60)
    assert sheet.shape == (GAP + HEAD + 2 * LINE + 40 + 60 + 2 * GAP, 3 * GAP + 120, 3)
    top = GAP + HEAD + LINE
    assert (sheet[top : top + 40, GAP : GAP + 60] == RED[0, 0]).all()
    assert (sheet[top : top + 40, 2 * GAP + 60 : -GAP] == BLUE[0, 0]).all()
    below = top + 40 + GAP + LINE
    assert (sheet[below : below + 60, GAP : GAP + 30] == TALL[0, 0]).all()
    assert (sheet[below : below + 60, GAP + 30 : GAP + 60] == 255).all()  # paper beside a narrow one


def test_words_end_at_their_column():
    long = "a very long heading that no column of this width can hold"
    for caption in ("", long):
        sheet = table([long, "b"], [Row(long * 3, [Cell(RED, caption), Cell(BLUE)])], side=60)
        ink = (sheet < 128).all(-1)
        assert ink[:, : GAP + 60].any()
        assert not ink[: GAP + HEAD, GAP + 61 : 2 * GAP + 59].any()  # the gap between the headings
        assert not ink[:, -GAP + 1 :].any()
    assert sheet.shape[0] == 2 * GAP + HEAD + 2 * LINE + 40


def test_marks_are_drawn_at_their_place():
    picture = np.zeros((4, 4, 3), np.uint8)
    mark = Mark((0.5, 0.25, 0.75, 0.5), (0, 255, 0))
    sheet = table(["a"], [Row("", [Cell(picture, marks=[mark])])], side=80)
    rows, columns = np.nonzero((sheet == (0, 255, 0)).all(-1))
    top, left = GAP + HEAD + LINE, GAP
    assert (rows.min() - top, rows.max() - top) == (39, 60)
    assert (columns.min() - left, columns.max() - left) == (19, 40)


def test_pictures_of_unlike_widths_below_each_other():
    joined = below_each_other([RED, np.full((1, 5, 3), 9, np.uint8)])
    assert joined.shape == (3, 5, 3)
    assert (joined[:2, :3] == RED).all()
    assert (joined[:2, 3:] == 255).all()
