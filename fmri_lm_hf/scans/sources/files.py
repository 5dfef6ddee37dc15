"""Folders of ROI tables or of images that need no further cleaning: one file a scan."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ...models.atlas import Atlas
from ...models.scan_images import ScanError
from ...models.scan_reading import read_scan, stem
from ...models.surface_files import both_hemispheres
from ..matlab import read_mat
from .source import N_SAMPLED, ScanFile, Source, bids_entities, common_atlas

__all__ = ["FilesSource"]

TABLES = (".npy", ".npz", ".tsv", ".csv", ".ptseries.nii", ".mat")
IMAGES = (".nii.gz", ".nii", ".func.gii")


@dataclass
class FilesSource(Source):
    """Scans as single files: `.npy`, `.npz`, `.tsv`, `.csv`, `.mat`; with an atlas for images also NIfTI, CIFTI and
    GIFTI, whose two hemispheres are one scan.

    Parameters
    ----------
    pattern : str, optional
        Where names stand in the path below `root`, such as `"{site}/subjects/{subject}/{session}.mat"`; `*` stands for
        anything within a name. Other files are left out, and listed. Without it, BIDS names are understood, and other
        files are taken for a subject each.
    mat_key : str
        Variable of `.mat` files, of shape (n_rois, n_timepoints).
    """

    pattern: str | None = None
    mat_key: str = "tc"
    name = "files"

    def find(self) -> list[ScanFile]:
        template = None if self.pattern is None else _template(self.pattern)
        found = []
        for inputs in self.scans(*(TABLES + IMAGES if self.reads_images else TABLES)):
            path = inputs[0]
            relative = path.relative_to(self.root).as_posix()
            entities = bids_entities(path)
            fields: dict[str, str | None] = {
                "subject": f"sub-{entities['sub']}" if "sub" in entities else None,
                "session": entities.get("ses"),
                "site": None,
            }
            whole = path
            if path.name.endswith(".gii"):
                whole = path.with_name(both_hemispheres(path)[0])
            scan_id = stem(whole) if fields["subject"] else stem(self.relative(whole).replace("/", "_"))
            if template is not None:
                match = template.fullmatch(relative)
                if match is None:
                    self.leave(path, f"does not match the pattern {self.pattern!r} (--pattern)")
                    continue
                fields |= match.groupdict()
            subject = fields["subject"] or scan_id
            found.append(ScanFile(scan_id, subject, inputs, fields["session"], fields["site"]))
        return found

    def table_atlas(self, files: Any) -> Atlas:
        paths = [file.inputs[0] for file in files]
        if paths and all(path.suffix == ".mat" for path in paths):
            counts: Counter[int] = Counter()
            for path in paths:
                try:
                    counts[read_mat(path, self.mat_key).shape[1]] += 1
                except ScanError as error:
                    failure = error
                if counts.total() == N_SAMPLED:
                    break
            if not counts:
                raise failure
            return Atlas.numbered(counts.most_common(1)[0][0], self.name)
        return common_atlas([path for path in paths if path.suffix != ".mat"], self.name)

    def read(self, file: ScanFile) -> dict[str, Any]:
        path = file.inputs[0]
        content = read_mat(path, self.mat_key) if path.suffix == ".mat" else path
        scan = read_scan(content, self.atlas, self.t_r_of(file), max_masked=self.thresholds.max_masked)
        return self.row(scan, path.name)


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
