"""MuM: masked autoencoding of many views of a scene (Nordström et al., 2025, section 3.3).

Every view hides most of its patches; a ViT encodes the visible ones view by view, mask tokens take the places of the
hidden ones, and a decoder of alternating frame-wise and global attention says what the hidden pixels were.

Legend: B scenes, V views, N = B*V images, L patches of a view, K visible ones, D channels, p patch side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from manyview.errors import UserError
from manyview.layers.attention import Attention
from manyview.layers.block import Block, run
from manyview.layers.init import init_weights
from manyview.layers.masking import hide_at_random, send, visible_patches
from manyview.layers.patches import image_grid
from manyview.layers.positions import resample_table, sine_table
from manyview.layers.rope import Rope, RotaryPositions
from manyview.models import vit
from manyview.models.alternating import Alternating
from manyview.models.model import AroundEncoder, CompletesViews, Completion, Model
from manyview.models.vit import Encoder, WithEncoder

# Encoder width, blocks, heads; decoder width, blocks (half frame-wise, half global), heads.
SIZES = {
    "tiny": (192, 5, 3, 96, 4, 3),
    "s": (384, 12, 6, 384, 8, 6),
    "b": (768, 12, 12, 512, 8, 16),
    "l": (1024, 24, 16, 768, 12, 16),
}

# The published initial std of 0.02 was chosen for wide layers; narrower ones would start as good as the identity and
# learn slowly. They start as MAE's do.
NARROW = 384


@dataclass(frozen=True, kw_only=True)
class MumConfig(WithEncoder):
    """An encoder's configuration and the decoder's. Defaults beyond the encoder's sizes are the published ones."""

    decoder_dim: int = 768
    """Decoder width."""
    decoder_depth: int = 12
    """Decoder blocks: every second one is global."""
    decoder_heads: int = 16
    """Attention heads of the decoder; the paper's appendix says 12, the published weights have 16."""
    across: Literal["decoder", "encoder", "nowhere"] = "decoder"
    """Where tokens attend to other views: in the decoder's global blocks, in every second block of the encoder
    instead (Table 11), or nowhere, which is a masked autoencoder of single views with as many weights."""
    rotate_cls: bool = False
    """Leave class tokens unrotated in global blocks. The published weights were trained with their rotation table
    zero there, which makes their queries and keys zero: they attend to everything alike."""


def mum(size: str) -> MumConfig:
    """The published layouts "l" (released) and "b" (ablations); "s" and "tiny" are ours."""
    dim, depth, heads, decoder_dim, decoder_depth, decoder_heads = SIZES[size]
    patch, image = (12, 96) if size == "tiny" else (16, 256)
    encoder = vit.masked_vit("s", rope="axial", patch_size=patch, image_size=image)
    return MumConfig(
        encoder=replace(encoder, dim=dim, depth=depth, heads=heads),
        decoder_dim=decoder_dim,
        decoder_depth=decoder_depth,
        decoder_heads=decoder_heads,
    )


def debug(config: MumConfig) -> MumConfig:
    """The same layout with a few thousand parameters, for tests."""
    encoder = vit.debug(replace(config.encoder, patch_size=8))
    return replace(config, encoder=encoder, decoder_dim=8, decoder_depth=2, decoder_heads=2)


class Mum(Model, AroundEncoder, CompletesViews):
    """Encoder of visible patches and decoder of alternating attention. Takes [0, 1] images, normalises them itself."""

    architecture = "mum"
    config: MumConfig

    def __init__(self, config: MumConfig) -> None:
        super().__init__()
        inner = config.encoder
        if config.decoder_depth % 2:
            raise UserError(f"decoder_depth is {config.decoder_depth}; it counts pairs of blocks, give an even number")
        if inner.mask_token:
            raise UserError("mask_token is true; MuM's encoder leaves hidden patches out, its decoder has the token")
        self.config, dim = config, config.decoder_dim
        self.encoder = Encoder(inner)
        self.embed = nn.Linear(inner.dim, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        rows = 1 + inner.positions**2
        self.positions = nn.Parameter(torch.empty(1, rows, dim)) if inner.positions else None
        self.rope = None
        if inner.rope != "none":
            self.rope = RotaryPositions(inner.rope, dim // config.decoder_heads, base=inner.rope_base)
        self.decoder = Alternating(dim, config.decoder_depth // 2, config.decoder_heads, eps=inner.eps)
        self.norm = nn.LayerNorm(dim, eps=inner.eps)
        self.head = nn.Linear(dim, 3 * inner.patch_size**2)
        init_weights(self)

    def init_parameters(self) -> None:
        nn.init.normal_(self.mask_token, std=0.02)
        if self.config.encoder.dim < NARROW:
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
        # Learned tables start as sines: from noise, a short run would first have to find out what is beside what.
        for table in (self.positions, self.encoder.pos_embed):
            if table is not None:
                _fill_with_sines(table)

    @property
    def checkpointing(self) -> bool:
        """Recompute every block in the backward pass instead of keeping its activations."""
        return self.encoder.checkpointing

    @checkpointing.setter
    def checkpointing(self, value: bool) -> None:
        self.encoder.checkpointing = self.decoder.checkpointing = value

    def normalised(self, images: Tensor) -> Tensor:
        """[0, 1] images (..., 3, H, W) with the channels' mean and standard deviation taken out: what is predicted."""
        return (images - self.encoder.mean[:, None, None]) / self.encoder.std[:, None, None]

    def global_attention(self) -> list[Attention]:
        blocks = self.decoder.everywhere.children() if self.config.across == "decoder" else []
        return [cast(Block, block).attn for block in blocks]

    def as_images(self, normalised: Tensor) -> Tensor:
        """The inverse of `normalised`."""
        return normalised * self.encoder.std[:, None, None] + self.encoder.mean[:, None, None]

    def forward(
        self,
        images: Tensor,
        mask: Tensor | None = None,
        mask_ratio: float = 0.75,
        generator: torch.Generator | None = None,
    ) -> Completion:
        """(B, V, 3, H, W) in [0, 1] -> the pixels of every patch, standardised as the model was trained.

        mask (B, V, L): True is hidden; without one, `mask_ratio` of each view's patches are hidden at random. Give it
        on the CPU: its patches are counted there, and a mask on a GPU makes the forward wait for it once.
        """
        grid = image_grid(images, self.config.patch_size, dims=5)
        scenes, views = images.shape[:2]
        shape = (scenes, views, grid[0] * grid[1])
        if mask is None:
            mask = random_mask(shape, mask_ratio, generator)
        if mask.shape != shape:
            raise UserError(f"the mask is {tuple(mask.shape)}, the images have {shape} scenes, views, patches")
        tokens = self._with_mask_tokens(images, mask)
        if self.positions is not None:
            tokens = tokens + resample_table(self.positions, grid)
        reconstruction = self.head(self.norm(self._decode(tokens, grid)[:, :, self.encoder.prefix :]))
        return Completion(reconstruction, send(mask, images.device))

    def _with_mask_tokens(self, images: Tensor, mask: Tensor) -> Tensor:
        """Encode what is visible and put every token in its place: (B, V, 1 + L, decoder's D)."""
        flat, hidden = images.flatten(0, 1), mask.flatten(0, 1).cpu()
        counts = hidden.sum(1)
        groups = [(counts == count).nonzero()[:, 0] for count in sorted(set(counts.tolist()))]
        if len(groups) == 1:
            whole = self._encoded(flat, hidden, len(images))
        elif self.config.across == "encoder":
            raise UserError(
                "views that hide different numbers of patches cannot meet in the encoder; hide as many in each, or "
                "choose across='decoder'"
            )
        else:  # a view that is not masked like the others, such as CroCo's reference
            parts = [self._encoded(flat[send(g, flat.device)], hidden[g], len(g)) for g in groups]
            whole = torch.cat(parts)[send(torch.cat(groups).argsort(), flat.device)]
        return whole.unflatten(0, mask.shape[:2])

    def _encoded(self, images: Tensor, mask: Tensor, scenes: int) -> Tensor:
        """N images that hide equally many patches, mask tokens between the visible ones: (N, 1 + L, decoder's D)."""
        visible, first = visible_patches(mask, images.device), self.encoder.prefix
        tokens = self.embed(self._seen(images, visible, scenes))
        where = visible[..., None].expand(-1, -1, tokens.shape[-1])
        hidden = self.mask_token.to(tokens.dtype).expand(*mask.shape, -1)
        return torch.cat([tokens[:, :first], hidden.scatter(1, where, tokens[:, first:])], 1)

    def _seen(self, images: Tensor, visible: Tensor, scenes: int) -> Tensor:
        """The encoder on visible patches: (N, 1 + K, D), normed. `across="encoder"`: every second block looks at all
        views of a scene.
        """
        encoder = self.encoder
        tokens, rope = encoder.tokens(images, visible=visible)
        shape, joint = tokens.shape, self.config.across == "encoder"
        everywhere = _joined(rope, scenes) if rope is not None and joint else None
        for index, block in enumerate(encoder.blocks):
            together = joint and index % 2 == 1
            tokens = tokens.reshape(scenes, -1, shape[-1]) if together else tokens.reshape(shape)
            tokens = run(block, tokens, everywhere if together else rope, recompute=self.checkpointing)
        return encoder.norm(tokens.reshape(shape))

    def _decode(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, V, 1 + L, D) -> the same after alternating attention."""
        shape, config = tokens.shape, self.config
        if config.across != "decoder":
            tokens = tokens.flatten(0, 1)[:, None]  # every view is a scene of its own
        frame = everywhere = None
        if self.rope is not None:
            table, prefix = self.rope(grid), self.encoder.prefix
            frame = table.prefixed(prefix)
            everywhere = table.prefixed(prefix, zero=not config.rotate_cls).repeat(tokens.shape[1])
        return self.decoder(tokens, frame, everywhere).reshape(shape)


def _joined(rope: Rope, scenes: int) -> Rope:
    """Rotations of the visible tokens image by image (N, 1, T, d) -> of all views of a scene (B, 1, V*T, d)."""
    cos, sin = (part[:, 0].reshape(scenes, 1, -1, part.shape[-1]) for part in (rope.cos, rope.sin))
    return Rope(cos, sin, rope.groups)


def _fill_with_sines(table: Tensor) -> None:
    """(1, 1 + M*M, D): sines of the row in half the channels, of the column in the others; zero for the class token."""
    side = round((table.shape[1] - 1) ** 0.5)
    line = sine_table(side, table.shape[2] // 2).to(table)
    rows, columns = line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)
    with torch.no_grad():
        table.zero_()
        table[0, 1:] = torch.cat([rows, columns], -1).flatten(0, 1)


def random_mask(
    shape: tuple[int, int, int], ratio: float, generator: torch.Generator | None = None, *, reference: bool = False
) -> Tensor:
    """(B, V, L) bool, True = hidden: int(L * (1 - ratio)) patches of each view stay, drawn view by view.

    `reference`: the first view hides nothing. Drawn on the CPU, so that a seed means the same everywhere.
    """
    if not 0 <= ratio < 1:
        raise UserError(f"mask_ratio is {ratio}; give a share from 0 to below 1")
    mask = hide_at_random(shape, shape[2] - int(shape[2] * (1 - ratio)), generator)
    if reference:
        mask[:, 0] = False
    return mask
