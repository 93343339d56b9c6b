"""Encoder features of photos or a video: patch tokens, class tokens, chosen blocks, pictures of components.

manyview features photos/ --model dinov2-vits14 -o feats             a folder, at the model's own size
manyview features walk.mp4 --fps 1 --model mum-vitl16 -o feats        a video, one frame per second
manyview features photos/ --model M -o feats --pca                    also pictures: one colour space for all
manyview features photos/ --model M -o feats --layers 2,5,8,11 --raw  four blocks, before the final norm
manyview features photos/ --model dune-vitb14-448 -o feats --project dinov2    in a teacher's feature space
manyview features photos/ --model dune-vitb14-448 -o feats --compare dinov2=dinov2-vitl14-reg4 mast3r=mast3r-vitl16
                                                                      beside its teachers, in the same colours
manyview features photos/ --model dune-vitb14-448 -o feats --attention         what each block looks at

Pictures keep their shape: the long side gets --size pixels, then both sides are cropped, centred, to whole
patches. Per picture one NAME.safetensors: patches (h, w, D), cls (D), registers (R, D), layers.I.patches, ...;
features.json says settings, licence, grids, and the affine map from source to network pixels.
Run the same line again to continue an interrupted run; pictures that changed are done again.

Which feature? Normed last-block patches (the default) for matching, retrieval and k-NN; --layers for probes and
dense heads; --raw for what the blocks left (what DUNE's projectors read); --project to compare with a teacher.

--compare writes compare.png: the photo, the model's own tokens, and per teacher its features and the model's
projection, coloured by the same three components, so that equal colours are equal features. Teachers keep their own
patch size and normalisation; their patches are put on the model's grid. Without names: the projections alone.
--attention writes attention.png and attention/: per photo the 9 most typical attention maps (k-medoids) of the last
block and of every projector, each with the patch it belongs to.
"""

from __future__ import annotations

import argparse
import shlex
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from manyview.cli.options import add_device, add_options, number
from manyview.cli.output import Answer, rows
from manyview.errors import UserError

if TYPE_CHECKING:
    from manyview.pipelines.feature_set import FeatureSet

KINDS = ("pca", "compare", "attention")
"""Sorts of pictures, as the index of a folder of features calls them."""


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    from manyview.pipelines.options import FeatureOptions

    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGES", help="a folder, image files, or one video")
    add("--model", required=True, metavar="NAME|DIR", help="any model with an encoder (`manyview models`)")
    add("-o", "--out", type=Path, required=True, metavar="OUT", help="folder to write")
    add("--layers", metavar="I,J,…|all", help="also the tokens after these blocks, counted from 0")
    add("--size", type=number(int, least=1), metavar="N", help="long side in pixels; default: as the model was trained")
    add("--raw", action="store_true", help="without the encoder's final norm")
    text = "also a sheet beside these teachers, each a zoo name, a model directory or timm:NAME"
    add("--compare", nargs="*", metavar="TEACHER=SOURCE", help=text)
    text = "also pictures of the K typical attention maps per block (default: 9)"
    add("--attention", nargs="?", type=number(int, least=1), const=9, metavar="K", help=text)
    add_device(parser)
    add_options(parser, FeatureOptions(), title="more", flat=True, skip=("compare", "attention"))


def run(args: argparse.Namespace) -> Answer:
    from manyview.config import override
    from manyview.images.reading import list_images
    from manyview.pipelines.features import features
    from manyview.pipelines.options import FeatureOptions

    layers = parse_layers(args.layers)
    compare = None if args.compare is None else parse_teachers(args.compare)
    options = override(FeatureOptions(compare=compare, attention=args.attention), args.settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the index keeps them; they are printed below
        taken = features(
            args.images[0] if len(args.images) == 1 else list_images(args.images),
            model=args.model,
            out=args.out,
            layers=layers,
            norm=not args.raw,
            size=args.size,
            device=args.device,
            options=options,
        )
    return _report(taken, args)


def parse_layers(text: str | None) -> list[int] | Literal["all"] | None:
    """Block numbers of "2,5,8"; "all" and nothing as they are. Raises UserError for anything else."""
    if text is None:
        return None
    if text == "all":
        return "all"
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--layers takes block numbers such as 2,5,8,11, or all; got {text!r}") from None


def parse_teachers(words: list[str]) -> dict[str, str]:
    """Teachers of "dinov2=SOURCE", …. Raises UserError for anything else, and for a name that comes twice."""
    teachers: dict[str, str] = {}
    for word in words:
        name, equals, source = word.partition("=")
        if not (name and equals and source):
            raise UserError(f"--compare takes TEACHER=SOURCE such as dinov2=dinov2-vitl14-reg4; got {word!r}")
        if name in teachers:
            raise UserError(f"--compare names {name} twice ({teachers[name]} and {source}); keep one")
        teachers[name] = source
    return teachers


def _report(taken: FeatureSet, args: argparse.Namespace) -> Answer:
    info, first = taken.info, taken[0]
    sheets = {kind: info[kind]["sheet"] for kind in KINDS if info.get(kind)}
    file = args.out / info["images"][0]["file"]
    load = f"from safetensors.numpy import load_file; print(load_file({str(file)!r})['patches'].shape)"
    look = [f"open {shlex.quote(str(args.out))}/{sheet}" for sheet in sheets.values()]
    again = shlex.join(
        ["manyview", "features", *(word for word in args.words if not word.startswith("--json")), "--pca"]
    )
    arrays = {name: list(values.shape) for name, values in first.arrays().items()}
    values = {
        "features": str(args.out),
        "model": info["model"],
        "licence": info["licence"],
        "images": len(taken),
        "first": {
            "name": first.name,
            "size": list(first.size),
            "grid": list(first.grid),
            "arrays": arrays,
            "dtype": str(first.patches.dtype),
        },
        "bytes": sum((args.out / image["file"]).stat().st_size for image in info["images"]),
        **{kind: info.get(kind) for kind in KINDS},
        "pictures": [str(path) for kind in sheets for path in _pictures(info[kind], taken.names, args.out)],
        "skipped": taken.skipped,
        "next": [f'python -c "{load}"', *(look or [again])],
    }
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in arrays.items())
    about = [
        ("pictures", f"{len(taken)}, the first at {first.size[1]}x{first.size[0]} pixels"),
        ("arrays", f"{shapes if len(shapes) < 160 else shapes[:157] + '...'} ({first.patches.dtype})"),
        ("on disk", f"{values['bytes'] / 1e6:,.1f} MB"),
        ("licence", f"{info['licence'] or 'not known'} (the model's; it holds for what is made with it)"),
        *_drawn(info),
    ]
    return Answer(
        values=values,
        lines=[f"wrote {args.out}/ (features.json, one .safetensors per picture)", *rows(about)],
        notes=[f"left out: {line}" for line in taken.skipped],
        next=values["next"],
    )


def _pictures(about: dict[str, Any], names: Sequence[str], out: Path) -> list[Path]:
    """Files of one sort of pictures: the sheet, then one for each photo where it has them."""
    each = [out / about["pictures"] / f"{name}.png" for name in names] if "pictures" in about else []
    return [out / about["sheet"], *each]


def _drawn(info: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What the pictures show, for people."""
    if pca := info.get("pca"):
        shares = " + ".join(f"{share:.0%}" for share in pca["explained"])
        yield "components", f"{shares} of the variance as red, green, blue: pca.png, pca/"
    if compared := info.get("compare"):
        line = f"{len(compared['shown'])} photos, axes from {compared['fitted']}: compare.png"
        alone = "" if compared["projections"] else "; this model has no projectors, so only its own tokens"
        yield "side by side", line + alone
        for name, teacher in compared["teachers"].items():
            line = f"{name}: cosine {teacher['cosine']:.2f} with {teacher['source']} ({teacher['licence']})"
            if teacher["resized"]:
                line += f"; photos resized to put its patches of {teacher['patch']} on the model's"
            if teacher["resampled"]:
                line += "; its patch grid was resampled"
            yield "side by side", line
    if looks := info.get("attention"):
        reach = ", ".join(f"{name} {far:.1f}" for name, far in looks["reach"].items())
        yield "attention", f"{looks['k']} maps per block: attention.png; mean reach in patches: {reach}"
