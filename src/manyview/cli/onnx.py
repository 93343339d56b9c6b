"""Write a model as an ONNX file, and prove that ONNX Runtime gives what PyTorch gives.

manyview onnx dinov2-vits14 -o dinov2.onnx --size 224x308          an encoder: patches and class token
manyview onnx manyview-tiny -o tiny.onnx                            views to pointmaps and confidences
manyview onnx runs/mine/model -o mine.onnx --batch 1 --views 2      with fixed numbers, for other runtimes

Rows x columns are fixed in the file (multiples of the patch); the number of images, scenes and views is free
unless given. Input: RGB in [0, 1], float32; the mean and deviation are applied inside. Every output is compared
on random images of several shapes; a file that differs by more than a thousandth is removed.
Needs `pip install 'manyview[onnx]'`.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from manyview.cli.options import number
from manyview.cli.output import Answer, output_file, rows
from manyview.config import parse_size
from manyview.errors import UserError


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help="a zoo name or a model directory: an encoder, or a many-view model")
    add("-o", "--out", type=Path, required=True, metavar="FILE.onnx", help="file to write")
    add("--size", metavar="HxW", help="rows x columns; default: the model's own size, square")
    add("--batch", type=number(int, least=1), metavar="N", help="fix the number of images (encoders) or scenes")
    add("--views", type=number(int, least=1), metavar="N", help="fix the number of views of a scene")


def run(args: argparse.Namespace) -> Answer:
    if args.out.suffix.lower() != ".onnx":
        raise UserError(f"-o says {args.out}; an ONNX file ends in .onnx")
    size = None if args.size is None else parse_size(args.size, "--size")
    from manyview.zoo.onnx import export_onnx

    with output_file(args.out, args):
        done = export_onnx(args.model, args.out, size=size, batch=args.batch, views=args.views)
    leading = [str(args.batch or "N")]
    if done.kind == "reconstructor":
        leading = [str(args.batch or "B"), str(args.views or "V")]
    shape = " x ".join([*leading, "3", *map(str, done.size)])
    session = f"import onnxruntime as ort; print(ort.InferenceSession({str(done.path)!r}).get_outputs())"
    following = f'python -c "{session}"'
    about = {"images": f"{shape}, RGB in [0, 1]"}
    for name in done.outputs:
        gap, share = done.largest_difference[name], done.relative_difference[name]
        about[name] = f"differs from PyTorch by {gap:.2g} at most, {share:.2g} of its largest value"
    written = f"wrote {done.path} ({done.bytes / 1e6:,.1f} MB, licence: {done.metadata['licence']})"
    values = {**dataclasses.asdict(done), "path": str(done.path), "input": shape, "next": following}
    return Answer(values=values, lines=[written, *rows(about)], next=[following])
