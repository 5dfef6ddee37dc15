"""Feature extractor of fMRI-LM models: scans to normalised `input_values`, the same in training and inference.

It holds atlas, TR, length and normalisation, and is saved as `preprocessor_config.json`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

# from their module, where type checkers find them: `transformers` itself loads names lazily
from transformers.feature_extraction_utils import BatchFeature, FeatureExtractionMixin

from .atlas import Atlas
from .hub_mixin import PublishedOnHub
from .scan_errors import ScanError
from .scan_files import read_scan


class FmriFeatureExtractor(PublishedOnHub, FeatureExtractionMixin):
    """Turns scans into the input of fMRI-LM models.

    Each scan is read (`read_scan`), resampled to `t_r`, cut to its first `n_timepoints`, normalised per ROI, and padded
    if it is shorter. Time points that were not observed (censored, or without signal) do not enter the normalisation;
    `padding_mask` marks them like padding, so that the model does not read them.

    Parameters
    ----------
    atlas : Atlas or dict, optional
        The ROIs of the model. Images are extracted with it; tables with ROI names are matched to it by name.
    n_rois : int, optional
        Number of ROIs, if there is no atlas.
    n_timepoints : int
        Length of the input of the model.
    t_r : float
        TR of the input of the model, in seconds.
    resampling : {"antialiased", "linear"}
        `"linear"` interpolates as the published program does, on its grid (see `resampling_weights`).
        `"antialiased"`, the default, first applies a low-pass at the new Nyquist frequency if the new TR is longer:
        otherwise breathing and heartbeat, which TR 0.7 s still resolves, would fold into the band of the BOLD signal.
        Both agree for scans that have the TR of the model.
    short_scans : {"pad", "stretch"}
        `"pad"` appends zeros that `padding_mask` marks; `"stretch"` repeats points (nearest neighbour) until the
        length is reached, as the published model does.
    min_timepoints : int, optional
        Scans with fewer points after resampling are refused; by default a quarter of `n_timepoints`.
    max_masked : float
        Scans are refused if a larger share of their ROIs has no usable signal.
    normalization : {"scan", "cohort"}
        Subtract the median and divide by the interquartile range of each ROI: those of the scan, or `roi_median` and
        `roi_iqr` of a cohort (see `fit_normalization`).
    roi_median, roi_iqr : sequence of float, optional
        Statistics of the cohort, one for each ROI.
    fitted_to : mapping, optional
        ``n_subjects`` and ``subjects_sha256`` (of the sorted ids, one a line) of the scans that they come from.

    Examples
    --------
    >>> extractor = FmriFeatureExtractor(n_rois=100, n_timepoints=80)
    >>> extractor(np.random.default_rng(0).normal(size=(240, 100)), t_r=0.72)["input_values"].shape
    torch.Size([1, 100, 80])
    """

    model_input_names = ["input_values", "roi_mask", "padding_mask"]

    def __init__(
        self,
        atlas: Atlas | Mapping[str, Any] | None = None,
        n_rois: int | None = None,
        n_timepoints: int = 160,
        t_r: float = 2.0,
        resampling: Literal["antialiased", "linear"] = "antialiased",
        short_scans: Literal["pad", "stretch"] = "pad",
        min_timepoints: int | None = None,
        max_masked: float = 0.5,
        normalization: Literal["scan", "cohort"] = "scan",
        roi_median: Sequence[float] | None = None,
        roi_iqr: Sequence[float] | None = None,
        fitted_to: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.atlas = Atlas.from_dict(atlas) if isinstance(atlas, Mapping) else atlas
        if self.atlas is None and n_rois is None:
            raise ValueError("FmriFeatureExtractor needs an `atlas`, or `n_rois` for tables without one.")
        self.n_rois = int(n_rois if self.atlas is None else self.atlas.n_rois)  # type: ignore[arg-type]
        if n_rois not in (None, self.n_rois):
            raise ValueError(f"`n_rois` is {n_rois}, but the atlas has {self.n_rois} ROIs: leave it out.")
        self.n_timepoints = n_timepoints
        self.t_r = t_r
        self.resampling = resampling
        self.short_scans = short_scans
        self.min_timepoints = max(2, n_timepoints // 4) if min_timepoints is None else min_timepoints
        self.max_masked = max_masked
        self.normalization = normalization
        self.roi_median = None if roi_median is None else [float(value) for value in roi_median]
        self.roi_iqr = None if roi_iqr is None else [float(value) for value in roi_iqr]
        self.fitted_to = None if fitted_to is None else dict(fitted_to)

        for name, value, allowed in (
            ("resampling", resampling, ("antialiased", "linear")),
            ("short_scans", short_scans, ("pad", "stretch")),
            ("normalization", normalization, ("scan", "cohort")),
        ):
            if value not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}, got {value!r}.")
        if self.t_r <= 0 or not 2 <= self.min_timepoints <= self.n_timepoints:
            raise ValueError(
                f"Expected t_r > 0 and 2 <= min_timepoints <= n_timepoints, got t_r={self.t_r}, "
                f"min_timepoints={self.min_timepoints}, n_timepoints={self.n_timepoints}."
            )
        for name, values in (("roi_median", self.roi_median), ("roi_iqr", self.roi_iqr)):
            if values is not None and len(values) != self.n_rois:
                raise ValueError(f"`{name}` has {len(values)} values: expected one for each of {self.n_rois} ROIs.")
        if self.roi_iqr is not None and not np.all(np.asarray(self.roi_iqr) > 0):
            raise ValueError("`roi_iqr` must be positive for every ROI.")

    def __call__(
        self,
        fmri: Any,
        t_r: float | Sequence[float] | None = None,
        roi_names: Sequence[str] | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Prepare one scan or a list of scans.

        Parameters
        ----------
        fmri : scan or list of scans
            Everything that `read_scan` takes: paths, nibabel images, arrays (n_timepoints, n_rois), dataset rows.
        t_r : float or sequence of float, optional
            TR in seconds of all scans, or of each, if they do not carry it.
        roi_names : sequence of str, optional
            Names of the columns of arrays, which are matched with the atlas by name.
        return_tensors : {"pt", "np"}, optional

        Returns
        -------
        BatchFeature
            `input_values` (batch, n_rois, n_timepoints) float32, `roi_mask` (batch, n_rois) bool and
            `padding_mask` (batch, n_timepoints) bool; masked and padded values are zero.
        """
        scans = list(fmri) if _is_list_of_scans(fmri) else [fmri]
        if not scans:
            raise ScanError("The list of scans is empty: give at least one.")
        t_rs = list(t_r) if isinstance(t_r, (Sequence, np.ndarray)) else [t_r] * len(scans)
        if len(t_rs) != len(scans):
            raise ScanError(f"{len(t_rs)} TRs were given for {len(scans)} scans: give one for all or for each.")
        input_values = np.zeros((len(scans), self.n_rois, self.n_timepoints), dtype=np.float32)
        roi_mask = np.zeros((len(scans), self.n_rois), dtype=bool)
        padding_mask = np.zeros((len(scans), self.n_timepoints), dtype=bool)
        for i, (scan, scan_t_r) in enumerate(zip(scans, t_rs, strict=True)):
            bold, mask, observed = self._prepare(scan, scan_t_r, roi_names)
            if self.normalization == "scan":
                median, iqr = _median_and_iqr(bold[observed])
            elif self.roi_median is not None and self.roi_iqr is not None:
                median, iqr = (np.asarray(values, dtype=np.float32) for values in (self.roi_median, self.roi_iqr))
            else:
                raise ValueError(
                    "normalization='cohort' needs `roi_median` and `roi_iqr`: call `fit_normalization` with the "
                    "training scans, or load an extractor that has them."
                )
            mask &= iqr > 0  # an ROI that is at its median most of the time has no scale
            # Statistics of observed points only; what was filled in or padded is set to zero, the median, afterwards.
            bold -= median
            bold /= np.where(mask, iqr, 1)
            bold *= mask
            bold[~observed] = 0
            input_values[i, :, : len(bold)] = bold.T
            roi_mask[i] = mask
            padding_mask[i, : len(bold)] = observed
        data = {"input_values": input_values, "roi_mask": roi_mask, "padding_mask": padding_mask}
        return BatchFeature(data, tensor_type=return_tensors)

    def fit_normalization(self, scans: Iterable[Any], t_r: float | None = None) -> FmriFeatureExtractor:
        """Fit `roi_median` and `roi_iqr` on training scans, and normalise with them from now on.

        Each is the median over scans of the scans' own values (after resampling and cutting), so that one bad scan
        hardly matters and only a row for each scan is held in memory. Give training scans only.

        Parameters
        ----------
        scans : iterable of scans
            As for `__call__`. For rows of a scan dataset, `fitted_to` keeps the number of subjects and the hash of
            their ids; an evaluation detects by them whether a test subject was among them.
        t_r : float, optional
            TR in seconds, if the scans do not carry it.

        Returns
        -------
        FmriFeatureExtractor
            This extractor.
        """
        medians, iqrs = [], []
        subjects: set[str] = set()
        for scan in scans:
            if isinstance(scan, Mapping) and "subject_id" in scan:
                subjects.add(str(scan["subject_id"]))
            bold, mask, observed = self._prepare(scan, t_r, None)
            median, iqr = _median_and_iqr(bold[observed])
            mask &= iqr > 0
            # NaN, not zero, where there is no signal: the median over scans must not see masked ROIs
            medians.append(np.where(mask, median, np.nan))
            iqrs.append(np.where(mask, iqr, np.nan))
        if not medians:
            raise ScanError("No scans to learn the normalisation from: give the training scans.")
        unseen = np.isnan(medians).all(axis=0)
        if unseen.all():
            raise ScanError("No ROI has usable signal in the training scans.")
        # An ROI without signal in all training scans gets the typical scale: it is masked in scans like these anyway.
        roi_median = np.where(unseen, 0.0, np.nanmedian(np.where(unseen, 0.0, medians), axis=0))
        typical = np.nanmedian(np.asarray(iqrs)[:, ~unseen])
        roi_iqr = np.where(unseen, typical, np.nanmedian(np.where(unseen, typical, iqrs), axis=0))
        self.roi_median, self.roi_iqr = roi_median.tolist(), roi_iqr.tolist()
        self.normalization = "cohort"
        digest = hashlib.sha256("\n".join(sorted(subjects)).encode()).hexdigest()
        self.fitted_to = {"n_subjects": len(subjects), "subjects_sha256": digest} if subjects else None
        return self

    def _prepare(
        self, scan: Any, t_r: float | None, roi_names: Sequence[str] | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read, resample, cut or stretch: float32 (n_points <= n_timepoints, n_rois), ROI mask, observed points."""
        content = read_scan(scan, self.atlas, t_r, roi_names, n_rois=self.n_rois, max_masked=self.max_masked)
        if content.t_r == self.t_r:
            bold = content.bold[: self.n_timepoints].copy()
            observed = content.sample_mask[: self.n_timepoints].copy()
        else:
            weights = resampling_weights(len(content.bold), content.t_r, self.t_r, self.n_timepoints, self.resampling)
            bold = weights @ content.bold[: weights.shape[1]]
            # Censored points were filled in before, so a new point next to one has a value, but not one to trust. It
            # counts as observed if most of its weight is on observed points.
            share = np.abs(weights) @ content.sample_mask[: weights.shape[1]]
            observed = share >= 0.5 * np.abs(weights).sum(axis=1)
        if observed.sum() < self.min_timepoints <= len(bold):
            raise ScanError(
                f"The scan has {observed.sum()} observed time points at TR {self.t_r:g} s of {len(bold)}, expected at "
                f"least {self.min_timepoints}: too much of it was censored. Leave it out, or lower `min_timepoints`."
            )
        if len(bold) < self.min_timepoints:
            raise ScanError(
                f"The scan is too short: {len(content.bold)} time points at TR {content.t_r:g} s are {len(bold)} at TR "
                f"{self.t_r:g} s, expected at least {self.min_timepoints} ({self.min_timepoints * self.t_r:g} s). "
                "Give a longer scan, or lower `min_timepoints`."
            )
        if self.short_scans == "stretch" and len(bold) < self.n_timepoints:
            repeated = np.arange(self.n_timepoints) * len(bold) // self.n_timepoints
            bold, observed = bold[repeated], observed[repeated]
        return bold, content.roi_mask.copy(), observed

    def to_dict(self) -> dict[str, Any]:
        """Return all parameters, ready for JSON."""
        record = {key: value for key, value in self.__dict__.items() if not key.startswith("_")}
        record["atlas"] = None if self.atlas is None else self.atlas.to_dict()
        record["feature_extractor_type"] = type(self).__name__
        return record


@functools.lru_cache(maxsize=32)
def resampling_weights(
    n_timepoints: int, t_r: float, new_t_r: float, max_timepoints: int, resampling: str = "antialiased"
) -> np.ndarray:
    """Compute the matrix that resamples a series to another TR: `weights @ bold[:weights.shape[1]]`.

    The new points are at multiples of `new_t_r` as long as the series has points on both sides; those of `"linear"`
    are spread evenly from the first to the last point of the series, which is the grid of the published program and
    brings the TR only close to `new_t_r`. Only points of the series that the result depends on have a column.

    Parameters
    ----------
    n_timepoints : int
        Length of the series.
    t_r, new_t_r : float
        TR of the series and of the result, in seconds.
    max_timepoints : int
        Maximal number of new points.
    resampling : {"antialiased", "linear"}
        Linear interpolation, after a low-pass at the new Nyquist frequency (a windowed sinc) or without it.

    Returns
    -------
    np.ndarray of shape (n_new, n_used), float32
    """
    # Linear interpolation is a matrix with two weights a row, and a low-pass is one more matrix behind it. As a product
    # they are computed once for all scans of a length and a TR.
    n_steps = (n_timepoints - 1) * t_r / new_t_r
    position: np.ndarray  # of the new points, in units of the old ones
    if resampling == "linear":  # as published: the last new point lies on the last old one
        position = np.linspace(0, n_timepoints - 1, round(n_steps) + 1)[:max_timepoints]
    else:
        # 1e-9: 159 steps of 2 s must not become 158.9999 by rounding, and lose the last point
        position = np.arange(min(max_timepoints, int(n_steps + 1e-9) + 1)) * (new_t_r / t_r)
    n_new = len(position)
    before = np.minimum(position.astype(int), n_timepoints - 2)
    after = position - before
    ratio = t_r / new_t_r
    # four lobes of the sinc
    reach = int(np.ceil(4 / ratio)) if resampling == "antialiased" and ratio < 1 else 0
    n_near = min(n_timepoints, int(before[-1]) + 2 + reach)  # later points have no weight
    weights = np.zeros((n_new, n_near))
    weights[np.arange(n_new), before] = 1 - after
    weights[np.arange(n_new), before + 1] = after
    if reach:
        lag = np.subtract.outer(np.arange(n_near), np.arange(n_near))
        window = np.where(np.abs(lag) <= reach, 0.54 + 0.46 * np.cos(np.pi * lag / reach), 0.0)  # Hamming
        low_pass = np.sinc(ratio * lag) * window
        low_pass /= low_pass.sum(axis=1, keepdims=True)  # a constant stays constant, also at the ends
        weights = weights @ low_pass
    n_used = int(np.flatnonzero(np.any(weights != 0, axis=0))[-1]) + 1
    return np.ascontiguousarray(weights[:, :n_used], dtype=np.float32)


def _median_and_iqr(bold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and interquartile range of each column, as by `np.percentile` with linear interpolation."""
    ordered = np.sort(bold.T, axis=1)  # faster than np.percentile for series of this length
    position = np.array([0.25, 0.5, 0.75]) * (ordered.shape[1] - 1)
    below = position.astype(int)
    # a single observed point has none above it, and is all three values
    above = np.minimum(below + 1, ordered.shape[1] - 1)
    part = (position - below).astype(np.float32)
    low, median, high = (ordered[:, below] * (1 - part) + ordered[:, above] * part).T
    return median, high - low


def _is_list_of_scans(fmri: Any) -> bool:
    """Whether `fmri` is several scans: a list of them, or an array with a batch axis; rows of numbers are one scan."""
    if isinstance(fmri, (list, tuple)):
        first = fmri[0] if fmri else None
        is_row = isinstance(first, (list, tuple)) and bool(first) and not isinstance(first[0], (list, tuple))
        return not is_row
    return getattr(fmri, "ndim", 2) == 3 and not hasattr(fmri, "dataobj")
