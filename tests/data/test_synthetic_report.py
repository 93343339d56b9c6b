"""What the scenes show: frequent classes, objects that can be told apart, a sheet of pictures."""

from __future__ import annotations

import cv2
import pytest
import torch

from manyview.data.synthetic.report import class_report, contact_sheet, crops
from manyview.errors import UserError


def test_classes_are_frequent_and_a_linear_classifier_knows_them():
    """A small version of `class_report()`; the claim itself is measured over 50 seeds."""
    report = class_report(16, views=6, size=(96, 132), progress=False)
    assert sum(report.shares.values()) == pytest.approx(1)
    assert sum(share > 0.001 for share in report.shares.values()) >= 26
    assert len(report.per_class) >= 8
    assert report.accuracy > 2.5 * report.chance


def test_the_classifier_learns_nothing_from_shuffled_names(monkeypatch):
    from manyview.data.synthetic import report as module

    def shuffled(scene):
        images, names = crops(scene)
        generator = torch.Generator().manual_seed(len(names))
        return images, torch.randint(9, 15, names.shape, generator=generator)

    monkeypatch.setattr(module, "crops", shuffled)
    report = class_report(8, views=3, size=(64, 88), progress=False)
    assert report.accuracy < 2 * report.chance


def test_contact_sheet(tmp_path):
    path = contact_sheet(tmp_path / "docs" / "sheet.jpg", columns=4, rows=2, size=(30, 40))
    picture = cv2.imread(str(path))
    assert picture.shape == (2 * 34, 4 * 44, 3)
    assert picture.std() > 20
    with pytest.raises(UserError, match=r"\.jpg or \.png"):
        contact_sheet(tmp_path / "sheet.txt", columns=1, rows=1, size=(30, 40))


def test_a_report_needs_two_halves():
    with pytest.raises(UserError, match="at least 2"):
        class_report(1)
