"""Checked and standardised scans, the input of every descriptor family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..models.atlas import Atlas
from ..models.scan_errors import ScanError
from ..models.scan_files import constant_rois
from .connectivity import correlations, standardise

MIN_TIMEPOINTS = 20  # fewer points give correlations with standard errors above 0.2
MIN_ROIS = 5  # three gradients need five points


@dataclass(frozen=True)
class PreparedScan:
    """The usable ROIs of one scan at the time points that were observed.

    Parameters
    ----------
    signal : numpy.ndarray of shape (n_observed, n_usable), float32
        Time series of the usable ROIs, each with mean 0 and SD 1.
    t_r : float
        Repetition time in seconds.
    observed : numpy.ndarray of shape (n_timepoints,), bool
        Which time points of the scan are in `signal`.
    usable : numpy.ndarray of shape (n_rois,), bool
        Which ROIs of the atlas are in `signal`.
    atlas_membership : numpy.ndarray of shape (n_rois, n_networks), float32
        One where an ROI of the atlas belongs to a network, in the order of `network_names`.
    network_names : tuple of str
        The named networks; ROIs without a network enter only the measures of the whole scan.
    """

    signal: np.ndarray
    t_r: float
    observed: np.ndarray
    usable: np.ndarray
    atlas_membership: np.ndarray
    network_names: tuple[str, ...]

    @cached_property
    def membership(self) -> np.ndarray:
        """Networks of the usable ROIs, (n_usable, n_networks)."""
        return self.atlas_membership[self.usable]

    @cached_property
    def connectivity(self) -> np.ndarray:
        """Pearson correlations of the usable ROIs, float32 (n_usable, n_usable), zeros on the diagonal."""
        correlation = correlations(self.signal)
        np.fill_diagonal(correlation, 0.0)
        return correlation

    def network_means(self, values: np.ndarray) -> np.ndarray:
        """Average `values` (n_usable, ...) over the ROIs of each network (n_networks, ...); NaN without usable ROIs."""
        sizes = self.membership.sum(axis=0)
        sizes = np.where(sizes > 0, sizes, np.nan).reshape(-1, *[1] * (values.ndim - 1))
        return (self.membership.T @ values) / sizes


def prepare_scan(
    bold: ArrayLike,
    t_r: float,
    atlas: Atlas,
    roi_mask: ArrayLike | None = None,
    sample_mask: ArrayLike | None = None,
) -> PreparedScan:
    """Check a scan and standardise its usable ROIs.

    ROIs are left out if `roi_mask` is False, if they hold a NaN or an infinity, or if they are constant.

    Parameters
    ----------
    bold, t_r, atlas, roi_mask, sample_mask
        As for `compute_features`.

    Raises
    ------
    ScanError
        If the shapes do not fit the atlas, or too few time points or ROIs are usable.
    """
    # In one memory order, on which the order of numpy's sums depends: a scan and its transposed copy would otherwise
    # differ in the last bits.
    signals: np.ndarray = np.asarray(bold, dtype=np.float32, order="C")
    n_rois = atlas.n_rois
    if signals.ndim != 2 or signals.shape[1] != n_rois:
        transposed = signals.ndim == 2 and signals.shape[0] == n_rois
        raise ScanError(
            f"bold has shape {signals.shape}, expected (n_timepoints, {n_rois}) for atlas {atlas.name!r}. "
            + ("It looks transposed: pass bold.T." if transposed else "Extract the scan with this atlas.")
        )
    observed = np.ones(len(signals), dtype=bool) if sample_mask is None else np.asarray(sample_mask, dtype=bool)
    if observed.shape != (len(signals),):
        raise ScanError(f"sample_mask has shape {observed.shape}, expected ({len(signals)},), one value a time point.")
    if observed.sum() < MIN_TIMEPOINTS:
        which = "time points" if observed.all() else f"observed time points (of {len(signals)})"
        raise ScanError(f"The scan has {observed.sum()} {which}; descriptors need at least {MIN_TIMEPOINTS}.")
    if not 0 < t_r < 60:
        raise ScanError(f"t_r is {t_r}; expected the repetition time in seconds, between 0 and 60.")
    mask = np.ones(n_rois, dtype=bool) if roi_mask is None else np.asarray(roi_mask, dtype=bool)
    if mask.shape != (n_rois,):
        raise ScanError(f"roi_mask has shape {mask.shape}, expected ({n_rois},), one value an ROI.")
    # Before mean and SD are taken: interpolated time points are smooth, and would lower the SD.
    if not observed.all():
        signals = signals[observed]
    signal, usable = standardise(signals, mask)
    if usable.sum() < MIN_ROIS:
        raise ScanError(_too_few_rois(signals, mask, usable))
    networks = atlas.named_networks
    return PreparedScan(
        signal=signal,
        t_r=float(t_r),
        observed=observed,
        usable=usable,
        atlas_membership=(np.array(atlas.networks)[:, None] == np.array(networks)).astype(np.float32),
        network_names=networks,
    )


def prepare_row(row: Mapping[str, Any], atlas: Atlas) -> PreparedScan:
    """Prepare a row of a scan dataset, whose masks may be missing."""
    return prepare_scan(row["bold"], row["t_r"], atlas, row.get("roi_mask"), row.get("sample_mask"))


def _too_few_rois(bold: np.ndarray, mask: np.ndarray, usable: np.ndarray) -> str:
    finite = np.isfinite(bold).all(axis=0)
    constant = constant_rois(np.where(finite, bold, 0)) & finite & mask
    return (
        f"Only {usable.sum()} of {len(usable)} ROIs are usable ({(~mask).sum()} masked, {(mask & ~finite).sum()} with "
        f"NaN or infinite values, {constant.sum()} constant); descriptors need at least {MIN_ROIS}. Check the "
        "extraction, and name scrubbed time points in sample_mask rather than filling them with NaN."
    )
