"""Every protocol there is: importing this module fills the registry. A new protocol is one file and one line
here.
"""

from __future__ import annotations

from manyview.evaluation import recon_per_view as recon_per_view
from manyview.evaluation.base import PROTOCOLS

__all__ = ["PROTOCOLS"]
