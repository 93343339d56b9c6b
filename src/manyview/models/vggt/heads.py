"""VGGT's head for cameras, refined step by step from the views' camera tokens, and its encoding of cameras.

Legend: B scenes, V views, N images, h x w patches, H x W pixels, D channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.geometry import poses
from manyview.layers.block import Block, Mlp

# Numbers of a camera: translation, quaternion xyzw, vertical and horizontal field of view.
POSE_NUMBERS = 9
# Fields of view are kept away from 0 and pi, where a focal length is infinite or zero.
LEAST_VIEW = 0.01


class CameraHead(nn.Module):
    """Camera tokens of all views to pose encodings: each round says what to add to those of the round before.

    The encoding so far shifts, scales and gates the normed tokens (adaptive LayerNorm), which then pass through a
    trunk of blocks that sees all views of a scene.
    """

    def __init__(self, dim: int, *, depth: int, heads: int, rounds: int, eps: float, layer_scale: float | None) -> None:
        super().__init__()
        self.rounds = rounds
        self.token_norm = nn.LayerNorm(dim, eps=eps)
        self.nothing_yet = nn.Parameter(torch.empty(1, 1, POSE_NUMBERS))
        self.embed = nn.Linear(POSE_NUMBERS, dim)
        self.modulation = nn.Linear(dim, 3 * dim)
        self.trunk = nn.ModuleList(Block(dim, heads, eps=eps, layer_scale=layer_scale) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.branch = Mlp(dim, dim // 2, POSE_NUMBERS)

    def init_parameters(self) -> None:
        # A fresh head says: no motion, one radian of view either way.
        nn.init.zeros_(self.nothing_yet)
        with torch.no_grad():
            self.branch.fc2.weight.mul_(0.1)
            self.branch.fc2.bias.copy_(torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 1, 1]) / self.rounds)

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """(B, V, D) -> the pose encodings (B, V, 9) after every round.

        Gradients do not reach back through earlier rounds.
        """
        tokens = self.token_norm(tokens)
        encoding, answers = self.nothing_yet.expand(*tokens.shape[:2], -1), []
        for turn in range(self.rounds):
            shift, scale, gate = self.modulation(F.silu(self.embed(encoding))).chunk(3, dim=-1)
            plain = F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
            mixed = tokens + gate * (plain * (1 + scale) + shift)
            for block in self.trunk:
                mixed = block(mixed)
            step = self.branch(self.norm(mixed))
            raw = step if turn == 0 else encoding + step
            encoding = raw.detach()
            answers.append(torch.cat([raw[..., :7], raw[..., 7:].relu()], dim=-1))
        return answers


def decode_pose(encoding: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Pose encodings (..., 9) and (H, W) pixels -> cam2world (..., 4, 4), intrinsics (..., 3, 3).

    An encoding holds world2cam: its translation, its quaternion xyzw (of any length), and the vertical and
    horizontal fields of view in radians; the principal point is the image's centre.
    """
    translation, quaternion, view = encoding.float().split((3, 4, 2), dim=-1)
    world2cam = poses.pose(poses.matrix_from_quaternion(quaternion.roll(1, dims=-1)), translation)
    half = torch.tensor([size[1] / 2, size[0] / 2], device=encoding.device)  # across, down
    focal = half / (view.flip(-1).clamp(LEAST_VIEW, torch.pi - LEAST_VIEW) / 2).tan()
    intrinsics = torch.zeros(*encoding.shape[:-1], 3, 3, device=encoding.device)
    intrinsics[..., [0, 1], [0, 1]] = focal
    intrinsics[..., :2, 2] = half
    intrinsics[..., 2, 2] = 1
    return poses.invert(world2cam), intrinsics
