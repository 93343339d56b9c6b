"""Depth from posed photos alone: right on painted walls at any scale, silent where there is nothing to compare."""

from __future__ import annotations

import pytest
import torch

from analytic_room import circle, render
from manyview.errors import UserError
from manyview.geometry import cameras
from manyview.teachers import photos
from manyview.teachers.named import teacher_named
from manyview.teachers.photos import Photos
from manyview.types import Views

SIZE, INTRINSICS = (72, 96), torch.tensor([[80.0, 0, 48], [0, 80.0, 36], [0, 0, 1]], dtype=torch.float64)


def paint(points: torch.Tensor, seed: int = 3) -> torch.Tensor:
    """Grey waves of many lengths and directions, fixed to the places (..., 3)."""
    generator = torch.Generator().manual_seed(seed)
    waves = torch.randn(24, 3, generator=generator, dtype=torch.float64) * 9
    phases = torch.rand(24, generator=generator, dtype=torch.float64) * 7
    return 0.5 + 0.4 * torch.tanh(torch.sin(points @ waves.T + phases).mean(-1) * 4)


def room(
    count: int = 6, scale: float = 1.0, painted: bool = True, strangers: bool = False
) -> tuple[Views, torch.Tensor]:
    poses, images, depths = circle(count, degrees=12), [], []
    for number, pose in enumerate(poses):
        depth, _ = render(pose, INTRINSICS, *SIZE)
        points = pose[:3, 3] + depth[..., None] * (cameras.rays(INTRINSICS, *SIZE) @ pose[:3, :3].T)
        images.append(paint(points, number if strangers else 3) if painted else torch.full(SIZE, 0.6))
        depths.append(depth * scale)
    poses[:, :3, 3] *= scale
    views = Views(
        torch.stack(images).float()[None, :, None].expand(-1, -1, 3, -1, -1).contiguous(),
        intrinsics=INTRINSICS.float().expand(1, count, 3, 3),
        cam2world=poses.float()[None],
    )
    return views, torch.stack(depths)


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_depth_is_right_where_it_is_said_at_any_scale(scale):
    views, depth = room(scale=scale)
    answers = Photos()(views)
    valid = answers["pointmap_local"].valid[0]
    assert valid.float().mean() > 0.5
    error = ((answers["pointmap_local"].value[0, ..., 2] - depth).abs() / depth)[valid]
    assert error.median() < 0.01
    assert (error < 0.05).float().mean() > 0.9
    first = views.cam2world[0, 0].double().inverse() @ views.cam2world[0].double()
    moved = answers["pointmap_local"].value[0].double() @ first[:, None, :3, :3].transpose(-1, -2)
    moved = moved + first[:, None, None, :3, 3]
    assert torch.allclose(answers["pointmap"].value[0][valid].double(), moved[valid], rtol=1e-3, atol=1e-3 * scale)


def test_confidence_tells_the_sure_from_the_unsure():
    """Confident pixels are better; shuffled confidences are not."""
    views, depth = room()
    views.images += 0.04 * torch.randn(views.images.shape, generator=torch.Generator().manual_seed(0))
    answers = Photos()(views)
    valid = answers["confidence"].valid[0]
    confidence = answers["confidence"].value[0][valid]
    error = ((answers["pointmap_local"].value[0, ..., 2] - depth).abs() / depth)[valid]
    sure = confidence >= confidence.quantile(0.7)
    shuffled = sure[torch.randperm(len(sure), generator=torch.Generator().manual_seed(0))]
    assert error[sure].mean() < 0.6 * error[~sure].mean()
    assert error[shuffled].mean() > 0.9 * error[~shuffled].mean()


def test_blank_walls_strangers_and_noise_say_nothing():
    blank, _ = room(painted=False)
    strangers, _ = room(strangers=True)  # every photo shows another room
    noise, _ = room()
    noise.images = torch.rand(noise.images.shape, generator=torch.Generator().manual_seed(0))
    shares = [float(Photos()(views)["pointmap"].valid.float().mean()) for views in (blank, strangers, noise)]
    assert shares[0] == 0
    assert max(shares) < 0.03, shares


class Guess(torch.nn.Module):
    """Says the true depth of each photo at another scale and leaning to one side, one photo at a time."""

    def __init__(self, views: Views, depth: torch.Tensor) -> None:
        super().__init__()
        self.images, self.depth = views.images[0], 0.05 * depth * torch.linspace(0.6, 1.5, depth.shape[-1])

    def forward(self, images):
        (number,) = [i for i, own in enumerate(self.images) if torch.equal(own, images[0, 0])]
        depth = self.depth[number].float()
        return {"pointmap_local": torch.stack([depth, depth, depth], -1)[None, None]}


def test_gaps_are_filled_by_a_guess_that_is_bent_to_what_was_found(monkeypatch):
    monkeypatch.setattr(photos, "licence_of", lambda network: "ours")
    views, depth = room(4)
    views.images[..., 4:56, 44:] = 0.6  # a part of every photo has no texture
    gaps = torch.zeros(depth.shape, dtype=torch.bool)
    gaps[:, 8:52, 50:] = True
    network = Guess(views, depth)
    filled = Photos(fill=network)(views)
    assert filled["pointmap_local"].valid.all()

    def wrong(said):
        scaled = said * (depth / said).flatten(1).median(1).values[:, None, None]
        return float(((scaled - depth).abs() / depth)[gaps].mean())

    local, first = (filled[name].value[0].double() for name in ("pointmap_local", "pointmap"))
    assert abs(float((local[..., 2] / network.depth).median()) - 1) < 0.1, "in the unit of the guess"
    motion = views.cam2world[0, 0].double().inverse() @ views.cam2world[0].double()
    motion[:, :3, 3] *= float((local[..., 2] / depth)[~gaps].median())
    moved = local @ motion[:, None, :3, :3].transpose(-1, -2) + motion[:, None, None, :3, 3]
    assert (moved - first).norm(dim=-1).median() < 0.01 * first.norm(dim=-1).median(), "and so are the cameras"
    assert not Photos(fill=network).uses_given_poses, "whose unit is another"
    assert wrong(filled["pointmap_local"].value[0, ..., 2]) < 0.7 * wrong(network.depth)
    sure = filled["confidence"].value[0]
    assert sure[gaps].mean() < sure[~gaps].mean()
    assert Photos(fill=network).digest() != Photos().digest()


def test_what_it_needs_is_said():
    views, _ = room(2)
    with pytest.raises(UserError, match="at least 3 views, this one has 2"):
        teacher_named("photos", SIZE)(views)
    views, _ = room(3)
    views.cam2world = None
    with pytest.raises(UserError, match="needs intrinsics, poses"):
        Photos()(views)
