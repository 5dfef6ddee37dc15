"""Bins of a network pair's connectivity within its scan: their names, their bounds, and the units of both."""

from __future__ import annotations

import numpy as np

from .query import CLAIMS

BINS = tuple(claim for claim in CLAIMS if claim != "negative")
# Bounds between the bins, in units of the scan's RMS correlation: rounded quintiles of random scans (`RandomScans`),
# for pairs of different networks and for connectivity within a network.
BOUNDS_BETWEEN = (-0.05, 0.25, 0.5, 0.8)
BOUNDS_WITHIN = (0.5, 0.8, 1.1, 1.4)
UNITS = "scan RMS correlation"


def bin_of(value: float | np.ndarray, within: bool | np.ndarray = False) -> np.ndarray:
    """Return the bin, 0 to 4, of connectivity in units of the scan's RMS correlation.

    Parameters
    ----------
    value : float or ndarray
    within : bool or ndarray
        Whether the value is the connectivity within one network.
    """
    return np.where(within, np.digitize(value, BOUNDS_WITHIN), np.digitize(value, BOUNDS_BETWEEN))
