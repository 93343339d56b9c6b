"""Compact 3D-aware vision models: small, trainable, honest, permissive.

    import manyview as mv
    scene = mv.reconstruct("photos/")

The public names load on first use, so that `import manyview` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from manyview.version import __version__

_PUBLIC = {
    "Cache": "manyview.cache.store",
    "Features": "manyview.types",
    "FeatureOptions": "manyview.pipelines.options",
    "FeatureSet": "manyview.pipelines.feature_set",
    "Manifest": "manyview.data.manifest",
    "ReconstructOptions": "manyview.pipelines.options",
    "Scene": "manyview.scene.scene",
    "Signal": "manyview.types",
    "UserError": "manyview.errors",
    "Views": "manyview.types",
    "features": "manyview.pipelines.features",
    "load": "manyview.zoo",
    "localise": "manyview.pipelines.localise",
    "locate": "manyview.pipelines.locate",
    "reconstruct": "manyview.pipelines.reconstruct",
    "train": "manyview.pipelines.train",
}
_MODULES = ("metrics", "zoo")

__all__ = ["__version__", *sorted([*_PUBLIC, *_MODULES])]

if TYPE_CHECKING:
    from manyview import metrics as metrics
    from manyview import zoo as zoo
    from manyview.cache.store import Cache as Cache
    from manyview.data.manifest import Manifest as Manifest
    from manyview.errors import UserError as UserError
    from manyview.pipelines.feature_set import FeatureSet as FeatureSet
    from manyview.pipelines.features import features as features
    from manyview.pipelines.localise import localise as localise
    from manyview.pipelines.locate import locate as locate
    from manyview.pipelines.options import FeatureOptions as FeatureOptions
    from manyview.pipelines.options import ReconstructOptions as ReconstructOptions
    from manyview.pipelines.reconstruct import reconstruct as reconstruct
    from manyview.pipelines.train import train as train
    from manyview.scene.scene import Scene as Scene
    from manyview.types import Features as Features
    from manyview.types import Signal as Signal
    from manyview.types import Views as Views
    from manyview.zoo import load as load


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"manyview.{name}")
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'manyview' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
