"""Descriptors of a resting-state scan, computed from its ROI time series alone; a module for each family.

Names are loaded when they are first used: connectivity alone, as an evaluation needs it, loads no other family.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .catalogue import FAMILIES, MEASURES, Feature, Measure, feature_table
    from .features import Acquisition, FeatureDict, compute_features, features_of
    from .reference_maps import ReferenceMaps

_MODULES = {
    **dict.fromkeys(("FAMILIES", "MEASURES", "Feature", "Measure", "feature_table"), "catalogue"),
    **dict.fromkeys(("Acquisition", "FeatureDict", "compute_features", "features_of"), "features"),
    "ReferenceMaps": "reference_maps",
}

__all__ = [
    "FAMILIES",
    "MEASURES",
    "Acquisition",
    "Feature",
    "FeatureDict",
    "Measure",
    "ReferenceMaps",
    "compute_features",
    "feature_table",
    "features_of",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
