"""fMRIPrep derivatives: preprocessed BOLD in a standard space, cleaned with its confounds."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fmri_lm_hf.models.scan_images import ScanError, is_cifti, require
from fmri_lm_hf.models.scan_reading import read_scan

from ..denoising import STRATEGIES, denoise
from .source import ScanFile, Source, bids_entities, row_of

__all__ = ["FmriprepSource"]

logger = logging.getLogger(__name__)


@dataclass
class FmriprepSource(Source):
    """`sub-*/[ses-*/]func/*_space-*_desc-preproc_bold.nii.gz`, or `*_bold.dtseries.nii` for a CIFTI atlas.

    Parameters
    ----------
    space : str
        The standard space of the images.
    strategy : str
        Name of a confound strategy, see `denoising.STRATEGIES`.
    """

    space: str = "MNI152NLin2009cAsym"
    strategy: str = "simple"
    name = "fmriprep"
    has_sample_mask = True

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ScanError(f"Unknown strategy {self.strategy!r}: expected one of {', '.join(STRATEGIES)}.")

    def parameters(self) -> dict[str, Any]:
        return super().parameters() | {"confounds": STRATEGIES[self.strategy]}

    def find(self) -> list[ScanFile]:
        if self.atlas is None or not (self.atlas.coordinates or self.atlas.labels):
            raise ScanError("fMRIPrep derivatives are images: give an atlas that reads images (--atlas).")
        cifti = self.atlas.labels_img is not None and is_cifti(self.atlas.labels_img)
        suffix, wanted = (
            ("_bold.dtseries.nii", "fsLR") if cifti else ("_desc-preproc_bold.nii.gz", self.space)
        )
        paths = list(self.files(suffix))
        in_space = [path for path in paths if bids_entities(path).get("space") == wanted]
        if paths and not in_space:
            spaces = sorted({bids_entities(path).get("space", "none") for path in paths})
            raise ScanError(
                f"No scan is in space {wanted}: found {', '.join(spaces)}. Give one of them with --space."
            )
        found = []
        for path in in_space:
            entities = bids_entities(path)
            if "sub" not in entities:
                logger.warning(f"{path.name} has no sub- in its name and is left out.")
                continue
            scan_id = path.name.partition("_space-")[0]
            mask, confounds = _mask_of(path), _confounds_of(path)
            inputs = (path, *(other for other in (mask, confounds) if other is not None and other.exists()))
            found.append(ScanFile(scan_id, f"sub-{entities['sub']}", inputs, entities.get("ses")))
        return found

    def read(self, file: ScanFile) -> dict[str, Any]:
        path = file.inputs[0]
        mask = _mask_of(path)
        scan = read_scan(
            path,
            self.atlas,
            self.t_r_of(file),
            max_masked=self.max_masked,
            mask_img=mask if mask is not None and mask.exists() else None,
        )
        confounds, kept = None, np.ones(len(scan.bold), dtype=bool)
        if self.strategy != "none":
            confounds, kept = _load_confounds(path, self.strategy, len(scan.bold))
            scan.bold = denoise(scan.bold, confounds, kept, scan.roi_mask)
        return row_of(scan, _mean_fd(_confounds_of(path)), sample_mask=kept)


def _load_confounds(path: Path, strategy: str, n_timepoints: int) -> tuple[Any, np.ndarray]:
    try:
        confounds, indices = require("nilearn.interfaces.fmriprep").load_confounds(
            str(path), **STRATEGIES[strategy]
        )
    except (ValueError, OSError) as error:
        raise ScanError(
            f"The confounds of {path.name} cannot be loaded by strategy {strategy!r}: {error}"
        ) from error
    if len(confounds) != n_timepoints:
        raise ScanError(
            f"{path.name} has {n_timepoints} time points, but its confounds have {len(confounds)} rows."
        )
    kept = np.ones(n_timepoints, dtype=bool)
    if indices is not None:
        kept[:] = False
        kept[np.asarray(indices, dtype=int)] = True
    if kept.sum() <= confounds.shape[1] + 1:
        raise ScanError(
            f"{path.name} has {kept.sum()} usable time points of {n_timepoints}, too few to regress out "
            f"{confounds.shape[1]} confounds: the subject moved too much for strategy {strategy!r}."
        )
    return confounds, kept


def _mask_of(path: Path) -> Path | None:
    if not path.name.endswith("_desc-preproc_bold.nii.gz"):
        return None
    return path.with_name(path.name.replace("_desc-preproc_bold", "_desc-brain_mask"))


def _confounds_of(path: Path) -> Path:
    return path.with_name(path.name.partition("_space-")[0] + "_desc-confounds_timeseries.tsv")


def _mean_fd(confounds: Path) -> float | None:
    """Mean framewise displacement in mm, of all time points (also those scrubbed later)."""
    if not confounds.exists():
        return None
    table = require("pandas").read_csv(confounds, sep="\t")
    return float(table["framewise_displacement"].mean()) if "framewise_displacement" in table else None
