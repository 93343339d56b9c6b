"""Maps in few bytes: close at every scale, small where the world is simple, damage noticed, nothing invented."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from manyview.cache import codec, signals
from manyview.cache.codec import BrokenArchive
from manyview.cache.record import TeacherCard
from manyview.geometry import poses
from manyview.types import Signal, Teacher

HEIGHT, WIDTH = 48, 64


def pinhole(depth: np.ndarray, scale: float = 1.0) -> np.ndarray:
    v, u = np.mgrid[: depth.shape[0], : depth.shape[1]] + 0.5
    return (np.stack([(u - 32) / 60 * depth, (v - 20) / 55 * depth, depth], -1) * scale).astype(np.float32)


def measured(scale: float = 1.0) -> np.ndarray:
    """A tilted wall in whole millimetres, a box before it and a hole without measurement."""
    v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    depth = 1 / (0.35 + 0.001 * (u - WIDTH / 2) - 0.002 * (v - HEIGHT / 2))
    depth[12:30, 10:28] = 1.0
    depth[34:40, 40:50] = 0
    return pinhole(np.round(depth, 3), scale)


def smooth(seed: int = 0) -> np.ndarray:
    """What a network says: no pinhole, soft waves."""
    waves = np.random.default_rng(seed).standard_normal((3, 4, 5))
    grown = torch.nn.functional.interpolate(torch.tensor(waves)[None], (HEIGHT, WIDTH), mode="bicubic")[0].numpy()
    points = pinhole(2 * np.exp(0.2 * grown[0]))
    points[..., :2] += 0.05 * np.moveaxis(grown[1:], 0, -1)
    return points


def back(values: np.ndarray, encoding: str) -> np.ndarray:
    out = np.empty(values.shape, np.float32)
    codec.decode_into(out, codec.encode(values, encoding), encoding)
    return out


def error(points: np.ndarray, expected: np.ndarray) -> np.ndarray:
    valid = expected[..., 2] > 0
    return (np.linalg.norm(points - expected, axis=-1) / np.linalg.norm(expected, axis=-1).clip(1e-30))[valid]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
@pytest.mark.parametrize("make", [measured, lambda scale: scale * smooth()])
def test_points_are_close_at_every_scale(make, scale):
    points = make(scale)
    assert np.percentile(error(back(points, codec.POINTS), points), 99.9) <= 1e-3


def test_bytes_are_few_where_the_world_is_simple():
    rng = np.random.default_rng(0)
    wall, noise = pinhole(np.full((HEIGHT, WIDTH), 2.0)), pinhole(rng.uniform(1, 3, (HEIGHT, WIDTH)))
    sizes = [len(codec.encode(points, codec.POINTS)) for points in (wall, measured(), smooth(), noise)]
    lossless = len(codec.encode(smooth().astype(np.float16), codec.HALF))
    assert sizes[0] < 200 < sizes[1] < sizes[2] < 0.6 * lossless
    assert sizes[3] > 3000, "noise cannot be small: this would be a codec that loses it"


@pytest.mark.parametrize("encoding", codec.POSITIVE)
def test_positive_numbers_are_close(encoding):
    values = np.exp(np.random.default_rng(1).standard_normal((HEIGHT, WIDTH)).cumsum(1) * 0.2).astype(np.float32)
    relative = np.abs(back(values, encoding) - values) / values
    assert np.percentile(relative, 99.9) <= codec.POSITIVE[encoding]
    assert relative.max() > codec.POSITIVE[encoding] / 100  # it does lose something


def test_a_map_without_a_valid_pixel_and_one_of_odd_size():
    assert back(np.zeros((5, 7, 3), np.float32), codec.POINTS).shape == (5, 7, 3)
    points = smooth()[:13, :29]
    assert np.percentile(error(back(points, codec.POINTS), points), 99.9) <= 1e-3


def test_other_bytes_are_a_broken_archive():
    frame = codec.encode(smooth(), codec.POINTS)
    out = np.empty((HEIGHT, WIDTH, 3), np.float32)
    for damaged in (b"", frame[:3], frame[:40], frame[:-1], frame[:29] + b"\xff" + frame[30:]):
        with pytest.raises(BrokenArchive):
            codec.decode_into(out, damaged, codec.POINTS)


class Says(Teacher):
    name, licence = "says", "ours"

    def __call__(self, views):
        raise NotImplementedError


def packed_and_back(answers: dict[str, np.ndarray], maps: str = "compact") -> tuple[signals.Packed, dict[str, Signal]]:
    card = TeacherCard.of(Says(), maps=maps)
    given = {name: Signal(torch.from_numpy(values)[None]) for name, values in answers.items()}
    packed = signals.pack(card, given)
    fields = {}
    for name, values in packed.fields.items():
        how = packed.encodings.get(name) or codec.LOSSLESS[values.dtype.name]
        fields[name] = np.empty_like(values)
        for view, plane in enumerate(values):
            codec.decode_into(fields[name][view], codec.encode(plane, how), how)
    return packed, signals.unpack(fields, packed.parts, card)


def moved(points: np.ndarray, scale: float, angle: float, shift: list[float]) -> np.ndarray:
    turn = poses.matrix_from_quaternion(torch.tensor([np.cos(angle / 2), 0, np.sin(angle / 2), 0])).numpy()
    return (scale * points @ turn.T + shift).astype(np.float32)


def test_a_moved_pointmap_is_kept_as_its_motion_and_another_is_kept_whole():
    local = np.stack([smooth(0), smooth(1)])
    reference = np.stack([moved(local[0], 1.0, 0.0, [0, 0, 0]), moved(local[1], 1.3, 3.0, [0.3, 0.1, 1.0])])
    packed, read = packed_and_back({"pointmap": reference, "pointmap_local": local})
    assert "says/pointmap" not in packed.fields
    assert np.percentile(error(read["pointmap"].value[0].numpy(), np.abs(reference)), 99.9) > 0  # behind the camera too
    away = np.linalg.norm(read["pointmap"].value[0].numpy() - reference, axis=-1)
    assert np.percentile(away / np.linalg.norm(local, axis=-1), 99.9) <= 1.4e-3

    bent = reference + 0.05 * np.sin(9 * local)
    packed, read = packed_and_back({"pointmap": bent, "pointmap_local": local})
    assert "says/pointmap" in packed.fields
    away = np.linalg.norm(read["pointmap"].value[0].numpy() - bent, axis=-1)
    assert np.percentile(away / np.linalg.norm(local, axis=-1), 99.9) <= 2e-3


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
def test_points_behind_their_camera_are_kept_as_float16_at_any_scale(scale):
    points = np.stack([smooth() * [1, 1, -1]]).astype(np.float32) * np.float32(scale)
    _, read = packed_and_back({"pointmap_local": points})
    assert read["pointmap_local"].valid.all()
    assert np.allclose(read["pointmap_local"].value[0], points, rtol=2e-3, atol=2e-3 * scale)


def test_what_is_not_finite_is_not_valid():
    points = np.stack([smooth()])
    points[0, 3, 4] = np.inf
    confidence = np.full((1, HEIGHT, WIDTH), 5.0, np.float32)
    confidence[0, 5, 6] = np.nan
    _, read = packed_and_back({"pointmap_local": points, "confidence_local": confidence})
    assert not read["pointmap_local"].valid[0, 0, 3, 4]
    assert not read["confidence_local"].valid[0, 0, 5, 6]
    assert read["confidence_local"].valid.sum() == HEIGHT * WIDTH - 1
