"""Folders of ROI tables or of images that need no further cleaning: one file a scan."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.scan_images import ScanError, require
from fmri_lm_hf.models.scan_reading import read_scan, stem

from .source import ScanFile, Source, bids_entities, first_atlas, row_of

__all__ = ["FilesSource", "read_mat"]

TABLES = (".npy", ".npz", ".tsv", ".csv", ".ptseries.nii", ".mat")
IMAGES = (".nii.gz", ".nii")


@dataclass
class FilesSource(Source):
    """Scans as single files: `.npy`, `.npz`, `.tsv`, `.csv`, `.mat`; with an atlas for images also NIfTI and CIFTI.

    Parameters
    ----------
    pattern : str, optional
        Where names stand in the path below `root`, such as `"{site}/subjects/{subject}/{session}.mat"`; `*` stands for
        anything within a name. Other files are left out. Without it, BIDS names are understood, and other files are
        taken for a subject each.
    mat_key : str
        Variable of `.mat` files, of shape (n_rois, n_timepoints).
    """

    pattern: str | None = None
    mat_key: str = "tc"
    name = "files"

    def find(self) -> list[ScanFile]:
        reads_images = self.atlas is not None and bool(self.atlas.coordinates or self.atlas.labels)
        template = None if self.pattern is None else _template(self.pattern)
        found = []
        for path in self.files(*(TABLES + IMAGES if reads_images else TABLES)):
            if path.name in ("participants.tsv", "participants.csv"):
                continue
            relative = path.relative_to(self.root).as_posix()
            entities = bids_entities(path)
            fields: dict[str, str | None] = {
                "subject": f"sub-{entities['sub']}" if "sub" in entities else None,
                "session": entities.get("ses"),
                "site": None,
            }
            scan_id = stem(path) if fields["subject"] else stem(relative.replace("/", "_"))
            if template is not None:
                match = template.fullmatch(relative)
                if match is None:
                    continue
                fields |= match.groupdict()
            subject = fields["subject"] or scan_id
            found.append(ScanFile(scan_id, subject, (path,), fields["session"], fields["site"]))
        return found

    def table_atlas(self, files: Any) -> Atlas:
        paths = [file.inputs[0] for file in files]
        if paths and all(path.suffix == ".mat" for path in paths):
            for path in paths:
                try:
                    return Atlas.numbered(read_mat(path, self.mat_key).shape[1], self.name)
                except ScanError as error:
                    failure = error
            raise failure
        return first_atlas((path for path in paths if path.suffix != ".mat"), self.name)

    def read(self, file: ScanFile) -> dict[str, Any]:
        path = file.inputs[0]
        content = read_mat(path, self.mat_key) if path.suffix == ".mat" else path
        return row_of(read_scan(content, self.atlas, self.t_r_of(file), max_masked=self.max_masked))


def read_mat(path: Path, key: str = "tc") -> np.ndarray:
    """ROI signals of a MATLAB file (version 5), where `key` holds (n_rois, n_timepoints).

    Returns
    -------
    np.ndarray of shape (n_timepoints, n_rois), float32
    """
    path = Path(path)
    if not path.exists():
        raise ScanError(f"The scan {path.name} does not exist: check the path {path}.")
    try:
        content = require("scipy.io").loadmat(path, variable_names=[key])
    except (OSError, ValueError, TypeError, NotImplementedError, EOFError) as error:
        raise ScanError(
            f"{path.name} is not a readable MATLAB file: it may be truncated, or of version 7.3. Save it with `-v7`."
        ) from error
    signals = content.get(key)
    if signals is None or signals.ndim != 2 or signals.dtype.kind not in "fiu":
        raise ScanError(
            f"{path.name} has no variable {key!r} of numbers (n_rois, n_timepoints): give its name with --mat-key, or "
            "leave the file out with --match."
        )
    return np.ascontiguousarray(signals.T, dtype=np.float32)


def _template(pattern: str) -> re.Pattern[str]:
    """`"{site}/{subject}/*.mat"` as a regular expression over a path."""
    parts = re.split(r"(\{[a-z_]+\}|\*)", pattern)
    names = [part[1:-1] for part in parts if part.startswith("{")]
    wrong = set(names) - {"subject", "session", "site"}
    if wrong or len(names) != len(set(names)):
        raise ScanError(f"The pattern {pattern!r} may hold {{subject}}, {{session}} and {{site}}, once each.")
    expression = "".join(
        f"(?P<{part[1:-1]}>[^/]+)" if part.startswith("{") else "[^/]*" if part == "*" else re.escape(part)
        for part in parts
    )
    return re.compile(expression)
