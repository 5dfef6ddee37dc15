"""Folders of ROI tables, or of cleaned images, with one scan in each file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...models.atlas import Atlas
from ...models.image_files import both_hemispheres
from ...models.scan_errors import ScanError
from ...models.scan_files import stem, table_names
from ..mat_files import read_mat
from .bids import bids_entities
from .source import ScanFile, Source, SourceScan, common_atlas

TABLES = (".npy", ".npz", ".tsv", ".csv", ".ptseries.nii", ".mat")
IMAGES = (".nii.gz", ".nii", ".func.gii")


@dataclass
class FilesSource(Source):
    """Scans as single files: `.npy`, `.npz`, `.tsv`, `.csv`, `.mat`; with an atlas for images also NIfTI, CIFTI and
    GIFTI, whose two hemispheres are one scan.

    Parameters
    ----------
    pattern : str, optional
        Places of names in the path below `root`, such as `"{site}/subjects/{subject}/{session}.mat"`; `*` matches any
        part of a name. Other files are left out, and listed. Without a pattern, subject and session come from BIDS
        names, and any other file is a subject of its own.
    mat_key : str
        Variable of `.mat` files, of shape (n_rois, n_timepoints).
    """

    pattern: str | None = None
    mat_key: str = "tc"
    name = "files"

    def find(self) -> list[ScanFile]:
        pattern = None if self.pattern is None else _path_pattern(self.pattern)
        found = []
        for inputs in self.find_inputs(*(TABLES + IMAGES if self.reads_images else TABLES)):
            path = inputs[0]
            is_surface = path.name.lower().endswith(".gii")
            whole = path.with_name(both_hemispheres(path)[0]) if is_surface else path
            # Without BIDS names, folders are part of the id: `east/p1/rest.mat` and `west/p1/rest.mat` are two people.
            entities = bids_entities(path)
            if "sub" in entities:
                scan_id, subject = stem(whole), f"sub-{entities['sub']}"
            else:
                scan_id = subject = stem(self.relative(whole).replace("/", "_"))
            names: dict[str, Any] = {"subject": subject, "session": entities.get("ses"), "site": None}
            if pattern is not None:
                match = pattern.fullmatch(self.relative(path))
                if match is None:
                    self.leave_out(path, f"does not match the pattern {self.pattern!r} (--pattern)")
                    continue
                names |= match.groupdict()
            found.append(ScanFile(scan_id, names["subject"], inputs, names["session"], names["site"]))
        return found

    def table_atlas(self, files: Sequence[ScanFile]) -> Atlas:
        paths = [file.inputs[0] for file in files]
        named = [path for path in paths if not _is_mat(path)]  # only these may name their ROIs
        return common_atlas(named or paths, self.name, self._rois_of)

    def _rois_of(self, path: Path) -> tuple[int, list[str] | None]:
        if _is_mat(path):
            return read_mat(path, self.mat_key).shape[1], None
        return table_names(path)

    def read(self, file: ScanFile) -> SourceScan:
        path = file.inputs[0]
        content = read_mat(path, self.mat_key) if _is_mat(path) else path
        return SourceScan(self.extract(content, self.t_r_of(file)))


def _is_mat(path: Path) -> bool:
    return path.suffix.lower() == ".mat"


def _path_pattern(pattern: str) -> re.Pattern[str]:
    """Convert a pattern such as `"{site}/{subject}/*.mat"` to a regular expression over a path."""
    # The rest of the pattern is taken literally, dots included.
    expression, names = "", []
    for part in re.split(r"(\{[a-z_]+\}|\*)", pattern):
        if part.startswith("{"):
            names.append(part[1:-1])
            expression += f"(?P<{names[-1]}>[^/]+)"
        else:
            expression += "[^/]*" if part == "*" else re.escape(part)
    if set(names) - {"subject", "session", "site"} or len(names) != len(set(names)):
        raise ScanError(f"The pattern {pattern!r} may hold {{subject}}, {{session}} and {{site}}, once each.")
    return re.compile(expression)
