"""bfloat16 where the machine computes it natively: chosen by default, said, refused by a flag, and close to float32."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import torch
from torch import nn

from manyview import hardware, zoo
from manyview.config import RunConfig
from manyview.engine.device import autocast, precision_on
from manyview.engine.loop import fit
from manyview.layers.attention import Attention
from manyview.models.many import heads_at_once
from manyview.pipelines.options import ReconstructOptions
from manyview.pipelines.reconstruct import reconstruct
from manyview.types import StepResult, Views

CPU = torch.device("cpu")


@pytest.fixture
def native(monkeypatch):
    """A CPU that has it; the arithmetic is emulated where this one has not."""
    monkeypatch.setattr(hardware, "_cpu_bf16", lambda: True)


def test_auto_follows_the_machine_and_a_flag_decides(monkeypatch):
    for has, auto in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(hardware, "_cpu_bf16", lambda has=has: has)
        assert [precision_on(CPU, asked) for asked in ("auto", "fp32", "bf16")] == [auto, "fp32", "bf16"]
        assert isinstance(autocast(CPU, "fp32"), contextlib.nullcontext)
    assert not hardware.native_bf16(torch.device("mps"))
    assert not hardware.short_of_memory(CPU)


def test_attention_is_halved_only_as_configured_and_only_where_that_is_native(monkeypatch):
    torch.manual_seed(0)
    attention, tokens = Attention(32, 4), torch.randn(2, 50, 32)
    whole = attention(tokens)
    for has in (False, True):
        monkeypatch.setattr(hardware, "_cpu_bf16", lambda has=has: has)
        for arithmetic in ("full", "half_on_gpu", "half"):
            attention.arithmetic = arithmetic
            mixed = attention(tokens)
            assert mixed.dtype == torch.float32
            assert torch.equal(mixed, whole) == (not (has and arithmetic == "half"))
            assert torch.allclose(mixed, whole, atol=2e-3)


def test_the_option_reaches_the_fusion_and_not_the_encoder():
    model = zoo.build("distill3r", size="debug", seed=0, fusion_attention="half")
    assert {block.attn.arithmetic for block in model.fusion.blocks} == {"half"}
    assert {block.attn.arithmetic for block in model.encoder.blocks} == {"full"}
    assert zoo.build("distill3r", size="debug").fusion.blocks[0].attn.arithmetic == "half_on_gpu"


def test_a_cpu_takes_two_views_through_a_head_at_a_time(monkeypatch):
    model, seen = zoo.build("distill3r", size="debug", seed=0).eval(), []
    monkeypatch.setattr(model.head, "forward", _watched(model.head.forward, seen))
    images = torch.rand(1, 5, 3, 28, 28)
    with torch.no_grad():
        usual, at_once = model(images), model(images, head_chunk=5)
        replaced = zoo.build("distill3r", size="debug", seed=0, head_chunk=1).eval()(images)
    assert seen == [2, 2, 1, 5]
    for name, value in usual.items():
        assert torch.allclose(value, at_once[name], atol=1e-5)
        assert torch.allclose(value, replaced[name], atol=1e-5)
    assert (heads_at_once(16, CPU), heads_at_once(1, CPU)) == (2, 1)
    monkeypatch.setattr("manyview.models.many.short_of_memory", lambda device: True)
    assert heads_at_once(16, torch.device("cuda")) == 4


def _watched(forward, seen):
    def watched(tokens, grid):
        seen.append(len(tokens[0]))
        return forward(tokens, grid)

    return watched


class Regression(nn.Module):
    """Learns a plane; `kinds` are the types that its layer answered in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([nn.Linear(400, 400)])
        self.last = nn.Linear(400, 1)
        self.kinds: set[torch.dtype] = set()

    def step(self, views: Views, *, progress: float, generator: torch.Generator) -> StepResult:
        hidden = self.blocks[0](views.images.flatten(1)[:, :400])
        self.kinds.add(hidden.dtype)
        return StepResult((self.last(hidden.float()).float() - 1).square().mean(), {})


def _train(out, **options) -> tuple[Regression, object]:
    recipe, run = Regression(), RunConfig(steps=30, lr=1e-3, checkpoint_every=100)
    images = torch.rand(4, 1, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    return recipe, fit(recipe, lambda index: Views(images=images), replace(run, **options), out, device="cpu")


def test_training_takes_it_says_so_and_reaches_the_same_loss(native, tmp_path):
    low, by_default = _train(tmp_path / "auto")
    full, flagged = _train(tmp_path / "fp32", precision="fp32")
    assert (by_default.precision, low.kinds) == ("bf16", {torch.bfloat16})
    assert (flagged.precision, full.kinds) == ("fp32", {torch.float32})
    assert by_default.final_loss == pytest.approx(flagged.final_loss, abs=0.02)
    assert {p.dtype for p in low.parameters()} == {torch.float32}


def test_compiled_blocks_are_those_of_module_lists(monkeypatch, tmp_path):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: compiled.append(self))
    recipe, _ = _train(tmp_path / "run", compile=True)
    assert compiled == [recipe.blocks[0]]
    _train(tmp_path / "other")
    assert len(compiled) == 1


def test_reconstruct_takes_it_for_many_view_models_and_says_so(native):
    model = zoo.build("distill3r", size="debug", seed=0, image_size=56).eval()
    pictures = [torch.rand(56, 56, 3, generator=torch.Generator().manual_seed(n)).numpy() for n in range(2)]
    scenes = {
        kind: reconstruct(pictures, model=model, device="cpu", options=ReconstructOptions(cameras="model", **options))
        for kind, options in (("auto", {}), ("fp32", {"precision": "fp32"}))
    }
    assert {kind: scene.info["precision"] for kind, scene in scenes.items()} == {"auto": "bf16", "fp32": "fp32"}
    one, other = (scene.views[0].depth for scene in scenes.values())
    assert (one != other).any()
    assert abs(one - other).max() < 0.05 * abs(other).max()
