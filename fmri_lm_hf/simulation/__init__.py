"""Simulated scans with known ground truth: cohorts with planted effects, streams of random scans, and images."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cohort import (
        DEFAULT_SITES,
        SimulatedCohort,
        cohort_features,
        iter_cohort,
        oracle_scores,
        simulate_cohort,
    )
    from .images import write_nifti
    from .population import Effect, Population, Site, Variability, default_effects

# Names are loaded on first use: the stream of random scans needs neither cohorts nor the metrics of their oracle.
_MODULES = {
    **dict.fromkeys(("DEFAULT_SITES", "SimulatedCohort", "cohort_features", "iter_cohort"), "cohort"),
    **dict.fromkeys(("oracle_scores", "simulate_cohort"), "cohort"),
    **dict.fromkeys(("Effect", "Population", "Site", "Variability", "default_effects"), "population"),
    "write_nifti": "images",
}

__all__ = [
    "DEFAULT_SITES",
    "Effect",
    "Population",
    "SimulatedCohort",
    "Site",
    "Variability",
    "cohort_features",
    "default_effects",
    "iter_cohort",
    "oracle_scores",
    "simulate_cohort",
    "write_nifti",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
