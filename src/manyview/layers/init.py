"""Fresh weights: one rule per kind of layer, then whatever a module wants for itself."""

from __future__ import annotations

from torch import Tensor, nn


def init_weights(root: nn.Module, *, xavier: bool = False) -> None:
    """Fill every parameter and every non-persistent buffer under `root`, also after `to_empty`.

    Linear layers: truncated normal of std 0.02, or with `xavier` uniform by Xavier's rule; convolutions:
    variance-preserving; norms: identity. A module with parameters or wishes of its own has `init_parameters()`, one
    with computed buffers `init_buffers()`.
    """
    for module in root.modules():
        if isinstance(module, nn.Linear):
            if xavier:
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.trunc_normal_(module.weight, std=0.02)
            _zero(module.bias)
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            fan_in = module.in_channels // module.groups
            if isinstance(module, nn.Conv2d):
                fan_in *= module.kernel_size[0] * module.kernel_size[1]
            nn.init.trunc_normal_(module.weight, std=fan_in**-0.5)
            _zero(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            _zero(module.bias)
    for module in reversed(list(root.modules())):  # children before parents
        _call(module, "init_parameters")
        _call(module, "init_buffers")


def init_buffers(root: nn.Module) -> None:
    """Fill only the non-persistent buffers, for a model whose parameters come from a file."""
    for module in root.modules():
        _call(module, "init_buffers")


def _call(module: nn.Module, name: str) -> None:
    method = getattr(module, name, None)
    if callable(method):
        method()


def _zero(bias: Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)
