"""What the sources of scans have in common: `Source` finds scans in a folder and reads them one by one."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.scan_images import ScanError
from fmri_lm_hf.models.scan_reading import Scan, stem, table_names

__all__ = ["ScanFile", "Source", "bids_entities", "first_atlas", "row_of"]


@dataclass(frozen=True)
class ScanFile:
    """One scan that a source found.

    Attributes
    ----------
    scan_id, subject_id : str
    inputs : tuple of Path
        The files it is read from, the scan itself first.
    session, site : str, optional
    phenotypes : dict
        Columns that the source itself knows.
    mean_fd : float, optional
        Mean framewise displacement in mm, where the source has it in a table.
    table : np.ndarray, optional
        The signals (n_timepoints, n_rois), where the source holds them in memory.
    """

    scan_id: str
    subject_id: str
    inputs: tuple[Path, ...] = ()
    session: str | None = None
    site: str | None = None
    phenotypes: dict[str, Any] = field(default_factory=dict)
    mean_fd: float | None = None
    table: np.ndarray | None = None


@dataclass
class Source:
    """Scans of one kind in a folder.

    Parameters
    ----------
    root : Path
        The folder.
    atlas : Atlas, optional
        How to read the scans; taken from the scans themselves where they are tables.
    site : str, optional
        Site of all scans.
    t_r : dict
        TR in seconds of a site, or of all under the key `""`, where the scans do not say it.
    match : str
        Only files whose path below `root` matches this pattern, such as `"*task-rest*"`.
    max_masked : float
        Refuse scans with a larger part of ROIs without signal.
    """

    root: Path
    atlas: Atlas | None = None
    site: str | None = None
    t_r: dict[str, float] = field(default_factory=dict)
    match: str = "*"
    max_masked: float = 0.5

    name: ClassVar[str]
    has_sample_mask: ClassVar[bool] = False

    def find(self) -> list[ScanFile]:
        """All scans, in a fixed order."""
        raise NotImplementedError

    def read(self, file: ScanFile) -> dict[str, Any]:
        """Columns of the row of a scan that come from its files, and `report` (sentences)."""
        raise NotImplementedError

    def table_atlas(self, files: Iterable[ScanFile]) -> Atlas:
        """The atlas that the tables themselves name."""
        return first_atlas((file.inputs[0] for file in files), self.name)

    def parameters(self) -> dict[str, Any]:
        """What decides about the result, for the record; no paths."""
        fields = [item.name for item in dataclasses.fields(self) if item.name not in ("root", "atlas")]
        return {"source": self.name} | {name: getattr(self, name) for name in fields}

    def t_r_of(self, file: ScanFile) -> float | None:
        """The TR given for the site of a scan, if any."""
        return self.t_r.get(file.site or "", self.t_r.get(""))

    def files(self, *suffixes: str) -> Iterator[Path]:
        """Files below the folder with one of these endings, sorted, that match the pattern."""
        if not self.root.is_dir():
            raise ScanError(f"The folder {self.root} does not exist: give the folder with the scans.")
        for folder, below, names in os.walk(self.root, followlinks=True):
            below[:] = sorted(name for name in below if not name.startswith("."))
            for name in sorted(names):
                path = Path(folder, name)
                relative = path.relative_to(self.root).as_posix()
                if (
                    name.lower().endswith(suffixes)
                    and name[0] != "."
                    and fnmatch.fnmatch(relative, self.match)
                ):
                    yield path


def row_of(scan: Scan, mean_fd: float | None = None, **columns: Any) -> dict[str, Any]:
    """Columns of the row of a scan that was read."""
    return {
        "t_r": scan.t_r,
        "n_timepoints": len(scan.bold),
        "bold": scan.bold,
        "roi_mask": scan.roi_mask,
        "mean_fd": mean_fd,
        "report": list(scan.report),
        **columns,
    }


def bids_entities(path: Path) -> dict[str, str]:
    """BIDS entities of a file name: `sub-01_task-rest_bold.nii.gz` gives `{"sub": "01", "task": "rest"}`."""
    return dict(re.findall(r"(?:^|_)([a-zA-Z]+)-([a-zA-Z0-9+]+)", stem(path)))


def first_atlas(paths: Iterable[Path], name: str) -> Atlas:
    """The atlas that the first readable of several tables names (numbered where it has no names)."""
    failure: ScanError | None = None
    for path in paths:
        try:
            n_rois, names = table_names(path)
        except ScanError as error:
            failure = failure or error
            continue
        return Atlas.numbered(n_rois, name) if names is None else Atlas.from_names(names, name)
    raise ScanError(
        f"No table could be read to learn the ROIs from: {failure or 'there are none'}"
    ) from failure
