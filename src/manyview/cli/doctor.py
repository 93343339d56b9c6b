"""Say what this machine has: Python, torch, devices, optional packages, and where the bundled model lies.

manyview doctor
manyview doctor --json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import shutil
from pathlib import Path

OPTIONAL = {
    "tensorboard": "training curves in TensorBoard: pip install 'manyview[track]'",
    "pycolmap": "COLMAP's own reader, to check exports: pip install 'manyview[sfm]'",
    "pillow_heif": "HEIC photos: pip install 'manyview[heif]'",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def findings() -> dict[str, object]:
    """What `manyview doctor` prints, as a dictionary."""
    import torch

    import manyview

    bundled = Path(manyview.__file__).parent / "assets" / "manyview-tiny" / "model.safetensors"
    names = (
        "torch",
        "numpy",
        "pillow",
        "pyarrow",
        "opencv-python-headless",
        "scipy",
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
        "bundled_model": str(bundled) if bundled.is_file() else None,
        "free_disk_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
    }


def run(args: argparse.Namespace) -> int:
    found = findings()
    if args.json:
        print(json.dumps(found))
        return 0
    versions, optional = found.pop("versions"), found.pop("optional")
    assert isinstance(versions, dict)
    assert isinstance(optional, dict)
    for key, value in found.items():
        print(f"{key:>14}  {value}")
    for name, version in versions.items():
        print(f"{name:>24}  {version}")
    for name, there in optional.items():
        print(f"{name:>24}  {'yes' if there else 'no: ' + OPTIONAL[name]}")
    print("next: manyview quickstart")
    return 0 if "missing" not in versions.values() else 1
