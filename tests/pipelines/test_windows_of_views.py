"""A network is asked in windows that fit the memory; their answers come in one frame."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import nn

from manyview.errors import UserError
from manyview.images.fit import Fit
from manyview.images.inputs import Photo, Picture
from manyview.pipelines import answers, at_once

SIZE = (28, 42)
CPU = torch.device("cpu")


class Frames(nn.Module):
    """A perfect network of a flat world, in the frame and the unit of its first view, which it finds in the pixels."""

    config = SimpleNamespace(patch_size=14, dim=16, decoder_dim=16, head_dim=4, encoder_chunk=8, head_chunk=4)

    def __init__(self, most: int = 1000) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.turns = torch.from_numpy(Rotation.from_rotvec(0.3 * rng.standard_normal((40, 3))).as_matrix())
        self.shifts = torch.from_numpy(rng.standard_normal((40, 3)))
        self.world, self.most, self.asked = torch.from_numpy(rng.uniform(1, 3, (40, *SIZE, 3))), most, []

    def forward(self, images, view_ids=None, *, encoder_chunk=None, head_chunk=None):
        numbers = [int(round(float(image[0, 0, 0] * 255))) for image in images[0]]
        self.asked.append((numbers, head_chunk))
        if len(numbers) > self.most:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 TB")
        first = numbers[0]
        unit = 1 + 0.2 * first
        points = torch.stack([(self.world[n] - self.shifts[first]) @ self.turns[first] / unit for n in numbers])
        poses = torch.eye(4).double().repeat(len(numbers), 1, 1)
        poses[:, :3, :3] = self.turns[first].T @ self.turns[numbers]
        poses[:, :3, 3] = (self.shifts[numbers] - self.shifts[first]) @ self.turns[first] / unit
        ones = torch.ones(len(numbers), *SIZE)
        maps = {"pointmap": points.float()[None], "pointmap_local": self.world[numbers].float()[None]}
        return {**maps, "confidence": ones[None], "confidence_local": ones[None], "cam2world": poses[None]}


def photos(count: int) -> list[Photo]:
    fit = Fit(SIZE, SIZE, 1.0, (0.0, 0.0))
    return [Photo(Picture(str(n), str(n)), np.full((*SIZE, 3), n, np.uint8), fit) for n in range(count)]


def test_windows_cover_every_view_and_share_some():
    for count, views in ((5, 8), (8, 8), (20, 8), (21, 8), (30, 4)):
        made = list(at_once.windows(count, views))
        assert sorted({view for first, last in made for view in range(first, last)}) == list(range(count))
        assert all(last - first == min(views, count) for first, last in made)
        assert all(one[1] > two[0] for one, two in pairwise(made))


@pytest.mark.parametrize("views", [4, 7, 8])
def test_answers_of_windows_lie_in_the_first_frame(monkeypatch, views):
    network, given = Frames(), photos(30)
    whole = answers.ask(network, given, [None] * 30, CPU)
    assert [len(numbers) for numbers, _ in network.asked] == [30]
    monkeypatch.setattr(at_once, "TOKENS_ON_CPU", 6 * views)
    parts = answers.ask(network, given, [None] * 30, CPU)
    assert all(len(numbers) == views for numbers, _ in network.asked[1:])
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one.world, other.world, atol=1e-3)
        assert torch.allclose(one.cam2world, other.cam2world, atol=1e-4)


def test_a_view_keeps_no_window_in_memory_and_in_the_end_only_its_depth(monkeypatch):
    """Pixel by pixel 34 bytes, then 9: point and confidence of both heads, two masks; depth, confidence, a mask."""
    monkeypatch.setattr(answers, "plan", lambda *_: at_once.Plan(8, {}))
    maps = answers.ask(Frames(), photos(20), [None] * 20, CPU)

    def held(one):
        tensors = [value for value in vars(one).values() if isinstance(value, torch.Tensor) and value.ndim >= 2]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors if tensor.shape != (4, 4))

    pixels = SIZE[0] * SIZE[1]
    for one in maps:
        assert held(one) == 34 * pixels
        before = torch.where(one.valid, one.local[..., 2], 0)
        one.keep_depth()
        assert held(one) == 9 * pixels
        assert torch.equal(one.depth, before)


def test_a_window_that_disagrees_in_places_is_still_brought_home():
    rng = torch.Generator().manual_seed(0)
    points = torch.rand((*SIZE, 3), generator=rng) + 1
    moved = points @ torch.from_numpy(Rotation.from_rotvec([0.1, 0.2, 0.3]).as_matrix()).float() * 2 + 0.5
    moved[:10] += torch.rand((10, SIZE[1], 3), generator=rng)  # a third is wrong
    view = {"pointmap": moved, "confidence": torch.ones(SIZE)}
    (home,) = at_once.in_first_frame([view], [{"pointmap": points, "confidence": torch.ones(SIZE)}])
    assert (home["pointmap"][10:] - points[10:]).norm(dim=-1).median() < 0.02


def test_memory_decides_chunks_and_views_and_never_above_the_networks_own(monkeypatch):
    network, sizes = Frames(), [(280, 420)] * 60
    kept = []
    for free in (10**12, 4 * 10**8, 3 * 10**8):
        monkeypatch.setattr(at_once, "free_memory", lambda device, free=free: free)
        kept.append(at_once.plan(network, sizes[:20], CPU, {}))
    assert kept[0] == at_once.Plan(20, {"encoder_chunk": 8, "head_chunk": 4})
    assert [one.views for one in kept] == sorted((one.views for one in kept), reverse=True)
    assert kept[-1].views < 20
    assert at_once.plan(network, sizes[:20], CPU, {"head_chunk": 3}).chunks["head_chunk"] == 3
    monkeypatch.setattr(at_once, "free_memory", lambda device: 3 * 10**8)
    with pytest.raises(UserError, match=r"1000 pictures of 420x280 need about .* MB .*--max-frames \d+ would fit"):
        at_once.plan(network, sizes[:1] * 1000, CPU, {})
    monkeypatch.setattr(at_once, "free_memory", lambda device: 10**6)
    with pytest.raises(UserError, match="--image-size"):
        at_once.plan(network, sizes[:2], CPU, {})


def test_where_memory_runs_out_smaller_pieces_are_tried():
    network = Frames(most=10)
    maps = answers.ask(network, photos(20), [None] * 20, CPU)
    assert len(maps) == 20
    assert [chunk for _, chunk in network.asked][:5] == [4, 2, 1, 1, 1]
    assert {len(numbers) for numbers, _ in network.asked[4:]} == {10}
    with pytest.raises(UserError, match="memory ran out on cpu"):
        answers.ask(Frames(most=1), photos(20), [None] * 20, CPU)
    with pytest.raises(RuntimeError, match="shapes"):
        answers.ask(Broken(), photos(3), [None] * 3, CPU)


class Broken(Frames):
    def forward(self, images, view_ids=None, **chunks):
        raise RuntimeError("shapes do not match")


def test_sizes_may_be_mixed():
    fit = replace(photos(1)[0].fit, source=(28, 28), size=(28, 28))
    assert at_once.plan(Frames(), [fit.size, SIZE], CPU, {}).views == 2
