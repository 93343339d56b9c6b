"""Fast3R: the same network as Distill3R's student around another encoder, and driven alike."""

from __future__ import annotations

from golden_runs.distill3r import run_distill3r

RUNNERS = {"fast3r": run_distill3r}
