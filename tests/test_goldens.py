"""The runner of golden cases: it passes what is right, fails what is not, and the published cases pass."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from manyview import zoo
from manyview.models.family import FAMILIES

sys.path.insert(0, str(Path(__file__).resolve().parent))

import goldens

README = """## Tolerances
Linear quantities (tokens): max|a-b| <= 2e-4 * std of the stored array. Quantities after an exponential
(points): norm-wise, ||a-b|| <= 3e-4 * ||b||. Losses: relative 1e-5 (gradients: norm-wise 1e-4).
"""
RULES = """
import numpy as np


def make_weight(key, shape):
    return (0.3 * np.random.default_rng(len(key)).standard_normal(shape)).astype(np.float32)


def make_image(seed, shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
"""
OVERRIDES = {"taps": [0, 1, 2, 2], "heads": 2, "decoder_heads": 2}


@pytest.fixture
def folder(tmp_path) -> Path:
    """One small case laid out like the published ones, its numbers from our own network."""
    (tmp_path / "distill3r").mkdir()
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "weights.py").write_text(RULES)
    rules = goldens.load_rules(tmp_path)
    model = zoo.build("distill3r", size="debug").eval()
    official = zoo.export_official(model)
    levels = {f"layer_rn.{i}.": f"layer{i + 1}_rn." for i in range(4)}
    aliases = {k: k.replace(alias, name) for alias, name in levels.items() for k in official if alias in k}
    keys = [[key, list(tensor.shape), "float32"] for key, tensor in official.items()]
    numbers = {"num_parameters": sum(p.numel() for p in model.parameters()), "keys": keys, "aliases": aliases}
    (tmp_path / "distill3r" / "keys.json").write_text(json.dumps(numbers))
    state = goldens.seeded_state(numbers, rules)
    model.load_state_dict(FAMILIES.get("reconstructor").keymap.to_ours(state))
    images = torch.stack([torch.from_numpy(rules.make_image(seed, (1, 3, 28, 42))) for seed in (1, 2)], 1) / 2 + 0.5
    with torch.no_grad():
        pred = model(images, [0, 5])
    arrays = {}
    for view in range(2):
        arrays[f"case/view{view}/pts3d_local"] = pred["pointmap_local"][:, view].numpy()
        arrays[f"case/view{view}/conf"] = pred["confidence"][:, view].numpy()
    np.savez(tmp_path / "distill3r" / "golden.npz", **arrays)
    run = {"arch": "distill3r", "keys": "keys.json", "container": "lightning:student.", "input_norm": "half"}
    run |= {"final": ["view*/pts3d*", "view*/conf*"], "overrides": OVERRIDES}
    case = {"tag": "case", "image_seeds": [1, 2], "image_shape": [1, 3, 28, 42], "view_ids": [[0, 5]]}
    info = {k: {"shape": list(v.shape), "sampled": False, "std": float(v.std())} for k, v in arrays.items()}
    write(tmp_path, {"run": run, "config": {"cases": [case]}, "arrays": info})
    return tmp_path


def write(folder: Path, description: dict) -> None:
    (folder / "distill3r" / "golden.json").write_text(json.dumps(description))


def edit(folder: Path, **changes: object) -> None:
    description = json.loads((folder / "distill3r" / "golden.json").read_text())
    description["run"].update(changes)
    write(folder, description)


def cases(folder: Path, **options) -> list[goldens.Result]:
    """What is said of the cases, without the list of keys that lies with them."""
    return [result for result in goldens.run_folder(folder, **options) if "/keys" not in result.name]


def test_a_right_case_passes(folder, capsys):
    assert goldens.main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert "PASS distill3r/golden/case" in out
    assert "PASS distill3r/keys" in out
    assert "total: 2 pass, 0 fail, 0 skip" in out


def test_tolerances_come_from_the_readme(folder, capsys):
    allowed = goldens.read_tolerances(folder)
    assert (allowed.linear, allowed.exponential, allowed.loss, allowed.gradient) == (2e-4, 3e-4, 1e-5, 1e-4)
    (folder / "README.md").write_text(README.replace("3e-4", "7e-3"))
    assert [r.tolerance for r in cases(folder)] == [7e-3]
    (folder / "README.md").write_text("no numbers here")
    assert goldens.main([str(folder)]) == 1
    assert "does not say the tolerance" in capsys.readouterr().out
    (folder / "README.md").unlink()
    assert goldens.main([str(folder)]) == 1


def test_a_wrong_number_fails(folder):
    path = folder / "distill3r" / "golden.npz"
    arrays = dict(np.load(path))
    arrays["case/view1/conf"] = arrays["case/view1/conf"] * 1.001
    np.savez(path, **arrays)
    (result,) = cases(folder)
    assert result.status == "FAIL"
    assert result.worst == pytest.approx(0.001, rel=0.05)
    assert result.reason.endswith("view1/conf")


def test_a_case_that_is_not_driven_fails(folder):
    path = folder / "distill3r" / "golden.npz"
    arrays = dict(np.load(path))
    arrays["other/view0/conf"] = arrays["case/view0/conf"]
    np.savez(path, **arrays)
    assert [r.status for r in cases(folder)] == ["PASS", "FAIL"]


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"arch": "no-such-model"}, "SKIP", "not in zoo.names()"),
        ({"arch": None}, "SKIP", "informative"),
        ({"container": "tarball"}, "FAIL", "container"),
        ({"final": ["descriptors"]}, "FAIL", "no stored array"),
        ({"overrides": {**OVERRIDES, "wings": 2}}, "FAIL", "wings"),
        ({"input_norm": "imagenet"}, "FAIL", "worst"),
    ],
)
def test_what_a_case_says_is_obeyed(folder, change, status, reason):
    edit(folder, **change)
    (result,) = cases(folder)
    assert result.status == status
    assert reason in result.reason


def test_large_networks_are_skipped_on_demand(folder):
    (result,) = cases(folder, max_params=1000)
    assert result.status == "SKIP"


def test_a_folder_without_cases_is_a_failure(tmp_path, capsys):
    assert goldens.main([str(tmp_path)]) == 1
    assert "0 pass" in capsys.readouterr().out


def test_sub_sampled_arrays_are_compared_where_they_were_sampled():
    allowed = goldens.Tolerances(linear=1e-6, exponential=1e-6, loss=1e-6, gradient=1e-6)
    full = np.arange(10.0).reshape(2, 5)
    info = {"shape": [2, 5], "sampled": True, "std": 1.0}
    assert goldens.compare(full, np.array([0.0, 3.0, 6.0]), info, "linear", allowed)[0] == 0
    assert goldens.compare(full, np.array([0.0, 3.0, 7.0]), info, "linear", allowed)[0] == 1
    assert goldens.compare(full * np.nan, np.zeros(3), info, "linear", allowed)[0] == np.inf
    with pytest.raises(ValueError, match="shape"):
        goldens.compare(full.T, np.zeros(3), info, "linear", allowed)


# A test each, so that they are shared between workers: no file of tests is the tail of the suite.
PUBLISHED = {
    "dinov2": {"golden_vits14/112x112"},
    "distill3r": {"golden/N3_112x168", "golden/N3_112x168_trainscale", "align"},
    "dune": {"golden_vitsmall14_336/masked", "golden_vitsmall14_336/112x168", "teacher_input/336x336"},
    "dust3r": {"golden_small/B2_112x112"},
    "fast3r": {"golden_small/N2_B2_112x160"},
    "featup": {"golden_jbu/jbu32_4x6_guid64x96"},
    "losses": {f"distill3r_loss/{t}" for t in ("default", "no_conf_weight", "student_conf_weight")},
    "maskclip": {"keys_clip_vitb16"},
    "mast3r": {"golden_small/B1_112x160"},
    "mum": {"keys_autoencoder_vith16"},
    "vggt": {"keys_vggt_1b"},
}


@pytest.mark.parametrize("family", sorted(PUBLISHED))
def test_the_published_cases_pass(shared, tmp_path, family):
    """None fails, and those named above are run, not skipped."""
    cases = shared / "goldens" / "models"
    for name in ("README.md", "weights.py", family):
        (tmp_path / name).symlink_to(cases / name)
    results = list(goldens.run_folder(tmp_path, max_params=75_000_000))
    assert not [r.line() for r in results if r.status == "FAIL"]
    passed = {r.name.removeprefix(f"{family}/") for r in results if r.status == "PASS"}
    assert passed >= PUBLISHED[family]


def test_every_published_family_is_tested(shared):
    folders = {path.name for path in (shared / "goldens" / "models").iterdir() if path.is_dir()}
    assert folders == set(PUBLISHED)
