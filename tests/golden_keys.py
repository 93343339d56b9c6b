"""The official key lists: names and shapes to ours, sizes from them alone, and back to the same list.

Everything happens on the meta device, so the largest networks cost nothing.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch

# File of keys -> zoo name whose published files are laid out so. Sizes come from the shapes.
ARCHITECTURES = (
    (r"dinov2/keys_vit([sbl])14$", r"dinov2-vit\g<1>14"),
    (r"dinov2/keys_vit([sbl])14_reg$", r"dinov2-vit\g<1>14-reg4"),
    (r"distill3r/keys$", "distill3r"),
    (r"dune/keys_vit([sb])\w+14_(336|448)(?:_reg0)?$", r"dune-vit\g<1>14-\g<2>"),
    (r"dust3r/keys_\w+$", "dust3r-vitl16-512-dpt"),
    (r"fast3r/keys_\w+$", "fast3r-vitl16"),
    (r"featup/keys_jbu_\w+$", "featup-jbu-maskclip"),
    (r"maskclip/keys_\w+$", "maskclip-vitb16"),
    (r"mast3r/keys_dune_\w+$", "dunemast3r-vitb14"),
    (r"mast3r/keys_\w+$", "mast3r-vitl16"),
    (r"mum/keys_encoder_only_\w+$", "mum-vitl16"),
    (r"mum/keys_autoencoder_\w+$", "mum-vitl16-full"),
    (r"vggt/keys_(?:small|vggt_1b)$", "vggt-1b"),
)


def architecture_of(name: str) -> str | None:
    """Zoo name for a file of keys such as mum/keys_autoencoder_vitl16, None when nothing is laid out so."""
    for pattern, arch in ARCHITECTURES:
        if found := re.match(pattern, name):
            return found.expand(arch)
    return None


def overrides_of(path: Path) -> dict:
    """What the golden case that goes with a file of keys says beyond its shapes."""
    for golden in sorted(path.parent.glob("golden*.json")):
        run = json.loads(golden.read_text(encoding="utf-8")).get("run", {})
        if run.get("keys") == path.name:
            return run.get("overrides", {})
    return {}


def differences(path: Path, arch: str) -> tuple[int, list[str]]:
    """How many keys there are, and what does not come back: missing, surplus and reshaped names."""
    from manyview.models.family import lookup

    listed = {key: tuple(shape) for key, shape, _ in json.loads(path.read_text(encoding="utf-8"))["keys"]}
    family, preset = lookup(arch)
    official = {key: _tensor(key, shape) for key, shape in listed.items()}
    ours = family.keymap.to_ours(family.adapt(official))
    config = family.configured(family.configured(preset, family.sizes(ours, preset)), overrides_of(path))
    with torch.device("meta"):
        model = family.network(config)
    built = {**model.state_dict(), **{k: t for k, t in ours.items() if k.startswith("carried.")}}
    restored = family.restore(family.keymap.to_official(built))
    back = {key: tuple(tensor.shape) for key, tensor in restored.items()}
    found = [f"missing {key}" for key in listed if key not in back]
    found += [f"surplus {key}" for key in back if key not in listed]
    found += [f"{key} is {back[key]}, not {shape}" for key, shape in listed.items() if back.get(key, shape) != shape]
    return len(listed), found


def _tensor(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Without storage, but for the rotary periods, whose values a conversion checks."""
    if key.endswith(".periods"):
        return 100 ** (torch.arange(shape[0]) / shape[0])
    return torch.empty(shape, device="meta")
