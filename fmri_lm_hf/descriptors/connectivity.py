"""Functional connectivity: correlations, their Fisher z, and means over networks and over scans.

This is the only definition of a correlation in the package. A standardised scan is multiplied with its transpose in
float32: with `numpy.corrcoef`, which centres and scales anew in float64, the family takes 1.7 times as long
(`benchmarks/descriptors.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..models.scan_files import constant_rois

if TYPE_CHECKING:
    from .prepared import PreparedScan


LARGEST_CORRELATION = 0.9999  # two copies of one series have an infinite Fisher z


def fisher_z(correlation: np.ndarray) -> np.ndarray:
    """Fisher's z, ``arctanh(r)``, of correlations, which are cut at ±0.9999 (z = ±4.95).

    It makes means comparable between weak and strong correlations [1]_.

    References
    ----------
    .. [1] Silver NC, Dunlap WP (1987). Averaging correlation coefficients: should Fisher's z transformation be
       used? Journal of Applied Psychology 72, 146-148.
    """
    clipped = np.clip(correlation, -LARGEST_CORRELATION, LARGEST_CORRELATION)
    # arctanh, written out. `np.arctanh` differs in the last bit, and stored cohort references were made with this.
    return np.log((1 + clipped) / (1 - clipped)) / 2


def usable_rois(bold: np.ndarray, roi_mask: ArrayLike | None = None) -> np.ndarray:
    """Find the ROIs of a scan (n_timepoints, n_rois) that can be used: in the mask, finite and not constant."""
    finite = np.isfinite(bold).all(axis=0)
    usable = finite & ~constant_rois(np.where(finite, bold, 0))
    return usable if roi_mask is None else usable & np.asarray(roi_mask, dtype=bool)


def standardise(bold: np.ndarray, roi_mask: ArrayLike | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Standardise the usable ROIs of a scan to mean 0 and SD 1.

    Parameters
    ----------
    bold : numpy.ndarray of shape (n_timepoints, n_rois)
        The time points to use.
    roi_mask : array of shape (n_rois,), bool, optional
        False for ROIs that hold no data.

    Returns
    -------
    signal : numpy.ndarray of shape (n_timepoints, n_usable), float32
    usable : numpy.ndarray of shape (n_rois,), bool
    """
    usable = usable_rois(bold, roi_mask)
    signal = bold[:, usable]
    # Subtract the first value before the conversion: raw BOLD changes by a few units around 10,000, and a float32 sum
    # over hundreds of such numbers loses digits of the change.
    signal = (signal - signal[0]).astype(np.float32)
    signal -= signal.mean(axis=0)
    return np.ascontiguousarray(signal / signal.std(axis=0)), usable


def correlations(signal: np.ndarray) -> np.ndarray:
    """Compute the Pearson correlations (n, n) of the columns of a standardised signal (n_timepoints, n)."""
    correlation = signal.T @ signal / np.float32(len(signal))
    # Rounding leaves correlations of copies a little above 1.
    return np.clip(correlation, -1.0, 1.0, out=correlation)


def fisher_z_connectivity(
    bold: np.ndarray,
    roi_mask: ArrayLike | None = None,
    sample_mask: ArrayLike | None = None,
) -> np.ndarray:
    """Compute Fisher z of the correlation of every two ROIs.

    Parameters
    ----------
    bold : ndarray of shape (n_timepoints, n_rois)
        A scan of any length.
    roi_mask : sequence of bool of length n_rois, optional
        ROIs to use. ROIs that are masked, constant or not finite have NaN connectivity.
    sample_mask : sequence of bool of length n_timepoints, optional
        The time points that were observed; the others are not used.

    Returns
    -------
    ndarray of shape (n_rois, n_rois), float32
        NaN on the diagonal.
    """
    bold = np.asarray(bold)
    if bold.ndim != 2 or len(bold) < 3:
        raise ValueError(
            f"A scan of shape {bold.shape} found, expected (n_timepoints, n_rois) with at least 3 time points."
        )
    if sample_mask is not None:
        bold = bold[np.asarray(sample_mask, dtype=bool)]
        if len(bold) < 3:
            raise ValueError(f"{len(bold)} observed time points found, expected at least 3.")
    signal, usable = standardise(bold, roi_mask)
    z = np.full((len(usable), len(usable)), np.nan, dtype=np.float32)
    z[np.ix_(usable, usable)] = fisher_z(correlations(signal))
    np.fill_diagonal(z, np.nan)
    return z


def connectivity_features(
    scans: Iterable[np.ndarray],
    roi_masks: Iterable[Sequence[bool] | np.ndarray] | None = None,
    sample_masks: Iterable[Sequence[bool] | np.ndarray | None] | None = None,
) -> np.ndarray:
    """Compute Fisher z of every pair of ROIs (upper triangle), one row for each scan.

    Parameters
    ----------
    scans : iterable of ndarray of shape (n_timepoints, n_rois)
        Lengths may differ; the ROIs are the same.
    roi_masks : iterable of sequences of bool, optional
        The ROIs to use of each scan.
    sample_masks : iterable of (sequence of bool or None), optional
        The time points of each scan that were observed; None for all.

    Returns
    -------
    ndarray of shape (n_scans, n_rois * (n_rois - 1) / 2), float32
        NaN where a ROI was not usable.
    """
    rows: list[np.ndarray] = []
    masks = repeat(None) if roi_masks is None else roi_masks
    observed = repeat(None) if sample_masks is None else sample_masks
    for scan, roi_mask, sample_mask in zip(scans, masks, observed):
        z = fisher_z_connectivity(scan, roi_mask, sample_mask)
        if rows and len(rows[0]) != len(z) * (len(z) - 1) // 2:
            raise ValueError(
                f"Scan {len(rows)} has {len(z)} ROIs, expected as many as the scans before it; "
                "compare scans of one atlas."
            )
        rows.append(z[np.triu_indices(len(z), 1)])
    if not rows:
        raise ValueError("No scans found, expected at least one.")
    return np.stack(rows)


class GroupConnectivity:
    """Mean connectivity of scans that are added one at a time and not kept.

    Parameters
    ----------
    n_rois : int

    Attributes
    ----------
    total : numpy.ndarray of shape (n_rois, n_rois)
        Sum over the scans; sums of several processes can be added.
    n_known : numpy.ndarray of shape (n_rois, n_rois), int
        How many scans have both ROIs.
    """

    def __init__(self, n_rois: int) -> None:
        self.total = np.zeros((n_rois, n_rois))
        self.n_known = np.zeros((n_rois, n_rois), dtype=np.int64)

    def add(self, connectivity: np.ndarray, usable: np.ndarray) -> None:
        """Add the connectivity (n_usable, n_usable) of a scan with these ROIs (n_rois,)."""
        cells: Any = ... if usable.all() else np.ix_(usable, usable)  # the latter copies
        self.total[cells] += connectivity
        self.n_known[cells] += 1

    @property
    def mean(self) -> np.ndarray:
        """Mean over the scans that have both ROIs, (n_rois, n_rois); 0 where no scan has both."""
        return self.total / np.maximum(self.n_known, 1)

    def mean_without(self, connectivity: np.ndarray, usable: np.ndarray) -> np.ndarray:
        """Compute the mean without one of the scans that were added."""
        # A scan must not be compared with a mean that contains it: in a small dataset it would resemble itself.
        total, n_known, cells = self.total.copy(), self.n_known.copy(), np.ix_(usable, usable)
        total[cells] -= connectivity
        n_known[cells] -= 1
        return total / np.maximum(n_known, 1)

    @property
    def known_rois(self) -> np.ndarray:
        """ROIs that at least one scan has, (n_rois,)."""
        return np.diag(self.n_known) > 0


def network_connectivity(scan: PreparedScan) -> np.ndarray:
    """Compute the mean Fisher-z correlation of each pair of networks.

    The mean runs over all pairs of distinct ROIs, one in each network (both in the same network on the diagonal).

    Returns
    -------
    numpy.ndarray of shape (n_networks, n_networks)
        Symmetric, in Fisher z. NaN where a pair has no pair of usable ROIs.
    """
    # Two matrix products in place of a loop over pairs of networks. The diagonal of `connectivity` is 0, and so is its
    # Fisher z: an ROI with itself adds nothing to the sums.
    sums = scan.membership.T @ fisher_z(scan.connectivity) @ scan.membership
    sizes = scan.membership.sum(axis=0)
    n_pairs = np.outer(sizes, sizes) - np.diag(sizes)  # no ROI is paired with itself
    return sums / np.where(n_pairs > 0, n_pairs, np.nan)
