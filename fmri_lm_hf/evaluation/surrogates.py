"""Scans of which one thing is left and another is gone: what a control shows to a model in place of a scan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["Surrogate", "changed_scan", "phase_randomised", "series_of", "white_noise"]

Surrogate = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def phase_randomised(bold: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Series with the amplitude spectrum of each ROI, and random phases of each ROI's own.

    What each ROI does by itself (mean, variance, spectrum, and so its autocorrelation) stays; that ROIs do anything
    together goes. The usual surrogate of [1]_ for several series gives all of them the same random phases, which keeps
    their correlations: it would leave all connectivity in the scan, and control for nothing here.

    Parameters
    ----------
    bold : ndarray of shape (n_timepoints, n_rois)
    generator : numpy.random.Generator

    References
    ----------
    .. [1] Prichard D, Theiler J (1994). Generating surrogate data for time series with several simultaneously measured
       variables. Physical Review Letters 73, 951-954.
    """
    n = len(bold)
    spectrum = np.fft.rfft(bold.astype(np.float64), axis=0)
    turn = np.exp(2j * np.pi * generator.random(spectrum.shape))
    turn[0] = 1  # the mean is no oscillation
    if n % 2 == 0:
        turn[-1] = generator.choice([-1.0, 1.0], spectrum.shape[1])  # nor has the fastest one a phase
    return np.fft.irfft(spectrum * turn, n, axis=0)


def white_noise(bold: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Independent normal values with the mean and SD of each ROI: (n_timepoints, n_rois)."""
    values = bold.astype(np.float64)
    return values.mean(0) + values.std(0) * generator.standard_normal(bold.shape)


def series_of(scan: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """A copy of the series of a row (n_timepoints, n_rois), and which of its time points were observed."""
    bold = np.array(scan["bold"], dtype=np.float32)
    observed = np.ones(len(bold), dtype=bool)
    if scan.get("sample_mask") is not None:
        observed = np.asarray(scan["sample_mask"], dtype=bool)
    return bold, observed


def changed_scan(surrogate: Surrogate, seed: int, scan: Mapping[str, Any], row: int) -> dict[str, Any]:
    """A row of a scan dataset whose observed time points are a surrogate's; ROIs that are not finite stay.

    Parameters
    ----------
    surrogate : callable
        :func:`phase_randomised` or :func:`white_noise`.
    seed : int
    scan : mapping
    row : int
        Its number: same seed and row, same surrogate.
    """
    bold, observed = series_of(scan)
    finite = np.isfinite(bold[observed]).all(0)
    kept = np.ix_(observed, finite)
    bold[kept] = surrogate(bold[kept], np.random.default_rng([seed, row]))
    return {**scan, "bold": bold}
