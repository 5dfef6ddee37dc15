"""Functional connectivity as baselines and oracles read it: Fisher z of Pearson correlations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["connectivity_features", "fisher_z_connectivity"]

LARGEST_CORRELATION = 0.9999  # two copies of one series have an infinite Fisher z


def fisher_z_connectivity(
    bold: np.ndarray, roi_mask: Sequence[bool] | np.ndarray | None = None
) -> np.ndarray:
    """Fisher z of the correlation of every two ROIs.

    Parameters
    ----------
    bold : ndarray of shape (n_timepoints, n_rois)
        A scan of any length.
    roi_mask : sequence of bool of length n_rois, optional
        ROIs to use. ROIs that are masked, constant or not finite have NaN connectivity.

    Returns
    -------
    ndarray of shape (n_rois, n_rois), float32
        NaN on the diagonal.
    """
    bold = np.asarray(bold, dtype=np.float64)
    if bold.ndim != 2 or len(bold) < 3:
        raise ValueError(
            f"A scan of shape {bold.shape} found, expected (n_timepoints, n_rois) with at least 3 time points."
        )
    usable = np.isfinite(bold).all(0)
    if roi_mask is not None:
        usable &= np.asarray(roi_mask, dtype=bool)
    centred = np.where(usable, bold, 0.0)
    centred = centred - centred.mean(0)
    norm = np.sqrt((centred**2).sum(0))
    usable &= norm > 1e-6 * np.sqrt(len(bold)) * (np.abs(np.where(usable, bold, 0.0)).max(0) + 1e-30)
    unit = centred / np.where(usable, norm, 1.0)
    z = np.arctanh(np.clip(unit.T @ unit, -LARGEST_CORRELATION, LARGEST_CORRELATION))
    z[~usable] = np.nan
    z[:, ~usable] = np.nan
    np.fill_diagonal(z, np.nan)
    return z.astype(np.float32)


def connectivity_features(
    scans: Iterable[np.ndarray], roi_masks: Iterable[Sequence[bool] | np.ndarray] | None = None
) -> np.ndarray:
    """Fisher z of every pair of ROIs (upper triangle), one row a scan.

    Parameters
    ----------
    scans : iterable of ndarray of shape (n_timepoints, n_rois)
        Lengths may differ; the ROIs are the same.
    roi_masks : iterable of sequences of bool, optional
        The ROIs to use of each scan.

    Returns
    -------
    ndarray of shape (n_scans, n_rois * (n_rois - 1) / 2), float32
        NaN where a ROI was not usable.
    """
    rows: list[np.ndarray] = []
    masks = iter(roi_masks) if roi_masks is not None else None
    for scan in scans:
        z = fisher_z_connectivity(scan, next(masks) if masks is not None else None)
        if rows and len(rows[0]) != len(z) * (len(z) - 1) // 2:
            raise ValueError(
                f"Scan {len(rows)} has {len(z)} ROIs, expected as many as the scans before it; "
                "compare scans of one atlas."
            )
        rows.append(z[np.triu_indices(len(z), 1)])
    if not rows:
        raise ValueError("No scans found, expected at least one.")
    return np.stack(rows)
