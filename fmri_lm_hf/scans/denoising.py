"""Confound regression by named strategies, and the quality limits of scans after it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..models.scan_errors import ScanError

if TYPE_CHECKING:
    from ..models.scan_files import Scan

# Options of nilearn's `load_confounds` for each component of a strategy.
_COMPONENTS: dict[str, dict[str, Any]] = {
    "high_pass": {},
    "motion": {"motion": "full"},
    "wm_csf": {"wm_csf": "basic"},
    "compcor": {"compcor": "anat_combined", "n_compcor": 10},
    "global_signal": {"global_signal": "basic"},
    "scrub": {"scrub": 5, "fd_threshold": 0.5, "std_dvars_threshold": 1.5},
}


def _strategy(*components: str) -> dict[str, Any]:
    options: dict[str, Any] = {"strategy": components}
    for component in components:
        options |= _COMPONENTS[component]
    return options


# Names and components as in nilearn's `load_confounds_strategy`; the record of a dataset holds these options.
STRATEGIES: dict[str, dict[str, Any]] = {
    "none": {},
    "simple": _strategy("high_pass", "motion", "wm_csf"),
    "simple_gsr": _strategy("high_pass", "motion", "wm_csf", "global_signal"),
    "scrubbing": _strategy("high_pass", "motion", "wm_csf", "scrub"),
    "scrubbing_gsr": _strategy("high_pass", "motion", "wm_csf", "global_signal", "scrub"),
    "compcor": _strategy("high_pass", "motion", "compcor"),
}

MIN_SD_LEFT = 1e-6  # ratio of the SD after regression to that before it, below which only rounding is left
# In units of the correlation expected by chance. Signals stored with 16 bits are orthogonal up to a few thousandths.
ORTHOGONAL = 0.05
MIN_ROIS = 3  # of fewer, a confound may be orthogonal to all by chance


def _limit(default: float | None, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Thresholds:
    """Quality limits, beyond which scans are refused or ROIs masked. `fmri-lm scans` has an option for each."""

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
        """Mask poorly covered ROIs; raise `ScanError` with the numbers if the scan is beyond a limit.

        An unknown `mean_fd` does not exclude a scan.
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
        poor = scan.roi_mask & (scan.coverage < self.min_coverage)  # NaN, unknown coverage, is not below any limit
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

    Regression of ROI means equals the mean over regressed voxels, so it follows extraction. Time points that
    `sample_mask` leaves out do not enter the fit and are interpolated, so that the time axis stays regular. The result
    has mean zero: added to a large mean, the signal would be rounded in float32.

    Parameters
    ----------
    scan : Scan
        `bold` in float64.
    confounds : DataFrame or np.ndarray of shape (n_timepoints, n_confounds), optional
    label : str
        Name of the scan in messages.
    min_dof : int
        Fewest residual degrees of freedom: observed time points minus the rank of the design.

    Returns
    -------
    Scan
        With `bold` in float32. ROIs that the confounds explain up to rounding are masked.

    Raises
    ------
    ScanError
        If too few degrees of freedom remain, or if the confounds were regressed out before.
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
    # Without the mask, the rounding errors of such an ROI would be scaled up to SD 1 and read as a signal.
    has_signal = cleaned.std(axis=0) > MIN_SD_LEFT * np.maximum(scan.bold[kept].std(axis=0), 1e-300)
    roi_mask, explained, report = scan.roi_mask & has_signal, scan.roi_mask & ~has_signal, scan.report
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
    """Refuse a table of confounds without one row for each time point."""
    if len(table) != len(scan.bold):
        raise ScanError(f"{label} has {len(scan.bold)} time points, but its confounds have {len(table)} rows.")


def median_tsnr(scan: Scan) -> float | None:
    """Compute the median over ROIs of mean / SD over the observed time points; None for signals around zero."""
    bold = scan.bold[scan.sample_mask][:, scan.roi_mask].astype(np.float64)
    if not bold.size:
        return None
    tsnr = float(np.median(bold.mean(axis=0) / np.maximum(bold.std(axis=0), 1e-300)))
    return tsnr if tsnr > 1 else None


def interpolate_censored(bold: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Put the kept time points (n_kept, n_rois) in their places and interpolate the others linearly, as float32."""
    times = np.flatnonzero(kept)
    filled = [np.interp(np.arange(len(kept)), times, column) for column in bold.T]
    return np.ascontiguousarray(np.transpose(filled), dtype=np.float32)


def _with_trend(confounds: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Scale confounds to a comparable size, and add a constant and a linear trend."""
    # Cosines, millimetres and squares of them differ by orders of magnitude, and the tolerance of rank and lstsq is
    # relative to the largest singular value: small confounds would count as none.
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
            "subject moved too much, or the scan is too short, for this strategy. Use one with fewer confounds."
        )


def _refuse_regressed_twice(bold: np.ndarray, confounds: np.ndarray, label: str) -> None:
    """Refuse signals that are exactly orthogonal to confounds, which were therefore regressed out before."""
    if bold.shape[1] < MIN_ROIS or len(bold) < 3:
        return
    signals, columns = (x - x.mean(axis=0) for x in (bold, confounds))
    signals, columns = (x / np.maximum(np.linalg.norm(x, axis=0), 1e-300) for x in (signals, columns))
    columns = columns[:, np.abs(columns).max(axis=0, initial=0) > 0]
    if columns.shape[1] < 2:
        return
    largest = np.abs(columns.T @ signals).max(axis=1)  # correlation of each confound with any ROI
    # A quarter of the confounds, not all: cleaned images were often cleaned with fewer than the strategy asks for.
    gone = largest < ORTHOGONAL / np.sqrt(len(bold))
    if gone.sum() >= max(2, columns.shape[1] / 4):
        raise ScanError(
            f"{label}: {gone.sum()} of {columns.shape[1]} confounds have no correlation with any ROI (at most "
            f"{largest[gone].max():.1e}, expected by chance {1 / np.sqrt(len(bold)):.2f}), so they were regressed out "
            "before. Use the images before that step, or --strategy none."
        )
