"""How the golden cases of each network and loss are driven: one file per family, found by themselves.

RUNNERS: first part of a zoo name -> function of a context, which yields (case tag, named outputs). LOSSES: stem of
a file in losses/ -> likewise, from its arrays and configuration. OTHERS: "folder/stem" -> named outputs.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

RUNNERS: dict[str, Callable[..., Any]] = {}
LOSSES: dict[str, Callable[..., Any]] = {}
OTHERS: dict[str, Callable[..., Any]] = {}

for _found in pkgutil.iter_modules(__path__):
    _module = importlib.import_module(f"{__name__}.{_found.name}")
    RUNNERS.update(getattr(_module, "RUNNERS", {}))
    LOSSES.update(getattr(_module, "LOSSES", {}))
    OTHERS.update(getattr(_module, "OTHERS", {}))
