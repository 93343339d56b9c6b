"""Say what this machine has: Python, torch, devices, models, and what optional packages would bring.

manyview doctor
manyview doctor --json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

from manyview.cli.output import Answer, rows

OPTIONAL = {
    "tensorboard": "training curves in TensorBoard: pip install 'manyview[track]'",
    "pycolmap": "COLMAP's own reader, to check exports: pip install 'manyview[sfm]'",
    "pillow_heif": "HEIC photos: pip install 'manyview[heif]'",
    "open_clip": "words for MaskCLIP: pip install 'manyview[text]'",
    "onnxruntime": "ONNX files, written and checked: pip install 'manyview[onnx]'",
    "h5py": "data sets in HDF5 files: pip install 'manyview[datasets]'",
    "OpenEXR": "data sets in OpenEXR files: pip install 'manyview[datasets]'",
    "viser": "scenes in the browser (manyview view): pip install 'manyview[view]'",
    "tokenizers": "texts for locate, offline: pip install 'manyview[text-offline]'",
    "timm": "timm's models as teachers: pip install 'manyview[timm]'",
}


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Nothing but --json."""


def findings() -> dict[str, object]:
    """What `manyview doctor` prints, as a dictionary."""
    import torch

    import manyview
    from manyview import zoo

    bundled = Path(manyview.__file__).parent / "assets" / "manyview-small" / "model.safetensors"
    names = (
        "torch",
        "numpy",
        "pillow",
        "pyarrow",
        "opencv-python-headless",
        "scipy",
        "poselib",
        "trimesh",
        "safetensors",
    )
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "missing"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "manyview": manyview.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "mps": torch.backends.mps.is_available(),
        "versions": versions,
        "optional": {name: importlib.util.find_spec(name) is not None for name in OPTIONAL},
        "models_here": [name for name in zoo.names() if zoo.present(name)],
        "bundled_model": str(bundled) if bundled.is_file() else None,
        "free_disk_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
    }


def run(args: argparse.Namespace) -> Answer:
    machine = findings()
    versions, optional = machine["versions"], machine["optional"]
    assert isinstance(versions, dict)
    assert isinstance(optional, dict)
    complete = "missing" not in versions.values()
    plain = {key: value for key, value in machine.items() if not isinstance(value, dict)}
    plain |= {key: ", ".join(value) or "none" for key, value in plain.items() if isinstance(value, list)}
    extras = {name: "yes" if here else f"no: {OPTIONAL[name]}" for name, here in optional.items()}
    return Answer(
        values=machine,
        lines=rows({**plain, **versions, **extras}),
        next=["manyview quickstart" if complete else "pip install manyview (what is missing)"],
        code=0 if complete else 1,
    )
