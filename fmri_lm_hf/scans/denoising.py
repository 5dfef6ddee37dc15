"""Confound regression by named strategies, and the limits of quality that a scan has to keep after it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..models.scan_errors import ScanError

if TYPE_CHECKING:
    from ..models.scan_files import Scan

# Names follow nilearn's `load_confounds_strategy`; the values are the parameters of its `load_confounds`.
_SIMPLE: dict[str, Any] = {"strategy": ("high_pass", "motion", "wm_csf"), "motion": "full", "wm_csf": "basic"}
_SCRUB: dict[str, Any] = {"scrub": 5, "fd_threshold": 0.5, "std_dvars_threshold": 1.5}
_GSR: dict[str, Any] = {"global_signal": "basic"}
STRATEGIES: dict[str, dict[str, Any]] = {
    "none": {},
    "simple": _SIMPLE,
    "simple_gsr": {**_SIMPLE, **_GSR, "strategy": ("high_pass", "motion", "wm_csf", "global_signal")},
    "scrubbing": {**_SIMPLE, **_SCRUB, "strategy": ("high_pass", "motion", "wm_csf", "scrub")},
    "scrubbing_gsr": {
        **{**_SIMPLE, **_SCRUB, **_GSR},
        "strategy": ("high_pass", "motion", "wm_csf", "global_signal", "scrub"),
    },
    "compcor": {
        "strategy": ("high_pass", "motion", "compcor"),
        "motion": "full",
        "compcor": "anat_combined",
        "n_compcor": 10,
    },
}

MIN_SD_LEFT = 1e-6  # SD after regression in SDs before it, below which nothing but rounding is left
# In units of the correlation that chance gives: signals stored with 16 bits stay orthogonal to a few thousandths.
ORTHOGONAL = 0.05
MIN_ROIS = 3  # with fewer, chance alone may make a confound orthogonal to all of them


def _limit(default: float | None, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Thresholds:
    """Limits of quality: which scans are refused, and which ROIs are masked. The command has an option for each."""

    max_masked: float = _limit(0.5, "largest share of unusable ROIs")
    min_coverage: float = _limit(0.5, "smallest coverage of an ROI that is not masked")
    min_minutes: float = _limit(1.0, "fewest minutes left; studies ask for 4 to 5")
    max_censored: float = _limit(0.8, "largest share of censored time points")
    max_mean_fd: float | None = _limit(None, "largest mean framewise displacement in mm")
    min_dof: int = _limit(20, "fewest residual degrees of freedom")

    def __post_init__(self) -> None:
        for name in ("max_masked", "min_coverage", "max_censored"):
            if not 0 <= getattr(self, name) <= 1:
                raise ScanError(f"{name}={getattr(self, name)} found, expected a share from 0 to 1.")

    def apply(self, scan: Scan, mean_fd: float | None, label: str) -> Scan:
        """Mask ROIs that are not covered; raise `ScanError` with the figures if the scan is not good enough.

        A scan whose `mean_fd` is not known is not refused for it.
        """
        scan = self._mask_uncovered(scan, label)
        n_left, n_times = int(scan.sample_mask.sum()), len(scan.sample_mask)
        minutes = n_left * scan.t_r / 60
        if minutes < self.min_minutes:
            raise ScanError(
                f"{label} has {minutes:.2f} minutes left ({n_left} of {n_times} time points at TR {scan.t_r:g} s), "
                f"expected at least {self.min_minutes:g} (--min-minutes)."
            )
        censored = 1 - n_left / n_times
        if censored > self.max_censored:
            raise ScanError(
                f"{label} has {censored:.0%} of its time points censored ({n_times - n_left} of {n_times}), expected "
                f"at most {self.max_censored:.0%} (--max-censored)."
            )
        if self.max_mean_fd is not None and mean_fd is not None and mean_fd > self.max_mean_fd:
            raise ScanError(
                f"{label} has a mean framewise displacement of {mean_fd:.3f} mm, expected at most "
                f"{self.max_mean_fd:g} (--max-mean-fd)."
            )
        return scan

    def _mask_uncovered(self, scan: Scan, label: str) -> Scan:
        if scan.coverage is None:
            return scan
        poor = scan.roi_mask & (scan.coverage < self.min_coverage)
        if not poor.any():
            return scan
        roi_mask = scan.roi_mask & ~poor
        if not roi_mask.any() or np.mean(~roi_mask) > self.max_masked:
            raise ScanError(
                f"{label} has signal in less than {self.min_coverage:.0%} of the voxels of {poor.sum()} ROIs, which "
                f"leaves {roi_mask.sum()} of {len(roi_mask)}: at most {self.max_masked:.0%} may be masked "
                "(--min-coverage, --max-masked). Check that scan and atlas are in one space."
            )
        note = f"{label}: {poor.sum()} ROIs are covered by less than {self.min_coverage:.0%} and were masked."
        bold = np.where(poor, 0, scan.bold)
        return replace(scan, bold=bold, roi_mask=roi_mask, report=(*scan.report, note))


def denoise(scan: Scan, confounds: Any = None, *, label: str = "The scan", min_dof: int = 1) -> Scan:
    """Regress confounds and a linear trend out of the ROI signals of a scan.

    Regressing ROI means equals the mean of regressed voxels, so this comes after extraction. Time points that
    `sample_mask` leaves out are not fitted; they are filled in by interpolation, so that the time axis stays regular.
    The result is around zero: beside a large mean, float32 would round the signal.

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
    confounds = np.empty((n_times, 0)) if confounds is None else np.asarray(confounds, dtype=np.float64)
    _check_degrees_of_freedom(confounds[kept], label, min_dof, n_times)
    _refuse_regressed_twice(scan.bold[kept][:, scan.roi_mask], confounds[kept], label)
    # The trend runs over all time points, and the fit over the observed ones: nilearn's cleaning would run the trend
    # over the observed points as if none lay between them.
    design = _with_trend(confounds, np.arange(n_times))[kept]
    signals = scan.bold[kept].astype(np.float64)
    cleaned = signals - design @ np.linalg.lstsq(design, signals, rcond=None)[0]
    left = cleaned.std(axis=0) > MIN_SD_LEFT * np.maximum(scan.bold[kept].std(axis=0), 1e-300)
    roi_mask, explained, report = scan.roi_mask & left, scan.roi_mask & ~left, scan.report
    if not roi_mask.any():
        raise ScanError(
            f"{label} has no signal left after its confounds were regressed out: choose a strategy with fewer."
        )
    if explained.any():
        report += (f"{label}: the confounds explain all of {explained.sum()} ROIs, now masked.",)
    bold = interpolate_censored(cleaned, kept)
    bold[:, ~roi_mask] = 0
    return replace(scan, bold=bold, roi_mask=roi_mask, report=report)


def check_length(table: Any, scan: Scan, label: str) -> None:
    """Refuse a table of confounds that has not a row for each time point."""
    if len(table) != len(scan.bold):
        raise ScanError(f"{label} has {len(scan.bold)} time points, but its confounds have {len(table)} rows.")


def median_tsnr(scan: Scan) -> float | None:
    """Median over ROIs of mean / SD over the observed time points; None for signals around zero."""
    bold = scan.bold[scan.sample_mask][:, scan.roi_mask].astype(np.float64)
    if not bold.size:
        return None
    tsnr = float(np.median(bold.mean(axis=0) / np.maximum(bold.std(axis=0), 1e-300)))
    return tsnr if tsnr > 1 else None


def interpolate_censored(bold: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Put the kept time points (n_kept, n_rois) back in their places and fill the others in linearly, as float32."""
    times = np.flatnonzero(kept)
    filled = [np.interp(np.arange(len(kept)), times, column) for column in bold.T]
    return np.ascontiguousarray(np.transpose(filled), dtype=np.float32)


def _with_trend(confounds: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Confounds of comparable size, with a constant and a linear trend."""
    scale = np.abs(confounds).max(axis=0, initial=0)
    trend = (times - times.mean()) / max(len(times), 1)
    return np.column_stack([np.ones(len(times)), trend, confounds / np.where(scale > 0, scale, 1)])


def _check_degrees_of_freedom(confounds: np.ndarray, label: str, min_dof: int, n_times: int) -> None:
    n_kept = len(confounds)
    # The rank counts, not the number of columns: confounds are often combinations of each other.
    rank = int(np.linalg.matrix_rank(_with_trend(confounds, np.arange(n_kept)))) if n_kept else 0
    if n_kept - rank < min_dof:
        raise ScanError(
            f"{label} has {n_kept} usable time points of {n_times} and {confounds.shape[1]} confounds, of which "
            f"{n_kept - rank} residual degrees of freedom are left, expected at least {min_dof} (--min-dof): the "
            "subject moved too much, or the scan is too short, for this strategy. Take one with fewer confounds."
        )


def _refuse_regressed_twice(bold: np.ndarray, confounds: np.ndarray, label: str) -> None:
    """Signals that are exactly orthogonal to confounds had them regressed out before."""
    if bold.shape[1] < MIN_ROIS or len(bold) < 3:
        return
    signals, columns = (x - x.mean(axis=0) for x in (bold, confounds))
    signals, columns = (x / np.maximum(np.linalg.norm(x, axis=0), 1e-300) for x in (signals, columns))
    columns = columns[:, np.abs(columns).max(axis=0, initial=0) > 0]
    if columns.shape[1] < 2:
        return
    largest = np.abs(columns.T @ signals).max(axis=1)  # correlation of each confound with any ROI
    gone = largest < ORTHOGONAL / np.sqrt(len(bold))
    if gone.sum() >= max(2, columns.shape[1] / 4):
        raise ScanError(
            f"{label}: {gone.sum()} of {columns.shape[1]} confounds have no correlation with any ROI (at most "
            f"{largest[gone].max():.1e}, chance gives {1 / np.sqrt(len(bold)):.2f}), so they were regressed out "
            "before. Take the images before that, or --strategy none."
        )
