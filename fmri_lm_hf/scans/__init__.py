"""Scan datasets: from folders of scans to sharded Parquet, and back.

Names are loaded on first use: loading a dataset does not import the readers of the sources.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..deprecation import warn_renamed

if TYPE_CHECKING:
    from .build import BuildSummary, build_scan_dataset, find_scans
    from .dataset import load_scan_dataset, write_scan_dataset
    from .mat_files import read_mat
    from .sources import SOURCES, Source
    from .sources.bids import read_participants

_MODULES = {
    **dict.fromkeys(("BuildSummary", "build_scan_dataset", "find_scans"), "build"),
    **dict.fromkeys(("load_scan_dataset", "write_scan_dataset"), "dataset"),
    **dict.fromkeys(("SOURCES", "Source"), "sources"),
    "read_mat": "mat_files",
    "read_participants": "sources.bids",
}

__all__ = [
    "SOURCES",
    "BuildSummary",
    "Source",
    "build_scan_dataset",
    "find_scans",
    "load_scan_dataset",
    "read_mat",
    "read_participants",
    "write_scan_dataset",
]


def __getattr__(name: str) -> Any:
    if name == "write_nifti":
        warn_renamed("fmri_lm_hf.scans.write_nifti", "fmri_lm_hf.simulation.write_nifti")
        return importlib.import_module("..simulation", __name__).write_nifti
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
