"""What linear readers see of scans, each computed once for all tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
from tqdm.auto import tqdm

from ..descriptors.fisher_z import connectivity_features

__all__ = ["ScanFeatures", "Unavailable"]


class Unavailable(Exception):
    """A reader that cannot be had for a question; its message says why, and is shown in place of the scores."""


class ScanFeatures:
    """Features of the scans of a dataset, by row.

    Parameters
    ----------
    scans : datasets.Dataset
    networks : sequence of str, optional
        The network of each ROI.
    """

    def __init__(self, scans: datasets.Dataset, networks: Sequence[str] | None = None):
        self.scans, self.networks = scans, networks
        self._connectivity: dict[int, np.ndarray] = {}

    def connectivity(self, rows: Sequence[int]) -> np.ndarray:
        """Fisher z of every pair of ROIs: (n_rows, n_pairs), NaN where a ROI is not usable."""
        missing = [row for row in rows if row not in self._connectivity]
        if missing:
            chosen = [self.scans[row] for row in missing]
            masks = [
                np.ones(scan["bold"].shape[1], bool) if scan.get("roi_mask") is None else scan["roi_mask"]
                for scan in chosen
            ]
            observed = [scan.get("sample_mask") for scan in chosen]
            bold: Any = tqdm((scan["bold"] for scan in chosen), "Connectivity", len(chosen), unit="scan")
            self._connectivity |= dict(zip(missing, connectivity_features(bold, masks, observed)))
        return np.stack([self._connectivity[row] for row in rows])
