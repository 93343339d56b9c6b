"""Cards: what is known of every named model, as data. Nothing here reads a file or builds a network."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a user should know of a model before using it."""

    name: str
    """Zoo name."""
    task: str
    """What it does, in a few words."""
    licence: str
    """Licence of the weights."""
    published: str
    """Where the weights are published, in words a person can follow; empty for ours."""
    file: str = ""
    """Name of the published file."""
    parameters: int = 0
    """Number of parameters; 0 when it depends on the file."""
    preprocessing: str = ""
    """What the original does to an image before the network."""
    paper: dict[str, str] = field(default_factory=dict)
    """Numbers that the source reports of it."""
    bundled: bool = False
    """Whether the weights come with this package."""


def _dune(size: str, resolution: str, parameters: int, scores: str) -> Card:
    variant, _, paper = resolution.partition("-")
    file = f"dune_vit{size}14_{variant}{'_paper' if paper else ''}.pth"
    where = f"the naver/dune repository (README, pretrained models): {file}"
    name = f"dune-vit{size[0]}14-{resolution}"
    return Card(
        name=name,
        task="image features (encoder) and three teachers' feature spaces (projectors)",
        licence="NAVER DUNE licence: non-commercial, no redistribution under other terms",
        published=where,
        file=file,
        parameters=parameters,
        preprocessing="ImageNet mean and std; sides that are multiples of 14",
        paper={"ADE20K mIoU / NYU depth RMSE / BEDLAM PA-PVE": scores},
    )


CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        Card(
            name="manyview-tiny",
            task="views to pointmaps, for a CPU",
            licence="Apache-2.0 (trained by us on procedural scenes only)",
            published="",
            parameters=5_828_744,
            preprocessing="long side 154 pixels, sides that are multiples of 14, mean and std 0.5",
            bundled=True,
        ),
        Card(
            name="distill3r",
            task="views to pointmaps",
            licence="code Apache-2.0; weights without a licence of their own, derived from non-commercial "
            "Fast3R and DUNE weights",
            published="the Distill3R repository (README, link to the Lightning checkpoint)",
            file="a Lightning .ckpt file",
            parameters=71_969_288,
            preprocessing="long side 518, cropped to 512, squashed to 224x518; mean and std 0.5",
            paper={"parameters": "72M", "speed-up over the teacher": "5x"},
        ),
        _dune("small", "336", 28_262_016, "39.6 / 0.424 / 74.7"),
        _dune("small", "448", 28_434_048, "41.4 / 0.404 / 69.0"),
        _dune("base", "336", 109_605_120, "45.0 / 0.384 / 64.3"),
        _dune("base", "448", 109_949_184, "46.2 / 0.365 / 60.1"),
        _dune("base", "448-paper", 0, "45.6 / 0.358 / 56.0"),
    )
}
