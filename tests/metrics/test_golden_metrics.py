"""The golden cases kept here pass through the runner, and the runner sees wrong numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from goldens_metrics import Error, excess, read_hint, run_metrics_folder

CASES = Path(__file__).parent / "goldens"


def test_the_kept_cases_pass():
    results = list(run_metrics_folder(CASES))
    assert len(results) == 8
    assert [r for r in results if r.status != "PASS"] == []


PROBES = ("02b", "04a", "04b", "04c", "07a", "07b", "08a", "08b", "08c", "08d", "08e")


def test_the_published_cases_of_map_free_normals_and_probes_pass(shared, tmp_path):
    """Every case of these items is answered, none is skipped."""
    root = shared / "goldens" / "metrics"
    manifest = json.loads((root / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({n: v for n, v in manifest.items() if n[:3] in PROBES}))
    for folder in root.iterdir():
        if folder.name[:3] in PROBES:
            (tmp_path / folder.name).symlink_to(folder)
    results = list(run_metrics_folder(tmp_path))
    assert {r.name[:3] for r in results} == set(PROBES)
    assert [r for r in results if r.status != "PASS"] == []


def copied(tmp_path: Path, case: str) -> Path:
    (tmp_path / case).parent.mkdir(parents=True)
    shutil.copy(CASES / f"{case}.npz", tmp_path / f"{case}.npz")
    shutil.copy(CASES / "manifest.json", tmp_path / "manifest.json")
    return tmp_path / f"{case}.npz"


def status(folder: Path, case: str) -> str:
    return next(r.status for r in run_metrics_folder(folder) if r.name == case)


def test_a_wrong_number_fails(tmp_path):
    case = "03a_cloud_metrics/duplicates"
    path = copied(tmp_path, case)
    arrays = dict(np.load(path))
    arrays["out__acc"] = arrays["out__acc"] + 1e-6
    np.savez(path, **arrays)
    assert status(tmp_path, case) == "FAIL"


def test_a_damaged_case_fails_alone_and_an_unknown_item_is_skipped(tmp_path):
    path = copied(tmp_path, "01b_pose_auc/mix45")
    path.write_bytes(path.read_bytes()[:100])
    (tmp_path / "99_new_metric").mkdir()
    np.savez(tmp_path / "99_new_metric" / "a.npz", in__x=np.ones(3), out__y=np.ones(3))
    (tmp_path / "manifest.json").write_text('{"01b_pose_auc/mix45": {"tol": "1e-9"}}')
    results = {r.name: r.status for r in run_metrics_folder(tmp_path)}
    assert results == {"01b_pose_auc/mix45": "FAIL", "99_new_metric/a": "SKIP"}


@pytest.mark.parametrize(
    ("text", "output", "tolerance"),
    [
        ("1e-9 (torch_histc 1e-6)", "hist_auc_30", 1e-9),
        ("1e-9 (torch_histc 1e-6)", "torch_histc_auc_30", 1e-6),
        ("exact; K 1e-5", "bbox", 0.0),
        ("exact; K 1e-5", "rescale_K", 1e-5),
        ("1e-8; cam_from_img 1e-6", "cam_from_img", 1e-6),
        ("deg: 1e-4 typical (arccos loses ~1e-6 deg near 0); *_f32 rows tol 0.05 deg", "sg_eR", 1e-4),
        ("deg: 1e-4 typical (arccos loses ~1e-6 deg near 0); *_f32 rows tol 0.05 deg", "vggt_eR_f32", 0.05),
        ("1e-6 for similarity; icp 1e-3 relative (own ICP may differ slightly); nc 0.02", "p85_s", 1e-6),
        ("rot <= max(0.1 deg, 3x library error), t likewise", "cv2_t_err", 0.1),
        (None, "prf1", 0.0),
    ],
)
def test_tolerances_are_read_from_the_sentence(text, output, tolerance):
    assert read_hint(text).of(output) == tolerance


def test_how_numbers_are_compared():
    plain, relative = read_hint("1e-8"), read_hint("1e-4 relative (float32 sources)")

    def ratio(ours, expected, hint, noise=0.0):
        deviation, tolerance = excess(np.asanyarray(ours), np.asarray(expected), hint.first, hint, noise)
        return deviation / tolerance

    assert ratio([1.0, 5.0], [1.0, np.nan], plain) == 0  # undefined there
    assert np.isinf(ratio([np.nan], [1.0], plain))
    assert ratio([np.inf], [np.inf], plain) == 0
    assert np.isinf(ratio([1.0, 2.0], [1.0], plain))
    assert ratio([100.000002], [100.0], plain) == pytest.approx(2)
    assert ratio([0.01002], [0.01], relative) == pytest.approx(20)
    assert ratio([1e-9], [3e-6], relative, noise=1e-5) == 0
    assert ratio(np.ma.masked_array([1.0, 9.0], [False, True]), [1.0, 2.0], plain) == 0
    pose = read_hint("rot <= max(0.1 deg, 3x library error), t likewise")
    assert excess(Error(0.5, library=0.2), np.zeros(()), 0.1, pose) == pytest.approx((0.5, 0.6))
