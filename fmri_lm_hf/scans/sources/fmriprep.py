"""fMRIPrep derivatives: preprocessed BOLD in a standard space, with confound regression."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from ...models.image_files import both_hemispheres
from ...models.scan_errors import ScanError
from ..denoising import STRATEGIES, check_length, denoise, median_tsnr
from .bids import bids_entities, confounds_of, mean_displacement, read_tsv, scan_name
from .source import ScanFile, Source, SourceScan


@dataclass
class FmriprepSource(Source):
    """`sub-*/[ses-*/]func/*_space-*_desc-preproc_bold.nii.gz`, or surfaces for an atlas of surfaces.

    Surfaces are `*_space-fsLR_*_bold.dtseries.nii`, or `*_hemi-[LR]_space-*_bold.func.gii` for other spaces. Volumes
    before the steady state are dropped. Scans without an image in the space are left out, and listed.

    Parameters
    ----------
    space : str
        Standard space of the images, or surface such as `"fsaverage5"`.
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
        space = self.space
        if self.reads_surfaces:
            suffixes = ("_bold.dtseries.nii", "_bold.func.gii")
            space = space if space.startswith("fs") else "fsLR"
        in_space: dict[tuple[Path, ...], str] = {}  # inputs of scans and their spaces
        elsewhere: dict[tuple[Path, ...], str] = {}
        for inputs in self.find_inputs(*suffixes):
            own_space = bids_entities(inputs[0]).get("space", "none (the space of the scan)")
            (in_space if own_space == space else elsewhere)[inputs] = own_space
        if elsewhere and not in_space:
            raise ScanError(
                f"No scan is in space {space}: found {', '.join(sorted(set(elsewhere.values())))}. Give one of them "
                "with --space."
            )
        found = [file for inputs in in_space if (file := self._scan_file(inputs)) is not None]
        # A scan with images in other spaces alone would be missing without a word.
        lost: dict[str, set[str]] = {}
        for (path, *_), other_space in elsewhere.items():
            lost.setdefault(scan_name(path), set()).add(other_space)
        taken = {scan_name(path) for path, *_ in in_space}
        for name, spaces in lost.items():
            if name not in taken:
                self.leave_out(name, f"has no image in space {space}, only in {', '.join(sorted(spaces))} (--space)")
        return found

    def _scan_file(self, inputs: tuple[Path, ...]) -> ScanFile | None:
        path = inputs[0]
        entities = bids_entities(path)
        if "sub" not in entities:
            self.leave_out(path, "has no sub- in its name")
            return None
        inputs += tuple(other for other in (_mask_of(path), confounds_of(path)) if other is not None)
        return ScanFile(scan_name(path), f"sub-{entities['sub']}", inputs, entities.get("ses"))

    def read(self, file: ScanFile) -> SourceScan:
        path = file.inputs[0]
        # float64 until after the regression: with the large mean of an image, float32 would round the signal itself.
        scan = self.extract(path, self.t_r_of(file), mask_img=_mask_of(path), dtype=np.float64)
        table, n_dummies = None, 0
        confounds_file = confounds_of(path)
        if confounds_file is not None:
            table = read_tsv(confounds_file)
            check_length(table, scan, path.name)
            n_dummies = _n_before_steady_state(table)
        confounds = None
        if self.strategy != "none":
            confounds, kept = _load_confounds(path, self.strategy)
            check_length(confounds, scan, path.name)
            # The scrubbed time points stay in the series, marked: cutting them out would join points that are not
            # neighbours, and the TR would no longer be one.
            scan = replace(scan, sample_mask=scan.sample_mask & kept)
            confounds = confounds.iloc[n_dummies:]
        if n_dummies:
            note = f"{path.name}: {n_dummies} volumes before the steady state were dropped."
            bold, sample_mask = scan.bold[n_dummies:], scan.sample_mask[n_dummies:]
            scan = replace(scan, bold=bold, sample_mask=sample_mask, report=(*scan.report, note))
        tsnr = median_tsnr(scan)
        if confounds is not None:
            scan = denoise(scan, confounds, label=path.name, min_dof=self.thresholds.min_dof)
        # Over censored time points as well: the measure describes the person, not the strategy.
        return SourceScan(scan, mean_displacement(table, n_dummies), tsnr)


def _mask_of(path: Path) -> Path | None:
    mask = path.with_name(path.name.replace("_desc-preproc_bold", "_desc-brain_mask"))
    return mask if mask != path and mask.exists() else None


def _load_confounds(path: Path, strategy: str) -> tuple[pandas.DataFrame, np.ndarray]:
    """Load the confounds of a strategy (n_timepoints, n_confounds), and a mask of the time points that it keeps."""
    from nilearn.interfaces.fmriprep import load_confounds  # slow to load

    image = [str(half) for half in both_hemispheres(path)[1:]] if path.suffix == ".gii" else str(path)
    try:
        confounds, indices = load_confounds(image, **STRATEGIES[strategy])
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # nilearn raises errors of many classes over odd tables
        reason = f"{error}" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__} {error}"
        raise ScanError(f"The confounds of {path.name} cannot be loaded by strategy {strategy!r}: {reason}") from error
    if indices is None:
        return confounds, np.ones(len(confounds), dtype=bool)
    return confounds, np.isin(np.arange(len(confounds)), indices)


def _n_before_steady_state(table: pandas.DataFrame) -> int:
    """Count the leading volumes that fMRIPrep marks as `non_steady_state_outlier*`."""
    columns = [name for name in table if str(name).startswith("non_steady_state_outlier")]
    marked = table[columns].fillna(0).to_numpy().any(axis=1)
    return len(marked) if marked.all() else int(np.argmin(marked))
