"""Training pictures changed at every step: maps move with their pictures, and the probe learns as well."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dense_world import PATCH, SIDE, Seer, draw

from manyview.errors import UserError
from manyview.evaluation.base import evaluate
from manyview.evaluation.dense_changes import Changes, SeenAnew, turned
from manyview.evaluation.dense_fit import Examples, Schedule
from manyview.evaluation.dense_framing import Framing
from manyview.evaluation.dense_maps import Part
from manyview.evaluation.linear import LinearDepth


def test_maps_move_with_their_pictures(tmp_path):
    data = draw(tmp_path / "w", count=6)
    part = Part(data, tuple(range(6)), "depth", Framing((SIDE, SIDE), "whole", 0, PATCH))
    maps = part.maps(tmp_path / "train.npy", lambda values: values)
    examples = Examples(None, part, maps, np.arange(6), PATCH, torch.device("cpu"))  # type: ignore[arg-type]
    known = {
        "tokens": None,
        "part": part,
        "maps": maps,
        "usable": np.arange(6),
        "patch": PATCH,
        "device": torch.device("cpu"),
    }
    seen: list[torch.Tensor] = []
    changes = Changes(crop=(0.75, 0.5), degrees=5.0, light=0.0)
    anew = SeenAnew(**known, encode=lambda images: seen.append(images) or images, changes=changes)  # type: ignore[arg-type]
    assert anew.grid == (3, 2)
    assert examples.grid == (4, 4)
    for _ in range(4):
        _, kept = anew.take([0, 1, 2], torch.device("cpu"))
        assert kept.shape == (3, 24, 16)
        depth = seen[-1][:, 1] * 255 / 25  # green says the depth
        near = (depth - kept).abs()[kept > 0]
        assert float(near.median()) < 0.05
        assert float((near > 0.2).float().mean()) < 0.1  # at edges, where a turned picture is mixed
    first, second = (anew.take([0], torch.device("cpu"))[1] for _ in range(2))
    assert not torch.equal(first, second)


def test_a_turn_fills_with_nothing_and_a_turn_of_none_changes_nothing():
    image, values = torch.rand(3, 8, 12), torch.rand(8, 12) + 1
    same, kept = turned(image, values, 0.0, 0)
    assert torch.allclose(same, image, atol=1e-5)
    assert torch.allclose(kept, values)
    assert (turned(image, values, 0.8, 0)[1] == 0).any()


def test_depth_is_learned_from_changed_pictures(tmp_path):
    data = draw(tmp_path / "w")
    fit = Schedule(steps=60, batch=6, lr=0.05)
    protocol = LinearDepth(most=10.0, augment=True, fit=fit, baselines=False)
    summary = evaluate(protocol, Seer(), data, tmp_path / "o")
    plain = evaluate(LinearDepth(most=10.0, fit=fit, baselines=False), Seer(), data, tmp_path / "p")
    assert summary["rows"][0]["rmse"] < 1.5 * plain["rows"][0]["rmse"]
    small = LinearDepth(most=10.0, augment=True, changes=Changes(crop=(0.1, 0.5)), fit=fit)
    with pytest.raises(UserError, match=r"crop=\(0\.1, 0\.5\) leaves less than a patch of 8 pixels"):
        evaluate(small, Seer(), data, tmp_path / "q")
