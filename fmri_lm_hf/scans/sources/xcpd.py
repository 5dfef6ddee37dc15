"""XCP-D derivatives: its atlas time series, or its denoised BOLD read with another atlas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...models.atlas import Atlas
from ...models.scan_errors import ScanError, require
from ...models.scan_files import read_scan, sidecar_t_r
from ..denoising import interpolate_censored
from .bids import bids_entities, companion, scan_name
from .source import ScanFile, Source, common_atlas

IMAGES = ("_desc-denoised_bold", "_desc-residual_bold")  # the latter in early versions


@dataclass
class XcpdSource(Source):
    """`*_seg-*_stat-mean_timeseries.tsv` (early versions: `*_atlas-*_timeseries.tsv`), or the denoised BOLD.

    Parameters
    ----------
    segmentation : str, optional
        Which of XCP-D's own atlases to take, such as `"4S456Parcels"`. Without it, and with an atlas that reads
        images, the denoised BOLD is read: `.nii.gz`, or `.dtseries.nii` with an atlas of surfaces.
    """

    segmentation: str | None = None
    name = "xcpd"

    def find(self) -> list[ScanFile]:
        if self.segmentation is None and self.reads_images:
            extension = ".dtseries.nii" if self.reads_surfaces else ".nii.gz"
            paths = list(self.files(*(image + extension for image in IMAGES)))
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
        beside = (_outliers_of(path), *_motion_of(path), _coverage_of(path))
        inputs = (path, *(other for other in beside if other is not None))
        return ScanFile(scan_name(path), f"sub-{entities['sub']}", inputs, entities.get("ses"))

    def table_atlas(self, files: Sequence[ScanFile]) -> Atlas:
        return common_atlas([file.inputs[0] for file in files], f"xcpd_{self.segmentation}")

    def read(self, file: ScanFile) -> dict[str, Any]:
        path = file.inputs[0]
        t_r = self.t_r_of(file)
        if t_r is None and path.suffix == ".tsv":
            t_r = sidecar_t_r(path) or _t_r_of_image(path)
        scan = read_scan(path, self.atlas, t_r, max_masked=self.thresholds.max_masked)
        outliers = _outliers_of(path)
        kept = np.ones(len(scan.bold), dtype=bool) if outliers is None else _flags(outliers)
        if len(kept) != len(scan.bold):
            if kept.sum() != len(scan.bold):
                raise ScanError(
                    f"{path.name} has {len(scan.bold)} time points; expected {len(kept)}, or {kept.sum()} without the "
                    f"outliers of {outliers.name if outliers else 'its table'}."
                )
            found = np.zeros(len(kept), dtype=bool)
            found[kept] = scan.sample_mask
            # XCP-D took the outliers out
            scan = replace(scan, bold=interpolate_censored(scan.bold, kept), sample_mask=found)
        else:
            scan = replace(scan, sample_mask=scan.sample_mask & kept)
        coverage = _coverage_of(path)
        if coverage is not None and scan.coverage is None and self.atlas is not None:
            scan = replace(scan, coverage=_coverage(coverage, self.atlas))
        return self.row(scan, path.name, _mean_fd(_motion_of(path)))


def _outliers_of(path: Path) -> Path | None:
    return companion(path, "outliers")


def _motion_of(path: Path) -> tuple[Path, ...]:
    """Tables that may hold the framewise displacement, the best first."""
    tables = (
        companion(path, "motion"),
        companion(path, "timeseries", desc="confounds"),
        companion(path, "regressors", desc="confounds"),
    )
    return tuple(table for table in tables if table is not None)


def _coverage_of(path: Path) -> Path | None:
    """XCP-D's own table of the share of each parcel that has signal."""
    entities = bids_entities(path)
    segmentation = {key: entities[key] for key in ("seg", "atlas") if key in entities}
    if not path.name.endswith(".tsv") or not segmentation:
        return None
    return companion(path, "bold", stat="coverage", **segmentation)


def _read_table(path: Path) -> Any:
    try:
        return require("pandas").read_csv(path, sep="\t")
    except (OSError, ValueError) as error:
        raise ScanError(f"The table {path.name} cannot be read: {error}") from error


def _flags(outliers: Path) -> np.ndarray:
    """True for the time points that are no outliers."""
    column = require("pandas").to_numeric(_read_table(outliers).iloc[:, 0], errors="coerce")
    if not column.isin([0, 1]).all():
        raise ScanError(f"{outliers.name} holds other values than 0 and 1: expected 1 for each outlier.")
    return column.to_numpy() == 0


def _coverage(path: Path, atlas: Atlas) -> np.ndarray | None:
    table = _read_table(path)
    names = next(
        (table[name] for name in table if not require("pandas").api.types.is_numeric_dtype(table[name])), None
    )
    values = next((table[name] for name in table if str(name).lower() == "coverage"), None)
    if names is None or values is None:
        return None
    known = dict(zip(names.astype(str), values.astype(float), strict=True))
    return np.array([known.get(name, np.nan) for name in atlas.roi_names], dtype=np.float32)


def _t_r_of_image(path: Path) -> float | None:
    sidecar = companion(path, "bold", ".json", desc="denoised") or companion(path, "bold", ".json")
    return None if sidecar is None else sidecar_t_r(sidecar.with_suffix(".nii.gz"))


def _mean_fd(tables: Sequence[Path]) -> float | None:
    for path in tables:
        table = _read_table(path)
        if "framewise_displacement" in table:
            values = require("pandas").to_numeric(table["framewise_displacement"], errors="coerce")
            return float(values.mean())
    return None
