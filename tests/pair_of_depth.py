"""A pair model that knows a room's true points; noise and nonsense on demand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch

from analytic_room import circle, render
from manyview.geometry import cameras, poses
from manyview.metrics.pose import relative_pose_errors
from manyview.models.model import ReconstructsPairs
from manyview.types import Features

HEIGHT, WIDTH, FOCAL = 84, 112, 105.0


class PairOfDepth(ReconstructsPairs):
    """Answers pairs with the true points of a room, each in a unit of its own; some pairs are nonsense."""

    def __init__(self, count: int, *, noise: float = 0.0, wrong: int = 0) -> None:
        self.noise, self.rng = noise, torch.Generator().manual_seed(0)
        self.cam2world = circle(count, degrees=50.0)
        matrix = cameras.intrinsics_matrix(FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2).double()
        shots = [render(pose, matrix, HEIGHT, WIDTH) for pose in self.cam2world]
        self.pictures = [(image * 255).round().byte().numpy() for _, image in shots]
        self.world = [
            poses.apply(pose, (cameras.rays(matrix, HEIGHT, WIDTH) * depth[..., None]).reshape(-1, 3))
            for pose, (depth, _) in zip(self.cam2world, shots, strict=True)
        ]
        every = list(combinations(range(count), 2))
        self.wrong = {every[n] for n in torch.randperm(len(every), generator=self.rng)[:wrong].tolist()}
        self.encoded: list[int] = []
        self.asked: list[tuple[int, int]] = []
        self.config = type("Config", (), {"image_size": WIDTH, "patch_size": 14})

    def encode_views(self, images):
        views = [view[0] for view in (images.unbind(1) if isinstance(images, torch.Tensor) else images)]
        numbers = [self._number(view) for view in views]
        self.encoded += numbers
        return tuple(Features(self.world[n][None].float(), torch.tensor([n]), None, (1, 1)) for n in numbers)

    def _number(self, picture):
        wanted = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
        return next(n for n, known in enumerate(self.pictures) if np.array_equal(known, wanted))

    def decode(self, first, second, heads=None):
        i, j = int(first.cls), int(second.cls)
        self.asked.append((i, j))
        unit = float(torch.exp(0.2 * torch.randn(1, generator=self.rng)))
        points = [poses.apply(poses.invert(self.cam2world[i]), self.world[k]) / unit for k in (i, j)]
        if (min(i, j), max(i, j)) in self.wrong:
            turn = torch.linalg.qr(torch.randn(3, 3, generator=self.rng).double())[0]
            points[1] = points[1] @ (turn * torch.linalg.det(turn).sign()) + torch.randn(3, generator=self.rng)
        points = [p * (1 + self.noise * torch.randn(len(p), 1, generator=self.rng)) for p in points]
        pointmap = torch.stack([p.reshape(1, HEIGHT, WIDTH, 3) for p in points], 1).float()
        return {"pointmap": pointmap, "confidence": torch.full(pointmap.shape[:-1], 3.0)}

    def errors(self, scene) -> np.ndarray:
        ours = np.stack([view.cam2world for view in scene.views])
        turn, shift, _ = relative_pose_errors(np.linalg.inv(ours), np.linalg.inv(self.cam2world.numpy()))
        return np.maximum(turn, shift)
