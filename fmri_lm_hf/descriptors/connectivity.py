"""Functional connectivity between and within networks."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np

from .catalogue import feature_name
from .fisher_z import fisher_z
from .prepared import PreparedScan

__all__ = ["network_connectivity", "network_connectivity_features"]


def network_connectivity(scan: PreparedScan) -> np.ndarray:
    """Mean Fisher-z correlation of each pair of networks.

    The mean runs over all pairs of distinct ROIs, one in each network (both in the same network on the diagonal).

    Returns
    -------
    numpy.ndarray of shape (n_networks, n_networks)
        Symmetric, in Fisher z. NaN where a pair has no pair of usable ROIs.
    """
    sums = scan.membership.T @ fisher_z(scan.connectivity) @ scan.membership
    sizes = scan.membership.sum(axis=0)
    n_pairs = np.outer(sizes, sizes) - np.diag(sizes)  # no ROI is paired with itself
    return sums / np.where(n_pairs > 0, n_pairs, np.nan)


def network_connectivity_features(scan: PreparedScan) -> dict[str, float]:
    """``connectivity/mean`` of every pair of networks, within-network pairs included (Fisher z).

    The strongest and weakest pair of a scan are derived from these values as facts.
    """
    means = network_connectivity(scan)
    networks = list(enumerate(scan.network_names))
    return {
        feature_name("connectivity/mean", first, second): float(means[i, j])
        for (i, first), (j, second) in combinations_with_replacement(networks, 2)
    }
