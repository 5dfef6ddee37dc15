"""Scan datasets: from folders of scans to sharded Parquet, and back."""

from .build import BuildSummary, build_scan_dataset
from .cohorts import AbideSource, AdhdSource, DevelopmentSource
from .dataset import load_scan_dataset, write_scan_dataset
from .files import FilesSource, read_mat
from .fmriprep import FmriprepSource
from .hcp import HcpSource
from .participants import read_participants
from .source import Source
from .synthetic_image import write_nifti
from .xcpd import XcpdSource

SOURCES: dict[str, type[Source]] = {
    source.name: source
    for source in (
        FmriprepSource,
        XcpdSource,
        HcpSource,
        FilesSource,
        AbideSource,
        AdhdSource,
        DevelopmentSource,
    )
}

__all__ = [
    "SOURCES",
    "BuildSummary",
    "Source",
    "build_scan_dataset",
    "load_scan_dataset",
    "read_mat",
    "read_participants",
    "write_nifti",
    "write_scan_dataset",
]
