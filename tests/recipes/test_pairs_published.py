"""The presets on pairs are what the papers and their released configurations say."""

from __future__ import annotations

import re

import pytest
import torch

from manyview import zoo
from manyview.config import read_assignments
from manyview.data.sources import SOURCES
from manyview.recipes.dune import DuneRecipe
from manyview.recipes.pairs import SIZES_448, SIZES_512, PairsRecipe, in_metres


def test_presets_are_the_published_numbers():
    presets = PairsRecipe.presets()
    paper, mast3r = presets["paper"], presets["mast3r"]
    assert paper.run.steps * paper.run.batch * paper.run.accumulate == pytest.approx(6.5e6, rel=1e-4)
    assert mast3r.run.steps * mast3r.run.batch * mast3r.run.accumulate == pytest.approx(50 * 698_820, rel=1e-4)
    assert (paper.method.freeze, mast3r.method.freeze) == ("encoder", "nothing")
    assert (paper.method.matching, paper.method.alpha, paper.method.temperature) == (0.075, 0.2, 0.05)
    for name, patch in (("paper", 14), ("paper-336", 14), ("small", 14), ("mast3r", 16), ("tiny", 8)):
        assert all(side % patch == 0 for size in presets[name].method.sizes for side in size), name

    # 448-pixel sizes of patch 14 have as many patches as MASt3R's 512-pixel ones of patch 16.
    def patches(sizes, patch):
        return [(h // patch, w // patch) for h, w in sizes]

    assert patches(SIZES_448, 14)[1:] == patches(SIZES_512, 16)
    measured = ("arkitscenes", "hypersim", "mapfree", "scannet", "scannetpp", "tartanair", "vkitti2", "wildrgbd")
    benchmarks = ("7scenes", "eth3d", "habitat", "kitti", "navi", "tum")
    assert set(in_metres()) == {"manyview-synth", *measured, *benchmarks}
    assert set(measured) <= set(SOURCES.names())
    tiny = PairsRecipe.build(presets["tiny"].method).student
    assert sum(p.numel() for p in tiny.parameters()) < 6e6


def test_the_published_students_fit_their_encoders_and_mast3r_up_to_what_the_paper_names():
    presets = PairsRecipe.presets()
    with torch.device("meta"):
        mast3r = shapes(zoo.build("mast3r-vitl16"))
        for name in ("paper", "paper-336", "small"):
            method = presets[name].method
            ours = shapes(zoo.build(method.model, **read_assignments(method.student, "method.student")))
            theirs = shapes(zoo.build(method.encoder).encoder)
            assert {k: v for k, v in ours.items() if k.startswith("encoder.")} == {
                f"encoder.{k}": v for k, v in theirs.items()
            }
            start = {k for k in ours if not k.startswith(("encoder.", "norm."))}
            differ = {re.sub(r"^heads\.[01]", "heads.*", k) for k in start if mast3r.get(k) != ours[k]}
            # What reads the encoder's tokens, and the descriptors' pixels of a patch; all else starts from MASt3R.
            assert differ == {"decoder.embed.weight", "heads.*.pointmap.dpt.project.0.weight"} | {
                f"heads.*.descriptors.body.map.{fc}.{kind}" for fc in ("fc1", "fc2") for kind in ("weight", "bias")
            }


def shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def test_the_tiny_student_takes_the_encoder_that_the_tiny_dune_leaves():
    ours, theirs = PairsRecipe.presets()["tiny"].method, DuneRecipe.presets()["tiny"].method
    with torch.device("meta"):
        pair = zoo.build(ours.model, **read_assignments(ours.student, "method.student"))
        dune = zoo.build(
            theirs.model, image_size=theirs.image_size, **read_assignments(theirs.encoder, "method.encoder")
        )
    assert shapes(pair.encoder) == shapes(dune.encoder)
