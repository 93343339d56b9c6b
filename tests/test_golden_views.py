"""The runner drives portrait views, register tokens and masks as the contract lays them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import golden_views
import goldens
import manyview as mv

README = """## Tolerances
Linear quantities (tokens): max|a-b| <= 2e-4 * std of the stored array. Quantities after an exponential
(points): norm-wise, ||a-b|| <= 2e-4 * ||b||. Losses: relative 1e-5 (gradients: norm-wise 1e-4).
"""
RULES = """
import numpy as np


def make_weight(key, shape):
    seed = sum(index * byte for index, byte in enumerate(key.encode(), start=1))
    return (0.2 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def make_image(seed, shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
"""
# What shapes alone do not say of a network of a few thousand parameters.
SMALL: dict[str, dict[str, Any]] = {
    "distill3r": {"taps": [0, 1, 2, 2], "heads": 2, "decoder_heads": 2},
    "mast3r-vitl16": {"taps": [0, 1, 2, 2], "heads": 2, "decoder_heads": 2},
    "dune-vits14-336": {"heads": 2},
    "dinov2-vits14": {"heads": 2},
    "dinov2-vits14-reg4": {"heads": 2},
}
LANDSCAPE, PORTRAIT = (32, 48), (48, 32)


class Small:
    """A folder of one case, laid out like the published ones, and the network that its weights make."""

    def __init__(self, root: Path, arch: str) -> None:
        self.arch = arch
        self.folder = root / "cases" / arch.split("-")[0]
        self.folder.mkdir(parents=True)
        self.root, ours = root / "cases", root / "ours"
        (self.root / "README.md").write_text(README)
        (self.root / "weights.py").write_text(RULES)
        self.rules = goldens.load_rules(self.root)
        fresh = mv.zoo.build(arch, size="debug")
        keys = [[key, list(t.shape), "float32"] for key, t in mv.zoo.export_official(fresh).items()]
        levels = {f"layer_rn.{i}.": f"layer{i + 1}_rn." for i in range(4)}  # one tensor under two names
        aliases = {k: k.replace(a, name) for a, name in levels.items() for k, _, _ in keys if a in k}
        count = sum(p.numel() for p in fresh.parameters())
        self.keys = {"num_parameters": count, "keys": keys, "aliases": aliases}
        (self.folder / "keys.json").write_text(json.dumps(self.keys))
        torch.save(goldens.seeded_state(self.keys, self.rules), root / "official.pth")
        mv.zoo.convert(root / "official.pth", arch=arch, out=ours, **SMALL[arch])
        self.model = mv.load(ours)

    def images(self, seed: int, shape: tuple[int, ...]) -> torch.Tensor:
        """What the network takes for a stored image: the inverse of (x - 0.5) / 0.5."""
        return torch.from_numpy(self.rules.make_image(seed, shape)) * 0.5 + 0.5

    def run(self, case: dict, arrays: dict[str, np.ndarray], final: list[str], **config: Any) -> list[str]:
        """Status of each case when these arrays are stored."""
        np.savez(self.folder / "golden.npz", **arrays)
        run = {"arch": self.arch, "keys": "keys.json", "container": "plain", "input_norm": "half"}
        run |= {"final": final, "overrides": SMALL[self.arch]}
        info = {
            k: {"shape": list(v.shape), "sampled": False, "std": float(v.std()) if v.size else 0}
            for k, v in arrays.items()
        }
        description = {"run": run, "config": {"cases": [case], **config}, "arrays": info}
        (self.folder / "golden.json").write_text(json.dumps(description))
        self.results = [r for r in goldens.run_folder(self.root) if "/keys" not in r.name]
        return [result.status for result in self.results]


def upright_predictions(small: Small, seeds: list[int], shapes: list[list[tuple[int, int]]], **arguments: Any):
    """Scene by scene, each view the right way up: name -> [view][scene] (1, h, w, ...)."""
    scenes = []
    for scene in range(len(shapes[0])):
        views = []
        for seed, of_view in zip(seeds, shapes, strict=True):
            buffer = small.images(seed, (len(of_view), 3, *LANDSCAPE))[scene : scene + 1]
            portrait = of_view[scene] == PORTRAIT
            views.append(buffer.permute(0, 1, 3, 2) if portrait else buffer)
        with torch.no_grad():
            scenes.append(small.model(views, **{k: v[scene : scene + 1] for k, v in arguments.items()}))
    return {name: [[scene[name][view] for scene in scenes] for view in range(len(seeds))] for name in scenes[0]}


def in_landscape(maps: list[torch.Tensor]) -> np.ndarray:
    """Maps (1, h, w, ...) of either orientation as one array of landscape maps, portrait ones pixel by pixel."""
    rows = []
    for upright in maps:
        if upright.shape[1:3] == PORTRAIT:
            turned = torch.empty(1, *LANDSCAPE, *upright.shape[3:])
            for row in range(PORTRAIT[0]):
                for column in range(PORTRAIT[1]):
                    turned[:, column, row] = upright[:, row, column]
            upright = turned
        rows.append(upright)
    return torch.cat(rows).numpy()


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Small:
    return Small(tmp_path_factory.mktemp("pair"), "mast3r-vitl16")


def pair_case(shapes: list[list[tuple[int, int]]]) -> dict:
    return {"tag": "case", "image_seeds": [3, 4], "shape": [len(shapes[0]), 3, *LANDSCAPE], "true_shape": shapes}


def pair_arrays(pred: dict) -> dict[str, np.ndarray]:
    points = {
        f"case/view{view + 1}/{name}": in_landscape(pred["pointmap"][view])
        for view, name in enumerate(("pts3d", "pts3d_in_other_view"))
    }
    return points | {
        f"case/view{view + 1}/{theirs}": in_landscape(pred[ours][view])
        for view in range(2)
        for ours, theirs in (("confidence", "conf"), ("descriptors", "desc"))
    }


@pytest.mark.parametrize(
    "shapes", [[[LANDSCAPE], [PORTRAIT]], [[PORTRAIT], [PORTRAIT]], [[PORTRAIT, LANDSCAPE], [LANDSCAPE, LANDSCAPE]]]
)
def test_portrait_views_of_a_pair_are_turned_upright_and_their_maps_back(pair, shapes):
    arrays = pair_arrays(upright_predictions(pair, [3, 4], shapes))
    final = ["view*/pts3d*", "view*/conf", "view*/desc"]
    assert pair.run(pair_case(shapes), arrays, final) == ["PASS"]
    all_landscape = [[LANDSCAPE] * len(shapes[0])] * 2
    assert pair.run(pair_case(all_landscape), arrays, final) == ["FAIL"]


def test_maps_that_are_not_laid_out_so_fail(pair):
    shapes = [[LANDSCAPE], [PORTRAIT]]
    arrays = pair_arrays(upright_predictions(pair, [3, 4], shapes))
    arrays["case/view2/conf"] = arrays["case/view2/conf"][:, ::-1]
    assert pair.run(pair_case(shapes), arrays, ["view*/conf"]) == ["FAIL"]
    arrays["case/view2/conf"] = arrays["case/view2/conf"].transpose(0, 2, 1)
    assert pair.run(pair_case(shapes), arrays, ["view*/conf"]) == ["FAIL"]
    assert "shape" in pair.results[0].reason


def test_a_true_shape_that_fills_no_buffer_is_a_failure(pair):
    arrays = pair_arrays(upright_predictions(pair, [3, 4], [[LANDSCAPE], [PORTRAIT]]))
    assert pair.run(pair_case([[LANDSCAPE], [(48, 16)]]), arrays, ["view*/conf"]) == ["FAIL"]
    assert "(48, 16)" in pair.results[0].reason


def test_many_views_of_two_scenes_each_with_portraits_of_its_own(tmp_path):
    small = Small(tmp_path, "distill3r")
    landscape, portrait = (28, 42), (42, 28)
    shapes = [[landscape, portrait], [portrait, portrait], [landscape, landscape]]
    view_ids = [[0, 7, 3], [0, 2, 9]]
    arrays: dict[str, list[np.ndarray]] = {}
    for scene in range(2):
        views = [small.images(seed, (2, 3, *landscape))[scene : scene + 1] for seed in (5, 6, 7)]
        upright = [v.mT if shapes[i][scene] == portrait else v for i, v in enumerate(views)]
        with torch.no_grad():
            pred = small.model(upright, torch.tensor(view_ids[scene : scene + 1]))
        names = {"pointmap": "pts3d_in_other_view", "pointmap_local": "pts3d_local", "confidence": "conf"}
        for name, stored in names.items():
            for view, values in enumerate(pred[name]):
                array = values.numpy()
                turned = np.swapaxes(array, 1, 2) if shapes[view][scene] == portrait else array
                arrays.setdefault(f"case/view{view}/{stored}", []).append(turned)
    case = {"tag": "case", "image_seeds": [5, 6, 7], "image_shape": [2, 3, *landscape], "view_ids": view_ids}
    whole = {key: np.concatenate(parts) for key, parts in arrays.items()}
    assert small.run({**case, "true_shape": shapes}, whole, ["view*/*"]) == ["PASS"]
    assert small.run({**case, "true_shape": shapes[::-1]}, whole, ["view*/*"]) == ["FAIL"]


def test_raw_outputs_are_laid_out_as_they_were_stored():
    rows = [torch.rand(1, 4, *LANDSCAPE), torch.rand(1, 4, *PORTRAIT), torch.rand(1, 4, *PORTRAIT)]
    turned = [False, True, True]
    together = golden_views.raw_output(rows, turned, (3, 4, *LANDSCAPE))
    assert torch.equal(together, torch.cat([rows[0], rows[1].mT, rows[2].mT]))
    assert torch.equal(golden_views.raw_output(rows, turned, (2, 4, *PORTRAIT)), torch.cat(rows[1:]))
    assert torch.equal(golden_views.raw_output(rows, turned, (1, 4, *LANDSCAPE)), rows[0])
    assert golden_views.raw_output(rows, turned, None).shape == (3, 4, *LANDSCAPE)


def test_the_raw_output_of_a_portrait_view_is_compared(pair):
    shapes = [[LANDSCAPE], [PORTRAIT]]
    kept: list[torch.Tensor] = []
    hook = pair.model.heads[1]["pointmap"].inner.register_forward_hook(lambda _m, _i, out: kept.append(out))
    upright_predictions(pair, [3, 4], shapes)
    hook.remove()
    assert kept[0].shape[-2:] == PORTRAIT
    for layout in (kept[0], kept[0].mT):
        arrays = {"case/head2_dpt_raw": layout.numpy()}
        assert pair.run(pair_case(shapes), arrays, ["head?_dpt_raw"]) == ["PASS"]
        arrays = {"case/head2_dpt_raw": layout.flip(-1).numpy()}
        assert pair.run(pair_case(shapes), arrays, ["head?_dpt_raw"]) == ["FAIL"]


@pytest.mark.parametrize(("arch", "count"), [("dinov2-vits14-reg4", 4), ("dinov2-vits14", 0)])
def test_register_tokens_are_compared(tmp_path, arch, count):
    small = Small(tmp_path, arch)
    with torch.no_grad():
        features = small.model.encode(small.images(2, (2, 3, 28, 42)))
    assert (features.registers is None) == (count == 0)
    registers = features.patches[:, :0] if features.registers is None else features.registers
    assert registers.shape[1] == count
    arrays = {"case/x_norm_regtokens": registers.numpy(), "case/x_norm_clstoken": features.cls.numpy()}
    case = {"tag": "case", "seed": 2, "shape": [2, 3, 28, 42]}
    final = ["x_norm_clstoken", "x_norm_regtokens"]
    assert small.run(case, arrays, final) == ["PASS"]
    if count:
        arrays["case/x_norm_regtokens"] = arrays["case/x_norm_regtokens"][:, ::-1]
        assert small.run(case, arrays, final) == ["FAIL"]
    else:
        arrays["case/x_norm_regtokens"] = features.patches[:, :1].numpy()
        assert small.run(case, arrays, final) == ["FAIL"]


def masked_tokens(model: torch.nn.Module, images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Normed patch tokens of masked images by the long road: hidden patches are overwritten after the projection."""
    encoder = model.encoder
    seen: list[torch.Tensor] = []

    def overwrite(_module: Any, _inputs: Any, patches: torch.Tensor) -> torch.Tensor:
        seen.append(patches)
        patches = patches.clone()
        for image, row in enumerate(mask):
            for patch in row.nonzero().flatten().tolist():
                patches[image, patch] = encoder.mask_token[0]
        return patches

    hook = encoder.patch_embed.register_forward_hook(overwrite)
    with torch.no_grad():
        tokens = model.encode(images)
    hook.remove()
    assert seen[0].shape[:2] == mask.shape
    return tokens


@pytest.mark.parametrize("tag", ["masked", "case", "masked_half"])
def test_masked_images_of_dune_are_driven_through_the_encoder(tmp_path, tag):
    """The mask lies beside a listed case's own arrays, or under a tag of its own, as in the published files."""
    small = Small(tmp_path, "dune-vits14-336")
    images = small.images(2, (2, 3, 28, 42))
    mask = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 1, 1, 1, 0, 1]], dtype=torch.bool)
    expected, raw = masked_tokens(small.model, images, mask), None
    with torch.no_grad():
        raw = small.model.encode(images, mask=mask, norm=False)
        answer = small.model.project(raw, "mast3r")
    arrays = {
        f"{tag}/mask": mask.numpy().astype(np.uint8),
        f"{tag}/norm_patch": expected.patches.numpy(),
        f"{tag}/norm_cls": expected.cls.numpy(),
        f"{tag}/norm_reg": expected.registers.numpy(),
        f"{tag}/proj/mast3r_vitlarge_16/out": torch.cat([answer.cls[:, None], answer.patches], 1).numpy(),
    }
    with torch.no_grad():
        whole = small.model.encode(images)
    if tag != "case":
        arrays["case/norm_patch"] = whole.patches.numpy()
    case, final = {"tag": "case", "seed": 2, "shape": [2, 3, 28, 42]}, ["norm_*", "proj/*/out"]
    assert set(small.run(case, arrays, final)) == {"PASS"}
    assert len(small.results) == (1 if tag == "case" else 2)
    arrays[f"{tag}/norm_patch"] = whole.patches.numpy()
    assert "FAIL" in small.run(case, arrays, final)


def test_a_mask_that_fits_no_case_is_a_failure(tmp_path):
    small = Small(tmp_path, "dune-vits14-336")
    arrays = {"masked/mask": np.zeros((1, 9), bool), "masked/norm_patch": np.zeros((1, 9, 4), np.float32)}
    case = {"tag": "case", "seed": 2, "shape": [2, 3, 28, 42]}
    assert "FAIL" in small.run(case, arrays, ["norm_patch"])
    assert any("mask" in result.reason for result in small.results)


def test_the_note_says_which_case_of_one_shape_is_masked(tmp_path):
    small = Small(tmp_path, "dune-vits14-336")
    mask = torch.tensor([[1, 0, 0, 1, 0, 1]], dtype=torch.bool)
    tokens = masked_tokens(small.model, small.images(8, (1, 3, 28, 42)), mask).patches
    arrays = {"masked/mask": mask.numpy(), "masked/norm_patch": tokens.numpy()}
    cases = [{"tag": f"case{seed}", "seed": seed, "shape": [1, 3, 28, 42]} for seed in (2, 8)]
    for case in cases:
        with torch.no_grad():
            whole = small.model.encode(small.images(case["seed"], tuple(case["shape"])))
        arrays[f"{case['tag']}/norm_patch"] = whole.patches.numpy()
    note = "masked/* = same 28x42 input (seed 8) with boolean mask (uniform seed 11 < 0.4)"
    assert small.run(cases[0], arrays, ["norm_patch"], cases=cases, note=note) == ["PASS"] * 3
    other = note.replace("(seed 8)", "(seed 2)")
    assert small.run(cases[0], arrays, ["norm_patch"], cases=cases, note=other) == ["PASS", "PASS", "FAIL"]
