"""Where a model looks: recorded attention against a plain twin, and pictures of known correspondences."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from matching_world import HEIGHT, PATCH, WIDTH, PlaceEncoder, write_scenes
from PIL import Image

from manyview import zoo
from manyview.data.manifest import Manifest
from manyview.errors import UserError
from manyview.evaluation.base import evaluate
from manyview.evaluation.correspondence import Correspondence, answers
from manyview.layers.attention import Attention
from manyview.layers.rope import RotaryPositions
from manyview.models.attention_maps import attention_weights, recorded
from manyview.pipelines.picture_table import GAP, HEAD, LINE

SMALL = {"pairs": 3, "queries": 3, "overlap": (0.3, 1.0), "motion": 0.15}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory) -> Manifest:
    return write_scenes(tmp_path_factory.mktemp("rooms"), scenes=range(3))


@pytest.mark.parametrize("rotated", [False, True])
def test_weights_times_values_are_what_attention_answers(rotated):
    torch.manual_seed(0)
    attention = Attention(16, 2, qk_norm=True)
    tokens = torch.randn(3, 6, 16)
    rope = RotaryPositions("axial", 8)((2, 3)) if rotated else None
    weights = attention_weights(attention, tokens, rope, torch.arange(6))
    assert torch.allclose(weights.sum(-1), torch.ones(3, 2, 6), atol=1e-5)
    values = attention.qkv(tokens).unflatten(-1, (3, 2, -1))[:, :, 2].transpose(1, 2)
    mixed = attention.proj((weights @ values).transpose(1, 2).flatten(2))
    assert torch.allclose(mixed, attention(tokens, None, rope), atol=1e-5)


def test_recording_sees_every_call_while_open_and_none_after():
    torch.manual_seed(0)
    attention = Attention(8, 2)
    tokens = torch.randn(1, 4, 8)
    with recorded([attention], torch.tensor([2])) as found:
        attention(tokens, 0.3)
    attention(tokens)
    assert len(found) == 1
    assert torch.equal(found[0], attention_weights(attention, tokens, None, torch.tensor([2]), 0.3))


def test_attention_of_a_masked_model_is_over_the_other_view(rooms):
    model = zoo.build("mum-tiny12-full", size="debug", seed=0).eval()
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    found = answers(model, images, torch.tensor([1, 4]))
    assert set(found) == {"attention_0", "features"}
    assert found["attention_0"].shape == (2, 6)
    assert torch.allclose(found["attention_0"].sum(-1), torch.ones(2))
    swapped = answers(model, images.flip(0), torch.tensor([1, 4]))
    assert not torch.allclose(found["attention_0"], swapped["attention_0"])
    single = zoo.build("mum-tiny12-full", size="debug", seed=0, across="nowhere").eval()
    assert set(answers(single, images, torch.tensor([1]))) == {"features"}


def test_the_best_token_of_perfect_features_lies_at_the_true_place(rooms, tmp_path):
    out = tmp_path / "out"
    summary = evaluate(Correspondence(**SMALL), PlaceEncoder(dim=512), rooms, out)
    rows = {row["method"]: row for row in summary["rows"]}
    assert rows["features"]["mean"] < PATCH < rows["zero_flow"]["mean"]
    assert rows["features"]["queries"] == 9
    panels = sorted((out / "panels").glob("*.png"))
    assert len(panels) == 3
    picture = np.asarray(Image.open(panels[0]))
    assert picture.shape[0] == GAP + HEAD + 3 * (3 * HEIGHT + LINE + GAP)  # three queries, three times enlarged
    assert picture.shape[1] == 3 * 3 * WIDTH + 4 * GAP  # A, B, similarities
    assert (picture == (255, 40, 40)).all(-1).any()
    assert (picture == (40, 255, 80)).all(-1).any()
    assert "most similar token" in (out / "summary.md").read_text()
    assert len((out / "results.jsonl").read_text().splitlines()) == 18


def test_every_block_is_measured_and_one_is_drawn(rooms, tmp_path):
    model = zoo.build("mum-tiny12-full", size="debug", seed=0, decoder_depth=4).eval()
    options = {**SMALL, "size": (HEIGHT, WIDTH), "pairs": 1}
    summary = evaluate(Correspondence(**options), model, rooms, tmp_path / "out")
    assert {row["method"] for row in summary["rows"]} == {"zero_flow", "attention_0", "attention_1", "features"}
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["pairs"] == 1
    with pytest.raises(UserError, match="blocks 0 to 1"):
        evaluate(Correspondence(**options, block=2), model, rooms, tmp_path / "other")
