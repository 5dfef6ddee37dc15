"""fMRIPrep derivatives: preprocessed BOLD in a standard space, cleaned with its confounds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...models.image_files import both_hemispheres
from ...models.scan_errors import ScanError, require
from ...models.scan_files import read_scan
from ..denoising import STRATEGIES, denoise, median_tsnr
from .bids import bids_entities, companion, identity, scan_name
from .source import LeftOut, ScanFile, Source


@dataclass
class FmriprepSource(Source):
    """`sub-*/[ses-*/]func/*_space-*_desc-preproc_bold.nii.gz`, or surfaces for an atlas of surfaces.

    These are `*_space-fsLR_*_bold.dtseries.nii`, or `*_hemi-[LR]_space-*_bold.func.gii` where `space` is another one.

    Volumes before the steady state are dropped. What has no image in the space is listed.

    Parameters
    ----------
    space : str
        The standard space of the images, or the surface, such as `"fsaverage5"`.
    strategy : str
        Name of a confound strategy, see `denoising.STRATEGIES`.
    """

    space: str = "MNI152NLin2009cAsym"
    strategy: str = "simple"
    name = "fmriprep"

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ScanError(f"Unknown strategy {self.strategy!r}: expected one of {', '.join(STRATEGIES)}.")

    def parameters(self) -> dict[str, Any]:
        return super().parameters() | {"confounds": STRATEGIES[self.strategy]}

    def find(self) -> list[ScanFile]:
        if not self.reads_images:
            raise ScanError("fMRIPrep derivatives are images: give an atlas that reads images (--atlas).")
        suffixes: tuple[str, ...] = ("_desc-preproc_bold.nii.gz",)
        wanted = self.space
        if self.reads_surfaces:
            suffixes = ("_bold.dtseries.nii", "_bold.func.gii")
            wanted = self.space if self.space.startswith("fs") else "fsLR"
        files = {inputs[0]: inputs for inputs in self.scans(*suffixes)}
        paths = list(files)
        in_space = [path for path in paths if _space(path) == wanted]
        if paths and not in_space:
            spaces = sorted({_space(path) for path in paths})
            raise ScanError(
                f"No scan is in space {wanted}: found {', '.join(spaces)}. Give one of them with --space."
            )
        found = []
        for path in in_space:
            entities = bids_entities(path)
            if "sub" not in entities:
                self.leave(path, "has no sub- in its name")
                continue
            mask, confounds = _mask_of(path), _confounds_of(path)
            inputs = (*files[path], *(other for other in (mask, confounds) if other is not None))
            found.append(ScanFile(scan_name(path), f"sub-{entities['sub']}", inputs, entities.get("ses")))
        self._list_lost(paths, in_space, wanted)
        return found

    def _list_lost(self, paths: list[Path], in_space: list[Path], wanted: str) -> None:
        """List the scans that have images, but none in the space that is read."""
        taken = {tuple(identity(path).items()) for path in in_space}
        lost: dict[tuple[tuple[str, str], ...], list[Path]] = {}
        for path in paths:
            scan = tuple(identity(path).items())
            if scan not in taken:
                lost.setdefault(scan, []).append(path)
        for scan, others in lost.items():
            spaces = ", ".join(sorted({_space(path) for path in others}))
            name = "_".join(f"{key}-{value}" for key, value in scan)
            self.left_out.append(LeftOut(name, f"has no image in space {wanted}, only in {spaces} (--space)"))

    def read(self, file: ScanFile) -> dict[str, Any]:
        path = file.inputs[0]
        scan = read_scan(
            path,
            self.atlas,
            self.t_r_of(file),
            max_masked=self.thresholds.max_masked,
            mask_img=_mask_of(path),
            dtype=np.float64,
        )
        table = _table(_confounds_of(path))
        if table is not None and len(table) != len(scan.bold):
            raise ScanError(
                f"{path.name} has {len(scan.bold)} time points, but its confounds have {len(table)} rows."
            )
        n_dummies = 0 if table is None else _n_before_steady_state(table)
        confounds = None
        if self.strategy != "none":
            confounds, kept = _load_confounds(path, self.strategy, len(scan.bold))
            confounds = confounds.iloc[n_dummies:]
            scan = replace(scan, sample_mask=scan.sample_mask & kept)
        if n_dummies:
            note = f"{path.name}: {n_dummies} volumes before the steady state were dropped."
            bold, sample_mask = scan.bold[n_dummies:], scan.sample_mask[n_dummies:]
            scan = replace(scan, bold=bold, sample_mask=sample_mask, report=(*scan.report, note))
        tsnr = median_tsnr(scan)
        if confounds is not None:
            scan = denoise(scan, confounds, label=path.name, min_dof=self.thresholds.min_dof)
        return self.row(scan, path.name, _mean_fd(table, n_dummies), tsnr)


def _load_confounds(path: Path, strategy: str, n_timepoints: int) -> tuple[Any, np.ndarray]:
    image = list(map(str, both_hemispheres(path)[1:])) if path.name.endswith(".gii") else str(path)
    try:
        confounds, indices = require("nilearn.interfaces.fmriprep").load_confounds(
            image, **STRATEGIES[strategy]
        )
    except Exception as error:  # nilearn trips over odd tables in many ways
        if isinstance(error, (MemoryError, ImportError)):
            raise
        what = f"{error}" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__} {error}"
        raise ScanError(
            f"The confounds of {path.name} cannot be loaded by strategy {strategy!r}: {what}"
        ) from error
    if len(confounds) != n_timepoints:
        raise ScanError(
            f"{path.name} has {n_timepoints} time points, but its confounds have {len(confounds)} rows."
        )
    kept = np.ones(n_timepoints, dtype=bool)
    if indices is not None:
        kept[:] = False
        kept[np.asarray(indices, dtype=int)] = True
    return confounds, kept


def _space(path: Path) -> str:
    return bids_entities(path).get("space", "none (the scan's own)")


def _mask_of(path: Path) -> Path | None:
    if not path.name.endswith("_desc-preproc_bold.nii.gz"):
        return None
    mask = path.with_name(path.name.replace("_desc-preproc_bold", "_desc-brain_mask"))
    return mask if mask.exists() else None


def _confounds_of(path: Path) -> Path | None:
    """The table of confounds; fMRIPrep before 20.2 called it `regressors`."""
    return companion(path, "timeseries", desc="confounds") or companion(path, "regressors", desc="confounds")


def _table(confounds: Path | None) -> Any:
    if confounds is None:
        return None
    try:
        return require("pandas").read_csv(confounds, sep="\t")
    except (OSError, ValueError) as error:
        raise ScanError(f"The confounds {confounds.name} cannot be read: {error}") from error


def _n_before_steady_state(table: Any) -> int:
    """Leading volumes that fMRIPrep marks as `non_steady_state_outlier*`."""
    columns = [name for name in table if str(name).startswith("non_steady_state_outlier")]
    if not columns:
        return 0
    marked = table[columns].fillna(0).to_numpy().any(axis=1)
    return int(np.argmin(marked)) if not marked.all() else len(marked)


def _mean_fd(table: Any, n_dummies: int) -> float | None:
    """Mean framewise displacement in mm, of all time points that are not dropped (also those scrubbed later)."""
    if table is None or "framewise_displacement" not in table:
        return None
    values = require("pandas").to_numeric(table["framewise_displacement"], errors="coerce")[n_dummies:]
    return float(values.mean())
