"""Confound regression by named strategies: what fMRIPrep's and other confound tables are used for."""

from __future__ import annotations

from typing import Any

import numpy as np

from fmri_lm_hf.models.scan_images import require

__all__ = ["STRATEGIES", "denoise", "interpolate_censored"]

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
    bold: np.ndarray,
    confounds: Any = None,
    kept: np.ndarray | None = None,
    roi_mask: np.ndarray | None = None,
) -> np.ndarray:
    """Regress confounds and a linear trend out of ROI signals.

    Regressing ROI means equals the mean of regressed voxels, so this comes after extraction. Time points that are not
    `kept` take no part in the fit; they are filled in by interpolation, so that the time axis stays regular.

    Parameters
    ----------
    bold : np.ndarray of shape (n_timepoints, n_rois)
    confounds : DataFrame or np.ndarray of shape (n_timepoints, n_confounds), optional
    kept : np.ndarray of shape (n_timepoints,), bool, optional
    roi_mask : np.ndarray of shape (n_rois,), bool, optional
        ROIs outside it stay zero.

    Returns
    -------
    np.ndarray of shape (n_timepoints, n_rois), float32
        Around the mean of each ROI.
    """
    kept = np.ones(len(bold), dtype=bool) if kept is None else kept
    cleaned = require("nilearn.signal").clean(
        bold.astype(np.float64),
        confounds=confounds,
        sample_mask=None if kept.all() else np.flatnonzero(kept),
        detrend=True,
        standardize=None,
    )
    cleaned += bold[kept].mean(axis=0, dtype=np.float64)
    cleaned = interpolate_censored(cleaned, kept)
    if roi_mask is not None:
        cleaned[:, ~roi_mask] = 0
    return cleaned


def interpolate_censored(bold: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Put the kept time points (n_kept, n_rois) back in their places and fill the others in linearly, as float32."""
    times = np.flatnonzero(kept)
    filled = [np.interp(np.arange(len(kept)), times, column) for column in bold.T]
    return np.ascontiguousarray(np.transpose(filled), dtype=np.float32)
