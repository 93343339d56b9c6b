"""What holds for every name of the zoo: it builds, answers, learns, and its official names survive a round trip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import manyview as mv
from manyview import zoo
from manyview.layers.masking import hide_at_random
from manyview.models.croco.network import Croco
from manyview.models.family import FAMILIES, family_of, lookup
from manyview.models.featup.network import Upsampler
from manyview.models.maskclip.network import Maskclip
from manyview.models.mum.network import Mum
from manyview.models.pair.network import PairReconstructor
from manyview.models.vggt.network import Vggt
from manyview.types import Features

NAMES = zoo.names()
RECONSTRUCTS = ("reconstructor", "fast3r", "vggt")

# Published weights that no answer depends on, by what their names hold. Everything else must have a gradient.
UNUSED = (
    "mask_token",  # of encoders and decoders whose forward pass is not masked here
    "skip.conv",  # a unit of the published DPTs that is never called; in the other merges it is, see below
    "encoder.norm.",  # where tokens are read before the final norm
    "logit_scale",  # CLIP's, of its training only
    "camera.nothing_yet",  # VGGT's: behind the first round's pose, which is detached from the last one's
)


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture
def model(name) -> torch.nn.Module:
    return zoo.build(name, size="debug", seed=0)


def tensors(answer: Any) -> Iterator[Tensor]:
    """Every tensor in whatever a model returns."""
    if isinstance(answer, Tensor):
        yield answer
    elif isinstance(answer, dict):
        for value in answer.values():
            yield from tensors(value)
    elif isinstance(answer, (list, tuple)):
        for value in answer:
            yield from tensors(value)
    elif isinstance(answer, Features):
        yield from tensors([answer.patches, answer.cls, answer.registers])
    elif hasattr(answer, "reconstruction"):
        yield answer.reconstruction


def ask(model: torch.nn.Module, height: int = 3, width: int = 4, scenes: int = 1, only: int | None = None) -> Any:
    """A small question of the kind a model answers, `height` x `width` patches large; maybe `only` one row of it."""
    generator = torch.Generator().manual_seed(7)
    rows = slice(None) if only is None else slice(only, only + 1)
    if isinstance(model, Upsampler):
        features = torch.randn(scenes, model.config.dim, height + 2, width + 2, generator=generator)
        images = torch.randn(scenes, 3, 16 * (height + 2), 16 * (width + 2), generator=generator)
        return model(features[rows], images[rows])
    side = model.config.patch_size
    images = torch.rand(scenes, 2, 3, height * side, width * side, generator=generator)[rows]
    if isinstance(model, (Mum, Croco)):
        hidden = hide_at_random((2, height * width), height * width // 2, generator)  # the same for every row
        mask = hidden if isinstance(model, Mum) else hidden[0]
        return model(images, mask=mask.expand(len(images), *mask.shape))
    if isinstance(model, (PairReconstructor, Vggt)) or family_of(model) in RECONSTRUCTS:
        return model(images)
    if isinstance(model, Maskclip):
        ids = torch.tensor([[1, 5, 2, 0][: model.config.context]])
        return model.encode(images[:, 0]), model.encode_text(ids)
    features = model.encode(images[:, 0], norm=False)
    if hasattr(model, "project"):
        return features, [model.project(features, teacher) for teacher in model.config.teachers]
    return model.encode(images[:, 0])


def test_forward_at_both_orientations_is_finite_and_repeats(model):
    model.eval()
    for size in ((3, 4), (4, 3)):
        with torch.no_grad():
            first, again = list(tensors(ask(model, *size))), list(tensors(ask(model, *size)))
        assert first
        for a, b in zip(first, again, strict=True):
            assert torch.isfinite(a).all()
            assert torch.equal(a, b)


def test_every_parameter_is_initialised_and_learns(model):
    for key, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), key
        assert parameter.abs().max() < 100, key
    # Away from fresh weights, some of which hide what lies behind them; three times, for a ReLU may sleep.
    silent = {key for key, _ in model.named_parameters() if not any(part in key for part in UNUSED)}
    for seed in range(3):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
            parameter.grad = None
        score(ask(model.train())).backward()
        silent -= {k for k, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert silent == set()


def score(answer: Any) -> Tensor:
    """A number that depends on every value of an answer in its own way."""
    values = [value.float().tanh().flatten() for value in tensors(answer) if value.is_floating_point()]
    joined = torch.cat(values)
    return (joined * torch.linspace(1, 2, len(joined))).sum()


def test_official_names_survive_a_round_trip(model, name, tmp_path):
    official = zoo.export_official(model)
    family = FAMILIES.get(family_of(model))
    ours = family.keymap.to_ours(family.adapt(official))
    state = model.state_dict()
    assert set(ours) == set(state)
    assert [key for key in state if not torch.equal(ours[key], state[key])] == []
    zoo.save_model(model, tmp_path / "model")
    again = zoo.export_official(mv.load(tmp_path / "model"))
    assert list(again) == list(official)
    assert all(torch.equal(again[key], official[key]) for key in official)


def test_a_batch_is_its_rows_one_by_one(model):
    if isinstance(model, Maskclip):
        pytest.skip("its text is asked once for all images")
    model.eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    with torch.no_grad():
        whole = list(tensors(ask(model, scenes=2)))
        rows = [list(tensors(ask(model, scenes=2, only=row))) for row in range(2)]
    for value, *parts in zip(whole, *rows, strict=True):
        torch.testing.assert_close(value, torch.cat(parts), atol=1e-5, rtol=1e-3)


def test_layers_are_those_of_the_blocks(model):
    if isinstance(model, Upsampler) or not hasattr(getattr(model, "encoder", model), "encode"):
        pytest.skip("it has no encoder")
    encoder = getattr(model, "encoder", model).eval()
    side = encoder.config.patch_size
    images = torch.rand(2, 3, 3 * side, 2 * side)
    with torch.no_grad():
        last, first = encoder.encode(images, layers=[encoder.config.depth - 1, 0])
        torch.testing.assert_close(last.patches, encoder.encode(images).patches)
        one = encoder.encode(images[1:])
    assert first.patches.shape == last.patches.shape
    assert not torch.equal(first.patches, last.patches)
    torch.testing.assert_close(last.patches[1:], one.patches, atol=1e-5, rtol=1e-4)


def test_the_full_size_has_as_many_parameters_as_its_card_says(name):
    family, config = lookup(name)
    with torch.device("meta"):
        model = family.network(config)
    counted = sum(parameter.numel() for parameter in model.parameters())
    card = zoo.CARDS[name]
    assert counted == card.parameters


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.06), (torch.float16, 0.01)])
def test_half_precision_stays_close(model, dtype, bound):
    """Tokens of an encoder in half precision, against float32: norm-wise, at debug sizes."""
    encoder = getattr(model, "encoder", model)
    if isinstance(model, Upsampler) or not hasattr(encoder, "encode"):
        pytest.skip("it has no encoder")
    side = encoder.config.patch_size
    images = torch.rand(2, 3, 3 * side, 2 * side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = encoder.eval().encode(images).patches
        rough = encoder.to(dtype).encode(images.to(dtype)).patches
    assert rough.dtype == dtype
    assert (rough.float() - exact).norm() / exact.norm() < bound


def test_channels_last_changes_nothing(model):
    encoder = getattr(model, "encoder", model).eval()
    if isinstance(model, Upsampler) or not hasattr(encoder, "encode"):
        pytest.skip("it has no encoder")
    side = encoder.config.patch_size
    images = torch.rand(2, 3, 3 * side, 2 * side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = encoder.encode(images).patches
        last = encoder.to(memory_format=torch.channels_last)
        other = last.encode(images.contiguous(memory_format=torch.channels_last)).patches
    torch.testing.assert_close(plain, other, atol=1e-5, rtol=1e-4)
