"""Names of weights in the published files and here, as two-way tables of prefixes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.errors import UserError


@dataclass(frozen=True)
class KeyMap:
    """Prefix pairs (official, ours), each way the longest that fits wins.

    aliases: (alias, original) official prefixes of tensors that a file stores twice. ignored: official
    prefixes that some files carry and no network needs. missing: our prefixes that some files lack.
    """

    pairs: tuple[tuple[str, str], ...]
    aliases: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Official names to ours. Raises UserError for names that nothing explains, naming the first."""
        forward = dict(self.pairs)
        state = self._without_aliases(state)
        renamed, unknown = {}, []
        for key, tensor in state.items():
            if key.startswith(self.ignored):
                continue
            ours = _replace_prefix(key, forward)
            if ours is None:
                unknown.append(key)
            else:
                renamed[ours] = tensor
        if unknown:
            raise UserError(
                f"{len(unknown)} weights have names this layout does not know, first {unknown[:3]}"
            )
        return renamed

    def to_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our names to the official ones, aliases included."""
        backward = {ours: official for official, ours in self.pairs}
        official = {}
        for key, tensor in state.items():
            name = _replace_prefix(key, backward)
            if name is None:
                raise KeyError(f"no official name for {key}")
            official[name] = tensor
        for alias, original in self.aliases:
            twins = {k: t for k, t in official.items() if k.startswith(original)}
            official.update({alias + key.removeprefix(original): tensor for key, tensor in twins.items()})
        return official

    def _without_aliases(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        state = dict(state)
        for alias, original in self.aliases:
            for key in [k for k in state if k.startswith(alias)]:
                tensor = state.pop(key)
                name = original + key.removeprefix(alias)
                if name in state and not torch.equal(state[name], tensor):
                    raise UserError(
                        f"{key} and {name} should be the same weights but differ; the file is damaged"
                    )
                state[name] = tensor
        return state


def _replace_prefix(key: str, pairs: Mapping[str, str]) -> str | None:
    fitting = [prefix for prefix in pairs if key.startswith(prefix)]
    if not fitting:
        return None
    prefix = max(fitting, key=len)
    return pairs[prefix] + key.removeprefix(prefix)


def _nested_encoder(official: str) -> tuple[tuple[str, str], ...]:
    """The DINOv2 code with its blocks in one chunk: blocks.0.<i>."""
    return ((f"{official}.", "encoder."), (f"{official}.blocks.0.", "encoder.blocks."))


def _dpt(official: str, ours: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for level in range(4):
        merge, published = f"{ours}.merge.{level}", f"{official}.scratch.refinenet{level + 1}"
        pairs += [
            (f"{official}.act_postprocess.{level}.0.", f"{ours}.project.{level}."),
            (f"{official}.act_postprocess.{level}.1.", f"{ours}.resize.{level}."),
            (f"{official}.scratch.layer{level + 1}_rn.", f"{ours}.reduce.{level}."),
            (f"{published}.resConfUnit1.", f"{merge}.skip."),
            (f"{published}.resConfUnit2.", f"{merge}.refine."),
            (f"{published}.out_conv.", f"{merge}.out."),
        ]
    last = (("0", "narrow"), ("2", "smooth"), ("4", "predict"))
    return (*pairs, *((f"{official}.head.{number}.", f"{ours}.{name}.") for number, name in last))


def _dpt_aliases(official: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (f"{official}.scratch.layer_rn.{i}.", f"{official}.scratch.layer{i + 1}_rn.") for i in range(4)
    )


DISTILL3R = KeyMap(
    pairs=(
        *_nested_encoder("encoder"),
        ("decoder.decoder_embed.", "fusion.embed."),
        ("decoder.dec_blocks.", "fusion.blocks."),
        ("decoder.dec_norm.", "fusion.norm."),
        *_dpt("downstream_head.dpt", "head.dpt"),
        *_dpt("downstream_head_local.dpt", "head_local.dpt"),
    ),
    aliases=(*_dpt_aliases("downstream_head.dpt"), *_dpt_aliases("downstream_head_local.dpt")),
    ignored=("teacher_filter",),
)

DUNE_TEACHERS = {
    "dinov2": "dino2reg_vitlarge_14",
    "mast3r": "mast3r_vitlarge_16",
    "multihmr": "multihmr_vitlarge_14_672",
}

DUNE = KeyMap(
    pairs=(
        *_nested_encoder("encoder"),
        *(
            (f"projectors.{full}.blocks.0.", f"projectors.{name}.block.")
            for name, full in DUNE_TEACHERS.items()
        ),
        *(
            (f"projectors.{full}.linear.", f"projectors.{name}.linear.")
            for name, full in DUNE_TEACHERS.items()
        ),
        *(
            (f"teacher_norms.{full}.normalizers.", f"statistics.{name}.")
            for name, full in DUNE_TEACHERS.items()
        ),
    ),
)
