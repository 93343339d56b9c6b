"""Names of weights in the published files and here, as two-way tables of prefixes.

In a prefix, `{}` stands for any number and keeps it: ("resblocks.{}.attn.in_proj_", "blocks.{}.attn.qkv.").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.errors import UserError

# Before the official name of a tensor that is kept for its file's sake.
CARRIED = "carried."

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class KeyMap:
    """Prefix pairs (official, ours), each way the longest that fits wins.

    aliases: (alias, original) official prefixes of tensors that a file stores twice. ignored: official
    prefixes that some files carry and no network needs. carried: official prefixes of parts we do not build, kept
    untouched for whoever exports the model again. missing: our prefixes that some files lack. copies: (absent,
    source) official prefixes: a file without the first means the weights of the second.
    """

    pairs: Pairs
    aliases: Pairs = ()
    ignored: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    copies: Pairs = ()

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Official names to ours; carried ones become CARRIED + their name. Raises UserError for names that
        nothing explains, naming the first.
        """
        rules = _rules(self.pairs)
        state = self._with_copies(self._without_aliases(state))
        renamed, unknown = {}, []
        for key, tensor in state.items():
            if key.startswith(self.ignored):
                continue
            ours = f"{CARRIED}{key}" if key.startswith(self.carried) else _rename(key, rules)
            if ours is None:
                unknown.append(key)
            else:
                renamed[ours] = tensor
        if unknown:
            raise UserError(f"{len(unknown)} weights have names this layout does not know, first {unknown[:3]}")
        return renamed

    def to_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our names to the official ones, aliases and carried tensors included."""
        rules = _rules(tuple((ours, official) for official, ours in self.pairs))
        official = {}
        for key, tensor in state.items():
            name = key.removeprefix(CARRIED) if key.startswith(CARRIED) else _rename(key, rules)
            if name is None:
                raise KeyError(f"no official name for {key}")
            official[name] = tensor
        for alias, original in self.aliases:
            twins = {k: t for k, t in official.items() if k.startswith(original)}
            official.update({alias + key.removeprefix(original): tensor for key, tensor in twins.items()})
        return official

    def _with_copies(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        for absent, source in self.copies:
            if not any(key.startswith(absent) for key in state):
                twins = {k.removeprefix(source): t for k, t in state.items() if k.startswith(source)}
                state |= {absent + rest: tensor.clone() for rest, tensor in twins.items()}
        return state

    def _without_aliases(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        state = dict(state)
        for alias, original in self.aliases:
            for key in [k for k in state if k.startswith(alias)]:
                tensor = state.pop(key)
                name = original + key.removeprefix(alias)
                twin = state.get(name, tensor)  # on the meta device only shapes can tell
                if twin.shape != tensor.shape or not (twin.is_meta or torch.equal(twin, tensor)):
                    raise UserError(f"{key} and {name} should be the same weights but differ; the file is damaged")
                state[name] = tensor
        return state


def _rules(pairs: Pairs) -> list[tuple[re.Pattern[str], str]]:
    """Longest first: a pattern for the prefix, and what to put in its place."""
    ordered = sorted(pairs, key=lambda pair: len(pair[0]), reverse=True)
    return [(re.compile(re.escape(old).replace(r"\{\}", r"(\d+)")), new) for old, new in ordered]


def _rename(key: str, rules: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, new in rules:
        if match := pattern.match(key):
            return new.format(*match.groups()) + key[match.end() :]
    return None


def nested_encoder(official: str) -> Pairs:
    """The DINOv2 code with its blocks in one chunk: blocks.0.<i>."""
    return ((f"{official}.", "encoder."), (f"{official}.blocks.0.", "encoder.blocks."))


def croco_encoder(official: str = "") -> Pairs:
    """CroCo's encoder, as DUSt3R, MASt3R and Fast3R carry it on."""
    names = (("patch_embed.", "patch_embed."), ("enc_blocks.", "blocks."), ("enc_norm.", "norm."))
    return tuple((f"{official}{theirs}", f"encoder.{ours}") for theirs, ours in names)


def cross_decoder(official: str = "") -> Pairs:
    """CroCo's decoder; DUSt3R's has a second branch of the same blocks."""
    names = [("mask_token", "mask_token"), ("decoder_embed.", "embed."), ("dec_norm.", "norm.")]
    for blocks, branch in (("dec_blocks", "branches.0"), ("dec_blocks2", "branches.1")):
        names += [
            (f"{blocks}.", f"{branch}."),
            (f"{blocks}.{{}}.cross_attn.projq.", f"{branch}.{{}}.cross.query."),
            (f"{blocks}.{{}}.cross_attn.projk.", f"{branch}.{{}}.cross.key."),
            (f"{blocks}.{{}}.cross_attn.projv.", f"{branch}.{{}}.cross.value."),
            (f"{blocks}.{{}}.cross_attn.proj.", f"{branch}.{{}}.cross.proj."),
            (f"{blocks}.{{}}.norm_y.", f"{branch}.{{}}.norm_memory."),
        ]
    return tuple((f"{official}{theirs}", f"decoder.{ours}") for theirs, ours in names)


# Where published DPTs keep their projections, resizings, and last three convolutions.
DUST3R_DPT = ("act_postprocess.{}.0.", "act_postprocess.{}.1.", ("head.0.", "head.2.", "head.4."))


def dpt(official: str, ours: str, layout: tuple[str, str, tuple[str, str, str]] = DUST3R_DPT) -> Pairs:
    """A DPT head in the layout of DUSt3R's pointmap heads, or another one."""
    project, resize, last = layout
    pairs = []
    for i in range(4):
        merge, published = f"{ours}.merge.{i}", f"{official}.scratch.refinenet{i + 1}"
        pairs += [
            (f"{official}.{project.format(i)}", f"{ours}.project.{i}."),
            (f"{official}.{resize.format(i)}", f"{ours}.resize.{i}."),
            (f"{official}.scratch.layer{i + 1}_rn.", f"{ours}.reduce.{i}."),
            (f"{published}.resConfUnit1.", f"{merge}.skip."),
            (f"{published}.resConfUnit2.", f"{merge}.refine."),
            (f"{published}.out_conv.", f"{merge}.out."),
        ]
    names = ("narrow", "smooth", "predict")
    return (*pairs, *((f"{official}.{theirs}", f"{ours}.{name}.") for theirs, name in zip(last, names)))


def dpt_aliases(official: str) -> Pairs:
    """The second names those heads give to four of their weights."""
    return tuple((f"{official}.scratch.layer_rn.{i}.", f"{official}.scratch.layer{i + 1}_rn.") for i in range(4))
