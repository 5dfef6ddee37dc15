"""XCP-D derivatives: time series of its atlases, or denoised BOLD, read with another atlas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas

from ...models.atlas import Atlas
from ...models.scan_errors import ScanError
from ...models.scan_files import Scan, sidecar_t_r
from ..denoising import interpolate_censored
from .bids import bids_entities, companion, confounds_of, mean_displacement, read_tsv, scan_name
from .source import ScanFile, Source, SourceScan, common_atlas

IMAGES = ("_desc-denoised_bold", "_desc-residual_bold")  # the latter in early versions


@dataclass
class XcpdSource(Source):
    """`*_seg-*_stat-mean_timeseries.tsv` (early versions: `*_atlas-*_timeseries.tsv`), or the denoised BOLD.

    Parameters
    ----------
    segmentation : str, optional
        Atlas of XCP-D whose time series are read, such as `"4S456Parcels"`. Without it, and with an atlas that reads
        images, the denoised BOLD is read: `.nii.gz`, or `.dtseries.nii` with an atlas of surfaces.
    """

    segmentation: str | None = None
    name = "xcpd"

    def find(self) -> list[ScanFile]:
        if self.segmentation is None and self.reads_images:
            extension = ".dtseries.nii" if self.reads_surfaces else ".nii.gz"
            paths = list(self.find_files(*(image + extension for image in IMAGES)))
        else:
            paths = self._find_tables()
        return [self._scan_file(path) for path in paths]

    def _find_tables(self) -> list[Path]:
        tables: dict[str, list[Path]] = {}
        for path in self.find_files("_timeseries.tsv"):
            entities = bids_entities(path)
            segmentation = entities.get("seg", entities.get("atlas"))
            # Early versions name no statistic.
            if segmentation is not None and entities.get("stat", "mean") == "mean":
                tables.setdefault(segmentation, []).append(path)
        if not tables:
            return []
        # Set on the source, so that the record of the dataset names the atlas even if there was no choice.
        if self.segmentation is None and len(tables) == 1:
            self.segmentation = next(iter(tables))
        if self.segmentation not in tables:
            asked = "none was chosen" if self.segmentation is None else f"{self.segmentation!r} was asked for"
            raise ScanError(
                f"XCP-D made time series of {', '.join(sorted(tables))}; {asked}: give one with --segmentation."
            )
        return tables[self.segmentation]

    def _scan_file(self, path: Path) -> ScanFile:
        entities = bids_entities(path)
        if "sub" not in entities:
            raise ScanError(f"{path.name} has no sub- in its name: expected XCP-D's BIDS names.")
        beside = (companion(path, "outliers"), *_motion_tables(path), _coverage_table(path))
        inputs = (path, *(table for table in beside if table is not None))
        return ScanFile(scan_name(path), f"sub-{entities['sub']}", inputs, entities.get("ses"))

    def table_atlas(self, files: Sequence[ScanFile]) -> Atlas:
        return common_atlas([file.inputs[0] for file in files], f"xcpd_{self.segmentation}")

    def read(self, file: ScanFile) -> SourceScan:
        path, t_r = file.inputs[0], self.t_r_of(file)
        if t_r is None and path.suffix == ".tsv":
            t_r = sidecar_t_r(path) or _t_r_of_image(path)
        scan = self.extract(path, t_r)
        outliers = companion(path, "outliers")
        if outliers is not None:
            scan = _censor(scan, outliers, path.name)
        coverage = _coverage_table(path)
        if coverage is not None and scan.coverage is None and self.atlas is not None:
            scan = replace(scan, coverage=_read_coverage(coverage, self.atlas))
        displacements = (mean_displacement(read_tsv(table)) for table in _motion_tables(path))
        return SourceScan(scan, next((value for value in displacements if value is not None), None))


def _censor(scan: Scan, outliers: Path, label: str) -> Scan:
    """Mark the outliers of XCP-D, which versions and options leave in the series or take out of it."""
    column = pandas.to_numeric(read_tsv(outliers).iloc[:, 0], errors="coerce")
    if not column.isin([0, 1]).all():
        raise ScanError(f"{outliers.name} holds other values than 0 and 1: expected 1 for each outlier.")
    kept = column.to_numpy() == 0
    if len(kept) == len(scan.bold):
        return replace(scan, sample_mask=scan.sample_mask & kept)
    if kept.sum() != len(scan.bold):
        raise ScanError(
            f"{label} has {len(scan.bold)} time points; expected {len(kept)}, or {kept.sum()} without the outliers of "
            f"{outliers.name}."
        )
    # The series was cut: put back on a regular time axis, lags and windows are in seconds again.
    observed = np.zeros(len(kept), dtype=bool)
    observed[kept] = scan.sample_mask
    return replace(scan, bold=interpolate_censored(scan.bold, kept), sample_mask=observed)


def _motion_tables(path: Path) -> list[Path]:
    """Find the tables that may have the framewise displacement, the best first."""
    return [table for table in (companion(path, "motion"), confounds_of(path)) if table is not None]


def _coverage_table(path: Path) -> Path | None:
    """Find the table of XCP-D with the share of each parcel that has signal."""
    entities = bids_entities(path)
    segmentation = {key: entities[key] for key in ("seg", "atlas") if key in entities}
    if not path.name.endswith(".tsv") or not segmentation:
        return None
    return companion(path, "bold", stat="coverage", **segmentation)


def _read_coverage(path: Path, atlas: Atlas) -> np.ndarray | None:
    table = read_tsv(path)
    names = table.select_dtypes(exclude="number")
    values = next((table[name] for name in table if str(name).lower() == "coverage"), None)
    if not len(names.columns) or values is None:
        return None
    coverage = dict(zip(names.iloc[:, 0].astype(str), values.astype(float), strict=True))
    return np.array([coverage.get(name, np.nan) for name in atlas.roi_names], dtype=np.float32)


def _t_r_of_image(path: Path) -> float | None:
    sidecar = companion(path, "bold", ".json", desc="denoised") or companion(path, "bold", ".json")
    return None if sidecar is None else sidecar_t_r(sidecar.with_suffix(".nii.gz"))
