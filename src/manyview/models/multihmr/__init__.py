"""The backbone of Multi-HMR, a DINOv2 encoder fine-tuned on people: one of DUNE's teachers."""

from __future__ import annotations

import re
from functools import partial

from torch import Tensor

from manyview.models.family import FAMILIES, Family, State, encoder_sizes
from manyview.models.keymaps import KeyMap
from manyview.models.vit import Encoder, EncoderConfig, debug, vit


def adapt(state: State) -> dict[str, Tensor]:
    """DUNE's copies of the file have their blocks in one chunk, blocks.0.<i>; the published one has not."""
    return {re.sub(r"^(backbone\.encoder\.blocks\.)0\.(\d+\.)", r"\1\2", key): t for key, t in state.items()}


FAMILIES.add("multihmr")(
    Family(
        network=Encoder,
        config=EncoderConfig,
        presets={"multihmr-vitl14-672": partial(vit, "l", image_size=672)},
        keymap=KeyMap(
            pairs=(("backbone.encoder.", ""),),
            # Camera embedding, detection, body model and its decoder.
            carried=("camera.", "mlp_classif.", "mlp_offset.", "smpl_layer.", "x_attention_head."),
        ),
        debug=debug,
        sizes=partial(encoder_sizes, prefix=""),
        adapt=adapt,
        cards=__name__,
    )
)
