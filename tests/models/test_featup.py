"""FeatUp's upsampler against a slow twin, and what it does to edges, constants and sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from manyview import UserError, zoo
from manyview.models.featup.network import Stage, weigh


def random_stage(seed: int, key_dim: int = 4, radius: int = 3) -> Stage:
    generator = torch.Generator().manual_seed(seed)
    stage = Stage(key_dim, radius).double().eval()
    with torch.no_grad():
        for weight in stage.parameters():
            weight.copy_(1 + 0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
            if weight.ndim > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5)
    return stage


def slow_stage(stage: Stage, features: Tensor, guidance: Tensor) -> Tensor:
    """One doubling, pixel by pixel and neighbour by neighbour."""
    radius, side = stage.radius, 2 * stage.radius + 1
    size = (2 * features.shape[2], 2 * features.shape[3])
    guidance = F.adaptive_avg_pool2d(guidance, size)
    source = F.pad(F.interpolate(features, size=size, mode="bicubic"), (radius,) * 4, mode="reflect")
    keys = stage.range_proj(guidance)
    padded = F.pad(keys, (radius,) * 4, mode="reflect")
    out = torch.zeros(*features.shape[:2], *size, dtype=features.dtype)
    for n in range(len(features)):
        for y in range(size[0]):
            for x in range(size[1]):
                window = padded[n, :, y : y + side, x : x + side].flatten(1)
                weights = (stage.range_temp.exp() * (keys[n, :, y, x] @ window)).softmax(0)
                for index in range(side**2):
                    dy, dx = (index // side - radius) / radius, (index % side - radius) / radius
                    near = torch.exp(-(dy**2 + dx**2) / (2 * stage.sigma_spatial**2))
                    weights = torch.cat([weights[:index], weights[index : index + 1] * near, weights[index + 1 :]])
                weights = weights / weights.sum()
                column = torch.cat([weights, guidance[n, :, y, x]])[None, :, None, None]
                weights = weights + 0.1 * stage.fixup_proj(column).flatten()
                out[n, :, y, x] = source[n, :, y : y + side, x : x + side].flatten(1) @ weights
    return out


@pytest.mark.parametrize(("radius", "shape"), [(3, (2, 3)), (1, (3, 2))])
def test_a_stage_is_the_slow_one(radius, shape):
    stage = random_stage(1, radius=radius)
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(2, 3, *shape, generator=generator, dtype=torch.float64)
    guidance = torch.randn(2, 3, 31, 37, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(stage(features, guidance), slow_stage(stage, features, guidance))


def test_weighing_is_unfolding_and_so_are_its_gradients():
    generator = torch.Generator().manual_seed(3)
    source = torch.randn(2, 5, 6, 7, generator=generator, requires_grad=True)
    kernel = torch.randn(2, 49, 6, 7, generator=generator, requires_grad=True)
    ours = weigh(source, kernel, 3)
    unfolded = F.unfold(F.pad(source, (3,) * 4, mode="reflect"), 7).view(2, 5, 49, 6, 7)
    twin = torch.einsum("ncshw,nshw->nchw", unfolded, kernel)
    torch.testing.assert_close(ours, twin, atol=1e-5, rtol=1e-5)
    wanted = torch.randn(2, 5, 6, 7, generator=generator)
    for a, b in zip(
        torch.autograd.grad((ours * wanted).sum(), (source, kernel)),
        torch.autograd.grad((twin * wanted).sum(), (source, kernel)),
    ):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def upsampler() -> torch.nn.Module:
    return zoo.build("featup-jbu-maskclip", size="debug", seed=4).eval()


@pytest.mark.parametrize(("grid", "size"), [((4, 6), (64, 96)), ((4, 5), (56, 70)), ((2, 3), (200, 100))])
def test_the_output_is_16_times_the_grid_whatever_the_image(upsampler, grid, size):
    with torch.no_grad():
        out = upsampler(torch.rand(2, 8, *grid), torch.rand(2, 3, *size))
    assert out.shape == (2, 8, 16 * grid[0], 16 * grid[1])


def without_corrections(upsampler: torch.nn.Module, sharpness: float) -> torch.nn.Module:
    """Plain joint bilateral filtering: pixels compared by colour, no learned corrections."""
    plain = zoo.build("featup-jbu-maskclip", size="debug", key_dim=3, seed=4).eval()
    with torch.no_grad():
        for stage in plain.stages:
            stage.fixup_proj[3].weight.zero_()
            stage.range_proj = torch.nn.Identity()
            stage.range_temp.fill_(sharpness)
        plain.correct[1].weight.zero_()
    return plain


def test_without_the_corrections_constants_stay_constant(upsampler):
    plain = without_corrections(upsampler, sharpness=1.0)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    constant = torch.full((1, 8, 4, 4), 3.0)
    with torch.no_grad():
        torch.testing.assert_close(plain(constant, images), torch.full((1, 8, 64, 64), 3.0))
        assert not torch.allclose(upsampler(constant, images), torch.tensor(3.0))


def test_features_follow_the_edges_of_the_image(upsampler):
    """An edge that is no patch border is found from the image, and not from a flat one."""
    plain = without_corrections(upsampler, sharpness=1.0)
    truth = torch.zeros(1, 1, 96, 96)
    truth[..., 40:] = 1.0
    features = F.avg_pool2d(truth, 16).expand(1, 8, 6, 6)
    errors = []
    with torch.no_grad():
        for images in (truth.expand(1, 3, 96, 96), torch.full((1, 3, 96, 96), 0.5)):
            errors.append((plain(features, images)[:, :1] - truth)[..., 32:48].abs().mean())
    assert errors[0] < 0.7 * errors[1]


def test_a_batch_is_its_images(upsampler):
    generator = torch.Generator().manual_seed(6)
    features = torch.randn(3, 8, 3, 4, generator=generator)
    images = torch.rand(3, 3, 48, 64, generator=generator)
    with torch.no_grad():
        one_by_one = torch.cat([upsampler(f[None], i[None]) for f, i in zip(features, images)])
        torch.testing.assert_close(upsampler(features, images), one_by_one, atol=1e-5, rtol=1e-5)


def test_images_are_normalised_inside_and_never_clamped(upsampler):
    raw = zoo.build("featup-jbu-maskclip", size="debug", image_mean=(0, 0, 0), image_std=(1, 1, 1)).eval()
    raw.load_state_dict(upsampler.state_dict())
    images = 3 * torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(7)) - 1
    features = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(8))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (images - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(raw(features, normalised), upsampler(features, images))


def test_the_channel_norm_makes_scale_and_offset_of_a_pixel_unimportant():
    model = zoo.build("featup-jbu-dinov2", size="debug", seed=9).eval()
    images, features = torch.rand(1, 3, 56, 56), torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        scaled = model(5 * features + 2, images)
        torch.testing.assert_close(scaled, model(features, images), atol=1e-3, rtol=1e-3)


def test_dropout_is_for_training_only():
    model = zoo.build("featup-jbu-maskclip", size="debug", seed=10)
    images, features = torch.rand(1, 3, 64, 64), torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        assert not torch.equal(model.train()(features, images), model(features, images))
        assert torch.equal(model.eval()(features, images), model(features, images))


def test_half_precision_stays_close(upsampler):
    generator = torch.Generator().manual_seed(11)
    features, images = (torch.randn(1, 8, 4, 4, generator=generator), torch.rand(1, 3, 64, 64, generator=generator))
    half = zoo.build("featup-jbu-maskclip", size="debug")
    half.load_state_dict(upsampler.state_dict())
    with torch.no_grad():
        full = upsampler(features, images)
        rounded = half.eval().bfloat16()(features.bfloat16(), images.bfloat16()).float()
    assert 0 < (rounded - full).norm() / full.norm() < 0.05


@pytest.mark.parametrize(
    ("features", "images", "message"),
    [
        ((1, 8, 1, 4), (1, 3, 64, 64), "at least 2 a side"),
        ((1, 7, 4, 4), (1, 3, 64, 64), "made for 8 channels"),
        ((2, 8, 4, 4), (1, 3, 64, 64), "with the same N"),
        ((8, 4, 4), (1, 3, 64, 64), "takes"),
        ((1, 8, 4, 4), (1, 4, 64, 64), "takes"),
    ],
)
def test_what_cannot_be_upsampled_is_a_users_mistake(upsampler, features, images, message):
    with pytest.raises(UserError, match=message):
        upsampler(torch.rand(features), torch.rand(images))
