"""What is measured of a table of signals to tell whether it is a readable scan (`readable_scan`), each at first use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

MIN_HALF = 70  # observed volumes of a half that is looked at by itself


@dataclass(frozen=True)
class ScanTable:
    """A table without its masked ROIs and without the volumes before the first and after the last observed one.

    Attributes
    ----------
    values : ndarray of shape (n_timepoints, n_rois)
        float64, in any unit.
    observed : ndarray of bool of shape (n_timepoints,)
    t_r : float or None
        Seconds.
    networks : ndarray of int of shape (n_rois,), optional
        -1 for ROIs of no network.
    shape : tuple of int
        Of the whole table.
    """

    values: np.ndarray
    observed: np.ndarray
    t_r: float | None
    networks: np.ndarray | None
    shape: tuple[int, ...]

    @classmethod
    def of(cls, bold: Any, t_r: float | None, roi_mask: Any, sample_mask: Any, networks: Any) -> ScanTable:
        values = np.asarray(bold, dtype=np.float64)
        if values.ndim != 2:
            raise ValueError(f"A table of shape {values.shape} found, expected (n_timepoints, n_rois).")
        rois, observed = (
            np.ones(length, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
            for mask, length in zip((roi_mask, sample_mask), values.shape[::-1], strict=True)
        )
        codes = np.full(values.shape[1], -1)
        names = list(range(0)) if networks is None else [None if each is None else str(each) for each in networks]
        for name, given, length in (
            ("roi_mask", rois, values.shape[1]),
            ("sample_mask", observed, len(values)),
            ("networks", codes if networks is None else names, values.shape[1]),
        ):
            if len(given) != length:
                raise ValueError(f"`{name}` has length {len(given)}, expected {length} for a table {values.shape}.")
        if networks is not None:
            known = list(dict.fromkeys(name for name in names if name is not None))
            codes = np.array([-1 if name is None else known.index(name) for name in names], dtype=int)
        # not observed at the ends is padding, which is no part of the series
        inside = np.flatnonzero(observed)
        span = slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, 0)
        usable = rois & np.isfinite(values[observed]).all(0)
        if observed.any():
            usable &= np.ptp(np.where(usable, values[observed], 0.0), axis=0) > 0
        return cls(
            values[span][:, usable],
            observed[span],
            t_r,
            None if networks is None else codes[usable],
            values.shape,
        )

    @cached_property
    def seen(self) -> np.ndarray:
        """Observed values: (n_observed, n_rois)."""
        return self.values[self.observed]

    @cached_property
    def steps(self) -> np.ndarray:
        """Changes between neighbouring observed volumes."""
        return np.diff(self.values, axis=0)[self.observed[1:] & self.observed[:-1]]

    @cached_property
    def signals(self) -> np.ndarray:
        """Columns without parabola, of SD 1; zero where they were not observed: (n_timepoints, n_rois)."""
        times = np.linspace(-1, 1, len(self.values))
        basis = np.stack([np.ones_like(times), times, times**2], axis=1)
        scaled = self.values - self.seen.mean(0)
        scaled = scaled / np.maximum(self.seen.std(0), 1e-300)
        rest = scaled - basis @ np.linalg.lstsq(basis[self.observed], scaled[self.observed], rcond=None)[0]
        rest[~self.observed] = 0
        return rest / np.maximum(self.deviation(rest), 1e-12)

    @cached_property
    def trend(self) -> float:
        """Share of the variance that a parabola explains, in the median column."""
        times = np.linspace(-1, 1, len(self.values))[self.observed]
        basis = np.stack([np.ones_like(times), times, times**2], axis=1)
        scaled = (self.seen - self.seen.mean(0)) / np.maximum(self.seen.std(0), 1e-300)
        rest = scaled - basis @ np.linalg.lstsq(basis, scaled, rcond=None)[0]
        return float(np.median(1 - rest.var(0)))

    def deviation(self, series: np.ndarray) -> np.ndarray:
        return np.sqrt((series[self.observed] ** 2).mean(0))

    @cached_property
    def components(self) -> tuple[np.ndarray, np.ndarray]:
        """Shares of variance of the principal components, and their axes: (n,), (n, n_rois)."""
        _, sizes, axes = np.linalg.svd(self.signals[self.observed], full_matrices=False)
        return sizes**2 / (sizes**2).sum(), axes

    @cached_property
    def correlations(self) -> np.ndarray:
        """Correlations of the signals, zero on the diagonal: (n_rois, n_rois)."""
        seen = self.signals[self.observed]
        found = seen.T @ seen / len(seen)
        np.fill_diagonal(found, 0)
        return found

    @cached_property
    def bridged(self) -> np.ndarray:
        """Signals with values between their neighbours where they were not observed: (n_timepoints, n_rois)."""
        times, known = np.arange(len(self.signals)), np.flatnonzero(self.observed)
        if len(known) == len(times):
            return self.signals
        return np.stack([np.interp(times, known, column[known]) for column in self.signals.T], axis=1)

    @cached_property
    def power(self) -> np.ndarray:
        """Share of each frequency in the variance of each column: (n_frequencies, n_rois)."""
        power = np.abs(np.fft.rfft(self.bridged * np.hanning(len(self.bridged))[:, None], axis=0))[1:] ** 2
        return power / np.maximum(power.sum(0), 1e-300)

    @property
    def frequencies(self) -> np.ndarray:
        """Of `power`, in Hz."""
        return np.fft.rfftfreq(len(self.values), self.t_r or 1.0)[1:]

    @cached_property
    def likeness(self) -> np.ndarray:
        """Correlations of volumes with each other, every second of a long scan: (n, n)."""
        seen = self.signals[self.observed]
        seen = seen / np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), 1e-12)
        return seen @ seen.T

    def halves(self) -> list[ScanTable]:
        """The two halves of a long scan; none of a short one."""
        middle = len(self.values) // 2
        parts = [slice(0, middle), slice(middle, None)]
        if min(self.observed[part].sum() for part in parts) < MIN_HALF:
            return []
        return [
            ScanTable(self.values[part], self.observed[part], self.t_r, self.networks, self.shape) for part in parts
        ]
