"""Confound regression by named strategies: what fMRIPrep's and other confound tables are used for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..models.scan_errors import ScanError
from ..models.scan_files import Scan

ROUNDING = 1e-6  # SD after regression in SDs before it, below which nothing but rounding is left
# In units of the correlation that chance gives: signals stored with 16 bits stay orthogonal to a few thousandths.
ORTHOGONAL = 0.05
FEWEST_ROIS = 3  # with fewer, chance alone may make a confound orthogonal to all of them

# Names follow nilearn's `load_confounds_strategy`; the values are the parameters of its `load_confounds`.
_SIMPLE: dict[str, Any] = {"strategy": ("high_pass", "motion", "wm_csf"), "motion": "full", "wm_csf": "basic"}
_SCRUB: dict[str, Any] = {"scrub": 5, "fd_threshold": 0.5, "std_dvars_threshold": 1.5}
_GSR: dict[str, Any] = {"global_signal": "basic"}
STRATEGIES: dict[str, dict[str, Any]] = {
    "none": {},
    "simple": _SIMPLE,
    "simple_gsr": _SIMPLE | _GSR | {"strategy": ("high_pass", "motion", "wm_csf", "global_signal")},
    "scrubbing": _SIMPLE | _SCRUB | {"strategy": ("high_pass", "motion", "wm_csf", "scrub")},
    "scrubbing_gsr": _SIMPLE
    | _SCRUB
    | _GSR
    | {"strategy": ("high_pass", "motion", "wm_csf", "global_signal", "scrub")},
    "compcor": {
        "strategy": ("high_pass", "motion", "compcor"),
        "motion": "full",
        "compcor": "anat_combined",
        "n_compcor": 10,
    },
}


def denoise(
    scan: Scan,
    confounds: Any = None,
    *,
    label: str = "The scan",
    min_dof: int = 1,
) -> Scan:
    """Regress confounds and a linear trend out of the ROI signals of a scan.

    Regressing ROI means equals the mean of regressed voxels, so this comes after extraction. Time points that
    `sample_mask` leaves out take no part in the fit; they are filled in by interpolation, so that the time axis stays
    regular. The result is around zero: beside a large mean, float32 would round the signal.

    Parameters
    ----------
    scan : Scan
        `bold` in float64.
    confounds : DataFrame or np.ndarray of shape (n_timepoints, n_confounds), optional
    label : str
        What errors call the scan.
    min_dof : int
        Fewest residual degrees of freedom: observed time points less the rank of the design.

    Returns
    -------
    Scan
        With `bold` in float32; ROIs of which nothing but rounding is left are masked.

    Raises
    ------
    ScanError
        With too few degrees of freedom, or if the confounds were regressed out before.
    """
    kept, n_times = scan.sample_mask, len(scan.bold)
    design = np.empty((n_times, 0)) if confounds is None else np.asarray(confounds, dtype=np.float64)
    _check_degrees_of_freedom(design[kept], label, min_dof, n_times)
    _refuse_regressed_twice(scan.bold[kept][:, scan.roi_mask], design[kept], label)
    # Least squares over the observed points, with the trend in time: nilearn's cleaning would run it over those points
    # as if none lay between them.
    whole = _with_trend(design, np.arange(n_times))[kept]
    signals = scan.bold[kept].astype(np.float64)
    cleaned = signals - whole @ np.linalg.lstsq(whole, signals, rcond=None)[0]
    left = cleaned.std(axis=0) > ROUNDING * np.maximum(scan.bold[kept].std(axis=0), 1e-300)
    roi_mask, report = scan.roi_mask & left, scan.report
    if not roi_mask.any():
        raise ScanError(
            f"{label} has no signal left after its confounds were regressed out: choose a strategy with fewer."
        )
    if (scan.roi_mask & ~left).any():
        report = (
            *report,
            f"{label}: the confounds explain all of {np.sum(scan.roi_mask & ~left)} ROIs, now masked.",
        )
    bold = interpolate_censored(cleaned, kept)
    bold[:, ~roi_mask] = 0
    return replace(scan, bold=bold, roi_mask=roi_mask, report=report)


def _check_degrees_of_freedom(design: np.ndarray, label: str, min_dof: int, n_times: int) -> None:
    """`design` (n_kept, n_confounds), to which a constant and a trend come."""
    n_kept = len(design)
    rank = int(np.linalg.matrix_rank(_with_trend(design, np.arange(n_kept)))) if n_kept else 0
    if n_kept - rank < min_dof:
        raise ScanError(
            f"{label} has {n_kept} usable time points of {n_times} and {design.shape[1]} confounds, of which "
            f"{n_kept - rank} residual degrees of freedom are left, expected at least {min_dof} (--min-dof): the "
            "subject moved too much, or the scan is too short, for this strategy. Take one with fewer confounds."
        )


def _with_trend(design: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Confounds of comparable size, with a constant and a linear trend."""
    scale = np.abs(design).max(axis=0, initial=0)
    trend = (times - times.mean()) / max(len(times), 1)
    return np.column_stack([np.ones(len(times)), trend, design / np.where(scale > 0, scale, 1)])


def _refuse_regressed_twice(bold: np.ndarray, design: np.ndarray, label: str) -> None:
    """Signals that are exactly orthogonal to confounds had them regressed out before."""
    if bold.shape[1] < FEWEST_ROIS or len(bold) < 3:
        return
    signals, columns = bold - bold.mean(axis=0), design - design.mean(axis=0)
    signals, columns = (x / np.maximum(np.linalg.norm(x, axis=0), 1e-300) for x in (signals, columns))
    columns = columns[:, np.abs(columns).max(axis=0, initial=0) > 0]
    if columns.shape[1] < 2:
        return
    largest = np.abs(columns.T @ signals).max(axis=1)  # of each confound with any ROI
    gone = largest < ORTHOGONAL / np.sqrt(len(bold))
    if gone.sum() >= max(2, columns.shape[1] / 4):
        raise ScanError(
            f"{label}: {gone.sum()} of {columns.shape[1]} confounds have no correlation with any ROI (at most "
            f"{largest[gone].max():.1e}, chance gives {1 / np.sqrt(len(bold)):.2f}), so they were regressed out "
            "before. Take the images before that, or --strategy none."
        )


def median_tsnr(scan: Scan) -> float | None:
    """Median over ROIs of mean / SD over the observed time points; None for signals around zero."""
    bold = scan.bold[scan.sample_mask][:, scan.roi_mask].astype(np.float64)
    if not bold.size:
        return None
    mean, deviation = bold.mean(axis=0), bold.std(axis=0)
    tsnr = float(np.median(mean / np.maximum(deviation, 1e-300)))
    return tsnr if tsnr > 1 else None


def interpolate_censored(bold: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Put the kept time points (n_kept, n_rois) back in their places and fill the others in linearly, as float32."""
    times = np.flatnonzero(kept)
    filled = [np.interp(np.arange(len(kept)), times, column) for column in bold.T]
    return np.ascontiguousarray(np.transpose(filled), dtype=np.float32)
