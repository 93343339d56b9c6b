"""The options of `reconstruct` and `features`, apart from their networks: the command line shows them at no cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from manyview.config import Positive
from manyview.images.inputs import Take

CamerasFrom = Literal["auto", "matches", "model", "given"]
PosePreference = Literal["auto", "model", "pnp", "similarity"]
Matcher = Literal["auto", "sift", "model", "both"]
PairGraph = Literal["auto", "complete", "window", "star", "retrieval"]
RECONSTRUCTOR = "manyview-small"
"""The model of `reconstruct` where none is named."""


@dataclass(frozen=True, kw_only=True)
class ReconstructOptions:
    """How a scene is put together from what the model says."""

    cameras: CamerasFrom = "auto"
    """What cameras rest on: auto takes given ones, else matches between the photos with the model's depth; matches:
    matches alone; model: what the network says, unchecked; given: auto, which must not lack a pose."""
    refine: bool = False
    """Given cameras are only where the search begins, and are adjusted to the matches; else they stay to the digit."""
    matches: Matcher = "auto"
    """Matches of SIFT; of the model: of its descriptors, or else its encoder's tokens; both: SIFT's, and the model's
    where those link no pair. auto: both for models with descriptors, else SIFT (tokens are coarse)."""
    poses: PosePreference = "auto"
    """With cameras=model: poses as the model says them, from PnP on the global points, or from the similarity between
    local and global maps; auto takes the model's where it says them, else PnP."""
    points: Literal["local", "global"] = "local"
    """local: the local depth along the camera's own rays, so both agree; global: the raw global head."""
    image_size: int | None = None
    """Long side in pixels for the model; none takes what the model was made for."""
    pairs: PairGraph = "auto"
    """Pair models: which pairs of many photos they see. complete: all; window: each with those after it, in order;
    star: all with the first; retrieval: each with those that look most alike; auto: all of up to 12 photos, else
    retrieval and neighbours."""
    pairs_each: int = 4
    """Pair models: photos that each one meets, of window and retrieval."""
    shared_focal: bool = True
    """Pictures of one size (either way up) share the median focal length."""
    encoder_chunk: int | None = None
    """Images that go through the encoder at once; bounds memory, not the result. none: the model's own."""
    head_chunk: int | None = None
    """Views that go through a head at once; likewise."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the network; auto is bf16 for many-view models on a GPU or CPU that computes it
    natively, else fp32."""
    take: Take = field(default_factory=Take)
    """Which pictures of a folder or frames of a video are taken."""


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """How features are taken, beyond the model, the blocks and the size."""

    project: str | None = None
    """DUNE: a teacher in whose (standardised) feature space the patches are given: dinov2, mast3r, multihmr."""
    batch: int = 8
    """Pictures of one size that go through the encoder together; halved by itself where memory is short."""
    half: bool = False
    """Store float16: half the space; values beyond its range are clipped to it."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """Arithmetic of the network; auto is bf16 on a GPU or CPU that computes it natively."""
    pca: bool = False
    """Also write pictures of the first three principal components of the whole set (needs `out`)."""
    compare: Mapping[str, str] | None = None
    """Also a sheet of own tokens and projections beside these teachers, projector -> zoo name, model directory or
    timm:NAME; {}: projections alone (needs `out`)."""
    attention: int | None = None
    """Also pictures of this many typical attention maps per block and photo; 9 in DUNE (needs `out`)."""
    take: Take = field(default_factory=Take)
    """Which pictures of a folder or frames of a video are taken."""


@dataclass(frozen=True, kw_only=True)
class DistilOptions:
    """How a place is learned."""

    teacher: str = "photos"
    """Who says where things are: photos (multi-view stereo of the photos, and between what it finds the student's own
    depth, bent to it), sensor (a manifest's measured depth), or a reconstructor: a model of the zoo or a directory."""
    student: str = RECONSTRUCTOR
    """The model that learns: a zoo name or a directory of the Distill3R family."""
    frames: int = 60
    """Frames of a video that are used at most."""
    holdout: float = 0.2
    """Share of the frames, the last ones, that only judge."""
    pixels: int = 37_632
    """Pixels of a view, in the frames' own aspect; 37,632 is 168x224."""
    window: int = 8
    """Frames that a network as teacher sees at once; photos and sensor see up to 64."""
    views: int = 2
    """Views that the student sees together in training; a step has two such groups."""
    steps: int = 60
    """Training steps."""
    lr: Positive = 2e-4
    """Learning rate."""
    loss: str = "robust"
    """The recipe's loss: robust, confident or distill3r."""
    seed: int = 0
    """Seed of the training."""
