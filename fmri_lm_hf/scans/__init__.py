"""Scan datasets: from folders of scans to sharded Parquet, and back."""

from .build import BuildSummary, build_scan_dataset, find_scans
from .dataset import load_scan_dataset, write_scan_dataset
from .sources import SOURCES, Source
from .sources.bids import read_participants
from .sources.files import read_mat
from .synthetic_image import write_nifti

__all__ = [
    "SOURCES",
    "BuildSummary",
    "Source",
    "build_scan_dataset",
    "find_scans",
    "load_scan_dataset",
    "read_mat",
    "read_participants",
    "write_nifti",
    "write_scan_dataset",
]
