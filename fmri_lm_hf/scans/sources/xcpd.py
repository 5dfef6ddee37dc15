"""XCP-D derivatives: its atlas time series, or its denoised BOLD read with another atlas."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.scan_images import ScanError, require
from fmri_lm_hf.models.scan_reading import read_scan, sidecar_t_r

from ..denoising import interpolate_censored
from .source import ScanFile, Source, bids_entities, first_atlas, row_of

__all__ = ["XcpdSource"]

IMAGES = ("_desc-denoised_bold.nii.gz", "_desc-residual_bold.nii.gz")  # the latter in early versions


@dataclass
class XcpdSource(Source):
    """`*_seg-*_stat-mean_timeseries.tsv` (early versions: `*_atlas-*_timeseries.tsv`), or the denoised BOLD.

    Parameters
    ----------
    segmentation : str, optional
        Which of XCP-D's own atlases to take, such as `"4S456Parcels"`. Without it, and with an atlas that reads
        images, the denoised BOLD is read.
    """

    segmentation: str | None = None
    name = "xcpd"
    has_sample_mask = True

    def find(self) -> list[ScanFile]:
        reads_images = self.atlas is not None and bool(self.atlas.coordinates or self.atlas.labels)
        if self.segmentation is None and reads_images:
            paths = list(self.files(*IMAGES))
        else:
            paths = self._tables()
        return [self._scan_file(path) for path in paths]

    def _tables(self) -> list[Path]:
        found: dict[str, list[Path]] = {}
        for path in self.files("_timeseries.tsv"):
            entities = bids_entities(path)
            segmentation = entities.get("seg", entities.get("atlas"))
            if segmentation is not None and entities.get("stat", "mean") == "mean":
                found.setdefault(segmentation, []).append(path)
        if not found:
            return []
        if self.segmentation is None and len(found) == 1:
            self.segmentation = next(iter(found))
        if self.segmentation not in found:
            asked = "none was chosen" if self.segmentation is None else f"{self.segmentation!r} was asked for"
            raise ScanError(
                f"XCP-D made time series of {', '.join(sorted(found))}; {asked}: give one with --segmentation."
            )
        return found[self.segmentation]

    def _scan_file(self, path: Path) -> ScanFile:
        entities = bids_entities(path)
        if "sub" not in entities:
            raise ScanError(f"{path.name} has no sub- in its name: expected XCP-D's BIDS names.")
        scan_id = re.sub(r"_(space|atlas|seg)-.*", "", path.name)
        inputs = (path, *filter(None, (_beside(path, scan_id, "outliers"), _beside(path, scan_id, "motion"))))
        return ScanFile(scan_id, f"sub-{entities['sub']}", inputs, entities.get("ses"))

    def table_atlas(self, files: Iterable[ScanFile]) -> Atlas:
        return first_atlas((file.inputs[0] for file in files), f"xcpd_{self.segmentation}")

    def read(self, file: ScanFile) -> dict[str, Any]:
        path = file.inputs[0]
        t_r = self.t_r_of(file)
        if t_r is None and path.suffix == ".tsv":
            t_r = sidecar_t_r(path) or _t_r_of_image(path, file.scan_id)
        scan = read_scan(path, self.atlas, t_r, max_masked=self.max_masked)
        kept = np.ones(len(scan.bold), dtype=bool)
        outliers = _beside(path, file.scan_id, "outliers")
        if outliers is not None:
            table = require("pandas").read_csv(outliers, sep="\t")
            kept = table.iloc[:, 0].to_numpy() == 0
        if len(kept) != len(scan.bold):
            if kept.sum() != len(scan.bold):
                raise ScanError(
                    f"{path.name} has {len(scan.bold)} time points; expected {len(kept)}, or {kept.sum()} without the "
                    f"outliers of {outliers.name if outliers else 'its table'}."
                )
            scan = replace(scan, bold=interpolate_censored(scan.bold, kept))  # XCP-D took the outliers out
        return row_of(scan, _mean_fd(_beside(path, file.scan_id, "motion")), sample_mask=kept)


def _beside(path: Path, scan_id: str, suffix: str) -> Path | None:
    """The file of the same scan with another suffix, whatever `desc-` it has."""
    candidates = sorted(path.parent.glob(f"{scan_id}*_{suffix}.tsv"))
    return candidates[0] if candidates else None


def _t_r_of_image(path: Path, scan_id: str) -> float | None:
    for sidecar in sorted(path.parent.glob(f"{scan_id}*_bold.json")):
        t_r = sidecar_t_r(sidecar.with_suffix(".nii.gz"))
        if t_r is not None:
            return t_r
    return None


def _mean_fd(motion: Path | None) -> float | None:
    if motion is None:
        return None
    table = require("pandas").read_csv(motion, sep="\t")
    return float(table["framewise_displacement"].mean()) if "framewise_displacement" in table else None
