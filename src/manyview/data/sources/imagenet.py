"""ImageNet and other folders of classes: `[train|val/]CLASS/IMAGE.JPEG`, each image a scene of its own.

Layout: torchvision's ImageFolder and ImageNet documentation (split folder, class folder named by its WordNet
id, images). ImageNet-21K and the 19K classes that DUNE keeps of it lie in the same class folders.
"""

from __future__ import annotations

from pathlib import Path

from manyview.data.sources.base import SOURCES, Scanned, ScanOptions
from manyview.data.sources.patterns import scan_images

_SPLITS = ("train", "val", "test")


@SOURCES.add("imagenet")
def scan(src: Path, options: ScanOptions) -> Scanned:
    """The folder with train and val, one of these, or any folder of class folders."""
    parts = [src / part for part in _SPLITS if (src / part).is_dir()]
    pattern = "{train,val,test}/*/*" if parts else "*/*"
    return scan_images(src, options, dataset="imagenet", pattern=pattern, scene="image")


@SOURCES.add("imagenet21k")
def scan_all(src: Path, options: ScanOptions) -> Scanned:
    """ImageNet-21K, or the 19K classes of it: CLASS/IMAGE.JPEG."""
    return scan_images(src, options, dataset="imagenet21k", pattern="*/*", scene="image")
