"""Images to patch tokens, and the check that an image can be cut into whole patches."""

from __future__ import annotations

from torch import Tensor, nn

from manyview.errors import UserError


def patch_grid(height: int, width: int, patch: int) -> tuple[int, int]:
    """(h, w) patches of an image. Raises UserError when a side is no multiple of the patch."""
    if height % patch or width % patch or not height or not width:
        fit = (max(patch, height // patch * patch), max(patch, width // patch * patch))
        raise UserError(
            f"images are {height}x{width}, but this model needs sides that are multiples of {patch}; "
            f"resize or crop them, for example to {fit[0]}x{fit[1]}"
        )
    return height // patch, width // patch


def image_grid(images: Tensor, patch: int, *, dims: int = 4) -> tuple[int, int]:
    """(h, w) patches of images (..., 3, H, W) of `dims` dimensions. Raises UserError for anything else."""
    if images.ndim != dims or images.shape[-3] != 3 or not images.is_floating_point():
        wanted = "(N, 3, H, W)" if dims == 4 else "(B, V, 3, H, W), scenes and their views"
        kind = str(images.dtype).removeprefix("torch.")
        raise UserError(
            f"images are {kind} of shape {tuple(images.shape)}, but this model takes {wanted}: RGB, floats from 0 to 1"
        )
    return patch_grid(images.shape[-2], images.shape[-1], patch)


class PatchEmbed(nn.Module):
    """One linear map per patch, written as a strided convolution."""

    def __init__(self, patch: int, dim: int, *, bias: bool = True) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(3, dim, patch, stride=patch, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, h*w, D), row-major."""
        image_grid(images, self.patch)
        return self.proj(images).flatten(2).transpose(1, 2)
