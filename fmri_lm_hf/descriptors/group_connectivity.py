"""The mean connectivity of scans, each of which may lack ROIs."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["GroupConnectivity"]


class GroupConnectivity:
    """Connectivity of scans that arrive one at a time, without keeping them.

    Parameters
    ----------
    n_rois : int

    Attributes
    ----------
    total : numpy.ndarray of shape (n_rois, n_rois)
        Sum over the scans; several processes can take it in parts.
    n_known : numpy.ndarray of shape (n_rois, n_rois), int
        How many scans have both ROIs.
    """

    def __init__(self, n_rois: int) -> None:
        self.total = np.zeros((n_rois, n_rois))
        self.n_known = np.zeros((n_rois, n_rois), dtype=np.int64)

    def add(self, connectivity: np.ndarray, usable: np.ndarray) -> None:
        """Add a scan: its connectivity (n_usable, n_usable), and which ROIs it has, (n_rois,)."""
        cells: Any = ... if usable.all() else np.ix_(usable, usable)  # the latter copies
        self.total[cells] += connectivity
        self.n_known[cells] += 1

    @property
    def mean(self) -> np.ndarray:
        """Over the scans that have both ROIs, (n_rois, n_rois); 0 where none has."""
        return self.total / np.maximum(self.n_known, 1)

    def mean_without(self, connectivity: np.ndarray, usable: np.ndarray) -> np.ndarray:
        """The mean over all scans but one that was added."""
        others = GroupConnectivity(len(usable))
        others.total += self.total
        others.n_known += self.n_known
        cells = np.ix_(usable, usable)
        others.total[cells] -= connectivity
        others.n_known[cells] -= 1
        return others.mean

    @property
    def known_rois(self) -> np.ndarray:
        """Which ROIs any scan has, (n_rois,)."""
        return np.diag(self.n_known) > 0
