"""Sources of scans: one module for each kind of folder, and one for public cohorts."""

from .cohorts import AbideSource, AdhdSource, DevelopmentSource
from .files import FilesSource
from .fmriprep import FmriprepSource
from .hcp import HcpSource
from .source import ScanFile, Source
from .xcpd import XcpdSource

SOURCES: dict[str, type[Source]] = {
    source.name: source
    for source in (FmriprepSource, XcpdSource, HcpSource, FilesSource, AbideSource, AdhdSource, DevelopmentSource)
}

__all__ = ["SOURCES", "ScanFile", "Source"]
