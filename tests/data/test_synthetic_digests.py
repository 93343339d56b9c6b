"""The same seed, the same scene: worlds, pictures and figures against a table made when their numbers were published.

Worlds are compared by digests of rounded geometry and materials, pictures by label maps and means of blocks, which
other processors and thread counts give too. After a change that is meant to move things (and raises
`writing.VERSION`), write the table again:

    python tests/data/test_synthetic_digests.py
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from manyview.data.synthetic import CLASSES, RenderedScene, furnishing, render_scene
from manyview.data.synthetic.figures import render_figures
from manyview.data.synthetic.materials import TEXTURES
from manyview.data.synthetic.models import Model, build, object_names
from manyview.data.synthetic.textures import Spot, colour
from manyview.data.synthetic.trajectories import NAMES
from manyview.data.synthetic.world import World

TABLE = Path(__file__).with_name("synthetic_digests.json")
SIZES = ((48, 64), (40, 72), (64, 48))
BLOCK = 8
GRID = 3141.5927  # steps per metre; an odd number, so that no round length lies on the border of two steps
SCENES = tuple(range(24))
WORLDS = tuple(range(60))


def digest(*arrays: Any) -> str:
    """Of numbers rounded to a third of a millimetre."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.floor(np.asarray(array, dtype=np.float64) * GRID + 0.271).astype(np.int64).tobytes())
    return total.hexdigest()[:16]


def of_model(model: Model) -> str:
    parts = [
        [part.kind, part.shadow, CLASSES.index(part.label or model.name), *part.radii, *part.matrix.ravel()]
        for part in model.parts
    ]
    looks = [
        [*m.a, *m.b, m.scale, m.gloss, m.glow, m.phase, *m.texture.encode()] for m in (p.material for p in model.parts)
    ]
    tops = [[top.x, top.y, top.z, top.width, top.depth, min(top.room, 9.0)] for top in model.tops]
    return digest(parts, np.concatenate([np.asarray(look) for look in looks]), tops)


def of_models(name: str) -> str:
    """Of twelve objects of a kind."""
    return hashlib.sha256("".join(of_model(build(name, Random(seed))) for seed in range(12)).encode()).hexdigest()[:16]


def of_world(world: World) -> str:
    solids, lighting = world.solids(), world.lighting
    assert lighting is not None
    shade = [
        *lighting.lamp,
        *lighting.lamp_colour,
        *lighting.window_colour,
        *(lighting.sun or ()),
        *lighting.ambient,
        lighting.exposure,
        lighting.warmth,
        lighting.contrast,
    ]
    blocks = [[*block.low, *block.high, block.solid] for block in world.blocks]
    return digest(
        solids.kind,
        solids.world_from_object,
        solids.radii,
        solids.room,
        *world.identities(),
        world.appearance(),
        shade,
        blocks,
        world.focus,
        world.solids(shadows=True).kind,
    )


def built(seed: int) -> World:
    return furnishing.build(seed, "tabletop" if seed % 3 == 2 else "room")


def arguments(seed: int) -> dict[str, Any]:
    """All kinds of camera paths, three sizes."""
    return {"views": 2, "size": SIZES[seed % 3], "trajectory": (*NAMES, "auto", "auto")[seed % 8]}


def block_means(maps: torch.Tensor, scale: float) -> np.ndarray:
    """Means of blocks of (N, H, W), in whole steps of 1 / `scale`."""
    means = torch.nn.functional.avg_pool2d(maps[:, None].double(), BLOCK)
    return (means * scale).round().numpy().astype(np.int16)


def of_scene(scene: RenderedScene) -> dict[str, np.ndarray]:
    return {
        "labels": scene.labels.numpy(),
        "instances": scene.instances.numpy(),
        "images": block_means(scene.images.flatten(0, 1), 1000),
        "normals": block_means(scene.normals.permute(0, 3, 1, 2).flatten(0, 1), 1000),
        "depth": block_means(scene.depth, 1000),
        "cameras": torch.cat([scene.cam2world.flatten(), scene.intrinsics.flatten()]).double().numpy(),
    }


def of_texture(name: str) -> np.ndarray:
    """What a texture says between black and white at 200 places of a surface of 2 m x 1 m, in thousandths."""
    generator = torch.Generator().manual_seed(5)
    x, y = torch.rand(2, 200, generator=generator) * 2 - 1
    full = torch.ones(200)
    spot = Spot(
        x,
        y / 2,
        full,
        full / 2,
        along=x,
        across=y / 2,
        a=torch.zeros(3, 200),
        b=torch.ones(3, 200),
        scale=full * 0.2,
        phase=full * 3.7,
        blur=full * 0.004,
    )
    return (colour(TEXTURES.index(name), spot) * 1000).round().numpy().astype(np.int16)


def of_figure(seed: int) -> dict[str, np.ndarray]:
    picture, parts = render_figures(seed, SIZES[seed % 3])
    means = block_means(torch.from_numpy(picture.copy()).permute(2, 0, 1), 10)
    return {"labels": parts, "images": means}


def pack(array: np.ndarray) -> dict[str, Any]:
    text = base64.b85encode(zlib.compress(array.tobytes(), 9)).decode()
    return {"type": str(array.dtype), "shape": list(array.shape), "values": text}


def unpack(packed: dict[str, Any]) -> np.ndarray:
    content = zlib.decompress(base64.b85decode(packed["values"]))
    return np.frombuffer(content, packed["type"]).reshape(packed["shape"])


def differences(new: dict[str, np.ndarray], stored: dict[str, Any]) -> list[str]:
    """What differs by more than another processor's rounding may do."""
    wrong = []
    for name, values in new.items():
        old = unpack(stored[name])
        assert values.shape == old.shape
        if name in ("labels", "instances"):  # a ray that grazes an edge may go either way
            share = float((values != old).mean())
            if share > 0.002:
                wrong.append(f"{name}: {share:.1%} of the pixels")
        elif name == "cameras":
            if not np.allclose(values, old, rtol=1e-4, atol=1e-4):
                wrong.append(name)
        else:
            off = np.abs(values.astype(int) - old)
            if (off > 2).mean() > 0.01:
                wrong.append(f"{name}: {(off > 2).mean():.1%} of the blocks, by up to {off.max()}")
    return wrong


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    return json.loads(TABLE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", object_names())
def test_every_kind_of_object_is_built_as_it_was(name, table):
    assert of_models(name) == table["models"][name]


def test_worlds_are_furnished_as_they_were(table):
    assert [of_world(built(seed)) for seed in WORLDS] == table["worlds"]


@pytest.mark.parametrize("name", TEXTURES[1:])
def test_textures_look_as_they_did(name, table):
    off = np.abs(of_texture(name).astype(int) - unpack(table["textures"][name]))
    assert (off > 3).mean() < 0.03  # where a number falls on the border of two stripes, it may fall to either


@pytest.mark.parametrize("seed", SCENES)
def test_scenes_look_as_they_did(seed, table):
    scene, stored = render_scene(seed, **arguments(seed)), table["scenes"][seed]
    assert [scene.kind, scene.trajectory] == stored["kind"]
    assert not differences(of_scene(scene), stored)


def test_the_scenes_show_every_class(table):
    shown = {label for stored in table["scenes"] for label in np.unique(unpack(stored["labels"]))}
    placed = {int(label) for seed in WORLDS for label in built(seed).identities()[0]}
    assert placed == set(range(len(CLASSES)))
    assert len(shown) > 0.8 * len(CLASSES)


@pytest.mark.parametrize("seed", range(4))
def test_figures_look_as_they_did(seed, table):
    assert not differences(of_figure(seed), table["figures"][seed])


def test_a_moved_part_is_noticed(table):
    model = build("chair", Random(0))
    before = of_model(model)
    model.parts[3].matrix[1, 3] += 0.001
    assert of_model(model) != before
    world = furnishing.build(0, "room")
    world.parts[20].matrix[0, 3] += 0.01
    assert of_world(world) != table["worlds"][0]


def test_another_picture_is_noticed(table):
    scene = render_scene(0, **arguments(0))
    scene.images = scene.images * 0.98
    scene.labels = scene.labels.roll(1, -1)
    assert [line.split(":")[0] for line in differences(of_scene(scene), table["scenes"][0])] == ["labels", "images"]


def write_table() -> None:
    packed = {
        "models": {name: of_models(name) for name in object_names()},
        "worlds": [of_world(built(seed)) for seed in WORLDS],
        "textures": {name: pack(of_texture(name)) for name in TEXTURES[1:]},
        "scenes": [],
        "figures": [{name: pack(values) for name, values in of_figure(seed).items()} for seed in range(4)],
    }
    for seed in SCENES:
        scene = render_scene(seed, **arguments(seed))
        maps = {name: pack(values) for name, values in of_scene(scene).items()}
        packed["scenes"].append({"kind": [scene.kind, scene.trajectory], **maps})
    TABLE.write_text(json.dumps(packed, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_table()
